"""The published forms of A2D, JHMDB and RefCOCO, as their publishers' generators write them (tests/published).

Known predictions are scored to known numbers; what is expected is computed here from the original masks.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from torch import Tensor

from datasets import build_eval_clips, build_truth
from evaluation import score_clips
from models.predictor import FrameAnswer
from opts import parse_train_args
from tests.helpers import ROOT

PUBLISHED = ROOT / "tests" / "published"


class Scripted:
    """A predictor that gives prepared masks, sample after sample: the second of its two queries is the better one."""

    def __init__(self, masks: Iterable[np.ndarray]) -> None:
        self._masks = iter(masks)

    def encode(self, frames: Tensor) -> Tensor:
        return frames

    def answer_frame(self, encoded: Tensor, expressions: list[str], frame: int) -> Iterator[FrameAnswer]:
        for _ in expressions:
            mask = torch.from_numpy(next(self._masks))
            assert mask.shape == encoded.shape[-2:]
            masks = torch.stack((torch.zeros_like(mask), mask))
            yield FrameAnswer(masks, torch.tensor([0.1, 0.9]), torch.zeros(2, 4))


def upper_part(mask: np.ndarray, share: float) -> np.ndarray:
    """The mask without its lower rows: its IoU with the whole mask is the share of pixels that are left."""
    rows = np.flatnonzero(mask.any(1))
    part = mask.copy()
    part[rows[0] + round(share * len(rows)) :] = False
    return part


def score(args, split: str, masks: Mapping[str | int, np.ndarray], folder: Path) -> tuple[dict, np.ndarray]:
    """Scores predictions of which every third one is the whole object, the others two thirds or a fifth of its rows;
    and the IoU that each must have."""
    clips = build_eval_clips(args, split)
    truth = build_truth(args, split, clips)
    ids = [image_id for clip in clips for image_id in clip.expressions]
    predicted = [upper_part(masks[name], (1, 2 / 3, 1 / 5)[i % 3]) for i, name in enumerate(ids)]
    ious = np.array([p.sum() / masks[name].sum() for p, name in zip(predicted, ids, strict=True)])
    return score_clips(Scripted(predicted), clips, truth, folder, {}), ious


def check_scores(scores: dict, ious: np.ndarray) -> None:
    assert scores["samples"] == len(ious)
    assert scores["mean_iou"] == pytest.approx(ious.mean(), abs=1e-6)
    for threshold, value in scores["precision_at"].items():
        assert value == pytest.approx((ious > float(threshold)).mean())


def jhmdb_masks() -> dict[str, np.ndarray]:
    """From the MATLAB files, by MTTR's image ids."""
    root = PUBLISHED / "jhmdb"
    found = {}
    for video, frame, mask, _, _ in json.loads((root / "jhmdb_sentences_samples_metadata.json").read_text()):
        number = int(Path(frame).stem)
        part_mask = loadmat(root / Path(mask).relative_to("jhmdb_sentences"))["part_mask"]
        found[f"v_{video}_f_{number}"] = part_mask[..., number - 1] > 0
    return found


def test_jhmdb_whose_published_truth_has_no_boxes(tmp_path):
    args = parse_train_args(["--dataset_file", "jhmdb", "--jhmdb_path", str(PUBLISHED / "jhmdb")])
    masks = jhmdb_masks()
    scores, ious = score(args, "test", masks, tmp_path)
    check_scores(scores, ious)
    assert scores["samples"] == 9
    for image_id, sample in build_truth(args, "test", build_eval_clips(args, "test")).items():
        rows, columns = (np.flatnonzero(masks[image_id].any(axis)) for axis in (1, 0))
        x, y = columns[0], rows[0]
        assert sample.box == (x, y, columns[-1] - x + 1, rows[-1] - y + 1)
