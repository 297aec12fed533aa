"""Times inference of whole videos: each expression by itself, and all of them from frames that are encoded once.

    python tools/benchmark_inference.py --backbones video_swin_t resnet50 --modes fp32 bf16

Weights and frames are random. Measured is the time from uint8 frames to masks of their size, without decoding and
writing. "One by one" is the same code with one expression at a time in float32 (on a GPU without TF32). Every row runs
in a process of its own, so that its peak memory can be measured. torch counts the FLOPs, for videos of one window. The
ceiling is the speed of the fastest product of two large matrices in float32. ``--agreement`` compares masks instead of
times: those of each mode with those of float32, with the shipped weights.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets  # noqa: E402
import models  # noqa: E402
from engine import predict_split  # noqa: E402
from models.fast import for_inference  # noqa: E402
from models.windows import WINDOW  # noqa: E402
from opts import parse_train_args  # noqa: E402
from tools.benchmark_train import ceiling, last_error  # noqa: E402
from tools.data.make_synthetic import generate  # noqa: E402
from tools.profile_model import EXPRESSION, build, flops, measure, sections  # noqa: E402
from tools.small_job.held_out import score
from tools.small_job.stages import PRETRAINED  # noqa: E402
from util.run import cli  # noqa: E402
from util.run.device import use_device  # noqa: E402
from util.run.parser import CommandParser

# what each mode computes in; on a CPU the first two are the same
MODES = {
    "fp32": dict(amp="off", float32="ieee"),
    "tf32": dict(amp="off", float32="tf32"),
    "bf16": dict(amp="bf16", float32="tf32"),
    "fp16": dict(amp="fp16", float32="tf32"),
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of ``main.py`` with a few more."""
    parser = CommandParser(
        "benchmark_inference.py",
        __doc__,
        note="Other options are those of main.py: --device, --enc_layers …",
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[5, 19, 40])
    parser.add_argument("--expressions", type=int, nargs="+", default=[1, 4, 8], help="how many are asked of the video")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["fp32", "bf16"])
    parser.add_argument("--backbones", nargs="+", metavar="NAME", help="one after the other")
    parser.add_argument(
        "--size", type=int, nargs=2, action="append", metavar=("HEIGHT", "WIDTH"), help="may be given several times"
    )
    parser.add_argument("--repeat", type=int, default=2, help="runs after the first; the fastest counts")
    parser.add_argument("--agreement", action="store_true", help="compare masks instead of times")
    parser.add_argument("--one", nargs=6, help=argparse.SUPPRESS)  # backbone, height, width, frames, expressions, mode
    own, others = parser.parse_known_args(argv)
    own.size = [tuple(size) for size in own.size or [(360, 640)]]
    if min(map(min, own.size)) < 32 or min(*own.frames, *own.expressions, own.repeat) < 1:
        parser.error("--size must be at least 32 both ways, the other numbers at least 1")
    args = parse_train_args(others)
    vars(args).update(vars(own))
    args.backbones = own.backbones or [args.backbone]
    return args


def asked(count: int) -> list[str]:
    """``count`` different expressions of the same length."""
    return [f"{EXPRESSION} {number}" for number in range(count)]


