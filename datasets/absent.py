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

# Which categories are unsure or alike is a choice; their names are those of the lists in ytvos.py and davis.py.
# These are in many videos where nobody has marked them; "others" names no thing.
UNSURE = frozenset({"person", "hand", "hat", "plant", "potted plant", "grass", "paper", "pole", "sign", "others"})
# One may call these by the same name: a parrot is a bird, and a duck may be called one.
ALIKE = (
    {"bird", "parrot", "duck", "eagle", "owl", "penguin"},
    {"bear", "giant_panda", "koala"},
    {"ape", "monkey"},
    {"fish", "shark", "dolphin", "whale", "earless_seal"},
    {"bike", "motorbike", "bicycle", "motorcycle", "scooter", "hoverboard"},
    {"sedan", "truck", "bus", "car", "train", "carriage", "excavator", "golf cart", "kart", "tractor", "trailer"},
    {"leopard", "tiger", "lion", "cat", "fox", "dog", "raccoon"},
    {"deer", "horse", "cow", "sheep", "zebra", "giraffe", "camel", "goat", "pig", "rhino"},
    {"mouse", "hedgehog", "squirrel", "rabbit"},
    {"frog", "lizard", "crocodile", "turtle", "snake", "snail", "chamaleon", "varanus"},
    {"skateboard", "snowboard", "surfboard", "ski", "ski poles"},
    {"airplane", "helicopter", "drone"},
    {"parachute", "paraglide", "kite", "sail"},
    {"oar", "paddle", "stick", "selfie stick", "golf club"},
    {"tennis_racket", "tennis racket"},
    {"box", "ball", "bucket", "rope", "leash"},
)
MOST_DRAWS = 100


class AbsentTexts:
    """Draws texts that mean nothing in a video.

    An expression of another video is taken only where its text names its category, and the video has no object of this
    category or of one that is like it. "The white one" of a video of dogs may be true of a cat, and "a bird" is true of
    a parrot.

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
        if not video.categories or not self._named:
            return None
        shown = video.categories.union(*(group for group in ALIKE if group & video.categories))
        for _ in range(MOST_DRAWS):
            category, text = self._named[rng.integers(len(self._named))]
            if category not in shown and not any(_names(text, other) for other in shown):
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
