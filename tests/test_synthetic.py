"""The generated data set: its files, and that what the expressions say can be found in the pixels."""

from __future__ import annotations

import errno
import json
import re
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.commands import started
from tools.data import make_synthetic
from tools.data.make_synthetic import generate, make_scene
from tools.data.synthetic_scene import (
    AWAY,
    COLOURS,
    MARGIN,
    RADII,
    SHAPES,
    VISIBLE_SHARE,
    Scene,
    Thing,
)
from tools.data.synthetic_text import KINDS, Query, Words, only, truth

SMALL = dict(train_videos=20, valid_videos=5, seed=3)
HEIGHT, WIDTH, FRAMES = 96, 160, 8
# What each motion looks like: direction (x, y) of a step in the first and in the second half.
STEPS = {
    "moving to the left": ((-1, 0), (-1, 0)),
    "moving to the right": ((1, 0), (1, 0)),
    "moving up": ((0, -1), (0, -1)),
    "moving down": ((0, 1), (0, 1)),
    "standing still": ((0, 0), (0, 0)),
    "going up and then down": ((0, -1), (0, 1)),
    "going down and then up": ((0, 1), (0, -1)),
    "going left and then right": ((-1, 0), (1, 0)),
    "going right and then left": ((1, 0), (-1, 0)),
}
SIDES = {"left of": "left", "right of": "right", "above": "above", "below": "below"}
ENDS = {
    "furthest to the left": "left",
    "furthest to the right": "right",
    "closest to the top": "above",
    "closest to the bottom": "below",
}


def words_in(text: str) -> Words:
    known = {"size": list(RADII), "colour": list(COLOURS), "shape": list(SHAPES)}
    said = {key: word for word in text.split() for key, values in known.items() if word in values}
    assert len(text.split()) == len(said) + ("object" in text.split()), f"unknown word in {text!r}"
    return Words(**said)


def understood(text: str) -> Query:
    """Reads an expression with a grammar of its own, independent of the templates that made it."""
    text = re.sub(r"^(the|an|a) ", "", text).replace(" that is", "")
    for motion in STEPS:
        if text.endswith(" " + motion):
            return Query(words_in(text.removesuffix(motion)), motion=motion)
    for end, relation in ENDS.items():
        if text.endswith(" " + end):
            return Query(words_in(text.removesuffix(end)), relation=relation)
    for side, relation in SIDES.items():
        if found := re.fullmatch(rf"(.+?) (?:to the )?{side} the (.+)", text):
            return Query(words_in(found[1]), relation=relation, anchor=words_in(found[2]))
    return Query(words_in(text))


def mirrored(text: str) -> str:
    other = {"left": "right", "right": "left"}
    return re.sub(r"\b(left|right)\b", lambda found: other[found[0]], text)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic") / "set"
    assert generate(folder, **SMALL, workers=1)
    return folder


@pytest.fixture(scope="module")
def scenes() -> list:
    return [make_scene(11, "train", number, FRAMES, (HEIGHT, WIDTH))[:2] for number in range(60)]


def read(path: Path) -> dict:
    return json.loads(path.read_text())["videos"]


def asked(data: Path, split: str) -> dict:
    return read(data / "meta_expressions" / split / "meta_expressions.json")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass
