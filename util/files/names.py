"""Names that stand in files and become paths: each must be the name of one file or folder, or nothing is opened."""

from __future__ import annotations

import re
from pathlib import Path

LONGEST = 200  # bytes; file systems take 255, of which suffixes and the names of unfinished files need some
# separators of any system, control characters, halves of surrogate pairs, drive letters, and names that are hidden or
# mean a folder above
_WRONG = re.compile(r"[/\\\x00-\x1f\x7f\ud800-\udfff]|\A[A-Za-z]:|\A\.|\A\Z")


def name_fault(name: object) -> str | None:
    """A message that quotes the name and says why no file or folder can have it; None where one can."""
    if not isinstance(name, str):
        why = "it is no text"
    elif found := _WRONG.search(name):
        why = _why(found[0])
    # a character has at most four bytes, so few names need to be encoded
    elif len(name) > LONGEST // 4 and len(name.encode()) > LONGEST:
        why = f"it is longer than {LONGEST} bytes"
    else:
        return None
    return f"{str(name)[:80]!r} cannot be the name of a file or folder: {why}"


def _why(wrong: str) -> str:
    if not wrong:
        return "it is empty"
    if wrong in "/\\":
        return f'it holds "{wrong}"'
    if wrong == ".":
        return "it begins with a dot"
    return "it begins with the letter of a drive" if wrong.endswith(":") else "it holds a character that no name has"


def checked(name: str) -> str:
    """The name as it is; raises ValueError with the message of :func:`name_fault`.

    Those who read names from a list call :func:`name_fault` themselves, because they know the list.
    """
    if fault := name_fault(name):
        raise ValueError(fault)
    return name


def inside(folder: Path, *names: str) -> Path:
    """The path of a file in a folder: the names of the folders on the way to it, and its own.

    Raises:
        ValueError: as :func:`checked`, so that the path never leaves ``folder``.
    """
    return folder.joinpath(*map(checked, names))
