"""Scores of boxes against values computed by hand."""

from __future__ import annotations

import pytest
import torch

from util.masks.box_metrics import score_boxes, table
from util.masks.box_ops import box_iou


def query(name, box: list[float], score: float) -> dict:
    return {"image_id": name, "bbox": box, "score": score}


TRUTH = {1: [0, 0, 10, 10], 2: [100, 50, 20, 10], "three": [0, 0, 4, 4]}
PREDICTIONS = [
    # the best query: IoU 100/200 = 0.5, which is not above; GIoU the same, which is enough
    query(1, [0, 0, 10, 20], 0.9),
    query(1, [0, 0, 10, 10], 0.1),
    # the best query: IoU 150/250 = 0.6, GIoU the same; the other has nothing in common
    query(2, [0, 0, 5, 5], 0.2),
    query(2, [105, 50, 20, 10], 0.8),
    # the best query misses; the sixth one is right
    *(query("three", [50, 50, 4, 4], 0.9 - i / 10) for i in range(5)),
    query("three", [0, 0, 4, 4], 0.1),
]


def test_hand_computed():
    scores = score_boxes(TRUTH, PREDICTIONS)
    assert scores["samples"] == 3
    assert scores["precision_at"] == {"0.5": pytest.approx(1 / 3)}
    assert scores["mean_iou"] == pytest.approx((0.5 + 0.6 + 0) / 3)
    assert scores["referformer_precision_at"] == {"1": pytest.approx(2 / 3), "5": pytest.approx(2 / 3), "10": 1.0}


def test_the_order_of_predictions_does_not_matter():
    assert score_boxes(TRUTH, PREDICTIONS[::-1]) == score_boxes(TRUTH, PREDICTIONS)


def test_of_equal_scores_the_last_query_counts_as_in_the_reference():
    boxes = [query(1, [90, 90, 1, 1], 0.5), query(1, TRUTH[1], 0.5)]
    assert score_boxes({1: TRUTH[1]}, boxes)["mean_iou"] == 1
    assert score_boxes({1: TRUTH[1]}, boxes[::-1])["mean_iou"] == 0


def test_generalised_iou_is_stricter_than_iou():
    # moved down by 1: 16 of 24 are shared, and the hull has nothing besides
    scores = score_boxes({1: [0, 0, 4, 5]}, [query(1, [0, 1, 4, 5], 1.0)])
    assert scores["mean_iou"] == pytest.approx(16 / 24)
    assert scores["precision_at"]["0.5"] == scores["referformer_precision_at"]["1"] == 1.0
    # moved by 1.7 both ways: 8.3² of 131.11 are shared, 0.525; of the hull, 11.7², 5.78 are in neither: 0.483
    scores = score_boxes({1: [0, 0, 10, 10]}, [query(1, [1.7, 1.7, 10, 10], 1.0)])
    assert scores["mean_iou"] == pytest.approx(68.89 / 131.11)
    assert scores["precision_at"]["0.5"] == 1.0 and scores["referformer_precision_at"]["1"] == 0.0


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({**TRUTH, 4: [0, 0, 1, 1]}, "sample 4 has no prediction"),
        ({1: TRUTH[1], 2: TRUTH[2]}, "sample three has no ground truth"),
    ],
)
def test_samples_must_agree(truth, message):
    with pytest.raises(ValueError, match=message):
        score_boxes(truth, PREDICTIONS)


def test_nothing_to_score():
    with pytest.raises(ValueError, match="no sample"):
        score_boxes({}, [])


def test_the_table_labels_what_is_referformers():
    lines = table(score_boxes(TRUTH, PREDICTIONS)).splitlines()
    assert lines[0].split() == ["boxes,", "P@0.5", "33.33"]
    assert [line.split()[-1] for line in lines] == ["33.33", "36.67", "66.67", "66.67", "100.00"]
    assert all("ReferFormer" in line and "GIoU" in line for line in lines[2:])


def test_iou_of_boxes():
    a = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 1, 1]])
    b = torch.tensor([[1.0, 1, 3, 3], [2, 2, 3, 3], [1, 1, 1, 1]])
    assert torch.allclose(box_iou(a, b), torch.tensor([1 / 7, 0, 0]))
    assert box_iou(a[:, None], b[None]).shape == (3, 3)
