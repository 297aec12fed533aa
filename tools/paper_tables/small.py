"""Trains the rows of Tables IV to VII on generated videos, all with one budget, and prints them beside the paper's.

python tools/paper.py small --output_dir output/small --dry_run
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.paper_tables.steps import ROOT
from util.options.types import non_negative_int

RESULTS = ROOT / "docs" / "paper_small.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output_dir", type=Path, required=True, help="generated videos, checkpoints and masks")
    parser.add_argument("--seeds", type=non_negative_int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="such as IV.2; default: all of IV, V, VI and VII")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="finished rows; default: docs/")
    parser.add_argument("--dry_run", action="store_true", help="print the plan, its time and the tables; train nothing")


def run(args: argparse.Namespace) -> None:
    from tools.paper_tables import small_rows  # here, because it imports torch, which the other commands do not need

    small_rows.run(args)
