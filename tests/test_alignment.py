"""The alignment that stands in for pretrained encoders: what it is told, and that it learns."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch

from datasets.sides import swap_sides
from datasets.ytvos import annotations_root, frames_root, train_videos
from models.backbone import build_backbone
from tests.tiny_model import FakeBackbone, tiny_text_encoder
from tools.data.make_synthetic import generate
from tools.small_job.pretrain_alignment import (
    MIN_STEPS,
    UNKNOWN,
    Aligner,
    ClipStream,
    Videos,
    directions_of,
    per_pixel,
    pretrain,
)
from util.video.pictures import read_frames, read_label_maps


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
    videos = Videos(data, num_frames=8)
    videos.names = videos.names[:1]
    clips = videos.draw(6, torch.Generator().manual_seed(0))
    name = videos.names[0]
    frames = read_frames(sorted((frames_root(data, "train") / name).iterdir()))
    labels = read_label_maps(sorted((annotations_root(data, "train") / name).iterdir()), (96, 160))[:, 0]
    asked = list(videos.videos[name]["expressions"].values())
    known = json.loads((data / "train" / "meta.json").read_text())["videos"][name]["objects"]
    mirrored = [not torch.equal(f, frames) for f in clips.frames]
    assert 0 < sum(mirrored) < 6
    for i, flip in enumerate(mirrored):
        assert torch.equal(clips.frames[i], frames.flip(-1) if flip else frames)
        assert torch.equal(clips.labels[i], labels.flip(-1) if flip else labels)
        mine = (clips.clip == i).nonzero().flatten().tolist()
        assert [clips.texts[j] for j in mine] == [swap_sides(e["exp"]) if flip else e["exp"] for e in asked]
        assert clips.target[mine].tolist() == [int(e["obj_id"]) for e in asked]
        for number, entry in known.items():
            there = clips.classes[i][clips.labels[i] == int(number)]
            assert (there == videos.categories.index(entry["category"]) + 1).all()
    again = videos.draw(6, torch.Generator().manual_seed(0))
    assert again.texts == clips.texts and torch.equal(again.frames, clips.frames)


def test_the_holdout_of_main_is_left_alone(data):
    kept = {video.video_id for video in train_videos(data, holdout=2, binary=True)}
    assert set(Videos(data, num_frames=2, holdout=2).names) == kept and len(kept) == 4


def test_the_fewest_steps_allowed_are_trained(data):
    videos = Videos(data, num_frames=2)
    aligner = Aligner(FakeBackbone(), tiny_text_encoder(), classes=len(videos.categories) + 1, objects=videos.objects)
    found = pretrain(aligner, ClipStream(videos, count=1, steps=MIN_STEPS, seed=0), steps=MIN_STEPS, lr=1e-3)
    assert 0 <= found <= 1


def test_a_few_videos_are_learned_by_heart(data, capsys):
    torch.manual_seed(0)
    backbone = build_backbone("tsm_resnet10_half", pretrained=False)
    videos = Videos(data, num_frames=2)
    aligner = Aligner(backbone, tiny_text_encoder(), classes=len(videos.categories) + 1, objects=videos.objects)
    stream = ClipStream(videos, count=4, steps=60, seed=0)
    start = time.perf_counter()
    found = pretrain(aligner, stream, steps=60, lr=2e-3)
    taken = time.perf_counter() - start
    assert found > 0.45  # a guess finds about one of four
    (said,) = capsys.readouterr().out.splitlines()
    each = re.fullmatch(r"alignment: a step takes ([\d.]+) s: 40 steps take [\d.]+ minutes, until \d\d:\d\d", said)
    assert each and 0 < float(each[1]) < taken / 15


def broken(data, tmp_path, change) -> Path:
    """A copy of the set in which ``change`` has been at the ``videos`` of meta.json."""
    root = tmp_path / "set"
    (root / "train").mkdir(parents=True)
    (root / "meta_expressions").symlink_to(data / "meta_expressions")
    for part in ("JPEGImages", "Annotations"):
        (root / "train" / part).symlink_to(data / "train" / part)
    content = json.loads((data / "train" / "meta.json").read_text())
    change(content["videos"])
    (root / "train" / "meta.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("train_00001"), "video train_00001 must list its"),
        (lambda v: v["train_00001"].update(objects={}), "video train_00001 must list its"),
        (lambda v: v["train_00001"]["objects"].update({"300": {"category": "star"}}), "object 300 must be a number"),
        (lambda v: v["train_00001"]["objects"].update({"2": {"category": None}}), "object 2 must be a number"),
        (lambda v: v["train_00001"].update(objects={"9": {"category": "star"}}), "lacks object ., which an expression"),
    ],
)
def test_objects_that_are_not_described_are_named(data, tmp_path, change, message):
    with pytest.raises(ValueError, match=rf"meta\.json: .*{message}"):
        Videos(broken(data, tmp_path, change), num_frames=2)


def test_a_video_without_categories_is_named(data, tmp_path):
    root = broken(data, tmp_path, dict)
    (root / "train" / "meta.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"meta\.json"):
        Videos(root, num_frames=2)


def test_void_pixels_belong_to_no_object(data):
    videos = Videos(data, num_frames=8)
    videos.names, name = videos.names[:1], videos.names[0]
    videos._class_of[name][1] = 0  # as if meta.json did not list it
    clips = videos.draw(1, torch.Generator().manual_seed(0))
    assert (clips.labels > 1).any() and not (clips.labels == 1).any()


def test_a_window_longer_than_a_video_is_refused(data):
    with pytest.raises(ValueError, match="--num_frames 9: video train_00000 has 8 frames; give at most as many"):
        Videos(data, num_frames=9)
