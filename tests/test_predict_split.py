"""Masks of a split are written while the network is at work; odd frames and too little memory are told."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch
from PIL import Image

import engine
from datasets.base import VideoEntry
from util import cli


@pytest.fixture
def videos(tmp_path) -> list[VideoEntry]:
    """Three videos of nine frames."""
    found = []
    for name in "abc":
        paths = tuple(tmp_path / f"{name}{t}.jpg" for t in range(9))
        for path in paths:
            Image.new("RGB", (48, 32)).save(path)
        found.append(VideoEntry(name, tuple(str(t) for t in range(9)), paths, {"0": "a star"}))
    return found


class Slow:
    """In place of a predictor: lets each video begin only while masks of the one before are being written."""

    def __init__(self, writing: threading.Semaphore, may_write: threading.Event) -> None:
        self.writing, self.may_write, self.followed, self.scores = writing, may_write, [], [1.0]

    def segment(self, video, expressions, *, following):
        if self.followed:
            assert self.writing.acquire(timeout=60)  # a mask is being written, and is not done
        self.may_write.set()
        self.followed.append(following and following.video_id)
        return self

    def masks(self, start, stop):
        return torch.zeros(1, stop - start, 32, 48, dtype=torch.bool)


def test_masks_of_a_video_are_written_while_the_next_one_is_looked_at(videos, tmp_path, monkeypatch):
    writing, may_write, write = threading.Semaphore(0), threading.Event(), engine.write_mask_png

    def slow_write(path, mask) -> None:
        if path.stem == "8":  # the last frame of its video
            may_write.clear()
            writing.release()
            assert path.parts[-3] == "c" or may_write.wait(timeout=60)
        write(path, mask)

    monkeypatch.setattr(engine, "write_mask_png", slow_write)
    predictor = Slow(writing, may_write)
    engine.predict_split(predictor, videos, tmp_path / "out")
    assert predictor.followed == ["b", "c", None]
    assert len(list((tmp_path / "out").rglob("*.png"))) == 27


def test_a_frame_of_another_size_is_named(videos):
    Image.new("RGB", (32, 48)).save(videos[0].frame_paths[8])
    with pytest.raises(ValueError, match=r"a8.jpg: is 32x48 pixels, but the frame a0.jpg of its video is 48x32"):
        replace(videos[0]).read([8])


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_lack_of_memory_is_told_with_the_mend(error, capsys):
    def fail() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(fail)
    assert end.value.code == 2 and "--window" in capsys.readouterr().err


def test_other_errors_keep_their_traceback():
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        cli.run(fail)
