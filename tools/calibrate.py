"""Makes the scores of a checkpoint probabilities that an expression means something in the video.

    python tools/calibrate.py output/run/checkpoint.pth output/run/calibrated.pth
    python tools/calibrate.py output/run/calibrated.pth --split valid

The first form answers the expressions of the videos that ``--holdout`` kept out of the training, and up to as many that
surely mean nothing there. It fits a curve to the scores, and writes the checkpoint with the curve. The second form
answers the expressions of a split whose list says which of them mean nothing, and shows how well the scores tell them
apart. Nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import datasets
import models
from datasets import EvalSet
from datasets.absent import AbsentTexts
from datasets.base import TrainVideo, VideoEntry
from datasets.sampling import stream
from models.calibration import Calibration, auroc, calibration_error
from models.predictor import Frames, InMemory, Predictor
from util.options.places import require_folder
from util.options.precision import add_precision_options
from util.options.saved import KINDS
from util.run import cli
from util.run.counts import counted
from util.run.device import use_device
from util.run.log import progress_bar
from util.run.parser import CommandParser
from util.weights import checkpoint

# a video, expressions that mean something in it, and expressions that do not
Case = tuple[Frames, list[str], list[str]]
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9)


def parse_args() -> argparse.Namespace:
    parser = CommandParser("calibrate.py", __doc__)
    parser.add_argument("checkpoint", help="of main.py, exported weights, or owner/name on the Hugging Face hub")
    parser.add_argument("output_file", type=Path, nargs="?", help="takes the checkpoint with the curve")
    parser.add_argument("--split", help="write nothing: show how well the scores tell on this split")
    parser.add_argument("--dataset_file", **KINDS["dataset_file"].argument(), help="default: that of the training")
    parser.add_argument("--data_path", metavar="DIR", help="folder of the data set; default: where it was in training")
    parser.add_argument(
        "--holdout", **KINDS["holdout"].argument(), metavar="N", help="hold-out videos; default: as in training"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of expressions that mean nothing")
    add_precision_options(parser, None, "off if training was off, else auto")
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    asked = parser.parse_args()
    if (asked.output_file is None) == (asked.split is None):
        parser.error("give either a file for the calibrated checkpoint, or --split")
    if asked.output_file and asked.output_file.suffix == checkpoint.EXPORTED:
        parser.error(f"{asked.output_file}: give a .pth file; tools/export.py makes exported weights of it")
    if asked.output_file and asked.output_file.is_dir():
        parser.error(f"{asked.output_file} is a folder; give the name of a file")
    return asked


def main() -> None:
    asked = parse_args()
    content = models.load_checkpoint(asked.checkpoint)
    folder = datasets.DATA_SETS[asked.dataset_file or content["options"]["dataset_file"]].path
    require_folder("--data_path", asked.data_path or content["options"][folder])
    device = use_device(asked.device)
    how = dict(amp=asked.amp, float32=asked.float32)
    predictor, args = models.load_with_options(asked.checkpoint, device, not_there=0.0, **how)
    args.dataset_file = asked.dataset_file or args.dataset_file
    if asked.data_path:
        setattr(args, datasets.DATA_SETS[args.dataset_file].path, asked.data_path)
    args.holdout = args.holdout if asked.holdout is None else asked.holdout
    if asked.split:
        if datasets.may_be_trained_on(args.dataset_file, content["options"]["dataset_file"]):
            datasets.refuse_trained(asked.split, args.holdout, content["options"]["holdout"], may_insist=False)
        if predictor.calibration is None:
            print(f"note: {asked.checkpoint} is not calibrated; its scores are no probabilities")
        print(report(*scores(predictor, *listed(datasets.eval_set(args, asked.split)))))
        return
    predictor.calibration = None
    if datasets.may_be_trained_on(args.dataset_file, content["options"]["dataset_file"]):
        datasets.refuse_trained("holdout", args.holdout, content["options"]["holdout"], may_insist=False)
    kept, texts = datasets.held_out(args)
    cases = (case(video, texts, asked.seed, number) for number, video in enumerate(kept))
    present, absent = scores(predictor, cases, len(kept))
    curve = Calibration.fit(present, absent)
    checkpoint.save(asked.output_file, content | {checkpoint.CALIBRATION: vars(curve)})
    print("before:\n" + report(present, absent))
    calibrated = [np.array([curve(score) for score in of]) for of in (present, absent)]
    print("after, on the same expressions:\n" + report(*calibrated))
    print(f"{asked.output_file}: sigmoid({curve.slope:.3f} · logit(score) {curve.offset:+.3f})")


def case(video: TrainVideo, texts: AbsentTexts, seed: int, number: int) -> Case:
    """A video that was kept out, its expressions, and as many texts that mean nothing in it; fewer where few are known.

    Args:
        seed, number: of the run and of the video, for the choice of the texts.
    """
    present = [expression.text for expression in video.expressions if expression.objects]
    rng = stream(seed, number)
    drawn = [texts.draw(video, rng) for _ in present]
    frames = InMemory(video.frames(range(len(video.frame_ids))))
    return frames, present, sorted({text for text in drawn if text is not None})


def listed(split: EvalSet) -> tuple[Iterator[Case], int]:
    """The videos of a split whose list says which expressions mean nothing, and their number.

    Raises ValueError as :meth:`EvalSet.means_nothing`.
    """
    nothing, videos = split.means_nothing(), split.videos()

    def case(video: VideoEntry) -> Case:
        texts: tuple[list[str], list[str]] = [], []
        for exp_id, text in video.expressions.items():
            texts[exp_id in nothing[video.video_id]].append(text)
        return video, *texts

    return map(case, videos), len(videos)


def scores(predictor: Predictor, cases: Iterator[Case], videos: int) -> tuple[np.ndarray, np.ndarray]:
    """The scores of all present and of all absent expressions in a number of videos."""
    present, absent = [], []
    for video, there, nothing in progress_bar(cases, desc="answer", unit="video", total=videos):
        found = predictor.segment(video, [*there, *nothing]).scores
        present += found[: len(there)]
        absent += found[len(there) :]
    return np.array(present), np.array(absent)


def figures(present: np.ndarray, absent: np.ndarray) -> dict[str, float | int]:
    """How well scores tell expressions that mean something from those that do not."""
    return {
        "present": len(present),
        "absent": len(absent),
        "AUROC": auroc(present, absent),
        "calibration_error": calibration_error(present, absent),
    }


def report(present: np.ndarray, absent: np.ndarray) -> str:
    """:func:`figures` as text, with what thresholds would do."""
    known = figures(present, absent)
    lines = [
        f"{counted(known['present'], 'expressions that mean something')}, "
        f"{counted(known['absent'], 'that mean nothing')}",
        f"AUROC {known['AUROC']:.4f}, mean scores {present.mean():.3f} and {absent.mean():.3f}, "
        f"expected calibration error {known['calibration_error']:.3f}",
        "threshold   present that reach it   absent that do not",
    ]
    for threshold in THRESHOLDS:
        kept, refused = (present >= threshold).mean(), (absent < threshold).mean()
        lines.append(f"{threshold:9.1f}   {kept:21.1%}   {refused:18.1%}")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
