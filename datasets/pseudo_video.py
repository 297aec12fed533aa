"""A still image as a clip: one frame is the image itself, the others are warped and tinted copies, masks in step.

The numbers, and what is drawn how often, are those of ReferFormer's joint training (datasets/refexp2seq.py and
image_to_seq_augmenter.py of github.com/wjn922/ReferFormer). What they mean is defined by github.com/aleju/imgaug:
PerspectiveTransform and Affine in augmenters/geometric.py, AddToHueAndSaturation in color.py, MotionBlur in blur.py.
Every frame is warped from the image, and not from its neighbour, so the order of the frames of a clip is arbitrary.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from datasets.transforms import look_up
from util.samples.frames import MEAN

ROTATION = 20.0  # degrees either way, about the centre
SHIFT = 0.1  # share of each side, either way; the same share for both
CORNER = 0.08  # standard deviation of how far inwards each corner of what is shown lies, as a share of each side
BRIGHTNESS = 40  # of 255
TINT = 5  # of 256 levels; the same number for hue (256 are the whole circle) and saturation
BLUR_PROBABILITY = 0.25
BLUR_SIZES = (9, 11)  # pixels of a motion blur

# Value of pixels from outside the image. Mirrored pixels would show objects again without a mask; the mean is
# what padding is, too. ReferFormer has black.
_OUTSIDE = tuple(round(255 * value) for value in MEAN)


def draw_warp(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A random homography, float64 ``[3, 3]``, from pixels of the image to pixels of the frame.

    A quadrangle within the image is enlarged to the whole frame, then turned about the centre and shifted.
    """
    sides = np.array([width, height])
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    inwards = np.abs(rng.normal(0, CORNER, (4, 2))).clip(0, 0.45)  # beyond this the corners would change places
    quadrangle = (corners + inwards * (1 - 2 * corners)) * sides
    enlarge = cv2.getPerspectiveTransform(quadrangle.astype(np.float32), (corners * sides).astype(np.float32))
    angle = np.deg2rad(rng.uniform(-ROTATION, ROTATION))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    move = np.eye(3)
    move[:2, :2] = turn
    move[:2, 2] = sides / 2 - turn @ sides / 2 + rng.uniform(-SHIFT, SHIFT) * sides
    return move @ enlarge


def tint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shifts the brightness of uint8 RGB ``[H, W, 3]``, or hue and saturation, or all three."""
    brightness, change = (int(rng.integers(-reach, reach, endpoint=True)) for reach in (BRIGHTNESS, TINT))
    both, first = rng.random(2) < 0.5
    levels = np.arange(256)
    if both or first:
        image = look_up(image, levels + brightness)
    if both or not first:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
        # grey has no hue: more saturation would paint it red
        saturations = np.where(levels > 0, levels + change, 0)
        image = cv2.cvtColor(look_up(hsv, (levels + change) % 256, saturations, levels), cv2.COLOR_HSV2RGB_FULL)
    return image


def motion_blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Smears uint8 ``[H, W, 3]`` along a straight line of a random direction, more towards one end."""
    size, angle = int(rng.choice(BLUR_SIZES)), rng.uniform(0, 360)
    end = rng.uniform(0, 1)
    kernel = np.zeros((size, size), np.float32)
    kernel[:, size // 2] = np.linspace(end, 1 - end, size)
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), angle, 1)
    kernel = cv2.warpAffine(kernel, turn, (size, size), flags=cv2.INTER_LINEAR)
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
