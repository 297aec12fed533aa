"""Scores Ref-YouTube-VOS results, a folder or a submission zip, against a split that has masks: J, F and J&F.

    python eval_ytvos.py output/run/valid/submission.zip
    python eval_ytvos.py output/run/valid --annotations DIR --expressions FILE

The second form names the folder of valid's masks and the list of what its expressions mean. Exit code 3: scored, but
items are missing or damaged; their counts stand beside the headline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from davis2017.averages import table
from davis2017.command import finish, parse_scoring_args, scoring_parser
from davis2017.ytvos_protocol import score_results
from util.masks.results import require_results
from util.run.cli import run
from util.run.gaps import Gaps


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = scoring_parser("eval_ytvos.py", __doc__, "other object of the video")
    parser.add_argument("--ytvos_path", default="data/ref-youtube-vos")
    parser.add_argument("--split", choices=("train", "valid", "holdout"), default="valid")
    parser.add_argument("--annotations", metavar="DIR", help="masks of valid, where not in valid/Annotations")
    parser.add_argument(
        "--expressions", metavar="FILE", help='list that says, as "obj_id", what each expression of valid means'
    )
    return parse_scoring_args(parser, argv)


def load_split(args: argparse.Namespace, gaps: Gaps) -> tuple[Path, dict[str, dict]]:
    """The folder of the split's masks, and its videos; damaged items are left out and become gaps.

    Raises:
        FileNotFoundError, ValueError: there is no such data, or it cannot be scored; the message names a split that
            can.
    """
    # Worker processes import this script again; at the top this would cost each of them an import of torch.
    from datasets.scorable import scorable_split

    root = Path(args.ytvos_path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the data set with --ytvos_path")
    given = {"annotations": args.annotations, "expressions": args.expressions}
    return scorable_split(root, args.split, args.holdout, gaps=gaps, **given)


def main() -> int | None:
    args = parse_args()
    require_results(args.results)
    gaps = Gaps(args.strict)
    annotations, videos = load_split(args, gaps)
    scores = score_results(args.results, annotations, videos, args.workers, args.against == "other", gaps=gaps)
    print(table(scores, args.worst))
    return finish(scores, gaps, args.json)


if __name__ == "__main__":
    run(main)
