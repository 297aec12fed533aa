"""Clips that do not show the object that an expression means: trained as absent, or replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from datasets import build_train_loader
from datasets.base import ClipDataset
from datasets.samplers import ClipRequest
from tests.mini_ytvos import mini_args, write_mini_ytvos

PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    return write_mini_ytvos(tmp_path_factory.mktemp("mini"))


def dataset(root: Path, *flags: str) -> ClipDataset:
    return build_train_loader(mini_args(root, *flags)).dataset


def test_object_absent_from_a_whole_window(mini):
    data = dataset(mini, *PLAIN)
    clips = [data[ClipRequest(index, epoch)] for epoch in range(2) for index in range(len(data))]
    absent = [clip.targets[0] for clip in clips if not clip.targets[0].present.any()]
    assert absent, "the mini data has a window without its object"
    for target in absent:
        assert not target.masks.any() and not target.boxes.any() and target.annotated.all()


def test_a_clip_without_its_object_is_replaced_by_another_of_the_whole_set(mini):
    kept, replaced = (dataset(mini, "--absent_object", how) for how in ("keep", "replace"))
    others = set()
    for epoch in range(6):
        for index in range(len(kept)):
            before, after = (data[ClipRequest(index, epoch)] for data in (kept, replaced))
            assert all(target.present.any() for target in after.targets) and not after.problems
            if before.targets[0].present.any():
                assert torch.equal(before.frames, after.frames) and before.expressions == after.expressions
            else:
                others.add(after.video_id)
                again = dataset(mini, "--absent_object", "replace")[ClipRequest(index, epoch)]
                assert torch.equal(again.frames, after.frames) and again.video_id == after.video_id
    assert len(others) > 1


def test_of_several_expressions_those_without_their_object_are_left_out(mini):
    flags = (*PLAIN, "--expressions_per_clip", "3", "--absent_object")
    kept, replaced = (dataset(mini, *flags, how) for how in ("keep", "replace"))
    fewer = 0
    for index in range(len(kept)):
        before, after = kept[ClipRequest(index)], replaced[ClipRequest(index)]
        seen = [bool(target.present.any()) for target in before.targets]
        assert after.expressions == [text for text, shown in zip(before.expressions, seen, strict=True) if shown]
        assert [target.identity for target in after.targets] == [
            target.identity for target, shown in zip(before.targets, seen, strict=True) if shown
        ]
        fewer += not all(seen)
    assert fewer, "the mini data has a window without one of its objects"


def test_a_set_whose_clips_show_nothing_is_an_error_not_an_endless_search(mini, monkeypatch):
    data = dataset(mini, "--absent_object", "replace")
    monkeypatch.setattr(data, "make", lambda request: None)
    with pytest.raises(ValueError, match="show none of the objects .* --absent_object keep"):
        data[ClipRequest(0)]
