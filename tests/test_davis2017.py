"""J and F against the reference toolkit's recorded numbers, a literal implementation, and their own symmetries."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from davis2017.label_maps import ids_in
from davis2017.metrics import PreparedMask, db_eval_boundary, db_eval_iou, db_statistics, jf
from tests.helpers import ROOT

GOLDEN = json.loads((ROOT / "tests/golden/jf_cases.json").read_text())


@pytest.fixture(scope="module")
def golden_masks():
    with np.load(ROOT / "tests/golden/jf_cases.npz") as packed:
        yield packed


def _unpack(packed, case: dict, name: str) -> np.ndarray:
    size = case["h"] * case["w"]
    return np.unpackbits(packed[f"{case['name']}/{name}"], count=size).reshape(case["h"], case["w"]).astype(bool)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_reference_toolkit_cases(case, golden_masks):
    truth, predicted = (_unpack(golden_masks, case, name) for name in ("gt", "pred"))
    void = _unpack(golden_masks, case, "void") if case["void"] else None
    assert db_eval_iou(truth, predicted, void) == pytest.approx(case["J"], abs=1e-9)
    assert db_eval_boundary(truth, predicted, void) == pytest.approx(case["F"], abs=1e-9)
    prepared = PreparedMask(truth, void).jf(PreparedMask(predicted, void))
    assert prepared == pytest.approx((case["J"], case["F"]), abs=1e-9)


@pytest.mark.parametrize("case", GOLDEN["statistics"], ids=lambda case: f"{len(case['values'])} frames")
def test_reference_toolkit_statistics(case):
    expected = (case["mean"], case["recall"], case["decay"])
    assert db_statistics(np.array(case["values"])) == pytest.approx(expected, abs=1e-9)


def test_decay_of_a_long_sequence_compares_its_own_quarters():
    values = np.concatenate([np.ones(250), np.zeros(750)])
    assert db_statistics(values)[2] == pytest.approx(250 / 251, abs=1e-9)


def _literal_boundary(mask: np.ndarray) -> np.ndarray:
    height, width = mask.shape
    boundary = np.zeros_like(mask)
    for y in range(height):
        for x in range(width):
            neighbours = [(y, x + 1), (y + 1, x), (y + 1, x + 1)]
            if x == width - 1 or y == height - 1:
                neighbours = [(y, x + 1)] if x < width - 1 else [(y + 1, x)] if y < height - 1 else []
            boundary[y, x] = any(mask[n] != mask[y, x] for n in neighbours)
    return boundary


def _literal_f(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray, bound_th: float) -> float:
    """The definition word for word, on the whole image."""
    radius = math.ceil(bound_th * math.sqrt(truth.shape[0] ** 2 + truth.shape[1] ** 2))
    offsets = np.arange(-radius, radius + 1)
    disk = offsets[:, None] ** 2 + offsets**2 <= radius**2
    a, b = _literal_boundary(truth & ~void), _literal_boundary(predicted & ~void)
    if not a.any() and not b.any():
        return 1.0
    if not a.any() or not b.any():
        return 0.0
    recall = (a & ndimage.binary_dilation(b, disk)).sum() / a.sum()
    precision = (b & ndimage.binary_dilation(a, disk)).sum() / b.sum()
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


@st.composite
def _scenes(draw):
    """Truth, prediction and void of one size: boxes, noise or nothing, so that edges and corners of images occur."""
    shape = draw(st.tuples(st.integers(1, 24), st.integers(1, 24)))

    def mask() -> np.ndarray:
        if draw(st.booleans()):
            return draw(hnp.arrays(bool, shape))
        out = np.zeros(shape, bool)
        y, x = (draw(st.integers(0, size - 1)) for size in shape)
        out[y : draw(st.integers(y, shape[0])), x : draw(st.integers(x, shape[1]))] = True
        return out

    return mask(), mask(), mask() & draw(hnp.arrays(bool, shape))


@settings(max_examples=150, deadline=None)
@given(_scenes(), st.sampled_from([0.008, 0.05, 0.2]))
def test_equals_the_literal_definition(scene, bound_th):
    truth, predicted, void = scene
    assert db_eval_boundary(truth, predicted, void, bound_th) == pytest.approx(
        _literal_f(truth, predicted, void, bound_th), abs=1e-12
    )
    union = ((truth | predicted) & ~void).sum()
    expected = (truth & predicted & ~void).sum() / union if union else 1.0
    assert db_eval_iou(truth, predicted, void) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(_scenes())
def test_symmetric_bounded_and_one_for_equal_masks(scene):
    truth, predicted, void = scene
    scores = jf(truth, predicted, void)
    assert scores == pytest.approx(jf(predicted, truth, void), abs=1e-12)
    assert all(0 <= score <= 1 for score in scores)
    assert jf(truth, truth, void) == (1.0, 1.0)


@pytest.mark.parametrize("radius", [1, 2, 3, 5, 8, 13, 21, 40])
def test_near_is_all_within_the_radius_of_the_boundary(radius):
    """Of a few pixels, some at the edges of the image, whose distances to all others are worked out one by one."""
    mask = np.zeros((31, 43), bool)
    mask[[0, 4, 30, 17], [0, 42, 21, 11]] = True
    prepared = PreparedMask(mask, bound_th=radius)
    height, width = prepared.mask.shape
    window = np.s_[prepared.top : prepared.top + height, prepared.left : prepared.left + width]
    boundary, near = np.zeros_like(mask), np.zeros_like(mask)
    boundary[window], near[window] = prepared.boundary, prepared.near
    y, x = np.nonzero(boundary)
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    distances = (rows[..., None] - y) ** 2 + (columns[..., None] - x) ** 2
    assert np.array_equal(near, (distances <= radius**2).any(-1))


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_ids_of_a_label_map(labels):
    before = labels.copy()
    assert ids_in(labels) == set(labels.ravel().tolist()) - {0}
    assert np.array_equal(labels, before)


def test_void_pixels_do_not_count():
    truth = np.zeros((40, 60), bool)
    truth[10:20, 10:30] = True
    void = np.zeros_like(truth)
    void[25:35, 40:55] = True
    assert jf(truth, truth | void, void) == (1.0, 1.0)
    assert max(jf(truth, truth | void)) < 1


def test_a_stack_gives_one_score_per_frame():
    rng = np.random.default_rng(0)
    truth, predicted = rng.random((2, 5, 30, 40)) > 0.7
    truth[3] = predicted[3] = False
    for measure in (db_eval_iou, db_eval_boundary):
        scores = measure(truth, predicted)
        assert scores.shape == (5,) and scores.dtype == np.float64
        assert scores.tolist() == [measure(truth[t], predicted[t]) for t in range(5)]
        assert isinstance(measure(truth[0], predicted[0]), float)
        assert scores[3] == 1


def test_labels_and_bools_are_the_same_mask():
    mask = np.zeros((20, 20), np.int64)
    mask[5:10, 5:10] = 7
    assert jf(mask, mask > 0) == (1.0, 1.0)


def test_tolerance_in_pixels():
    a, b = np.zeros((2, 50, 50), bool)
    a[10:20, 10:20] = True
    b[10:20, 13:23] = True
    assert db_eval_boundary(a, b, bound_th=3) == 1
    assert db_eval_boundary(a, b, bound_th=2) < 1


@pytest.mark.parametrize("measure", [db_eval_iou, db_eval_boundary])
def test_shapes_that_do_not_fit(measure):
    mask = np.zeros((8, 9), bool)
    with pytest.raises(ValueError, match=r"segmentation is \[9, 8\]"):
        measure(mask, mask.T)
    with pytest.raises(ValueError, match="void_pixels is"):
        measure(mask, mask, mask[:4])
    with pytest.raises(ValueError, match=r"not \[8\]"):
        measure(mask[:, 0], mask[:, 0])


def test_prepared_masks_of_other_images_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        PreparedMask(np.ones((8, 9))).iou(PreparedMask(np.ones((9, 8))))
    with pytest.raises(ValueError, match="tolerance"):
        PreparedMask(np.eye(9), bound_th=1).boundary_f(PreparedMask(np.eye(9), bound_th=2))


@pytest.mark.parametrize("bound_th", [-0.1, math.nan, math.inf])
def test_tolerance_must_be_a_number(bound_th):
    with pytest.raises(ValueError, match="bound_th"):
        db_eval_boundary(np.eye(4), np.eye(4), bound_th=bound_th)


@pytest.mark.parametrize("values", [[], [[0.5]]])
def test_statistics_need_values(values):
    with pytest.raises(ValueError, match="at least one"):
        db_statistics(values)
