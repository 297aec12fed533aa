"""The published forms of A2D, JHMDB and RefCOCO, as their publishers' generators write them (tests/published).

Known predictions are scored to known numbers; what is expected is computed here from the original masks.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from pycocotools import mask as rle
from scipy.io import loadmat
from torch import Tensor

from datasets import a2d, build_train_loader, eval_set, jhmdb, refcoco
from datasets.samplers import ClipRequest
from models.predictor import FrameAnswer
from opts import parse_train_args
from tasks.scoring import score_clips
from tests.helpers import ROOT, SHARED, needs_shared
from tools.data import convert_refcoco, make_sentences_annotations

PUBLISHED = ROOT / "tests" / "published"


class Scripted:
    """A predictor that gives prepared masks, sample after sample: the second of its two queries is the better one."""

    def __init__(self, masks: Iterable[np.ndarray]) -> None:
        self._masks = iter(masks)

    def answer_frame(self, frames: Tensor, expressions: list[str], frame: int) -> Iterator[FrameAnswer]:
        for _ in expressions:
            mask = torch.from_numpy(next(self._masks))
            assert mask.shape == frames.shape[-2:]
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
    clips = eval_set(args, split).clips()
    truth = eval_set(args, split).truth(clips)
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
    for image_id, sample in eval_set(args, "test").truth(eval_set(args, "test").clips()).items():
        rows, columns = (np.flatnonzero(masks[image_id].any(axis)) for axis in (1, 0))
        x, y = columns[0], rows[0]
        assert sample.box == (x, y, columns[-1] - x + 1, rows[-1] - y + 1)


def a2d_masks(split: str) -> dict[str, np.ndarray]:
    """From the h5 files, by MTTR's image ids."""
    root = PUBLISHED / "a2d"
    found = {}
    for _, video, frame, instance in json.loads(a2d.list_path(root, split).read_text()):
        with h5py.File(a2d.mask_path(root, video, frame)) as file:
            masks, numbers = file["reMask"][()], file["instance"][()].ravel().tolist()
        masks = masks[None] if masks.ndim == 2 else masks
        found[f"v_{video}_f_{frame}_i_{instance}"] = masks[numbers.index(instance)].T > 0
    return found


def test_a2d(tmp_path):
    args = parse_train_args(["--dataset_file", "a2d", "--a2d_path", str(PUBLISHED / "a2d")])
    scores, ious = score(args, "test", a2d_masks("test"), tmp_path)
    check_scores(scores, ious)
    assert scores["samples"] == 27


def test_a2d_is_trained_on_the_masks_of_its_h5_files():
    words = ["--dataset_file", "a2d", "--a2d_path", str(PUBLISHED / "a2d"), "--train_sizes", "96", "--max_size", "160"]
    plain = ["--no-flip", "--no-random_crop", "--no-photometric", "--num_workers", "0"]
    data = build_train_loader(parse_train_args([*words, *plain])).dataset
    masks, seen = a2d_masks("train"), set()
    for index in range(len(data)):
        clip = data[ClipRequest(index)]
        (target,) = clip.targets
        instance = target.identity.split("/")[1]
        name = f"v_{clip.video_id}_f_{clip.frame_ids[2]}_i_{instance}"
        assert target.annotated.tolist() == [False, False, True, False, False]
        assert (target.masks[2, 0].numpy() == masks[name]).all()
        seen.add(name)
    assert seen == masks.keys() and len(seen) == 27


@pytest.mark.parametrize("name", refcoco.SETS)
def test_refcoco(name, tmp_path):
    root = PUBLISHED / "coco"
    args = parse_train_args(["--dataset_file", name, "--coco_path", str(root)])
    for split in refcoco.SPLITS[refcoco.DIVISIONS[name]]:
        content = json.loads(refcoco.annotations_path(root, name, split).read_text())
        masks = {a["image_id"]: rle.decode(a["segmentation"]) > 0 for a in content["annotations"]}
        scores, ious = score(args, split, masks, tmp_path / split)
        check_scores(scores, ious)
        assert scores["samples"] == len(content["images"])
        boxes = {a["image_id"]: tuple(a["bbox"]) for a in content["annotations"]}
        truth = eval_set(args, split).truth(eval_set(args, split).clips())
        assert {image_id: sample.box for image_id, sample in truth.items()} == boxes


def test_our_converter_of_refcoco_writes_what_referformers_does(tmp_path):
    shutil.copytree(PUBLISHED / "coco", tmp_path / "coco", ignore=shutil.ignore_patterns("instances_*"))
    for name in refcoco.SETS:
        splits, shared, _ = convert_refcoco.convert(tmp_path / "coco", name)
        convert_refcoco.write(tmp_path / "coco", name, splits, shared)
    paths = sorted((PUBLISHED / "coco").glob("*/instances_*.json"))
    assert len(paths) == sum(len(refcoco.SPLITS[refcoco.DIVISIONS[name]]) for name in refcoco.SETS)
    for path in paths:
        theirs = json.loads(path.read_text())
        ours = json.loads((tmp_path / "coco" / path.relative_to(PUBLISHED / "coco")).read_text())
        assert ours["images"] == theirs["images"], path.name
        assert ours["annotations"] == theirs["annotations"], path.name


def test_our_lists_and_truth_of_a2d_and_jhmdb_are_mttrs(tmp_path):
    made = {"a2d": make_sentences_annotations.make_a2d, "jhmdb": make_sentences_annotations.make_jhmdb}
    for name, make in made.items():
        leave = ["*annotations.json", "*coco_format.json"]
        shutil.copytree(PUBLISHED / name, tmp_path / name, ignore=shutil.ignore_patterns(*leave))
        make(tmp_path / name, overwrite=False)
    for split in a2d.SPLITS:
        ours, theirs = (a2d.read_samples(root, split) for root in (tmp_path / "a2d", PUBLISHED / "a2d"))
        assert ours == theirs
    for module, name in ((a2d, "a2d"), (jhmdb, "jhmdb")):
        ours, theirs = (module.truth(root / name) for root in (tmp_path, PUBLISHED))
        assert list(ours) == list(theirs)
        assert all(ours[image_id].mask == theirs[image_id].mask for image_id in theirs)


@needs_shared
def test_the_copies_are_those_of_the_reference_data():
    for path in (path for path in PUBLISHED.rglob("*") if path.is_file() and path.name != "README.md"):
        assert path.read_bytes() == (SHARED / "published" / path.relative_to(PUBLISHED)).read_bytes()
