"""Scores Long-RVOS results, a folder or a zip, against a split that has masks: J, F, J&F, tIoU and vIoU.

    python eval_long_rvos.py output/run/valid

Every split has masks. The scores of static, dynamic and hybrid expressions are printed, too. Exit code 3: scored, but
items are missing or damaged; their counts stand beside the headline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from davis2017.averages import table
from davis2017.command import finish, parse_scoring_args, scoring_parser
from davis2017.truth import ObjectFolders
from davis2017.ytvos_protocol import score_results
from util.masks.results import RESULTS_ROOT, require_results
from util.run.cli import run
from util.run.gaps import Gaps


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = scoring_parser("eval_long_rvos.py", __doc__, "object of another expression of the video")
    parser.add_argument("--long_rvos_path", default="data/long_rvos")
    parser.add_argument("--split", choices=("valid", "test", "train", "holdout"), default="valid")
    return parse_scoring_args(parser, argv)


def load_split(root: Path, split: str, holdout: int, gaps: Gaps | None = None) -> tuple[ObjectFolders, dict[str, dict]]:
    """The masks of a split, and its videos; damaged items are left out and become gaps.

    Raises:
        FileNotFoundError, ValueError: there is no such data, or it is not as documented.
    """
    # Worker processes import this script again; at the top this would cost each of them an import of torch.
    from datasets.long_rvos import frames_root
    from datasets.scorable import long_rvos_split

    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the data set with --long_rvos_path")
    annotations, videos = long_rvos_split(root, split, holdout, gaps)
    return ObjectFolders(annotations, frames_root(root, split)), videos


def main() -> int | None:
    args = parse_args()
    require_results(args.results)
    gaps = Gaps(args.strict)
    truth, videos = load_split(Path(args.long_rvos_path), args.split, args.holdout, gaps)
    # The authors' scoring is given the folder of the videos; inference writes it as Annotations/.
    root = RESULTS_ROOT if Path(args.results, RESULTS_ROOT).is_dir() or Path(args.results).is_file() else ""
    scores = score_results(args.results, truth, videos, args.workers, args.against == "other", root, gaps)
    print(table(scores, args.worst))
    return finish(scores, gaps, args.json)


if __name__ == "__main__":
    run(main)
