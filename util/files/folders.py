"""Folders with a result of several files: all of it appears, or nothing, and a former result stays until then.

A process may be killed at any moment. Then the former result is untouched, or the new one is complete and the next run
moves it to its place: never is neither of them there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from util.files.writing import named_errors


class _Stages:
    """The hidden folders that a new result goes through; each step from one to the next is one rename.

    Attributes:
        unfinished: it is being written; nothing else has changed.
        complete: it is written. Whatever of a result lies in the folder belongs to the former one, and moves to ``old``
            in here.
        placing: the former result is out of the way. Whatever of a result lies in the folder belongs to the new one.
    """

    def __init__(self, folder: Path, pieces: Sequence[str]) -> None:
        self.folder, self.pieces = folder, pieces
        names = (f".{pieces[-1]}.{stage}" for stage in ("unfinished", "complete", "placing"))
        self.unfinished, self.complete, self.placing = (folder / name for name in names)

    def place(self) -> None:
        """Moves a complete result to its place, if there is one. After an OSError all is as it was before."""
        moves: list[tuple[Path, Path]] = []

        def move(source: Path, target: Path) -> None:
            os.replace(source, target)
            moves.append((source, target))

        try:
            if self.complete.exists():
                old = self.complete / ".old"
                old.mkdir(exist_ok=True)
                # the last piece is the record of the result; where it is, the others are
                for piece in reversed(self.pieces):
                    if os.path.lexists(self.folder / piece):
                        move(self.folder / piece, old / piece)
                move(self.complete, self.placing)
            for piece in self.pieces:
                if os.path.lexists(self.placing / piece):
                    move(self.placing / piece, self.folder / piece)
        except OSError:
            for source, target in reversed(moves):
                os.replace(target, source)
            raise
        shutil.rmtree(self.placing, ignore_errors=True)


@contextmanager
def new_pieces(folder: str | os.PathLike, pieces: Sequence[str]) -> Iterator[Path]:
    """Yields a hidden folder in which to write a result. When the block ends well, the result takes the place of a
    former one in ``folder``; otherwise nothing changes.

    Args:
        folder: is made where it does not exist. Other files in it stay.
        pieces: names of all files and folders that a result may have; the last one is the record that each result has.

    Raises:
        OSError: naming the folder and the mend; the former result is in its place.
    """
    folder = Path(folder)
    stages = _Stages(folder, pieces)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        with named_errors(folder):
            stages.place()
            # left by a process that was killed
            shutil.rmtree(stages.unfinished, ignore_errors=True)
            stages.unfinished.mkdir(parents=True)
        yield stages.unfinished
        with named_errors(folder):
            os.replace(stages.unfinished, stages.complete)
            try:
                stages.place()
            except OSError:
                shutil.rmtree(stages.complete, ignore_errors=True)
                raise
    finally:
        shutil.rmtree(stages.unfinished, ignore_errors=True)
        for place in made:
            with suppress(OSError):  # the folder is not empty, because the result is in it
                place.rmdir()


def finish(folder: str | os.PathLike, pieces: Sequence[str]) -> None:
    """Moves a result to its place that a killed process has written, if there is one. Raises as :func:`new_pieces`."""
    with named_errors(folder):
        _Stages(Path(folder), pieces).place()


def require_own(folder: Path, pieces: Sequence[str], record: Path) -> None:
    """:func:`finish`; raises ValueError where pieces lie in ``folder`` without the file ``record``, so another program
    has written them."""
    finish(folder, pieces)
    present = [name for name in pieces if (folder / name).exists()]
    if present and not (folder / record).is_file():
        raise ValueError(
            f"{folder} already holds {', '.join(present)}, not written by this program; move them away, or give "
            "another folder with --output_dir"
        )


@contextmanager
def new_result(folder: str | os.PathLike, pieces: Sequence[str], replace: bool) -> Iterator[Path]:
    """:func:`new_pieces` in ``--output_dir``.

    Args:
        replace: replace a former result, instead of refusing.

    Raises:
        ValueError: the folder holds a former result, or a piece without the last one, whose origin is unknown.
        OSError: naming the folder and the mend.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; choose another name")
    finish(folder, pieces)
    former = [piece for piece in pieces if (folder / piece).exists()]
    if former and former[-1] != pieces[-1]:
        raise ValueError(f"--output_dir {folder} holds {former[0]}, of unknown origin; choose another folder")
    if former and not replace:
        raise ValueError(
            f"--output_dir {folder} already holds a result ({', '.join(former)}): choose another, or add --overwrite"
        )
    with new_pieces(folder, pieces) as work:
        yield work


def finish_folder(path: str | os.PathLike) -> None:
    """:func:`finish` for a folder that :func:`new_folder` writes."""
    path = Path(os.path.abspath(path))
    finish(path.parent, [path.name])


def require_new(path: Path, flag: str = "--output_dir") -> None:
    """Raises ValueError, naming ``flag``, unless ``path`` is free or an empty folder."""
    finish_folder(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"{flag} {path} already holds something: give another folder, or remove it")


@contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yields an empty hidden folder, which takes the name ``path`` when the block ends well and is removed otherwise.

    A folder with this name is replaced; the caller checks whether that is allowed.

    Raises:
        ValueError: the program runs in this folder.
        OSError: naming ``path`` and the mend.
    """
    path = Path(os.path.abspath(path))
    if Path.cwd().is_relative_to(path.resolve()):
        raise ValueError(f"{path} would be replaced while this program runs in it; give another folder")
    with named_errors(path), new_pieces(path.parent, [path.name]) as work:
        (work / path.name).mkdir()
        yield work / path.name
