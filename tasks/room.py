"""The folder in which gradio keeps uploads and what the page hands out: bounded in size, number and age."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

JUST_MADE = 10  # seconds for which a folder that is still empty may be about to be filled


class Room:
    """Keeps a folder small: the oldest files are deleted first. The files that are there at the start stay.

    Args:
        folder: with the files of an upload that is still coming directly in it, and all others in folders of it.
        size: bytes.
        files: how many.
        seconds: for which a file is kept.
    """

    def __init__(self, folder: Path, size: int, files: int = 5000, seconds: float = 3600) -> None:
        self.folder, self._size, self._files, self._seconds = folder, size, files, seconds
        self._stay = {path for path in folder.rglob("*") if path.is_file()}
        self._uploads: dict[object, float] = {}  # when each of those that are coming began
        self._lock = threading.Lock()

    @contextmanager
    def upload(self) -> Iterator[None]:
        """While the block runs, an upload is coming."""
        key = object()
        self._uploads[key] = time.time()
        try:
            yield
        finally:
            del self._uploads[key]

    def tidy(self) -> None:
        """Deletes what is too old or too much, parts of uploads that have ended, and folders that are empty."""
        with self._lock:
            now = time.time()
            coming = min([now, *list(self._uploads.values())]) - 1  # file systems may have coarse clocks
            kept = []
            for path, found in self._walk():
                part = path.parent == self.folder
                if part and found.st_mtime >= coming:
                    continue
                if part or found.st_ctime < now - self._seconds:
                    _delete(path)
                else:
                    kept.append((found.st_ctime, found.st_size, path))
            kept.sort(key=lambda file: file[0], reverse=True)  # from the newest on
            size = 0
            for number, (_, more, path) in enumerate(kept):
                size += more
                if size > self._size or number >= self._files:
                    _delete(path)

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


def _delete(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