class Seen:
    """What can be told of an object from the files alone."""

    shape: str
    colour: str
    size: str
    track: np.ndarray  # [F, 2], NaN where the object is absent
    free: np.ndarray  # [F, 2] nothing hides a part of it, as far as its position along this axis is concerned

    def may_be(self, words: Words) -> bool:
        pairs = ((words.shape, self.shape), (words.colour, self.colour), (words.size, self.size))
        return all(said in (None, true) for said, true in pairs)

    def may_move(self, motion: str) -> bool:
        for t in range(FRAMES - 1):
            if 2 * t + 1 == FRAMES - 1:
                continue  # a path that turns back turns here
            step = np.where(self.free[t] & self.free[t + 1], self.track[t + 1] - self.track[t], np.nan)
            for expected, moved in zip(STEPS[motion][t >= FRAMES // 2], step, strict=True):
                limit = 0.1 if motion == "standing still" else 2.5
                if expected * moved < 1.5 if expected else abs(moved) > limit:
                    return False
        return True


def look(data: Path, split: str, vid: str) -> dict[str, Seen]:
    """Measures every object of a video."""
    frames = asked(data, split)[vid]["frames"]
    images = [np.asarray(Image.open(data / split / "JPEGImages" / vid / f"{f}.jpg"), float) for f in frames]
    masks = [np.asarray(Image.open(data / split / "Annotations" / vid / f"{f}.png")) for f in frames]
    seen = {}
    for key, entry in read(data / split / "meta.json")[vid]["objects"].items():
        track, free, areas, pixels = np.full((FRAMES, 2), np.nan), np.zeros((FRAMES, 2), bool), [], []
        for t, (image, mask) in enumerate(zip(images, masks, strict=True)):
            own = mask == int(key)
            if not own.any():
                continue
            y, x = np.nonzero(own)
            track[t] = x.mean() + 0.5, y.mean() + 0.5
            alone = set(mask[cv2.dilate(np.uint8(own), np.ones((3, 3), np.uint8)) > 0]) <= {0, int(key)}
            free[t] = alone and x.min() > 0 and x.max() < WIDTH - 1, alone and y.min() > 0 and y.max() < HEIGHT - 1
            areas.append(own.sum())
            pixels.append(image[own])
        mean = np.concatenate(pixels).mean(axis=0)
        # brightness changes from video to video, so colours are compared by direction; white is the grey one
        distances = {name: np.abs(mean / mean.max() - np.array(rgb) / max(rgb)).sum() for name, rgb in COLOURS.items()}
        size = "big" if max(areas) > 310 else "small"
        seen[key] = Seen(entry["category"], min(distances, key=distances.get), size, track, free)
    return seen


def holds(seen: dict[str, Seen], query: Query, key: str) -> bool:
    """Whether ``query`` may be true of object ``key``, by what was measured."""
    thing = seen[key]
    if not thing.may_be(query.words) or (query.motion and not thing.may_move(query.motion)):
        return False
    if query.relation is None:
        return True
    axis, sign, extent = {
        "left": (0, -1, WIDTH),
        "right": (0, 1, WIDTH),
        "above": (1, -1, HEIGHT),
        "below": (1, 1, HEIGHT),
    }[query.relation]
    rivals = [other for other in seen if other != key and seen[other].may_be(query.anchor or query.words)]
    leads = [sign * (thing.track[:, axis] - seen[other].track[:, axis]) / extent for other in rivals]
    ahead = [(lead[~np.isnan(lead)] >= MARGIN).all() for lead in leads]
    return any(ahead) if query.anchor else all(ahead)


def test_layout_is_that_of_ref_youtube_vos(data):
    assert {path.name for path in data.iterdir()} == {"train", "valid", "meta_expressions", "synthetic.json"}
    names = {}
    for split, count in (("train", 20), ("valid", 5)):
        videos, meta = asked(data, split), read(data / split / "meta.json")
        names[split] = set(videos)
        assert len(videos) == count and set(videos) == set(meta)
        assert {path.name for path in (data / split).iterdir()} == {"JPEGImages", "Annotations", "meta.json"}
        for vid, video in videos.items():
            assert video["frames"] == [f"{5 * t:05d}" for t in range(FRAMES)]
            present = {key: [] for key in meta[vid]["objects"]}
            for frame in video["frames"]:
                with Image.open(data / split / "JPEGImages" / vid / f"{frame}.jpg") as image:
                    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (WIDTH, HEIGHT))
                with Image.open(data / split / "Annotations" / vid / f"{frame}.png") as mask:
                    assert (mask.format, mask.mode, mask.size) == ("PNG", "P", (WIDTH, HEIGHT))
                    assert mask.getpalette()[:12] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0]
                    for value in set(np.unique(mask)) - {0}:
                        present[str(value)].append(frame)
            for key, entry in meta[vid]["objects"].items():
                assert entry["category"] in SHAPES and entry["frames"] == present[key]
            for number, expression in enumerate(video["expressions"].values()):
                assert set(expression) == {"exp", "obj_id", "kind"} and str(number) in video["expressions"]
                assert expression["obj_id"] in present
    assert not names["train"] & names["valid"]


