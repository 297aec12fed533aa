"""The demo: the project's main job in small, from generated videos to scores and pictures, by the same commands a user
gives. ``scripts/demo.sh`` runs it.

Besides the scores it measures whether language and time are used: the held-out videos are asked again with every
expression swapped for that of another object, with a text that says nothing, with every frame replaced by the first,
and of a model that was never trained.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

import datasets
import models
from datasets import VideoSet
from datasets.video_io import read_label_maps
from datasets.ytvos import annotations_root, split_videos
from davis2017.ytvos_protocol import score_results
from engine import predict_split
from models.predictor import Predictor
from opts import parse_train_args
from util import cli
from util.memory import keep_large_buffers
from util.visualize import PALETTE, SheetRow, contact_sheet, overlay, titled, write_video
from util.writers import Results, claim_results, mask_name, write_json

ROOT = Path(__file__).resolve().parents[1]
TRAIN_VIDEOS, VALID_VIDEOS = 2300, 40
BLANK = "the object"
CONTROLS = ("shuffled", "blank", "first_frame", "untrained")
SHEET_ROWS = 9

# A smaller network than the paper's, and stages of minutes instead of days; docs/results.md has the reasons.
NETWORK = """
    --binary --backbone timm:resnet10t --token_stride 16 --hidden_dim 96 --nheads 4 --mask_dim 32 --enc_layers 2
    --num_queries 1 --dropout 0 --train_sizes 96 --eval_size 96 --max_size 160 --no-random_crop --no-photometric
    --expressions_per_clip 6 --lr_schedule cosine --warmup_steps 50 --amp bf16 --num_workers 1 --epochs 1
    --bbox_loss_coef 0 --giou_loss_coef 0 --set_cost_bbox 0 --set_cost_giou 0
