"""Scoring with damaged, missing or odd masks: predictions score 0, ground truth is left out, both are counted."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import eval_davis
import eval_mevis
import eval_ytvos
from davis2017.truth import LabelMaps, mask_size
from davis2017.ytvos_protocol import score_results
from tests.mini_davis import write_masks
from tests.mini_mevis import VALID_U, write_mini_mevis
from util.files.writing import write_json
from util.masks.results import mask_name, write_mask_png
from util.run.cli import INCOMPLETE
from util.run.gaps import TOLD, Gaps

SHAPE = (40, 60)
BOXES = {1: np.s_[4:14, 4:14], 2: np.s_[24:34, 20:40]}
FRAMES = ["00000", "00005", "00010", "00015"]


def labels(*ids: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    out = np.zeros(shape, np.uint8)
    for number in ids:
        out[BOXES[number]] = number
    return out


@pytest.fixture
def data(tmp_path) -> Path:
    """Two videos of four frames and two objects each in valid, which the list names, and a third of the split test."""
    root = tmp_path / "data"
    expressions = {str(n - 1): {"exp": f"Object {n}", "obj_id": str(n)} for n in (1, 2)}
    videos = {name: {"expressions": expressions, "frames": FRAMES} for name in ("aa", "bb", "tt")}
    for name in ("aa", "bb"):
        write_masks(root / "valid" / "Annotations" / name, {frame: labels(1, 2) for frame in FRAMES})
    write_json(root / "meta_expressions" / "valid" / "meta_expressions.json", {"videos": videos})
    write_json(root / "meta_expressions" / "test" / "meta_expressions.json", {"videos": {"tt": videos["tt"]}})
    return root


@pytest.fixture
def results(tmp_path) -> Path:
    """Every mask is right."""
    folder = tmp_path / "results"
    for name in ("aa", "bb"):
        for number in (1, 2):
            for frame in FRAMES:
                write_mask_png(folder / mask_name(name, str(number - 1), frame), labels(1, 2) == number)
    return folder


def scored(program, tmp_path, monkeypatch, *words) -> tuple[int | None, dict]:
    """Exit code and scores of an evaluation script."""
    out = tmp_path / "scores.json"
    monkeypatch.setattr(sys, "argv", [str(w) for w in (program.__name__, *words, "--json", out, "--workers", 1)])
    code = program.main()
    return code, json.loads(out.read_text())


def ytvos(results, data, tmp_path, monkeypatch, *words) -> tuple[int | None, dict]:
    return scored(eval_ytvos, tmp_path, monkeypatch, results, "--ytvos_path", data, *words)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def turn(path: Path) -> None:
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path)


PREDICTIONS = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut short": cut,
    "of another size": turn,
    "in colour": lambda path: Image.new("RGB", SHAPE[::-1], (1, 2, 3)).save(path),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize(("case", "workers"), [*((case, 1) for case in PREDICTIONS), ("cut short", 2)])
def test_a_damaged_prediction_scores_0_in_its_frame(case, workers, results, data, capsys):
    damaged = results / mask_name("aa", "1", FRAMES[2])
    PREDICTIONS[case](damaged)
    gaps = Gaps()
    videos = json.loads((data / "meta_expressions/valid/meta_expressions.json").read_text())["videos"]
    del videos["tt"]
    scores = score_results(results, data / "valid/Annotations", videos, workers, other_objects=True, gaps=gaps)
    assert [scores["videos"]["aa"][e]["J&F"] for e in "01"] == [1, 0.75] and scores["J&F"] == pytest.approx(3.75 / 4)
    assert scores["videos"]["aa"]["1"]["frames"] == 4 and scores["videos"]["aa"]["1"]["other"]["J&F"] == 0
    counts = {key: value for key, value in scores["incomplete"].items() if key != "problems"}
    assert counts == {"predictions": 1, "truth_frames": 0, "expressions": 0}
    (line,) = capsys.readouterr().err.splitlines()
    assert "video aa, expression 1" in line and FRAMES[2] in line and "scored as 0" in line
    with pytest.raises(ValueError, match=f"aa/1/{FRAMES[2]}"):
        score_results(results, data / "valid/Annotations", videos, workers)


TRUTH = {
    "missing": Path.unlink,
    "cut short": cut,
    "of another size": turn,
    "in colour": lambda path: Image.new("RGB", SHAPE[::-1], (1, 2, 3)).save(path),
}


@pytest.mark.parametrize("case", TRUTH)
def test_a_damaged_ground_truth_is_left_out(case, results, data, tmp_path, monkeypatch, capsys):
    """The prediction of the frame is wrong, which must not matter, nor be told."""
    TRUTH[case](data / "valid/Annotations/bb" / f"{FRAMES[1]}.png")
    cut(results / mask_name("bb", "0", FRAMES[1]))
    code, scores = ytvos(results, data, tmp_path, monkeypatch)
    assert code == INCOMPLETE and scores["J&F"] == 1 and scores["videos"]["bb"]["0"]["frames"] == 3
    assert scores["incomplete"].items() >= {"predictions": 0, "truth_frames": 1, "expressions": 0}.items()
    out, err = capsys.readouterr()
    headline = "J&F 1.0000   J 1.0000   F 1.0000   INCOMPLETE: 0 predictions missing or damaged and scored as 0, "
    assert f"{headline}1 frame without usable ground truth left out, 0 expressions left out" in out
    named, summary = err.splitlines()
    assert f"bb/{FRAMES[1]}.png" in named and "1 problem is named above (exit code 3)" in summary
    with pytest.raises((ValueError, FileNotFoundError), match=f"{FRAMES[1]}.png"):
        ytvos(results, data, tmp_path, monkeypatch, "--strict")


def test_what_is_whole_says_nothing_of_gaps(results, data, tmp_path, monkeypatch, capsys):
    code, scores = ytvos(results, data, tmp_path, monkeypatch)
    assert code is None and "incomplete" not in scores and scores["J&F"] == 1
    out, err = capsys.readouterr()
    assert "INCOMPLETE" not in out and not err


def test_expressions_without_a_use_are_left_out(results, data, tmp_path, monkeypatch, capsys):
    """One has no text, one an object that no mask shows, one none at all."""
    path = data / "meta_expressions/valid/meta_expressions.json"
    content = json.loads(path.read_text())
    content["videos"]["aa"]["expressions"]["0"]["exp"] = " "
    content["videos"]["aa"]["expressions"]["1"]["obj_id"] = "9"
    del content["videos"]["bb"]["expressions"]["0"]["obj_id"]
    write_json(path, content)
    code, scores = ytvos(results, data, tmp_path, monkeypatch)
    assert code == INCOMPLETE and scores["expressions"] == 1 and list(scores["videos"]) == ["bb"]
    assert scores["incomplete"].items() >= {"predictions": 0, "truth_frames": 0, "expressions": 3}.items()
    err = capsys.readouterr().err
    for part in (
        "aa, expression 0 is empty",
        "aa, expression 1: object 9 is in none",
        "bb, expression 0 has no obj_id",
    ):
        assert err.count(part) == 1, err


def test_a_whole_expression_that_is_missing_scores_0_and_is_named_once(results, data, tmp_path, monkeypatch, capsys):
    for frame in FRAMES:
        (results / mask_name("bb", "1", frame)).unlink()
    code, scores = ytvos(results, data, tmp_path, monkeypatch)
    assert code == INCOMPLETE and scores["J&F"] == 0.75 and scores["incomplete"]["predictions"] == 4
    assert "bb, expression 1: 4 masks are missing and scored as 0, the first is" in capsys.readouterr().err
    with pytest.raises(ValueError, match="masks are missing: video bb, expression 1: 4 of 4 .* Run inference again"):
        ytvos(results, data, tmp_path, monkeypatch, "--strict")


def test_results_without_one_mask_of_the_split_are_refused(results, data, tmp_path, monkeypatch):
    (results / "Annotations" / "aa").rename(results / "Annotations" / "other")
    (results / "Annotations" / "bb").rename(results / "Annotations" / "another")
    with pytest.raises(ValueError, match="masks are missing: .*results of another split"):
        ytvos(results, data, tmp_path, monkeypatch)


def test_results_of_another_size_throughout_are_refused(results, data, tmp_path, monkeypatch):
    for path in results.rglob("*.png"):
        turn(path)
    with pytest.raises(
        ValueError,
        match=r"not one mask can be scored; 16 problems, the first: .*is 40x60, but the video's frames are 60x40",
    ):
        ytvos(results, data, tmp_path, monkeypatch)


def test_very_many_are_not_all_named_on_the_screen(capsys):
    gaps = Gaps()
    for number in range(2 * TOLD):
        gaps.add(f"video {number}", "is damaged")
        gaps.add(f"video {number}", "is damaged")
    assert len(gaps.items) == 2 * TOLD and len(capsys.readouterr().err.splitlines()) == TOLD + 1


# ------------------------------------------------------------------------------ Ref-YouTube-VOS, valid as downloaded


def test_masks_and_objects_of_valid_may_lie_elsewhere(results, data, tmp_path, monkeypatch):
    """And only the videos that the test file does not list count."""
    meta = data / "meta_expressions/valid/meta_expressions.json"
    content = json.loads(meta.read_text())
    write_json(tmp_path / "objects.json", content)
    for video in content["videos"].values():
        for expression in video["expressions"].values():
            del expression["obj_id"]
    write_json(meta, content)
    (data / "valid" / "Annotations").rename(tmp_path / "masks")
    for given, lacks in ([], "valid/Annotations"), (["--annotations", tmp_path / "masks"], "does not name its object"):
        with pytest.raises(ValueError, match=f"{lacks}.*Expected are palette PNGs .*--expressions FILE"):
            ytvos(results, data, tmp_path, monkeypatch, *given)
    given = ("--annotations", tmp_path / "masks", "--expressions", tmp_path / "objects.json")
    code, scores = ytvos(results, data, tmp_path, monkeypatch, *given)
    assert code is None and scores["J&F"] == 1 and list(scores["videos"]) == ["aa", "bb"]
    with pytest.raises(ValueError, match="--annotations is for the split valid of Ref-YouTube-VOS, not for train"):
        ytvos(results, data, tmp_path, monkeypatch, "--split", "train", *given)


def test_a_list_of_objects_must_be_of_the_same_expressions(results, data, tmp_path, monkeypatch, capsys):
    content = json.loads((data / "meta_expressions/valid/meta_expressions.json").read_text())
    videos = content["videos"]
    videos["aa"]["expressions"]["0"] = {"exp": "something else", "obj_id": "1"}
    videos["aa"]["expressions"]["1"]["exp"] = "  object   2"
    del videos["bb"]["expressions"]["1"]
    write_json(tmp_path / "objects.json", content)
    code, scores = ytvos(results, data, tmp_path, monkeypatch, "--expressions", tmp_path / "objects.json")
    assert code == INCOMPLETE and scores["incomplete"]["expressions"] == 2 and scores["J&F"] == 1
    err = capsys.readouterr().err
    assert "video aa, expression 0" in err and "'something else' instead of 'Object 1'" in err
    assert "video bb, expression 1" in err and "has no such expression" in err
    write_json(tmp_path / "objects.json", {"videos": {"cc": videos["aa"]}})
    with pytest.raises(ValueError, match=r'names the object of none of the split.*it must hold {"videos"'):
        ytvos(results, data, tmp_path, monkeypatch, "--expressions", tmp_path / "objects.json")
    with pytest.raises(FileNotFoundError, match=r"absent\.json: this file does not exist"):
        ytvos(results, data, tmp_path, monkeypatch, "--expressions", tmp_path / "absent.json")


def test_a_list_may_have_the_texts_under_their_objects(results, data, tmp_path, monkeypatch, capsys):
    """As the authors' own loader reads it; a text of two objects says nothing."""
    videos = json.loads((data / "meta_expressions/valid/meta_expressions.json").read_text())["videos"]
    objects = {vid: {"objects": {}} for vid in videos}
    for vid, video in videos.items():
        for expression in video["expressions"].values():
            of_object = objects[vid]["objects"].setdefault(expression["obj_id"], {"category": "x", "expressions": []})
            of_object["expressions"].append(expression["exp"].upper())
    write_json(tmp_path / "objects.json", {"videos": objects})
    code, scores = ytvos(results, data, tmp_path, monkeypatch, "--expressions", tmp_path / "objects.json")
    assert code is None and scores["J&F"] == 1
    text = videos["aa"]["expressions"]["0"]["exp"]
    objects["aa"]["objects"]["9"] = {"expressions": [text, 3]}
    write_json(tmp_path / "objects.json", {"videos": objects})
    code, scores = ytvos(results, data, tmp_path, monkeypatch, "--expressions", tmp_path / "objects.json")
    assert code == INCOMPLETE and scores["incomplete"]["expressions"] == 1
    assert "video aa, expression 0" in capsys.readouterr().err


