"""Finds out why living data loading processes deliver no batch, and names the mend, as far as the system tells."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

SHARED = Path("/dev/shm")
SHARED_MEMORY = (
    "give Docker more shared memory (--shm-size=8g or --ipc=host), or the run a lower --num_workers or --batch_size"
)
_FILES = "raise the limit of open files (ulimit -n 65536), or give fewer --num_workers"
_FILE_SYSTEM = "see that the file system of the data answers (ls its folders, dmesg)"
_SLOW = "where batches do take that long, give a longer --loader_timeout"
# What torch says of its files in shared memory, which it calls /torch_<process>_<random>_<number>
# (aten/src/ATen/MapAllocator.cpp), and multiprocessing of file descriptors that get lost (multiprocessing/reduction.py)
_NO_ROOM = re.compile(r"shared memory|/torch_\d+_|unable to mmap")
_NO_FILES = re.compile(r"Too many open files|items of ancdata")
FEW = 16  # open files to spare
MEGABYTE = 2**20


def lacks_means(error: Exception) -> bool:
    """Whether an error says that shared memory or the number of open files ran out."""
    return bool(_NO_ROOM.search(str(error)) or _NO_FILES.search(str(error)))


def reasons(workers: Sequence[int], error: Exception | None = None) -> str:
    """The known cause with its mend; otherwise all possible causes.

    Args:
        workers: process numbers of the living data loading processes.
        error: of one of them.
    """
    room, files = _shared_memory(), _open_files(workers)
    told = str(error).rstrip().rpartition("\n")[2] if error else ""
    causes = []
    if _NO_FILES.search(told) or files[1] - files[0] < FEW:
        causes.append(f"{files[0]} of {files[1]} files are open in a process: {_FILES}")
    elif _NO_ROOM.search(told) or (workers and room and room[0] < room[1] / 10):
        causes.append(f"{_told_of(room)}: {SHARED_MEMORY}")
    causes += _asleep(workers)
    if told:
        causes.append(f"({told})")
    if causes:
        return "; ".join(causes)
    if not workers:
        return f"{_FILE_SYSTEM}; {_SLOW}"
    return f"{_FILE_SYSTEM}; {SHARED_MEMORY} ({_told_of(room)}); {_FILES} ({files[0]} of {files[1]} are open); {_SLOW}"


def _shared_memory() -> tuple[int, int] | None:
    """Bytes of shared memory that are free, and all of them."""
    with suppress(OSError):
        found = os.statvfs(SHARED)
        return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    return None


def _told_of(room: tuple[int, int] | None) -> str:
    if room is None:
        return f"there is no {SHARED}"
    return f"{SHARED} has {room[0] / MEGABYTE:.0f} of {room[1] / MEGABYTE:.0f} MB free"


def _open_files(workers: Sequence[int]) -> tuple[int, int]:
    """The most files that a process of the run has open, and how many it may."""
    counts = [0]
    for process in ("self", *workers):
        with suppress(OSError):  # the process has ended
            counts.append(len(os.listdir(f"/proc/{process}/fd")))
    return max(counts), resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _asleep(workers: Sequence[int]) -> list[str]:
    """A note on processes that do not run, whose state in proc(5) is D or T."""
    told = []
    for process in workers:
        with suppress(OSError):
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
            if state == "D":
                told.append(f"process {process} waits for a disk or network: {_FILE_SYSTEM}")
            elif state in "Tt":
                told.append(f"process {process} is stopped: let it go on with kill -CONT {process}")
    return told
