"""The losses as pure functions of float32 tensors, between predictions and targets that are already matched.

Shapes: b samples, t frames, n target instances, h w mask size, c channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of each element, not reduced ("Focal Loss for Dense Object Detection", eq. 5).

    Args:
        logits: any shape.
        targets: same shape, 0 or 1, of ``logits``' dtype.
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    probability = logits.sigmoid()
    miss = probability + targets - 2 * probability * targets
    return (alpha * targets + (1 - alpha) * (1 - targets)) * cross_entropy * miss**gamma


def dice_loss(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """1 - dice of whole trajectories: the sums run over t·h·w, so a frame without the object counts as an empty mask.

    Args:
        logits, targets: ``[..., t, h, w]``.
        weight: broadcasts with ``logits``; 0 on padding and where there is no ground truth.

    Returns:
        ``[...]``.
    """
    probability = logits.sigmoid() * weight
    targets = targets * weight
    overlap = (probability * targets).flatten(-3).sum(-1)
    total = probability.flatten(-3).sum(-1) + targets.flatten(-3).sum(-1)
    return 1 - (2 * overlap + 1) / (total + 1)


def info_nce(
    first: Tensor, second: Tensor, temperature: float, identities: Tensor, counted: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE with cosine similarity over the samples of a (global) batch: the JSC loss.

    Args:
        first, second: ``[b, c]``; row i of one belongs to row i of the other.
        temperature: divides the similarities.
        identities: long ``[b]``; samples with the same number are not used as negatives of each other.
        counted: bool ``[b]``; samples marked False are used neither as positives nor as negatives. None: all are used.

    Returns:
        A scalar; exactly 0, with zero gradients, where at most one sample is used.
    """
    similarity = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).T / temperature
    itself = torch.eye(len(first), dtype=torch.bool, device=first.device)
    counted = torch.ones_like(itself[0]) if counted is None else counted
    left_out = ((identities[:, None] == identities[None, :]) | ~counted[None, :]) & ~itself
    label = torch.arange(len(first), device=first.device)
    losses = [
        F.cross_entropy(rows.masked_fill(left_out, float("-inf")), label, reduction="none")
        for rows in (similarity, similarity.T)
    ]
    return ((losses[0] + losses[1]) / 2 * counted).sum() / counted.sum().clamp(min=1)
