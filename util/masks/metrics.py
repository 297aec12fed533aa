"""Scores of single frames as A2D-Sentences and JHMDB-Sentences define them: P@K, overall and mean IoU, mAP.

Results are in COCO's form: a list of ``{"image_id", "category_id", "segmentation", "score"}``, one for each query of
each sample. The segmentation is in compressed run lengths. Each sample counts as an image.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from pycocotools import mask as rle
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from util.masks.coco import CATEGORY, Segmentation, Truth

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)
_SMOOTH = 1e-6


def best_queries(predictions: Iterable[dict]) -> list[dict]:
    """The highest-scored result of each image (the last of equal scores), in the order of the images.

    Source: calculate_precision_at_k_and_iou_metrics in metrics.py of github.com/mttr2021/MTTR, and ReferFormer's
    datasets/a2d_eval.py.
    """
    best: dict[Hashable, dict] = {}
    for prediction in predictions:
        held = best.setdefault(prediction["image_id"], prediction)
        if prediction["score"] >= held["score"]:
            best[prediction["image_id"]] = prediction
    return list(best.values())


def overlap(a: Segmentation, b: Segmentation) -> tuple[int, int]:
    """Pixels of the intersection and of the union of two masks of one size."""
    intersection = int(rle.area(rle.merge([a, b], intersect=True)))
    return intersection, int(rle.area(a)) + int(rle.area(b)) - intersection


def _coco(images: Iterable[dict], annotations: list[dict]) -> COCO:
    coco = COCO()
    coco.dataset = {"images": list(images), "annotations": annotations, "categories": [{"id": CATEGORY}]}
    coco.createIndex()
    return coco


def average_precision(truth: Mapping[Hashable, Truth], predictions: Sequence[dict]) -> dict[str, float]:
    """COCO's mAP, AP50 and AP75 of masks, by pycocotools; categories are ignored (``useCats`` = 0)."""
    images = [{"id": name, "height": t.mask["size"][0], "width": t.mask["size"][1]} for name, t in truth.items()]
    # Numbered from 1, because pycocotools takes a match with annotation 0 for no match.
    annotations = [
        {
            "id": number,
            "image_id": name,
            "category_id": CATEGORY,
            "segmentation": t.mask,
            "area": float(rle.area(t.mask)),
            "iscrowd": 0,
        }
        for number, (name, t) in enumerate(truth.items(), 1)
    ]
    # copies with these keys only, because loadRes changes its input and would use the box of a result with a mask
    kept = ("image_id", "category_id", "segmentation", "score")
    results = [{key: prediction[key] for key in kept} for prediction in predictions]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = _coco(images, annotations)
        evaluation = COCOeval(reference, reference.loadRes(results), "segm")
        evaluation.params.useCats = 0
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    # mean over recalls, for each of the IoU thresholds 0.50, 0.55 … 0.95
    by_threshold = evaluation.eval["precision"][:, :, 0, 0, 0].mean(1)
    return {"mAP": float(by_threshold.mean()), "AP50": float(by_threshold[0]), "AP75": float(by_threshold[5])}


def misfits(truth: Mapping[Hashable, Truth], predictions: Iterable[dict]) -> dict[Hashable, str]:
    """Samples whose mask differs in size from the ground truth, each with a description of the fault."""
    wrong = {}
    for prediction in predictions:
        name, size = prediction["image_id"], prediction["segmentation"]["size"]
        expected = truth[name].mask["size"]
        if list(size) != list(expected):
            wrong[name] = (
                f"the mask is {size[1]}x{size[0]} pixels, its ground truth {expected[1]}x{expected[0]}; one of the two "
                "was made from other frames"
            )
    return wrong


def score_masks(truth: Mapping[Hashable, Truth], predictions: Sequence[dict], *, partial: bool = False) -> dict:
    """All scores of the masks.

    Args:
        truth: ground truth of each sample, by image id.
        predictions: every query of every sample, in COCO's form.
        partial: samples without a prediction have IoU 0, instead of being an error.

    Returns:
        ``samples``: their number.
        ``precision_at``: share of samples with an IoU strictly above each of :data:`THRESHOLDS`; ``overall_iou``: sum
        of intersections over sum of unions; ``mean_iou``. These are of the highest-scored query. The IoU of a
        sample is (I + 1e-6) / (U + 1e-6), so it is 1 for two empty masks.
        ``all_queries``, ``best_query``: mAP, AP50 and AP75 of all queries (the published numbers) and of the best one.

    Raises:
        ValueError: a sample has no prediction, a prediction no sample, or their sizes differ.
    """
    best = {prediction["image_id"]: prediction["segmentation"] for prediction in best_queries(predictions)}
    differing = best.keys() - truth.keys() if partial else best.keys() ^ truth.keys()
    if differing:
        name = next(iter(differing))
        lacks = "ground truth" if name in best else "prediction"
        raise ValueError(f"sample {name} has no {lacks}: score predictions and ground truth of the same samples")
    for name, problem in misfits(truth, predictions).items():
        raise ValueError(f"sample {name}: {problem}")
    counts = np.array(
        [overlap(best[n], t.mask) if n in best else (0, rle.area(t.mask)) for n, t in truth.items()], np.float64
    )
    # float32, as in the reference: added to 32 pixels or more, 1e-6 is rounded away. So an IoU of exactly 0.5 is above
    # the threshold 0.5 for tiny masks only.
    few = counts.astype(np.float32)
    iou = ((few[:, 0] + np.float32(_SMOOTH)) / (few[:, 1] + np.float32(_SMOOTH))).astype(np.float64)
    iou[[name not in best for name in truth]] = 0  # otherwise 1 where nothing is predicted and the truth is empty
    intersection, union = counts.sum(0)
    return {
        "samples": len(truth),
        "precision_at": {str(threshold): float((iou > threshold).mean()) for threshold in THRESHOLDS},
        "overall_iou": float(intersection / union) if union else 1.0,
        "mean_iou": float(iou.mean()),
        "all_queries": average_precision(truth, predictions),
        "best_query": average_precision(truth, best_queries(predictions)),
    }


def table(scores: Mapping) -> str:
    """The scores as text, a line each."""
    rows = [
        ("mAP, all queries (as published)", scores["all_queries"]["mAP"]),
        ("mAP, best query", scores["best_query"]["mAP"]),
        ("overall IoU", scores["overall_iou"]),
        ("mean IoU", scores["mean_iou"]),
        *((f"P@{threshold}", value) for threshold, value in scores["precision_at"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {100 * value:6.2f}" for name, value in rows)