def test_kinds_are_balanced_in_both_splits_and_every_video_has_each(data):
    counts = json.loads((data / "synthetic.json").read_text())["counts"]
    for split in ("train", "valid"):
        kinds = [[e["kind"] for e in video["expressions"].values()] for video in asked(data, split).values()]
        assert all(set(video) == set(KINDS) and 4 <= len(video) <= 6 for video in kinds)
        everything = sum(kinds, [])
        assert min(everything.count("motion"), everything.count("relation")) >= len(everything) / 3
        assert {kind: everything.count(kind) for kind in KINDS} == {kind: counts[split][kind] for kind in KINDS}


@pytest.mark.parametrize("split", ["train", "valid"])
def test_expressions_are_true_of_their_object_alone_in_the_pixels(data, split):
    unsure, motions = 0, 0
    for vid, video in asked(data, split).items():
        seen = look(data, split, vid)
        assert 3 <= len(seen) <= 5
        for expression in video["expressions"].values():
            fitting = [key for key in seen if holds(seen, understood(expression["exp"]), key)]
            if expression["kind"] == "motion":
                assert expression["obj_id"] in fitting, (vid, expression)
                motions += 1
                unsure += len(fitting) > 1  # the path of another object is hidden too much to exclude it
            else:
                assert fitting == [expression["obj_id"]], (vid, expression)
    assert unsure <= motions / 2


def test_expressions_say_what_their_queries_ask(scenes):
    for scene, expressions in scenes:
        for expression in expressions:
            assert understood(expression.text) == expression.query
            assert only(scene, expression.query) == expression.target


def test_each_kind_needs_what_its_name_says(scenes):
    for scene, expressions in scenes:
        for expression in expressions:
            target, words = scene.things[expression.target], expression.query.words
            others = [i for i in range(len(scene.things)) if i != expression.target]
            rivals = [i for i in others if words.fit(scene.things[i])]
            assert words.fit(target)
            assert any(scene.things[i].colour == target.colour or scene.things[i].shape == target.shape for i in others)
            if expression.kind == "appearance":
                assert not rivals and words != Words()
            elif expression.kind == "motion":
                assert rivals and all(scene.things[i].motion != target.motion for i in rivals)
            else:
                anchor = expression.query.anchor
                assert [i for i in rivals if anchor is None or not anchor.fit(scene.things[i])]


def test_expressions_stay_true_when_the_frames_are_flipped(scenes):
    for scene, expressions in scenes:
        flipped = replace(
            scene,
            things=tuple(replace(thing, motion=mirrored(thing.motion)) for thing in scene.things),
            labels=scene.labels[:, :, ::-1],
            centroids=np.array([WIDTH, 0]) + np.array([-1, 1]) * scene.centroids,
        )
        for expression in expressions:
            assert only(flipped, understood(mirrored(expression.text))) == expression.target


def test_every_object_can_be_seen_and_some_leave_or_hide(scenes):
    for scene, _ in scenes:
        assert ((scene.shares >= VISIBLE_SHARE).mean(axis=1) >= 0.5).all()
        assert (scene.shares <= 1).all()
    assert any((scene.shares == 0).any() for scene, _ in scenes)
    assert sum((scene.shares < 0.8).any() for scene, _ in scenes) > len(scenes) / 3


