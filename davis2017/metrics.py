"""Region similarity J and contour accuracy F of masks, and their statistics over a sequence.

Names, arguments and numbers are those of the DAVIS 2017 reference toolkit. Definitions: Perazzi et al., "A Benchmark
Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np


@cache
def _disk(radius: int) -> list[tuple[int, int]]:
    """The disk of distances up to ``radius`` as a union of rectangles: half their heights and widths, flattest last."""
    heights = {math.isqrt(radius * radius - y * y): y for y in range(radius + 1)}
    return sorted(((height, width) for width, height in heights.items()), reverse=True)


def _spread(flat: np.ndarray, reach: int, step: int) -> np.ndarray:
    """``[n - 2·reach·step]``: at i the union of ``flat`` at i, i + step, … i + 2·reach·step.

    This is everything up to ``reach`` steps away from i + reach·step. It takes as many passes as 2·reach + 1 has bits.
    """
    covered, wanted = 1, 2 * reach + 1
    while covered < wanted:
        further = min(covered, wanted - covered)
        flat = flat[: -further * step] | flat[further * step :]
        covered += further
    return flat


def _within(mask: np.ndarray, radius: int) -> np.ndarray:
    """bool ``[h, w]``: where ``mask`` is True at most ``radius`` pixels away.

    Dilation by a disk. Its rectangles are nested, so each goes on from the result of the one before. That takes tens of
    passes over the window, instead of one pass for each pixel of the disk.
    """
    height, width = mask.shape
    # One line, with empty rows at both ends, and between two rows a gap that neither can spread across.
    rows = np.zeros((height + 2 * radius, width + radius), bool)
    rows[radius : radius + height, :width] = mask
    wide, stride = rows.ravel(), rows.shape[1]
    # `out` begins `above` rows, `wide` `aside` pixels further on than the line.
    out, above, (up, aside) = wide, 0, _disk(radius)[0]
    for next_up, next_aside in _disk(radius)[1:]:
        wide = _spread(wide, next_aside - aside, 1)
        out = _spread(out, up - next_up, stride)
        above, up, aside = above + up - next_up, next_up, next_aside
        out |= wide[above * stride - aside :][: len(out)]
    return out.reshape(height, stride)[:, :width]


def _tolerance(shape: tuple[int, ...], bound_th: float) -> int:
    """How far apart matching boundary pixels may be, in pixels; ``bound_th`` below 1 is a share of the diagonal."""
    if not 0 <= bound_th < math.inf:
        raise ValueError(f"bound_th must be a share of the image diagonal or a number of pixels, not {bound_th}")
    return math.ceil(bound_th if bound_th >= 1 else bound_th * math.hypot(*shape))


class PreparedMask:
    """A mask prepared for comparisons: its boundary and dilated boundary are computed once for many of them.

    Only a window around the object is kept: outside of it the mask, its boundary and the dilated boundary are empty.

    Attributes:
        shape: height and width of the whole image.
        radius: tolerance of the boundary measure, in pixels.
        top, left: where the window begins in the image.
        area: pixels of the mask.
        length: pixels of its boundary.
        mask, boundary, near: bool ``[h, w]``, the window of the mask, of its boundary and of the pixels within
            ``radius`` of the boundary.
    """

    def __init__(self, mask: np.ndarray, void_pixels: np.ndarray | None = None, bound_th: float = 0.008):
        """
        Args:
            mask: bool or number ``[H, W]``, the object where not zero.
            void_pixels: bool or number ``[H, W]``, pixels that do not count; they are taken out of the mask.
            bound_th: tolerance as a share of the image diagonal, or in pixels from 1 up.

        Raises:
            ValueError: for shapes that are not ``[H, W]`` or that differ.
        """
        mask = np.asarray(mask).astype(bool, copy=False)
        if mask.ndim != 2 or mask.size == 0:
            raise ValueError(f"a mask is [H, W], not {list(mask.shape)}")
        if void_pixels is not None:
            mask = mask & ~_like(mask, void_pixels, "void_pixels")
        self.shape = mask.shape
        self.radius = _tolerance(mask.shape, bound_th)

        rows = np.flatnonzero(mask.any(1))
        if not len(rows):
            self.top = self.left = self.area = self.length = 0
            self.mask = self.boundary = self.near = mask[:0, :0]
            return
        columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(0))
        # The boundary lies up to one pixel left of and above the mask.
        margin = self.radius + 1
        self.top, self.left = (max(int(first) - margin, 0) for first in (rows[0], columns[0]))
        window = np.s_[self.top : rows[-1] + 1 + margin, self.left : columns[-1] + 1 + margin]
        self.mask = np.ascontiguousarray(mask[window])
        # A pixel is on the boundary when it and its right, lower and lower-right neighbours are not all the same;
        # OpenCV leaves out the neighbours beyond the image.
        boundary = cv2.morphologyEx(
            self.mask.view(np.uint8), cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8), anchor=(0, 0)
        )
        self.boundary = boundary.view(bool)
        self.near = _within(self.boundary, self.radius)
        self.area = int(np.count_nonzero(self.mask))
        self.length = int(np.count_nonzero(boundary))

    def iou(self, other: PreparedMask) -> float:
        """J: intersection over union, 1 where both masks are empty."""
        here, there = self._shared_window(other)
        intersection = int(np.count_nonzero(self.mask[here] & other.mask[there]))
        union = self.area + other.area - intersection
        return intersection / union if union else 1.0

    def boundary_f(self, other: PreparedMask) -> float:
        """F: harmonic mean of the shares of either boundary that lie within the tolerance of the other.

        1 where neither mask has a boundary, 0 where only one has.
        """
        if not self.length or not other.length:
            return float(self.length == other.length)
        here, there = self._shared_window(other)
        own = int(np.count_nonzero(self.boundary[here] & other.near[there])) / self.length
        others = int(np.count_nonzero(other.boundary[there] & self.near[here])) / other.length
        return 2 * own * others / (own + others) if own + others else 0.0

    def jf(self, other: PreparedMask) -> tuple[float, float]:
        """J and F against another mask of the same image size and tolerance."""
        return self.iou(other), self.boundary_f(other)

    def _shared_window(self, other: PreparedMask) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Where both windows overlap: the slices into this mask's window and into the other's."""
        if self.shape != other.shape or self.radius != other.radius:
            raise ValueError(
                f"masks of {self.shape} pixels with tolerance {self.radius} and of {other.shape} pixels with "
                f"tolerance {other.radius} cannot be compared"
            )
        here, there = [], []
        for a, b, a_size, b_size in zip(
            (self.top, self.left), (other.top, other.left), self.mask.shape, other.mask.shape, strict=True
        ):
            start = max(a, b)
            stop = max(start, min(a + a_size, b + b_size))
            here.append(slice(start - a, stop - a))
            there.append(slice(start - b, stop - b))
        return tuple(here), tuple(there)


