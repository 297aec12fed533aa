"""Numbers of things, and seconds, in messages."""

from __future__ import annotations

_OF_ONE = {
    "agree": "agrees",
    "are": "is",
    "count": "counts",
    "have": "has",
    "hold": "holds",
    "lie": "lies",
    "mean": "means",
    "take": "takes",
    "their": "its",
}


def counted(number: int, plural: str, singular: str | None = None) -> str:
    """``1 video``, ``1,234 videos``; also of a phrase: ``1 mask is of another size`` for ``masks are of another size``.

    Args:
        plural: begins with the noun; singular: is given where its singular is more than the plural without s.
    """
    if number != 1:
        return f"{number:,} {plural}"
    noun, *rest = plural.split(" ")
    return f"1 {singular or ' '.join([noun.removesuffix('s'), *(_OF_ONE.get(word, word) for word in rest)])}"


def in_seconds(seconds: float) -> str:
    """``1.50 s``; below a tenth of a second ``0.012 s``, because steps on a GPU may be as short as that."""
    return f"{seconds:.{2 if seconds >= 0.1 else 3}f} s"
