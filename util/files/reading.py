"""Reading files that other programs or people wrote: whether to open one; JSON and text in any encoding of editors."""

from __future__ import annotations

import codecs
import errno
import json
import os
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from reprlib import Repr

# Byte order marks at the start of a file. UTF-32's begins with UTF-16's, so it is tried first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

DEEPEST = 50  # lists or objects in each other; the documented lists have seven at most
_TOO_DEEP = f"its lists or objects lie in each other more than {DEEPEST} deep"
DIGITS = 18
_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80


def encoding_of(path: Path, default: str = "utf-8") -> str:
    """The encoding that the byte order mark of a text file names, or the default where there is none."""
    with path.open("rb") as file:
        start = file.read(4)
    return next((name for mark, name in _MARKS if start.startswith(mark)), default)


def read_text(path: Path, default: str = "utf-8") -> str:
    """The text of a file, without a byte order mark. Raises UnicodeDecodeError for text in another encoding."""
    return path.read_text(encoding=encoding_of(path, default))


def read_json(path: Path, object_hook: Callable[[dict], object] | None = None) -> object:
    """The content of a JSON file. Raises ValueError for another file; the caller adds what was expected.

    Refused are also lists or objects in each other deeper than :data:`DEEPEST`. Numbers may be NaN or infinite.
    """
    try:
        with path.open(encoding=encoding_of(path)) as file:
            content = json.load(file, object_hook=object_hook)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level, depth = [content], 1
    while level := [inner for outer in level for inner in _values(outer) if type(inner) in (list, dict)]:
        depth += 1
        if depth > DEEPEST:  # printing or copying such a list would end in a RecursionError
            raise ValueError(_TOO_DEEP)
    return content


def _values(content: object) -> Iterable[object]:
    return content.values() if type(content) is dict else content if type(content) is list else ()


def whole_number(value: object) -> int | None:
    """A whole number from 0 that a list holds as a number or in digits; None for anything else.

    None also for more than 18 digits: Python refuses to read very long ones, and nothing counts so many things.
    """
    if type(value) is str:
        return int(value) if len(value) <= DIGITS and value.isascii() and value.isdecimal() else None
    return value if type(value) is int and 0 <= value < 10**DIGITS else None


def shown(value: object) -> str:
    """A value of a file for a message: short, however long or nested the value is."""
    return _SHORT.repr(value)


class FileWarnings:
    """Warnings on stderr about files that are used in spite of a fault: the first few by name, then counts.

    Args:
        what: how the program uses such a file.
    """

    NAMED = 3

    def __init__(self, what: str) -> None:
        self.what = what
        self._seen: set[Path] = set()

    def add(self, path: Path, problem: str) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        count = len(self._seen)
        if count <= self.NAMED:
            print(f"warning: {path}: {problem}; {self.what}", file=sys.stderr, flush=True)
        elif count == 10 ** (len(str(count)) - 1):  # 10, 100, 1,000 …
            print(f"warning: {count:,} such files so far, the last {path}; {self.what}", file=sys.stderr, flush=True)


def unfit(path: Path, most: int | None = None, *, links: bool = True) -> str | None:
    """Why a path should not be opened for reading, None where nothing is against it; never waits, as for a pipe.

    Args:
        most: bytes that the file may have.
        links: whether the path may be a link; what it points to is then looked at.

    Raises OSError where there is nothing, or a folder.
    """
    status = os.stat(path, follow_symlinks=links)
    if stat.S_ISLNK(status.st_mode):
        return "is a link, which is not followed; put the file itself there"
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        return "is a pipe, a socket or a device; put a file there"
    if most is not None and status.st_size > most:
        return f"has {status.st_size:,} bytes, but at most {most:,} are read"
    return None
