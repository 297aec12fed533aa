"""From the network's output to masks in the frame's own size.

Shapes: b samples, t frames, n proxies, h w mask size, H W frame size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from util.structures import Prediction


def query_scores(logits: Tensor, frames: Tensor | None = None) -> Tensor:
    """Score of each query: the probability of a class averaged over the frames, of its best class.

    Args:
        logits: ``[b, t, n, k]``.
        frames: bool ``[b, t]``, the frames to average over (A2D and JHMDB: the annotated one); None takes all.

    Returns:
        ``[b, n]``.
    """
    probability = logits.float().sigmoid()
    if frames is None:
        return probability.mean(1).amax(-1)
    share = frames.float()[..., None, None]
    return ((probability * share).sum(1) / share.sum(1).clamp(min=1)).amax(-1)


def best_masks(prediction: Prediction) -> tuple[Tensor, Tensor]:
    """Mask logits ``[b, t, h, w]`` and score ``[b]`` of each sample's best query."""
    score, query = query_scores(prediction.logits).max(1)
    samples = torch.arange(len(query), device=query.device)
    return prediction.masks[samples, :, query], score


def resize_logits(logits: Tensor, input_size: tuple[int, int], output_size: tuple[int, int], stride: int) -> Tensor:
    """Mask logits ``[b, t, h, w]`` to the size of the frames on disk ``[b, t, H, W]``, bilinear.

    Args:
        input_size: height and width that the network saw, which the logits cover from the top left.
        output_size: of the frames on disk.
        stride: input pixels per logit.
    """
    h, w = logits.shape[-2:]
    logits = F.interpolate(logits.float(), size=(h * stride, w * stride), mode="bilinear")
    logits = logits[..., : input_size[0], : input_size[1]]
    return F.interpolate(logits, size=output_size, mode="bilinear") if output_size != input_size else logits
