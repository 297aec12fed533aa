"""Segments every expression of a Ref-YouTube-VOS split and packs the masks as a submission.

    python inference_ytvos.py --resume output/run/checkpoint.pth --split valid --output_dir output/run/valid

The checkpoint knows how it was trained, so nothing else need be repeated. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import datasets
import models
from datasets import VideoSet
from datasets.base import VideoEntry
from datasets.ytvos import SPLITS, split_videos
from engine import predict_split
from util import checkpoint, cli, dist
from util.log import progress_bar
from util.memory import keep_large_buffers
from util.visualize import PALETTE, overlay, write_video
from util.writers import Results, build_submission, claim_results, mask_name

OVERLAY_FPS = 6


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("inference_ytvos.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--resume", required=True, metavar="CKPT", help="checkpoint of main.py, or exported weights")
    parser.add_argument("--split", choices=SPLITS, default="valid")
    parser.add_argument("--output_dir", default="output/ytvos", help="takes Annotations/ and submission.zip")
    parser.add_argument("--ytvos_path", help="default: where it was in training")
    parser.add_argument("--holdout", type=int, metavar="N", help="videos of the hold-out; default: as in training")
    parser.add_argument("--eval_size", type=int, help="short side of the input; default: as in training")
    parser.add_argument("--max_size", type=int, help="limit of its long side; default: as in training")
    parser.add_argument("--amp", choices=("off", "bf16"), help="default: as in training")
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    parser.add_argument("--visualize", action="store_true", help="also write an overlay video of each expression")
    parser.add_argument("--allow_trained", action="store_true", help="take also videos that were trained on")
    parser.add_argument("--overwrite", action="store_true", help="delete masks that another run left in --output_dir")
    # torch.distributed.launch passes it; the environment says the same
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main() -> None:
    asked = parse_args()
    keep_large_buffers()
    device = dist.init(asked.device)
    try:
        infer(asked, device)
    finally:
        dist.shut_down()


def infer(asked: argparse.Namespace, device: torch.device) -> None:
    """Predicts, packs and checks one split."""
    saved = checkpoint.load(asked.resume)
    model, args = models.restore_model(saved, asked.resume)
    if not asked.allow_trained:
        holdout = args.holdout if asked.holdout is None else asked.holdout
        datasets.refuse_trained(asked.split, holdout, args.holdout)
    for name in ("ytvos_path", "holdout", "eval_size", "max_size", "amp"):
        if getattr(asked, name) is not None:
            setattr(args, name, getattr(asked, name))
    videos = datasets.build_eval_videos(args, asked.split)
    output_dir = Path(asked.output_dir)
    if dist.is_main():
        run = {name: getattr(args, name) for name in ("eval_size", "max_size", "amp")}
        claim_results(output_dir, {"checkpoint": checkpoint.fingerprint(asked.resume), **run}, asked.overwrite)
    dist.barrier()
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
                path = output_dir / "overlays" / video.video_id / f"{exp_id}.mp4"
                write_video(path, overlaid_frames(video, exp_id, results), OVERLAY_FPS)


def overlaid_frames(video: VideoEntry, exp_id: str, results: Results) -> Iterator[np.ndarray]:
    """Yields the frames of a video with the mask of one expression painted over."""
    for i, name in enumerate(video.frame_names):
        frame = video.read([i])[0].permute(1, 2, 0).numpy()
        mask = np.asarray(results.image(mask_name(video.video_id, exp_id, name))) > 0
        yield overlay(frame, mask[None], PALETTE)


if __name__ == "__main__":
    cli.run(main)
