"""Data sets as people have them: frames of other suffixes and depths, masks of some frames, lists with byte order
marks. Read by the loaders, found by the checker.
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets import a2d, build_train_loader, eval_set, jhmdb, mevis, refcoco
from datasets.samplers import ClipRequest
from datasets.sampling import moved_onto
from datasets.ytvos import train_videos
from tests.helpers import edit
from tests.mini_a2d import write_mini_a2d
from tests.mini_davis import write_mini_davis
from tests.mini_jhmdb import write_mini_jhmdb
from tests.mini_mevis import write_mini_mevis
from tests.mini_refcoco import write_mini_refcoco
from tests.mini_ytvos import VIDEOS, mini_args, write_mini_ytvos
from tools.data import convert_refcoco
from tools.data import make_sentences_annotations as tool
from tools.data.convert_davis_to_ytvos import convert
from util.files.reading import read_json, read_text
from util.run.gaps import Gaps
from util.video import pictures

PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")
FRAMES, MASKS = "train/JPEGImages/aa_wide", "train/Annotations/aa_wide"


@pytest.fixture
def ytvos(tmp_path) -> Path:
    return write_mini_ytvos(tmp_path / "ytvos")


def rename(folder: Path, suffixes: tuple[str, ...]) -> None:
    """Writes the pictures of a folder anew under these suffixes in turn, without loss where they can be."""
    for number, path in enumerate(sorted(folder.iterdir())):
        suffix = suffixes[number % len(suffixes)]
        with Image.open(path) as image:
            image.load()
        if suffix.lower() in (".png", ".webp"):
            image.save(path.with_suffix(suffix), lossless=True)
            path.unlink()
        else:
            path.rename(path.with_suffix(suffix))


# ----------------------------------------------------------------------------------------- frames of other suffixes


def test_frames_may_have_any_suffix_of_pictures(ytvos, checked):
    args = mini_args(ytvos, *PLAIN)
    before = [video.read(slice(None)) for video in eval_set(args, "valid").videos()]
    clip = build_train_loader(args).dataset.make(ClipRequest(0, 0, 0))
    for split in ("train", "valid"):
        for folder in (ytvos / split / "JPEGImages").iterdir():
            rename(folder, (".png", ".JPG", ".jpeg", ".webp", ".jpg", ".JPEG"))
    rename(ytvos / MASKS, (".PNG",))
    for video, frames in zip(eval_set(args, "valid").videos(), before, strict=True):
        assert torch.equal(video.read(slice(None)), frames)
    again = build_train_loader(args).dataset.make(ClipRequest(0, 0, 0))
    assert torch.equal(again.frames, clip.frames) and torch.equal(again.targets[0].masks, clip.targets[0].masks)
    assert checked("ytvos", ytvos)[:3] == (0, [], [])


def test_two_files_for_a_frame_are_a_fault(ytvos, checked):
    shutil.copy(ytvos / FRAMES / "00005.jpg", ytvos / FRAMES / "00005.png")
    with pytest.raises(ValueError, match=r"aa_wide: holds 00005\.jpg and 00005\.png; leave one file for each frame"):
        build_train_loader(mini_args(ytvos))
    shutil.copy(ytvos / MASKS / "00010.png", ytvos / MASKS / "00010.PNG")
    assert checked("ytvos", ytvos)[1] == [
        ("twice", f"{FRAMES}/00005.jpg", "beside it lies 00005.png"),
        ("twice", f"{MASKS}/00010.PNG", "beside it lies 00010.png"),
    ]


def test_two_files_for_a_frame_cost_its_video_and_of_all_videos_are_refused(ytvos):
    args, gaps = mini_args(ytvos), Gaps(silent=True)
    first, *others = sorted((ytvos / "valid/JPEGImages").iterdir())
    shutil.copy(first / "00005.jpg", first / "00005.png")
    left = [video.video_id for video in eval_set(args, "valid").videos(gaps)]
    assert left == [folder.name for folder in others] and [item for item, _ in gaps.items] == [f"video {first.name}"]
    for folder in others:
        shutil.copy(folder / "00005.jpg", folder / "00005.png")
    with pytest.raises(ValueError, match=rf"{first.name}: holds 00005\.jpg and 00005\.png"):
        eval_set(args, "valid").videos(Gaps(silent=True))


def test_frames_of_mevis_and_davis_too(tmp_path, checked):
    root = write_mini_mevis(tmp_path / "mevis")
    before = [video.frames([0, 2]) for video in mevis.train_videos(root, 0)]
    for folder in root.glob("*/JPEGImages/*"):
        rename(folder, (".png",))
    after = mevis.train_videos(root, 0)
    assert all(torch.equal(video.frames([0, 2]), frames) for video, frames in zip(after, before, strict=True))
    assert checked("mevis", root)[0] == 0
    root = write_mini_davis(tmp_path / "davis")
    for folder in (root / "DAVIS/JPEGImages/480p").iterdir():
        rename(folder, (".png", ".JPEG"))
    convert(root, workers=1)
    assert checked("davis", root)[0] == 0


@pytest.fixture
def jhmdb_root(tmp_path) -> Path:
    root = write_mini_jhmdb(tmp_path / "jhmdb")
    tool.make_jhmdb(root, overwrite=False)
    return root


def test_frames_of_jhmdb_may_be_called_jpg(jhmdb_root, checked):
    for folder in (jhmdb_root / "Rename_Images").glob("*/*"):
        rename(folder, (".jpg",))  # the content stays PNG, as what a file is called does not matter
    assert {clip.frame_paths[0].suffix for clip in jhmdb.eval_clips(jhmdb_root, 3)} == {".jpg"}
    assert jhmdb.eval_clips(jhmdb_root, 3)[0].read().shape == (3, 3, 40, 64)
    assert checked("jhmdb", jhmdb_root)[0] == 0
    tool.make_jhmdb(jhmdb_root, overwrite=True)


@pytest.mark.parametrize("channels", [3, 4])
def test_colours_of_sixteen_bits_are_seen_as_those_of_eight(jhmdb_root, channels):
    clips = jhmdb.eval_clips(jhmdb_root, 3)
    before = [clip.read() for clip in clips]
    rng = np.random.default_rng(0)
    paths = list((jhmdb_root / "Rename_Images").glob("*/*/*.png"))
    assert paths
    for path in paths:
        deep = np.asarray(Image.open(path)).astype(np.uint16)[..., ::-1] << 8
        deep = np.dstack([deep, deep[..., :1]])[..., :channels]
        assert cv2.imwrite(str(path), deep | rng.integers(0, 256, deep.shape).astype(np.uint16))
    assert all(torch.equal(clip.read(), frames) for clip, frames in zip(clips, before, strict=True))


# ------------------------------------------------------------------------------------------------- EXIF orientation


def turn(folder: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x112] = orientation
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.load()
        image.save(path, quality=95, exif=exif)


def test_frames_on_their_side_say_why_masks_do_not_fit(ytvos, checked):
    turn(ytvos / FRAMES, 6)
    with pytest.raises(ValueError, match=r"png: is 80x48 pixels, but its frame is 48x80; 000..\.jpg has EXIF orien"):
        list(build_train_loader(mini_args(ytvos)))
    _, faults, _, text = checked("ytvos", ytvos)
    assert {kind for kind, _, _ in faults} == {"size"} and len(faults) == 7
    assert "is 80x48, its frame 48x80: 00000.jpg has EXIF orientation 6 and is read upright" in text
    for path in (ytvos / MASKS).iterdir():
        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_270).save(path)
    list(build_train_loader(mini_args(ytvos)))


def test_frames_upside_down_are_told(ytvos, checked):
    turn(ytvos / FRAMES, 3)
    turn(ytvos / "train/JPEGImages/bb_absent", 2)
    code, _, _, text = checked("ytvos", ytvos)
    note = "note: train: 13 pictures have an EXIF orientation other than 1 and are read upright"
    assert code == 0 and text.count("EXIF") == 1 and note in text and f"; for example {FRAMES}/00000.jpg (3)" in text


def test_images_of_coco_on_their_side(tmp_path, checked):
    root = write_mini_refcoco(tmp_path)
    turn(root / "train2014", 8)
    with pytest.raises(ValueError, match=r"has 64x48 for it \(COCO_.*\.jpg has EXIF orientation 8 and is read upright"):
        refcoco.train_videos(root, "refcoco", True)[0].frames([0])
    assert "EXIF orientation 8" in checked("refcoco", root)[3]


# -------------------------------------------------------------------------------------------- masks of some frames


def keep_masks(root: Path, video: str, *frames: str) -> None:
    for path in (root / "train/Annotations" / video).iterdir():
        if path.stem not in frames:
            path.unlink()


def list_objects(root: Path, video: str, *frames: str) -> None:
    """Has meta.json list these frames for every object of a video."""
    edit(
        root / "train/meta.json",
        lambda c: [entry.update(frames=list(frames)) for entry in c["videos"][video]["objects"].values()],
    )


def test_frames_without_a_mask_are_not_supervised(ytvos):
    keep_masks(ytvos, "aa_wide", "00005", "00025")
    dataset = build_train_loader(mini_args(ytvos, *PLAIN)).dataset
    seen = set()
    for epoch in range(6):
        for index, (number, _, _) in enumerate(dataset.entries):
            if dataset.videos[number].video_id != "aa_wide":
                continue
            clip = dataset.make(ClipRequest(index, epoch, 0))
            assert torch.equal(clip.frames, dataset.make(ClipRequest(index, epoch, 0)).frames)
            annotated = [frame in ("00005", "00025") for frame in clip.frame_ids]
            assert any(annotated), clip.frame_ids
            for target in clip.targets:
                assert target.annotated.tolist() == target.present[:, 0].tolist() == annotated
                assert target.masks.flatten(1).any(1).tolist() == annotated
            seen.update(clip.frame_ids)
    assert seen == set(VIDEOS[0].frames)


@pytest.mark.parametrize(
    ("positions", "wanted", "moved"),
    [
        ([3, 4, 5], [4], [3, 4, 5]),
        ([3, 4, 5], [1, 9], [1, 2, 3]),
        ([3, 4, 5], [8], [6, 7, 8]),
        ([3, 4, 5], [1, 7], [1, 2, 3]),  # as near either way
        ([0, 4, 8], [6], [0, 2, 6]),  # further apart, as ReferFormer draws them
        ([0, 4, 8], [9], [1, 5, 9]),
        ([5], [0], [0]),
        ([5, 6], [], [5, 6]),
    ],
)
def test_clips_are_moved_onto_a_frame_with_a_mask(positions, wanted, moved):
    assert moved_onto(positions, wanted, 10) == moved


def test_a_video_without_any_mask(ytvos, checked):
    keep_masks(ytvos, "aa_wide")
    error = r"Annotations/aa_wide: holds no mask of any frame of the video.*docs/data\.md"
    with pytest.raises(FileNotFoundError, match=error):
        build_train_loader(mini_args(ytvos))
    faults = checked("ytvos", ytvos)[1]
    assert faults == [("missing", f"{MASKS}/{frame}.png", "") for frame in VIDEOS[0].frames]
    list_objects(ytvos, "aa_wide")  # nothing
    faults = checked("ytvos", ytvos)[1]
    assert faults == [("missing", f"{MASKS}/", "holds no mask of any of the video's 7 frames")]
    (ytvos / MASKS).rmdir()
    with pytest.raises(FileNotFoundError, match=error):
        build_train_loader(mini_args(ytvos))
    assert checked("ytvos", ytvos)[1] == [("missing", f"{MASKS}/", "the folder of 7 files")]


def test_masks_that_meta_json_does_not_list_need_not_be_there(ytvos, checked):
    kept = ("00000", "00015", "00030")
    keep_masks(ytvos, "aa_wide", *kept)
    list_objects(ytvos, "aa_wide", *kept)
    code, faults, _, text = checked("ytvos", ytvos)
    assert (code, faults) == (0, []) and "note: train: 4 frames have no mask and are not supervised" in text
    list_objects(ytvos, "aa_wide", *kept, "00005", "00010")
    assert checked("ytvos", ytvos)[1] == [("missing", f"{MASKS}/{name}.png", "") for name in ("00005", "00010")]
    (ytvos / "train/meta.json").unlink()  # then nothing says which masks there should be
    assert checked("ytvos", ytvos)[0] == 0


def test_masks_without_an_object_that_is_listed_are_told(ytvos, checked):
    list_objects(ytvos, "bb_absent", *VIDEOS[1].frames)
    code, _, _, text = checked("ytvos", ytvos)
    note = "note: train: 4 times a mask does not show an object for which meta.json lists its frame; for example obj"
    assert code == 0 and note in text
    edit(ytvos / "train/meta.json", lambda c: c["videos"]["bb_absent"]["objects"].update({"9": {"frames": ["00000"]}}))
    assert checked("ytvos", ytvos)[1] == [
        ("no_pixels", "train/Annotations/bb_absent/", "object 9 is in none of the masks")
    ]


def test_folders_are_listed_once(ytvos, monkeypatch):
    """Each folder is listed once; the published set has 3,471 videos."""
    listed, names = [], pictures.list_files
    monkeypatch.setattr(pictures, "list_files", lambda folder: listed.append(folder) or names(folder))
    videos = train_videos(ytvos, 0, binary=True)
    assert len(listed) == len(set(listed)) == 2 * len(videos)


@pytest.fixture
def a2d_root(tmp_path) -> Path:
    root = write_mini_a2d(tmp_path / "a2d")
    tool.make_a2d(root, overwrite=False)
    return root


# --------------------------------------------------------------------------------------------------- lists with marks

ENCODINGS = ("utf-8-sig", "utf-16", "utf-32")


@pytest.mark.parametrize("encoding", ["utf-8", *ENCODINGS])
def test_text_is_read_in_every_encoding_that_says_what_it_is(tmp_path, encoding):
    text = '{"a": "größer, 大"}'
    (tmp_path / "x").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "x") == text and read_json(tmp_path / "x") == json.loads(text)
    (tmp_path / "x").write_bytes("größer".encode("latin-1"))
    assert read_text(tmp_path / "x", "latin-1") == "größer"
    with pytest.raises(ValueError, match="utf-8"):
        read_json(tmp_path / "x")
    (tmp_path / "x").write_bytes(b"")
    with pytest.raises(ValueError, match="Expecting value"):
        read_json(tmp_path / "x")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lists_of_every_set_may_have_marks(tmp_path, checked, encoding):
    roots = {
        "ytvos": write_mini_ytvos(tmp_path / "ytvos"),
        "mevis": write_mini_mevis(tmp_path / "mevis"),
        "davis": write_mini_davis(tmp_path / "davis"),
        "jhmdb": write_mini_jhmdb(tmp_path / "jhmdb"),
        "a2d": write_mini_a2d(tmp_path / "a2d"),
        "refcoco": write_mini_refcoco(tmp_path / "coco", converted=False),
    }

    def recode_all() -> None:
        for root in roots.values():
            for path in (p for suffix in ("json", "txt", "csv") for p in root.rglob(f"*.{suffix}")):
                content = path.read_bytes()
                if not content.startswith((b"\xef\xbb\xbf", b"\xff\xfe")):
                    path.write_bytes(content.decode("latin-1" if "annot2" in path.name else "utf-8").encode(encoding))

    recode_all()
    convert(roots["davis"], workers=1)
    tool.make_jhmdb(roots["jhmdb"], overwrite=False)
    tool.make_a2d(roots["a2d"], overwrite=False)
    for name in refcoco.SETS:
        splits, shared, _ = convert_refcoco.convert(roots["refcoco"], name)
        convert_refcoco.write(roots["refcoco"], name, splits, shared)
    recode_all()  # what was made of them as well
    for name, root in roots.items():
        code, faults, _, _ = checked(name, root)
        assert (code, faults) == (0, []), name
    assert len(jhmdb.truth(roots["jhmdb"])) == 5


def test_lists_that_spreadsheets_save_as_unicode(a2d_root):
    """Excel's marks of UTF-16 in the csv files."""
    path = a2d_root / "text_annotations" / "a2d_annotation.txt"
    before = a2d.read_raw(a2d_root)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    with path.open("w", newline="", encoding="utf-16") as file:
        csv.writer(file).writerows(rows)
    assert a2d.read_raw(a2d_root) == before