@dataclass
class Noise:
    """A video of noise, which needs no memory.

    Attributes:
        length: frames; size: height and width.
    """

    length: int
    size: tuple[int, int]

    def __len__(self) -> int:
        return self.length

    def read(self, positions: Sequence[int]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(positions[0])
        return torch.randint(256, (len(positions), 3, *self.size), dtype=torch.uint8, generator=generator)


def cost(
    args: argparse.Namespace, backbone: str, size: tuple[int, int], frames: int, expressions: int, mode: str
) -> dict[str, float]:
    """Seconds and peak memory in GiB of one video in this process."""
    device = use_device(args.device)
    torch.manual_seed(args.seed)
    seen = dict(backbone=backbone, eval_size=min(size), max_size=max(size))
    args = argparse.Namespace(**vars(args) | seen)
    settings = models.predictor_settings(args, **MODES[mode])
    predictor = models.inference_predictor(build(args, asked(expressions)), settings, device)

    def run(length: int) -> None:
        found = predictor.segment(Noise(length, size), asked(expressions))
        for start in range(0, length, 8):
            found.masks(start, min(start + 8, length))

    run(min(frames, WINDOW))
    costs = [measure(lambda: run(frames), device) for _ in range(args.repeat)]
    return {"seconds": min(c.seconds for c in costs), "peak": max(c.peak for c in costs) / 2**30}


@dataclass
class Agreement:
    """The results of a mode on generated held-out videos with the shipped weights.

    Attributes:
        score: J&F; difference: score minus that of float32; iou: mean IoU of the masks with those of float32.
    """

    score: float
    difference: float
    iou: float

    def __str__(self) -> str:
        return f"J&F {self.score:.4f} ({self.difference:+.4f}), mean IoU with fp32's {self.iou:.4f}"


def agreement(modes: Sequence[str], device: torch.device, count: int = 12) -> Iterator[tuple[str, Agreement]]:
    """Each mode, float32 first, on ``count`` videos."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generate(root / "data", train_videos=1, valid_videos=count, seed=20261121)
        scores, masks = {}, {}
        for mode in dict.fromkeys(["fp32", *modes]):
            predictor, trained = models.load_with_options(PRETRAINED, device, not_there=0.0, **MODES[mode])
            trained.ytvos_path = root / "data"
            videos = datasets.eval_set(trained, "valid").videos()
            predict_split(predictor, videos, root / mode, desc=mode)
            scores[mode] = score(root / mode, root / "data")["J&F"]
            masks[mode] = [predictor.segment(v, list(v.expressions.values())).masks(0, len(v)) for v in videos]
            ious = torch.cat([iou(a, b) for a, b in zip(masks[mode], masks["fp32"], strict=True)])
            yield mode, Agreement(scores[mode], scores[mode] - scores["fp32"], ious.mean().item())


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """IoU of masks ``[..., h, w]``, flattened to one axis; 1 where both masks are empty."""
    both, either = (a & b).sum((-2, -1)).flatten(), (a | b).sum((-2, -1)).flatten()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def main() -> None:
    args = parse_args()
    device = use_device(args.device)
    if args.one:
        backbone, height, width, frames, expressions, mode = args.one
        print(json.dumps(cost(args, backbone, (int(height), int(width)), int(frames), int(expressions), mode)))
        return
    if args.agreement:
        for mode, found in agreement(args.modes, device):
            print(f"{mode}: {found}", flush=True)
        return
    limit = ceiling(device, torch.float32)
    print(
        f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}; matrix products in fp32: {limit:.0f} "
        "GFLOP/s",
        flush=True,
    )
    for backbone in args.backbones:
        for size in args.size:
            print(f"{backbone}, {size[0]}x{size[1]}", flush=True)
            table(args, backbone, size, limit)


def table(args: argparse.Namespace, backbone: str, size: tuple[int, int], limit: float) -> None:
    """Prints the rows of one backbone and size; ``limit`` is the ceiling in GFLOP/s."""
    heads = ("frames", "asked", "mode", "s", "ms/frame/expr.", "frames/s", "peak GiB", "of ceiling", "one by one")
    widths = (7, 6, 6, 8, 15, 10, 10, 11, 14)
    print("".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    model = build(argparse.Namespace(**vars(args) | {"backbone": backbone}), asked(2))
    for_inference(model, None)
    for frames in args.frames:
        # each further expression costs as much as the second
        one, two = (
            (flops(model, frames, size, asked(count)) if frames <= WINDOW else dict.fromkeys(sections(model), 0))
            for count in (1, 2)
        )
        first, further = sum(one.values()) / 1e9, (sum(two.values()) - sum(one.values())) / 1e9
        alone = run(backbone, size, frames, 1, "fp32")
        for mode in args.modes:
            for count in args.expressions:
                found = alone if (mode, count) == ("fp32", 1) else run(backbone, size, frames, count, mode)
                seconds = found["seconds"]
                values = (
                    frames,
                    count,
                    mode,
                    f"{seconds:.2f}",
                    f"{1000 * seconds / frames / count:.0f}",
                    f"{frames / seconds:.2f}",
                    f"{found['peak']:.2f}",
                    f"{(first + (count - 1) * further) / seconds / limit:.0%}" if first else "-",
                    f"{alone['seconds'] * count / seconds:.2f}x",
                )
                line = "".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
                print(line, flush=True)
        if first:
            parts = ", ".join(f"{name} {one[name] / 1e9:.1f}" for name in one)
            print(f"GFLOP of {frames} frames: {first:.1f} ({parts}), a further expression {further:.1f}", flush=True)


def run(backbone: str, size: tuple[int, int], frames: int, expressions: int, mode: str) -> dict[str, float]:
    """:func:`cost` in another process."""
    row = map(str, (backbone, *size, frames, expressions, mode))
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--one", *row], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{backbone}, {mode}: {last_error(done.stderr)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    cli.run(main)
