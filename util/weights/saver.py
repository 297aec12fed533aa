"""The checkpoints of a run: they are written in the background; the newest few and the best are kept."""

from __future__ import annotations

import os
import re
import shutil
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from util.files.writing import atomic_path
from util.run import watch
from util.weights import checkpoint

NEWEST, BEST = "checkpoint.pth", "checkpoint_best.pth"
_NUMBERED = re.compile(r"checkpoint_(\d+)\.pth")


class Saver:
    """Writes ``checkpoint_<step>.pth`` into a folder and makes ``checkpoint.pth`` another name of the newest.

    Training goes on while a file is written. A file that cannot be written, as on a full disk, costs no training: a
    warning says so, earlier files stay, and the next save tries again.

    Args:
        folder: of the run.
        keep: number of the newest files to keep; the best is kept beside them.
    """

    def __init__(self, folder: str | Path, keep: int) -> None:
        self.folder, self.keep = Path(folder), keep
        self._pool = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future | None = None
        # the content of the best checkpoint, while it cannot be written
        self._owed: tuple[dict[str, Any], int] | None = None
        watch.last_duties.append(self._finish)

    def save(self, content: dict[str, Any], step: int, *, best: bool = False) -> None:
        """Starts to write a checkpoint.

        Args:
            content: plain data and tensors that change no more, as of :func:`util.run.dist.copied_to_main`.
            step: of the run; the file's name has it.
            best: also make ``checkpoint_best.pth`` a name of the file.
        """
        self.settle()
        if best:
            self._owed = None
        self._pay()
        self.settle()
        self._writing = self._pool.submit(self._write, content, step, [BEST, NEWEST] if best else [NEWEST])

    def close(self) -> None:
        """Waits for the last file.

        Raises:
            OSError: the last or the best checkpoint could not be written.
        """
        try:
            if self._writing:
                self._writing.result()
            self._pay()
            if self._writing:
                self._writing.result()
        finally:
            watch.last_duties.remove(self._finish)
            self._pool.shutdown()

    def _finish(self) -> None:
        """Waits for the file that is being written, in another thread than that of the training."""
        if writing := self._writing:  # read once, because the thread of the training changes it
            wait([writing], watch.LAST_SECONDS)

    def _pay(self) -> None:
        """Tries again to write the best checkpoint, if that failed before."""
        if self._owed:
            (content, step), self._owed = self._owed, None
            self._writing = self._pool.submit(self._write, content, step, [BEST])

    def settle(self) -> None:
        """Waits for the file that is being written; warns if that failed."""
        if self._writing and (error := self._writing.exception()):
            if not isinstance(error, OSError):
                raise error
            print(f"warning: no checkpoint was written, training goes on: {error}", file=sys.stderr, flush=True)
        self._writing = None

    def _write(self, content: dict[str, Any], step: int, names: list[str]) -> None:
        path = self.folder / f"checkpoint_{step:08d}.pth"
        try:
            checkpoint.save(path, content)
            for name in names:
                with atomic_path(self.folder / name) as temporary:
                    try:
                        os.link(path, temporary)
                    except OSError:  # a file system without links
                        shutil.copyfile(path, temporary)
        except OSError:
            if BEST in names:  # a later checkpoint must not replace it
                self._owed = content, step
            raise
        for _, old in _numbered(self.folder)[self.keep :]:
            old.unlink(missing_ok=True)


def newest(folder: str | Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run, and its content; None where the folder has no checkpoint.

    A checkpoint that is cut short or damaged is skipped with a warning.

    Raises:
        ValueError: there are checkpoints, but none can be read.
    """
    folder = Path(folder)
    candidates = (folder / NEWEST, *(path for _, path in _numbered(folder)), folder / BEST)
    found = [path for path in candidates if path.is_file()]
    tried: list[Path] = []
    for path in found:
        if any(path.samefile(other) for other in tried):
            continue
        try:
            return path, checkpoint.load(path)
        except ValueError as error:
            print(f"warning: {error}; the one before it is taken", file=sys.stderr, flush=True)
            tried.append(path)
    if found:
        raise ValueError(f"none of the checkpoints in {folder} can be read; delete them to start anew")
    return None


def clear_leftovers(folder: str | Path, step: int, place: tuple[int, int]) -> bool:
    """Tidies the folder of a run that starts or continues at this step.

    Files that killed processes left half-written are deleted. Checkpoints of later steps, which are there when a run is
    resumed from an older checkpoint, are renamed, so that they are not taken for the newest, and that the best of them
    is not replaced.

    Args:
        step: of the whole run; place: its epoch and the step in that, as a checkpoint has them.

    Returns:
        Whether the best checkpoint was among them.
    """
    folder = Path(folder)
    for path in folder.glob(".checkpoint*"):
        path.unlink(missing_ok=True)
    later = [path for number, path in _numbered(folder) if number > step]
    of_later = bool(later) and _place_of(folder / BEST) > place
    if of_later:
        later.append(folder / BEST)
    for path in later:
        if (latest := folder / NEWEST).is_file() and latest.samefile(path):
            latest.unlink()
        path.replace(path.with_name(f"abandoned_{path.name}"))
        print(f"{path.name} is of a later step; renamed to abandoned_{path.name}", file=sys.stderr, flush=True)
    return of_later


def _place_of(path: Path) -> tuple[int, int]:
    """The epoch of a checkpoint and the step in it; (0, 0) where it cannot be read."""
    try:
        saved = checkpoint.load(path)
    except (ValueError, OSError):
        return 0, 0
    return saved.get("epoch", 0), saved.get("step", 0)


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of each ``checkpoint_<step>.pth``, the newest first."""
    found = [(int(match[1]), path) for path in folder.glob("*.pth") if (match := _NUMBERED.fullmatch(path.name))]
    return sorted(found, reverse=True)
