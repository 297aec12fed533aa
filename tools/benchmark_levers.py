"""Times inference with one of its accelerations left out, for each of them, side by side in one run.

    python tools/benchmark_levers.py --num_frames 19 --backbone resnet50

A video of noise, random weights, float32, one expression, from uint8 frames to mask logits. Each row runs in a process
of its own. "difference" is the largest difference of a mask logit from the run with everything on, divided by the
largest logit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from einops import rearrange  # noqa: E402
from torchvision.models.swin_transformer import SwinTransformerBlock  # noqa: E402

from models import backbone, fast  # noqa: E402
from models.fast import segmenter  # noqa: E402
from models.fast.upsampling import channels_first, channels_last, joined, kinds  # noqa: E402
from models.fast.window_attention import InferenceBlock  # noqa: E402
from opts import parse_train_args  # noqa: E402
from tools.benchmark_train import ceiling, last_error  # noqa: E402
from tools.profile_model import EXPRESSION, build, measure  # noqa: E402
from util.run import cli  # noqa: E402
from util.run.device import device_of, use_device  # noqa: E402
from util.run.parser import CommandParser
from util.run.precision import use_float32  # noqa: E402
from util.samples.frames import normalise  # noqa: E402

ALL = "everything on"


def _plain_blocks() -> None:
    InferenceBlock.forward = SwinTransformerBlock.forward


def _after_upsampling() -> None:
    def conv(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
        whole = joined(added) if added.ndim == 6 else added
        up = F.interpolate(channels_first(x), size=whole.shape[1:3], mode="nearest")
        out = channels_last(F.conv2d(up, weight, padding=1)) + whole
        return kinds(out) if added.ndim == 6 else out

    segmenter.upsampled_conv = conv


def _two_convolutions() -> None:
    def conv(self, x: Tensor, smooth: nn.Conv2d) -> Tensor:
        return channels_last(smooth(self._conv_forward(x, self.weight, self.bias)))

    segmenter.SmoothedLateral.forward = conv


def _norms() -> None:
    fast.fold_batch_norms = lambda model: None


def _plain_layout() -> None:
    backbone._as_images = lambda video: rearrange(video, "v t c h w -> (v t) c h w")


BUFFERS = "keeping large buffers"
# the accelerations, and how each is left out; None: the process leaves it out at its start
OF_VIDEO_SWIN = {"windows by number": _plain_blocks}
OF_IMAGES = {"channels-last": _plain_layout, "folded batch norms": _norms}
LEVERS: dict[str, Callable[[], None] | None] = {
    BUFFERS: None,
    **OF_VIDEO_SWIN,
    **OF_IMAGES,
    "3x3 convolutions before upsampling": _after_upsampling,
    "laterals and 3x3 convolution in one": _two_convolutions,
}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of ``main.py`` with a few more."""
    parser = CommandParser("benchmark_levers.py", __doc__, note="Other options are those of main.py.")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--repeat", type=int, default=3, help="runs after the first; the fastest counts")
    parser.add_argument("--one", nargs=2, metavar=("LEVER", "FILE"), help=argparse.SUPPRESS)
    own, others = parser.parse_known_args(argv)
    if min(own.size) < 32 or own.repeat < 1:
        parser.error("--size must be at least 32 both ways, --repeat at least 1")
    args = parse_train_args(others)
    vars(args).update(vars(own))
    return args


@torch.inference_mode()
def cost(args: argparse.Namespace, without: str, file: Path) -> dict[str, float]:
    """Seconds and peak GiB in this process; the mask logits are written to ``file``."""
    device = (device_of if without == BUFFERS else use_device)(args.device)
    use_float32("ieee", device)
    torch.manual_seed(args.seed)
    if leave_out := LEVERS.get(without):
        leave_out()
    model = build(args, [EXPRESSION]).to(device)
    fast.for_inference(model, None)
    frames = torch.randint(256, (args.num_frames, 3, *args.size), dtype=torch.uint8, device=device)
    found = []

    def run() -> None:
        found[:] = [model(normalise(frames)[None], [EXPRESSION], supervised=False).final.masks]

    run()
    costs = [measure(run, device) for _ in range(args.repeat)]
    torch.save(found[0].cpu(), file)
    return {"seconds": min(c.seconds for c in costs), "peak": max(c.peak for c in costs) / 2**30}


def main() -> None:
    args = parse_args()
    if args.one:
        print(json.dumps(cost(args, args.one[0], Path(args.one[1]))))
        return
    device = use_device(args.device)
    size = "x".join(map(str, args.size))
    print(
        f"{args.backbone}, {args.num_frames} frames of {size}, {device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; matrix products in fp32: {ceiling(device, torch.float32):.0f} GFLOP/s\n"
        f"{'without':<38}{'s':>8}{'times':>8}{'peak GiB':>10}{'difference':>12}",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as folder:
        plain, seconds = None, 0.0
        others = OF_IMAGES if args.backbone.startswith("video_swin") else OF_VIDEO_SWIN
        for number, name in enumerate([ALL, *(name for name in LEVERS if name not in others)]):
            file = Path(folder) / f"{number}.pt"
            words = [sys.executable, __file__, *sys.argv[1:], "--one", name, str(file)]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode:
                raise ValueError(f"{name}: {last_error(done.stderr)}")
            found, masks = json.loads(done.stdout.strip().splitlines()[-1]), torch.load(file)
            plain, seconds = (masks, found["seconds"]) if plain is None else (plain, seconds)
            difference = ((masks - plain).abs().max() / plain.abs().max()).item()
            times = found["seconds"] / seconds
            print(
                f"{name:<38}{found['seconds']:>8.2f}{times:>7.2f}x{found['peak']:>10.2f}{difference:>12.1e}", flush=True
            )


if __name__ == "__main__":
    cli.run(main)
