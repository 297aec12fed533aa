"""Times a training step with each of the options that make it faster or smaller, side by side in one run.

    python tools/benchmark_train.py --variants fp32 bf16 checkpointing --backbone resnet18

Every variant runs in a process of its own, so that its peak memory can be measured. A step trains random weights on
clips of noise. Loading is measured separately, on a small generated set of frames of the same size. FLOPs are counted
by torch in one step of the plain variant. The ceiling is the speed of the fastest product of two large matrices in
float32, also for variants in half precision. "against fp32" compares frames per second. On a GPU ``fp32`` is without
TF32, and variants that name no precision are with it. ``ddp`` and ``fsdp`` run on all GPUs, or on a CPU as two
processes that share its cores; their memory is that of the process that takes most.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets  # noqa: E402
import models  # noqa: E402
from engine import train_step  # noqa: E402
from models import prepare  # noqa: E402
from opts import parse_train_args  # noqa: E402
from tasks.resuming import micro_batches  # noqa: E402
from tools.data.make_synthetic import generate  # noqa: E402
from tools.profile_model import EXPRESSION, build, make_batch, measure  # noqa: E402
from util.run import cli, dist  # noqa: E402
from util.run.device import use_device  # noqa: E402
from util.run.parser import CommandParser
from util.run.precision import amp_dtype  # noqa: E402

# name of a variant and the flags that make it
VARIANTS = {
    "fp32": "--float32 ieee",
    "tf32": "",
    "bf16": "--amp bf16",
    "fp16": "--amp fp16",
    "checkpointing": "--activation_checkpointing",
    "accumulation": "--global_batch_size {twice}",
    "compile": "--compile",
    "bf16+checkpointing": "--amp bf16 --activation_checkpointing",
    "bf16+compile": "--amp bf16 --compile",
    "ddp": "",
    "fsdp": "--fsdp",
}
IN_PARALLEL = ("ddp", "fsdp")
USUAL = ("fp32", "bf16", "checkpointing")
WARM_UP = 2


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of ``main.py`` with a few more."""
    parser = CommandParser(
        "benchmark_train.py",
        __doc__,
        note="Other options are those of main.py: --num_frames, --backbone, --device, --batch_size …",
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=USUAL)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--steps", type=int, default=3, help="measured steps; the fastest counts")
    parser.add_argument("--no_loading", action="store_true", help="leave out the measurement of data loading")
    parser.add_argument("--one", choices=VARIANTS, help=argparse.SUPPRESS)  # measure this variant in this process
    own, others = parser.parse_known_args(argv)
    if min(own.size) < 32 or own.steps < 1:
        parser.error("--size must be at least 32 both ways, --steps at least 1")
    twice = 2 * parse_train_args(others).batch_size
    args = parse_train_args([*others, *shlex.split(VARIANTS[own.one or "fp32"].format(twice=twice))])
    vars(args).update({**vars(own), "size": tuple(own.size), "others": others})
    return args


