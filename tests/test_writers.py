"""Mask files and the submission: exact structure, complete or refused, nothing half-written."""

from __future__ import annotations

import json
import os
import resource
import shutil
import zipfile
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from util.files.writing import atomic_path, open_json, write_json
from util.masks.results import (
    Results,
    claim_results,
    is_complete,
    mask_name,
    read_scores,
    write_label_png,
    write_mask_png,
    write_scores,
)
from util.masks.submission import build_submission, validate_submission, write_submission_zip

SIZES = {"cat": (20, 30), "dog": (15, 25)}
VIDEOS = {
    "cat": {"expressions": {"0": {"exp": "a cat"}, "1": {"exp": "the cat"}}, "frames": ["00000", "00005"]},
    "dog": {"expressions": {"0": {"exp": "a dog"}}, "frames": ["00010"]},
}
NAMES = [
    "Annotations/cat/0/00000.png",
    "Annotations/cat/0/00005.png",
    "Annotations/cat/1/00000.png",
    "Annotations/cat/1/00005.png",
    "Annotations/dog/0/00010.png",
]


@pytest.fixture
def results(tmp_path):
    """A complete results folder; the masks of expression 1 are blank."""
    folder = tmp_path / "results"
    for vid, video in VIDEOS.items():
        for eid in video["expressions"]:
            for frame in video["frames"]:
                mask = np.zeros(SIZES[vid], bool)
                mask[3:9, 4:14] = eid == "0"
                write_mask_png(folder / mask_name(vid, eid, frame), mask)
    return folder


def test_label_png_keeps_every_number_and_has_the_palette_of_davis(tmp_path):
    labels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    write_label_png(tmp_path / "new" / "0.png", labels)
    with Image.open(tmp_path / "new" / "0.png") as image:
        assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
        palette = image.getpalette()
    # The first nine and the last colour of the PASCAL VOC colour map.
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128), (0, 128, 128)]
    first += [(128, 128, 128), (64, 0, 0)]
    assert [tuple(palette[3 * i : 3 * i + 3]) for i in range(9)] == first
    assert palette[-3:] == [224, 224, 192]
    for bad in (labels.astype(int), labels[0], labels[:0]):
        with pytest.raises(ValueError, match=r"0\.png: object numbers are uint8 \[H, W\]"):
            write_label_png(tmp_path / "0.png", bad)
    assert _files(tmp_path) == ["new/0.png"]


def test_masks_of_another_run_are_refused_or_replaced_in_every_root(tmp_path):
    roots = ("anno_0", "anno_1")
    claim_results(tmp_path, {"checkpoint": "a"}, replace=False, roots=roots)
    write_label_png(tmp_path / "anno_1" / "v" / "0.png", np.ones((2, 2), np.uint8))
    write_scores(tmp_path, "v", ["anno_1/1"], [0.5], [True])
    (tmp_path / "overlays").mkdir()
    claim_results(tmp_path, {"checkpoint": "a"}, replace=False, roots=roots)
    with pytest.raises(ValueError, match="another run .checkpoint a there, b now.: .*--overwrite"):
        claim_results(tmp_path, {"checkpoint": "b"}, replace=False, roots=roots)
    assert (tmp_path / "anno_1/v/0.png").is_file() and read_scores(tmp_path, "v")
    claim_results(tmp_path, {"checkpoint": "b"}, replace=True, roots=roots)
    assert _files(tmp_path) == ["inference.json"] and (tmp_path / "overlays").is_dir()
    write_label_png(tmp_path / "anno_0" / "v" / "0.png", np.ones((2, 2), np.uint8))
    (tmp_path / "inference.json").unlink()
    with pytest.raises(ValueError, match="masks of unknown origin"):
        claim_results(tmp_path, {"checkpoint": "b"}, replace=True, roots=roots)
    (tmp_path / "anno_0").rename(tmp_path / "scores")
    with pytest.raises(ValueError, match="scores/ of unknown origin"):
        claim_results(tmp_path, {"checkpoint": "b"}, replace=True, roots=roots)


