"""Boxes: from masks, conversion between the two forms, IoU and generalised IoU.

Forms: ``cxcywh`` is centre, width, height; ``xyxy`` is the upper left and the lower right corner, the latter just
outside the last pixel (a one-pixel mask has width 1). Everything is computed in float32, also under autocast, because a
half-precision box is off by several pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from util.run.precision import precise

# Smaller than a thousandth of a pixel's area in an 8K frame. Keeps ratios and gradients of empty boxes finite.
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
    """The first True of bool ``[..., L]`` and the position after the last True; both 0 where no value is True."""
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
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height  # the gradient of prod() would read numbers back from a GPU


def _intersection_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inner = torch.cat([torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])], dim=-1)
    intersection = _areas(inner)
    return intersection, _areas(a) + _areas(b) - intersection


def box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes in xyxy, element by element: ``a`` and ``b`` ``[..., 4]``, which broadcast, to float32 ``[...]``.

    The IoU of two boxes without area is 0.
    """
    intersection, union = _intersection_union(precise(a), precise(b))
    return intersection / union.clamp(min=_TINY)


def generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of boxes in xyxy, element by element.

    ``a`` and ``b`` ``[..., 4]``, which broadcast, to float32 ``[...]`` in [-1, 1]. Boxes without area are allowed.
    """
    a, b = precise(a), precise(b)
    hull = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], dim=-1)
    enclosing = _areas(hull)
    intersection, union = _intersection_union(a, b)
    return intersection / union.clamp(min=_TINY) - (enclosing - union) / enclosing.clamp(min=_TINY)


def pairwise_generalised_iou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of each of ``a`` ``[..., N, 4]`` with each of ``b`` ``[..., M, 4]``, xyxy: ``[..., N, M]``."""
    return generalised_iou(a[..., :, None, :], b[..., None, :, :])
