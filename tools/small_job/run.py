"""The main job in small, from generated videos to scores and pictures, by the commands that a user would give.
``scripts/demo.sh`` runs it.

Besides the scores it measures whether the model uses language and time. The held-out videos are segmented again with
the expression of another object, with a text without content, with every frame replaced by the first, and by a model
that was never trained.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch

import datasets
import models
from datasets import VideoSet
from datasets.ytvos import annotations_root, eval_videos, means_nothing, split_videos
from davis2017.averages import ACCURACIES
from davis2017.ytvos_protocol import score_results
from engine import predict_split
from models.predictor import PROBABLE, Predictor
from models.text_encoder import TextEncoder
from tools.calibrate import figures, listed
from tools.calibrate import scores as answer_scores
from tools.data.synthetic_text import ABSENT
from util.files.folders import require_new
from util.files.writing import write_json
from util.masks.results import Results, claim_results, mask_name
from util.run import cli
from util.run.device import use_device
from util.run.parser import CommandParser
from util.run.precision import amp_dtype, inference_amp
from util.video.pictures import read_label_maps
from util.video.visualize import PALETTE, SheetRow, contact_sheet, overlay, titled, write_video

ROOT = Path(__file__).resolve().parents[2]
VALID_VIDEOS = 40
FRAMES = 8  # of a video
BLANK = "the object"
CONTROLS = ("shuffled", "blank", "first_frame", "untrained")
SHEET_ROWS = 9
ABSENT_SHARE = 0.1
NO_OBJECT = -1  # a label that no pixel has

PRETRAINED = ROOT / "pretrained_weights" / "demo.safetensors"

# A smaller network than the paper's, and stages of minutes instead of days. The class counts ten times more than usual
# in the matching: otherwise five queries divide the picture among them and hardly read the words (docs/results.md).
NETWORK = """
    --binary --backbone tsm_resnet10_half --hidden_dim 96 --nheads 4 --mask_dim 32
    --dropout 0 --train_sizes 96 --eval_size 96 --max_size 160 --no-random_crop --no-photometric
    --expressions_per_clip 6 --lr_schedule cosine --warmup_steps 50 --amp auto --num_workers 1
    --lr_text_encoder 5e-4 --set_cost_class 20
