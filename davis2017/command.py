"""The common parts of the commands that score masks: their options and their end."""

from __future__ import annotations

import argparse
import sys

from util.files.writing import write_json
from util.run.cli import INCOMPLETE
from util.run.cores import cores
from util.run.gaps import Gaps
from util.run.parser import CommandParser


def add_strict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help="the first missing or damaged mask is an error; else predictions score 0, frames without ground truth are "
        "left out, the rest is scored, and the exit code is 3",
    )


def scoring_parser(program: str, about: str, other: str) -> argparse.ArgumentParser:
    """A parser with the options of all scripts that score masks; each script adds its own.

    Args:
        about: the docstring of the script.
        other: words for the objects with which ``--against other`` compares.
    """
    parser = CommandParser(program, about)
    parser.add_argument("results", help="folder that inference wrote, or submission.zip")
    parser.add_argument("--holdout", type=int, default=0, metavar="N", help="training videos in the hold-out")
    parser.add_argument(
        "--against",
        choices=("target", "other"),
        default="target",
        help=f"other: also score against the hardest {other}, which should be low",
    )
    add_strict(parser)
    parser.add_argument("--json", metavar="FILE", help="write all scores here")
    parser.add_argument("--workers", type=int, default=cores(), help="processes")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="expressions to list, worst first")
    return parser


def parse_scoring_args(parser: argparse.ArgumentParser, argv: list[str] | None = None) -> argparse.Namespace:
    """Parses with a parser of :func:`scoring_parser` to which a script has added ``--split``. Exits on
    contradictions."""
    args = parser.parse_args(argv)
    if args.workers < 1 or args.worst < 0 or args.holdout < 0:
        parser.error("--workers must be at least 1, --worst and --holdout at least 0")
    if args.split == "holdout" and not args.holdout:
        parser.error("--split holdout needs --holdout N, the number that training kept out")
    return args


def finish(scores: dict, gaps: Gaps, json: str | None) -> int | None:
    """Writes the scores to the file of --json; returns the exit code."""
    if json:
        write_json(json, scores)
    if not gaps.items:
        return None
    print(
        f"scored, but {gaps.counted()} named above (exit code {INCOMPLETE}); --json FILE lists all, --strict makes the "
        "first one an error",
        file=sys.stderr,
    )
    return INCOMPLETE
