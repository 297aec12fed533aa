"""Runs the main job in small, as its options ask (options.py); scripts/demo.sh starts it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.small_job import tune
from tools.small_job.drawing import draw
from tools.small_job.held_out import controls, presence, score, summary, table
from tools.small_job.options import demo_args
from tools.small_job.stages import FRAMES, LONG, PRETRAINED, ROOT, SHORT, VALID_VIDEOS, command, generate, step, train
from util.files.writing import write_json
from util.run import cli
from util.run.device import use_device
from util.run.precision import amp_dtype


def main() -> None:
    asked = demo_args()
    start = time.perf_counter()
    device = use_device(asked.device)
    where = ["--device", asked.device] if asked.device else []
    slow = device.type == "cpu" and amp_dtype("auto", device) is None
    from_shipped = not (asked.scratch or asked.long)
    if from_shipped and not PRETRAINED.is_file():
        raise FileNotFoundError(f"{PRETRAINED} is not in this copy of the repository; give --scratch")
    if slow and not asked.quick:
        longer = "up to ten minutes instead of five" if from_shipped else "up to four times as long"
        print(f"this CPU has no instructions for bfloat16: in float32 this takes {longer}")
    if from_shipped and not asked.quick:
        metrics = tune.tune(asked.output_dir, asked.seed, device, where, slow, start)
        shown, pictures = tune.table(metrics), "before_after.png, contact_sheet.png and demo.mp4"
    else:
        metrics = score_recipe(asked, device, where)
        shown, pictures = table(metrics), "contact_sheet.png, demo.mp4 and the films in valid/overlays"
    metrics |= {"seconds": round(time.perf_counter() - start, 1), "seed": asked.seed}
    write_json(asked.output_dir / "metrics.json", metrics)
    print(shown)
    print(f"\n{metrics['seconds']:.0f} seconds. In {asked.output_dir}, look at {pictures};")
    print("metrics.json has the numbers, valid/submission.zip is the submission.")
    print(f"The checkpoint is {metrics['checkpoint']}.")


def score_recipe(asked: argparse.Namespace, device: torch.device, where: Sequence[str]) -> dict:
    """Trains from random weights, or takes the shipped ones; infers, scores and draws; returns the metrics."""
    out, data, results = asked.output_dir, asked.output_dir / "data", asked.output_dir / "valid"
    recipe = SHORT if asked.scratch else LONG  # with which the shipped weights were trained, too
    if asked.quick:
        step(1, f"generating {VALID_VIDEOS} videos")
        generate(data, videos=1, frames=FRAMES, seed=asked.seed, absent=recipe.absent)
        step(2, f"nothing to train: {PRETRAINED.relative_to(ROOT)} is there")
        trained = PRETRAINED
    else:
        trained = train(recipe, out, data, asked.seed, where)

    step(3, "inference on the held-out videos, submission zip, scores")
    words = ["--resume", trained, "--split", "valid", "--ytvos_path", data, "--output_dir", results]
    command("inference_ytvos.py", *words, "--visualize", *where)
    scores = score(results, data)

    step(4, "the same videos without language, without time, without training")
    checked = controls(trained, out / "controls", data, asked.seed, device=device)
    told = presence(trained, out / "controls" / "not_there", data, device) if recipe.absent else None

    step(5, "pictures")
    draw(scores, results, data, out / "contact_sheet.png", out / "demo.mp4")
    return summary(scores, checked) | ({"presence": told} if told else {}) | {"checkpoint": str(trained)}


if __name__ == "__main__":
    cli.run(main)
