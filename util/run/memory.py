"""Memory of the process and of the device, and the way from one to the other."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

CGROUP = "/sys/fs/cgroup/memory"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_large_buffers() -> None:
    """Lets glibc keep freed buffers, instead of returning them to the system and fetching them again page by page.

    On a CPU these page faults can take half the time of a backbone. Without glibc this does nothing.
    """
    if sys.platform.startswith("linux"):
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def sent(x: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on ``device``; the CPU does not wait until a GPU has it."""
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def peak_bytes(device: torch.device) -> int:
    """The peak of memory: of PyTorch on a GPU, else of the process since its start."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    # on Linux this would include the peak of the parent process
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@cache  # the driver of a GPU answers slowly
def total_bytes(device: torch.device) -> int:
    """All memory of the GPU, else of the machine, or the limit of the container where that is lower; asked once."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _lines(f"{CGROUP}.max")
    return min(machine, int(limit[0])) if limit and limit[0].isdigit() else machine


def free_bytes(device: torch.device) -> int | None:
    """Free memory of the GPU, else of the machine, or of the container where that is less.

    None where the system does not tell.
    """
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    found = []
    for line in _lines("/proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            found.append(int(value.split()[0]) * 1024)
    limit, used = (_lines(f"{CGROUP}.{name}") for name in ("max", "current"))
    if limit and used and limit[0].isdigit():
        cache = [int(line.split()[1]) for line in _lines(f"{CGROUP}.stat") if line.startswith("file ")]
        found.append(int(limit[0]) - int(used[0]) + sum(cache))
    return min(found, default=None)


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
