"""Segments all objects of Ref-DAVIS17's videos at once, as each of its four annotators describes them.

    python inference_davis.py --resume output/run/checkpoint.pth --output_dir output/davis
    python eval_davis.py output/davis

writes ``anno_<0 to 3>/<video>/<frame>.png``, palette PNGs whose pixel value is the object's number. Papers score
a checkpoint of Ref-YouTube-VOS, without fine-tuning. An interrupted run goes on where it stopped. Videos that cannot be
read are named and left out, and the exit code is 3; once their files are restored, the same command goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import models
from datasets.davis import SPLITS, AnnotatedVideo
from datasets.texts import asked_texts
from engine import predict_annotators
from opts import inference_parser, parse_inference_args
from tasks.inference import captioned, claim, restore, run_inference, say_what_is_missing, write_overlay
from util.files.names import inside
from util.masks.results import ANNOTATOR_ROOTS, RECORD, read_scores
from util.options.inference import InferenceOptions
from util.run import cli, dist
from util.run.counts import counted
from util.run.gaps import Gaps
from util.run.log import progress_bar
from util.video.pictures import read_labels


def parse_args(argv: list[str] | None = None) -> InferenceOptions:
    parser = inference_parser("inference_davis.py", __doc__, output="output/davis", own="davis_path")
    parser.add_argument("--split", choices=SPLITS, default="valid")
    parser.add_argument("--davis_path", default="data/ref-davis", help="folder of the data set")
    return parse_inference_args(parser, argv)


def infer(asked: InferenceOptions, device: torch.device, gaps: Gaps) -> None:
    """Predicts one split for all annotators; ``gaps`` takes what cannot be read."""
    results_dir = Path(asked.output_dir)
    earlier = results_dir / asked.split
    of_davis = (earlier / RECORD).is_file() and (earlier / ANNOTATOR_ROOTS[0]).is_dir()
    if of_davis and not (results_dir / RECORD).is_file():
        raise ValueError(
            f"--output_dir {results_dir}: masks are in {earlier}, where earlier versions wrote them; to go on "
            f"with them give --output_dir {earlier}, else another folder"
        )
    model, split, settings = restore(asked, device, "davis")
    videos = split.videos(gaps)
    predictor = models.inference_predictor(model, settings, device)
    predictor.announce(asked_texts("davis", videos))
    claim(asked, split, settings, device, results_dir, ANNOTATOR_ROOTS, videos)
    predict_annotators(predictor, videos, results_dir, gaps=gaps)
    gaps.share()
    if not dist.is_main():
        return
    videos = [video for video in videos if not gaps.has(f"video {video.video_id}")]
    objects = sum(len(video.annotators[0]) for video in videos)
    scored = f"score it with eval_davis.py {results_dir} --davis_path {split.root}"
    done = f"{counted(len(videos), 'videos')}, {counted(objects, 'objects')}, {len(ANNOTATOR_ROOTS)} annotators"
    if gaps.items:
        say_what_is_missing(gaps, results_dir, f": {done}; {scored}, which takes missing masks for wrong")
    else:
        print(f"{done}: {results_dir} is complete; {scored}")
    if asked.visualize:
        write_overlays(videos, results_dir)
        print(f"overlays: {results_dir / 'overlays'}")


def write_overlays(videos: Sequence[AnnotatedVideo], results_dir: Path) -> None:
    """An mp4 for each annotator, ``overlays/<video>/anno_<k>.mp4``, from the label maps in ``results_dir``."""
    for video in progress_bar(videos, desc="overlays", unit="video"):
        scores = read_scores(results_dir, video.video_id)
        for root, texts in zip(ANNOTATOR_ROOTS, video.annotators, strict=True):
            captions = [captioned(text, scores.get(f"{root}/{number}")) for number, text in texts.items()]
            folder, numbers = inside(results_dir / root, video.video_id), np.array(list(texts))

            def masks(frame: str, folder: Path = folder, numbers: np.ndarray = numbers) -> np.ndarray:
                return read_labels(folder / f"{frame}.png") == numbers[:, None, None]

            write_overlay(inside(results_dir / "overlays", video.video_id, f"{root}.mp4"), video, captions, masks)


if __name__ == "__main__":
    cli.run(lambda: run_inference(parse_args(), infer))
