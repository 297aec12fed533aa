"""Options of the processes of a run, which do their work together. Standard library only."""

from __future__ import annotations

import argparse

from util.options.types import non_negative_int, positive_int


def add_rank_options(group: argparse._ActionsContainer) -> None:
    """Adds the options of every command that may run in several processes."""
    group.add_argument(
        "--rank_timeout",
        type=non_negative_int,
        default=40,
        metavar="SECONDS",
        help="a process that gives no sign of life for so long is dead, and the others end; 0: do not look",
    )
    # torch.distributed.launch passes this; the environment holds the same number
    group.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)


def add_collective_options(group: argparse._ActionsContainer) -> None:
    """Adds the options of processes that take steps together."""
    group.add_argument(
        "--collective_timeout",
        type=positive_int,
        default=1800,
        metavar="SECONDS",
        help="how long processes that live wait for each other within a step, as for one that loads slowly or hangs",
    )