def test_frames_of_valid_without_a_mask_are_left_out_together(results, data, tmp_path, monkeypatch, capsys):
    for frame in FRAMES[1:]:
        (data / "valid/Annotations/aa" / f"{frame}.png").unlink()
    code, scores = ytvos(results, data, tmp_path, monkeypatch)
    assert code == INCOMPLETE and scores["incomplete"]["truth_frames"] == 3 and scores["J&F"] == 1
    assert "video aa: 3 of 4 frames have no ground truth, the first is" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------------- MeViS


def test_a_damaged_mask_of_mevis_is_left_out_where_it_is_meant(tmp_path, monkeypatch, capsys):
    root = write_mini_mevis(tmp_path / "mevis")
    for video in VALID_U:
        for eid, expression in video.expressions().items():
            for t, frame in enumerate(video.frames):
                mask = video.union(expression["obj_id"], t)
                write_mask_png(tmp_path / "results" / mask_name(video.name, eid, frame), mask)
    path = root / "valid_u" / "mask_dict.json"
    masks = json.loads(path.read_text())
    masks["1"][1]["counts"] = "0"  # object 1 of dd_local, which three of the four expressions mean
    masks["1"][3]["size"] = [80, 48]
    masks["9"] = masks["9"][:1]  # of ee_local
    path.write_text(json.dumps(masks))
    words = (tmp_path / "results", "--mevis_path", root, "--against", "other")
    code, scores = scored(eval_mevis, tmp_path, monkeypatch, *words)
    assert code == INCOMPLETE and scores["J&F"] == 1
    assert [e["frames"] for e in scores["videos"]["dd_local"].values()] == [4, 2, 2, 2]
    assert set(scores["videos"]["ee_local"]) == {"0", "3"}
    assert scores["incomplete"].items() >= {"predictions": 0, "truth_frames": 2, "expressions": 2}.items()
    err = capsys.readouterr().err
    assert err.count("annotation 1 in frame 00001 is damaged") == err.count("annotation 1 in frame 00003") == 1
    with pytest.raises(ValueError, match="annotation 9 has masks for 1 frames"):
        scored(eval_mevis, tmp_path, monkeypatch, *words, "--strict")


