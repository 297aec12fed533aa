"""Local scoring of Ref-YouTube-VOS results against values worked out by hand."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image

import eval_ytvos
from davis2017 import ytvos_protocol
from davis2017.metrics import db_eval_boundary, db_eval_iou
from davis2017.truth import LabelMaps
from davis2017.ytvos_protocol import score_results
from tests.commands import started
from util.files.writing import write_json
from util.masks.results import mask_name, write_mask_png
from util.masks.submission import write_submission_zip
from util.run.gaps import Gaps

SHAPE = (40, 60)
# Object ids and where they are: rows, columns. None overlap, and they are further apart than any tolerance.
BOXES = {1: np.s_[4:14, 4:14], 2: np.s_[4:14, 40:50], 3: np.s_[24:34, 20:40]}
VIDEOS = {
    "cats": {
        "expressions": {
            "0": {"exp": "the left cat", "obj_id": "1", "kind": "relation"},
            "1": {"exp": "the right cat", "obj_id": "2", "kind": "relation"},
        },
        "frames": ["00000", "00005"],
    },
    "dog": {"expressions": {"0": {"exp": "a dog", "obj_id": 3, "kind": "appearance"}}, "frames": ["00000"]},
}


def _mask(*ids: int) -> np.ndarray:
    out = np.zeros(SHAPE, bool)
    for i in ids:
        out[BOXES[i]] = True
    return out


def _write_labels(path, *ids: int) -> None:
    labels = sum(i * _mask(i).astype(np.uint8) for i in ids) + np.zeros(SHAPE, np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.save(path)


def _predict(folder, vid: str, eid: str, masks: list[np.ndarray], videos=VIDEOS) -> None:
    for frame, mask in zip(videos[vid]["frames"], masks, strict=True):
        write_mask_png(folder / mask_name(vid, eid, frame), mask)


@pytest.fixture
def data(tmp_path):
    """A data set whose train and valid splits are the two videos, both with masks."""
    root = tmp_path / "data"
    for split in ("train", "valid"):
        for vid, ids in (("cats", (1, 2)), ("dog", (3,))):
            (root / split / "JPEGImages" / vid).mkdir(parents=True)
            for frame in VIDEOS[vid]["frames"]:
                _write_labels(root / split / "Annotations" / vid / f"{frame}.png", *ids)
        write_json(root / "meta_expressions" / split / "meta_expressions.json", {"videos": VIDEOS})
    return root


@pytest.fixture
def annotations(data):
    return data / "valid" / "Annotations"


@pytest.fixture
def results(tmp_path):
    """Left cat: right, then blank. Right cat: the left one, twice. Dog: its left half."""
    folder = tmp_path / "results"
    _predict(folder, "cats", "0", [_mask(1), _mask()])
    _predict(folder, "cats", "1", [_mask(1), _mask(1)])
    half = _mask(3)
    half[:, 30:] = False
    _predict(folder, "dog", "0", [half])
    return folder


def test_worked_out_by_hand(results, annotations):
    scores = score_results(results, annotations, VIDEOS, other_objects=True)
    left, right, dog = scores["videos"]["cats"]["0"], scores["videos"]["cats"]["1"], scores["videos"]["dog"]["0"]
    assert (left["J"], left["F"], left["J&F"], left["frames"]) == (0.5, 0.5, 0.5, 2)
    assert (right["J"], right["F"], right["J&F"]) == (0, 0, 0)
    # The left half of 10 x 20 pixels; with a tolerance of one pixel its cut edge and the far half do not match.
    assert dog["J"] == 0.5 and 0.5 < dog["F"] < 1

    assert left["other"] == {"obj_id": "2", "J": 0, "F": 0, "J&F": 0}
    assert right["other"] == {"obj_id": "1", "J": 1, "F": 1, "J&F": 1}
    assert dog["other"] is None

    assert scores["J"] == pytest.approx((0.5 + 0 + 0.5) / 3)
    assert scores["F"] == pytest.approx((0.5 + 0 + dog["F"]) / 3)
    assert scores["J&F"] == pytest.approx((scores["J"] + scores["F"]) / 2)
    assert scores["expressions"] == 3
    assert scores["J&F_other_object"] == 0.5
    assert list(scores["by_kind"]) == ["appearance", "relation"]
    assert scores["by_kind"]["relation"] == {
        "J": 0.25,
        "F": 0.25,
        "J&F": 0.25,
        "expressions": 2,
        "J&F_other_object": 0.5,
    }
    assert scores["by_kind"]["appearance"]["J&F_other_object"] is None


def test_per_frame_measures_are_those_of_the_metrics(annotations, tmp_path):
    rng = np.random.default_rng(0)
    predicted = _mask(1) ^ (rng.random((2, *SHAPE)) > 0.97)
    _predict(tmp_path / "noisy", "cats", "0", list(predicted))
    videos = {"cats": VIDEOS["cats"] | {"expressions": {"0": VIDEOS["cats"]["expressions"]["0"]}}}
    scored = score_results(tmp_path / "noisy", annotations, videos)["videos"]["cats"]["0"]
    truth = np.stack([_mask(1)] * 2)
    assert scored["J"] == pytest.approx(db_eval_iou(truth, predicted).mean(), abs=1e-12)
    assert scored["F"] == pytest.approx(db_eval_boundary(truth, predicted).mean(), abs=1e-12)


def test_right_masks_of_swapped_objects(annotations, tmp_path):
    """A model that finds the objects and not the meaning: nothing on the target, everything on the other object."""
    for name, swap in (("right", {"0": 1, "1": 2}), ("swapped", {"0": 2, "1": 1})):
        for eid, object_id in swap.items():
            _predict(tmp_path / name, "cats", eid, [_mask(object_id)] * 2)
    cats = {"cats": VIDEOS["cats"]}
    right, swapped = (score_results(tmp_path / n, annotations, cats, other_objects=True) for n in ("right", "swapped"))
    assert (right["J&F"], right["J&F_other_object"]) == (1, 0)
    assert (swapped["J&F"], swapped["J&F_other_object"]) == (0, 1)


def test_an_object_that_appears_late_was_empty_before(tmp_path):
    frames = [f"{t:05d}" for t in range(4)]
    videos = {"v": {"expressions": {"0": {"exp": "one", "obj_id": "1"}}, "frames": frames}}
    for t, frame in enumerate(frames):
        _write_labels(tmp_path / "truth" / "v" / f"{frame}.png", *((1, 2, 3) if t == 3 else (1, 2)))
    _predict(tmp_path / "results", "v", "0", [_mask(), _mask(), _mask(1), _mask(3)], videos)
    scored = score_results(tmp_path / "results", tmp_path / "truth", videos, other_objects=True)["videos"]["v"]["0"]
    # Object 3 is rightly blank in two frames, wrongly not in the third, found in the last.
    assert scored["J&F"] == 0.25
    assert scored["other"] == {"obj_id": "3", "J": 0.75, "F": 0.75, "J&F": 0.75}


def test_absent_object_rightly_left_blank(tmp_path):
    videos = {"v": {"expressions": {"0": {"exp": "one", "obj_id": "1"}}, "frames": ["0", "1"]}}
    _write_labels(tmp_path / "truth/v/0.png", 1)
    _write_labels(tmp_path / "truth/v/1.png", 2)
    _predict(tmp_path / "results", "v", "0", [_mask(1), _mask()], videos)
    assert score_results(tmp_path / "results", tmp_path / "truth", videos)["J&F"] == 1


def test_zip_folder_and_processes_agree(results, annotations, tmp_path):
    write_submission_zip(results, tmp_path / "s.zip")
    expected = score_results(results, annotations, VIDEOS, other_objects=True)
    assert score_results(tmp_path / "s.zip", annotations, VIDEOS, other_objects=True) == expected
    assert score_results(tmp_path / "s.zip", annotations, VIDEOS, workers=2, other_objects=True) == expected
    assert list(expected["videos"]) == list(VIDEOS)


def test_kinds_and_other_objects_only_where_asked(results, annotations):
    videos = json.loads(json.dumps(VIDEOS))
    del videos["dog"]["expressions"]["0"]["kind"]
    scores = score_results(results, annotations, videos)
    assert set(scores) == {"J", "F", "J&F", "expressions", "videos"}
    assert set(scores["videos"]["dog"]["0"]) == {"exp", "obj_id", "frames", "J", "F", "J&F"}


def test_results_of_other_videos_are_not_looked_at(results, annotations):
    assert list(score_results(results, annotations, {"dog": VIDEOS["dog"]})["videos"]) == ["dog"]


def _changed(videos, **expression):
    out = json.loads(json.dumps(videos))
    out["dog"]["expressions"]["0"].update(expression)
    return out


@pytest.mark.parametrize(
    "obj_id, message",
    [
        ("7", r"object 7 is in none of the masks in .*dog, which hold \[3\]"),
        ("0", "obj_id '0' is no object id"),
        ("the dog", "obj_id 'the dog' is no object id"),
        ([], r"obj_id \[\] is no object id"),
    ],
)
def test_wrong_object_ids(results, annotations, obj_id, message):
    with pytest.raises(ValueError, match=f"video dog, expression 0: {message}"):
        score_results(results, annotations, _changed(VIDEOS, obj_id=obj_id))


def test_an_expression_whose_object_is_null_means_nothing(results, annotations):
    """Its masks should be empty, and are not; of the other two, both find something."""
    meant_nothing = _changed(VIDEOS, obj_id=None)
    scores = score_results(results, annotations, meant_nothing, other_objects=True)
    assert scores["J&F"] == 0.25 and scores["expressions"] == 2 and scores["without_target"] == 1
    assert (scores["N-acc"], scores["T-acc"]) == (0, 1) and scores["videos"]["dog"]["0"]["other"] is None
    _predict(results, "dog", "0", [_mask()])
    _predict(results, "cats", "1", [_mask(), _mask()])
    scores = score_results(results, annotations, meant_nothing)
    assert (scores["N-acc"], scores["T-acc"]) == (1, 0.5)
    assert "N-acc" not in score_results(results, annotations, VIDEOS)


def test_what_means_nothing_is_left_out_where_no_ground_truth_is_left(results, annotations):
    """Nothing says then that its masks should be empty in these frames: the video may not be the right one."""
    for path in (annotations / "dog").iterdir():
        path.unlink()
    gaps = Gaps(strict=False)
    scores = score_results(results, annotations, _changed(VIDEOS, obj_id=None), gaps=gaps)
    assert scores["J&F"] == 0.25 and scores["without_target"] == 0 and scores["N-acc"] is None
    assert scores["incomplete"]["expressions"] == 1 and "dog" not in scores["videos"]


def test_what_is_missing_is_named(results, annotations):
    (results / mask_name("cats", "1", "00005")).unlink()
    (results / mask_name("dog", "0", "00000")).unlink()
    with pytest.raises(ValueError, match="masks are missing") as raised:
        score_results(results, annotations, VIDEOS)
    for part in ("video cats, expression 1: 1 of 2 frames", "cats/1/00005.png", "video dog, expression 0: 1 of 1"):
        assert part in str(raised.value)


@pytest.mark.parametrize("workers", [1, 2])
def test_mask_of_another_size(results, annotations, workers):
    write_mask_png(results / mask_name("dog", "0", "00000"), _mask(3).T)
    with pytest.raises(ValueError, match=r"dog/0/00000.png is 40x60, but the video's frames are 60x40"):
        score_results(results, annotations, VIDEOS, workers=workers)


def test_damaged_masks(results, annotations):
    path = annotations / "dog" / "00000.png"
    labels = path.read_bytes()
    path.write_bytes(labels[:60])
    with pytest.raises(ValueError, match="dog/00000.png: this mask cannot be decoded"):
        score_results(results, annotations, VIDEOS)
    Image.new("RGB", SHAPE[::-1], (1, 2, 3)).save(path)
    with pytest.raises(ValueError, match="dog/00000.png: a mask is a palette PNG"):
        score_results(results, annotations, VIDEOS)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="dog/00000.png: no such mask"):
        score_results(results, annotations, VIDEOS)
    path.write_bytes(labels)
    (results / mask_name("dog", "0", "00000")).write_bytes(b"not a PNG")
    with pytest.raises(ValueError, match="dog/0/00000.png cannot be decoded"):
        score_results(results, annotations, VIDEOS)


def test_the_masks_of_a_video_are_taken_out_when_it_is_scored(results, annotations, monkeypatch):
    """Those of all videos at once are too many."""
    events = []
    take, score = LabelMaps.video, ytvos_protocol.score_video

    def taking(truth, vid, targets):
        events.append(f"take {vid}")
        return take(truth, vid, targets)

    def scoring(*args):
        events.append(f"score {args[-2]['id']}")
        return score(*args)

    monkeypatch.setattr(LabelMaps, "video", taking)
    monkeypatch.setattr(ytvos_protocol, "score_video", scoring)
    score_results(results, annotations, VIDEOS)
    assert events == ["take cats", "score cats", "take dog", "score dog"]


def test_results_with_another_root(results, annotations):
    with pytest.raises(ValueError, match="no folder Annotations/ at its root"):
        score_results(results / "Annotations", annotations, VIDEOS)


@pytest.mark.parametrize("videos", [{}, {"dog": {"expressions": {}, "frames": ["00000"]}}])
def test_nothing_to_score(results, annotations, videos):
    with pytest.raises(ValueError, match="nothing to score"):
        score_results(results, annotations, videos)


def _command(monkeypatch, *arguments) -> None:
    monkeypatch.setattr(sys, "argv", ["eval_ytvos.py", *map(str, arguments)])
    eval_ytvos.main()


def test_command_prints_and_writes_the_scores(results, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "new" / "scores.json"
    _command(
        monkeypatch, results, "--ytvos_path", data, "--against", "other", "--worst", 1, "--json", out, "--workers", 1
    )
    expected = score_results(results, data / "valid" / "Annotations", VIDEOS, other_objects=True)
    assert json.loads(out.read_text()) == expected
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["cats", "2", "0.2500", "0.2500", "0.2500", "0.5000"]
    assert lines[2].split()[:3] == ["dog", "1", "0.5000"] and lines[2].endswith(" -")
    assert "0.0000  cats  1: the right cat" in lines
    assert not any("the left cat" in line for line in lines)
    assert f"J&F {expected['J&F']:.4f}   J 0.3333" in lines[-2]
    assert lines[-1] == "J&F against the hardest other object: 0.5000"


def test_holdout_and_train_share_the_training_videos(results, data, tmp_path, monkeypatch):
    scored = {}
    for split in ("holdout", "train"):
        out = tmp_path / f"{split}.json"
        _command(monkeypatch, results, "--ytvos_path", data, "--split", split, "--holdout", 1, "--json", out)
        scored[split] = set(json.loads(out.read_text())["videos"])
    assert len(scored["holdout"]) == 1
    assert scored["holdout"] | scored["train"] == set(VIDEOS)
    assert not scored["holdout"] & scored["train"]


def test_a_split_that_cannot_be_scored_names_one_that_can(results, data, monkeypatch):
    meta = data / "meta_expressions" / "valid" / "meta_expressions.json"
    blind = json.loads(json.dumps(VIDEOS))
    for video in blind.values():
        for expression in video["expressions"].values():
            del expression["obj_id"]
    write_json(meta, {"videos": blind})
    with pytest.raises(
        ValueError, match="split valid .* does not name its object .*; train, and a hold-out of it, can be"
    ):
        _command(monkeypatch, results, "--ytvos_path", data)
    (data / "valid" / "Annotations").rename(data / "valid" / "elsewhere")
    with pytest.raises(ValueError, match="there is no folder .*valid/Annotations; train, and a hold-out of it, can be"):
        _command(monkeypatch, results, "--ytvos_path", data)
    (data / "train" / "Annotations" / "dog" / "00000.png").unlink()
    with pytest.raises(ValueError, match="valid/Annotations; nor can train"):
        _command(monkeypatch, results, "--ytvos_path", data)
    with pytest.raises(ValueError, match="split train .* there is no mask .*dog/00000.png; nor can valid"):
        _command(monkeypatch, results, "--ytvos_path", data, "--split", "train", "--strict")
    for path in (data / "train" / "Annotations").rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="split train .* there is no mask .*; nor can valid"):
        _command(monkeypatch, results, "--ytvos_path", data, "--split", "train")


def test_user_mistakes_end_without_a_traceback(tmp_path):
    mistakes = {tmp_path: "absent: no such folder", tmp_path / "typo.zip": "typo.zip: no such results"}
    for results, mistake in mistakes.items():
        done = started("eval_ytvos.py", results, "--ytvos_path", tmp_path / "absent")
        assert done.returncode == 2
        assert done.stderr.startswith("eval_ytvos.py: error: ") and mistake in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--split", "holdout"], "--split holdout needs --holdout N"),
        (["--workers", "0"], "--workers must be at least 1"),
        (["--worst", "-1"], "--worst and --holdout at least 0"),
    ],
)
def test_contradicting_options(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        eval_ytvos.parse_args(["results", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
