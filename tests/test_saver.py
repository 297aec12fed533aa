"""Checkpoints of a run: written in the background, the last and the best kept, the newest whole one found."""

from __future__ import annotations

import errno
import os
from typing import ClassVar

import pytest
import torch

from tests.helpers import full_disk
from tests.tiny_model import checkpoint_of
from util.run import dist
from util.weights import checkpoint
from util.weights.saver import BEST, NEWEST, Saver, newest


def test_a_full_disk_costs_a_checkpoint_and_nothing_else(tmp_path, capsys):
    saver = Saver(tmp_path, keep=2)
    saver.save(checkpoint_of(a=torch.zeros(10)), 1)
    saver.settle()
    with full_disk(30_000):
        saver.save(checkpoint_of(a=torch.zeros(20_000)), 2)
        saver.save(checkpoint_of(a=torch.ones(10)), 3)
        saver.settle()
    assert "no checkpoint was written, training goes on: " in (said := capsys.readouterr().err)
    assert "checkpoint_00000002.pth" in said and os.strerror(errno.EFBIG) in said
    saver.close()
    assert sorted(p.name for p in tmp_path.glob("*_*")) == ["checkpoint_00000001.pth", "checkpoint_00000003.pth"]
    assert not list(tmp_path.glob(".*"))
    assert checkpoint.load(tmp_path / NEWEST)["a"].all()


def test_the_best_is_written_once_there_is_space_and_no_later_one_for_it(tmp_path, capsys):
    for later, folder in ((True, tmp_path / "later"), (False, tmp_path / "end")):
        folder.mkdir()
        saver = Saver(folder, keep=1)
        with full_disk(30_000):
            saver.save(checkpoint_of(a=torch.zeros(20_000)), 2, best=True)
            saver.settle()
        if later:
            saver.save(checkpoint_of(a=torch.ones(10)), 3)
        saver.close()
        assert not checkpoint.load(folder / BEST)["a"].any()
        assert not later or checkpoint.load(folder / NEWEST)["a"].all()
    assert capsys.readouterr().err.count("no checkpoint was written") == 2


def test_a_run_whose_last_checkpoint_cannot_be_written_says_so(tmp_path):
    saver = Saver(tmp_path, keep=2)
    with full_disk(30_000), pytest.raises(OSError, match="checkpoint_00000002.pth"):
        saver.save(checkpoint_of(a=torch.zeros(20_000)), 2)
        saver.close()
    assert not list(tmp_path.iterdir())


def test_what_is_saved_is_of_the_moment(tmp_path):
    saver, weight = Saver(tmp_path, keep=1), torch.zeros(1000)
    saver.save(dist.copied_to_main(checkpoint_of(nested=[{"weight": weight}])), 1)
    weight += 1
    saver.close()
    assert not checkpoint.load(tmp_path / NEWEST)["nested"][0]["weight"].any()


class OnGpu(torch.Tensor):
    """Says that it is on a GPU; a copy that is not waited for has no numbers yet."""

    arriving: ClassVar[list[tuple[torch.Tensor, torch.Tensor]]] = []
    device = property(lambda self: torch.device("cuda:0"))

    def detach(self) -> OnGpu:
        return self

    def to(self, device: str, *, non_blocking: bool, copy: bool) -> torch.Tensor:
        assert device == "cpu" and non_blocking and copy
        here = torch.full(self.shape, -1.0)
        self.arriving.append((here, self.as_subclass(torch.Tensor)))
        return here


def test_copies_of_a_gpu_are_begun_together_and_waited_for_once(tmp_path, monkeypatch):
    waits = []

    def wait(device: torch.device) -> None:
        waits.append(len(OnGpu.arriving))
        while OnGpu.arriving:
            here, there = OnGpu.arriving.pop()
            here.copy_(there)

    monkeypatch.setattr(torch.cuda, "synchronize", wait)
    weights = {str(i): torch.full((i,), float(i)).as_subclass(OnGpu) for i in range(1, 6)}
    saver = Saver(tmp_path, keep=1)
    saver.save(dist.copied_to_main(checkpoint_of(nested=[weights], here=torch.ones(1))), 1)
    assert waits == [5]
    saver.close()
    found = checkpoint.load(tmp_path / NEWEST)["nested"][0]
    assert all((value == int(i)).all() and len(value) == int(i) for i, value in found.items())


def test_the_last_and_the_best_are_kept(tmp_path):
    saver = Saver(tmp_path, keep=2)
    for step in range(1, 6):
        saver.save(checkpoint_of(step=step), step, best=step == 2)
    saver.close()
    numbered = ["checkpoint_00000004.pth", "checkpoint_00000005.pth"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NEWEST, BEST, *numbered])
    assert checkpoint.load(tmp_path / BEST)["step"] == 2 and checkpoint.load(tmp_path / NEWEST)["step"] == 5


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_checkpoint_cut_short_is_passed_over(tmp_path, share, capsys):
    saver = Saver(tmp_path, keep=3)
    for step in (1, 2):
        saver.save(checkpoint_of(step=step, a=torch.zeros(1000)), step)
    saver.close()
    path = tmp_path / NEWEST
    os.truncate(path, int(share * path.stat().st_size))  # one file of two names
    found, content = newest(tmp_path)
    assert (found.name, content["step"]) == ("checkpoint_00000001.pth", 1)
    assert capsys.readouterr().err.count("the one before it is taken") == 1
    os.truncate(found, 10)
    with pytest.raises(ValueError, match="none of the checkpoints"):
        newest(tmp_path)


def test_a_folder_without_checkpoints_starts_a_new_run(tmp_path):
    assert newest(tmp_path / "not there") is None