# -------------------------------------------------------------------------------------------------------- Ref-DAVIS17


@pytest.fixture
def davis(tmp_path) -> tuple[Path, Path]:
    """A data set with masks of both protocols, and results of four annotators that are all right."""
    root, folder = tmp_path / "davis", tmp_path / "annotators"
    expressions = {str(i): {"exp": "it", "obj_id": "1"} for i in range(4)}
    videos = {name: {"expressions": expressions, "frames": FRAMES} for name in ("aa", "bb")}
    for name in videos:
        maps = {frame: labels(1, 2) for frame in FRAMES}
        write_masks(root / "valid/Annotations" / name, maps)
        write_masks(root / "DAVIS/Annotations/480p" / name, maps)
        for k in range(4):
            write_masks(folder / f"anno_{k}" / name, maps)
    write_json(root / "meta_expressions/valid/meta_expressions.json", {"videos": videos})
    return root, folder


def both(davis, tmp_path, monkeypatch, *words) -> tuple[int | None, dict, dict]:
    root, folder = davis
    code, scores = scored(eval_davis, tmp_path, monkeypatch, folder, "--davis_path", root, *words)
    return code, scores["unsupervised"], scores.get("semi-supervised")


def test_a_davis_video_that_its_list_spoils_is_counted_by_every_protocol(davis, tmp_path, monkeypatch, capsys):
    path = davis[0] / "meta_expressions/valid/meta_expressions.json"
    content = json.loads(path.read_text())
    del content["videos"]["bb"]["frames"]
    write_json(path, content)
    code, plain, semi = both(davis, tmp_path, monkeypatch)
    assert code == INCOMPLETE
    for scores in (plain, semi):
        assert scores["objects"] == 2 and scores["incomplete"]["videos"] == 1
        assert "video bb" in scores["incomplete"]["problems"][0]
    out, err = capsys.readouterr()
    assert out.count("1 video left out") == 2 and err.count("warning: video bb") == 1


