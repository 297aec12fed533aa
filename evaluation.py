"""What ``main.py --eval`` does: a checkpoint's scores on a split of any data set, as its papers report them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import datasets
import models
from datasets import EvalClip, davis, mevis, refcoco, ytvos
from datasets.davis import AnnotatedVideo
from davis2017 import davis_protocol, ytvos_protocol
from davis2017.truth import RleMasks
from engine import predict_annotators, predict_clips, predict_split
from util import box_metrics, checkpoint, dist, metrics
from util.coco import Truth
from util.visualize import PREDICTED_COLOUR, overlay, titled
from util.writers import ANNOTATOR_ROOTS, RESULTS_ROOT, claim_results, write_json

# A process that scores takes seconds to start, as long as a few videos take.
VIDEOS_PER_PROCESS = 4
PICTURES = 4
PICTURE_FRAMES = 8


def evaluate(args: argparse.Namespace, saved: dict, device: torch.device) -> None:
    """Prints the scores of the checkpoint on a split; what it predicted stays in the output folder."""
    trained = saved["options"]["dataset_file"]
    split = datasets.eval_split(args, trained)
    if not args.allow_trained and datasets.may_be_trained_on(args.dataset_file, trained):
        datasets.refuse_trained(split, args.holdout, saved["options"]["holdout"])
    model, _ = models.restore_model(saved, args.resume)
    models.settle_amp(args, device)
    predictor = models.inference_predictor(model, args, device)
    score_split(args, split, predictor, checkpoint.fingerprint(args.resume))


def score_split(args: argparse.Namespace, split: str, predictor: models.Predictor, weights: str) -> float | None:
    """Prints the scores of a split of ``--dataset_file``; what was predicted stays in the output folder.

    Args:
        weights: tells those of the predictor from all others.

    Returns:
        On rank 0 the score by which a model is chosen: J&F of videos, mAP of single frames; elsewhere None.
    """
    score = score_frames if datasets.scores_frames(args) else score_videos
    results = Path(args.output_dir) / f"eval_{args.dataset_file}_{split}"
    return score(args, split, predictor, results, record(args, split, weights))


def record(args: argparse.Namespace, split: str, weights: str) -> dict[str, object]:
    """All that the results of a split depend on."""
    return {"checkpoint": weights, "split": split, **datasets.eval_settings(args)}


def pictures(args: argparse.Namespace, split: str, predictor: models.Predictor) -> dict[str, np.ndarray]:
    """The first expression of the first clips of a split, painted over three of their frames: uint8 ``[H, W, 3]``."""
    frames_only = datasets.scores_frames(args)
    clips = datasets.build_eval_clips(args, split) if frames_only else datasets.build_eval_videos(args, split)
    drawn = {}
    for clip in clips[:PICTURES]:
        texts = clip.annotators[0] if isinstance(clip, AnnotatedVideo) else clip.expressions
        text = next(iter(texts.values()))
        if frames_only:
            frames = clip.read()
        else:
            frames = clip.read(np.linspace(0, len(clip.frame_names) - 1, PICTURE_FRAMES).round().astype(int).tolist())
        (masks,), (score,) = predictor(frames, [text])
        shown = np.linspace(0, len(frames) - 1, min(3, len(frames))).round().astype(int)
        painted = [
            overlay(frames[t].permute(1, 2, 0).numpy(), masks[t, None].numpy(), [PREDICTED_COLOUR]) for t in shown
        ]
        name = clip.clip_id if frames_only else clip.video_id
        drawn[name] = titled(np.concatenate(painted, axis=1), f"{text} ({score:.2f})")
    return drawn


def score_videos(
    args: argparse.Namespace, split: str, predictor: models.Predictor, results: Path, run: dict
) -> float | None:
    """J, F and J&F of whole videos; returns J&F on rank 0. ``run`` is all that the results depend on."""
    predict, score, roots = {
        "ytvos": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "joint": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "davis": (predict_annotators, davis_protocol.score_results, ANNOTATOR_ROOTS),
        "mevis": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
    }[args.dataset_file]
    with dist.together():
        if dist.is_main():
            # now rather than after hours of inference
            truth, videos = video_truth(args, split)
            claim_results(results, run, replace=True, roots=roots)
    predict(predictor, datasets.build_eval_videos(args, split), results)
    if not dist.is_main():
        return None
    workers = min(os.cpu_count() or 1, max(1, len(videos) // VIDEOS_PER_PROCESS))
    scores = score(results, truth, videos, workers=workers)
    write_json(results / "scores.json", scores)
    # DAVIS's protocol has other statistics of J and F besides their means
    means = {m: scores[m]["mean"] if isinstance(scores[m], dict) else scores[m] for m in "JF"}
    headline = {"J&F": scores["J&F"], **means}
    print(f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in headline.items()))
    return scores["J&F"]


def require_truth(args: argparse.Namespace, split: str) -> None:
    """Raises ValueError and FileNotFoundError where the split cannot be scored, as one without public masks."""
    if datasets.scores_frames(args):
        datasets.build_truth(args, split, datasets.build_eval_clips(args, split))
    else:
        video_truth(args, split)


def video_truth(args: argparse.Namespace, split: str) -> tuple:
    """The masks of a split whose whole videos are scored, and its videos."""
    read = {"ytvos": ytvos_truth, "joint": ytvos_truth, "davis": davis_truth, "mevis": mevis_truth}
    return read[args.dataset_file](args, split)


def ytvos_truth(args: argparse.Namespace, split: str) -> tuple[Path, dict[str, dict]]:
    """The folder of the masks of a split of Ref-YouTube-VOS, and its videos."""
    return ytvos.scorable_split(Path(args.ytvos_path), split, args.holdout)


def mevis_truth(args: argparse.Namespace, split: str) -> tuple[RleMasks, dict[str, dict]]:
    """The masks of a split of MeViS, and its videos."""
    root = Path(args.mevis_path)
    videos = mevis.split_videos(root, split, args.holdout)
    return RleMasks(mevis.masks_path(root, split), mevis.read_masks(root, split, videos)), videos


def davis_truth(args: argparse.Namespace, split: str) -> tuple[Path, dict[str, list[str]]]:
    """The folder of the masks of a split of Ref-DAVIS17, and the frames of its videos."""
    annotations, videos = ytvos.scorable_split(Path(args.davis_path), split, args.holdout, davis.REF_DAVIS)
    return annotations, {vid: video["frames"] for vid, video in videos.items()}


def score_frames(
    args: argparse.Namespace, split: str, predictor: models.Predictor, results: Path, run: dict
) -> float | None:
    """Precision, IoU and mAP of the masks of single frames, which it returns on rank 0; of RefCOCO's images also scores
    of the boxes. ``run`` is all that the results depend on."""
    clips = datasets.build_eval_clips(args, split)
    truth = datasets.build_truth(args, split, clips)
    boxes = args.dataset_file in refcoco.SETS
    scores = score_clips(predictor, clips, truth, results, run, boxes=boxes, patience=args.loader_timeout)
    if scores is None:
        return None
    print(f"{args.dataset_file} {split}, {scores['samples']} samples in {len(clips)} frames:")
    print(metrics.table(scores))
    if "boxes" in scores:
        print(box_metrics.table(scores["boxes"]))
    print(f"scores and predictions: {results}")
    return scores["all_queries"]["mAP"]


def score_clips(
    predictor: models.Predictor,
    clips: Sequence[EvalClip],
    truth: Mapping[str | int, Truth],
    results_dir: Path,
    run: dict,
    *,
    boxes: bool = False,
    patience: float = 0,
) -> dict | None:
    """Predicts the clips and scores their samples, each once at any number of ranks.

    Args:
        truth: ground truth of exactly the samples of the clips, by image id.
        results_dir: takes ``predictions.json`` (COCO's form, every query) and ``scores.json``.
        run: what made the results; written into ``scores.json``.
        boxes: also score the boxes.
        patience: seconds to wait for the frames of a clip; 0: no limit.

    Returns:
        On rank 0 the scores of :func:`util.metrics.score_masks`, with those of :func:`util.box_metrics.score_boxes` as
        ``boxes``; elsewhere None.
    """
    predictions = predict_clips(predictor, clips, patience=patience)
    if not dist.is_main():
        return None
    write_json(results_dir / "predictions.json", predictions, indent=None)
    scores = metrics.score_masks(truth, predictions)
    if boxes:
        scores["boxes"] = box_metrics.score_boxes({name: sample.box for name, sample in truth.items()}, predictions)
    write_json(results_dir / "scores.json", {"run": run, **scores})
    return scores
