"""Writing files whole or not at all: no function here leaves a half-written file behind."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".*.*.part.*"  # pattern of the names that atomic_path gives to files until they are complete


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which takes its place when the block ends well and is removed otherwise.

    Missing folders are made. The temporary name keeps the suffix, from which some writers learn the format.

    Raises:
        OSError: of the original kind, naming ``path`` and the mend.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def named_errors(path: str | os.PathLike) -> Iterator[None]:
    """Makes an OSError of the block name ``path`` and the mend, unless it names a mend already."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        mend = "free some space or choose a folder that can be written to"
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            mend = "a file and a folder of its path have the same name; choose another"
        raise OSError(error.errno, f"cannot be written ({os.strerror(error.errno)}); {mend}", str(path)) from error


def write_json(path: str | os.PathLike, content, indent: int | None = 2) -> None:
    """Writes ``content`` as JSON, indented unless ``indent`` is None, atomically.

    Raises ValueError for a number that JSON does not have (NaN, infinity).
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent, allow_nan=False) + "\n", encoding="utf-8")


@contextmanager
def open_json(path: str | os.PathLike, head: Mapping[str, object], name: str) -> Iterator[Callable[[object], None]]:
    """Writes a JSON object whose last value, ``name``, is a list too long for memory; atomically.

    Yields a function that adds an item to the list.

    Args:
        head: the values before the list.
    """
    # half of a surrogate pair, as in a name that is no UTF-8, becomes its escape, which is JSON's, too
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        opening = json.dumps({**head, name: []}, indent=2, ensure_ascii=False, allow_nan=False)
        file.write(opening.removesuffix("]\n}"))
        separator = "\n"

        def add(item: object) -> None:
            nonlocal separator
            file.write(f"{separator}    {json.dumps(item, ensure_ascii=False, allow_nan=False)}")
            separator = ",\n"

        yield add
        file.write("\n  ]\n}\n")