"""
# where the rows of tools/paper.py have options of their own
DEMO = "--token_stride 16 --enc_layers 2 --num_queries 5 --mask_loss_norm instances"
# as in the paper, which pretrains on the images of RefCOCO (T = 1) before it trains on videos
IMAGES = "--num_frames 1 --batch_size 8 --lr 1e-3 --lr_backbone 5e-5"
# masks are compared at full size, because stride 4 is too coarse for the outlines of small objects
VIDEOS = "--lr 5e-4 --lr_backbone 1e-4 --mask_loss_size full"


@dataclass(frozen=True)
class Recipe:
    """Numbers of generated images and videos, epochs on them, and options of the alignment and of the clips.

    ``absent`` is the number of texts for each of them that mean nothing in it. A tenth of the expressions is replaced
    by such texts, and the scores are calibrated on the videos that ``--holdout`` keeps out of the training.

    With clips of 4 of the 8 frames, training sees twice as many videos in the same time. But such a clip may show only
    the first half of "going up and then down", which then looks like "moving up". Inference sees whole videos.
    """

    images: int
    videos: int
    image_epochs: int
    video_epochs: int
    alignment: str
    clips: str
    absent: int = 0


SHORT = Recipe(8000, 2200, 2, 1, "--num_frames 4 --steps 1000", "--num_frames 4 --batch_size 8")
LONG = Recipe(
    images=16000,
    videos=9000,
    image_epochs=2,
    video_epochs=3,
    alignment="--num_frames 8 --batch_size 4 --steps 6000",
    clips="--num_frames 8 --batch_size 4 --holdout 200",
    absent=4,
)


def parse_args() -> argparse.Namespace:
    parser = CommandParser("demo.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=Path("output/demo"), help="everything is written here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--long", action="store_true", help="train far longer: hours on a CPU")
    size.add_argument("--quick", action="store_true", help=f"train nothing; take {PRETRAINED.relative_to(ROOT)}")
    return parser.parse_args()


def main() -> None:
    asked = parse_args()
    start = time.perf_counter()
    device = use_device(asked.device)
    where = ["--device", asked.device] if asked.device else []
    out, data = asked.output_dir, asked.output_dir / "data"
    results = out / "valid"
    require_new(out)
    if not asked.quick and device.type == "cpu" and amp_dtype("auto", device) is None:
        print(
            "this CPU has no instructions for bfloat16: in float32 everything takes up to four times as long; --quick "
            "shows a trained model in a minute"
        )
    if asked.quick and not PRETRAINED.is_file():
        raise FileNotFoundError(f"--quick: {PRETRAINED} is not in this copy of the repository; run without --quick")

    recipe = SHORT if not (asked.quick or asked.long) else LONG  # with which the shipped weights were trained, too
    if asked.quick:
        step(1, f"generating {VALID_VIDEOS} videos")
        generate(data, videos=1, frames=FRAMES, seed=asked.seed, absent=recipe.absent)
        step(2, f"nothing to train: {PRETRAINED.relative_to(ROOT)} is there")
        trained = PRETRAINED
    else:
        trained = train(recipe, out, data, asked.seed, where)

    step(3, "inference on the held-out videos, submission zip, scores")
    words = ["--resume", trained, "--split", "valid", "--ytvos_path", data, "--output_dir", results]
    words += ["--not_there", PROBABLE] if recipe.absent else []
    command("inference_ytvos.py", *words, "--visualize", *where)
    scores = score(results, data)

    step(4, "the same videos without language, without time, without training")
    checked = controls(trained, out / "controls", data, asked.seed, device=device)
    told = presence(trained, data, device) | {name: scores[name] for name in ACCURACIES} if recipe.absent else {}

    step(5, "pictures")
    sheet, film = out / "contact_sheet.png", out / "demo.mp4"
    draw(scores, results, data, sheet, film)
    metrics = summary(scores, checked) | {"seconds": round(time.perf_counter() - start, 1), "seed": asked.seed}
    metrics |= {"presence": told} if told else {}
    write_json(out / "metrics.json", metrics)
    print(table(metrics))
    print(f"\n{metrics['seconds']:.0f} seconds. Look at {sheet} and {film}; the numbers are in {out / 'metrics.json'},")
    print(f"the submission is {results / 'submission.zip'}, a film of each expression is in {results / 'overlays'},")
    print(f"the checkpoint is {trained}.")


def generate(folder: Path, *, videos: int, frames: int, seed: int, absent: int = 0) -> None:
    """A data set of training videos and the held-out ones, with ``absent`` texts for each that mean nothing in it."""
    counts = ["--train_videos", videos, "--valid_videos", VALID_VIDEOS, "--frames", frames]
    counts += ["--absent", absent] if absent else []
    command("tools/data/make_synthetic.py", folder, *counts, "--seed", seed)


@dataclass(frozen=True)
class Starts:
    """What trainings start from: folders of the generated images and videos, and of the aligned encoders."""

    images: Path
    videos: Path
    encoders: Path


def train(recipe: Recipe, out: Path, data: Path, seed: int, where: Sequence[str] = ()) -> Path:
    """Generates the data and trains from random weights, with the options ``where``; returns the checkpoint."""
    step(1, f"generating {recipe.images} images, {recipe.videos} training and {VALID_VIDEOS} held-out videos")
    starts = Starts(out / "images", data, out / "aligned")
    generate_all(recipe, starts, seed)
    step(2, "training ProxyFormer from random weights: encoders, then on images, then on videos")
    align(recipe, starts, out / "text_encoder", seed, *where)
    trained = train_stages(recipe, starts, out, seed, *shlex.split(DEMO), *where)
    if not recipe.absent:
        return trained
    calibrated = trained.with_name("calibrated.pth")
    command("tools/calibrate.py", trained, calibrated, *where)
    return calibrated


def generate_all(recipe: Recipe, starts: Starts, seed: int) -> None:
    """The images, the videos and the held-out videos of a recipe; those that are there stay."""
    # another seed, for other scenes than in the videos
    generate(starts.images, videos=recipe.images, frames=1, seed=seed + 1, absent=recipe.absent)
    generate(starts.videos, videos=recipe.videos, frames=FRAMES, seed=seed, absent=recipe.absent)


def align(recipe: Recipe, starts: Starts, text_encoder: Path, seed: int, *options: str) -> None:
    """Makes a text encoder for the texts of the generated sets, and aligns it with a backbone."""
    make_text_encoder(starts, text_encoder)
    words = ["--text_encoder", text_encoder, *shlex.split(recipe.alignment), "--seed", seed]
    command("tools/small_job/pretrain_alignment.py", starts.videos, *words, "--output_dir", starts.encoders, *options)


def make_text_encoder(starts: Starts, folder: Path) -> None:
    sets = (starts.images, starts.videos)
    texts = [root / "meta_expressions" / "train" / "meta_expressions.json" for root in sets]
    command("tools/make_tiny_text_encoder.py", *texts, "--output_dir", folder)


def stages(recipe: Recipe, starts: Starts, seed: int, *options: str) -> tuple[list[object], list[object]]:
    """The options of main.py for the training on images and for the one on videos, without their starting weights.

    Args:
        options: of the model and the losses, for both.
    """
    shared = [*shlex.split(NETWORK), *options, "--seed", seed, "--text_encoder", starts.encoders / "text_encoder"]
    shared += ["--absent", ABSENT_SHARE] if recipe.absent else []
    images = [*shared, *shlex.split(IMAGES), "--ytvos_path", starts.images, "--epochs", recipe.image_epochs]
    videos = [*shared, *shlex.split(f"{VIDEOS} {recipe.clips}"), "--ytvos_path", starts.videos]
    return images, [*videos, "--epochs", recipe.video_epochs]


def train_stages(recipe: Recipe, starts: Starts, out: Path, seed: int, *options: str) -> Path:
    """Trains a model on images, then on videos; returns the checkpoint. What ``options`` are is in :func:`stages`."""
    first, last = out / "run_images", out / "run"
    images, videos = stages(recipe, starts, seed, *options)
    command("main.py", *images, "--backbone_pretrained", starts.encoders / "backbone.pth", "--output_dir", first)
    command("main.py", *videos, "--pretrained_weights", first / "checkpoint.pth", "--output_dir", last)
    return last / "checkpoint.pth"


def step(number: int, what: str) -> None:
    print(f"\n[{number}/5] {what}", flush=True)


def command(script: str, *options: object, quiet: bool = False) -> str:
    """Runs an entry script as a user would, showing the command; with ``quiet`` it shows nothing of it.

    Returns:
        What the script printed, with ``quiet``.

    Raises:
        ValueError: the script failed; its own message is printed above.
    """
    words = [str(option) for option in options]
    if not quiet:
        print(shlex.join(["python", script, *words]), flush=True)
    done = subprocess.run([sys.executable, ROOT / script, *words], stdout=subprocess.PIPE if quiet else None, text=True)
    if done.returncode:
        raise ValueError(f"{script} failed; its message is above")
    return done.stdout or ""


def score(results: Path, data: Path, meta: dict[str, dict] | None = None) -> dict:
    """J&F of a results folder on the held-out videos, and against the other object of each video that fits best.

    Args:
        meta: entries of meta_expressions to score; None: all.
    """
    meta = meta or split_videos(data, "valid")
    return score_results(results, annotations_root(data, "valid"), meta, other_objects=True)


def meaningful(data: Path) -> dict[str, dict]:
    """The entries of the held-out videos with the expressions that mean an object."""
    return {
        name: entry | {"expressions": {e: of for e, of in entry["expressions"].items() if not means_nothing(of)}}
        for name, entry in split_videos(data, "valid").items()
    }


def presence(trained: Path, data: Path, device: torch.device) -> dict[str, float | int]:
    """How well the scores tell the expressions that mean something in their video from the others."""
    predictor, args = models.load_with_options(trained, device)
    args.ytvos_path = data
    return figures(*answer_scores(predictor, *listed(datasets.eval_set(args, "valid"))))


def shuffled(videos: VideoSet, meta: dict[str, dict]) -> VideoSet:
    """The videos with every expression replaced by one of the same video that means another object, if there is one."""
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


def controls(
    trained: Path,
    folder: Path,
    data: Path,
    seed: int,
    names: Sequence[str] = CONTROLS,
    device: torch.device | None = None,
) -> dict[str, dict]:
    """Scores of the held-out videos under other conditions, by name, which are :data:`CONTROLS` or "asked", for none.

    Args:
        trained: the checkpoint; folder: takes the masks; seed: of the weights of the untrained model.
    """
    predictor, args = models.load_with_options(trained, device, not_there=0.0)
    args.ytvos_path = data
    meta = meaningful(data)
    videos = [
        replace(video, expressions={e: video.expressions[e] for e in meta[video.video_id]["expressions"]})
        for video in datasets.eval_set(args, "valid").videos()
    ]

    def untrained() -> Predictor:
        torch.manual_seed(seed)
        text_encoder = TextEncoder.from_description(predictor.model.text_encoder.description(), frozen=False)
        model = models.assemble(args, datasets.num_classes(args), text_encoder).to(predictor.device)
        return models.build_predictor(model, models.predictor_settings(args, amp=inference_amp(args.amp)))

    changed = {
        "shuffled": shuffled(videos, meta),
        "blank": [replace(v, expressions=dict.fromkeys(v.expressions, BLANK)) for v in videos],
        "first_frame": [replace(v, frame_paths=v.frame_paths[:1] * len(v.frame_paths)) for v in videos],
    }
    return {
        name: control(
            untrained() if name == "untrained" else predictor,
            changed.get(name, videos),
            folder / name,
            data,
            name,
            trained,
        )
        for name in names
    }


def control(predictor: Predictor, videos: VideoSet, folder: Path, data: Path, name: str, trained: Path) -> dict:
    """Scores of a control run, which should be low."""
    claim_results(folder, {"checkpoint": str(trained), "control": name}, replace=True)
    predict_split(predictor, videos, folder, desc=name)
    return score(folder, data, meaningful(data))


def summary(scores: dict, controls: dict[str, dict]) -> dict:
    """The content of metrics.json: the scores, those of every control, and both again for each kind of expression."""

    def line(pick) -> dict:
        mean = pick(scores)
        out = {key: mean[key] for key in ("J", "F", "J&F", "J&F_other_object", "expressions")}
        return out | {f"J&F_{name}": pick(run)["J&F"] for name, run in controls.items()}

    kinds = {kind: line(lambda run, kind=kind: run["by_kind"][kind]) for kind in scores["by_kind"] if kind != ABSENT}
    return line(lambda run: run) | {"by_kind": kinds}


def table(metrics: dict) -> str:
    """The scores as a table; all columns after the first three should be low."""
    columns = ["J", "F", "J&F", "J&F_other_object", *(f"J&F_{name}" for name in CONTROLS)]
    heads = ["J", "F", "J&F", "other object", *(name.replace("_", " ") for name in CONTROLS)]
    lines = ["", "held-out videos".ljust(22) + "".join(h.rjust(14) for h in heads)]
    for name, row in [("all", metrics), *metrics["by_kind"].items()]:
        lines.append(f"{name} ({row['expressions']})".ljust(22) + "".join(f"{row[c]:14.3f}" for c in columns))
    if told := metrics.get("presence"):
        lines += ["", f"{told['absent']} further expressions mean nothing in their video: AUROC of the scores"]
        lines[-1] += f" {told['AUROC']:.3f}; " + ", ".join(f"{name} {told[name]:.3f}" for name in ACCURACIES)
    return "\n".join(lines)


def draw(scores: dict, results: Path, data: Path, sheet: Path, film: Path) -> None:
    """A contact sheet with cases of each kind from best to worst, and a video of the same cases."""
    chosen = choose(scores)
    by_id = {video.video_id: video for video in eval_videos(data, "valid", 0)}
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
                    truth=labels[every_other] == int(case["obj_id"] or NO_OBJECT),
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
    """Cases of each kind, evenly spaced from the best to the worst, so that the sample is fair."""
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
