"""A still image as a clip: one frame is the image itself, the others are warped and tinted copies, masks in step.

The ranges are those of ReferFormer's joint training, which took them from STEm-Seg (ECCV 2020). Every frame is warped
from the image, not from its neighbour, so a clip has the order of frames no more than a shuffled video has.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.transforms import look_up
from util.frames import MEAN

ROTATION = 20.0  # degrees either way, about the centre
SHIFT = 0.1  # share of each side
CORNER = 0.08  # how far each corner moves by itself, as a share of each side: perspective, shear and scale
BRIGHTNESS = 40.0  # of 255
TINT = 5.0  # of 256 levels, hue (the whole circle) and saturation
BLUR_PROBABILITY = 0.25
BLUR_SIZES = (9, 11)  # pixels of a motion blur

# What comes in from outside the image. Mirrored pixels would show objects again where no mask has them; the mean is
# what padding is, too.
_OUTSIDE = tuple(round(255 * value) for value in MEAN)


def draw_warp(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random homography, float64 ``[3, 3]``, from pixels of the image to pixels of the frame."""
    sides = np.array([width, height])
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * sides
    moved = corners + rng.uniform(-CORNER, CORNER, (4, 2)) * sides
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    moved = (moved - sides / 2) @ turn.T + sides / 2 + rng.uniform(-SHIFT, SHIFT, 2) * sides
    return cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32))


def tint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifts hue, saturation and brightness of uint8 RGB ``[H, W, 3]``."""
    hue, saturation = rng.uniform(-TINT, TINT, 2)
    brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    levels = np.arange(256)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    # grey has no hue: more saturation would paint it red
    saturations = np.where(levels > 0, levels + saturation, 0)
    hsv = look_up(hsv, (levels + round(hue)) % 256, saturations, levels)
    return look_up(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL), levels + brightness)


def motion_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smears uint8 ``[H, W, 3]`` along a straight line of a random direction."""
    size, angle = int(rng.choice(BLUR_SIZES)), rng.uniform(0, np.pi)
    centre = size // 2
    reach = np.array([np.cos(angle), np.sin(angle)]) * centre
    kernel = np.zeros((size, size), np.float32)
    ends = [tuple(int(v) for v in np.rint(centre + sign * reach)) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0)
    return cv2.filter2D(image, -1, kernel / kernel.sum())


def pseudo_video(image: Tensor, masks: Tensor, num_frames: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Makes a clip of an image; an object may leave some of its frames.

    Args:
        image: uint8 RGB ``[3, H, W]``.
        masks: uint8 ``[E, H, W]`` of any number of objects.
        num_frames: T; one of the frames, drawn at random, is the image unchanged.
        rng: source of every random choice.

    Returns:
        uint8 ``[T, 3, H, W]``, channels-last in memory, and uint8 ``[T, E, H, W]``.
    """
    height, width = image.shape[-2:]
    still, still_masks = image.permute(1, 2, 0).contiguous().numpy(), masks.contiguous().numpy()
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    moved = np.empty((num_frames, *still_masks.shape), np.uint8)
    unchanged = int(rng.integers(num_frames))
    for t in range(num_frames):
        if t == unchanged:
            frames[t], moved[t] = still, still_masks
            continue
        warp = draw_warp(height, width, rng)
        frame = cv2.warpPerspective(
            tint(still, rng), warp, (width, height), flags=cv2.INTER_LINEAR, borderValue=_OUTSIDE
        )
        frames[t] = motion_blur(frame, rng) if rng.random() < BLUR_PROBABILITY else frame
        for e, mask in enumerate(still_masks):
            moved[t, e] = cv2.warpPerspective(mask, warp, (width, height), flags=cv2.INTER_NEAREST)
    return torch.from_numpy(frames).permute(0, 3, 1, 2), torch.from_numpy(moved)
