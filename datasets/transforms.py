"""Augmentation of a training clip: flip, crop and resize, the same for all its frames; colours, frame by frame.

Every random number comes from one of two generators. Size and shape of the crop come from ``shared``, so that the clips
of a batch agree and need little padding; all other numbers come from ``own``. Frames stay uint8 until they are
normalised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from datasets.sides import swap_sides
from util.samples.frames import fitted_size, normalise, resize_frames

# ReferFormer's crop (make_coco_transforms in datasets/ytvos.py of github.com/wjn922/ReferFormer): short side to one of
# these, then a window of 384 to 600 pixels each way.
_CROP_SHORT_SIDES = (400, 500, 600)
_CROP_LIMITS = (384, 600)
Size = tuple[int, int]  # height and width in pixels


def draw_crop_shape(height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    """Height and width, in pixels of the ``height`` x ``width`` frame, of ReferFormer's random crop.

    Its numbers assume frames whose short side was resized to 400…600 first. The crop is drawn at that scale and
    expressed in source pixels, so the frames are resampled only once and small data is cropped in proportion.
    """
    scale = rng.choice(_CROP_SHORT_SIDES) / min(height, width)
    shape = []
    for side in (height, width):
        low, high = (min(limit, side * scale) for limit in _CROP_LIMITS)
        shape.append(min(side, max(1, round(rng.uniform(low, high) / scale))))
    return shape[0], shape[1]


def crop_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """A grid over the shapes that :func:`draw_crop_shape` draws, with the extremes."""
    shapes = []
    for short in _CROP_SHORT_SIDES:
        scale = short / min(height, width)
        sides = [[min(side, limit / scale) for limit in _CROP_LIMITS] for side in (height, width)]
        rows, columns = (np.linspace(*ends, 9).round().astype(int).tolist() for ends in sides)
        shapes += [(max(1, row), max(1, column)) for row in rows for column in columns]
    return shapes


# ReferFormer's photometric distortion (PhotometricDistort in datasets/transforms_video.py): brightness in levels of
# 256, factors of contrast and saturation, hue in degrees.
_BRIGHTNESS, _FACTORS, _HUE = 32, (0.5, 1.5), 18


def distort_colours(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """ReferFormer's photometric distortion, frame by frame: each of five changes has the probability one half.

    Brightness ±32 of 255; contrast 0.5…1.5, before or after the next two; saturation 0.5…1.5; hue ±18°; the channels in
    one of their six orders. Values beyond the range are cut off (ReferFormer's wrap round to the other end).

    Args:
        frames: uint8 ``[T, 3, H, W]`` in channels-last memory.
    """
    images = frames.permute(0, 2, 3, 1).contiguous().numpy()
    changed = np.stack([_distort_image(image, rng) for image in images])
    return torch.from_numpy(changed).permute(0, 3, 1, 2)


def _distort_image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """uint8 RGB ``[H, W, 3]`` to the same shape."""
    brighter, contrasted, saturated, tinted, permuted = rng.random(5) < 0.5
    brightness, hue = rng.uniform(-_BRIGHTNESS, _BRIGHTNESS), rng.uniform(-_HUE, _HUE)
    contrast, saturation = rng.uniform(*_FACTORS, 2)
    contrast_first = rng.random() < 0.5
    order = rng.permutation(3)

    levels = np.arange(256)
    first = levels + brightness * brighter
    last = levels * (contrast if contrasted else 1)
    if contrast_first:
        first, last = first * (contrast if contrasted else 1), levels

    pixels = look_up(image, first)
    if saturated or tinted:
        hues = (levels + round(hue / 360 * 256) * tinted) % 256
        saturations = levels * (saturation if saturated else 1)
        hsv = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV_FULL)  # this conversion spreads the hue over all 256 levels
        pixels = cv2.cvtColor(look_up(hsv, hues, saturations, levels), cv2.COLOR_HSV2RGB_FULL)
    pixels = look_up(pixels, last)
    return pixels[..., order] if permuted else pixels


def look_up(pixels: np.ndarray, *tables: np.ndarray) -> np.ndarray:
    """Replaces the values of uint8 ``[H, W, 3]`` by one table of 256 numbers, or by one for each channel."""
    table = np.stack(tables, axis=-1).clip(0, 255).round().astype(np.uint8)
    return cv2.LUT(pixels, table[None])


class TrainTransform:
    """The augmentation of the training recipes.

    Args:
        sizes: short sides to choose from, in pixels.
        max_size: limit of the long side.
        flip: mirror half of the clips, and exchange left and right in their expressions. Clips where that is uncertain
            for an expression are not mirrored (:func:`swap_sides`).
        random_crop: crop half of the steps' clips.
        photometric: distort the colours.
        crop_sizes, crop_max_size: sizes and limit of cropped clips; None: as for whole ones.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        max_size: int,
        *,
        flip: bool,
        random_crop: bool,
        photometric: bool,
        crop_sizes: Sequence[int] | None = None,
        crop_max_size: int | None = None,
    ) -> None:
        self.sizes, self.max_size = tuple(sizes), max_size
        self.crop_sizes, self.crop_max_size = tuple(crop_sizes or sizes), crop_max_size or max_size
        self.flip, self.random_crop, self.photometric = flip, random_crop, photometric

    def draw_size(self, height: int, width: int, shared: np.random.Generator) -> tuple[Size, Size | None]:
        """Height and width after resizing, and those of the crop before it; None: the whole frame."""
        whole, cropped = (int(shared.choice(sizes)) for sizes in (self.sizes, self.crop_sizes))
        if not (self.random_crop and shared.random() < 0.5):
            return fitted_size(height, width, whole, self.max_size), None
        crop = draw_crop_shape(height, width, shared)
        return fitted_size(*crop, cropped, self.crop_max_size), crop

    def largest_size(self, height: int, width: int) -> tuple[Size, Size | None]:
        """About the largest size that :meth:`draw_size` draws, in pixels."""
        drawn = [(fitted_size(height, width, max(self.sizes), self.max_size), None)]
        for crop in crop_shapes(height, width) if self.random_crop else []:
            drawn.append((fitted_size(*crop, max(self.crop_sizes), self.crop_max_size), crop))
        return max(drawn, key=lambda sizes: math.prod(sizes[0]))

    def __call__(
        self,
        frames: Tensor,
        masks: Tensor,
        texts: list[str],
        shared: np.random.Generator,
        own: np.random.Generator,
    ) -> tuple[Tensor, Tensor, list[str]]:
        """Transforms a clip.

        Args:
            frames: uint8 ``[T, 3, H, W]``.
            masks: uint8 ``[T, E, H, W]``, of any number of objects.
            texts: its expressions.
            shared: generator of the choices that the clips of a batch share.
            own: generator of this clip's choices.

        Returns:
            float32 ``[T, 3, h, w]`` normalised frames, uint8 ``[T, E, h, w]`` masks and the expressions.
        """
        size, crop = self.draw_size(*frames.shape[-2:], shared)
        if crop:
            height, width = crop
            top, left = (
                int(own.integers(0, s - c + 1)) for s, c in zip(frames.shape[-2:], (height, width), strict=True)
            )
            frames, masks = (x[..., top : top + height, left : left + width] for x in (frames, masks))
        frames = resize_frames(frames, size)
        masks = F.resize(masks, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
        if self.flip and own.random() < 0.5:
            swapped = [swap_sides(text) for text in texts]
            if None not in swapped:  # otherwise the clip stays as it is
                frames, masks, texts = F.horizontal_flip(frames), F.horizontal_flip(masks), swapped
        if self.photometric:
            frames = distort_colours(frames, own)
        return normalise(frames), masks, texts
