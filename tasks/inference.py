"""What the inference scripts of the data sets share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import datasets
import models
from datasets import EvalSet, VideoSet
from datasets.base import VideoEntry
from datasets.texts import asked_texts, digests
from engine import predict_split
from models import Network, PredictorSettings
from opts import OF_TRAINING, differing
from tasks.scoring import record
from util.files.names import inside
from util.masks.results import RESULTS_ROOT, Results, claim_results, mask_name, read_scores
from util.masks.submission import build_submission
from util.options.inference import InferenceOptions
from util.options.places import require_folder
from util.run import dist
from util.run.cli import INCOMPLETE
from util.run.counts import counted
from util.run.gaps import Gaps, named
from util.run.log import progress_bar
from util.video.video_result import caption
from util.video.visualize import distinct_colours, painter, write_video
from util.weights import checkpoint

OVERLAY_FPS = 6


def run_inference(asked: InferenceOptions, infer: Callable[[InferenceOptions, torch.device, Gaps], None]) -> int:
    """Calls ``infer`` on the device of the options, in every process of the launch.

    Returns:
        The exit code, the same in all processes: 0, or 3 where items were left out.
    """
    with dist.joined(asked.device, asked.rank_timeout) as device:
        gaps = Gaps(asked.strict)
        infer(asked, device, gaps)
        return gaps.code()


def say_what_is_missing(gaps: Gaps, folder: Path, what: str) -> None:
    """Prints the last line of an inference that left items out; rank 0 calls it."""
    items = [item for item, _ in gaps.items]
    print(
        f"{len(items)} left out: {named(items)}; the reasons are above. What could be computed is in {folder}{what}. "
        f"Restore these files and run the same command again: it goes on. (exit code {INCOMPLETE})",
        file=sys.stderr,
        flush=True,
    )


def restore(
    asked: InferenceOptions, device: torch.device, dataset_file: str
) -> tuple[Network, EvalSet, PredictorSettings]:
    """The model of an inference script's checkpoint, the split, and how to predict; the same on all ranks.

    Args:
        asked: the options given on the command line, which win over those of the training.
        dataset_file: name of the data set.

    Raises:
        ValueError: the checkpoint was trained on the split, is of another model than the options say, or is damaged.
    """
    saved = models.load_checkpoint(asked.resume, asked.model)
    trained = saved["options"]
    # ReferFormer's scripts give this flag to every model
    meant = asked.model.keys() - OF_TRAINING - ({"with_box_refine"} if trained["model"] == "proxyformer" else set())
    if contradiction := differing(asked.model, trained, meant):
        raise ValueError(
            f"--resume {asked.resume} is another model: {contradiction}. Leave these flags out; the checkpoint knows"
        )
    split = datasets.asked_set(trained, asked, dataset_file)
    require_folder(f"--{datasets.DATA_SETS[dataset_file].path}", split.root)
    return models.restore_model(saved, asked.resume), split, models.asked_settings(saved, asked, device)


def claim(
    asked: InferenceOptions,
    split: EvalSet,
    settings: PredictorSettings,
    device: torch.device,
    results_dir: Path,
    roots: Sequence[str] = (RESULTS_ROOT,),
    videos: VideoSet = (),
) -> None:
    """Makes ``results_dir`` the folder of the masks of an inference script, for all processes; see claim_results."""
    with dist.together():
        if dist.is_main():
            # the form of texts belongs to the checkpoint, except where a published file is read in another one
            form = {name: value for name, value in asked.model.items() if name == "text_form"}
            run = record(checkpoint.fingerprint(asked.resume), split, settings, device) | form
            claim_results(results_dir, run, asked.overwrite, roots, digests(videos))


def segment_split(asked: InferenceOptions, device: torch.device, gaps: Gaps, dataset_file: str, zip_root: str) -> None:
    """Segments every expression of a split, packs the masks as ``submission.zip`` and checks it.

    Args:
        asked, device, dataset_file: as in :func:`restore`.
        gaps: takes the videos that cannot be read; if there is one, no submission is packed.
        zip_root: folder in the submission that holds the videos' folders; empty where they lie at its root.
    """
    model, split, settings = restore(asked, device, dataset_file)
    videos = split.videos(gaps)
    output_dir = Path(asked.output_dir)
    predictor = models.inference_predictor(model, settings, device)
    predictor.announce(asked_texts(dataset_file, videos))
    claim(asked, split, settings, device, output_dir, videos=videos)
    predict_split(predictor, videos, output_dir, gaps=gaps)
    gaps.share()
    if not dist.is_main():
        return
    sizes = {}
    for video in (video for video in videos if not gaps.has(f"video {video.video_id}")):
        try:
            sizes[video.video_id] = video.original_size
        except (ValueError, OSError) as error:  # this video was not read: its masks were complete
            gaps.add(f"video {video.video_id}", error)
    if gaps.items:
        done = [video for video in videos if not gaps.has(f"video {video.video_id}")]
        say_what_is_missing(gaps, output_dir, "; no submission.zip is packed, as a part of one is not accepted")
        if asked.visualize:
            write_overlays(done, output_dir)
        return
    listed = {video.video_id: {"expressions": video.expressions, "frames": video.frame_names} for video in videos}
    build_submission(output_dir, output_dir / "submission.zip", listed, sizes, zip_root)
    done = counted(len(videos), "videos")
    masks = sum(len(video.expressions) * len(video.frame_names) for video in videos)
    print(f"{done}, {counted(masks, 'masks')}: {output_dir / 'submission.zip'} is complete and in order")
    if asked.visualize:
        write_overlays(videos, output_dir)
        print(f"overlays: {output_dir / 'overlays'}")


def write_overlays(videos: VideoSet, output_dir: Path) -> None:
    """An mp4 for each expression, ``overlays/<video>/<exp_id>.mp4``, from the masks in ``output_dir``."""
    with Results(output_dir) as results:
        for video in progress_bar(videos, desc="overlays", unit="video"):
            scores = read_scores(output_dir, video.video_id)
            for exp_id, text in video.expressions.items():

                def mask(frame: str, vid: str = video.video_id, eid: str = exp_id) -> np.ndarray:
                    return np.asarray(results.image(mask_name(vid, eid, frame)))[None] > 0

                path = inside(output_dir / "overlays", video.video_id, f"{exp_id}.mp4")
                write_overlay(path, video, [captioned(text, scores.get(exp_id))], mask)


def captioned(text: str, answer: Mapping | None) -> str:
    """An expression with its answer of :func:`util.masks.results.read_scores`, if that was kept."""
    return caption(text, **answer) if answer else text


def write_overlay(path: Path, video: VideoEntry, captions: Sequence[str], masks: Callable[[str], np.ndarray]) -> None:
    """Writes an mp4 of a video with masks painted over and their captions above.

    Args:
        captions: of ``n`` objects.
        masks: gives bool ``[n, H, W]`` for the name of a frame.
    """
    paint = painter(captions, distinct_colours(len(captions)))

    def frames() -> Iterator[np.ndarray]:
        for i, name in enumerate(video.frame_names):
            yield paint(video.read([i])[0].permute(1, 2, 0).numpy(), masks(name))

    write_video(path, frames(), OVERLAY_FPS)
