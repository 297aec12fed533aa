"""The stages of the main job in small: generated data, and trainings by the commands that a user would give."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from util.run.counts import counted, in_seconds

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = ROOT / "pretrained_weights" / "demo.safetensors"
VALID_VIDEOS = 40
FRAMES = 8  # of a video
ABSENT_SHARE = 0.1

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

    All clips show whole videos: in 4 of the 8 frames, "going up and then down" may look like "moving up". Steps of the
    alignment are cheap, and much of what the model knows of motion comes from there (docs/log.md).
    """

    images: int
    videos: int
    image_epochs: int
    video_epochs: int
    alignment: str
    clips: str
    absent: int = 0


SHORT = Recipe(
    images=8000,
    videos=3000,
    image_epochs=1,
    video_epochs=1,
    alignment="--num_frames 8 --batch_size 4 --steps 2500",
    clips="--num_frames 8 --batch_size 4",
)
LONG = Recipe(
    images=16000,
    videos=9000,
    image_epochs=2,
    video_epochs=3,
    alignment="--num_frames 8 --batch_size 4 --steps 6000 --holdout 200",
    clips="--num_frames 8 --batch_size 4 --holdout 200",
    absent=4,
)


def generate(
    folder: Path,
    *,
    videos: int,
    frames: int,
    seed: int,
    absent: int = 0,
    held_out: int = VALID_VIDEOS,
    things: str = "known",
) -> None:
    """A data set of training videos and held-out ones, with ``absent`` texts for each that mean nothing in it."""
    options = ["--train_videos", videos, "--valid_videos", held_out, "--frames", frames, "--seed", seed]
    command("tools/data/make_synthetic.py", folder, *options, "--absent", absent, "--things", things)


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
    trained = train_stages(recipe, starts, out, seed, *shlex.split(DEMO), *where, say_when=True)
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


def train_stages(recipe: Recipe, starts: Starts, out: Path, seed: int, *options: str, say_when: bool = False) -> Path:
    """Trains a model on images, then on videos; returns the checkpoint.

    Args:
        options: as in :func:`stages`.
        say_when: before each of both, measure its steps and say when it ends.
    """
    first, last = out / "run_images", out / "run"
    images, videos = stages(recipe, starts, seed, *options)
    images += ["--backbone_pretrained", starts.encoders / "backbone.pth"]
    videos += ["--pretrained_weights", first / "checkpoint.pth"]
    for stage, folder in ((images, first), (videos, last)):
        if say_when:
            print(ends(*measured(stage, folder)), flush=True)
        command("main.py", *stage, "--output_dir", folder)
    return last / "checkpoint.pth"


def measured(options: Sequence[object], folder: Path) -> tuple[int, float]:
    """The steps of a training by main.py with these options, and the seconds that one takes. Nothing is written."""
    return read_cost(command("main.py", *options, "--output_dir", folder, "--dry_run", quiet=True))


def read_cost(said: str) -> tuple[int, float]:
    """The steps that are left and the seconds of one, from what ``main.py --dry_run`` prints."""
    steps = re.search(r"^([\d,]+) steps? left", said, re.MULTILINE)
    slowest = max(float(seconds) for seconds in re.findall(r": ([\d.]+) s a step", said))
    return int(steps[1].replace(",", "")), max(slowest, 0.001)  # it is printed in thousandths, and may be 0.000


def ends(steps: int, seconds: float) -> str:
    """When a training that begins now ends, as a sentence."""
    ready = time.strftime("%H:%M", time.localtime(time.time() + steps * seconds))
    minutes = f"{steps * seconds / 60:.1f} minutes"
    return f"a step takes {in_seconds(seconds)}: {counted(steps, 'steps take')} {minutes}, until {ready}"


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
