"""Frames on their way into the network: size and normalisation, the same in training and at inference."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

# ImageNet's channel means and deviations on frames in [0, 1]: what every supported backbone was trained with.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def fitted_size(height: int, width: int, short: int, longest: int) -> tuple[int, int]:
    """Height and width, in pixels, whose short side is ``short`` unless the long side would exceed ``longest``."""
    scale = min(short / min(height, width), longest / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_frames(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of uint8 ``[T, 3, H, W]`` to ``size``."""
    return F.resize(frames, list(size), antialias=True)


def normalise(frames: Tensor) -> Tensor:
    """uint8 ``[T, 3, H, W]`` to normalised float32 of the same shape."""
    mean, std = (torch.tensor(values, device=frames.device)[:, None, None] * 255 for values in (MEAN, STD))
    return frames.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)
