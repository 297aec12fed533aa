"""The converter of Ref-DAVIS17 on a miniature of the originals: what it writes, and every message."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import started
from tests.helpers import SHARED, needs_shared
from tests.mini_davis import TRAIN, VALID, write_mini_davis
from tools.data import convert_davis_to_ytvos as converter
from tools.data.convert_davis_to_ytvos import PARTS, convert, read_annotators

META = "meta_expressions/valid/meta_expressions.json"


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> tuple[Path, dict]:
    root = write_mini_davis(tmp_path_factory.mktemp("davis"))
    return root, convert(root)


@pytest.fixture
def originals(tmp_path) -> Path:
    return write_mini_davis(tmp_path / "data")


def _read(root: Path, name: str) -> dict:
    return json.loads((root / name).read_text())["videos"]


def _snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# ------------------------------------------------------------------------------------------------- what is written


def test_expression_ids_are_four_times_the_object_plus_the_annotator(converted):
    root, _ = converted
    pigs = _read(root, META)["pigs"]
    assert pigs["frames"] == ["00000", "00001", "00002", "00003", "00004"]
    texts = [
        ("the red café", "1"),
        ("a red café going down", "1"),
        ("señor red", "1"),
        ("the red señor", "1"),
        ("the blue café", "2"),
        ("a blue café going down", "2"),
        ("señor blue", "2"),
        ("the blue señor", "2"),
    ]
    assert pigs["expressions"] == {str(i): {"exp": text, "obj_id": number} for i, (text, number) in enumerate(texts)}


def test_misspelt_videos_find_their_frames(converted):
    root, _ = converted
    train = _read(root, "meta_expressions/train/meta_expressions.json")
    assert list(train) == ["classic-car", "dogs-scale", "motorbike"]
    assert train["motorbike"]["expressions"]["7"] == {"exp": "the blue señor", "obj_id": "2"}


def test_categories_are_those_of_the_semantics(converted):
    root, _ = converted
    assert _read(root, "train/meta.json")["motorbike"] == {
        "objects": {"1": {"category": "motorcycle"}, "2": {"category": "person"}}
    }
    assert _read(root, "valid/meta.json").keys() == {"goat", "pigs"}


def test_counts_and_the_warning_of_objects_without_text(converted):
    _, result = converted
    assert result == {
        "splits": {
            "train": {"videos": 3, "objects": 5, "expressions": 20},
            "valid": {"videos": 2, "objects": 3, "expressions": 12},
        },
        "warnings": ["objects without text, which no expression asks for: pigs 3"],
    }


@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("inside", [False, True])
def test_videos_are_linked_or_copied_and_never_moved(originals, tmp_path, copy, inside):
    before = _snapshot(originals)
    output = originals if inside else tmp_path / "elsewhere" / "ref-davis"
    convert(originals, output, copy=copy)
    assert {name: content for name, content in _snapshot(originals).items() if name in before} == before
    for split, videos in (("train", TRAIN), ("valid", VALID)):
        for kind, source, suffix in (
            ("JPEGImages", "JPEGImages", "jpg"),
            ("Annotations", "Annotations_unsupervised", "png"),
        ):
            assert {path.name for path in (output / split / kind).iterdir()} == {video.name for video in videos}
            for video in videos:
                made, original = output / split / kind / video.name, originals / "DAVIS" / source / "480p" / video.name
                assert made.is_symlink() != copy
                for name in video.frames:
                    assert (made / f"{name}.{suffix}").read_bytes() == (original / f"{name}.{suffix}").read_bytes()


def test_a_converted_folder_can_be_moved_as_a_whole(originals, tmp_path):
    convert(originals)
    originals.rename(tmp_path / "moved")
    assert (tmp_path / "moved/valid/JPEGImages/pigs/00004.jpg").is_file()


def test_converting_again_is_safe_and_takes_up_corrections(originals):
    convert(originals, copy=True)
    stale = originals / "valid/JPEGImages/pigs/99999.jpg"
    stale.write_bytes(b"")
    path = originals / "davis_text_annotations/Davis17_annot1.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("the red café", "a hog"), encoding="utf-8")
    convert(originals)
    assert _read(originals, META)["goat"]["expressions"]["0"]["exp"] == "a hog"
    assert (originals / "valid/JPEGImages/pigs").is_symlink() and not stale.exists()
    assert sorted(path.name for path in originals.iterdir()) == sorted([*PARTS, "DAVIS", "davis_text_annotations"])


def test_a_failed_conversion_leaves_the_earlier_one(originals):
    convert(originals)
    before = _snapshot(originals / "meta_expressions")
    shutil.rmtree(originals / "DAVIS/JPEGImages/480p/pigs")
    with pytest.raises(FileNotFoundError):
        convert(originals)
    assert _snapshot(originals / "meta_expressions") == before
    assert (originals / "valid/Annotations/pigs/00000.png").is_file()


@pytest.mark.parametrize("stuck", ["train", "valid", "meta_expressions"])
@pytest.mark.parametrize(("move", "where"), [("old", ".old"), ("new", ".meta_expressions.placing")])
def test_a_part_that_cannot_be_moved_leaves_the_earlier_conversion(originals, monkeypatch, stuck, move, where):
    """A folder that is mounted or another user's cannot be moved, neither away nor into its place."""
    convert(originals)
    path = originals / "davis_text_annotations/Davis17_annot1.txt"
    path.write_text(path.read_text(encoding="utf-8").replace("the red café", "a hog"), encoding="utf-8")
    before = _snapshot(originals)
    replace, failed = os.replace, []

    def refuse(source: Path, target: Path) -> None:
        if not failed and Path(source if move == "new" else target).match(f"{where}/{stuck}"):
            failed.append(stuck)
            raise OSError(16, "Device or resource busy")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="cannot be written .Device or resource busy."):
        convert(originals)
    assert failed and _snapshot(originals) == before
    assert not list(originals.glob(".*"))


