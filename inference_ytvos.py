"""Segments every expression of a Ref-YouTube-VOS split and packs the masks as a submission.

    python inference_ytvos.py --resume output/run/checkpoint.pth --split valid --output_dir output/run/valid

The checkpoint knows how it was trained, so nothing else need be repeated. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

import datasets
import models
from datasets import VideoSet
from datasets.ytvos import SPLITS, split_videos
from engine import claim, predict_split, restore, run_inference, write_overlay
from opts import inference_parser
from util import cli, dist
from util.log import progress_bar
from util.writers import Results, build_submission, mask_name


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = inference_parser("inference_ytvos.py", __doc__.splitlines()[0], output="output/ytvos")
    parser.add_argument("--split", choices=SPLITS, default="valid")
    parser.add_argument("--ytvos_path", help="default: where it was in training")
    return parser.parse_args(argv)


def infer(asked: argparse.Namespace, device: torch.device) -> None:
    """Predicts, packs and checks one split."""
    model, args, trained = restore(asked, "ytvos_path")
    args.dataset_file = "ytvos"
    if not asked.allow_trained:
        datasets.refuse_trained(asked.split, args.holdout, trained.holdout)
    videos = datasets.build_eval_videos(args, asked.split)
    output_dir = Path(asked.output_dir)
    claim(asked, args, output_dir)
    predict_split(models.build_predictor(model.to(device), args), videos, output_dir)
    if not dist.is_main():
        return
    sizes = {video.video_id: video.original_size for video in videos}
    meta = split_videos(Path(args.ytvos_path), asked.split, args.holdout)
    build_submission(output_dir, output_dir / "submission.zip", meta, sizes)
    masks = sum(len(video.expressions) * len(video.frame_names) for video in videos)
    print(f"{len(videos)} videos, {masks} masks: {output_dir / 'submission.zip'} is complete and in order")
    if asked.visualize:
        write_overlays(videos, output_dir)
        print(f"overlays: {output_dir / 'overlays'}")


def write_overlays(videos: VideoSet, output_dir: Path) -> None:
    """An mp4 for each expression, ``overlays/<video>/<exp_id>.mp4``, from the masks in ``output_dir``."""
    with Results(output_dir) as results:
        for video in progress_bar(videos, desc="overlays", unit="video"):
            for exp_id in video.expressions:

                def mask(frame: str, vid: str = video.video_id, eid: str = exp_id) -> np.ndarray:
                    return np.asarray(results.image(mask_name(vid, eid, frame)))[None] > 0

                write_overlay(output_dir / "overlays" / video.video_id / f"{exp_id}.mp4", video, mask)


if __name__ == "__main__":
    cli.run(lambda: run_inference(parse_args(), infer))