def test_the_whole_vocabulary_is_used(scenes):
    queries = [expression.query for _, expressions in scenes for expression in expressions]
    assert {query.motion for query in queries} - {None} == set(STEPS)
    assert {(query.relation, query.anchor is None) for query in queries if query.relation} == {
        (relation, extreme) for relation in SIDES.values() for extreme in (False, True)
    }
    for attribute, values in (("size", RADII), ("colour", COLOURS), ("shape", SHAPES)):
        assert {getattr(query.words, attribute) for query in queries} == {None, *values}


def laid_out(*places: tuple[str, str, str, float]) -> Scene:
    """A scene of (size, colour, shape, x as a share of the width); nothing but ``truth`` can use it."""
    centroids = np.array([[[x * WIDTH, HEIGHT / 2]] * 2 for *_, x in places])
    things = tuple(Thing(*words, motion="standing still") for *words, _ in places)
    count = len(places)
    labels, shares = np.zeros((2, HEIGHT, WIDTH)), np.ones((count, 2))
    return Scene(things, centroids, tuple(range(count)), labels, shares, centroids, covers=[])


def test_a_relation_is_true_or_false_only_by_a_clear_margin():
    left_of_blue = Query(Words(shape="circle"), relation="left", anchor=Words(colour="blue"))
    furthest = Query(Words(colour="red"), relation="left")
    for x, expected in ((0.5 - 1.05 * MARGIN, True), (0.5 - 0.95 * MARGIN, None), (0.5 + 1.05 * MARGIN, False)):
        scene = laid_out(("big", "red", "circle", x), ("big", "blue", "circle", 0.5), ("big", "red", "star", 0.5))
        assert truth(scene, left_of_blue) == [expected, False, False]
        assert only(scene, left_of_blue) == (0 if expected else None)
        assert truth(scene, furthest)[0] is expected
    assert truth(scene, replace(left_of_blue, anchor=Words(size="big"))) == [None] * 3


def test_a_relation_holds_in_all_frames_that_show_both_objects():
    query = Query(Words(shape="circle"), relation="left", anchor=Words(colour="blue"))
    scene = laid_out(("big", "red", "circle", 0.1), ("big", "blue", "star", 0.5))
    for seen, expected in ((np.nan, 0), ((0.9 * WIDTH, 0), None)):
        centroids = scene.centroids.copy()
        centroids[0, 1] = seen
        assert only(replace(scene, centroids=centroids), query) == expected
    centroids[0] = np.nan
    assert truth(replace(scene, centroids=centroids), query) == [None, False]


def test_files_do_not_depend_on_workers_and_larger_sets_extend_smaller_ones(data, tmp_path):
    generate(tmp_path / "same", **SMALL, workers=2)
    assert contents(tmp_path / "same") == contents(data)
    generate(tmp_path / "small", **{**SMALL, "train_videos": 2, "valid_videos": 1}, workers=1)
    images = [name for name in contents(tmp_path / "small") if name.endswith((".jpg", ".png"))]
    assert len(images) == 3 * FRAMES * 2
    assert all((tmp_path / "small" / name).read_bytes() == (data / name).read_bytes() for name in images)


def test_seed_and_split_change_the_videos():
    labels = [
        make_scene(seed, split, 0, FRAMES, (HEIGHT, WIDTH))[0].labels for seed in (0, 1) for split in ("train", "valid")
    ]
    assert all(not np.array_equal(a, b) for i, a in enumerate(labels) for b in labels[:i])


def test_other_sizes_and_lengths(tmp_path):
    generate(tmp_path / "set", train_videos=1, valid_videos=1, frames=13, size=(64, 80), workers=1)
    frames = sorted((tmp_path / "set/train/JPEGImages/train_00000").iterdir())
    assert len(frames) == 13 and Image.open(frames[0]).size == (80, 64)


def test_still_images_have_no_motion_and_expressions_true_of_one_object():
    for number in range(30):
        scene, expressions, _ = make_scene(3, "train", number, 1, (HEIGHT, WIDTH))
        assert [e.kind for e in expressions] == ["appearance"] * 3 + ["relation"] * 3
        assert all(only(scene, understood(e.text)) == e.target for e in expressions)


