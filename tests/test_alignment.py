"""The alignment that stands in for pretrained encoders: what it is told, and that it learns."""

from __future__ import annotations

import json

import pytest
import torch

from models.backbone import build_backbone
from tests.tiny_model import tiny_text_encoder
from tools.data.make_synthetic import generate
from tools.pretrain_alignment import UNKNOWN, Aligner, ClipStream, Videos, directions_of, per_pixel, pretrain


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alignment") / "set"
    generate(folder, train_videos=6, valid_videos=1, workers=1)
    return folder


def moving(*steps: tuple[int, int], frames: int = 4) -> torch.Tensor:
    """Masks of 5 x 5 squares that move by ``steps`` (x, y) a frame, ``[1, frames, objects, 60, 60]``."""
    regions = torch.zeros(1, frames, len(steps), 60, 60, dtype=torch.bool)
    for i, (x, y) in enumerate(steps):
        for t in range(frames):
            regions[0, t, i, 25 + t * y : 30 + t * y, 25 + t * x : 30 + t * x] = True
    return regions


def test_directions_are_named_in_their_order():
    found = directions_of(moving((0, 0), (-3, 0), (3, 1), (1, -3), (0, 3)))
    assert found[0].tolist() == [[0, 1, 2, 3, 4]] * 4


def test_a_direction_is_unknown_next_to_a_frame_that_does_not_show_the_whole_object():
    regions = moving((3, 0), (3, 0), frames=5)
    regions[0, 3, 1, :27] = False
    assert directions_of(regions)[0].T.tolist() == [[2] * 5, [2, 2, UNKNOWN, UNKNOWN, UNKNOWN]]
    assert (directions_of(moving((3, 0), frames=1)) == UNKNOWN).all()


def test_per_pixel_takes_the_value_of_the_object_shown():
    labels = torch.tensor([[[[0, 1], [2, 0]], [[2, 2], [1, 0]]]])
    values = torch.tensor([[[7, 8], [5, 6]]])
    assert per_pixel(values, labels, -1).tolist() == [[[[-1, 7], [8, -1]], [[6, 6], [5, -1]]]]


def test_drawn_clips_show_what_they_say(data):
    videos = Videos(data, num_frames=3)
    clips = videos.draw(8, torch.Generator().manual_seed(0))
    asked = json.loads((data / "meta_expressions" / "train" / "meta_expressions.json").read_text())["videos"]
    known = {e["exp"] for video in asked.values() for e in video["expressions"].values()}
    assert clips.frames.shape == (8, 3, 3, 96, 160) and clips.labels.shape == clips.classes.shape == (8, 3, 96, 160)
    assert any(text in known for text in clips.texts) and len(clips.texts) == len(clips.clip) == len(clips.target)
    assert ((clips.labels > 0) == (clips.classes > 0)).all() and clips.classes.max() <= len(videos.categories)
    again = videos.draw(8, torch.Generator().manual_seed(0))
    assert again.texts == clips.texts and torch.equal(again.frames, clips.frames)


def test_a_few_videos_are_learned_by_heart(data):
    torch.manual_seed(0)
    backbone = build_backbone("tsm_resnet10_half", pretrained=False)
    videos = Videos(data, num_frames=2)
    aligner = Aligner(backbone, tiny_text_encoder(), classes=len(videos.categories) + 1, objects=videos.objects)
    stream = ClipStream(videos, count=4, steps=60, seed=0)
    found = pretrain(aligner, stream, steps=60, lr=2e-3)
    assert found > 0.45  # a guess finds about one of four


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, FileNotFoundError, "meta.json does not exist"),
        ("{}", ValueError, "meta.json is not a meta.json with a category"),
        ("no json", ValueError, "meta.json is not a meta.json with a category"),
    ],
)
def test_categories_that_cannot_be_read_are_named(data, tmp_path, content, error, message):
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    (root / "meta_expressions").symlink_to(data / "meta_expressions")
    if content is not None:
        (root / "train" / "meta.json").write_text(content)
    with pytest.raises(error, match=message):
        Videos(root, num_frames=2)


def test_a_window_longer_than_a_video_is_refused(data):
    with pytest.raises(ValueError, match="--num_frames 9: video train_00000 has 8 frames"):
        Videos(data, num_frames=9)
