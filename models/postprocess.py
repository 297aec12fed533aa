"""From the network's output to masks in the frame's own size.

Shapes: b samples, t frames, n proxies, h w mask size, H W frame size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def query_scores(logits: Tensor, frames: Tensor | None = None) -> Tensor:
    """Score of each query: the probabilities of the classes are averaged over the frames, and the highest is taken.

    Args:
        logits: ``[b, t, n, k]``.
        frames: bool ``[b, t]``, the frames to average over (A2D and JHMDB: the annotated frame); None: all frames.

    Returns:
        ``[b, n]``.
    """
    probability = logits.float().sigmoid()
    if frames is None:
        return probability.mean(1).amax(-1)
    share = frames.float()[..., None, None]
    return ((probability * share).sum(1) / share.sum(1).clamp(min=1)).amax(-1)


@torch.inference_mode()
def fuse_objects(answers: Iterable[tuple[int, Tensor]], background: float = 0.1, threshold: float = 0.5) -> Tensor:
    """One label map from the masks of several objects: the best score wins each pixel (Ref-DAVIS17).

    The objects are processed one by one, so that memory does not grow with their number.

    Args:
        answers: number (1 to 255) and mask logits ``[T, H, W]`` of each object; of equal scores the earlier wins.
        background: score of the background.
        threshold: probabilities below it count as 0.

    Returns:
        uint8 ``[T, H, W]``, the number of the object, 0 for the background.

    Raises:
        ValueError: there is no object.
    """
    labels = best = None
    for number, logits in answers:
        if best is None:
            best = torch.full_like(logits, background)
            labels = torch.zeros_like(logits, dtype=torch.uint8)
        score = logits.sigmoid()
        wins = (score >= threshold) & (score > best)
        best = torch.where(wins, score, best)
        labels[wins] = number
    if labels is None:
        raise ValueError("there is no object to make a label map of")
    return labels


def at_input_size(logits: Tensor, input_size: tuple[int, int], stride: int) -> Tensor:
    """Mask logits ``[b, t, h, w]`` at each pixel of the network's input, without its padding.

    Args:
        input_size: height and width of the network's input; the logits cover it from the top left, with padding.
        stride: input pixels per logit.
    """
    h, w = logits.shape[-2:]
    logits = F.interpolate(logits.float(), size=(h * stride, w * stride), mode="bilinear")
    return logits[..., : input_size[0], : input_size[1]]


def resize_logits(logits: Tensor, input_size: tuple[int, int], output_size: tuple[int, int], stride: int) -> Tensor:
    """Resizes mask logits ``[b, t, h, w]`` to the frames on disk ``[b, t, H, W]``, bilinearly.

    Args:
        input_size, stride: as in :func:`at_input_size`.
        output_size: of the frames on disk.
    """
    logits = at_input_size(logits, input_size, stride)
    return F.interpolate(logits, size=output_size, mode="bilinear") if output_size != input_size else logits


# How ReferFormer's scripts bring the masks of videos, and of single frames, to the size of the frames. Its published
# numbers were made so (github.com/wjn922/ReferFormer).


def stretch_logits(logits: Tensor, output_size: tuple[int, int]) -> Tensor:
    """Resizes mask logits ``[b, t, h, w]`` to the frames on disk in one step, as if they covered the frames exactly.

    Source: sub_processor in inference_ytvos.py and inference_davis.py.
    """
    return F.interpolate(logits.float(), size=output_size, mode="bilinear")


def threshold_first(
    logits: Tensor, input_size: tuple[int, int], output_size: tuple[int, int], stride: int, threshold: float
) -> Tensor:
    """Masks ``[b, t, H, W]``: logits are enlarged to the network's input and compared with the threshold there; the
    masks are resized by nearest neighbours.

    Source: A2DSentencesPostProcess and PostProcessSegm in models/postprocessors.py.

    Args:
        input_size, output_size, stride: as in :func:`resize_logits`.
        threshold: of logits.
    """
    masks = at_input_size(logits, input_size, stride) > threshold
    return F.interpolate(masks.float(), size=output_size, mode="nearest").bool()
