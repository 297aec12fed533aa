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


def main() -> None:
    args = parse_args()
    annotations, videos = load_split(Path(args.ytvos_path), args.split, args.holdout)
    scores = score_results(args.results, annotations, videos, args.workers, other_objects=args.against == "other")
    print(table(scores, args.worst))
    if args.json:
        write_json(args.json, scores)


if __name__ == "__main__":
    run(main)
