"""Checks the files of a data set: every list, frame and mask.

    python tools/data/check.py ytvos data/ref-youtube-vos
    python tools/data/check.py mevis data/mevis --json report.json --fix-list again.txt

Prints how many videos, objects and expressions there are beside the published numbers, and each kind of fault with its
mend.
Exit code 0: everything is in order; 1: there are faults; 2: there is nothing to check.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.data.checks import image_sets, sentence_sets, video_sets
from tools.data.checks.report import Report
from util.files.writing import atomic_path, write_json
from util.run.cli import run
from util.run.cores import cores
from util.run.counts import counted
from util.run.parser import CommandParser

# Each function takes the folder of a data set and a number of processes. It raises FileNotFoundError or ValueError only
# if the folder holds nothing of the data set.
CHECKS: dict[str, Callable[[Path, int], Report]] = {
    "ytvos": video_sets.check_ytvos,
    "davis": video_sets.check_davis,
    "mevis": video_sets.check_mevis,
    "mevis_v2": partial(video_sets.check_mevis, version="mevis_v2"),
    "long_rvos": video_sets.check_long_rvos,
    "a2d": sentence_sets.check_a2d,
    "jhmdb": sentence_sets.check_jhmdb,
    "refcoco": image_sets.check_refcoco,
    "own": video_sets.check_own,
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("check.py", __doc__)
    parser.add_argument("dataset", choices=CHECKS)
    parser.add_argument("path", type=Path, help="folder of the data set")
    parser.add_argument("--json", metavar="FILE", help="write all findings to this file")
    parser.add_argument("--fix-list", metavar="FILE", help="write the paths to download again to this file")
    parser.add_argument("--examples", type=int, default=5, metavar="N", help="print N of each kind of fault")
    parser.add_argument("--workers", type=int, default=cores(), help="processes")
    args = parser.parse_args(argv)
    if args.workers < 1 or args.examples < 0:
        parser.error("--workers must be at least 1, --examples at least 0")
    return args


def main() -> int:
    args = parse_args()
    if not args.path.is_dir():
        raise FileNotFoundError(f"{args.path}: no such folder; give the folder of the data set (docs/data.md)")
    report = CHECKS[args.dataset](args.path, args.workers)
    print(report.summary(args.examples))
    if args.json:
        write_json(args.json, {"dataset": args.dataset, "path": str(args.path), **report.content()})
    if args.fix_list:
        again = report.fix_list()
        with atomic_path(args.fix_list) as temporary:
            lines = "".join(f"{path}\n" for path in again)
            temporary.write_text(lines, encoding="utf-8", errors="backslashreplace")
        print(f"\n{args.fix_list}: {len(again):,} files or folders to download again")
    if report.faults:
        print(f"\n{args.dataset} in {args.path}: {counted(len(report.faults), 'faults')}")
        return 1
    print(f"\n{args.dataset} in {args.path}: in order")
    return 0


if __name__ == "__main__":
    run(main)
