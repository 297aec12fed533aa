"""How many processes can be kept busy."""

from __future__ import annotations

import os


def cores() -> int:
    """The cores on which this process may run: in a container or a job of SLURM maybe fewer than the machine has."""
    return len(os.sched_getaffinity(0))
