"""Boxes: from masks, between the two forms, and their generalised IoU.

Forms: ``cxcywh`` is centre, width, height; ``xyxy`` is the upper left corner and the lower right one, which lies
just outside the last pixel (a one-pixel mask has width 1). Everything is computed in float32 also under autocast:
a half-precision box is off by several pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from util.run.precision import precise

# Below the area of a thousandth of a pixel of an 8K frame; keeps empty boxes' ratios and gradients finite.
_TINY = 1e-11


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """``[..., 4]`` to ``[..., 4]`` float32."""
    centre, size = precise(boxes).split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """``[..., 4]`` to ``[..., 4]`` float32."""
    low, high = precise(boxes).split(2, dim=-1)
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True of bool ``[..., L]``; both 0 where there is none."""
    length = occupied.shape[-1]
    positions = torch.arange(length, device=occupied.device)
    first = torch.where(occupied, positions, length).amin(-1)
    past = torch.where(occupied, positions + 1, 0).amax(-1)
    return first * (past > 0), past


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of bool masks ``[..., H, W]``: float32 ``[..., 4]``, cxcywh as a share of the mask's size.

    An empty mask has the box (0, 0, 0, 0).
    """
    height, width = masks.shape[-2:]
    left, right = _extent(masks.any(-2))
    top, bottom = _extent(masks.any(-1))
    xyxy = torch.stack([left / width, top / height, right / width, bottom / height], dim=-1)
    return xyxy_to_cxcywh(xyxy)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def _intersection_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inner = torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1)
    intersection = _areas(inner)
    return intersection, _areas(a) + _areas(b) - intersection


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes in xyxy, element by element: ``a`` and ``b`` ``[..., 4]`` are broadcast, float32 ``[...]`` returns.

    Two boxes without area have 0.
    """
    intersection, union = _intersection_union(precise(a), precise(b))
    return intersection / union.clamp(min=_TINY)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of boxes in xyxy, element by element.

    ``a`` and ``b`` ``[..., 4]`` are broadcast against each other; float32 ``[...]`` in [-1, 1] comes back. Boxes
    without area are legal: nothing divides by zero.
    """
    a, b = precise(a), precise(b)
    hull = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)
    enclosing = _areas(hull)
    intersection, union = _intersection_union(a, b)
    return intersection / union.clamp(min=_TINY) - (enclosing - union) / enclosing.clamp(min=_TINY)


def pairwise_generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of each of ``a`` ``[..., N, 4]`` with each of ``b`` ``[..., M, 4]``, xyxy: ``[..., N, M]``."""
    return generalised_iou(a[..., :, None, :], b[..., None, :, :])
