"""The tool that compares each query of a checkpoint with the truth by itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.commands import run
from tools.data.make_synthetic import generate
from tools.small_job import stages as small_job
from tools.small_job.queries import Answer, as_targets, overlap, summary


def answered(fit: list[float], elsewhere: list[float], scores: list[float], matched: int, kind: str) -> Answer:
    return Answer(np.array(fit), np.array(elsewhere), np.array(scores), matched, kind)


def test_scores_that_say_nothing_are_told_from_queries_that_find_nothing():
    answers = [
        answered(
            [0.9, 0.1], [0.2, 0.8], [0.3, 0.6], 0, "motion"
        ),  # the object is found, but the other query is trusted
        answered([0.3, 0.7], [0.6, 0.1], [0.1, 0.9], 1, "relation"),
    ]
    figures = summary(answers, [0.25, 0.75])
    assert figures["chosen"] == pytest.approx(0.4) and figures["oracle"] == pytest.approx(0.8)
    assert figures["right object"] == figures["matched is chosen"] == figures["same masks"] == 0.5
    assert figures["entropy"] == 1 and figures["score"] == 0.75 and figures["score of matched"] == pytest.approx(0.6)
    assert figures["motion"] == pytest.approx(0.1) and figures["relation"] == pytest.approx(0.7)


def test_targets_have_the_boxes_of_the_masks_and_know_where_the_object_is_absent():
    masks = torch.zeros(1, 2, 4, 8, dtype=torch.bool)
    masks[0, 0, 1:3, 4:8] = True
    targets = as_targets(masks)
    assert targets.boxes[0, 0, 0].tolist() == [0.75, 0.5, 0.5, 0.5]
    assert targets.present[0, :, 0].tolist() == [True, False] and targets.annotated.all()


def test_overlap_is_the_mean_over_the_queries():
    a, b = torch.zeros(2, 2, 1, 1, 4, dtype=torch.bool)
    a[0, ..., :2], b[0, ..., 1:3] = True, True  # one of three pixels; the second query has none
    assert overlap(a, b) == pytest.approx(1 / 6)


def test_a_checkpoint_of_one_query_has_no_choice(tmp_path):
    generate(tmp_path / "data", train_videos=1, valid_videos=2, frames=6, size=(96, 160), seed=7)
    words = ("--ytvos_path", tmp_path / "data", "--json", tmp_path / "figures.json")
    said = run("tools/small_job/queries.py", small_job.PRETRAINED, *words).stdout
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["chosen"] == figures["oracle"] > 0.6 and figures["matched is chosen"] == 1
    assert figures["same masks"] < 0.3 and figures["entropy"] == 0 and "right object" in said
