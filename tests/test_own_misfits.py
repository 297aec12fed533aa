"""One's own data where it does not fit: tables, masks and videos, each named with its file and row; the checker."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.helpers import edit
from tests.mini_own import FILM, FOLDER, ROWS, Mine, convert, listed, rle, write_own, write_table
from tools.data.own.table import read_table


@pytest.fixture
def mine(tmp_path) -> Mine:
    """Label maps that a test may change."""
    return write_own(tmp_path / "mine", "label_maps")


def refused(capsys, mine: Mine, form: str, *flags: object, **more: str) -> list[str]:
    """The mismatches that are named; nothing is written."""
    capsys.readouterr()
    before = sorted(mine.root.rglob("*"))
    with pytest.raises(ValueError, match=r"mismatches named above to mend. Nothing was written") as error:
        convert(mine, form, *flags, **more)
    named = capsys.readouterr().err.splitlines()
    assert sorted(mine.root.rglob("*")) == before
    assert f": {len(named)} mismatches" in str(error.value)
    return named


# ---------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    "text",
    [
        "video,object,expression\nat_home,1,the box\n\nclip,,a zebra\n",
        "\ufeffVideo;Note;Object;Expression\r\nat_home;x;1;the box\r\n;;;\r\nclip;;;a zebra\r\n",
        'expression\tvideo\tobject\n"the box"\tat_home\t 1\na zebra\tclip\t\n',
        "\n\nvideo,object,expression\nat_home,1,the box\nclip,,a zebra\n",
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path, text):
    path, faults = tmp_path / "t.csv", []
    path.write_bytes(text.encode("utf-16" if "\ufeff" not in text else "utf-8"))
    rows = read_table(path, faults)
    assert not faults and [(row.video, row.object, row.text) for row in rows] == [
        ("at_home", "1", "the box"),
        ("clip", None, "a zebra"),
    ]


def test_every_bad_row_is_named(tmp_path):
    path, faults = tmp_path / "t.csv", []
    path.write_text(
        'video,object,expression\n,1,a\nv,1," "\nv,1,a, b\nv,1,the dog\n\nv,2,The  dog!\nv,1,"two\nlines"\nv,3,last\n,,'
    )
    rows = read_table(path, faults)
    assert [row.where.rpartition(" ")[2] for row in rows] == ["5", "8", "9"]
    assert sorted(faults) == [
        f"{path}, row 2: names no video",
        f"{path}, row 3: has no expression",
        f"{path}, row 4: has 4 fields, the first row 3; put texts that hold ',' between quotes",
        f"{path}, row 7: 'The  dog!' of video v stands in {path}, row 5 already; an expression means one object or "
        "nothing: delete one of the rows, or say in the texts which object is meant",
    ]
    path, faults = tmp_path / "t.json", []
    good = {"video": 7, "object": "a", "expression": "x"}
    wrong = [[], {"video": "v"}, {**good, "video": None}, {**good, "object": 1.5}, {**good, "expression": 3}]
    path.write_text(json.dumps([*wrong, good, {**good, "object": None, "expression": "y"}]))
    assert [(row.where, row.video, row.object) for row in read_table(path, faults)] == [
        (f"{path}, entry 6", "7", "a"),
        (f"{path}, entry 7", "7", None),
    ]
    assert [fault.removeprefix(f"{path}, entry ") for fault in faults] == [
        "1: must have video, object, expression",
        "2: must have video, object, expression",
        "3: names no video",
        "4: has 1.5 as its object, not a number, a name or nothing",
        "5: has no expression",
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "its first row does not name video, object, expression once"),
        ("t.csv", b"video,object\nv,1\n", "its first row does not name expression once"),
        ("t.csv", b"video,object,expression\n", "has no rows"),
        ("t.csv", b"video,object,expression\nv,1,\xe9t\xe9\n", "is no table .'utf-8' codec"),
        ("t.csv", b'video,object,expression\nv,1,"' + b"x" * 200_000, "field larger than field limit"),
        ("t.json", b"{}", "it holds no list"),
        ("t.json", b"[", "is no table .Expecting value"),
        ("t.json", b"[]", "has no rows"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}.*a table has the columns|{name}: {message}"):
        read_table(tmp_path / name, [])


# ----------------------------------------------------------------------------------------------------- what misfits


def test_all_mismatches_are_named_in_one_report_with_file_and_row(mine, capsys):
    masks, table = mine.masks("label_maps"), mine.table()
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masks / "at_home" / "00005.png")
    (masks / "at_home" / "00010.png").write_bytes(b"no picture")
    (masks / "at_home" / "00015.png").rename(masks / "at_home" / "15.png")
    shutil.copytree(masks / "clip", masks / "one")
    shutil.copytree(masks / "clip", masks / "two")
    (masks / "clip" / "00004.png").rename(masks / "clip" / "00005.png")
    shutil.copy(mine.videos / "clip.mp4", mine.videos / "one.mp4")
    shutil.copy(mine.videos / "clip.mp4", mine.videos / "two.mov")
    shutil.copy(mine.videos / "clip.mp4", mine.videos / "two.mp4")
    (mine.videos / "sound.mp4").write_bytes(b"no film")
    rows = [*ROWS, ("one", 3, "a third"), ("one", 1, "the red one"), ("gone", 1, "a"), ("gone", 2, "b")]
    write_table(mine, [*rows, ("two", 1, "c"), ("sound", 1, "d"), ("clip", "", "")])
    named = refused(capsys, mine, "label_maps")
    assert sorted(named) == sorted(
        [
            f"{table}, row 12: has no expression",
            f"{table}, row 8 and 1 more rows: video gone: {mine.videos} holds no folder or film of this name",
            f"{table}, row 10: video two: {mine.videos} holds two.mov and two.mp4; rename one of them",
            *[line for line in named if line.startswith(f"{masks}/at_home")],
            f"{masks}/clip: {mine.videos}/clip.mp4 has no frame 5: its frames are 0 to 4",
            f"{table}, row 6: object 3 of video one is in none of its masks in {masks}/one; there are 1; 2",
            *[line for line in named if line.startswith(f"{mine.videos}/sound.mp4: ") and "row 11" in line],
        ]
    )
    at_home = sorted(line for line in named if line.startswith(f"{masks}/at_home"))
    assert f"{masks}/at_home/00005.png: is 9x9 pixels, but its frame is 80x48" in at_home[0]
    assert f"{masks}/at_home/00010.png: the mask is damaged or not an image" in at_home[1]
    assert at_home[2] == f"{masks}/at_home: there is no frame 15 in {mine.videos}/at_home; name masks like their frames"
    assert len(named) == 9


def test_mismatches_of_coco_are_named_by_annotation(mine, capsys):
    path = mine.masks("coco")
    size = {"height": 48, "width": 80}
    images = [
        {"id": 1, "file_name": "at_home/00000.jpg", **size},
        {"id": 1, "file_name": "at_home/00005.jpg", **size},
        {"id": 3, "file_name": "alone.jpg"},
        {"id": [4], "file_name": "at_home/00010.jpg"},
        {"id": 5, "file_name": "at_home/00010.jpg", "height": 80, "width": 48},
        {"id": 6, "file_name": "at_home/00099.jpg", **size},
        {"id": 7, "file_name": "clip/00000.jpg"},
    ]
    annotations = [
        {"image_id": 1, "id": 1, "segmentation": rle(FOLDER.labels(0) == 1)},
        {"image_id": 1, "track_id": 1, "segmentation": {"size": [48, 80], "counts": [1, 2]}},
        {"image_id": 1, "track_id": 1, "segmentation": []},
        {"image_id": 2, "track_id": 1, "segmentation": rle(FOLDER.labels(0) == 1)},
        {"image_id": 1, "track_id": 1, "segmentation": rle(FILM.labels(0) == 1)},
        "annotation",
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    write_table(mine, ROWS[:1])
    assert [line.removeprefix(f"{path}") for line in refused(capsys, mine, "coco")] == [
        ", image 2: the image 1 or the file 'at_home/00005.jpg' is listed twice",
        ", image 3: its file name 'alone.jpg' names no video; write VIDEO/FRAME.jpg",
        ', image 4: must have "id" and "file_name"',
        ", annotation 4: its image 2 is not listed, or cannot be used",
        ", annotation 6: its image None is not listed, or cannot be used",
        f": there is no frame 00099 in {mine.videos}/at_home; name masks like their frames",
        ", annotation 1: names no object as track_id, instance_id, object_id, by itself or in its attributes",
        ", annotation 2, frame 00000: its runs do not fill 80x48 pixels exactly",
        ", annotation 3, frame 00000: there is no polygon",
        ", annotation 5, frame 00000: the mask is of size [32, 48], its image of [48, 80]",
        ": says that frame 00010 is 48x80 pixels, but it is 80x48",
    ]


def test_mismatches_of_youtube_vis_are_named(mine, capsys):
    path = mine.masks("youtube_vis")
    files = ["at_home/00000.jpg", "at_home/00005.jpg"]
    videos = [
        {"id": 1, "file_names": files, "height": 48, "width": 80},
        {"id": 1, "file_names": ["clip/0.jpg"]},
        {"id": 3, "file_names": ["clip/0.jpg", "other/1.jpg"]},
        {"id": 4, "file_names": []},
    ]
    annotations = [
        {"id": 1, "video_id": 1, "segmentations": [None]},
        {"id": 2, "video_id": 9, "segmentations": [None, None]},
        {"video_id": 1, "segmentations": [None, rle(FOLDER.labels(0) == 1)]},
    ]
    path.write_text(json.dumps({"videos": videos, "annotations": annotations}))
    write_table(mine, ROWS[:1])
    assert [line.removeprefix(f"{path}, ") for line in refused(capsys, mine, "youtube_vis")] == [
        "video 2: the video 1 or 'clip' is listed twice",
        "video 3: its file names must be VIDEO/FRAME.jpg, of one video, and each listed once",
        'video 4: must have "id" and "file_names"',
        'annotation 1: has 1 "segmentations" for 2 frames of its video',
        "annotation 2: its video 9 is not listed, or cannot be used",
        'annotation 3: has no "id"',
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"is not a JSON file \(Expecting value"),
        ("[]", 'has no list "annotations"; masks in json are'),
        ('{"annotations": [], "images": {}}', 'has neither a list "images" nor a list "videos"'),
    ],
)
def test_json_that_holds_no_masks_is_refused(mine, content, message):
    mine.masks("coco").write_text(content)
    with pytest.raises(ValueError, match=f"coco.json: {message}"):
        convert(mine, "coco")


def test_masks_of_two_kinds_or_of_none_are_named(mine, capsys):
    masks = mine.masks("label_maps")
    (masks / "clip.json").write_text("{}")
    (masks / "at_home" / "1").mkdir()
    named = refused(capsys, mine, "label_maps")
    assert f"{masks}: holds both a folder clip and a file clip.json; one is needed ({mine.table()}, row 4)" in named
    assert f"{masks}/at_home: holds label maps and folders; the masks of a video are one or the other" in named[0]
    shutil.rmtree(masks / "at_home")
    (masks / "at_home").mkdir()
    (masks / "clip.json").unlink()
    shutil.rmtree(masks / "clip")
    named = refused(capsys, mine, "label_maps")
    assert f"{masks}/at_home: holds neither PNGs nor a folder of PNGs for each object" in named[0]
    assert f"{masks}: holds neither a folder clip and a file clip.json; one is needed" in named[1]


def test_missing_folders_and_impossible_flags_are_named(mine, capsys):
    for flags, message in (
        (("--masks", mine.root / "none"), f"--masks {mine.root}/none: no such folder or file"),
        (("--table", mine.root / "none.csv"), f"--table {mine.root}/none.csv: this file does not exist"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            convert(mine, "label_maps", *flags)
    for flags in (("--every", 0), ("--valid", 1), ("--workers", 0)):
        with pytest.raises(SystemExit):
            convert(mine, "label_maps", *flags)
    # the folder of one video, instead of the folder of all
    os.rename(mine.videos, mine.root / "all")
    os.symlink(mine.root / "all" / "at_home", mine.videos)
    named = refused(capsys, mine, "label_maps")
    assert "holds no folder or film of this name; it holds frames itself: give the folder above it" in named[0]


# -------------------------------------------------------------------------------------------------------- the checker


def test_the_checker_finds_what_would_spoil_training_and_scores(mine, checked):
    shutil.copytree(mine.videos / "at_home", mine.videos / "copy")
    shutil.copytree(mine.masks("label_maps") / "at_home", mine.masks("label_maps") / "copy")
    write_table(mine, [*ROWS, ("copy", 1, "a copy")])
    out, counts, _ = convert(mine, "label_maps", "--valid", 0.4)
    assert [counts[split]["videos"] for split in ("train", "valid")] == [2, 1]
    assert checked("own", out)[:2] == (0, [])
    valid, train = listed(out, "valid"), listed(out)
    name, other = next(iter(valid)), next(iter(train))
    for kind in ("JPEGImages", "Annotations"):
        shutil.copytree(out / "valid" / kind / name, out / "train" / kind / name)
    os.rename(out / "train" / "JPEGImages" / other, out / "train" / "JPEGImages" / "moved")
    os.symlink((out / "valid" / "JPEGImages" / name).resolve(), out / "train" / "JPEGImages" / other)
    path = out / "meta_expressions" / "valid" / "meta_expressions.json"
    edit(path, lambda content: content["videos"][name]["expressions"].update({"9": {"exp": "x"}}))
    code, faults, _, _ = checked("own", out)
    kinds = {(kind, path) for kind, path, _ in faults}
    assert code == 1 and ("both", f"valid/JPEGImages/{name}/") in kinds
    assert ("no_objects", "meta_expressions/valid/meta_expressions.json") in kinds
