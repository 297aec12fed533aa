"""Scores of single frames: the reference implementation's numbers, hand-computed ones, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pycocotools import mask as rle

from tests.helpers import ROOT
from util.masks.coco import encode_masks, ground_truth, read_ground_truth
from util.masks.metrics import best_queries, overlap, score_masks, table
from util.run.gaps import Gaps

GOLDEN = json.loads((ROOT / "tests" / "golden" / "a2d_metrics.json").read_text())
SIZE = (8, 10)


def rows(first: int, last: int) -> np.ndarray:
    found = np.zeros(SIZE, bool)
    found[first:last] = True
    return found


def truth_of(tmp_path, **masks: np.ndarray):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(ground_truth(masks.items())))
    return read_ground_truth(path)


def result(name, mask: np.ndarray, score: float) -> dict:
    return {"image_id": name, "category_id": 1, "segmentation": encode_masks(mask[None])[0], "score": score}


def golden_truth(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(GOLDEN["ground_truth"]))
    return read_ground_truth(tmp_path / "truth.json")


def test_the_reference_implementation_agrees(tmp_path):
    scores = score_masks(golden_truth(tmp_path), GOLDEN["predictions"])
    for queries in ("all_queries", "best_query"):
        expected = GOLDEN["expected"][queries]
        for name in ("mAP", "AP50", "AP75"):
            assert scores[queries][name] == pytest.approx(expected[name], abs=1e-6)
        assert list(scores["precision_at"].values()) == pytest.approx(expected["precision_at"], abs=1e-6)
        for name in ("overall_iou", "mean_iou"):
            assert scores[name] == pytest.approx(expected[name], abs=1e-6)
    assert scores["samples"] == len(GOLDEN["ground_truth"]["images"])


def test_the_order_of_predictions_and_their_boxes_change_nothing(tmp_path):
    truth = golden_truth(tmp_path)
    expected = score_masks(truth, GOLDEN["predictions"])
    shuffled = [{**p, "bbox": [0.0, 0.0, 3.0, 3.0]} for p in GOLDEN["predictions"][::-1]]
    assert score_masks(truth, shuffled) == expected
    assert "area" not in shuffled[0] and "id" not in shuffled[0]


def test_scores_by_hand(tmp_path):
    truth = truth_of(tmp_path, a=rows(0, 4), b=rows(0, 4), c=rows(0, 0))
    predictions = [
        result("a", rows(0, 3), 0.9),  # IoU 3/4
        result("a", rows(0, 4), 0.2),
        result("b", rows(2, 6), 0.8),  # IoU 2/6
        result("c", rows(0, 0), 0.7),  # both empty: 1
    ]
    scores = score_masks(truth, predictions)
    assert scores["precision_at"] == pytest.approx(
        {"0.5": 2 / 3, "0.6": 2 / 3, "0.7": 2 / 3, "0.8": 1 / 3, "0.9": 1 / 3}
    )
    assert scores["overall_iou"] == pytest.approx((3 + 2) / (4 + 6))
    assert scores["mean_iou"] == pytest.approx((3 / 4 + 2 / 6 + 1) / 3, abs=1e-6)


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
def test_an_iou_at_a_threshold_is_above_it_only_where_float32_says_so(tmp_path, tenths):
    """As in the reference (compute_mask_iou of ReferFormer's datasets/a2d_eval.py), which divides float32 numbers: the
    nearest to 0.6 and to 0.8 lie above them, and 1e-6 vanishes."""
    truth, part = np.ones((10, 20), bool), np.zeros((10, 20), bool)
    part[:tenths] = True
    scores = score_masks(truth_of(tmp_path, a=truth), [result("a", part, 1.0)])
    assert scores["mean_iou"] == pytest.approx(tenths / 10, abs=1e-7)
    assert scores["precision_at"][str(tenths / 10)] == (tenths in (6, 8))
    assert all(value == 0 for threshold, value in scores["precision_at"].items() if float(threshold) > tenths / 10)


def test_all_empty_is_full_agreement(tmp_path):
    scores = score_masks(truth_of(tmp_path, a=rows(0, 0)), [result("a", rows(0, 0), 1.0)])
    assert scores["overall_iou"] == scores["mean_iou"] == 1


def test_of_equal_scores_the_last_query_is_best_as_in_the_reference():
    first, second = result("a", rows(0, 1), 0.5), result("a", rows(0, 2), 0.5)
    other = result("b", rows(0, 3), 0.1)
    assert best_queries([other, first, second]) == [other, second]
    assert best_queries([second, first, other]) == [first, other]


def test_image_ids_may_be_numbers_and_start_at_0(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(ground_truth([(0, rows(0, 4)), (1, rows(2, 4))])))
    truth = read_ground_truth(tmp_path / "truth.json")
    scores = score_masks(truth, [result(0, rows(0, 4), 0.9), result(1, rows(2, 4), 0.8)])
    assert scores["all_queries"]["mAP"] == pytest.approx(1)


def test_the_table_labels_both_precisions(tmp_path):
    text = table(score_masks(golden_truth(tmp_path), GOLDEN["predictions"]))
    assert [line.split()[-1] for line in text.splitlines()[:2]] == ["29.31", "28.99"]
    assert "all queries (as published)" in text.splitlines()[0] and "best query" in text.splitlines()[1]


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        ([result("a", rows(0, 1), 1.0)], "sample b has no prediction"),
        ([result(name, rows(0, 1), 1.0) for name in "abc"], "sample c has no ground truth"),
        ([result("a", rows(0, 1), 1.0), result("b", rows(0, 1).T, 1.0)], "sample b: the mask is 8x10 .* truth 10x8"),
    ],
)
def test_other_samples_than_those_of_the_ground_truth_are_refused(tmp_path, predictions, message):
    with pytest.raises(ValueError, match=message):
        score_masks(truth_of(tmp_path, a=rows(0, 4), b=rows(0, 4)), predictions)


def test_encoding_keeps_masks_and_overlap_counts_pixels():
    masks = np.random.default_rng(0).random((3, *SIZE)) < 0.4
    codes = encode_masks(masks)
    for code, mask in zip(codes, masks, strict=True):
        assert (rle.decode(code) == mask).all()
    assert overlap(codes[0], codes[1]) == ((masks[0] & masks[1]).sum(), (masks[0] | masks[1]).sum())


def test_ground_truth_is_read_in_all_three_forms_of_coco(tmp_path):
    content = ground_truth([("a", rows(2, 4)), ("b", rows(2, 4)), ("c", rows(2, 4))])
    content["annotations"][1]["segmentation"] = [[0, 2, 10, 2, 10, 4, 0, 4]]
    # column by column: 2 rows off, 2 on, 4 off
    uncompressed = [2, *[2, 6] * 9, 2, 4]
    content["annotations"][2]["segmentation"] = {"size": list(SIZE), "counts": uncompressed}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = read_ground_truth(tmp_path / "truth.json")
    assert all((rle.decode(truth[name].mask) == rows(2, 4)).all() for name in "abc")
    assert truth["a"].box == (0, 2, 10, 2)


def test_boxes_follow_from_masks_and_areas_and_categories_are_not_read(tmp_path):
    content = ground_truth([("a", rows(2, 4))])
    del content["categories"]
    for key in ("area", "bbox", "category_id"):
        del content["annotations"][0][key]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (sample,) = read_ground_truth(tmp_path / "truth.json").values()
    assert sample.box == (0, 2, 10, 2) and (rle.decode(sample.mask) == rows(2, 4)).all()


def test_samples_that_are_doubled_or_lack_their_other_half_are_left_out_where_gaps_may_be(tmp_path):
    content = ground_truth([(name, rows(2, 4)) for name in "abcd"])
    content["annotations"].append(content["annotations"][0])
    del content["annotations"][1], content["images"][2]
    (tmp_path / "truth.json").write_text(json.dumps(content))
    gaps = Gaps(silent=True)
    assert list(read_ground_truth(tmp_path / "truth.json", gaps)) == ["d"]
    assert [item for item, _ in gaps.items] == ["sample a", "sample b", "sample c"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["images"].append({"id": "b", "height": 8, "width": 10}), "once, with one annotation"),
        (lambda c: c["images"].append(c["images"][0]), "once, with one annotation"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "once, with one annotation"),
        (lambda c: c["images"][0].update(height=9), r"of size \[8, 10\], its image of \[9, 10\]"),
        (lambda c: c.pop("annotations"), 'must hold the lists "images" and "annotations"'),
        (lambda c: c["annotations"][0].update(segmentation=7), "list of polygons"),
    ],
)
def test_damaged_ground_truth_is_named(tmp_path, damage, message):
    content = ground_truth([("a", rows(2, 4))])
    damage(content)
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"truth.json: is not ground truth in COCO's form .*{message}"):
        read_ground_truth(path)
