"""Output folders that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


def require_new(path: Path, flag: str = "--output_dir") -> None:
    """Raises ValueError, naming ``flag``, unless ``path`` is free or an empty folder."""
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{flag} {path} already holds something: give another folder, or remove it")


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty folder beside ``path``, which takes its name when the block ends well and is removed otherwise.

    A folder with this name is replaced; the caller checks whether that is allowed.

    Raises:
        ValueError: the folder cannot be written; names ``path`` and the mend.
    """
    path = Path(path)
    parent = path.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=parent) as beside:
            made = Path(beside) / "made"
            made.mkdir()
            yield made
            if path.exists():
                os.replace(path, Path(beside) / "old")
            os.replace(made, path)
    except OSError as error:
        raise ValueError(
            f"cannot write {path}: {error.strerror or error}; choose a folder that is writable and has space"
        ) from error


@contextmanager
def new_parts(parent: str | os.PathLike, names: Sequence[str]) -> Iterator[Path]:
    """Yields an empty folder in which to make the parts ``names``, which move into ``parent`` at the end.

    Parts of the same name are replaced; the caller checks whether that is allowed. The old part of the last name is
    moved out first, and its new part is moved in last. So wherever this part exists, all parts belong together. If the
    block or a move fails, nothing changes.

    Raises:
        ValueError: the parts cannot be written; names ``parent`` and the mend.
    """
    parent = Path(parent)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".converting.", dir=parent) as beside:
            made, old = Path(beside) / "made", Path(beside) / "old"
            made.mkdir()
            old.mkdir()
            yield made
            placed = []
            try:
                for name in reversed(names):
                    if (parent / name).exists():
                        os.replace(parent / name, old / name)
                for name in names:
                    os.replace(made / name, parent / name)
                    placed.append(name)
            except BaseException:
                # The temporary folder will be deleted, so the earlier parts must not stay in it.
                for name in placed:
                    os.replace(parent / name, made / name)
                for name in names:
                    if (old / name).exists():
                        os.replace(old / name, parent / name)
                raise
    except OSError as error:
        raise ValueError(
            f"cannot write {parent}: {error.strerror or error}; choose a folder that is writable and has space"
        ) from error
