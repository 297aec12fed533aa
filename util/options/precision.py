"""Options of the precision in which a network is computed. Standard library only."""

from __future__ import annotations

import argparse

from util.options.saved import KINDS


def add_precision_options(parser: argparse._ActionsContainer, amp: str | None, default: str) -> None:
    """Adds ``--amp`` and ``--float32``.

    Args:
        amp: default of ``--amp``; default: what the help says of it.
    """
    parser.add_argument(
        "--amp",
        **KINDS["amp"].argument(),
        default=amp,
        help="autocast in bfloat16 or float16; auto: bfloat16 where the device is faster with it; default: " + default,
    )
    parser.add_argument(
        "--float32",
        **KINDS["float32"].argument(),
        default="tf32",
        help="products and convolutions of float32 on a GPU: tf32 (the default) rounds their factors to 11 bits, ieee "
        "does not; a CPU never does",
    )
