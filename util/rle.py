"""Run-length encoded masks, the compressed form of COCO: runs of 0 and 1 in turn, down the columns.

pycocotools writes the same form. Its decoder leaves random pixels where the runs end too early, so masks from a
download are read here, where this is an error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Rle:
    """A mask in compressed form.

    Attributes:
        size: height and width in pixels.
        counts: the runs; see :func:`run_lengths`.
    """

    size: tuple[int, int]
    counts: bytes


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


def decode(rle: Rle, where: str) -> np.ndarray:
    """bool ``[H, W]``. Raises ValueError as :func:`run_lengths`; ``where`` names the mask in the message."""
    try:
        runs = run_lengths(rle)
    except ValueError as error:
        raise ValueError(f"{where}: the mask is damaged: {error}; download the file again (docs/data.md)") from error
    height, width = rle.size
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T