def test_scores_of_deleted_masks_do_not_join_those_of_another_run(tmp_path):
    claim_results(tmp_path, {"checkpoint": "a"}, replace=False)
    write_scores(tmp_path, "v", ["removed"], [0.5], [True])
    claim_results(tmp_path, {"checkpoint": "b"}, replace=False)
    assert _files(tmp_path) == ["inference.json"]


def test_what_a_killed_process_has_left_is_removed(tmp_path):
    claim_results(tmp_path, {"checkpoint": "a"}, replace=False)
    write_mask_png(tmp_path / "Annotations" / "v" / "0" / "00000.png", np.ones((2, 2), bool))
    ours = ["inference.json", "Annotations/v/0/00000.png"]
    others = [".hidden", "Annotations/v/0/.mine.png", "elsewhere/.00005.12.part.png"]
    left = ["Annotations/v/0/.00005.12.part.png", ".submission.12.part.zip", ".inference.7.part.json"]
    for name in (*others, *left):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    claim_results(tmp_path, {"checkpoint": "a"}, replace=False)
    assert _files(tmp_path) == sorted([*ours, *others])
    with atomic_path(tmp_path / "Annotations" / "v" / "0" / "1.2.png") as unfinished:
        unfinished.touch()
        claim_results(tmp_path, {"checkpoint": "a"}, replace=False)
        assert not unfinished.exists()  # it knows the names that are given
        unfinished.touch()


