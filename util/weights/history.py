"""What weights were trained on and what they know: a record in their checkpoint, and the notice made from it.

The record is ``{"data": [words for each training, the first one first], "knows": words or None}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from util.run.cli import one_line
from util.weights import checkpoint

GENERATED_ONLY = "only generated shapes, and nothing of real films"


def record(data: str, generated: bool, start: str | Path | None) -> dict[str, object]:
    """The record of a training.

    Args:
        data: what is trained on, in words; generated: whether all of it comes from the generator.
        start: weights that it starts from; None: none.

    Raises:
        FileNotFoundError, ValueError: the weights are missing or damaged.
    """
    before = {"data": [], "knows": GENERATED_ONLY}
    if start:
        content = checkpoint.read(start)
        ours = isinstance(content, dict) and "format" in content  # a file of ReferFormer records nothing
        found = checkpoint.checked(content, start).get(checkpoint.TRAINED_ON) if ours else None
        before = found or {"data": [f"what {Path(start).name} does not record"], "knows": None}
    # what one knows beyond its own data, it has from the weights before
    knows = before["knows"] if generated and before["knows"] == GENERATED_ONLY else None
    return told([*before["data"], data], knows)


def told(data: Sequence[str], knows: str | None) -> dict[str, object]:
    """The record with these words, in the form that a checkpoint may have; of very many trainings the last ones.

    Raises ValueError where there are no words for a training.
    """
    if not all(text.strip() for text in data):
        raise ValueError("what a training was on is told by an empty text (--trained_on); give some words")
    words = [one_line(text)[: checkpoint.LONGEST_WORDS] for text in (*data[-checkpoint.MOST_TRAININGS :], knows or "")]
    return {"data": words[:-1], "knows": words[-1] or None}


def notice(content: Mapping[str, object]) -> str | None:
    """What the weights of a checkpoint were trained on and what they know, in a sentence or two; None: not recorded."""
    found = content.get(checkpoint.TRAINED_ON)
    if not found:
        return None
    trained = f"These weights were trained on {', then on '.join(found['data'])}."
    return f"{trained} They know {found['knows']}." if found["knows"] else trained
