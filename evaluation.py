"""What ``main.py --eval`` does: a checkpoint's scores on a split of any data set, as its papers report them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

import datasets
import models
from datasets import EvalClip, davis, mevis, refcoco, ytvos
from davis2017 import davis_protocol, ytvos_protocol
from davis2017.truth import RleMasks
from engine import predict_annotators, predict_clips, predict_split
from util import box_metrics, checkpoint, dist, metrics
from util.coco import Truth
from util.writers import ANNOTATOR_ROOTS, RESULTS_ROOT, claim_results, write_json


def evaluate(args: argparse.Namespace, saved: dict, device: torch.device) -> None:
    """Prints the scores of the checkpoint on a split; what it predicted stays in the output folder."""
    trained = saved["options"]["dataset_file"]
    split = datasets.eval_split(args, trained)
    if not args.allow_trained and datasets.may_be_trained_on(args.dataset_file, trained):
        datasets.refuse_trained(split, args.holdout, saved["options"]["holdout"])
    score = score_frames if datasets.scores_frames(args) else score_videos
    model, _ = models.restore_model(saved, args.resume)
    predictor = models.build_predictor(model.to(device), args)
    score(args, split, predictor, Path(args.output_dir) / f"eval_{args.dataset_file}_{split}")


def score_videos(args: argparse.Namespace, split: str, predictor: models.Predictor, results: Path) -> None:
    """J, F and J&F of whole videos."""
    predict, score, roots = {
        "ytvos": (predict_split, score_ytvos, [RESULTS_ROOT]),
        "joint": (predict_split, score_ytvos, [RESULTS_ROOT]),
        "davis": (predict_annotators, score_davis, ANNOTATOR_ROOTS),
        "mevis": (predict_split, score_mevis, [RESULTS_ROOT]),
    }[args.dataset_file]
    if dist.is_main():
        run = {"checkpoint": checkpoint.fingerprint(args.resume), "split": split}
        claim_results(results, run, replace=True, roots=roots)
    dist.barrier()
    predict(predictor, datasets.build_eval_videos(args, split), results)
    if dist.is_main():
        scores, headline = score(args, split, results)
        write_json(results / "scores.json", scores)
        print(f"{split}: " + ", ".join(f"{name} {value:.4f}" for name, value in headline.items()))


def score_ytvos(args: argparse.Namespace, split: str, results: Path) -> tuple[dict, dict[str, float]]:
    """All scores of a split of Ref-YouTube-VOS, and those to print."""
    root = Path(args.ytvos_path)
    videos = ytvos.split_videos(root, split, args.holdout)
    scores = ytvos_protocol.score_results(results, ytvos.annotations_root(root, split), videos)
    return scores, {name: scores[name] for name in ("J&F", "J", "F")}


def score_mevis(args: argparse.Namespace, split: str, results: Path) -> tuple[dict, dict[str, float]]:
    """All scores of a split of MeViS, and those to print."""
    root = Path(args.mevis_path)
    videos = mevis.split_videos(root, split, args.holdout)
    truth = RleMasks(mevis.masks_path(root, split), mevis.read_masks(root, split, videos))
    scores = ytvos_protocol.score_results(results, truth, videos)
    return scores, {name: scores[name] for name in ("J&F", "J", "F")}


def score_davis(args: argparse.Namespace, split: str, results: Path) -> tuple[dict, dict[str, float]]:
    """All scores of a split of Ref-DAVIS17 by the unsupervised protocol, and those to print."""
    root = Path(args.davis_path)
    videos = {vid: video["frames"] for vid, video in davis.split_videos(root, split, args.holdout).items()}
    scores = davis_protocol.score_results(results, davis.annotations_root(root, split), videos)
    return scores, {"J&F": scores["J&F"], "J": scores["J"]["mean"], "F": scores["F"]["mean"]}


def score_frames(args: argparse.Namespace, split: str, predictor: models.Predictor, results: Path) -> None:
    """Precision, IoU and mAP of the masks of single frames; of RefCOCO's images also scores of the boxes."""
    clips = datasets.build_eval_clips(args, split)
    truth = datasets.build_truth(args, split, clips)
    settings = {name: getattr(args, name) for name in ("dataset_file", "num_frames", "eval_size", "max_size", "amp")}
    run = {"checkpoint": checkpoint.fingerprint(args.resume), "split": split, **settings}
    scores = score_clips(predictor, clips, truth, results, run, boxes=args.dataset_file in refcoco.SETS)
    if scores is None:
        return
    print(f"{args.dataset_file} {split}, {scores['samples']} samples in {len(clips)} frames:")
    print(metrics.table(scores))
    if "boxes" in scores:
        print(box_metrics.table(scores["boxes"]))
    print(f"scores and predictions: {results}")


def score_clips(
    predictor: models.Predictor,
    clips: Sequence[EvalClip],
    truth: Mapping[str | int, Truth],
    results_dir: Path,
    run: dict,
    *,
    boxes: bool = False,
) -> dict | None:
    """Predicts the clips and scores their samples, each once at any number of ranks.

    Args:
        truth: ground truth of exactly the samples of the clips, by image id.
        results_dir: takes ``predictions.json`` (COCO's form, every query) and ``scores.json``.
        run: what made the results; written into ``scores.json``.
        boxes: also score the boxes.

    Returns:
        On rank 0 the scores of :func:`util.metrics.score_masks`, with those of :func:`util.box_metrics.score_boxes` as
        ``boxes``; elsewhere None.
    """
    predictions = predict_clips(predictor, clips)
    if not dist.is_main():
        return None
    write_json(results_dir / "predictions.json", predictions, indent=None)
    scores = metrics.score_masks(truth, predictions)
    if boxes:
        scores["boxes"] = box_metrics.score_boxes({name: sample.box for name, sample in truth.items()}, predictions)
    write_json(results_dir / "scores.json", {"run": run, **scores})
    return scores
