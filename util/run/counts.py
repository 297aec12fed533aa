"""Numbers of things in messages."""

from __future__ import annotations

_OF_ONE = {"are": "is", "have": "has", "hold": "holds", "lie": "lies", "mean": "means", "their": "its"}


def counted(number: int, plural: str, singular: str | None = None) -> str:
    """``1 video``, ``1,234 videos``; also of a phrase: ``1 mask is of another size`` for ``masks are of another size``.

    Args:
        plural: begins with the noun; singular: is given where its singular is more than the plural without s.
    """
    if number != 1:
        return f"{number:,} {plural}"
    noun, *rest = plural.split(" ")
    return f"1 {singular or ' '.join([noun.removesuffix('s'), *(_OF_ONE.get(word, word) for word in rest)])}"
