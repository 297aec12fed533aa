"""Texts that surely mean nothing in a video, for training a model to say so.

Either the data set lists them for each video, as the generator and MeViS v2 do. Or they are expressions of other videos
about a category that the video does not show. What is not known is not guessed: a video of which neither is known gets
no such text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from datasets.base import TrainVideo

# People and their hands are in many videos where nobody has marked them; "others" names no thing.
UNSURE = frozenset({"person", "hand", "others"})
MOST_DRAWS = 100


class AbsentTexts:
    """Draws texts that mean nothing in a video.

    An expression of another video is taken only where its text names its category. "The white one" of a video of dogs
    may be true of a cat.

    Args:
        videos: of the training.
    """

    def __init__(self, videos: Iterable[TrainVideo]) -> None:
        self._named = [
            (expression.category, expression.text)
            for video in videos
            for expression in video.expressions
            if expression.category not in UNSURE and _names(expression.text, expression.category)
        ]

    def draw(self, video: TrainVideo, rng: np.random.Generator) -> str | None:
        """A text that means nothing in the video; None where none is known."""
        listed = [*video.absent, *(e.text for e in video.expressions if not e.objects)]
        if listed:
            return listed[rng.integers(len(listed))]
        shown = {expression.category for expression in video.expressions}
        if None in shown or not self._named:
            return None
        for _ in range(MOST_DRAWS):
            category, text = self._named[rng.integers(len(self._named))]
            if not any(_names(text, other) for other in shown) and category not in shown:
                return text
        return None

    def knows(self, video: TrainVideo) -> bool:
        """Whether a text may be found for the video."""
        return self.draw(video, np.random.default_rng(0)) is not None


def _names(text: str, category: str | None) -> bool:
    """Whether a text has the name of a category as a word, in the singular or the plural."""
    if not category:
        return False
    name = re.escape(category.replace("_", " ").lower())
    return re.search(rf"\b{name}(s|es)?\b", text.lower()) is not None
