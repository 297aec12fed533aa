"""The folder in which gradio keeps uploads and what the page hands out: bounded in size, number and age."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

COMING: ContextVar[Path] = ContextVar("COMING")  # where the upload of this request is written until it is complete
JUST_MADE = 10  # seconds for which a folder that is still empty may be about to be filled


class Room:
    """Keeps a folder small: the oldest files are deleted first. The files that are there at the start stay.

    Args:
        folder: with files in folders of their own, as gradio makes them.
        size: bytes.
        files: how many.
        seconds: for which a file is kept.
    """

    def __init__(self, folder: Path, size: int, files: int = 5000, seconds: float = 3600) -> None:
        self.folder, self._size, self._files, self._seconds = folder, size, files, seconds
        self._stay = {path for path in folder.rglob("*") if path.is_file()}
        self._lock = threading.Lock()

    @contextmanager
    def upload(self) -> Iterator[None]:
        """While the block runs, :data:`COMING` has a folder for one upload; what is left in it is deleted."""
        # beside the room: nothing in it is given out
        with tempfile.TemporaryDirectory(
            dir=self.folder.parent, prefix="coming-", ignore_cleanup_errors=True
        ) as folder:
            before = COMING.set(Path(folder))
            try:
                yield
            finally:
                COMING.reset(before)

    def tidy(self) -> None:
        """Deletes what is too old or too much, and folders that are empty."""
        with self._lock:
            now = time.time()
            found = sorted(self._walk(), key=lambda file: file[1].st_ctime, reverse=True)  # from the newest on
            size = 0
            for number, (path, file) in enumerate(found):
                size += file.st_size
                if size > self._size or number >= self._files or file.st_ctime < now - self._seconds:
                    with suppress(OSError):
                        path.unlink()

    def _walk(self) -> Iterator[tuple[Path, os.stat_result]]:
        """The files that may be deleted. Empty folders are deleted on the way."""
        now = time.time()
        for place, _, names in os.walk(self.folder, topdown=False):
            for name in names:
                path = Path(place, name)
                with suppress(OSError):
                    if path not in self._stay:
                        yield path, path.lstat()
            with suppress(OSError):
                if not names and Path(place) != self.folder and os.stat(place).st_mtime < now - JUST_MADE:
                    os.rmdir(place)
