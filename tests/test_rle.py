"""Run-length encoded masks against pycocotools, and what damaged ones say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from util.rle import Rle, decode, is_blank, run_lengths


def encoded(mask: np.ndarray) -> Rle:
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return Rle(tuple(rle["size"]), rle["counts"])


def test_by_hand():
    """Two columns of three pixels: one of 0, two of 1, then three of 0."""
    rle = Rle((3, 2), b"123")
    assert run_lengths(rle).tolist() == [1, 2, 3]
    assert decode(rle, "here").astype(int).tolist() == [[0, 0], [1, 0], [1, 0]]
    assert not is_blank(rle)
    assert is_blank(Rle((3, 2), b"6"))
    # The fourth number is the difference to the second: -1 is one group, 31, whose bit 16 is the sign.
    assert run_lengths(Rle((1, 7), b"123O")).tolist() == [1, 2, 3, 1]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 60), st.sampled_from((0, 0.01, 0.5, 0.99, 1)))
def test_reads_what_pycocotools_writes(seed, height, width, share):
    mask = np.random.default_rng(seed).random((height, width)) < share
    assert np.array_equal(decode(encoded(mask), "here"), mask)
    assert is_blank(encoded(mask)) == (not mask.any())


def test_long_runs():
    mask = np.zeros((1080, 1920), bool)
    mask[500:, 700:1900] = True
    assert np.array_equal(decode(encoded(mask), "here"), mask)


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
    with pytest.raises(ValueError, match=f"masks.json: annotation 3: the mask is damaged: .*{message}"):
        decode(Rle(size, counts), "masks.json: annotation 3")
