"""Scores Ref-DAVIS17 results, always from the masks: J&F of each annotator and their mean, by both protocols.

python eval_davis.py output/davis --davis_path data/ref-davis

Exit code 3: scored, but items are missing or damaged or cannot be scored; their counts stand beside the headline.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from davis2017.command import add_strict, finish
from davis2017.davis_protocol import PROTOCOLS, STATISTICS, Unscorable, average, require_folder, score_results
from util.run.cli import run
from util.run.cores import cores
from util.run.counts import counted
from util.run.gaps import Gaps, beside
from util.run.parser import CommandParser

UNSUPERVISED, SEMI_SUPERVISED = PROTOCOLS


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("eval_davis.py", __doc__)
    results = "folder that holds anno_0 to anno_3, or one folder of <video>/<frame>.png"
    parser.add_argument("results", nargs="?", help=results)
    # ReferFormer's names of options; its scripts/dist_test_davis.sh scores the folder of one annotator after the other
    parser.add_argument("--results_path", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--set", choices=("val",), help=argparse.SUPPRESS)
    parser.add_argument("--davis_path", default="data/ref-davis")
    parser.add_argument("--split", choices=("train", "valid", "holdout"), default="valid")
    parser.add_argument("--holdout", type=int, default=0, metavar="N", help="training videos in the hold-out")
    parser.add_argument(
        "--protocol",
        "--task",
        choices=(*PROTOCOLS, "both"),
        default="both",
        help=f"{UNSUPERVISED} is what the papers report; both leaves the other out where there is no ground truth",
    )
    parser.add_argument(
        "--semi_annotations",
        metavar="DIR",
        help=f"ground truth of the {SEMI_SUPERVISED} protocol; default: DAVIS/Annotations/480p in --davis_path",
    )
    add_strict(parser)
    parser.add_argument("--json", metavar="FILE", help="write all scores here")
    parser.add_argument("--workers", type=int, default=cores(), help="processes")
    args = parser.parse_args(argv)
    if (args.results is None) == (args.results_path is None):
        parser.error("give the folder of the results, once")
    args.results = args.results or args.results_path
    if args.workers < 1 or args.holdout < 0:
        parser.error("--workers must be at least 1, --holdout at least 0")
    if args.split == "holdout" and not args.holdout:
        parser.error("--split holdout needs --holdout N, the number that training kept out")
    if args.semi_annotations and args.protocol == UNSUPERVISED:
        parser.error(f"--semi_annotations is for the {SEMI_SUPERVISED} protocol, which --protocol leaves out")
    return args


def ground_truths(
    args: argparse.Namespace, gaps: Gaps | None = None
) -> tuple[dict[str, Path], dict[str, list[str]], str | None]:
    """Folder of the masks of each protocol to score by, frames of each video, and why a protocol is left out.

    Args:
        gaps: takes videos and expressions of the list whose form is wrong.

    Raises:
        FileNotFoundError, ValueError: there is no such data, or no ground truth for the protocol given by --protocol.
    """
    root = Path(args.davis_path)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the data set with --davis_path")
    # Worker processes import this script again; at the top this would cost each of them an import of torch.
    from datasets.davis import annotations_root, split_videos

    videos = {vid: video["frames"] for vid, video in split_videos(root, args.split, args.holdout, gaps).items()}
    semi = Path(args.semi_annotations) if args.semi_annotations else root / "DAVIS" / "Annotations" / "480p"
    truths = {UNSUPERVISED: annotations_root(root, args.split), SEMI_SUPERVISED: semi}
    if args.protocol != "both":
        truths = {args.protocol: truths[args.protocol]}
    left_out = None
    for protocol, folder in list(truths.items()):
        if folder.is_dir():
            continue
        reason = f"there is no folder {folder}"
        if protocol == UNSUPERVISED or args.semi_annotations or args.protocol != "both":
            raise FileNotFoundError(
                f"the {protocol} protocol cannot be scored: {reason}; see docs/data.md, Ref-DAVIS17"
            )
        del truths[protocol]
        left_out = f"the {protocol} protocol is left out: {reason} (its masks come with DAVIS-2017-trainval-480p)"
    return truths, videos, left_out


def table(scores: dict) -> str:
    """The scores of one protocol as text: each sequence, each annotator, their mean last."""
    annotators = scores["annotators"]
    names = [*annotators, *(vid for each in annotators.values() for vid in each["sequences"]), "sequence", "mean"]
    width = max(map(len, names))

    lines = [f"{'sequence':<{width}}  " + "  ".join(f"{name:>8}" for name in ("J&F", "J", "F", *annotators))]
    for vid in next(iter(annotators.values()))["sequences"]:
        each = [annotator["sequences"][vid] for annotator in annotators.values()]
        mean = average(each)
        values = (mean["J&F"], mean["J"]["mean"], mean["F"]["mean"], *(e["J&F"] for e in each))
        lines.append(f"{vid:<{width}}  " + "  ".join(f"{value:8.4f}" for value in values))

    columns = [(measure, statistic) for measure in "JF" for statistic in STATISTICS]
    header = ("J&F", *(f"{measure}-{statistic}" for measure, statistic in columns))
    lines += ["", f"{'':<{width}}  " + "  ".join(f"{name:>8}" for name in header)]
    for name, each in [*annotators.items(), ("mean", scores)]:
        values = (each["J&F"], *(each[measure][statistic] for measure, statistic in columns))
        lines.append(f"{name:<{width}}  " + "  ".join(f"{value:8.4f}" for value in values))
    return "\n".join(lines)


def main() -> int | None:
    args = parse_args()
    require_folder(args.results)
    listed, gaps = Gaps(args.strict), Gaps(args.strict)
    truths, videos, left_out = ground_truths(args, listed)
    gaps.take(listed)
    scores: dict[str, dict] = {}
    unscored = {}
    for protocol, folder in truths.items():
        of_protocol = Gaps(args.strict, known=gaps)
        of_protocol.take(listed)
        try:
            scores[protocol] = score_results(args.results, folder, videos, protocol, args.workers, of_protocol)
        except Unscorable as error:
            if args.strict or not scores:
                raise
            left_out = f"the {protocol} protocol is left out: {error}"
            unscored = {"left_out": {protocol: str(error)}}
        gaps.take(of_protocol)
    for protocol, of_protocol in scores.items():
        note = ", what the papers report" if protocol == UNSUPERVISED else ""
        what = f"{counted(len(videos), 'videos')}, {counted(of_protocol['objects'], 'objects')}"
        print(f"{protocol} protocol{note}: {what}, {truths[protocol]}")
        print(table(of_protocol) + "\n")
    if left_out:
        print(left_out)
    for protocol, mean in scores.items():
        print(
            f"{protocol}: J&F {mean['J&F']:.4f}   J {mean['J']['mean']:.4f}   F {mean['F']['mean']:.4f}{beside(mean)}"
        )
    return finish(scores | unscored, gaps, args.json)


if __name__ == "__main__":
    run(main)
