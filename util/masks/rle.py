"""Run-length encoded masks as COCO has them: runs of 0 and 1 in turn, down the columns.

pycocotools writes the same form. Where the runs end too early its decoder leaves random pixels. So masks from downloads
are decoded here, where this is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from util.files.reading import shown

# The most pixels of a mask: no larger picture is opened by Pillow (twice Image.MAX_IMAGE_PIXELS). pycocotools needs a
# bound, too: from 2 ** 29 on it writes beyond its memory (rleToString in common/maskApi.c of
# github.com/ppwwyyxx/cocoapi takes six characters of 5 bits for a run).
MOST_PIXELS = 178_956_970
# The largest coordinate of a corner of a polygon, and the longest way around all polygons of a mask, in pixels.
# pycocotools makes five points for each pixel of the way (rleFrPoly in the same file), 20 bytes each.
FARTHEST = 1e5
LONGEST = 1e6
# The most polygons of a mask: merging them takes a time that grows with the square of their number, a second for these.
MOST_POLYGONS = 10_000


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
    """The lengths of the runs, int64 ``[n]``; the first run is of zeros.

    A number is written in groups of 5 bits, the lowest group first. Each group is a character of code 48 + group, or
    48 + 32 + group if more groups follow. The highest bit of the last group is the sign. From the fourth run on, the
    number is the difference to the run two places before.

    Raises:
        ValueError: the runs do not fill the image exactly, a character is not of this code, or the image is too large.
    """
    require_size(rle.size)
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
    # each by itself first, because the sum of numbers up to 2 ** 63 may be any number
    if numbers.min() < 0 or numbers.max() > height * width or numbers.sum() != height * width:
        raise ValueError(f"its runs do not fill {width}x{height} pixels exactly")
    return numbers


def require_size(size: object) -> None:
    """Raises ValueError unless this is the height and width of a mask that can be read."""
    numbers = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int for side in size)
    if not numbers or min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise ValueError(
            f"a mask is of at least 1 and at most {MOST_PIXELS:,} pixels, with whole numbers as height and width, not "
            f"of size {shown(size)}"
        )


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

    Polygons with fewer than three corners, or with an odd number of coordinates, are left out.

    Args:
        segmentation: from a JSON file.
        size: height and width of the image.

    Raises:
        ValueError: the mask has another form or size, or none of its polygons has three corners.
    """
    require_size(size)
    if isinstance(segmentation, list):
        return _from_polygons(segmentation, size)
    counts = segmentation.get("counts") if isinstance(segmentation, dict) else None
    if not isinstance(counts, str | list):
        raise ValueError('a mask is a list of polygons, or run lengths with "size" and "counts"')
    if segmentation.get("size") != list(size):
        raise ValueError(f"the mask is of size {shown(segmentation.get('size'))}, its image of {list(size)}")
    if isinstance(counts, list):
        if not all(type(run) is int and run >= 0 for run in counts) or sum(counts) != size[0] * size[1]:
            raise ValueError(f"its runs do not fill {size[1]}x{size[0]} pixels exactly")
        counts = coco.frPyObjects(segmentation, *size)["counts"]
    rle = Rle(tuple(size), counts if isinstance(counts, bytes) else counts.encode(errors="surrogatepass"))
    run_lengths(rle)
    return rle


def _is_area(polygon: list) -> bool:
    return len(polygon) >= 6 and len(polygon) % 2 == 0


def count_unusable(segmentation: object) -> int:
    """The number of polygons that :func:`parse` leaves out; 0 for the other forms."""
    polygons = segmentation if isinstance(segmentation, list) else ()
    return sum(isinstance(polygon, list) and not _is_area(polygon) for polygon in polygons)


def usable(segmentation: object) -> object:
    """A segmentation without the polygons that :func:`parse` leaves out; an empty list if no polygon is left.

    Detectron2 leaves out the same polygons (load_coco_json in detectron2/data/datasets/coco.py of
    github.com/facebookresearch/detectron2).

    Raises ValueError where a polygon is not made of numbers, or too long.
    """
    if not isinstance(segmentation, list):
        return segmentation
    for polygon in segmentation:
        # a corner that is a billion pixels away makes pycocotools crash the process
        if not isinstance(polygon, list) or not all(type(x) in (int, float) and abs(x) <= FARTHEST for x in polygon):
            raise ValueError("a polygon is a list of numbers, x and y in turn, of at least three corners")
    areas = [polygon for polygon in segmentation if _is_area(polygon)]
    if len(areas) > MOST_POLYGONS:
        raise ValueError(f"it has more than {MOST_POLYGONS:,} polygons")
    if sum(map(_way, areas)) > LONGEST:
        raise ValueError(f"the way around its polygons is longer than {LONGEST:,.0f} pixels")
    return areas


def _way(polygon: list) -> float:
    """The way from corner to corner, and back to the first, in the larger of its two directions."""
    corners = np.array([*polygon, *polygon[:2]], float).reshape(-1, 2)
    return float(np.abs(np.diff(corners, axis=0)).max(1).sum())


def _from_polygons(polygons: Sequence, size: tuple[int, int]) -> Rle:
    pieces = usable(polygons)
    if not pieces:
        raise ValueError("none of its polygons has three corners" if polygons else "there is no polygon")
    return Rle(tuple(size), coco.merge(coco.frPyObjects(pieces, *size))["counts"])
