"""Run-length encoded masks against pycocotools, and what damaged ones say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from tests import mini_refcoco
from util.masks.rle import Rle, decode, is_blank, parse, run_lengths


def encoded(mask: np.ndarray) -> Rle:
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Rle(tuple(rle["size"]), rle["counts"])


def test_by_hand():
    """Two columns of three pixels: one of 0, two of 1, then three of 0."""
    rle = Rle((3, 2), b"123")
    assert run_lengths(rle).tolist() == [1, 2, 3]
    assert decode(rle).astype(int).tolist() == [[0, 0], [1, 0], [1, 0]]
    assert not is_blank(rle)
    assert is_blank(Rle((3, 2), b"6"))
    # The fourth number is the difference to the second: -1 is one group, 31, whose bit 16 is the sign.
    assert run_lengths(Rle((1, 7), b"123O")).tolist() == [1, 2, 3, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.sampled_from((0, 0.01, 0.5, 0.99, 1)))
def test_reads_what_pycocotools_writes(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(decode(encoded(mask)), mask)
    assert is_blank(encoded(mask)) == (not mask.any())


def test_long_runs():
    mask = np.zeros((1080, 1920), bool)
    mask[500:, 700:1900] = True
    assert np.array_equal(decode(encoded(mask)), mask)


@pytest.mark.parametrize(
    ("size", "counts", "message"),
    [
        ((3, 3), b"123", "do not fill 3x3 pixels"),
        ((3, 1), b"123", "do not fill 1x3 pixels"),
        ((3, 2), b"", "no compressed COCO RLE"),
        ((3, 2), b"12 3", "no compressed COCO RLE"),
        ((3, 2), b"12q", "no compressed COCO RLE"),
        ((3, 2), b"12S", "no compressed COCO RLE"),
        ((3, 2), b"oooooooo0", "no compressed COCO RLE"),
        # runs of 1, 2, 3 and, three less than 2, of -1 pixels
        ((1, 5), b"123M", "do not fill 5x1 pixels"),
    ],
)
def test_damaged_masks_are_refused(size, counts, message):
    for read in (decode, is_blank, lambda rle: parse(rle.as_coco(), size)):
        with pytest.raises(ValueError, match=message):
            read(Rle(size, counts))


SIZE = (48, 64)
MASK = np.zeros(SIZE, bool)
MASK[10:30, 21:40] = True


@pytest.mark.parametrize("mask", [MASK, ~MASK, np.zeros(SIZE, bool), np.ones(SIZE, bool)])
def test_both_kinds_of_run_lengths_are_one_mask(mask):
    uncompressed = {"size": list(SIZE), "counts": mini_refcoco.run_lengths(mask)}
    for segmentation in (uncompressed, encoded(mask).as_coco()):
        assert np.array_equal(decode(parse(segmentation, SIZE)), mask)


def test_polygons_are_one_mask():
    """COCO rounds a polygon's corners to pixels in a way of its own: a side may be off by a pixel."""
    halves = [[x, 10, x + 10, 10, x + 10, 30, x, 30] for x in (20.5, 30.5)]
    found = decode(parse(halves, SIZE))
    assert (found != MASK).sum() <= 2 * 20
    assert np.array_equal(found, decode(parse(halves[:1], SIZE)) | decode(parse(halves[1:], SIZE)))


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "a list of polygons"),
        ("123", "a list of polygons"),
        ([], "no polygon"),
        ([[1, 2, 3, 4]], "three corners"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three corners"),
        ([[1, 2, 3, 4, 5, float("nan")]], "three corners"),
        ([1, 2, 3, 4, 5, 6], "three corners"),
        ([["a", 2, 3, 4, 5, 6]], "three corners"),
        ({"size": [3, 3], "counts": [9]}, r"of size \[3, 3\], its image of \[48, 64\]"),
        ({"size": [48, 64]}, '"counts"'),
        ({"size": [48, 64], "counts": [7, 3]}, "do not fill 64x48"),
        ({"size": [48, 64], "counts": [-1, 3073]}, "do not fill 64x48"),
        ({"size": [48, 64], "counts": [3072.0]}, "do not fill 64x48"),
        ({"size": [48, 64], "counts": "zz"}, "no compressed COCO RLE"),
        ({"size": [48, 64], "counts": "e:?Q1\u00e9"}, "no compressed COCO RLE"),
        ({"size": [48, 64], "counts": "e:?Q10000000"}, "do not fill 64x48"),
    ],
)
def test_what_is_no_mask_is_refused(segmentation, message):
    with pytest.raises(ValueError, match=message):
        parse(segmentation, SIZE)