def _like(reference: np.ndarray, other: np.ndarray, name: str) -> np.ndarray:
    """``other`` as bool, refused where its shape is not that of ``reference``."""
    other = np.asarray(other)
    if other.shape != reference.shape:
        raise ValueError(f"{name} is {list(other.shape)}, but the annotation is {list(reference.shape)}")
    return other.astype(bool, copy=False)


def _pair(annotation, segmentation, void_pixels) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    annotation = np.asarray(annotation).astype(bool, copy=False)
    if annotation.ndim not in (2, 3):
        raise ValueError(f"masks are [H, W] or [T, H, W], not {list(annotation.shape)}")
    void = None if void_pixels is None else _like(annotation, void_pixels, "void_pixels")
    return annotation, _like(annotation, segmentation, "segmentation"), void


def db_eval_iou(
    annotation: np.ndarray, segmentation: np.ndarray, void_pixels: np.ndarray | None = None
) -> float | np.ndarray:
    """Region similarity J: intersection over union, 1 where both masks are empty.

    Args:
        annotation: bool or number ``[H, W]`` or ``[T, H, W]``, the object where not zero.
        segmentation: the prediction, same shape.
        void_pixels: same shape, pixels that do not count.

    Returns:
        A float, or float64 ``[T]``.

    Raises:
        ValueError: where the shapes differ or are neither of the two.
    """
    annotation, segmentation, void = _pair(annotation, segmentation, void_pixels)
    intersection, union = annotation & segmentation, annotation | segmentation
    if void is not None:
        intersection, union = intersection & ~void, union & ~void
    shared = np.count_nonzero(intersection, axis=(-2, -1))
    total = np.count_nonzero(union, axis=(-2, -1))
    iou = np.where(total == 0, 1.0, shared / np.maximum(total, 1))
    return float(iou) if annotation.ndim == 2 else iou


def db_eval_boundary(
    annotation: np.ndarray, segmentation: np.ndarray, void_pixels: np.ndarray | None = None, bound_th: float = 0.008
) -> float | np.ndarray:
    """Contour accuracy F: 1 where neither mask has a boundary, 0 where only one has.

    Args:
        annotation: bool or number ``[H, W]`` or ``[T, H, W]``, the object where not zero.
        segmentation: the prediction, same shape.
        void_pixels: same shape, pixels taken out of both masks first.
        bound_th: how far apart matching boundary pixels may be, as a share of the image diagonal (rounded up to
            whole pixels), or in pixels from 1 up.

    Returns:
        A float, or float64 ``[T]``.

    Raises:
        ValueError: where the shapes differ or are neither of the two.
    """
    annotation, segmentation, void = _pair(annotation, segmentation, void_pixels)

    def one_frame(index) -> float:
        frame_void = None if void is None else void[index]
        return PreparedMask(annotation[index], frame_void, bound_th).boundary_f(
            PreparedMask(segmentation[index], frame_void, bound_th)
        )

    if annotation.ndim == 2:
        return one_frame(...)
    return np.array([one_frame(t) for t in range(len(annotation))], dtype=np.float64)


def jf(
    annotation: np.ndarray, segmentation: np.ndarray, void_pixels: np.ndarray | None = None
) -> tuple[float | np.ndarray, float | np.ndarray]:
    """J and F together; see :func:`db_eval_iou` and :func:`db_eval_boundary`."""
    return (
        db_eval_iou(annotation, segmentation, void_pixels),
        db_eval_boundary(annotation, segmentation, void_pixels),
    )


def db_statistics(per_frame_values: np.ndarray) -> tuple[float, float, float]:
    """Mean, recall and decay of a measure over the frames of a sequence.

    Recall is the share of frames above 0.5; decay is the mean of the first quarter minus that of the last, the
    quarters sharing the frames at their borders. The reference toolkit holds frame numbers in 8 bits and so mixes up
    the quarters of sequences beyond 256 frames; here these are right.

    Args:
        per_frame_values: ``[T]``, T at least 1; NaN frames are left out of the means, as in the reference.
    """
    values = np.asarray(per_frame_values, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"statistics need a list of at least one value, not {list(values.shape)}")
    borders = np.round(np.linspace(1, len(values), 5) + 1e-10).astype(int) - 1
    first, last = values[: borders[1] + 1], values[borders[3] :]
    return (
        float(np.nanmean(values)),
        float(np.mean(values > 0.5)),
        float(np.nanmean(first) - np.nanmean(last)),
    )
