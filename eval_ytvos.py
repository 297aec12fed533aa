"""Scores Ref-YouTube-VOS results, a folder or a submission zip, against a split that has masks: J, F and J&F."""

from __future__ import annotations

import argparse
from pathlib import Path

from davis2017.ytvos_protocol import score_results, table
from opts import parse_scoring_args, scoring_parser
from util.cli import run
from util.writers import write_json


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = scoring_parser("eval_ytvos.py", __doc__, "other object of the video")
    parser.add_argument("--ytvos_path", default="data/ref-youtube-vos")
    parser.add_argument("--split", choices=("train", "valid", "holdout"), default="valid")
    return parse_scoring_args(parser, argv)


def load_split(root: Path, split: str, holdout: int) -> tuple[Path, dict[str, dict]]:
    """The folder of a split's masks and its videos.

    Raises:
        FileNotFoundError, ValueError: there is no such data, or it cannot be scored, and which split can.
    """
    # Worker processes import this script again; at the top this would cost each of them an import of torch.
    from datasets.ytvos import scorable_split

    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the data set with --ytvos_path")
    return scorable_split(root, split, holdout)


def main() -> None:
    args = parse_args()
    annotations, videos = load_split(Path(args.ytvos_path), args.split, args.holdout)
    scores = score_results(args.results, annotations, videos, args.workers, other_objects=args.against == "other")
    print(table(scores, args.worst))
    if args.json:
        write_json(args.json, scores)


if __name__ == "__main__":
    run(main)
