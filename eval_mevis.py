"""Scores MeViS results, a folder or a submission zip, against a split that has masks: J, F and J&F.

    python eval_mevis.py output/run/valid_u
    python eval_mevis.py output/run/valid_u --mevis_version 2

The target of an expression is the union of the objects that it means. In version 2 some mean none: N-acc and T-acc say
whether masks are empty where, and only where, they should be. Of the official splits, train and valid_u have masks.
Exit code 3: scored, but items are missing or damaged; their counts stand beside the headline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from davis2017.averages import table
from davis2017.command import finish, parse_scoring_args, scoring_parser
from davis2017.truth import RleMasks
from davis2017.ytvos_protocol import score_results
from util.masks.results import RESULTS_ROOT, require_results
from util.run.cli import run
from util.run.gaps import Gaps


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    other = "target of another expression of the video that means none of the same objects"
    parser = scoring_parser("eval_mevis.py", __doc__, other)
    parser.add_argument("--mevis_path", default="data/mevis")
    parser.add_argument("--mevis_version", type=int, choices=(1, 2), default=1, help="whose lists are read; default: 1")
    parser.add_argument(
        "--split", choices=("valid_u", "train", "holdout"), default="valid_u", help="the masks of valid are not public"
    )
    return parse_scoring_args(parser, argv)


def load_split(
    root: Path, split: str, holdout: int, gaps: Gaps | None = None, version: int = 1
) -> tuple[RleMasks, dict[str, dict]]:
    """The masks of a split, and its videos; damaged items are left out and become gaps.

    Raises:
        FileNotFoundError, ValueError: there is no such data, or it is not as documented.
    """
    # Worker processes import this script again; at the top this would cost each of them an import of torch.
    from datasets.mevis import MEVIS, MEVIS_V2
    from datasets.scorable import mevis_split

    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the data set with --mevis_path")
    store, videos = mevis_split(root, split, holdout, gaps, MEVIS if version == 1 else MEVIS_V2)
    return RleMasks(store.path, store, may_be_empty=version == 2), videos


def main() -> int | None:
    args = parse_args()
    require_results(args.results)
    gaps = Gaps(args.strict)
    truth, videos = load_split(Path(args.mevis_path), args.split, args.holdout, gaps, args.mevis_version)
    # A submission has the videos at its root; the folder that it was packed from has them in Annotations/.
    root = RESULTS_ROOT if Path(args.results, RESULTS_ROOT).is_dir() else ""
    scores = score_results(args.results, truth, videos, args.workers, args.against == "other", root, gaps)
    print(table(scores, args.worst))
    return finish(scores, gaps, args.json)


if __name__ == "__main__":
    run(main)
