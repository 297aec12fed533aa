"""The main job in small, from generated videos to scores and pictures, by the commands that a user would give.

./scripts/demo.sh --output_dir output/demo
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.small_job.stages import PRETRAINED, ROOT
from util.files.folders import require_new
from util.run.parser import CommandParser


def demo_args() -> argparse.Namespace:
    """The options of demo.sh; needs no packages, because scripts/check_options.py reads them before set-up.

    Raises:
        ValueError: the folder for the results holds something.
    """
    parser = CommandParser("demo.sh", __doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("output/demo"), help="everything is written here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help=f"train nothing; score {PRETRAINED.relative_to(ROOT)}")
    size.add_argument("--scratch", action="store_true", help="train from random weights, in 20 minutes on a CPU")
    size.add_argument("--long", action="store_true", help="the same for hours, as the shipped weights were made")
    args = parser.parse_args()
    require_new(args.output_dir)
    return args
