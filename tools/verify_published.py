"""Shows whether a published file of ReferFormer works here: segments two videos of Ref-DAVIS17, scores them, and prints
a short report to post.

    python tools/verify_published.py ytvos_swin_tiny.pth --picture output/verified.png

The protocol is that of the published numbers: short side 360, independent clips of 36 frames, each annotator's
expressions as they are written, J&F. Read are ``valid/JPEGImages``, ``valid/Annotations`` and the expressions.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import transformers

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models  # noqa: E402
from datasets.davis import AnnotatedVideo, annotations_root, eval_videos  # noqa: E402
from davis2017.davis_protocol import score_results  # noqa: E402
from engine import predict_annotators  # noqa: E402
from models.predictor import Predictor  # noqa: E402
from tools.profile_model import Cost, measure  # noqa: E402
from util.masks.results import ANNOTATOR_ROOTS  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.cores import cores
from util.run.device import use_device  # noqa: E402
from util.run.parser import CommandParser
from util.video.pictures import read_label_maps  # noqa: E402
from util.video.sheets import SheetRow, contact_sheet  # noqa: E402
from util.weights import checkpoint  # noqa: E402

VIDEOS = ("blackswan", "car-shadow")
WINDOW = 36  # frames of a clip: inference_davis.py of github.com/wjn922/ReferFormer
SHOWN = 4  # frames of a video in the picture


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("verify_published.py", __doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="as downloaded, or any checkpoint of this program")
    parser.add_argument("--davis_path", type=Path, default=Path("data/ref-davis"))
    parser.add_argument("--videos", nargs="+", default=list(VIDEOS), metavar="NAME", help="of the valid split")
    parser.add_argument("--text_encoder", metavar="DIR", help="RoBERTa of the file; default: roberta-base")
    parser.add_argument("--device", help="default: a GPU where there is one")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="write frames with the masks here")
    return parser.parse_args(argv)


def asked_videos(root: Path, names: Sequence[str]) -> list[AnnotatedVideo]:
    """The videos with these names; raises ValueError, naming the others."""
    by_name = {video.video_id: video for video in eval_videos(root, "valid", 0)}
    if missing := [name for name in names if name not in by_name]:
        raise ValueError(f"--davis_path {root} has no video {', '.join(missing)} in its valid split; see --videos")
    return [by_name[name] for name in dict.fromkeys(names)]


def report(args: argparse.Namespace, predictor: Predictor, model: str, frames: int, scores: dict, cost: Cost) -> str:
    """The lines to post.

    Args:
        model: what it is, in words; frames: of all videos; scores: of ``score_results``.
    """
    device = predictor.device
    sequences = [annotator["sequences"] for annotator in scores["annotators"].values()]
    hardware = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    )
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    lines = [
        f"{args.file.name}, {args.file.stat().st_size:,} bytes, SHA-256 {checkpoint.fingerprint(args.file)}",
        f"{model}, short side {predictor.eval_size}, independent clips of {WINDOW} frames",
        f"{hardware}; {versions}",
        f"{cost.seconds:.0f} s for {frames} frames, {cost.peak / 2**30:.1f} GiB",
    ]
    for name in args.videos:
        mean = [float(np.mean([s[name][kind]["mean"] for s in sequences])) for kind in "JF"]
        lines.append(f"{name}: J&F {100 * sum(mean) / 2:.1f} (J {100 * mean[0]:.1f}, F {100 * mean[1]:.1f})")
    return "\n".join(lines)


def picture(videos: Sequence[AnnotatedVideo], results: Path, root: Path, path: Path) -> None:
    """A few frames of each video with the ground truth and the masks by the first annotator's expressions."""
    rows = []
    for video in videos:
        places = np.linspace(0, len(video) - 1, SHOWN).round().astype(int).tolist()
        images = video.read(places).permute(0, 2, 3, 1).numpy()
        ids = [video.frame_names[place] for place in places]
        truth, found = (
            read_label_maps([folder / video.video_id / f"{name}.png" for name in ids], images.shape[1:3])[:, 0].numpy()
            for folder in (annotations_root(root, "valid"), results / ANNOTATOR_ROOTS[0])
        )
        for number, text in video.annotators[0].items():
            rows.append(SheetRow(text, video.video_id, list(images), truth == number, found == number, ids))
    contact_sheet(rows, path)


def main() -> None:
    args = parse_args()
    device = use_device(args.device)
    videos = asked_videos(args.davis_path, args.videos)
    predictor, options = models.load_with_options(
        args.file, device, args.text_encoder, clips="independent", window=WINDOW
    )
    if options.model == "referformer":
        predictor.model.text_encoder.form = "raw"  # as inference_davis.py there
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder)
        cost = measure(lambda: predict_annotators(predictor, videos, results), predictor.device)
        names = {video.video_id: video.frame_names for video in videos}
        truth = annotations_root(args.davis_path, "valid")
        scores = score_results(results, truth, names, workers=cores())
        model, frames = f"{options.model}, {options.backbone}", sum(map(len, names.values()))
        print("\n" + report(args, predictor, model, frames, scores, cost))
        if args.picture:
            picture(videos, results, args.davis_path, args.picture)
            print(f"picture: {args.picture}")


if __name__ == "__main__":
    run(main)