@pytest.mark.parametrize("number", [True, 3.7, None, "1.0", [1]])
def test_an_object_that_is_no_number_is_not_taken_for_one(number):
    with pytest.raises(ValueError, match="is no object id"):
        LabelMaps(Path("masks")).target("aa", "0", {"obj_id": number})


def test_masks_of_another_size_than_their_frames_are_no_ground_truth(results, data, tmp_path, monkeypatch, capsys):
    """All those of a video: it is not its predictions that are wrong."""
    pictures = data / "valid/JPEGImages/bb"
    pictures.mkdir(parents=True)
    for frame in FRAMES:
        Image.new("RGB", SHAPE[::-1]).save(pictures / f"{frame}.jpg")
        turn(data / "valid/Annotations/bb" / f"{frame}.png")
    code, scores = ytvos(results, data, tmp_path, monkeypatch)
    assert code == INCOMPLETE and scores["J&F"] == 1 and list(scores["videos"]) == ["aa"]
    assert scores["incomplete"]["predictions"] == 0
    assert "but its video is" in capsys.readouterr().err


def test_frames_of_a_mask_are_found_beside_its_folder_wherever_that_is(tmp_path, monkeypatch):
    """As YouTube-VOS and DAVIS have them, also where scoring is started in the very folder of the masks."""
    masks = tmp_path / "DAVIS/Annotations/480p/bb"
    frames = tmp_path / "DAVIS/JPEGImages/480p/bb"
    for folder in (masks, frames):
        folder.mkdir(parents=True)
    Image.new("P", (30, 20)).save(masks / "00000.png")
    Image.new("RGB", (24, 16)).save(frames / "00000.jpg")
    monkeypatch.chdir(masks.parent)
    assert mask_size(masks, ["00000"]) == mask_size(Path("bb"), ["00000"]) == (16, 24)
    shutil.rmtree(frames)
    assert mask_size(Path("bb"), ["00000"]) == (20, 30)


