"""tools/data/check.py: a clean set passes, each kind of planted fault is found, and the summary says what to do."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import SHARED, edit, needs_shared
from tests.mini_davis import write_mini_davis
from tests.mini_mevis import TRAIN, rle, write_mini_mevis
from tests.mini_ytvos import VIDEOS, meta_entry, write_meta, write_mini_ytvos
from tools.data import check
from tools.data.checks.report import KINDS, Report
from tools.data.convert_davis_to_ytvos import convert


@pytest.fixture
def ytvos(tmp_path) -> Path:
    return write_mini_ytvos(tmp_path / "ytvos")


@pytest.fixture
def davis(tmp_path) -> Path:
    root = write_mini_davis(tmp_path / "davis")
    convert(root, workers=1)
    return root


@pytest.fixture
def mevis(tmp_path) -> Path:
    return write_mini_mevis(tmp_path / "mevis")


def resized(path: Path) -> None:
    with Image.open(path) as image:
        smaller = image.resize((20, 10))
    smaller.save(path)


@pytest.mark.parametrize("dataset", ["ytvos", "davis", "mevis"])
def test_a_clean_set_passes(dataset, request, checked):
    root = request.getfixturevalue(dataset)
    code, faults, again, text = checked(dataset, root)
    assert (code, faults, again) == (0, [], [])
    assert f"{dataset} in {root}: in order" in text and "a part of the published set" in text
    # what a desktop leaves behind is no fault
    frames = next(root.glob("train/JPEGImages/*"))
    (frames / ".DS_Store").write_text("")
    # nor what was downloaded and unpacked
    for name in ("train.zip", "README.md", "synthetic.json", "train/JPEGImages.tar.gz"):
        (root / name).touch()
    assert checked(dataset, root)[0] == 0


def test_what_there_is_is_counted(ytvos, mevis, checked, tmp_path):
    text = checked("ytvos", ytvos)[3]
    assert "train: videos 4 of 3,471 published, expressions 12 of 12,913 published" in text
    assert "expressions 12 of 12,913 published, frames 23, objects 8 of 6,388 published, a part of the" in text
    assert "valid: videos 2 of 202 published, expressions 6 of 834 published, frames 13 of 5,486 published, a " in text
    assert "train: videos 3 of 1,662 published, expressions 12 of 23,051" in checked("mevis", mevis)[3]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["counts"]["valid_u"] == {"videos": 2, "expressions": 8, "frames": 7, "objects": 6}
    assert report["published"]["valid_u"] == {"videos": 50, "expressions": 793}


VIDEO = "train/JPEGImages/aa_wide"
MASKS = "train/Annotations/aa_wide"
META = "meta_expressions/train/meta_expressions.json"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def colour(path: Path) -> None:
    Image.new("RGB", (80, 48), (1, 2, 3)).save(path)


def _entry(content: dict) -> dict:
    return content["videos"]["aa_wide"]


# what is done to a set, and the one fault that it makes: kind, path, part of what is said, what to download again
YTVOS_FAULTS = {
    "frame missing": (lambda r: (r / VIDEO / "00005.jpg").unlink(), "missing", f"{VIDEO}/00005.jpg", "", 1),
    "frame cut short": (lambda r: cut(r / VIDEO / "00010.jpg"), "damaged", f"{VIDEO}/00010.jpg", "frame is damaged", 1),
    "frame empty": (lambda r: (r / VIDEO / "00010.jpg").write_bytes(b""), "damaged", f"{VIDEO}/00010.jpg", "damag", 1),
    "folder missing": (lambda r: shutil.rmtree(r / VIDEO), "missing", f"{VIDEO}/", "the folder of 7 files", 1),
    "mask missing": (lambda r: (r / MASKS / "00005.png").unlink(), "missing", f"{MASKS}/00005.png", "", 1),
    "mask cut short": (lambda r: cut(r / MASKS / "00005.png"), "damaged", f"{MASKS}/00005.png", "mask is damaged", 1),
    "mask in colour": (lambda r: colour(r / MASKS / "00005.png"), "damaged", f"{MASKS}/00005.png", "mode RGB", 1),
    "frame of another size": (
        lambda r: resized(r / VIDEO / "00005.jpg"),
        "size",
        f"{VIDEO}/00005.jpg",
        "is 20x10, other frames of the video are 80x48",
        1,
    ),
    "mask of another size": (
        lambda r: resized(r / MASKS / "00005.png"),
        "size",
        f"{MASKS}/00005.png",
        "is 20x10, its frame 80x48",
        2,
    ),
    "object without pixels": (
        lambda r: (
            edit(r / META, lambda c: _entry(c)["expressions"]["0"].update(obj_id="7")),
            edit(r / "train/meta.json", lambda c: _entry(c)["objects"].update({"7": {"category": "cat"}})),
        ),
        "no_pixels",
        f"{MASKS}/",
        "object 7 is in none of the masks",
        0,
    ),
    "expression without object": (
        lambda r: edit(r / META, lambda c: _entry(c)["expressions"]["2"].pop("obj_id")),
        "no_objects",
        META,
        'video aa_wide, expression 2 must name its object as "obj_id"',
        1,
    ),
    "blank expression": (
        lambda r: edit(r / META, lambda c: _entry(c)["expressions"]["2"].update(exp=" ")),
        "list",
        META,
        "video aa_wide, expression 2 is empty",
        1,
    ),
    "no expression": (
        lambda r: edit(r / META, lambda c: _entry(c).update(expressions={})),
        "list",
        META,
        "video aa_wide must have at least one expression",
        1,
    ),
    "frame listed twice": (
        lambda r: edit(r / META, lambda c: _entry(c)["frames"].append("00005")),
        "list",
        META,
        "lists frame 00005 twice",
        1,
    ),
    "list missing": (lambda r: (r / META).unlink(), "missing", META, "the list of the split's expressions", 1),
    "list cut short": (lambda r: cut(r / META), "damaged", META, "is not a JSON file", 1),
    "unknown category": (
        lambda r: edit(r / "train/meta.json", lambda c: _entry(c)["objects"]["2"].update(category="unicorn")),
        "list",
        "train/meta.json",
        "object 2: 'unicorn' is none of the 65 categories",
        1,
    ),
    "categories cut short": (lambda r: cut(r / "train/meta.json"), "damaged", "train/meta.json", "not a JSON file", 1),
    "unknown frame": (
        lambda r: shutil.copy(r / VIDEO / "00005.jpg", r / VIDEO / "00006.jpg"),
        "unknown",
        f"{VIDEO}/00006.jpg",
        "",
        0,
    ),
    "unknown mask": (lambda r: (r / MASKS / "notes.txt").write_text("x"), "unknown", f"{MASKS}/notes.txt", "", 0),
    "unknown video": (lambda r: (r / "train/JPEGImages/new").mkdir(), "unknown", "train/JPEGImages/new/", "", 0),
    "unknown file": (lambda r: (r / "valid/JPEGImages/a.zip").touch(), "unknown", "valid/JPEGImages/a.zip", "", 0),
    "video beside the frames": (lambda r: (r / "train/zzz").mkdir(), "unknown", "train/zzz/", "", 0),
    "frame beside the frames": (lambda r: (r / "valid/00000.jpg").touch(), "unknown", "valid/00000.jpg", "", 0),
    "frames beside the splits": (lambda r: (r / "JPEGImages").mkdir(), "unknown", "JPEGImages/", "", 0),
}


@pytest.mark.parametrize("planted", YTVOS_FAULTS)
def test_a_planted_fault_is_found_alone(planted, ytvos, checked):
    plant, kind, path, what, downloads = YTVOS_FAULTS[planted]
    plant(ytvos)
    code, faults, again, text = checked("ytvos", ytvos)
    assert code == 1
    # an object that no expression names any more is worth a note, not a fault
    assert [(found_kind, found_path) for found_kind, found_path, _ in faults] == [(kind, path)]
    assert what in faults[0][2] and "docs/data.md" not in faults[0][2] and str(ytvos) not in faults[0][2]
    assert len(again) == downloads and (not again or path in again)
    assert f"{KINDS[kind].heading}: 1" in text and f"  mend: {KINDS[kind].mend}" in text and path in text


def test_categories_of_another_set_are_one_note(ytvos, checked):
    path = ytvos / "train/meta.json"
    path.write_text(path.read_text().replace("person", "square").replace("zebra", "circle"))
    code, faults, _, text = checked("ytvos", ytvos)
    assert (code, faults) == (0, []) and text.count("train with --binary") == 1


def test_an_error_that_names_no_file_of_the_set_is_a_fault(tmp_path):
    def refuse(error):
        raise error

    report = Report()
    assert report.read(tmp_path, lambda: refuse(ValueError("'utf-8' codec can't decode byte: bad"))) is None
    assert report.read(tmp_path, lambda: refuse(FileNotFoundError("/elsewhere/x: is gone; see"))) is None
    assert [(fault.kind, fault.path, fault.what) for fault in report.faults] == [
        ("list", "./", "'utf-8' codec can't decode byte: bad"),
        ("missing", "./", "/elsewhere/x: is gone"),
    ]
    assert report.fix_list() == []


def test_missing_masks_do_not_make_objects_without_pixels(ytvos, checked):
    """Object 2 of bb_absent is in its last frames only."""
    folder = ytvos / "train/Annotations/bb_absent"
    for frame in ("00020", "00025"):
        (folder / f"{frame}.png").unlink()
    assert Counter(kind for kind, _, _ in checked("ytvos", ytvos)[1]) == {"missing": 2}


def test_examples_are_few_and_the_lists_whole(ytvos, checked):
    for path in (ytvos / VIDEO).iterdir():
        path.write_bytes(b"no image")
    code, faults, again, text = checked("ytvos", ytvos, "--examples", "2")
    assert code == 1 and len(faults) == len(again) == 7
    assert again == sorted(f"{VIDEO}/{frame}.jpg" for frame in VIDEOS[0].frames)
    assert text.count("00000.jpg") == 1 and "00010.jpg" not in text and "    and 5 more" in text
    assert "again.txt: 7 files or folders to download again" in text and "7 faults" in text


def test_processes_find_the_same(ytvos, checked):
    cut(ytvos / VIDEO / "00010.jpg")
    (ytvos / "valid/JPEGImages/bb_absent/00000.jpg").unlink()
    assert checked("ytvos", ytvos)[1] == checked("ytvos", ytvos, "--workers", "2")[1]


def test_parts_of_ytvos_that_may_be_absent(ytvos, checked):
    (ytvos / "train/meta.json").unlink()
    listed = {video.name: meta_entry(video, objects=False) for video in VIDEOS}
    write_meta(ytvos, "valid", listed)
    code, _, _, text = checked("ytvos", ytvos)
    assert code == 0 and "train with --binary" in text
    assert "2 listed videos that have no folder in valid/JPEGImages or valid/Annotations count as those of the" in text
    # With the test file it is known which videos ought to be there.
    write_meta(ytvos, "test", {name: listed[name] for name in ("dd_short",)})
    code, faults, _, text = checked("ytvos", ytvos)
    assert faults == [("missing", "valid/JPEGImages/cc_portrait/", "the folder of 7 files")]
    assert "test: listed, but none of its frames are in valid/JPEGImages" in text
    shutil.rmtree(ytvos / "valid")
    (ytvos / "meta_expressions/valid/meta_expressions.json").unlink()
    assert "note: valid: not there" in checked("ytvos", ytvos)[3]


def test_masks_of_valid_are_checked_where_the_list_names_objects(ytvos, checked):
    write_meta(ytvos, "valid", {video.name: meta_entry(video) for video in VIDEOS[:2]})
    assert checked("ytvos", ytvos)[0] == 0
    (ytvos / "valid/Annotations/aa_wide/00000.png").unlink()
    assert checked("ytvos", ytvos)[1] == [("missing", "valid/Annotations/aa_wide/00000.png", "")]


def test_objects_without_text_are_worth_a_note(davis, checked):
    """The miniature has masks of objects that no text names."""
    code, _, _, text = checked("davis", davis)
    assert code == 0 and "of the masks is named by no expression" in text


def test_annotators_of_davis_must_agree(davis, checked):
    path = davis / "meta_expressions/valid/meta_expressions.json"
    first = next(iter(json.loads(path.read_text())["videos"]))
    edit(path, lambda c: c["videos"][first]["expressions"].pop("3"))
    code, faults, again, _ = checked("davis", davis)
    assert code == 1 and [kind for kind, _, _ in faults] == ["list"] and again == [faults[0][1]]
    assert f"video {first}: " in faults[0][2] and "annotator 3" in faults[0][2]


LIST, DICT = "train/meta_expressions.json", "train/mask_dict.json"
MEVIS_FAULTS = {
    "frame missing": (lambda r: (r / VIDEO / "00005.jpg").unlink(), "missing", f"{VIDEO}/00005.jpg", "", 1),
    "masks missing": (lambda r: (r / DICT).unlink(), "missing", DICT, "the masks of the split", 1),
    "masks cut short": (lambda r: cut(r / DICT), "damaged", DICT, "is not a JSON file", 1),
    "no mask at all": (
        lambda r: edit(r / DICT, lambda c: c.update({"0": 1})),
        "damaged",
        DICT,
        "annotation 0 must",
        1,
    ),
    "damaged mask": (
        lambda r: edit(r / DICT, lambda c: c["0"][3].update(counts="12")),
        "damaged",
        DICT,
        "annotation 0, frame 00003 of aa_wide: its runs do not fill 80x48 pixels",
        1,
    ),
    "mask of another size": (
        lambda r: edit(r / DICT, lambda c: c["0"].__setitem__(3, rle(np.ones((48, 70), bool)))),
        "size",
        DICT,
        "annotation 0, frame 00003 of aa_wide is 70x48, its frame 80x48",
        2,
    ),
    "annotation unknown": (
        lambda r: edit(r / DICT, lambda c: c.pop("0") and None),
        "no_objects",
        DICT,
        "there is no annotation 0, which expression 0 of video aa_wide means",
        2,
    ),
    "too few masks": (
        lambda r: edit(r / DICT, lambda c: c["0"].pop()),
        "list",
        DICT,
        "annotation 0 has masks for 5 frames, but video aa_wide, of which it is, has 6",
        2,
    ),
    "no pixels": (
        lambda r: edit(r / DICT, lambda c: c.update({"0": [None] * 6})),
        "no_pixels",
        DICT,
        "annotation 0 of aa_wide has no pixels",
        0,
    ),
    "no objects": (
        lambda r: edit(r / LIST, lambda c: _entry(c)["expressions"]["0"].update(anno_id=[])),
        "no_objects",
        LIST,
        'video aa_wide, expression 0 must name its objects as "anno_id"',
        1,
    ),
    "unknown video": (lambda r: (r / "valid/JPEGImages/new").mkdir(), "unknown", "valid/JPEGImages/new/", "", 0),
}


@pytest.mark.parametrize("planted", MEVIS_FAULTS)
def test_a_planted_fault_of_mevis_is_found(planted, mevis, checked):
    plant, kind, path, what, downloads = MEVIS_FAULTS[planted]
    plant(mevis)
    code, faults, again, _ = checked("mevis", mevis)
    assert code == 1
    # an annotation is meant by two expressions of the video, and either is named
    assert {(found_kind, found_path) for found_kind, found_path, _ in faults} == {(kind, path)}
    assert what in faults[0][2] and str(mevis) not in faults[0][2]
    assert len(again) == downloads and (not again or path in again)


def test_annotations_that_no_expression_means(mevis, checked):
    edit(mevis / DICT, lambda c: c.update({"77": [None] * TRAIN[0].length}))
    code, _, _, text = checked("mevis", mevis)
    assert code == 0 and "note: train: 1 annotation is named by no expression" in text


def test_nothing_to_check(tmp_path, checked):
    with pytest.raises(FileNotFoundError, match="absent: no such folder; give the folder of the data set"):
        checked("ytvos", tmp_path / "absent")
    for dataset in check.CHECKS:
        with pytest.raises(FileNotFoundError, match="there is no list of any split to check by; see docs/data.md"):
            checked(dataset, tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(FileNotFoundError, match="to check by; train/meta_expressions.json: the list of the split's"):
        checked("mevis", tmp_path)
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("words", [["ytvos", ".", "--workers", "0"], ["ytvos", ".", "--examples", "-1"], ["a2b", "."]])
def test_contradicting_options(words, capsys):
    with pytest.raises(SystemExit) as ended:
        check.parse_args(words)
    assert ended.value.code == 2


@needs_shared
@pytest.mark.parametrize(
    ("dataset", "folder", "counts"),
    [
        (
            "ytvos",
            "ref-youtube-vos",
            {
                "train": {"videos": 1, "expressions": 7, "frames": 15, "objects": 5},
                "valid": {"videos": 1, "expressions": 2, "frames": 19},
            },
        ),
        (
            "davis",
            "ref-davis",
            {
                "train": {"videos": 1, "expressions": 14, "frames": 80, "objects": 7},
                "valid": {"videos": 2, "expressions": 8, "frames": 90, "objects": 2},
            },
        ),
    ],
)
def test_real_samples_are_in_order(dataset, folder, counts, checked, tmp_path):
    code, faults, _, _ = checked(dataset, SHARED / "data" / folder)
    assert (code, faults) == (0, [])
    assert json.loads((tmp_path / "report.json").read_text())["counts"] == counts
