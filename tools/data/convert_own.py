"""Converts videos of your own, with masks and a table of expressions, to the layout of Ref-YouTube-VOS.

    python tools/data/convert_own.py videos --masks masks --table expressions.csv

Frames in folders and label maps become links to the originals; films are decoded once. All that does not fit is named,
each in a line, and nothing is written then. docs/data.md, Your own data, describes what the files may be like.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.data.own.plan import make_plan
from tools.data.own.write import PARTS, RECORD, divide, write_set
from util.files.folders import require_own
from util.run.cli import one_line, run
from util.run.cores import cores
from util.run.counts import counted
from util.run.parser import CommandParser


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("convert_own.py", __doc__)
    parser.add_argument("videos", type=Path, help="folder that holds a folder of frames or a film for each video")
    parser.add_argument("--masks", type=Path, required=True, help="folder of masks, or a json of COCO or YouTube-VIS")
    parser.add_argument("--table", type=Path, required=True, help="csv or json of video, object and expression")
    parser.add_argument("--output_dir", type=Path, default=Path("data/own"), help="default: data/own")
    parser.add_argument("--valid", type=float, default=0.2, metavar="SHARE", help="of the videos; default: 0.2")
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take one frame of N")
    parser.add_argument("--workers", type=int, default=cores(), help="threads")
    args = parser.parse_args(argv)
    if args.workers < 1 or args.every < 1:
        parser.error("--workers and --every must be at least 1")
    if not 0 <= args.valid < 1:
        parser.error(f"--valid {args.valid:g} is no share of the videos: give a number from 0 to below 1")
    return args


def convert(args: argparse.Namespace) -> tuple[dict[str, dict[str, int]], list[str]]:
    """Converts. An earlier conversion is replaced when the new one is complete, and stays if the new one fails.

    Returns:
        Counts of each split, and notes.

    Raises:
        FileNotFoundError, ValueError: naming the file and the mend; nothing is written then. Mismatches have been
            printed on stderr, each in a line.
    """
    require_own(args.output_dir, PARTS, RECORD)
    parts, faults, notes = make_plan(args.videos, args.masks, args.table, args.every, args.workers)
    for fault in faults:
        print(one_line(fault), file=sys.stderr)
    if faults:
        told = counted(len(faults), "mismatches", "mismatch")
        raise ValueError(f"{args.table}: {told} named above to mend. Nothing was written")
    splits = divide([part.video.name for part in parts], args.valid, args.seed)
    origin = {name: str(getattr(args, name)) for name in ("videos", "masks", "table")}
    origin |= {"every": args.every, "valid": args.valid, "seed": args.seed}
    counts, more = write_set(args.output_dir, parts, splits, origin, args.workers)
    return counts, [counted(number, note) for note, number in (notes + more).items()]


def main() -> None:
    args = parse_args()
    counts, notes = convert(args)
    for note in notes:
        print(f"note: {note}")
    print(f"{args.output_dir}: written")
    for split, numbers in counts.items():
        print(f"  {split}: " + ", ".join(counted(number, name) for name, number in numbers.items()))
    print(next_commands(args.output_dir))


def next_commands(folder: Path) -> str:
    """The check and the training that follow, as docs/data.md, Your own data, explains them."""
    start = shlex.join(["python", "main.py", "--ytvos_path", str(folder), "--binary", "--pretrained_weights"])
    return "\n".join(
        [
            "next: " + shlex.join(["python", "tools/data/check.py", "own", str(folder)]),
            f"then: {start} FILE --output_dir output/own",
            "docs/data.md, Your own data, says which FILE and which further options.",
        ]
    )


if __name__ == "__main__":
    run(main)