"""
# as the paper's recipe pretrains on images, T = 1, before it trains on videos; here on the same videos' frames
IMAGES = "--num_frames 1 --batch_size 8 --lr 5e-4 --lr_backbone 5e-4 --lr_text_encoder 5e-4"
VIDEOS = "--num_frames 8 --batch_size 4 --lr 3e-4 --lr_backbone 3e-4 --lr_text_encoder 3e-4"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser("demo.sh", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--output_dir", type=Path, default=Path("output/demo"), help="everything is written here")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    asked = parse_args()
    start = time.perf_counter()
    keep_large_buffers()
    out, data = asked.output_dir, asked.output_dir / "data"
    run_dir, results = out / "run", out / "valid"
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"--output_dir {out} already holds something; remove it, or choose another folder")

    step(1, f"generating {TRAIN_VIDEOS} training and {VALID_VIDEOS} held-out videos")
    counts = ["--train_videos", TRAIN_VIDEOS, "--valid_videos", VALID_VIDEOS]
    command("tools/data/make_synthetic.py", data, *counts, "--seed", asked.seed)
    expressions = data / "meta_expressions" / "train" / "meta_expressions.json"
    command("tools/make_tiny_text_encoder.py", expressions, "--output_dir", out / "text_encoder")

    step(2, "training ProxyFormer from random weights: backbone, then single frames, then clips")
    backbone, images = out / "backbone.pth", out / "images"
    command("tools/pretrain_backbone.py", data, "--output_file", backbone, "--seed", asked.seed)
    shared = [*shlex.split(NETWORK), "--seed", asked.seed, "--ytvos_path", data, "--text_encoder", out / "text_encoder"]
    command("main.py", *shared, *shlex.split(IMAGES), "--backbone_pretrained", backbone, "--output_dir", images)
    options = [*shared, *shlex.split(VIDEOS), "--pretrained_weights", images / "checkpoint.pth"]
    command("main.py", *options, "--output_dir", run_dir)

    step(3, "inference on the held-out videos, submission zip, scores")
    trained = run_dir / "checkpoint.pth"
    command("inference_ytvos.py", "--resume", trained, "--split", "valid", "--output_dir", results)
    scores = score(results, data)

    step(4, "the same videos without language, without time, without training")
    predictor, args = models.load_predictor(trained)
    videos = datasets.build_eval_videos(args, "valid")
    meta = split_videos(data, "valid")
    torch.manual_seed(asked.seed)
    untrained = parse_train_args([str(option) for option in [*shared, *shlex.split(VIDEOS)]])
    runs = {
        "shuffled": (predictor, shuffled(videos, meta)),
        "blank": (predictor, [replace(v, expressions=dict.fromkeys(v.expressions, BLANK)) for v in videos]),
        "first_frame": (predictor, [replace(v, frame_paths=v.frame_paths[:1] * len(v.frame_paths)) for v in videos]),
        "untrained": (
            models.build_predictor(models.build_model(untrained, datasets.num_classes(untrained)), untrained),
            videos,
        ),
    }
    controls = {name: control(*runs[name], out / "controls" / name, data, name, trained) for name in CONTROLS}

    step(5, "pictures")
    sheet, film = out / "contact_sheet.png", out / "demo.mp4"
    draw(videos, meta, scores, results, data, sheet, film)
    metrics = summary(scores, controls) | {"seconds": round(time.perf_counter() - start, 1), "seed": asked.seed}
    write_json(out / "metrics.json", metrics)
    print(table(metrics))
    print(f"\n{metrics['seconds']:.0f} seconds. Look at {sheet} and {film}; the numbers are in {out / 'metrics.json'},")
    print(f"the submission is {results / 'submission.zip'}, the checkpoint {trained}.")


def step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def command(script: str, *options: object) -> None:
    """Runs an entry script as a user would, showing the command.

    Raises:
        ValueError: it failed; its own message stands above.
    """
    words = [str(option) for option in options]
    print(shlex.join(["python", script, *words]), flush=True)
    if subprocess.run([sys.executable, ROOT / script, *words]).returncode:
        raise ValueError(f"{script} failed; its message is above")


def score(results: Path, data: Path) -> dict:
    """J&F of a results folder on the held-out videos, and against the hardest other object of each video."""
    return score_results(results, annotations_root(data, "valid"), split_videos(data, "valid"), other_objects=True)


def shuffled(videos: VideoSet, meta: dict[str, dict]) -> VideoSet:
    """Every expression replaced by one of the same video that means another object, where there is one."""
    swapped = []
    for video in videos:
        asked = meta[video.video_id]["expressions"]
        ids = list(asked)
        texts = {}
        for i, exp_id in enumerate(ids):
            later = ids[i + 1 :] + ids[:i]
            other = next((o for o in later if asked[o]["obj_id"] != asked[exp_id]["obj_id"]), exp_id)
            texts[exp_id] = asked[other]["exp"]
        swapped.append(replace(video, expressions=texts))
    return swapped


def control(predictor: Predictor, videos: VideoSet, folder: Path, data: Path, name: str, trained: Path) -> dict:
    """Scores of a run that should do badly."""
    claim_results(folder, {"checkpoint": str(trained), "control": name}, replace=True)
    predict_split(predictor, videos, folder, desc=name)
    return score(folder, data)


def summary(scores: dict, controls: dict[str, dict]) -> dict:
    """What metrics.json holds: the headline, every control beside it, and both again for each kind of expression."""

    def line(pick) -> dict:
        mean = pick(scores)
        out = {key: mean[key] for key in ("J", "F", "J&F", "J&F_other_object", "expressions")}
        return out | {f"J&F_{name}": pick(run)["J&F"] for name, run in controls.items()}

    kinds = {kind: line(lambda run, kind=kind: run["by_kind"][kind]) for kind in scores["by_kind"]}
    return line(lambda run: run) | {"by_kind": kinds}


def table(metrics: dict) -> str:
    """The numbers side by side; everything right of the first three columns should be low."""
    columns = ["J", "F", "J&F", "J&F_other_object", *(f"J&F_{name}" for name in CONTROLS)]
    heads = ["J", "F", "J&F", "other object", *(name.replace("_", " ") for name in CONTROLS)]
    lines = ["", "held-out videos".ljust(22) + "".join(h.rjust(14) for h in heads)]
    for name, row in [("all", metrics), *metrics["by_kind"].items()]:
        lines.append(f"{name} ({row['expressions']})".ljust(22) + "".join(f"{row[c]:14.3f}" for c in columns))
    return "\n".join(lines)


def draw(videos: VideoSet, meta: dict, scores: dict, results: Path, data: Path, sheet: Path, film: Path) -> None:
    """A contact sheet of cases from best to worst of each kind, and a film of the same."""
    chosen = choose(scores)
    by_id = {video.video_id: video for video in videos}
    rows, frames = [], []
    with Results(results) as masks:
        for vid, exp_id in chosen:
            video, case = by_id[vid], scores["videos"][vid][exp_id]
            images = video.read(slice(None)).permute(0, 2, 3, 1).numpy()
            paths = [annotations_root(data, "valid") / vid / f"{name}.png" for name in video.frame_names]
            labels = read_label_maps(paths, images.shape[1:3])[:, 0].numpy()
            predicted = [np.asarray(masks.image(mask_name(vid, exp_id, name))) > 0 for name in video.frame_names]
            every_other = slice(None, None, 2)
            rows.append(
                SheetRow(
                    caption=case["exp"],
                    note=f"{case['kind']} · J&F {case['J&F']:.2f} · {vid}",
                    frames=list(images[every_other]),
                    truth=labels[every_other] == int(case["obj_id"]),
                    predicted=np.stack(predicted)[every_other],
                    frame_ids=video.frame_names[every_other],
                )
            )
            frames += [
                titled(overlay(i, m[None], PALETTE), case["exp"]) for i, m in zip(images, predicted, strict=True)
            ]
    contact_sheet(rows, sheet)
    write_video(film, frames, fps=4)


def choose(scores: dict) -> list[tuple[str, str]]:
    """Cases of each kind, evenly from the best to the worst: a fair sample rather than a flattering one."""
    cases = [
        (e["kind"], -e["J&F"], vid, exp_id) for vid, video in scores["videos"].items() for exp_id, e in video.items()
    ]
    chosen = []
    kinds = sorted({kind for kind, *_ in cases})
    for kind in kinds:
        ranked = sorted(case for case in cases if case[0] == kind)
        picks = np.linspace(0, len(ranked) - 1, SHEET_ROWS // len(kinds)).round().astype(int)
        chosen += [ranked[i][2:] for i in picks]
    return chosen


if __name__ == "__main__":
    cli.run(main)
