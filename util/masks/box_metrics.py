"""Scores of boxes on RefCOCO, RefCOCO+ and RefCOCOg: P@0.5 and mean IoU, and ReferFormer's Precision@k.

Results are in COCO's form, one for each query of each sample: ``{"image_id", "bbox", "score"}`` and other keys, which
are not read. ``bbox`` is xywh in pixels of the image. Each sample counts as an image.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from util.masks.box_ops import box_iou, generalised_iou

THRESHOLD = 0.5
RANKS = (1, 5, 10)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Upper left corner, width, height to both corners: ``[..., 4]`` to ``[..., 4]``."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def score_boxes(
    truth: Mapping[Hashable, Sequence[float]], predictions: Iterable[dict], *, partial: bool = False
) -> dict:
    """All scores of the boxes; every sample has the same weight.

    Args:
        truth: box of each sample, xywh in pixels, by image id.
        predictions: every query of every sample.
        partial: a sample without a prediction has IoU 0, instead of being an error.

    Returns:
        ``samples``: their number.
        ``precision_at``: share of samples whose highest-scored query (the last of equal ones) has an IoU strictly above
        0.5. ``mean_iou``: mean IoU of these queries. Both as in ReferFormer's datasets/a2d_eval.py.
        ``referformer_precision_at``: share of samples for which one of the 1, 5 or 10 highest-scored queries (or of
        all, if there are fewer) has a *generalised* IoU of at least 0.5, as in ReferFormer's datasets/refexp_eval.py.

    Raises:
        ValueError: a sample has no prediction, or a prediction no sample.
    """
    queries: dict[Hashable, list[dict]] = defaultdict(list)
    for prediction in predictions:
        queries[prediction["image_id"]].append(prediction)
    differing = queries.keys() - truth.keys() if partial else queries.keys() ^ truth.keys()
    if differing:
        name = next(iter(differing))
        lacks = "ground truth" if name in queries else "prediction"
        raise ValueError(f"sample {name} has no {lacks}: score predictions and ground truth of the same samples")
    if not truth:
        raise ValueError("there is no sample to score")
    hits, overlaps, found = 0, 0.0, dict.fromkeys(RANKS, 0)
    for name, box in truth.items():
        if name not in queries:
            continue
        ranked = sorted(queries[name], key=lambda query: -query["score"])
        boxes = xywh_to_xyxy(torch.tensor([query["bbox"] for query in ranked], dtype=torch.float64))
        target = xywh_to_xyxy(torch.tensor(box, dtype=torch.float64))
        best = sum(query["score"] == ranked[0]["score"] for query in ranked) - 1
        iou = box_iou(boxes[best], target).item()
        hits += iou > THRESHOLD
        overlaps += iou
        close = generalised_iou(boxes, target) >= THRESHOLD
        for rank in RANKS:
            found[rank] += bool(close[:rank].any())
    return {
        "samples": len(truth),
        "precision_at": {str(THRESHOLD): hits / len(truth)},
        "mean_iou": overlaps / len(truth),
        "referformer_precision_at": {str(rank): count / len(truth) for rank, count in found.items()},
    }


def table(scores: Mapping) -> str:
    """The scores as text, a line each."""
    rows = [
        *((f"boxes, P@{threshold}", value) for threshold, value in scores["precision_at"].items()),
        ("boxes, mean IoU", scores["mean_iou"]),
        *(
            (f"boxes, Precision@{rank} (ReferFormer's: GIoU >= {THRESHOLD})", value)
            for rank, value in scores["referformer_precision_at"].items()
        ),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {100 * value:6.2f}" for name, value in rows)
