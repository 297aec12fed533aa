"""Frames on their way into the network: size and normalisation, the same in training and at inference."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# ImageNet's channel means and deviations on frames in [0, 1], with which torchvision's, Swin's and Video Swin's weights
# were trained (make_coco_transforms in ReferFormer's datasets/ytvos.py; configs of Video Swin).
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def fitted_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Height and width, in pixels, whose short side is ``short`` unless the long side would exceed ``longest``.

    The long side is cut off, not rounded, as in get_size_with_aspect_ratio in datasets/transforms_video.py of
    github.com/wjn922/ReferFormer, which has it from DETR.
    """
    low, high = sorted((height, width))
    if high / low * short > longest:
        short = max(1, round(longest * low / high))
    long = max(1, min(longest, int(short * high / low)))
    return (short, long) if height <= width else (long, short)


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of uint8 ``[T, 3, H, W]`` to ``size``."""
    return F.resize(frames, list(size), antialias=True)


def normalise(frames: Tensor) -> Tensor:
    """uint8 ``[T, 3, H, W]`` to normalised float32 of the same shape."""
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] * 255 for values in (MEAN, STD))
    return frames.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)