def list_frames(root: Path, name: str, count: int) -> None:
    path = root / "meta_expressions/valid/meta_expressions.json"
    content = json.loads(path.read_text())
    content["videos"][name]["frames"] = FRAMES[:count]
    write_json(path, content)


@pytest.mark.parametrize("count", [1, 2])
def test_a_short_davis_video_is_named_and_scored_by_one_protocol(count, davis, tmp_path, monkeypatch, capsys):
    list_frames(davis[0], "bb", count)
    code, plain, semi = both(davis, tmp_path, monkeypatch)
    assert code == INCOMPLETE and (plain["objects"], semi["objects"]) == (4, 2)
    assert plain["J&F"] == semi["J&F"] == 1 and "incomplete" not in plain
    assert semi["incomplete"].items() >= {"predictions": 0, "truth_frames": 0, "videos": 1}.items()
    out, err = capsys.readouterr()
    assert f"video bb: not scored: {davis[0]}/DAVIS/Annotations/480p/bb: {count} frames are too few" in err
    assert "semi-supervised: J&F 1.0000   J 1.0000   F 1.0000   INCOMPLETE: 0 predictions" in out
    assert "1 video left out" in out
    list_frames(davis[0], "aa", count)
    code, plain, semi = both(davis, tmp_path, monkeypatch)
    assert code == INCOMPLETE and plain["J&F"] == 1 and semi is None
    assert "the semi-supervised protocol is left out: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="frames are too few"):
        both(davis, tmp_path, monkeypatch, "--strict")


