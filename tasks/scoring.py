"""What ``main.py --eval`` does: a checkpoint's scores on a split of any data set, as its papers report them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

import datasets
import models
from datasets import EvalClip, davis, refcoco
from datasets.davis import AnnotatedVideo
from datasets.scorable import mevis_split, scorable_split
from datasets.texts import asked_texts, digests
from davis2017 import davis_protocol, ytvos_protocol
from davis2017.truth import RleMasks
from engine import predict_annotators, predict_clips, predict_split
from util.files.writing import write_json
from util.masks import box_metrics, metrics
from util.masks.coco import Truth, fitted
from util.masks.results import ANNOTATOR_ROOTS, RESULTS_ROOT, claim_results
from util.run import dist
from util.run.cli import INCOMPLETE
from util.run.gaps import Gaps, Shortfall, beside, in_words
from util.video.visualize import PREDICTED_COLOUR, overlay, titled
from util.weights import checkpoint

# A process that scores takes seconds to start, as long as a few videos take.
VIDEOS_PER_PROCESS = 4
PICTURES = 4
PICTURE_FRAMES = 8


def evaluate(args: argparse.Namespace, saved: dict, device: torch.device) -> int:
    """Prints the scores of the checkpoint on a split; what it predicted stays in the output folder.

    Returns:
        The exit code: whether something was left out.
    """
    refuse_lists_of_others(args)
    trained = saved["options"]["dataset_file"]
    split = datasets.eval_split(args, trained)
    if not args.allow_trained and datasets.may_be_trained_on(args.dataset_file, trained):
        datasets.refuse_trained(split, args.holdout, saved["options"]["holdout"])
    model, _ = models.restore_model(saved, args.resume)
    models.settle_amp(args, device)
    predictor = models.inference_predictor(model, args, device)
    gaps = Gaps(args.strict)
    with dist.together():
        score_split(args, split, predictor, checkpoint.fingerprint(args.resume), gaps)
    if gaps.items and dist.is_main():
        print(
            f"{split} is scored, but {gaps.counted()} named above and in scores.json (exit code {INCOMPLETE}); "
            "--strict makes the first one an error",
            file=sys.stderr,
            flush=True,
        )
    return gaps.code()


def refuse_lists_of_others(args: argparse.Namespace) -> None:
    """Raises ValueError for flags of Ref-YouTube-VOS's valid where another set is scored."""
    for flag, value in {"--annotations": args.annotations, "--expressions": args.expressions}.items():
        if value and args.dataset_file not in ("ytvos", "joint"):
            raise ValueError(f"{flag} is for Ref-YouTube-VOS, not for --dataset_file {args.dataset_file}; leave it out")


def score_split(
    args: argparse.Namespace, split: str, predictor: models.Predictor, weights: str, gaps: Gaps | None = None
) -> float | None:
    """Prints the scores of a split of ``--dataset_file``; what was predicted stays in the output folder.

    Args:
        weights: tells those of the predictor from all others.
        gaps: takes what cannot be read or scored, of all ranks on rank 0. Without it the first one is an error.

    Returns:
        On rank 0 the score by which a model is chosen: J&F of videos, mAP of single frames; elsewhere None.
    """
    score = score_frames if datasets.scores_frames(args) else score_videos
    results = Path(args.output_dir) / f"eval_{args.dataset_file}_{split}"
    return score(args, split, predictor, results, record(args, split, weights), gaps)


def record(args: argparse.Namespace, split: str, weights: str) -> dict[str, object]:
    """All that the results of a split depend on."""
    return {"checkpoint": weights, "split": split, **datasets.eval_settings(args)}


def pictures(args: argparse.Namespace, split: str, predictor: models.Predictor) -> dict[str, np.ndarray]:
    """The first expression of the first clips of a split, painted over three of their frames: uint8 ``[H, W, 3]``."""
    frames_only = datasets.scores_frames(args)
    build = datasets.build_eval_clips if frames_only else datasets.build_eval_videos
    drawn = {}
    for clip in build(args, split, Gaps(silent=True))[:PICTURES]:
        texts = clip.annotators[0] if isinstance(clip, AnnotatedVideo) else clip.expressions
        text = next(iter(texts.values()))
        try:
            frames = clip.read() if frames_only else clip.read(_spread(len(clip.frame_names), PICTURE_FRAMES))
        except (ValueError, OSError):  # which scoring has named
            continue
        (masks,), (score,) = predictor(frames, [text])
        shown = _spread(len(frames), min(3, len(frames)))
        painted = [
            overlay(frames[t].permute(1, 2, 0).numpy(), masks[t, None].numpy(), [PREDICTED_COLOUR]) for t in shown
        ]
        name = clip.clip_id if frames_only else clip.video_id
        drawn[name] = titled(np.concatenate(painted, axis=1), f"{text} ({score:.2f})")
    return drawn


