"""Teaches the shipped weights shapes and colours that they never saw, in minutes, and shows what they then know.

Half of the videos, in training and held out, have the new things. The others have the known ones, which must not be
forgotten. The training takes as many steps as fit into the time of the whole job.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from davis2017.averages import average
from tools.data.make_synthetic import has_new_things
from tools.small_job.drawing import draw, draw_before_after
from tools.small_job.held_out import controls, score
from tools.small_job.stages import (
    ABSENT_SHARE,
    FRAMES,
    PRETRAINED,
    VALID_VIDEOS,
    command,
    ends,
    generate,
    measured,
    step,
)

VIDEOS = 1400
# The words need the highest rate: the text encoder never saw them. In the same time, clips of 4 of the 8 frames show
# more scenes than whole videos, and teach more (docs/log.md).
OPTIONS = f"""
    --binary --num_frames 4 --batch_size 8 --expressions_per_clip 6 --epochs 1 --absent {ABSENT_SHARE}
    --train_sizes 96 --eval_size 96 --max_size 160 --no-random_crop --no-photometric
    --lr 6e-4 --lr_backbone 1.2e-4 --lr_text_encoder 2e-3 --lr_schedule cosine --warmup_steps 20
    --mask_loss_size full --mask_loss_norm instances --set_cost_class 20 --amp auto --num_workers 1
"""
FEWEST_STEPS = 150
# seconds of the whole job, and those that follow the training
WHOLE, WHOLE_IN_FLOAT32 = 288, 580
AFTER, AFTER_IN_FLOAT32 = 66, 100
GROUPS = ("new", "known")
CHECKS = ("blank", "first_frame")


def tune(out: Path, seed: int, device: torch.device, where: Sequence[str], slow: bool, began: float) -> dict:
    """Generates, trains, infers, scores and draws under ``out``; returns the content of metrics.json.

    Args:
        where: the option of the device.
        slow: whether it computes in float32.
        began: when the job began, of ``time.perf_counter``.
    """
    data, run, valid = out / "data", out / "run", out / "valid"
    step(1, f"generating {VIDEOS} training and {2 * VALID_VIDEOS} held-out videos, every second one of new things")
    generate(data, videos=VIDEOS, held_out=2 * VALID_VIDEOS, frames=FRAMES, seed=seed, absent=2, things="both")

    step(2, "the held-out videos with the weights as they are shipped")
    before = answered(PRETRAINED, data, out / "before", *where)

    step(3, "fine-tuning these weights on both")
    options = [*shlex.split(OPTIONS), "--ytvos_path", data, "--pretrained_weights", PRETRAINED, "--seed", seed, *where]
    end = began + (WHOLE_IN_FLOAT32 - AFTER_IN_FLOAT32 if slow else WHOLE - AFTER)
    share = share_of_clips(options, run, end)
    command("main.py", *options, "--mix", f"ytvos={share:.3f}", "--output_dir", run)

    step(4, "the held-out videos again, submission zip, scores; and without language, without time")
    trained = run / "checkpoint.pth"
    after = answered(trained, data, valid, *where)
    checked = controls(trained, out / "controls", data, seed, CHECKS, device)

    step(5, "pictures")
    draw(after, valid, data, out / "contact_sheet.png", out / "demo.mp4")
    draw_before_after(before, after, out / "before", valid, data, out / "before_after.png", is_new)
    return summary(before, after, checked) | {"checkpoint": str(trained)}


def share_of_clips(options: Sequence[object], folder: Path, end: float) -> float:
    """The share of the clips with which a training ends in time, and says when, by the time of its steps."""
    most, seconds = measured(options, folder)
    steps = min(max(int((end - time.perf_counter()) / seconds), FEWEST_STEPS), most)
    print(ends(steps, seconds), flush=True)
    return steps / most


def answered(weights: Path, data: Path, results: Path, *options: str) -> dict:
    """The scores of weights on the held-out videos, by the inference script."""
    words = ["--resume", weights, "--split", "valid", "--ytvos_path", data, "--output_dir", results]
    command("inference_ytvos.py", *words, *options)
    return score(results, data)


def of_group(scores: Mapping, group: str) -> dict:
    """The means over the expressions of the videos of a group."""
    chosen = [video.values() for vid, video in scores["videos"].items() if is_new(vid) == (group == "new")]
    return average([expression for video in chosen for expression in video], other_objects=True)


def is_new(video: str) -> bool:
    """Whether a generated video, by its name, has the new things."""
    return has_new_things("both", int(video.rpartition("_")[2]))


def summary(before: dict, after: dict, checked: Mapping[str, dict]) -> dict[str, dict]:
    """For each group J&F before and after, and after it what should be low."""
    found = {}
    for group in GROUPS:
        mean = of_group(after, group)
        found[group] = {"expressions": mean["expressions"], "before": of_group(before, group)["J&F"]}
        found[group] |= {"after": mean["J&F"], "other_object": mean["J&F_other_object"]}
        found[group] |= {name: of_group(scores, group)["J&F"] for name, scores in checked.items()}
    return found


def table(metrics: Mapping[str, dict]) -> str:
    """J&F of both groups as a table; all columns after the first two should be low."""
    columns = ("before", "after", "other_object", *CHECKS)
    lines = ["", "J&F of held-out videos".ljust(24) + "".join(name.replace("_", " ").rjust(14) for name in columns)]
    for group in GROUPS:
        name = f"{group} things ({metrics[group]['expressions']})"
        lines.append(name.ljust(24) + "".join(f"{metrics[group][column]:14.3f}" for column in columns))
    return "\n".join(lines)
