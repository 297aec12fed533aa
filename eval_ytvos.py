"""Scores Ref-YouTube-VOS results, a folder or a submission zip, against a split that has masks: J, F and J&F."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from davis2017.ytvos_protocol import average, score_results
from util.cli import run
from util.writers import write_json

OTHER = "J&F_other_object"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("eval_ytvos.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("results", help="folder that holds Annotations/, or submission.zip")
    parser.add_argument("--ytvos_path", default="data/ref-youtube-vos")
    parser.add_argument("--split", choices=("train", "valid", "holdout"), default="valid")
    parser.add_argument("--holdout", type=int, default=0, metavar="N", help="training videos in the hold-out")
    parser.add_argument(
        "--against",
        choices=("target", "other"),
        default="target",
        help="other: also score against the hardest other object of the video, which should be low",
    )
    parser.add_argument("--json", metavar="FILE", help="write all scores here")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--worst", type=int, default=10, metavar="N", help="expressions to list, worst first")
    args = parser.parse_args(argv)
    if args.workers < 1 or args.worst < 0 or args.holdout < 0:
        parser.error("--workers must be at least 1, --worst and --holdout at least 0")
    if args.split == "holdout" and not args.holdout:
        parser.error("--split holdout needs --holdout N, the number that training kept out")
    return args


def _why_not(annotations: Path, videos: dict[str, dict]) -> str | None:
    """What keeps a split from being scored, if anything."""
    if not annotations.is_dir():
        return f"there is no folder {annotations}"
    for vid, video in videos.items():
        for eid, expression in video["expressions"].items():
            if "obj_id" not in expression:
                return f"video {vid}, expression {eid} has no obj_id"
    return None


def load_split(root: Path, split: str, holdout: int) -> tuple[Path, dict[str, dict]]:
    """The folder of a split's masks and its videos.

    Raises:
        FileNotFoundError, ValueError: there is no such data; or it has no masks or no obj_id, and which split has.
    """
    # Worker processes import this script again; at the top this would cost each of them an import of torch.
    from datasets.ytvos import annotations_root, split_videos

    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder; give the data set with --ytvos_path")
    annotations, videos = annotations_root(root, split), split_videos(root, split, holdout)
    reason = _why_not(annotations, videos)
    if reason is None:
        return annotations, videos
    other = "train" if split == "valid" else "valid"
    try:
        scorable = _why_not(annotations_root(root, other), split_videos(root, other)) is None
    except (ValueError, FileNotFoundError):
        scorable = False
    hint = f"--split {other} can be" if scorable else f"nor can --split {other}"
    raise ValueError(f"--split {split} of {root} cannot be scored: {reason}; {hint}")


def table(scores: dict, worst: int) -> str:
    """The scores as text: each video, the worst expressions, each kind, and the headline last."""
    other = OTHER in scores
    width = max(len(name) for name in ("video", "mean", *scores["videos"], *scores.get("by_kind", {})))

    def line(name: str, mean: dict) -> str:
        cells = [f"{name:<{width}}", f"{mean['expressions']:>5}"]
        cells += [f"{mean[key]:6.4f}" for key in ("J", "F", "J&F")]
        if other:
            cells.append("     -" if mean[OTHER] is None else f"{mean[OTHER]:6.4f}")
        return "  ".join(cells)

    header = f"{'video':<{width}}  expr.  J       F       J&F   " + ("  other" if other else "")
    lines = [header.rstrip(), *(line(vid, average(video.values(), other)) for vid, video in scores["videos"].items())]
    lines += [line("mean", scores)]
    every = [(vid, eid, e) for vid, video in scores["videos"].items() for eid, e in video.items()]
    every.sort(key=lambda case: case[2]["J&F"])
    if worst:
        lines += ["", "worst expressions (J&F, video, expression)"]
        lines += [f"{e['J&F']:6.4f}  {vid}  {eid}: {e.get('exp', '')}" for vid, eid, e in every[:worst]]
    if "by_kind" in scores:
        lines += ["", header.replace("video", "kind ", 1).rstrip()]
        lines += [line(kind, mean) for kind, mean in scores["by_kind"].items()]
    lines += ["", f"J&F {scores['J&F']:.4f}   J {scores['J']:.4f}   F {scores['F']:.4f}"]
    if other:
        value = "no video has another object" if scores[OTHER] is None else f"{scores[OTHER]:.4f}"
        lines += [f"J&F against the hardest other object: {value}"]
    return "\n".join(lines)


def main() -> None:
    args = parse_args()
    annotations, videos = load_split(Path(args.ytvos_path), args.split, args.holdout)
    scores = score_results(args.results, annotations, videos, args.workers, other_objects=args.against == "other")
    print(table(scores, args.worst))
    if args.json:
        write_json(args.json, scores)


if __name__ == "__main__":
    run(main)
