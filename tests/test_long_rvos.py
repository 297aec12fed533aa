"""Long-RVOS: masks in a folder for each object, tIoU and vIoU, types of expressions, and what bad data says."""

from __future__ import annotations

import json
import shlex
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval_long_rvos
from datasets import build_train_loader, eval_set, eval_split, num_classes
from datasets.long_rvos import LONG_RVOS, split_videos, train_videos
from datasets.samplers import ClipRequest
from davis2017 import temporal
from davis2017.averages import table
from davis2017.ytvos_protocol import score_results
from tests.helpers import edit
from tests.mini_long_rvos import TEST, TRAIN, VALID, MiniVideo, mini_args, write_mini_long_rvos
from tests.test_end_to_end import NETWORK, run
from util.masks.results import mask_name, write_mask_png
from util.masks.submission import build_submission
from util.run.cli import INCOMPLETE
from util.run.gaps import Gaps

PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")
LIST = "train/meta_expressions.json"
MASKS = "train/Annotations/aa_wide"


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    return write_mini_long_rvos(tmp_path_factory.mktemp("mini_long_rvos"))


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A data set of its own for tests that damage it."""
    return write_mini_long_rvos(tmp_path / "fresh")


# ----------------------------------------------------------------------------------------------------------- loader


def test_masks_are_those_of_the_objects_folder(mini):
    videos = {video.video_id: video for video in train_videos(mini, 0)}
    assert list(videos) == [video.name for video in TRAIN]
    for drawn in TRAIN:
        video = videos[drawn.name]
        assert [e.objects for e in video.expressions] == [(1,), (2,), (2,)]
        assert video.size() == (drawn.height, drawn.width)
        positions = [0, 2, 1, drawn.length - 1]
        masks = video.masks(positions, [(2,), (1,), (1, 2)], video.size())
        assert masks.dtype == torch.uint8 and set(masks.unique().tolist()) == {0, 1}
        for i, t in enumerate(positions):
            one, two = drawn.mask(1, t), drawn.mask(2, t)
            assert np.array_equal(masks[i].numpy(), np.stack([two, one, one | two])), (drawn.name, t)


def test_a_frame_without_a_mask_is_one_without_the_object(mini):
    loader = build_train_loader(mini_args(mini, "--expressions_per_clip", "3", *PLAIN))
    clips = loader.dataset
    assert num_classes(mini_args(mini)) == 1
    index = next(i for i, (video, _, _) in enumerate(clips.entries) if clips.videos[video].video_id == "bb_leaves")
    clip = clips[ClipRequest(index)]
    present = {target.identity: target.present.flatten().tolist() for target in clip.targets}
    assert present["bb_leaves/2"] == [int(frame) > 2 for frame in clip.frame_ids]
    assert present["bb_leaves/1"] == [True] * 3
    # that is an annotation, too
    assert all(clips.videos[clips.entries[index][0]].annotated(range(5)))
    assert sum(len(batch.expressions) for batch in loader) == 3 * sum(-(-video.length // 3) for video in TRAIN)


def test_splits(mini, tmp_path):
    names = {split: list(split_videos(mini, split)) for split in ("train", "valid", "test")}
    assert names == {
        "train": [v.name for v in TRAIN],
        "valid": [v.name for v in VALID],
        "test": [v.name for v in TEST],
    }
    kept, held = split_videos(mini, "train", 1), split_videos(mini, "holdout", 1)
    assert len(held) == 1 and not kept.keys() & held.keys() and kept | held == split_videos(mini, "train")
    # each split has a list and frames of its own, unlike Ref-YouTube-VOS
    shutil.copytree(mini, tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "test")
    shutil.rmtree(tmp_path / "two" / "valid" / "JPEGImages" / "ee_short")
    assert list(split_videos(tmp_path / "two", "valid")) == names["valid"]
    with pytest.raises(FileNotFoundError, match="ee_short/00000.jpg: the frame is listed .* docs/data.md, Long-RVOS"):
        eval_set(mini_args(tmp_path / "two"), "valid").videos()
    (video,) = eval_set(mini_args(mini), "test").videos()
    assert video.expressions == {i: e["exp"] for i, e in TEST[0].expressions().items()}
    assert eval_split(mini_args(mini), "long_rvos") == "valid"
    assert eval_split(mini_args(mini, "--holdout", "1"), "long_rvos") == "holdout"
    chosen = mini_args(mini, "--eval", "--resume", "x", "--eval_split", "test")
    assert eval_split(chosen, "long_rvos") == "test"


def test_a_folder_of_an_archive_within_a_folder_of_its_name(mini, tmp_path, checked):
    """As the download script of the authors unpacks it."""
    root = tmp_path / "nested"
    shutil.copytree(mini, root)
    for split in ("train", "valid", "test"):
        for name in ("JPEGImages", "Annotations"):
            (root / split / name).rename(root / split / "inner")
            (root / split / name).mkdir()
            (root / split / "inner").rename(root / split / name / name)
    flat, nested = train_videos(mini, 0), train_videos(root, 0)
    for one, other in zip(flat, nested, strict=True):
        assert torch.equal(one.frames([1]), other.frames([1]))
        assert torch.equal(one.masks([1], [(1,)], one.size()), other.masks([1], [(1,)], other.size()))
    truth, videos = eval_long_rvos.load_split(root, "valid", 0)
    results = write_results(tmp_path / "results", meant)
    assert score_results(results, truth, videos)["J&F"] == 1
    assert checked("long_rvos", root)[0] == 0


# --------------------------------------------------------------------------------------------------------- bad data


def _expression(content: dict) -> dict:
    return content["videos"]["aa_wide"]["expressions"]["1"]


BAD_LISTS = {
    "no object": (
        lambda c: _expression(c).pop("obj_id"),
        'video aa_wide, expression 1 must name its object as "obj_id", a',
    ),
    "a list": (lambda c: _expression(c).update(obj_id=[2]), "must name its object"),
    "a path": (lambda c: _expression(c).update(obj_id="../2"), "must name its object"),
    "negative": (lambda c: _expression(c).update(obj_id=-1), "docs/data.md, Long-RVOS"),
    "unknown": (
        lambda c: _expression(c).update(obj_id=7),
        "Annotations/aa_wide/7: there is no such folder of masks of the object that expression 1 of video aa_wide",
    ),
    "blank": (lambda c: _expression(c).update(exp=" "), "expression 1 is empty"),
}


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_bad_expressions_are_named(fresh, kind):
    change, message = BAD_LISTS[kind]
    edit(fresh / LIST, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_videos(fresh, 0)


def test_bad_masks_are_named(fresh):
    def read() -> torch.Tensor:
        return train_videos(fresh, 0)[0].masks([0, 1], [(1,)], (48, 80))

    path = fresh / MASKS / "1" / "00001.png"
    sound = path.read_bytes()
    path.with_suffix(".PNG").write_bytes(sound)
    with pytest.raises(ValueError, match="aa_wide/1: holds 00001.PNG and 00001.png; leave one file for each frame"):
        read()
    path.unlink()
    assert read()[1].any()  # a suffix in capitals is one, too
    path.with_suffix(".PNG").unlink()
    path.write_bytes(sound[:-30])
    with pytest.raises(ValueError, match="aa_wide/1/00001.png: the mask is damaged"):
        read()
    Image.new("L", (20, 10), 255).save(path)
    with pytest.raises(ValueError, match="aa_wide/1/00001.png: is 20x10 pixels, but its frame is 80x48"):
        read()
    Image.new("1", (80, 48), 1).save(path)
    assert read()[1].all()


def test_an_expression_whose_object_is_never_seen_is_refused(fresh):
    for path in (fresh / MASKS / "1").iterdir():
        Image.new("L", (80, 48)).save(path)
    clips = build_train_loader(mini_args(fresh, "--expressions_per_clip", "3")).dataset
    with pytest.raises(ValueError, match="aa_wide: no mask of this video shows object 1, which expression 0"):
        clips[ClipRequest(0)]


def test_types_are_needed_for_scores_alone(fresh):
    edit(fresh / "valid/meta_expressions.json", lambda c: c["videos"]["ee_short"]["expressions"]["0"].pop("type"))
    assert len(eval_set(mini_args(fresh), "valid").videos()) == 2
    message = (
        'video ee_short, expression 0 has the "type" None, which must be static, dynamic, static.dynamic; see docs'
    )
    with pytest.raises(ValueError, match=message):
        eval_long_rvos.load_split(fresh, "valid", 0)
    gaps = Gaps(silent=True)
    _, videos = eval_long_rvos.load_split(fresh, "valid", 0, gaps)
    assert [item for item, _ in gaps.items] == ["video ee_short, expression 0"]
    assert set(videos["ee_short"]["expressions"]) == {"1", "2"}
    edit(
        fresh / "valid/meta_expressions.json",
        lambda c: [_all_types(video, ["static"]) for video in c["videos"].values()],
    )
    with pytest.raises(ValueError, match=r"has the .type. \['static'\]"):
        eval_long_rvos.load_split(fresh, "valid", 0, Gaps(silent=True))


def _all_types(video: dict, value: object) -> None:
    for expression in video["expressions"].values():
        expression["type"] = value


# ----------------------------------------------------------------------------------------------------------- scores


def test_measures_of_frames_worked_out_by_hand():
    assert temporal.in_frame(True, True, 0.5) == (1, 1, 0.5)
    assert temporal.in_frame(True, False, 0) == temporal.in_frame(False, True, 0) == (0, 1, 0)
    assert temporal.in_frame(False, False, 1) == (0, 0, 0)  # J of two empty masks is 1, which counts for J alone
    assert temporal.over_frames((3, 4, 1.5)) == {"tIoU": 0.75, "vIoU": 0.375}
    assert temporal.over_frames((0, 0, 0)) == {"tIoU": 1, "vIoU": 1}


def write_results(folder: Path, answer, root: str = "Annotations") -> Path:
    """Masks of every expression of valid: ``answer(video, expression id, t)``."""
    for video in VALID:
        for eid in video.expressions():
            for t, frame in enumerate(video.frames):
                write_mask_png(folder / mask_name(video.name, eid, frame, root), answer(video, eid, t))
    return folder


def meant(video: MiniVideo, eid: str, t: int) -> np.ndarray:
    return video.mask(video.object_of(eid), t)


def test_scores_worked_out_by_hand(mini, tmp_path):
    """Object 1 of dd_returns is away from frames 1 and 2 of 5."""
    truth, videos = eval_long_rvos.load_split(mini, "valid", 0)

    def answer(video, eid, t):
        if (video.name, eid) == ("dd_returns", "0"):
            half = video.mask(1, t)
            half[2 * t + 8 :] = False
            empty = np.zeros_like(half)
            # right, rightly nothing, wrongly something, a half, wrongly nothing
            return (video.mask(1, t), empty, video.mask(2, t), half, empty)[t]
        if (video.name, eid) == ("ee_short", "1"):
            return np.zeros((48, 80), bool)
        # the object to the left, where the one to the right is meant: in the same frames, and elsewhere
        return video.mask(1, t) if (video.name, eid) == ("dd_returns", "1") else meant(video, eid, t)

    scores = score_results(write_results(tmp_path / "results", answer), truth, videos, other_objects=True)
    first = scores["videos"]["dd_returns"]["0"]
    assert (first["J"], first["tIoU"], first["vIoU"]) == pytest.approx(((1 + 1 + 0 + 0.5 + 0) / 5, 2 / 4, 1.5 / 4))
    assert first["frames"] == 5 and first["kind"] == "static" and first["obj_id"] == "1"
    second = scores["videos"]["dd_returns"]["1"]
    assert (second["J"], second["tIoU"], second["vIoU"]) == pytest.approx((0, 3 / 5, 0))
    assert second["other"] == {"obj_id": "1", "J": 1, "F": 1, "J&F": 1}
    # object 2 of ee_short is away from frame 0, where nothing is right; its mask there is blank
    third = scores["videos"]["ee_short"]["1"]
    assert (third["J"], third["tIoU"], third["vIoU"]) == pytest.approx((1 / 3, 0, 0))
    every = [e for video in scores["videos"].values() for e in video.values()]
    for key in ("J", "F", "J&F", "tIoU", "vIoU"):
        assert scores[key] == pytest.approx(np.mean([e[key] for e in every]))
    assert scores["by_kind"].keys() == {"static", "dynamic", "hybrid"}
    assert scores["by_kind"]["dynamic"]["tIoU"] == pytest.approx((3 / 5 + 0) / 2)
    assert scores["by_kind"]["hybrid"]["vIoU"] == 1
    lines = table(scores, 0).splitlines()
    assert lines[0].split() == ["video", "expr.", "J", "F", "J&F", "tIoU", "vIoU", "other"]
    assert [line.index("vIoU") for line in lines if "vIoU" in line][0] == lines[1].index(lines[1].split()[6])
    assert f"J&F {scores['J&F']:.4f}" in lines[-2]
    assert lines[-2].endswith(f"tIoU {scores['tIoU']:.4f}   vIoU {scores['vIoU']:.4f}")


def test_right_answers_score_one_as_a_folder_and_as_a_zip(mini, tmp_path, monkeypatch, capsys):
    truth, videos = eval_long_rvos.load_split(mini, "valid", 0)
    results, bare = write_results(tmp_path / "a", meant), write_results(tmp_path / "bare", meant, root="")
    build_submission(results, tmp_path / "submission.zip", videos, {v.name: (48, 80) for v in VALID})
    out = tmp_path / "scores.json"
    for path in (results, bare, tmp_path / "submission.zip"):
        words = ["eval_long_rvos.py", path, "--long_rvos_path", mini, "--workers", 1, "--json", out]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        assert eval_long_rvos.main() is None
        scores = json.loads(out.read_text())
        assert [scores[key] for key in ("J&F", "tIoU", "vIoU", "expressions")] == [1, 1, 1, 6]
    assert "hybrid" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="absent: no such folder; give the data set with --long_rvos_path"):
        eval_long_rvos.load_split(tmp_path / "absent", "valid", 0)


def test_missing_and_damaged_masks(fresh, tmp_path):
    results = write_results(tmp_path / "results", meant)
    (results / mask_name("dd_returns", "0", "00001")).unlink()  # the object is away: a missing mask is wrong there, too
    (fresh / "valid/Annotations/dd_returns/2/00003.png").write_bytes(b"")
    Image.new("L", (20, 10), 255).save(fresh / "valid/Annotations/ee_short/2/00002.png")
    truth, videos = eval_long_rvos.load_split(fresh, "valid", 0)
    with pytest.raises(ValueError, match="masks are missing: video dd_returns, expression 0: 1 of 5 frames"):
        score_results(results, truth, videos)
    gaps = Gaps(silent=True)
    scores = score_results(results, truth, videos, gaps=gaps)
    frames = {vid: [e["frames"] for e in video.values()] for vid, video in scores["videos"].items()}
    assert frames == {"dd_returns": [5, 4, 4], "ee_short": [3, 2, 2]}
    first = scores["videos"]["dd_returns"]["0"]
    assert (first["J"], first["tIoU"], first["vIoU"]) == pytest.approx((4 / 5, 3 / 4, 3 / 4))
    assert scores["incomplete"].items() >= {"predictions": 1, "truth_frames": 2}.items()
    assert any("2/00002.png is [10, 20], but its video is [48, 80]" in why for _, why in gaps.items)
    # without frames the size is that of the masks
    shutil.rmtree(fresh / "valid/JPEGImages")
    assert score_results(results, truth, videos, gaps=Gaps(silent=True))["J&F"] == scores["J&F"]


def test_a_split_without_masks(fresh, tmp_path, monkeypatch):
    results = write_results(tmp_path / "results", meant)
    shutil.rmtree(fresh / "valid/Annotations/dd_returns/2")
    words = ["eval_long_rvos.py", results, "--long_rvos_path", fresh, "--workers", 1]
    monkeypatch.setattr("sys.argv", [str(word) for word in words])
    assert eval_long_rvos.main() == INCOMPLETE
    shutil.rmtree(fresh / "valid/Annotations")
    with pytest.raises(FileNotFoundError, match="there is no such folder of masks .* unpack the masks of the split"):
        eval_long_rvos.main()


# ---------------------------------------------------------------------------------------------------------- checker


def test_a_clean_set_passes_and_is_counted(fresh, checked, tmp_path):
    (fresh / "train" / "frame_types.json").write_text("{}")
    (fresh / "train" / "Annotations.tar.gz").touch()
    code, faults, again, text = checked("long_rvos", fresh)
    assert (code, faults, again) == (0, [], [])
    assert "train: videos 3 of 1,855 published, expressions 9, frames 17, objects 6, a part of the published" in text
    assert "note: train: 2 times a frame has no mask of an object, which is then not in it" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["test"] == {"videos": 1, "expressions": 3, "frames": 3, "objects": 2}


def _entry(content: dict) -> dict:
    return content["videos"]["aa_wide"]["expressions"]["0"]


def _blank(folder: Path) -> None:
    for path in folder.iterdir():
        Image.new("L", (80, 48)).save(path)


ONE = f"{MASKS}/1"
# what is done to a set, and the one fault that it makes: kind, path, part of what is said, what to download again
FAULTS = {
    "frame missing": (lambda r: (r / "train/JPEGImages/aa_wide/00005.jpg").unlink(), "missing", "", 1),
    "masks missing": (lambda r: shutil.rmtree(r / ONE), "missing", "the folder of 6 files", 1),
    "mask damaged": (lambda r: (r / ONE / "00002.png").write_bytes(b"x"), "damaged", "mask is damaged", 1),
    "mask of another size": (
        lambda r: Image.new("L", (20, 10), 255).save(r / ONE / "00002.png"),
        "size",
        "is 20x10, its frame 80x48",
        2,
    ),
    "no pixels": (lambda r: _blank(r / ONE), "no_pixels", "object 1 has no pixels in any of its 6 masks", 0),
    "no object": (lambda r: edit(r / LIST, lambda c: _entry(c).pop("obj_id") and None), "no_objects", "obj_id", 1),
    "no type": (lambda r: edit(r / LIST, lambda c: _entry(c).update(type="moving")), "list", "'moving', which must", 1),
    "unknown mask": (lambda r: (r / ONE / "00009.png").touch(), "unknown", "", 0),
    "unknown file": (lambda r: (r / MASKS / "00000.png").touch(), "unknown", "", 0),
    "unknown video": (lambda r: (r / "test/Annotations/new").mkdir(), "unknown", "", 0),
}


@pytest.mark.parametrize("planted", FAULTS)
def test_a_planted_fault_is_found(planted, fresh, checked):
    plant, kind, what, downloads = FAULTS[planted]
    plant(fresh)
    code, faults, again, _ = checked("long_rvos", fresh)
    ((found_kind, _, said),) = faults
    assert (code, found_kind, len(again)) == (1, kind, downloads) and what in said and str(fresh) not in said


def test_odd_values_and_objects_that_no_expression_names_are_notes(fresh, checked):
    Image.new("L", (80, 48), 7).save(fresh / ONE / "00002.png")
    shutil.copytree(fresh / ONE, fresh / MASKS / "9")
    code, _, _, text = checked("long_rvos", fresh)
    assert code == 0 and "values other than 0 and 255; every value but 0 is the object; for example 7 in train/" in text
    assert "1 folder of masks is of objects that no expression names" in text


# ------------------------------------------------------------------------------------------------------- end to end


def test_train_infer_and_score(mini, tmp_path):
    expressions = mini / "train" / "meta_expressions.json"
    run("tools/make_tiny_text_encoder.py", expressions, "--output_dir", tmp_path / "text", "--hidden_size", 16)
    options = [*shlex.split(NETWORK), "--random_backbone", "--dataset_file", "long_rvos", "--long_rvos_path", mini]
    more = ["--text_encoder", tmp_path / "text", "--num_frames", 3, "--expressions_per_clip", 3, "--epochs", 1]
    trained = run("main.py", *options, *more, "--mix", "long_rvos=0.5", "--output_dir", tmp_path / "run")
    # half of the two clips of each of the three videos
    assert "1 epoch of 2 steps" in trained.stdout
    checkpoint = ("--resume", tmp_path / "run" / "checkpoint.pth", "--device", "cpu")

    # two windows, as a video of a minute has several
    windows = ("--window", 4, "--overlap", 2)
    out = tmp_path / "valid"
    run("inference_long_rvos.py", *checkpoint, "--output_dir", out, *windows)
    wanted = {f"Annotations/{v.name}/{e}/{f}.png" for v in VALID for e in v.expressions() for f in v.frames}
    with zipfile.ZipFile(out / "submission.zip") as archive:
        assert set(archive.namelist()) == wanted
    scored = run("eval_long_rvos.py", out, "--long_rvos_path", mini, "--workers", 1, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert f"tIoU {scores['tIoU']:.4f}   vIoU {scores['vIoU']:.4f}" in scored.stdout

    evaluated = run("main.py", "--eval", *checkpoint, *windows)
    assert f"valid: J&F {scores['J&F']:.4f}, J {scores['J']:.4f}, F {scores['F']:.4f}, tIoU {scores['tIoU']:.4f}" in (
        evaluated.stdout
    )
    # by hand, from the masks that were saved, as the authors' script counts
    for video in VALID:
        for eid in video.expressions():
            true = np.stack([meant(video, eid, t) for t in range(video.length)])
            paths = [out / mask_name(video.name, eid, frame) for frame in video.frames]
            found = np.stack([np.asarray(Image.open(path)) > 0 for path in paths])
            shown, predicted = true.any((1, 2)), found.any((1, 2))
            both, either = shown & predicted, (shown | predicted).sum()
            iou = (true & found).sum((1, 2)) / np.maximum((true | found).sum((1, 2)), 1)
            expected = (both.sum() / either, iou[both].sum() / either) if either else (1, 1)
            of_expression = scores["videos"][video.name][eid]
            assert (of_expression["tIoU"], of_expression["vIoU"]) == pytest.approx(expected, abs=1e-12)


def test_the_name_of_the_chapter_in_the_docs():
    chapters = Path(__file__).parents[1].joinpath("docs/data.md").read_text().splitlines()
    assert f"## {LONG_RVOS.name}" in chapters