@pytest.mark.parametrize("damage", [cut, lambda path: write_masks(path.parent, {path.stem: labels()})])
def test_a_davis_video_that_says_not_what_its_objects_are_is_left_out(damage, davis, tmp_path, monkeypatch, capsys):
    for folder in ("valid/Annotations", "DAVIS/Annotations/480p"):
        damage(davis[0] / folder / "aa" / f"{FRAMES[0]}.png")
    code, plain, semi = both(davis, tmp_path, monkeypatch)
    assert code == INCOMPLETE
    for scores in (plain, semi):
        assert (
            scores["J&F"] == 1
            and scores["objects"] == 2
            and list(scores["annotators"]["anno_0"]["sequences"]) == ["bb"]
        )
        assert scores["incomplete"]["videos"] == 1


PREDICTED_MAPS = PREDICTIONS | {
    "of too high an id": lambda path: write_masks(path.parent, {path.stem: np.full(SHAPE, 21, np.uint8)})
}


@pytest.mark.parametrize("case", PREDICTED_MAPS)
def test_a_damaged_label_map_scores_0_in_its_frame(case, davis, tmp_path, monkeypatch, capsys):
    root, folder = davis
    PREDICTED_MAPS[case](folder / "anno_2" / "bb" / f"{FRAMES[1]}.png")
    code, plain, semi = both(davis, tmp_path, monkeypatch)
    assert code == INCOMPLETE
    for scores, value in ((plain, 3 / 4), (semi, 1 / 2)):
        annotators = scores["annotators"]
        assert annotators["anno_2"]["sequences"]["bb"]["J"]["mean"] == value and annotators["anno_1"]["J&F"] == 1
        assert scores["J&F"] == pytest.approx((3 + (1 + value) / 2) / 4)
        assert scores["incomplete"].items() >= {"predictions": 1, "truth_frames": 0, "videos": 0}.items()
    with pytest.raises(ValueError, match=FRAMES[1]):
        both(davis, tmp_path, monkeypatch, "--strict")


def test_a_frame_of_davis_without_ground_truth_is_left_out(davis, tmp_path, monkeypatch, capsys):
    root, folder = davis
    turn(root / "valid/Annotations/aa" / f"{FRAMES[2]}.png")
    (root / "DAVIS/Annotations/480p/aa" / f"{FRAMES[2]}.png").unlink()
    write_masks(folder / "anno_0" / "aa", {FRAMES[2]: labels()})
    code, plain, semi = both(davis, tmp_path, monkeypatch)
    assert code == INCOMPLETE and plain["J&F"] == semi["J&F"] == 1
    assert plain["incomplete"]["truth_frames"] == semi["incomplete"]["truth_frames"] == 1


def test_an_annotator_without_one_mask_is_refused(davis, tmp_path, monkeypatch):
    for path in (davis[1] / "anno_3").rglob("*.png"):
        path.unlink()
    with pytest.raises(ValueError, match="anno_3 has not one mask of the split's videos"):
        both(davis, tmp_path, monkeypatch)
