"""Names that stand in lists: none of them leads out of its folder, in any data set, converter and writer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datasets import a2d, davis, jhmdb, long_rvos, mevis, refcoco, ytvos
from tests.helpers import edit
from tests.mini_a2d import write_mini_a2d
from tests.mini_davis import write_mini_davis
from tests.mini_jhmdb import write_mini_jhmdb
from tests.mini_long_rvos import write_mini_long_rvos
from tests.mini_mevis import write_mini_mevis
from tests.mini_refcoco import write_mini_refcoco
from tests.mini_ytvos import write_mini_ytvos
from tools.data import convert_davis_to_ytvos, convert_refcoco
from util.files.names import LONGEST, inside, name_fault
from util.masks.results import claim_results, mask_name, write_mask_png
from util.run.gaps import Gaps

HOSTILE = ["", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "C:x", "c:", ".hidden", "a\0b", "a\nb", "\ud800", "x" * 300]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_a_hostile_name_is_refused_and_quoted(name, tmp_path):
    fault = name_fault(name)
    assert repr(name[:80]) in fault and "\n" not in fault
    fault.encode()  # can be printed
    with pytest.raises(ValueError, match="cannot be the name of a file or folder"):
        inside(tmp_path, "fine", name)
    with pytest.raises(ValueError, match="cannot be the name"):
        mask_name("video", name, "00000")


@pytest.mark.parametrize(
    "name", ["00000", "-ABc_1", "golf club", "a..b", "犬", "x" * LONGEST, "ü" * (LONGEST // 2), "#1 (x) & y!", "12:30"]
)
def test_other_names_are_taken_as_they_are(name, tmp_path):
    assert name_fault(name) is None
    assert inside(tmp_path, name, name) == tmp_path / name / name


def test_other_types_are_no_names():
    assert all(name_fault(value) for value in (None, 3, ["a"], b"a"))


def rename(entries: dict, new: str) -> None:
    """Gives the first entry another key."""
    entries[new] = entries.pop(next(iter(entries)))


def rename_frame(video: dict) -> None:
    video["frames"][1] = "../../x"


# an id of a video, of an expression, and the name of a frame
IDS = {
    "video": lambda content: rename(content["videos"], "../../x"),
    "expression": lambda content: rename(next(iter(content["videos"].values()))["expressions"], "../../../../x/e"),
    "frame": lambda content: rename_frame(next(iter(content["videos"].values()))),
}


def davis_root(root: Path) -> Path:
    convert_davis_to_ytvos.convert(write_mini_davis(root))
    return root


@pytest.mark.parametrize("change", IDS.values(), ids=IDS)
@pytest.mark.parametrize(
    ("write", "layout", "split"),
    [
        (write_mini_ytvos, ytvos.REF_YOUTUBE_VOS, "valid"),
        (davis_root, davis.REF_DAVIS, "valid"),
        (write_mini_mevis, mevis.MEVIS, "valid_u"),
        (write_mini_long_rvos, long_rvos.LONG_RVOS, "valid"),
    ],
    ids=["ytvos", "davis", "mevis", "long_rvos"],
)
def test_ids_of_videos_expressions_and_frames(write, layout, split, change, tmp_path):
    root = write(tmp_path)
    path = layout.meta_path(root, split)
    edit(path, change)
    with pytest.raises(ValueError, match=rf"{path.name}: .*'(\.\./)+x(/e)?' cannot be the name of .*{layout.name}"):
        ytvos.eval_videos(root, split, 0, layout)
    # only the item with this name is left out
    gaps = Gaps()
    videos = ytvos.eval_videos(root, split, 0, layout, gaps)
    assert len(gaps.items) == 1 and videos
    for video in videos:
        assert not any(".." in str(path) for path in video.frame_paths)
        assert not any(map(name_fault, (video.video_id, *video.frame_names, *video.expressions)))


def test_videos_of_a2d(tmp_path):
    root = write_mini_a2d(tmp_path)
    lists = [(root / "Release" / "videoset.csv", a2d.read_subsets), (a2d.sentences_path(root), a2d.read_raw)]
    for path, read in lists:
        sound = path.read_text()
        path.write_text(sound.replace("bb_tall", "../../x"))
        with pytest.raises(ValueError, match=rf"{path.name}: row \d+: the video '../../x' cannot be the name"):
            read(root)
        path.write_text(sound)
    a2d.list_path(root, "test").write_text(json.dumps([["a dog", "../../x", 1, 0]]))
    with pytest.raises(ValueError, match="row 1: the video '../../x' cannot be the name"):
        a2d.read_samples(root, "test")
    with pytest.raises(ValueError, match="cannot be the name"):
        a2d.mask_path(root, "../../x", 1)


@pytest.mark.parametrize("column", [1, 2], ids=["frame", "masks"])
def test_paths_of_jhmdb_stay_in_its_folder(column, tmp_path):
    root = write_mini_jhmdb(tmp_path)

    def climb(rows: list) -> None:
        folder = ("Rename_Images", "puppet_mask")[column - 1]
        rows[0][column] = rows[0][column].replace(folder, f"{folder}/../../..")

    edit(jhmdb.list_path(root), climb)
    with pytest.raises(ValueError, match="row 1 must name a frame in Rename_Images/ and a file in puppet_mask/"):
        jhmdb.read_samples(root)


def test_images_of_refcoco(tmp_path):
    root = write_mini_refcoco(tmp_path)
    path = refcoco.annotations_path(root, "refcoco", "train")
    edit(path, lambda content: content["images"][0].update(file_name="../../x.jpg"))
    with pytest.raises(ValueError, match=rf"{path.name}: sentence 1: the image '../../x.jpg' cannot be the name"):
        refcoco.read_sentences(root, "refcoco", "train")
    originals = root / "refcoco" / "instances.json"
    edit(originals, lambda content: [image.update(file_name="/etc/x.jpg") for image in content["images"]])
    with pytest.raises(ValueError, match=r"instances.json: image \d+: '/etc/x.jpg' cannot be the name"):
        convert_refcoco.convert(root, "refcoco")


def test_the_converter_of_davis_makes_nothing_of_a_hostile_list(tmp_path):
    root = write_mini_davis(tmp_path / "in" / "deep")
    path = root / "DAVIS" / "ImageSets" / "2017" / "val.txt"
    path.write_text(f"{path.read_text()}../../x\n")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="val.txt: the video '../../x' cannot be the name"):
        convert_davis_to_ytvos.convert(root)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_list_that_has_changed_deletes_only_masks_of_this_folder(tmp_path):
    """The record of a results folder is a file, too; its videos are folders of the results, or nothing is deleted."""
    results, other = tmp_path / "results", tmp_path / "x"
    claim_results(results, {"run": 1}, False, asked={"v": "1"})
    write_mask_png(results / mask_name("v", "0", "00000"), np.ones((2, 2), bool))
    other.mkdir()
    (results / "inference.json").write_text(json.dumps({"run": 1, "asked": {"../../x": "1", "v": "1"}}))
    with pytest.raises(ValueError, match="cannot be the name"):
        claim_results(results, {"run": 1}, False, asked={"../../x": "2", "v": "1"})
    assert other.is_dir() and (results / mask_name("v", "0", "00000")).is_file()


def test_a_name_that_is_no_unicode_is_refused_in_training_too(tmp_path):
    """The hold-out is chosen by digests of the names, before these are looked at."""
    root = write_mini_ytvos(tmp_path)
    edit(ytvos.REF_YOUTUBE_VOS.meta_path(root, "train"), lambda content: rename(content["videos"], "\ud800"))
    with pytest.raises(ValueError, match=r"the video '\\ud800' cannot be the name"):
        ytvos.train_videos(root, 0, True)