def test_an_error_while_writing_leaves_nothing(originals, tmp_path, monkeypatch):
    def full(*_args, **_more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(OSError, match=r"cannot be written .No space left on device.; free some space or choose .*out"):
        convert(originals, tmp_path / "out", copy=True)
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------- messages

TEXT = "davis_text_annotations/Davis17_annot2.txt"
FIRST = "davis_text_annotations/Davis17_annot1.txt"


def _append(path: Path, line: str) -> None:
    path.write_bytes(path.read_bytes() + line.encode("latin-1"))


def _drop(path: Path, start: str) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(line for line in lines if not line.startswith(start.encode())))


def _semantics(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


BAD = {
    "no text file": (TEXT, Path.unlink, FileNotFoundError, r"annot2\.txt: this file does not exist; see docs/data\.md"),
    "not utf-8": (FIRST, lambda p: _append(p, 'goat 2 "caf\xe9"'), ValueError, r"annot1\.txt: is not utf-8 .*byte \d+"),
    "no object": (TEXT, lambda p: _append(p, 'goat "a goat"'), ValueError, r"annot2\.txt, line 9: .* is not <video>"),
    "no quotes": (TEXT, lambda p: _append(p, "goat 2 a goat"), ValueError, r"line 9: 'goat 2 a goat' is not <video>"),
    "no text": (TEXT, lambda p: _append(p, 'goat 2 " "'), ValueError, r"line 9: .* is not <video> <object>"),
    "object 0": (TEXT, lambda p: _append(p, 'goat 0 "a"'), ValueError, r"line 9: 0 is no object number \(1 to 254\)"),
    "object 255": (TEXT, lambda p: _append(p, 'goat 255 "a"'), ValueError, r"line 9: 255 is no object number"),
    "twice": (
        TEXT,
        lambda p: _append(p, 'goat 1 "a"'),
        ValueError,
        r"line 9: object 1 of goat has an expression already",
    ),
    "one fewer": (
        TEXT,
        lambda p: _drop(p, "pigs 2"),
        ValueError,
        r"must name the same objects, but Davis17_annot2\.txt has no line for pigs 2\. Add",
    ),
    "one more": (
        TEXT,
        lambda p: _append(p, 'pigs 3 "a"'),
        ValueError,
        r"but Davis17_annot1\.txt has no line for pigs 3; Davis17_annot1_full_video\.txt has no line for pigs 3; "
        r"Davis17_annot2_full_video\.txt has no line for pigs 3\.",
    ),
    "a video fewer": (TEXT, lambda p: _drop(p, "goat"), ValueError, r"annot2\.txt has no line for goat 1\."),
    "no list": ("DAVIS/ImageSets/2017/val.txt", Path.unlink, FileNotFoundError, r"val\.txt: this file does not exist"),
    "empty list": ("DAVIS/ImageSets/2017/val.txt", lambda p: p.write_text("\n"), ValueError, "val.txt: lists no video"),
    "in both lists": (
        "DAVIS/ImageSets/2017/val.txt",
        lambda p: p.write_text("goat\nmotorbike\n"),
        ValueError,
        r"val\.txt: motorbike listed twice, here or in the other list",
    ),
    "no semantics": (
        "DAVIS/davis_semantics.json",
        Path.unlink,
        FileNotFoundError,
        "semantics.json: this file does not",
    ),
    "semantics cut": ("DAVIS/davis_semantics.json", lambda p: p.write_text("{"), ValueError, "is not a JSON file"),
    "semantics of another form": (
        "DAVIS/davis_semantics.json",
        lambda p: p.write_text('{"goat": "goat"}'),
        ValueError,
        'semantics.json: must hold {video: {"1": category}}',
    ),
    "no category": (
        "DAVIS/davis_semantics.json",
        lambda p: _semantics(p, lambda c: c["pigs"].pop("2")),
        ValueError,
        r"semantics\.json: has no category for pigs 2; unpack it again",
    ),
    "no frames": (
        "DAVIS/JPEGImages/480p/pigs",
        shutil.rmtree,
        FileNotFoundError,
        r"JPEGImages/480p/pigs: this folder does not exist; see docs/data\.md, Ref-DAVIS17",
    ),
    "empty folder": (
        "DAVIS/JPEGImages/480p/pigs",
        lambda p: [path.unlink() for path in p.iterdir()],
        FileNotFoundError,
        r"JPEGImages/480p/pigs: holds no \.jpg",
    ),
    "a mask fewer": (
        "DAVIS/Annotations_unsupervised/480p/pigs/00003.png",
        Path.unlink,
        ValueError,
        r"the first, 00003, is not in .*Annotations_unsupervised/480p/pigs",
    ),
    "a frame fewer": (
        "DAVIS/JPEGImages/480p/pigs/00003.jpg",
        Path.unlink,
        ValueError,
        r"the first, 00003, is not in .*JPEGImages/480p/pigs",
    ),
    "damaged mask": (
        "DAVIS/Annotations_unsupervised/480p/pigs/00003.png",
        lambda p: p.write_bytes(p.read_bytes()[:60]),
        ValueError,
        r"00003\.png: this mask cannot be decoded",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_originals_are_named_and_nothing_is_written(originals, case):
    name, damage, error, message = BAD[case]
    damage(originals / name)
    with pytest.raises(error, match=message):
        convert(originals)
    assert sorted(path.name for path in originals.iterdir()) == ["DAVIS", "davis_text_annotations"]


def test_text_of_an_object_that_no_mask_shows(originals):
    for path in (originals / "davis_text_annotations").iterdir():
        _append(path, 'pigs 4 "a fourth pig"')
    with pytest.raises(ValueError, match=r"no mask of their video shows: pigs 4\. Correct the numbers"):
        convert(originals)


def test_videos_without_text_and_text_without_video_are_warned_of(originals):
    for path in (originals / "davis_text_annotations").iterdir():
        _drop(path, "goat")
        _append(path, 'gaot 1 "a goat"')
    assert convert(originals)["warnings"] == [
        "objects without text, which no expression asks for: goat 1; pigs 3",
        "videos without any text, which meta_expressions leaves out: goat",
        "text of videos in neither list, which is not used: gaot",
    ]
    assert list(_read(originals, META)) == ["pigs"]


def test_texts_of_none_of_the_videos(originals):
    for path in (originals / "davis_text_annotations").iterdir():
        path.write_text('gaot 1 "a goat"\n')
    with pytest.raises(ValueError, match="the text files name no video of the lists; the first they name is gaot"):
        convert(originals)


def test_folders_that_something_else_made_are_not_replaced(originals):
    (originals / "valid").mkdir()
    with pytest.raises(ValueError, match=r"already holds valid, not written by this program; move them away, or give"):
        convert(originals)
    assert list((originals / "valid").iterdir()) == []


# --------------------------------------------------------------------------------------------------------- command


def test_command_says_what_it_did_and_errors_are_one_line(originals, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["convert_davis_to_ytvos.py", str(originals)])
    converter.main()
    out, err = capsys.readouterr()
    assert "warning: objects without text, which no expression asks for: pigs 3" in err.splitlines()
    assert out.splitlines() == [
        f"{originals}: linked",
        "  train: 3 videos, 5 objects, 20 expressions",
        "  valid: 2 videos, 3 objects, 12 expressions",
    ]
    (originals / FIRST).unlink()
    done = started("tools/data/convert_davis_to_ytvos.py", originals)
    assert done.returncode == 2
    assert re.fullmatch(r"convert_davis_to_ytvos\.py: error: .*annot1\.txt: this file does not exist.*\n", done.stderr)


@needs_shared
def test_the_real_text_files():
    annotators = read_annotators(SHARED / "data/ref-davis")
    assert len(annotators[0]) == 30
    assert [sum(map(len, texts.values())) for texts in annotators] == [61] * 4
    assert [texts["blackswan"][1] for texts in annotators] == [
        "a black swan",
        "a black feathered swan",
        "a swan",
        "a black swan",
    ]


@needs_shared
def test_a_real_video_converts_to_its_sample(tmp_path):
    """blackswan and car-shadow put back to where DAVIS has them."""
    sample, davis = SHARED / "data/ref-davis", tmp_path / "DAVIS"
    videos = ("blackswan", "car-shadow")
    for video in videos:
        for kind, original in (("JPEGImages", "JPEGImages"), ("Annotations", "Annotations_unsupervised")):
            (davis / original / "480p").mkdir(parents=True, exist_ok=True)
            (davis / original / "480p" / video).symlink_to(sample / "valid" / kind / video)
    (davis / "ImageSets/2017").mkdir(parents=True)
    (davis / "ImageSets/2017/train.txt").write_text("car-shadow\n")
    (davis / "ImageSets/2017/val.txt").write_text("blackswan\n")
    (davis / "davis_semantics.json").write_text(json.dumps({"blackswan": {"1": "bird"}, "car-shadow": {"1": "car"}}))
    (tmp_path / "davis_text_annotations").symlink_to(sample / "davis_text_annotations")
    result = convert(tmp_path)
    assert [numbers["expressions"] for numbers in result["splits"].values()] == [4, 4]
    assert result["warnings"][0].startswith("text of videos in neither list") and len(result["warnings"]) == 1
    written, expected = _read(tmp_path, META), _read(sample, META)
    assert written == {"blackswan": expected["blackswan"]}
    with Image.open(tmp_path / "valid/JPEGImages/blackswan/00000.jpg") as image:
        assert image.size == (854, 480)
