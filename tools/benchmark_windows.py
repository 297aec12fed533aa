"""Scores, memory and time of long videos for windows of several sizes and overlaps, side by side in one run.

    python tools/benchmark_windows.py --videos 3 --windows 8 40 80 360 --overlaps 0 1 8 16

The videos are generated in the layout of Long-RVOS; some of their objects leave the picture and return. An overlap of 0
is ``--clips independent``: each window is answered by itself. Overlaps that are not below a window are left out, and a
window that holds a whole video runs once. Every setting runs in a process of its own, so that its peak memory can be
measured, for all expressions of a video together. The time is that from the files of the frames to those of the masks,
and grows where other work shares the machine. Results are kept in ``--output_dir``: run the same command again after an
interruption, and it goes on with the settings that are missing. The scores of types of expressions are J&F.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets  # noqa: E402
import models  # noqa: E402
from davis2017.temporal import MEASURES  # noqa: E402
from davis2017.ytvos_protocol import score_results  # noqa: E402
from engine import predict_split  # noqa: E402
from models.windows import WINDOW  # noqa: E402
from tasks.scoring import video_truth  # noqa: E402
from tools.benchmark_train import last_error  # noqa: E402
from tools.data.make_synthetic import generate  # noqa: E402
from tools.profile_model import measure  # noqa: E402
from tools.small_job.stages import PRETRAINED  # noqa: E402
from util.files.reading import read_json  # noqa: E402
from util.files.writing import write_json  # noqa: E402
from util.run import cli  # noqa: E402
from util.run.counts import counted
from util.run.device import use_device  # noqa: E402
from util.run.gaps import Gaps  # noqa: E402
from util.run.log import progress_bar  # noqa: E402
from util.run.parser import CommandParser
from util.weights.checkpoint import fingerprint  # noqa: E402
from util.weights.hub import located

DATA_SET, SPLIT = "long_rvos", "valid"
TYPES = tuple(datasets.long_rvos.KINDS.values())
SCORES = ("J&F", *MEASURES)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("benchmark_windows.py", __doc__)
    parser.add_argument("--videos", type=int, default=3)
    parser.add_argument("--frames", type=int, default=360, help="of each video")
    parser.add_argument("--windows", type=int, nargs="+", default=[8, WINDOW, 80, 360], metavar="FRAMES")
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 1, 8, 16], metavar="FRAMES")
    parser.add_argument("--resume", default=PRETRAINED, metavar="CKPT", help="default: the shipped weights")
    parser.add_argument("--seed", type=int, default=0, help="of the generated videos")
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    parser.add_argument("--output_dir", type=Path, default=Path("output/windows"), help="takes the videos and results")
    parser.add_argument("--one", type=int, nargs=2, metavar=("WINDOW", "OVERLAP"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if min(args.overlaps) < 0 or min(args.windows) < 2:
        parser.error("--overlaps must be at least 0, --windows at least 2")
    return args


def settings(windows: Sequence[int], overlaps: Sequence[int], frames: int) -> Iterator[tuple[int, int]]:
    """Each window with each overlap that it can have; a window that holds the whole video with the largest of these."""
    for window in windows:
        possible = [overlap for overlap in overlaps if overlap < window]
        if not possible:
            raise ValueError(f"--windows {window}: none of --overlaps is below it; give a smaller one")
        for overlap in possible if window < frames else [max(possible)]:
            yield window, overlap


def cost(args: argparse.Namespace, window: int, overlap: int) -> dict[str, float]:
    """The scores of a setting, its peak memory in GiB and its milliseconds per frame, in this process."""
    device = use_device(args.device)
    followed = {"overlap": overlap} if overlap else {"clips": "independent"}
    predictor, _ = models.load_with_options(args.resume, device, window=window, not_there=0.0, **followed)
    split = datasets.EvalSet(DATA_SET, SPLIT, args.output_dir / "data", num_frames=1)
    videos = split.videos()
    with tempfile.TemporaryDirectory() as folder:
        spent = measure(lambda: predict_split(predictor, videos, Path(folder)), device)
        scores = score_results(folder, *video_truth(split, Gaps(strict=True)))
    return {
        **{name: scores[name] for name in SCORES},
        **{kind: mean["J&F"] for kind, mean in scores["by_kind"].items()},
        "peak GiB": spent.peak / 2**30,
        "ms/frame": 1000 * spent.seconds / sum(map(len, videos)),
    }


def run(window: int, overlap: int) -> dict[str, float]:
    """:func:`cost` in another process."""
    words = [sys.executable, __file__, *sys.argv[1:], "--one", str(window), str(overlap)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"window {window}, overlap {overlap}: {last_error(done.stderr)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table(found: Mapping[tuple[int, int], Mapping[str, float]]) -> str:
    """The results of each setting as Markdown."""
    heads = ("window", "overlap", *SCORES, *TYPES, "peak GiB", "ms/frame")
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for (window, overlap), values in found.items():
        scores = [f"{values[name]:.3f}" if name in values else "–" for name in (*SCORES, *TYPES)]
        cells = [str(window), str(overlap), *scores, f"{values['peak GiB']:.2f}", f"{values['ms/frame']:.0f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def earlier(record: Path, made_of: dict) -> dict[str, dict[str, float]]:
    """The results that an interrupted run has left; ValueError where they are of other videos or weights."""
    if not record.is_file():
        return {}
    try:
        content = read_json(record)
        same, found = content["made_of"] == made_of, dict(content["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{record}: is no file of this tool; give another --output_dir, or delete it") from error
    if not same:
        raise ValueError(f"{record}: holds results of other videos or weights; give another --output_dir")
    return found


def main() -> None:
    args = parse_args()
    if args.one:
        print(json.dumps(cost(args, *args.one)))
        return
    asked = list(settings(args.windows, args.overlaps, args.frames))
    if not located(args.resume).is_file():
        raise FileNotFoundError(f"--resume {args.resume}: there is no such file")
    made_of = {name: getattr(args, name) for name in ("videos", "frames", "seed", "device")}
    made_of["weights"] = fingerprint(args.resume)
    record = args.output_dir / "windows.json"
    known = earlier(record, made_of)
    of_videos = dict(train_videos=1, valid_videos=args.videos, frames=args.frames, seed=args.seed)
    generate(args.output_dir / "data", **of_videos, format=DATA_SET, leave=True)
    for window, overlap in progress_bar(asked, desc="windows", unit="setting"):
        name = f"{window}/{overlap}"
        if name not in known:
            known[name] = run(window, overlap)
            write_json(record, {"made_of": made_of, "settings": known})
    seen = f"{counted(args.videos, 'videos')} of {counted(args.frames, 'frames')}"
    print(f"{seen}, seed {args.seed}, {Path(args.resume).name}")
    print(table({(window, overlap): known[f"{window}/{overlap}"] for window, overlap in asked}))


if __name__ == "__main__":
    cli.run(main)
