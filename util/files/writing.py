"""Writing files whole or not at all: no function here leaves a half-written file behind."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        with _named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Makes an OSError of the block name ``path`` and the mend."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        mend = "free some space or choose a folder that can be written to"
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            mend = "a file and a folder of its path have the same name; choose another"
        raise OSError(error.errno, f"cannot be written ({os.strerror(error.errno)}); {mend}", str(path)) from error


@contextmanager
def atomic_pieces(folder: str | os.PathLike, pieces: Sequence[str], replace: bool) -> Iterator[Path]:
    """Yields a hidden folder in which to write a result. When the block ends well, its pieces move into ``folder``;
    otherwise they are deleted.

    Args:
        folder: ``--output_dir``; is made where it does not exist.
        pieces: names of all files and folders that a result may have; every result has the last one.
        replace: replace a former result, instead of refusing.

    Raises:
        ValueError: the folder holds a former result, or a piece without the last one, whose origin is unknown.
        OSError: naming the folder and the mend.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; choose another name")
    former = [piece for piece in pieces if (folder / piece).exists()]
    if former and former[-1] != pieces[-1]:
        raise ValueError(f"--output_dir {folder} holds {former[0]}, of unknown origin; choose another folder")
    if former and not replace:
        raise ValueError(
            f"--output_dir {folder} already holds a result ({', '.join(former)}): choose another, or add --overwrite"
        )
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    work = folder / ".unfinished"
    try:
        # left by a process that was killed
        shutil.rmtree(work, ignore_errors=True)
        with _named_errors(folder):
            work.mkdir(parents=True)
        yield work
        with _named_errors(folder):
            for piece in former:
                place = folder / piece
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            for piece in pieces:
                if (work / piece).exists():
                    os.replace(work / piece, folder / piece)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for place in made:
            with suppress(OSError):  # the folder is not empty, because the result is in it
                place.rmdir()


def write_json(path: str | os.PathLike, content, indent: int | None = 2) -> None:
    """Writes ``content`` as JSON, indented unless ``indent`` is None, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


@contextmanager
def open_json(path: str | os.PathLike, head: Mapping[str, object], name: str) -> Iterator[Callable[[object], None]]:
    """Writes a JSON object whose last value, ``name``, is a list too long for memory; atomically.

    Yields a function that adds an item to the list.

    Args:
        head: the values before the list.
    """
    # half of a surrogate pair, as in a name that is no UTF-8, becomes its escape, which is JSON's, too
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="backslashreplace") as file:
        opening = json.dumps({**head, name: []}, indent=2, ensure_ascii=False)
        file.write(opening.removesuffix("]\n}"))
        separator = "\n"

        def add(item: object) -> None:
            nonlocal separator
            file.write(f"{separator}    {json.dumps(item, ensure_ascii=False)}")
            separator = ",\n"

        yield add
        file.write("\n  ]\n}\n")