def test_objects_leave_and_return_where_asked():
    """And expressions are then true in the frames that show their object."""
    left = 0
    for number in range(12):
        scene, expressions, _ = make_scene(5, "valid", number, 40, (HEIGHT, WIDTH), leave=True)
        assert all(only(scene, understood(e.text)) == e.target for e in expressions)
        for i in range(len(scene.things)):
            away = np.flatnonzero((scene.paths[i] == AWAY).all(axis=1))
            left += bool(len(away))
            if len(away):
                assert away[0] > 0 and away[-1] < 39 and len(away) == 1 + away[-1] - away[0] <= 16
                assert not (scene.labels[away] == i + 1).any() and scene.shares[i].any()
    assert left > 12


def test_sets_of_before_objects_could_leave_are_those_without(tmp_path):
    few = dict(train_videos=1, valid_videos=1, workers=1)
    generate(tmp_path / "set", **few)
    record = tmp_path / "set" / "synthetic.json"
    content = json.loads(record.read_text())
    del content["arguments"]["leave"]
    record.write_text(json.dumps(content))
    assert not generate(tmp_path / "set", **few)
    with pytest.raises(FileExistsError, match=r"other arguments \(leave False\)"):
        generate(tmp_path / "set", **few, leave=True)


@pytest.mark.parametrize(
    ("bad", "flag"),
    [
        (dict(frames=1, leave=True), "--leave: objects leave videos"),
        (dict(train_videos=0), "--train_videos 0"),
        (dict(valid_videos=-1), "--valid_videos -1"),
        (dict(frames=3), "--frames 3"),
        (dict(size=(96, 40)), "--size 96 40"),
        (dict(seed=-1), "--seed -1"),
        (dict(workers=0), "--workers 0"),
    ],
)
def test_bad_arguments_are_named_and_leave_nothing(tmp_path, bad, flag):
    with pytest.raises(ValueError, match=flag):
        generate(tmp_path / "set", **bad)
    assert not list(tmp_path.iterdir())


def test_a_finished_set_is_kept_and_replaced_only_when_asked(tmp_path):
    folder, few = tmp_path / "set", dict(train_videos=1, valid_videos=1, workers=1)
    folder.mkdir()
    assert generate(folder, **few)
    before = contents(folder)
    (folder / "mark").touch()
    assert not generate(folder, **few)
    with pytest.raises(FileExistsError, match=r"other arguments \(seed 0\)"):
        generate(folder, **few, seed=1)
    assert (folder / "mark").exists()
    assert generate(folder, **few, seed=1, overwrite=True)
    assert set(contents(folder)) == set(before) and contents(folder) != before
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("record", [None, "no json", "[]", "{}"])
def test_folders_of_others_are_never_replaced(tmp_path, record):
    (tmp_path / "thesis.txt").write_text("years of work")
    if record is not None:
        (tmp_path / "synthetic.json").write_text(record)
    before = contents(tmp_path)
    with pytest.raises(FileExistsError, match="not a data set made by this tool"):
        generate(tmp_path, train_videos=1, valid_videos=1, overwrite=True)
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(make_synthetic, "paint", full)
    with pytest.raises(OSError, match="cannot be written .No space left.*set"):
        generate(tmp_path / "set", train_videos=1, valid_videos=1, workers=1)
    assert not list(tmp_path.iterdir())


def test_script_says_what_it_wrote_and_how_to_mend_mistakes(tmp_path):
    def script(*arguments: str) -> subprocess.CompletedProcess:
        return started("tools/data/make_synthetic.py", tmp_path / "set", "--workers", 1, *arguments)

    few = ("--train_videos", "1", "--valid_videos", "1")
    first, again, wrong = script(*few), script(*few), script("--frames", "2")
    assert first.returncode == 0 and "written" in first.stdout and "train: 1 video," in first.stdout
    assert again.returncode == 0 and "already there" in again.stdout
    assert wrong.returncode == 2 and "error: --frames 2" in wrong.stderr and "Traceback" not in wrong.stderr
