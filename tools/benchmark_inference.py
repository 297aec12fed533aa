"""Times inference of whole videos: each expression by itself, and all of them from frames that are encoded once.

    python tools/benchmark_inference.py [--frames 5 19 40] [--expressions 1 4 8] [--modes fp32 bf16] [main.py's options]

Weights and frames are random; from uint8 frames to masks of their size, decoding and writing left out. One by one is
the same code asked one expression at a time in float32. Every row runs in a process of its own, so that its peak memory
is its own. FLOPs are those that torch counts, of videos of one window; the ceiling is the fastest product of two large
matrices in float32 here. ``--agreement`` compares the masks of each mode with those of float32, from the weights that
the demo ships.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets  # noqa: E402
import models  # noqa: E402
from engine import predict_split  # noqa: E402
from models.predictor import Predictor  # noqa: E402
from models.windows import WINDOW  # noqa: E402
from opts import parse_train_args  # noqa: E402
from tools.benchmark_train import ceiling  # noqa: E402
from tools.data.make_synthetic import generate  # noqa: E402
from tools.demo import PRETRAINED, score  # noqa: E402
from tools.profile_model import EXPRESSION, SECTIONS, build, flops, measure  # noqa: E402
from util import cli, dist  # noqa: E402
from util.memory import keep_large_buffers  # noqa: E402
from util.precision import amp_dtype  # noqa: E402

MODES = {"fp32": "off", "bf16": "bf16", "fp16": "fp16"}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of ``main.py`` with a few more."""
    parser = argparse.ArgumentParser(
        "benchmark_inference.py",
        description=__doc__.splitlines()[0],
        epilog="Other options are those of main.py: --backbone, --device, --eval_size …",
        allow_abbrev=False,
    )
    parser.add_argument("--frames", type=int, nargs="+", default=[5, 19, 40])
    parser.add_argument("--expressions", type=int, nargs="+", default=[1, 4, 8], help="asked of the video")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["fp32", "bf16"])
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeat", type=int, default=2, help="runs after the first, of which the fastest counts")
    parser.add_argument("--agreement", action="store_true", help="compare masks instead of times")
    parser.add_argument("--one", nargs=3, metavar=("FRAMES", "EXPRESSIONS", "MODE"), help=argparse.SUPPRESS)
    own, others = parser.parse_known_args(argv)
    if min(own.size) < 32 or min(*own.frames, *own.expressions, own.repeat) < 1:
        parser.error("--size must be at least 32 both ways, the other numbers at least 1")
    args = parse_train_args(others)
    vars(args).update(vars(own))
    return args


def asked(count: int) -> list[str]:
    """Expressions of the same length, none equal to another."""
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


def cost(args: argparse.Namespace, frames: int, expressions: int, mode: str) -> dict[str, float]:
    """Seconds and peak memory in GiB of one video in this process."""
    device = dist.device_of(args.device)
    torch.manual_seed(args.seed)
    model = build(args, asked(expressions)).to(device)
    amp = amp_dtype(MODES[mode], device)
    predictor = Predictor(model, eval_size=min(args.size), max_size=max(args.size), amp=amp)

    def run(length: int) -> None:
        found = predictor.segment(Noise(length, args.size), asked(expressions))
        for start in range(0, length, 8):
            found.masks(start, min(start + 8, length))

    run(min(frames, WINDOW))
    costs = [measure(lambda: run(frames), device) for _ in range(args.repeat)]
    return {"seconds": min(c.seconds for c in costs), "peak": max(c.peak for c in costs) / 2**30}


def agreement(args: argparse.Namespace) -> None:
    """Prints how the masks and scores of each mode differ from those of float32 on generated held-out videos."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generate(root / "data", train_videos=1, valid_videos=12, seed=20261121)
        scores, masks = {}, {}
        for mode in dict.fromkeys(["fp32", *args.modes]):
            predictor, trained = models.load_with_options(PRETRAINED, args.device)
            predictor.amp = amp_dtype(MODES[mode], predictor.device)
            trained.ytvos_path = root / "data"
            videos = datasets.build_eval_videos(trained, "valid")
            predict_split(predictor, videos, root / mode, desc=mode)
            scores[mode] = score(root / mode, root / "data")["J&F"]
            masks[mode] = [predictor.segment(v, list(v.expressions.values())).masks(0, len(v)) for v in videos]
            ious = torch.cat([iou(a, b) for a, b in zip(masks[mode], masks["fp32"], strict=True)])
            difference = scores[mode] - scores["fp32"]
            print(f"{mode}: J&F {scores[mode]:.4f} ({difference:+.4f}), mean IoU with fp32's {ious.mean():.4f}")


def iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Of masks ``[..., h, w]``, one row of all; 1 where both are empty."""
    both, either = (a & b).sum((-2, -1)).flatten(), (a | b).sum((-2, -1)).flatten()
    return torch.where(either > 0, both / either.clamp(min=1), 1.0)


def main() -> None:
    args = parse_args()
    keep_large_buffers()
    if args.one:
        print(json.dumps(cost(args, int(args.one[0]), int(args.one[1]), args.one[2])))
        return
    if args.agreement:
        agreement(args)
        return
    device = dist.device_of(args.device)
    limit = ceiling(device, torch.float32)
    print(
        f"{args.backbone}, {args.size[0]}x{args.size[1]}, {device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}\nmatrix products in fp32: {limit:.0f} GFLOP/s",
        flush=True,
    )
    heads = ("frames", "asked", "mode", "s", "ms/frame/expr.", "frames/s", "peak GiB", "of ceiling", "one by one")
    widths = (7, 6, 6, 8, 15, 10, 10, 11, 14)
    print("".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)))
    model = build(args, asked(max(args.expressions)))
    for frames in args.frames:
        alone = run(frames, 1, "fp32")
        for mode in args.modes:
            for count in args.expressions:
                found = alone if (mode, count) == ("fp32", 1) else run(frames, count, mode)
                seconds = found["seconds"]
                share = "-"
                if frames <= WINDOW:
                    work = flops(model, frames, tuple(args.size), asked(count))
                    share = f"{sum(work.values()) / 1e9 / seconds / limit:.0%}"
                values = (
                    frames,
                    count,
                    mode,
                    f"{seconds:.2f}",
                    f"{1000 * seconds / frames / count:.0f}",
                    f"{frames / seconds:.2f}",
                    f"{found['peak']:.2f}",
                    share,
                    f"{alone['seconds'] * count / seconds:.2f}x",
                )
                line = "".join(f"{value:>{width}}" for value, width in zip(values, widths, strict=True))
                print(line, flush=True)
        if frames > WINDOW:
            continue
        work = flops(model, frames, tuple(args.size), asked(1))
        parts = ", ".join(f"{name} {work[name] / 1e9:.1f}" for name in SECTIONS)
        print(f"GFLOP of {frames} frames, one expression: {sum(work.values()) / 1e9:.1f} ({parts})", flush=True)


def run(frames: int, expressions: int, mode: str) -> dict[str, float]:
    """:func:`cost` in another process."""
    words = [sys.executable, __file__, *sys.argv[1:], "--one", str(frames), str(expressions), mode]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"{mode}: {(done.stderr.strip().splitlines() or ['ended without a message'])[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    cli.run(main)
