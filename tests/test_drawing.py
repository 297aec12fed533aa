"""The pictures of the main job in small: the right cases, on one screen."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from datasets.ytvos import annotations_root, eval_videos, split_videos
from tasks import inference
from tools import draw_moving
from tools.data.make_synthetic import generate
from tools.small_job import drawing
from tools.small_job.held_out import score
from util.masks.results import mask_name, read_scores, write_mask_png, write_scores
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


def test_films_of_an_inference_say_what_was_asked_and_answered(data, answers, monkeypatch):
    video = eval_videos(data, "valid", 0)[0]
    first, second, third, *_ = video.expressions
    write_scores(answers[1], video.video_id, [first, second], [0.912, 0.031], [True, False])
    write_scores(answers[1], video.video_id, [first], [0.5], [True])
    assert read_scores(answers[1], video.video_id)[second] == {"score": 0.031, "there": False}
    captions = []
    painter = inference.painter
    monkeypatch.setattr(
        inference, "painter", lambda texts, *colours: (captions.extend(texts), painter(texts, *colours))[1]
    )
    inference.write_overlays([video], answers[1])
    text = video.expressions
    assert captions[:3] == [f"{text[first]} · 0.50", f"{text[second]} · 0.03 · not there", text[third]]
    with av.open(str(answers[1] / "overlays" / video.video_id / f"{first}.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.frames == 8 and stream.width == 640 and stream.height > 384 + 22


def test_the_moving_picture_plays_forever_in_true_colours(tmp_path):
    tiles = [[np.full((30, 40, 3), 60 * i, np.uint8) for _ in range(5)] for i in range(4)]
    for t, frame in enumerate(tiles[3]):
        frame[10:20, 5 * t : 5 * t + 10] = draw_moving.PREDICTED_COLOUR
    frames = draw_moving.side_by_side(tiles)
    assert frames[0].shape == (60 + draw_moving.GAP, 80 + draw_moving.GAP, 3)
    draw_moving.write_gif(frames, tmp_path / "moving.gif")
    with Image.open(tmp_path / "moving.gif") as picture:
        assert (picture.n_frames, picture.info["loop"], picture.size) == (5, 0, (88, 68))
        picture.seek(4)
        assert picture.info["duration"] == draw_moving.LAST
        last = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(last - frames[4]).max() < 16 and np.abs(last - frames[0]).max() > 60


def test_grain_stays_still_and_objects_move():
    rng = np.random.default_rng(0)
    frames = [np.clip(100 + rng.normal(0, 1.5, (40, 60, 3)), 0, 255).astype(np.uint8) for _ in range(4)]
    for t, frame in enumerate(frames):
        frame[10:20, 10 * t : 10 * t + 10] = 220
    shown = draw_moving.steady(frames)
    assert all(np.array_equal(a[25:], shown[0][25:]) for a in shown) and not np.array_equal(
        frames[1][25:], frames[0][25:]
    )
    assert all((a[10:20, 10 * t : 10 * t + 10] == 220).all() and a[15, 5].max() < 110 for t, a in enumerate(shown) if t)


def test_the_way_of_an_object_is_a_share_of_the_width():
    truth = np.zeros((5, 20, 40), bool)
    for t in range(4):
        truth[t, 5:10, 4 * t : 4 * t + 5] = True  # and it is gone in the last frame
    assert draw_moving.path_length(truth) == pytest.approx(12 / 40)
    assert draw_moving.path_length(truth[4:]) == 0