def _spread(length: int, count: int) -> list[int]:
    """Places of so many frames from the first one to the last."""
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


def score_videos(
    args: argparse.Namespace,
    split: str,
    predictor: models.Predictor,
    results: Path,
    run: dict,
    gaps: Gaps | None = None,
) -> float | None:
    """J, F and J&F of whole videos; returns J&F on rank 0. ``run`` is all that the results depend on.

    Of a video that cannot be read there is no mask: its expressions score 0.
    """
    gaps = gaps or Gaps(strict=True)
    predict, score, roots = {
        "ytvos": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "joint": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "davis": (predict_annotators, davis_protocol.score_results, ANNOTATOR_ROOTS),
        "mevis": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
    }[args.dataset_file]
    with dist.together():
        to_predict = datasets.build_eval_videos(args, split, gaps)
        if dist.is_main():
            # now rather than after hours of inference
            in_scores = Gaps(gaps.strict, known=gaps)
            truth, videos = video_truth(args, split, in_scores)
            predictor.announce(asked_texts(args.dataset_file, to_predict))
            claim_results(results, run, replace=True, roots=roots, asked=digests(to_predict))
    predict(predictor, to_predict, results, gaps=gaps)
    gaps.share()
    if not dist.is_main():
        return None
    workers = min(os.cpu_count() or 1, max(1, len(videos) // VIDEOS_PER_PROCESS))
    scores = score(results, truth, videos, workers=workers, gaps=in_scores)
    gaps.take(in_scores)
    if "incomplete" in scores:
        scores["incomplete"]["problems"] = [in_words(*problem) for problem in gaps.items]
    write_json(results / "scores.json", scores)
    # DAVIS's protocol has other statistics of J and F besides their means
    means = {m: scores[m]["mean"] if isinstance(scores[m], dict) else scores[m] for m in "JF"}
    headline = {"J&F": scores["J&F"], **means}
    print(f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in headline.items()) + beside(scores))
    return scores["J&F"]


def texts_to_score(args: argparse.Namespace, split: str) -> Iterator[tuple[str, str]]:
    """Places and texts of all that scoring a split will ask.

    Raises ValueError and FileNotFoundError where the split cannot be scored, as one without public masks.
    """
    gaps = Gaps(silent=True)  # scoring will name them
    if datasets.scores_frames(args):
        asked = datasets.build_eval_clips(args, split, gaps)
        datasets.build_truth(args, split, asked, gaps)
    else:
        asked = datasets.build_eval_videos(args, split, gaps)
        video_truth(args, split, gaps)
    return asked_texts(args.dataset_file, asked)


def video_truth(args: argparse.Namespace, split: str, gaps: Gaps) -> tuple:
    """The masks of a split whose whole videos are scored, and its videos, without what becomes a gap."""
    read = {"ytvos": ytvos_truth, "joint": ytvos_truth, "davis": davis_truth, "mevis": mevis_truth}
    return read[args.dataset_file](args, split, gaps)


def ytvos_truth(args: argparse.Namespace, split: str, gaps: Gaps) -> tuple[Path, dict[str, dict]]:
    """The folder of the masks of a split of Ref-YouTube-VOS, and its videos."""
    given = {"annotations": args.annotations, "expressions": args.expressions}
    return scorable_split(Path(args.ytvos_path), split, args.holdout, gaps=gaps, **given)


def mevis_truth(args: argparse.Namespace, split: str, gaps: Gaps) -> tuple[RleMasks, dict[str, dict]]:
    """The masks of a split of MeViS, and its videos."""
    store, videos = mevis_split(Path(args.mevis_path), split, args.holdout, gaps)
    return RleMasks(store.path, store), videos


def davis_truth(args: argparse.Namespace, split: str, gaps: Gaps) -> tuple[Path, dict[str, list[str]]]:
    """The folder of the masks of a split of Ref-DAVIS17, and the frames of its videos."""
    annotations, videos = scorable_split(Path(args.davis_path), split, args.holdout, davis.REF_DAVIS, gaps)
    return annotations, {vid: video["frames"] for vid, video in videos.items()}


def score_frames(
    args: argparse.Namespace,
    split: str,
    predictor: models.Predictor,
    results: Path,
    run: dict,
    gaps: Gaps | None = None,
) -> float | None:
    """Precision, IoU and mAP of the masks of single frames, which it returns on rank 0; of RefCOCO's images also scores
    of the boxes. ``run`` is all that the results depend on."""
    gaps = gaps or Gaps(strict=True)
    with dist.together():
        clips = datasets.build_eval_clips(args, split, gaps)
        truth = datasets.build_truth(args, split, clips, gaps)
    predictor.announce(asked_texts(args.dataset_file, clips))
    boxes = args.dataset_file in refcoco.SETS
    # ReferFormer's A2DSentencesPostProcess (models/postprocessors.py) gives masks of both sets the size of their truth
    fit = args.dataset_file in ("a2d", "jhmdb")
    how = dict(boxes=boxes, fit=fit, gaps=gaps, patience=args.loader_timeout)
    scores = score_clips(predictor, clips, truth, results, run, **how)
    if scores is None:
        return None
    print(f"{args.dataset_file} {split}, {scores['samples']} samples in {len(clips)} frames:{beside(scores)}")
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
    fit: bool = False,
    gaps: Gaps | None = None,
    patience: float = 0,
) -> dict | None:
    """Predicts the clips and scores their samples, each once at any number of ranks.

    Args:
        truth: ground truth of the samples of the clips, by image id; of all of them but those that became gaps.
        results_dir: takes ``predictions.json`` (COCO's form, every query) and ``scores.json``.
        run: what made the results; written into ``scores.json``.
        boxes: also score the boxes.
        fit: masks are given the size of their truth where that is not the frame's.
        gaps: has the samples without ground truth, which are left out, and takes what cannot be read or does not fit,
            which scores 0. Without it the first one is an error.
        patience: seconds to wait for the frames of a clip; 0: no limit.

    Returns:
        On rank 0 the scores of :func:`util.masks.metrics.score_masks`, with those of
        :func:`util.masks.box_metrics.score_boxes` as ``boxes`` and, where something
        is missing, how much of it as ``incomplete``; elsewhere None.
    """
    gaps = gaps or Gaps(strict=True)
    without_truth = sum(item.startswith("sample ") for item, _ in gaps.items)
    predictions = predict_clips(predictor, clips, patience=patience, gaps=gaps)
    gaps.share()
    if not dist.is_main():
        return None
    if fit:
        same = [fitted(truth[p["image_id"]], p) if p["image_id"] in truth else p for p in predictions]
        if resized := len({p["image_id"] for p, f in zip(predictions, same, strict=True) if p is not f}):
            print(f"{resized} samples have truth of another size than their frame; their masks are given that size")
        predictions = same
    write_json(results_dir / "predictions.json", predictions, indent=None)
    scored = predictions
    if not gaps.strict:
        scored = [prediction for prediction in predictions if prediction["image_id"] in truth]
        wrong = metrics.misfits(truth, scored)
        for name, problem in wrong.items():
            gaps.add(f"sample {name}", problem)
        scored = [prediction for prediction in scored if prediction["image_id"] not in wrong]
        if not scored:
            first = in_words(*gaps.items[0]) if gaps.items else "there is not one sample"
            raise ValueError(f"not one sample can be scored; the first problem: {first}")
    scores = metrics.score_masks(truth, scored, partial=not gaps.strict)
    if boxes:
        truth_boxes = {name: sample.box for name, sample in truth.items()}
        scores["boxes"] = box_metrics.score_boxes(truth_boxes, scored, partial=not gaps.strict)
    unanswered = len(truth.keys() - {prediction["image_id"] for prediction in scored})
    scores |= Shortfall(unanswered, without_truth, problems=gaps.items).described("samples")
    write_json(results_dir / "scores.json", {"run": run, **scores})
    return scores