def _files(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_mask_png(tmp_path):
    mask = np.random.default_rng(0).random((13, 17)) > 0.5
    write_mask_png(tmp_path / "new" / "folder" / "7.png", mask)
    with Image.open(tmp_path / "new/folder/7.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "L", (17, 13))
        assert np.array_equal(np.asarray(image), np.where(mask, 255, 0))
    assert _files(tmp_path) == ["new/folder/7.png"]


@pytest.mark.parametrize("mask", [np.zeros((4, 4), np.uint8), np.zeros((1, 4, 4), bool), np.zeros((0, 4), bool)])
def test_only_masks_are_written(tmp_path, mask):
    with pytest.raises(ValueError, match="a mask is bool"):
        write_mask_png(tmp_path / "m.png", mask)
    assert _files(tmp_path) == []


def test_submission_has_the_exact_structure(results, tmp_path):
    build_submission(results, tmp_path / "submission.zip", VIDEOS, SIZES)
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert archive.namelist() == NAMES
        for name in NAMES:
            image = Image.open(BytesIO(archive.read(name)))
            assert (image.format, image.mode) == ("PNG", "L")
            assert image.size == SIZES[name.split("/")[1]][::-1]
            assert (np.asarray(image).max() == 255) == (name.split("/")[2] == "0")


def test_equal_results_make_equal_zips(results, tmp_path):
    write_submission_zip(results, tmp_path / "a.zip")
    later = tmp_path / "later"
    for name in reversed(NAMES):
        (later / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(results / name, later / name)
        os.utime(later / name, (1, 1))
    # What an interrupted run may leave behind is no part of the submission.
    (later / "Annotations/cat/0/.00005.123.part.png").write_bytes(b"half")
    write_submission_zip(later, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("sizes", [SIZES, SIZES.get, None], ids=["mapping", "function", "unknown"])
def test_complete_results_have_no_problems(results, tmp_path, sizes):
    write_submission_zip(results, tmp_path / "s.zip")
    assert validate_submission(results, VIDEOS, sizes) == []
    assert validate_submission(tmp_path / "s.zip", VIDEOS, sizes) == []


def _save(path, array, **how):
    Image.fromarray(array).save(path, **how)


def _other_palette(path):
    image = Image.fromarray(np.zeros((20, 30), np.uint8)).convert("P")
    image.save(path)


DAMAGE = {
    "missing": (lambda p: p.unlink(), "expression 1: 1 of 2 frames are missing.*cat/1/00005"),
    "extra frame": (lambda p: _save(p.with_name("99999.png"), np.zeros((20, 30), np.uint8)), "99999.png is not asked"),
    "extra file": (lambda p: p.with_name("notes.txt").write_text("hello"), "notes.txt is not asked for"),
    "colour": (lambda p: _save(p, np.zeros((20, 30, 3), np.uint8)), "00005.png has mode RGB, not L"),
    "palette": (_other_palette, "has mode P, not L"),
    "one": (lambda p: _save(p, np.ones((20, 30), np.uint8)), "values other than 0 and 255"),
    "soft edge": (lambda p: _save(p, np.full((20, 30), 254, np.uint8)), "values other than 0 and 255"),
    "transposed": (lambda p: _save(p, np.zeros((30, 20), np.uint8)), "is 20x30, but the video's frames are 30x20"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:40]), "00005.png cannot be decoded"),
    "empty": (lambda p: p.write_bytes(b""), "00005.png cannot be decoded"),
    "jpeg": (lambda p: _save(p, np.zeros((20, 30), np.uint8), format="JPEG"), "is a JPEG file, not a PNG"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_each_problem_is_named_once(results, tmp_path, kind):
    damage, message = DAMAGE[kind]
    damage(results / "Annotations/cat/1/00005.png")
    write_submission_zip(results, tmp_path / "s.zip")
    for place in (results, tmp_path / "s.zip"):
        problems = validate_submission(place, VIDEOS, SIZES)
        assert len(problems) == 1, problems
        with pytest.raises(AssertionError, match=message):
            raise AssertionError(problems[0])


def test_duplicates_and_damaged_members_of_a_zip(results, tmp_path):
    path = tmp_path / "s.zip"
    write_submission_zip(results, path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.write(results / NAMES[0], NAMES[0])
    assert validate_submission(path, VIDEOS, SIZES) == [f"{NAMES[0]} occurs 2 times"]

    write_submission_zip(results, path)
    content = path.read_bytes()
    start = content.index(b"IDAT")
    path.write_bytes(content[:start] + b"XXXX" + content[start + 4 :])
    (problem,) = validate_submission(path, VIDEOS, SIZES)
    assert problem.startswith(f"{NAMES[0]} cannot be read")


def test_wrong_root(results, tmp_path):
    (problem,) = validate_submission(results / "Annotations", VIDEOS, SIZES)
    assert "no folder Annotations/ at its root: the first file is cat/0/00000.png" in problem
    (tmp_path / "nothing").mkdir()
    (problem,) = validate_submission(tmp_path / "nothing", VIDEOS, SIZES)
    assert problem.endswith("it is empty")


def test_what_is_no_submission_at_all(tmp_path):
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(ValueError, match="text.zip: not a folder and not a readable zip"):
        validate_submission(tmp_path / "text.zip", VIDEOS, SIZES)
    with pytest.raises(FileNotFoundError, match="absent.zip"):
        validate_submission(tmp_path / "absent.zip", VIDEOS, SIZES)
    with pytest.raises(FileNotFoundError, match="Annotations: no such folder"):
        write_submission_zip(tmp_path, tmp_path / "s.zip")
    assert _files(tmp_path) == ["text.zip"]


def test_a_submission_with_problems_is_not_made(results, tmp_path):
    path = tmp_path / "out" / "submission.zip"
    build_submission(results, path, VIDEOS, SIZES)
    before = path.read_bytes()
    for frame in range(8):
        write_mask_png(results / mask_name("cat", "0", f"extra{frame}"), np.zeros((20, 30), bool))
    with pytest.raises(ValueError, match=r"8 problems: .*extra0\.png is not asked for.*extra4.*; and 3 more") as raised:
        build_submission(results, path, VIDEOS, SIZES)
    assert "extra5" not in str(raised.value)
    assert path.read_bytes() == before
    assert _files(path.parent) == ["submission.zip"]


def test_is_complete(results):
    frames = VIDEOS["cat"]["frames"]
    assert is_complete(results, "cat", "0", frames)
    assert not is_complete(results, "cat", "0", [*frames, "00010"])
    assert not is_complete(results, "cat", "7", frames)
    path = results / mask_name("cat", "0", frames[1])
    path.write_bytes(path.read_bytes()[:-20])
    assert not is_complete(results, "cat", "0", frames)
    assert is_complete(results, "cat", "1", frames)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_damage_ends_in_a_surprise(tmp_path_factory, data):
    """Damaged bytes either still decode or raise ValueError, whatever the decoder itself would raise."""
    buffer = BytesIO()
    Image.fromarray(np.tri(9, dtype=np.uint8) * 255).save(buffer, format="PNG", dpi=(72, 72))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp() / "damage"
    folder.mkdir(exist_ok=True)
    (folder / "a.png").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with Results(folder) as opened:
        try:
            assert opened.image("a.png").size
        except ValueError as error:
            assert "a.png cannot be decoded" in str(error)


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"J": 1})
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("half of")
        raise KeyboardInterrupt
    assert path.read_text() == '{\n  "J": 1\n}\n'
    assert _files(tmp_path) == ["scores.json"]


def test_a_write_that_does_not_fit_names_the_file_and_leaves_nothing(tmp_path):
    """The size limit of the process stands in for a full disk."""
    noise = np.random.default_rng(0).random((200, 200)) > 0.5
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot be written.*free some space.*noise.png"):
            write_mask_png(tmp_path / "noise.png", noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert _files(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot be written.*file/a/m\.png"):
        write_mask_png(tmp_path / "file" / "a" / "m.png", np.ones((3, 3), bool))


def test_a_number_that_json_lacks_is_not_written(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"J": 1})
    for number in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON"):
            write_json(path, {"J": number})
        with pytest.raises(ValueError, match="JSON"), open_json(path, {}, "list") as add:
            add(number)
    assert json.loads(path.read_text()) == {"J": 1} and _files(tmp_path) == ["scores.json"]


@pytest.mark.parametrize("items", [[], [{"a": [1]}], [1, "ü", None]])
def test_json_that_is_written_item_by_item(tmp_path, items):
    with open_json(tmp_path / "a.json", {"head": {"x": []}}, "list") as add:
        for item in items:
            add(item)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"head": {"x": []}, "list": items}


@pytest.mark.parametrize("damage", ["encrypted", "unknown method"])
def test_an_entry_of_a_zip_that_cannot_be_taken_out_is_named(damage, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("Annotations/v/0/0.png", b"mask")
    content = bytearray(path.read_bytes())
    directory = content.index(b"PK\x01\x02")  # of its entry: flags at 8, method at 10; 2 less in the entry's own header
    for start, shift in ((directory, 0), (0, -2)):
        content[start + (8 if damage == "encrypted" else 10) + shift] = 1 if damage == "encrypted" else 97
    path.write_bytes(content)
    with Results(path) as results, pytest.raises(ValueError, match="0.png cannot be read"):
        results.image("Annotations/v/0/0.png")


def test_masks_of_a_video_that_was_asked_something_else_are_made_anew(tmp_path):
    folder, run = tmp_path / "out", {"checkpoint": "a"}
    claim_results(folder, run, replace=False, asked={"v": "1", "w": "1"})
    for vid in ("v", "w"):
        write_mask_png(folder / mask_name(vid, "0", "00000"), np.zeros((2, 2), bool))
        write_scores(folder, vid, ["0"], [0.5], [True])
    claim_results(folder, run, replace=False, asked={"w": "1"})  # one is left out this time
    claim_results(folder, run, replace=False, asked={"v": "2", "w": "1"})
    assert _files(folder) == ["Annotations/w/0/00000.png", "inference.json", "scores/w.json"]
    assert json.loads((folder / "inference.json").read_text())["asked"]["v"] == "2"
