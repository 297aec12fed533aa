"""Run-length encoded masks as COCO has them: runs of 0 and 1 in turn, down the columns.

pycocotools writes the same form. Its decoder leaves random pixels where the runs end too early, so masks from a
download are read here, where this is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco


@dataclass(frozen=True)
class Rle:
    """A mask in compressed form.

    Attributes:
        size: height and width in pixels.
        counts: the runs; see :func:`run_lengths`.
    """

    size: tuple[int, int]
    counts: bytes

    def as_coco(self) -> dict:
        """As COCO's files have it: ``{"size": [height, width], "counts": text}``."""
        return {"size": list(self.size), "counts": self.counts.decode("ascii")}


def run_lengths(rle: Rle) -> np.ndarray:
    """int64 ``[n]``, the lengths of the runs, the first of them of 0.

    A number is written in groups of 5 bits, the lowest first: a character is 48 + group, + 32 where more groups
    follow; bit 16 of the last group is the sign. From the fourth number on, it is the difference to the last but one.

    Raises:
        ValueError: the runs do not fill the image exactly, or the characters are none of these.
    """
    codes = np.frombuffer(rle.counts, np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("its counts are no compressed COCO RLE")
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate(([0], last[:-1] + 1))
    if (last - first).max() > 6:
        raise ValueError("its counts are no compressed COCO RLE")
    place = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * place), first)
    numbers -= np.where(codes[last] & 16, 1 << (5 * (last - first + 1)), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    height, width = rle.size
    if numbers.min() < 0 or numbers.sum() != height * width:
        raise ValueError(f"its runs do not fill {width}x{height} pixels exactly")
    return numbers


def is_blank(rle: Rle) -> bool:
    """Whether the mask has no pixel. Raises as :func:`run_lengths`."""
    return not run_lengths(rle)[1::2].any()


def decode(rle: Rle) -> np.ndarray:
    """bool ``[H, W]``. Raises as :func:`run_lengths`."""
    runs = run_lengths(rle)
    height, width = rle.size
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def parse(segmentation: object, size: tuple[int, int]) -> Rle:
    """A mask in any of COCO's three forms: polygons, compressed or uncompressed run lengths.

    Args:
        segmentation: from a JSON file.
        size: height and width of the image.

    Raises:
        ValueError: it has none of the forms, or is not of this size.
    """
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, size)
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, str | list):
        raise ValueError('a mask is a list of polygons, or run lengths with "size" and "counts"')
    if segmentation.get("size") != list(size):
        raise ValueError(f"the mask is of size {segmentation.get('size')}, its image of {list(size)}")
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != size[0] * size[1]:
            raise ValueError(f"its runs do not fill {size[1]}x{size[0]} pixels exactly")
        counts = coco.frPyObjects(segmentation, *size)["counts"]
    rle = Rle(tuple(size), counts if isinstance(counts, bytes) else counts.encode())
    run_lengths(rle)
    return rle


def _from_polygons(polygons: Sequence, size: tuple[int, int]) -> Rle:
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(isinstance(x, int | float) for x in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2 or not np.isfinite(polygon).all():
            raise ValueError("a polygon is a list of numbers, x and y in turn, of at least three corners")
    if not polygons:
        raise ValueError("there is no polygon")
    return Rle(tuple(size), coco.merge(coco.frPyObjects(polygons, *size))["counts"])
