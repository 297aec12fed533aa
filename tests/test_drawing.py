"""The pictures of the main job in small: the right cases, on one screen."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datasets.ytvos import annotations_root, eval_videos, split_videos
from tools.data.make_synthetic import generate
from tools.small_job import drawing
from tools.small_job.held_out import score
from util.masks.results import mask_name, write_mask_png
from util.video.pictures import read_label_maps
from util.video.sheets import write_sheet

KINDS = ("appearance", "motion", "relation")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawing") / "data"
    generate(folder, train_videos=1, valid_videos=6, seed=5, absent=2, things="both")
    return folder


@pytest.fixture(scope="module")
def answers(data, tmp_path_factory) -> tuple[Path, Path]:
    """Results that are wrong in every second expression, and the right ones."""
    folders = tuple(tmp_path_factory.mktemp("answers") / name for name in ("before", "after"))
    listed = split_videos(data, "valid")
    for video in eval_videos(data, "valid", 0):
        paths = [annotations_root(data, "valid") / video.video_id / f"{name}.png" for name in video.frame_names]
        labels = read_label_maps(paths, video.original_size)[:, 0].numpy()
        for i, (exp_id, entry) in enumerate(listed[video.video_id]["expressions"].items()):
            for folder, right in zip(folders, (i % 2 == 0, True), strict=True):
                for name, label in zip(video.frame_names, labels, strict=True):
                    mask = (label == int(entry["obj_id"] or -1)) if right else label == 0
                    write_mask_png(folder / mask_name(video.video_id, exp_id, name), mask)
    return folders


def test_the_sheet_and_the_film_of_a_demo(data, answers, tmp_path):
    scores = score(answers[0], data)
    drawing.draw(scores, answers[0], data, tmp_path / "sheet.png", tmp_path / "demo.mp4")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 1400 < sheet.width <= 1600 and 600 < sheet.height <= 1000
    with av.open(str(tmp_path / "demo.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == 6 * 8 and frames[0].shape[1] == 640


def test_what_means_nothing_is_in_no_picture(data, answers):
    kinds = drawing.by_kind(score(answers[0], data))
    assert tuple(kinds) == KINDS
    listed = split_videos(data, "valid")
    shown = [listed[vid]["expressions"][exp_id] for ranked in kinds.values() for vid, exp_id in ranked]
    assert all(entry["obj_id"] for entry in shown)


def test_before_and_after_are_shown_from_the_greatest_gain_to_the_least(data, answers, tmp_path, monkeypatch):
    before, after = (score(folder, data) for folder in answers)
    drawn = []
    monkeypatch.setattr(drawing, "write_sheet", lambda cards, *how: (drawn.extend(cards), write_sheet(cards, *how)))

    def odd(vid: str) -> bool:
        return int(vid.rpartition("_")[2]) % 2 == 1

    drawing.draw_before_after(before, after, *answers, data, tmp_path / "sheet.png", odd)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 1400 < sheet.width <= 1600 and 600 < sheet.height <= 1000
    gains = [float(card.names[1].split()[-1]) - float(card.names[0].split()[-1]) for card in drawn]
    assert len(gains) == 6 and gains == sorted(gains, reverse=True) and gains[0] > 0.5 and gains[-1] == 0
    texts = {
        e["exp"]
        for vid, video in split_videos(data, "valid").items()
        if odd(vid)
        for e in video["expressions"].values()
    }
    assert {card.caption for card in drawn} <= texts


def test_cases_are_spaced_evenly():
    assert drawing.spaced(range(11), 6) == [0, 2, 4, 6, 8, 10]
    assert drawing.spaced(range(3), 6) == [0, 1, 2]


def test_pictures_of_a_film_become_equally_high():
    low, high = np.zeros((2, 3, 3), np.uint8), np.zeros((5, 3, 3), np.uint8)
    first, second = drawing.level([low, high])
    assert first.shape == second.shape and (first[:3] == 255).all() and not first[3:].any()
