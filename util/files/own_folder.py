"""Temporary folders that are deleted in every case: by their process, or after its death by the next one."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"  # held while the process lives, whatever its number; the system releases it


@contextmanager
def own_folder(prefix: str) -> Iterator[Path]:
    """A folder in TMPDIR for the block, after whose end it is deleted. What dead processes left is deleted before.

    Args:
        prefix: of its name; processes of the same kind share it.
    """
    delete_left(prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.rename(folder / "lock", folder / LOCK)  # no other process finds it before it is held
        yield folder
    finally:
        with suppress(OSError):  # threads of the process may still be writing there
            _delete(folder)
        os.close(lock)


def delete_left(prefix: str) -> list[Path]:
    """Deletes the folders of dead processes in TMPDIR; returns them.

    Only folders of this user that :func:`own_folder` has made are touched: those with its lock in them. Links are not
    followed.
    """
    gone = []
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{prefix}*")):
        with suppress(OSError):  # another process deletes it, or its owner lives and holds the lock
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                continue
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete(folder)
                gone.append(folder)
            finally:
                os.close(lock)
    return gone


def _delete(folder: Path) -> None:
    """Deletes a folder, its lock last: as long as anything is in it, the next process finds it."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    (folder / LOCK).unlink()
    folder.rmdir()