def step_cost(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Seconds, frames, peak memory in GiB and GFLOP of one training step of this process and the other ranks."""
    expressions = [EXPRESSION] * args.expressions_per_clip
    torch.manual_seed(args.seed)
    model = build(args, expressions)
    models.prepare_model(args, model, device)
    wrapped = (model if args.fsdp else prepare.replicate(model, device)).train()
    criterion, amp = models.build_criterion(args), amp_dtype(args.amp, device)
    optimizer, _ = models.build_optimizer(args, model, 100)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == torch.float16)
    batch = make_batch(args.num_frames, args.size, expressions, clips=args.batch_size).to(device)
    at_once = micro_batches(args.batch_size, args.global_batch_size, dist.world_size())

    def step() -> None:
        options = dict(device=device, scaler=scaler, amp=amp, clip_max_norm=args.clip_max_norm)
        train_step(wrapped, criterion, [batch] * at_once, optimizer, **options)

    for _ in range(WARM_UP):
        step()
    costs = [measure(step, device) for _ in range(args.steps)]
    gflop = 0.0
    if args.one == "fp32":
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):
            step()
        gflop = counter.get_total_flops() / 1e9
    peaks = dist.gather_list([max(cost.peak for cost in costs)])
    return {
        "seconds": min(cost.seconds for cost in costs),
        "frames": args.num_frames * args.batch_size * at_once * dist.world_size(),
        "peak": max(peaks, default=0) / 2**30,
        "gflop": gflop,
    }


def command(name: str, device: torch.device) -> tuple[list[str], dict[str, str]]:
    """The command line that measures a variant in other processes, and their environment."""
    words = [__file__, *sys.argv[1:], "--one", name]
    if name not in IN_PARALLEL:
        return [sys.executable, *words], dict(os.environ)
    ranks = torch.cuda.device_count() if device.type == "cuda" else 2
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    threads = max(1, torch.get_num_threads() // ranks)
    return [*launcher, *words], {**os.environ, "OMP_NUM_THREADS": str(threads)}


def last_error(stderr: str) -> str:
    """The reason why a process, or a process that torchrun started, has failed."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"(\[rank\d+\]: )?\S*[Ee]rror: |\S+\.py: error: ", line)]
    return ([line for line in named if "ChildFailedError" not in line] or lines or ["no message"])[-1]


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of the product of two large matrices."""
    # smaller for half precision on a CPU, which may emulate it
    n = 8192 if device.type == "cuda" else 2048 if dtype == torch.float32 else 1024
    a = torch.ones(n, n, device=device, dtype=dtype)
    # the fastest, because other work may share the machine
    fastest = min(measure(lambda: (a @ a).sum().item(), device).seconds for _ in range(20))
    return 2 * n**3 / fastest / 1e9


def loading(args: argparse.Namespace) -> float:
    """Frames per second that the training loader reads and transforms, from a generated data set."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder) / "data", train_videos=24, valid_videos=1, frames=8, size=args.size)
        words = [*args.others, "--dataset_file", "ytvos", "--ytvos_path", f"{folder}/data", "--binary"]
        words += ["--train_sizes", str(min(args.size)), "--max_size", str(max(args.size))]
        loader = datasets.build_train_loader(parse_train_args(words))
        frames, start = 0, 0.0
        ahead = 2 * args.num_workers  # batches that were loaded while the workers started
        if len(loader) <= 2 * ahead:
            raise ValueError(f"--num_workers {args.num_workers}: too many for this measurement; give fewer")
        for i, batch in enumerate(loader):
            if i == ahead:
                start = time.perf_counter()
            elif i > ahead:
                frames += batch.video.shape[0] * batch.video.shape[1]
        return frames / (time.perf_counter() - start)


def main() -> None:
    args = parse_args()
    if args.one:
        with dist.joined(args.device) as device:
            cost = step_cost(args, device)
            if dist.is_main():
                print(json.dumps(cost))
        return
    device = use_device(args.device)
    limits = {name: ceiling(device, dtype) for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16))}
    limit = limits["fp32"]
    size = "x".join(map(str, args.size))
    print(
        f"{args.backbone}, {args.batch_size} clip(s) of {args.num_frames} frames {size}, {args.expressions_per_clip} "
        f"expression(s) each; {device}, {torch.get_num_threads()} threads, torch {torch.__version__}\n"
        f"products of matrices: fp32 {limit:.0f} GFLOP/s, bf16 {limits['bf16']:.0f}",
        flush=True,
    )
    print(f"{'variant':<20}{'s a step':>10}{'frames/s':>10}{'peak GiB':>10}{'of ceiling':>12}{'against fp32':>14}")
    plain, gflop = None, 0.0
    for name in dict.fromkeys(["fp32", *args.variants]):
        words, environment = command(name, device)
        cards = torch.cuda.device_count() if device.type == "cuda" and name in IN_PARALLEL else 1
        done = subprocess.run(words, capture_output=True, text=True, env=environment)
        if done.returncode:
            print(f"{name:<20} failed: {last_error(done.stderr)}", flush=True)
            continue
        cost = json.loads(done.stdout.strip().splitlines()[-1])
        seconds, frames = cost["seconds"], cost["frames"]
        gflop = gflop or cost["gflop"] / frames
        plain = plain or seconds / frames
        print(
            f"{name:<20}{seconds:>10.2f}{frames / seconds:>10.2f}{cost['peak']:>10.2f}"
            f"{gflop * frames / seconds / limit / cards:>12.0%}{plain * frames / seconds:>13.2f}x",
            flush=True,
        )
    print(f"GFLOP of a frame: {gflop:.1f}")
    if not args.no_loading:
        print(f"loading alone: {loading(args):.1f} frames/s with {args.num_workers} worker(s)")


if __name__ == "__main__":
    cli.run(main)
