"""Masks of a split are written while the network is at work; odd frames and too little memory are told."""

from __future__ import annotations

import threading
import zlib
from dataclasses import fields, replace

import pytest
import torch
from PIL import Image

import engine
from datasets.base import VideoEntry
from datasets.davis import AnnotatedVideo
from models.predictor import ASKED_TOGETHER
from util.run import cli


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
        self.there = [True]

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


@pytest.mark.parametrize(
    ("count", "missing", "asked"),
    [
        (3, [1], [0, 1, 2]),
        (8, [7], range(8)),
        (20, [9], range(8, 16)),
        (20, [0, 19], [*range(8), *range(16, 20)]),
        (20, range(20), range(20)),
        (9, [], []),
    ],
)
def test_what_is_missing_is_asked_with_what_was_answered_beside_it(count, missing, asked):
    assert engine.whole_groups([e in missing for e in range(count)]) == list(asked)


class Grouped:
    """In place of a predictor: answers by the company that an expression is asked in, which it keeps a list of."""

    def __init__(self) -> None:
        self.groups, self.scores, self.there = [], [], []

    def segment(self, video, expressions, *, following):
        groups = [tuple(expressions[i : i + ASKED_TOGETHER]) for i in range(0, len(expressions), ASKED_TOGETHER)]
        self.groups += groups
        self.scores, self.there = [1.0] * len(expressions), [True] * len(expressions)
        self.answers = torch.cat([self.of(group) for group in groups])
        return self

    def of(self, group: tuple[str, ...]) -> torch.Tensor:
        """bool ``[E, 9, 32, 48]``, other pixels for every text and group."""
        seeds = [zlib.crc32(" ".join([text, *group]).encode()) for text in group]
        return torch.stack([torch.rand(9, 32, 48, generator=torch.Generator().manual_seed(s)) > 0.5 for s in seeds])

    def masks(self, start, stop):
        return self.answers[:, start:stop]

    def logits(self, expression, start, stop):
        return self.answers[expression, start:stop].float() * 8 - 4


def contents(folder) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def resumed(predict, videos, folder, lost: list[str]) -> tuple[Grouped, Grouped]:
    """Predictors of an uninterrupted run, and of one that finds all but the ``lost`` folders of masks; which must end
    with the same files and write no others."""
    whole, again = Grouped(), Grouped()
    predict(whole, videos, folder)
    before = contents(folder)
    for name in lost:
        (folder / name / "3.png").unlink()
        (folder / name / "5.png").write_bytes(b"half a mask")
    kept = {
        path: path.stat().st_mtime_ns
        for path in folder.rglob("*.png")
        if str(path.parent.relative_to(folder)) not in lost
    }
    predict(again, videos, folder)
    assert contents(folder) == before and kept
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    return whole, again


def test_an_interrupted_split_goes_on_with_the_same_groups(videos, tmp_path):
    texts = {str(e): f"object {e}" for e in range(19)}
    videos = [replace(video, expressions=texts) for video in videos]
    lost = ["Annotations/a/9", "Annotations/a/11", "Annotations/c/18"]
    whole, again = resumed(engine.predict_split, videos, tmp_path / "out", lost)
    assert len(whole.groups) == 9 and again.groups == [whole.groups[1], whole.groups[8]]


def test_interrupted_annotators_go_on_with_the_same_groups(videos, tmp_path):
    """Three objects of each of four annotators, so that the third one's are in two groups."""
    annotators = tuple({n: f"{n} of annotator {a}" for n in (1, 2, 5)} for a in range(4))
    entry = vars(videos[0]) | {"annotators": annotators}
    video = AnnotatedVideo(**{field.name: entry[field.name] for field in fields(AnnotatedVideo) if field.init})
    for lost, groups in ((["anno_0/a"], [0]), (["anno_2/a"], [0, 1]), (["anno_3/a"], [1])):
        whole, again = resumed(engine.predict_annotators, [video], tmp_path / lost[0], lost)
        assert len(whole.groups) == 2 and again.groups == [whole.groups[i] for i in groups]


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
