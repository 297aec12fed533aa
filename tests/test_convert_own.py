"""One's own data: every form of videos, masks and tables becomes the same set, and all that does not fit is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import build_train_loader
from datasets.samplers import ClipRequest
from datasets.ytvos import eval_videos, train_videos
from tests.commands import run
from tests.helpers import edit
from tests.mini_own import (
    FILM,
    FOLDER,
    FORMS,
    ROWS,
    TRACKS,
    VIDEOS,
    Mine,
    convert,
    names,
    picture,
    rle,
    write_json_table,
    write_own,
    write_table,
)
from tests.mini_ytvos import mini_args
from tools.data.make_synthetic import generate
from tools.data.own.plan import numbered
from tools.data.own.table import read_table
from tools.data.own.write import divide
from util.video.pictures import read_frame, read_labels


@pytest.fixture(scope="module")
def all_forms(tmp_path_factory) -> Mine:
    return write_own(tmp_path_factory.mktemp("mine"), *FORMS)


@pytest.fixture
def mine(tmp_path) -> Mine:
    """Label maps that a test may change."""
    return write_own(tmp_path / "mine", "label_maps")


def listed(out: Path, split: str = "train") -> dict[str, dict]:
    return json.loads((out / "meta_expressions" / split / "meta_expressions.json").read_text())["videos"]


def refused(capsys, mine: Mine, form: str, *flags: object, **more: str) -> list[str]:
    """The mismatches that are named; nothing is written."""
    capsys.readouterr()
    before = sorted(mine.root.rglob("*"))
    with pytest.raises(ValueError, match=r"mismatches, named above; mend them. Nothing was written") as error:
        convert(mine, form, *flags, **more)
    named = capsys.readouterr().err.splitlines()
    assert sorted(mine.root.rglob("*")) == before
    assert f": {len(named)} mismatches" in str(error.value)
    return named


# --------------------------------------------------------------------------------------------------------- the layout


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_masks_becomes_the_same_set(all_forms, checked, form):
    if form == "youtube_vis":
        write_json_table(all_forms, TRACKS)
    out, counts, _ = convert(all_forms, form, table="json" if form == "youtube_vis" else "csv")
    assert counts == {"train": dict(videos=2, objects=4, expressions=4, frames=9, masks=9)}
    first, second = (TRACKS["clip", number] - 300 if form == "youtube_vis" else number for number in (1, 2))
    entries = listed(out)
    assert entries["clip"]["expressions"] == {
        "0": {"exp": "a box that is blue", "obj_id": str(second)},
        "1": {"exp": "the red one", "obj_id": str(first)},
    }
    assert entries["at_home"]["expressions"]["1"]["exp"] == "the Blue box, to the right"
    numbers = {"at_home": {11: 1, 12: 2}} if form == "youtube_vis" else {}
    for video in VIDEOS:
        assert entries[video.name]["frames"] == names(video)
        for t, name in enumerate(names(video)):
            labels = read_labels(out / "train" / "Annotations" / video.name / f"{name}.png")
            for written, meant in numbers.get(video.name, {}).items():
                labels[labels == written] = meant
            assert np.array_equal(labels, video.labels(t)), (video.name, t)
            frame = read_frame(out / "train" / "JPEGImages" / video.name / f"{name}.jpg").permute(1, 2, 0).numpy()
            assert np.abs(frame.astype(int) - picture(video, t)).mean() < 6
    code, faults, _, text = checked("own", out)
    assert code == 0 and not faults and "train: videos 2, expressions 4, frames 9, objects 4" in text
    shutil.rmtree(out)


def test_nothing_is_copied_that_can_be_a_link(mine, tmp_path):
    out, _, _ = convert(mine, "label_maps")
    frames, masks = out / "train" / "JPEGImages", out / "train" / "Annotations"
    assert (frames / "at_home").resolve() == mine.videos / "at_home"
    assert [(masks / video.name).resolve() for video in VIDEOS] == [
        mine.masks("label_maps") / video.name for video in VIDEOS
    ]
    assert sorted(path.name for path in (frames / "clip").iterdir()) == [f"0000{t}.jpg" for t in range(5)]
    assert not (frames / "clip").is_symlink()
    # a folder with other files gets a link for each frame, and so does one of which only some are taken
    (mine.videos / "at_home" / "notes.txt").write_text("x")
    out, counts, notes = convert(mine, "label_maps", "--every", 2)
    assert [path.name for path in sorted((frames / "at_home").iterdir())] == ["00000.jpg", "00010.jpg"]
    assert all(path.is_symlink() for path in (frames / "at_home").iterdir())
    assert listed(out)["clip"]["frames"] == ["00000", "00002", "00004"]
    assert counts["train"]["frames"] == counts["train"]["masks"] == 5
    assert "4 masks belong to frames that --every leaves out" in notes
    frame = read_frame(frames / "clip" / "00004.jpg").permute(1, 2, 0).numpy()
    assert np.abs(frame.astype(int) - picture(FILM, 4)).mean() < 6
    # within the set links are relative, so that it can be moved as a whole
    inside = Mine(tmp_path / "moved" / "own")
    shutil.copytree(mine.root, inside.root, ignore=shutil.ignore_patterns("own"))
    words = ("--output_dir", inside.root)
    convert(inside, "label_maps", *words)
    inside.root.rename(tmp_path / "elsewhere")
    assert read_frame(tmp_path / "elsewhere" / "train" / "JPEGImages" / "at_home" / "00005.jpg").shape == (3, 48, 80)


def test_a_former_result_stays_until_the_next_is_complete(mine, capsys, monkeypatch):
    out, _, _ = convert(mine, "label_maps")
    before = listed(out)
    (out / ".meta_expressions.unfinished" / "train").mkdir(parents=True)  # left by a process that was killed
    with monkeypatch.context() as patch:
        patch.setattr("tools.data.own.write.write_frames", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError, match=r"cannot be written \(No space left on device\); free some space"):
            convert(mine, "label_maps", "--every", 2)
    assert listed(out) == before and sorted(p.name for p in out.iterdir()) == ["meta_expressions", "train"]
    write_table(mine, [*ROWS, ("at_home", 9, "a ninth one")])
    with pytest.raises(ValueError, match="1 mismatches"):
        convert(mine, "label_maps")
    assert listed(out) == before
    write_table(mine, ROWS[:1])
    convert(mine, "label_maps")
    assert list(listed(out)) == ["at_home"]
    (out / "meta_expressions" / "converted_from.json").unlink()
    with pytest.raises(ValueError, match=r"already holds train, meta_expressions, not written by this program"):
        convert(mine, "label_maps")


def test_masks_may_be_of_some_frames_and_of_one_object(mine):
    """A mask of 0 and 255 shows object 255."""
    folder = mine.masks("label_maps")
    for path in folder.rglob("*.png"):
        Image.fromarray((read_labels(path) == 1).astype(np.uint8) * 255).save(path)
    (folder / "clip" / "00003.png").unlink()
    (folder / "clip" / "00004.png").rename(folder / "clip" / "frame_000004.PNG")
    write_table(mine, [("clip", 255, "the red one")])
    out, counts, notes = convert(mine, "label_maps")
    assert counts["train"]["masks"] == 4
    assert notes == ["1 frames have no mask and are not supervised", *notes[1:]] and "at_home" in notes[-1]
    (video,) = train_videos(out, 0, True)
    assert video.annotated(range(5)).tolist() == [True, True, True, False, True]
    masks = video.masks([0, 4], [(255,)], video.size())
    assert all(np.array_equal(masks[i, 0].numpy(), FILM.labels(t) == 1) for i, t in enumerate((0, 4)))


def test_where_objects_overlap_the_smaller_keeps_the_pixels(all_forms, tmp_path):
    big, small, blank = (np.zeros((48, 80), bool) for _ in range(3))
    big[10:30, 10:50] = small[20:26, 40:60] = True
    images = [{"id": "a", "file_name": "at_home/00000.png"}, {"id": "b", "file_name": "at_home\\00005.png"}]
    annotations = [
        {"image_id": "a", "instance_id": "dog", "segmentation": rle(small)},
        {"image_id": "a", "instance_id": 0, "segmentation": rle(big)},
        {"image_id": "a", "instance_id": "0", "segmentation": [[0, 0, 4, 0, 4, 4, 0, 4], [1, 2, 3]]},
        {"image_id": "b", "instance_id": "dog", "segmentation": rle(blank)},
    ]
    mine = Mine(tmp_path)
    shutil.copytree(all_forms.videos, mine.videos)
    mine.masks("coco").write_text(json.dumps({"images": images, "annotations": annotations}))
    write_table(mine, [("at_home", "dog", "the dog"), ("at_home", 0, "the other")])
    out, _, notes = convert(mine, "coco")
    expected = np.where(small, 2, big).astype(np.uint8)
    expected[:4, :4] = 1  # pieces of one object are joined
    folder = out / "train" / "Annotations" / "at_home"
    assert np.array_equal(read_labels(folder / "00000.png"), expected)
    assert not read_labels(folder / "00005.png").any() and len(list(folder.iterdir())) == 2
    assert [e["obj_id"] for e in listed(out)["at_home"]["expressions"].values()] == ["2", "1"]
    record = json.loads((out / "meta_expressions" / "converted_from.json").read_text())
    assert record["objects"] == {"at_home": {"1": "0", "2": "dog"}}
    assert notes == [
        "1 polygons have fewer than three corners and are left out",
        "1 masks hold objects that overlap; the object with fewer pixels in the frame keeps the overlap",
        "2 frames have no mask and are not supervised",
        "1 videos are in no row of the table and left out (clip.mp4)",
    ]


def test_an_expression_without_object_means_nothing_in_its_video(mine):
    write_table(mine, [*ROWS[:2], ("at_home", "", "the zebra"), ("clip", "", "a giraffe")])
    shutil.rmtree(mine.masks("label_maps") / "clip")  # no masks are needed where nothing is meant
    out, counts, notes = convert(mine, "label_maps")
    assert counts["train"] == dict(videos=2, objects=2, expressions=4, frames=9, masks=9)
    assert "2 expressions name no object: they mean nothing in their video" in notes
    assert listed(out)["at_home"]["expressions"]["2"] == {"exp": "the zebra", "obj_id": None}
    clips = build_train_loader(mini_args(out, "--binary", "--expressions_per_clip", "3")).dataset
    for i in range(len(clips)):
        clip = clips[ClipRequest(i)]
        for text, target in zip(clip.expressions, clip.targets, strict=True):
            assert not (target.present.any() and text in ("the zebra", "a giraffe"))
            assert target.annotated.all()


def test_own_data_is_divided_by_videos():
    videos = [f"video {i}" for i in range(40)]
    first = divide(videos, 0.2, 0)
    assert list(first.values()).count("valid") == 8 and first == divide(videos[::-1], 0.2, 0) != divide(videos, 0.2, 1)
    # a new video does not draw the others anew
    more = divide([*videos, "one more"], 0.2, 0)
    assert sum(more[name] != split for name, split in first.items()) <= 1
    assert set(divide(videos, 0, 0).values()) == {"train"}
    assert sorted(divide(["a", "b"], 0.01, 0).values()) == sorted(divide(["a", "b"], 0.99, 0).values())
    with pytest.raises(ValueError, match="--valid 0.2: the table names one video, which cannot be divided"):
        divide(["a"], 0.2, 0)


def test_objects_keep_their_numbers_where_a_label_map_can_have_them():
    assert numbered({"10", "9", "255"}) == {"9": 9, "10": 10, "255": 255}
    assert numbered({"0", "7"}) == {"0": 1, "7": 2}
    assert numbered({"300", "cat", "7"}) == {"7": 1, "300": 2, "cat": 3}
    assert numbered(set()) == {}


# ---------------------------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    "text",
    [
        "video,object,expression\nat_home,1,the box\n\nclip,,a zebra\n",
        "\ufeffVideo;Note;Object;Expression\r\nat_home;x;1;the box\r\n;;;\r\nclip;;;a zebra\r\n",
        'expression\tvideo\tobject\n"the box"\tat_home\t 1\na zebra\tclip\t\n',
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


# --------------------------------------------------------------------------------------------------------- end to end


def test_the_five_steps_of_the_docs(tmp_path):
    """Convert, check, fine-tune from exported weights without an option of the model, score."""
    data, own, out = tmp_path / "mine", tmp_path / "own", tmp_path / "run"
    generate(data, format="own", train_videos=2, valid_videos=1, frames=6, size=(48, 80), workers=1)
    words = ("--masks", data / "coco.json", "--table", data / "expressions.csv", "--output_dir", own)
    run("tools/data/convert_own.py", data / "videos", *words)
    assert "in order" in run("tools/data/check.py", "own", own, "--workers", 1).stdout
    sizes = ("--train_sizes", 48, "--eval_size", 48, "--max_size", 80, "--num_frames", 2, "--num_workers", 0)
    weights = ("--pretrained_weights", "pretrained_weights/demo.safetensors")
    done = run("main.py", "--ytvos_path", own, "--binary", *weights, *sizes, "--epochs", 1, "--output_dir", out)
    assert (
        "starting from --pretrained_weights pretrained_weights/demo.safetensors: backbone, text_encoder, "
        in done.stdout
    )
    assert "random weights" not in done.stdout
    scored = run("main.py", "--eval", "--eval_split", "valid", "--resume", out / "checkpoint.pth").stdout
    (video,) = eval_videos(own, "valid", 0)
    assert "valid: J&F 0." in scored and video.original_size == (48, 80)


def test_the_generated_example_is_one_set_in_all_forms(tmp_path):
    mine = Mine(tmp_path / "mine")
    generate(mine.root, format="own", train_videos=2, valid_videos=1, frames=6, size=(48, 80), workers=1)
    shown = []
    for form, table in (("label_maps", "csv"), ("objects", "csv"), ("coco", "csv"), ("youtube_vis", "json")):
        shutil.copy(mine.root / f"expressions.{table}", mine.table(table))
        out, counts, _ = convert(mine, form, table=table)
        masks = sorted((out / "train" / "Annotations").glob("*/*.png"))
        assert counts["train"]["videos"] == 3 and len(masks) == 18
        shown.append([read_labels(path) > 0 for path in masks])
        texts = [e["exp"] for video in listed(out).values() for e in video["expressions"].values()]
        assert len(texts) == counts["train"]["expressions"] > 6
    assert all(np.array_equal(shown[0], of_form) for of_form in shown[1:])


def test_masks_of_videos_that_the_table_does_not_name_are_not_read(mine):
    (mine.masks("label_maps") / "clip" / "00000.png").write_bytes(b"damaged")
    write_table(mine, ROWS[:2])
    _, counts, notes = convert(mine, "label_maps")
    assert counts["train"]["videos"] == 1
    assert "1 videos are in no row of the table and left out (clip.mp4)" in notes
