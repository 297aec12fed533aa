"""Masks as they are found: polygons with pieces of two corners, masks of another size than their video."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import tests.mini_refcoco as mini_refcoco
from datasets import a2d, eval_set, refcoco
from tasks.scoring import score_clips
from tests.helpers import edit
from tests.mini_a2d import mask, write_mini_a2d
from tests.mini_a2d import mini_args as a2d_args
from tests.mini_refcoco import IMAGES, annotation_id, write_mini_refcoco, write_originals
from tests.test_published import Scripted
from tools.data import convert_refcoco
from tools.data import make_sentences_annotations as tool
from util.files.reading import FileWarnings, read_json
from util.masks.coco import nearest
from util.masks.rle import FARTHEST, count_unusable, decode, parse

# ----------------------------------------------------------------------------------------------- pieces of polygons

SQUARE, TWO_CORNERS, ODD = [2, 2, 12, 2, 12, 12, 2, 12], [3, 3, 9, 9], [1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize("pieces", [[SQUARE, TWO_CORNERS], [ODD, [], SQUARE], [[1, 2], SQUARE, [5, 5, 5, 5, 5, 5]]])
def test_pieces_that_are_no_area_are_left_out(pieces):
    assert (decode(parse(pieces, (20, 30))) == decode(parse([SQUARE], (20, 30)))).all()
    assert count_unusable(pieces) == sum(len(piece) < 6 or len(piece) == 7 for piece in pieces)


@pytest.mark.parametrize(
    ("pieces", "message"),
    [
        ([], "there is no polygon"),
        ([TWO_CORNERS, ODD], "none of its polygons has three corners"),
        ([SQUARE, [1, 2, 3, 4, 5, float("nan")]], "a polygon is a list of numbers"),
        ([SQUARE, ["1", 2, 3, 4, 5, 6]], "a polygon is a list of numbers"),
        ([SQUARE, 3], "a polygon is a list of numbers"),
        # pycocotools ends the process
        ([[0, 0, 2e9, 0, 0, 2e9]], "a polygon is a list of numbers"),
        ([[0, 0, 10**400, 0, 0, 9]], "a polygon is a list of numbers"),
    ],
)
def test_polygons_of_which_nothing_is_left_and_damaged_ones_are_errors(pieces, message):
    with pytest.raises(ValueError, match=message):
        parse(pieces, (20, 30))
    assert parse([[0, 0, FARTHEST, 0, 0, FARTHEST]], (20, 30))


def originals_with(root: Path, segmentations: dict[int, object]) -> None:
    content = mini_refcoco.instances()
    for annotation in content["annotations"]:
        annotation["segmentation"] = segmentations.get(annotation["id"], annotation["segmentation"])
    write_originals(root, "refcoco", content=content)


def test_the_converter_leaves_out_pieces_and_objects_and_counts_them(tmp_path, monkeypatch, capsys, checked):
    root = write_mini_refcoco(tmp_path / "coco", converted=False)
    good, gone = annotation_id(IMAGES[0], 1), annotation_id(IMAGES[2], 1)
    originals_with(root, {good: [TWO_CORNERS, SQUARE, ODD], gone: [TWO_CORNERS]})
    monkeypatch.setattr("sys.argv", ["convert_refcoco.py", str(root), "--sets", "refcoco"])
    convert_refcoco.main()
    printed = capsys.readouterr().out
    assert f"whose annotation {gone} has no polygon of three corners" in printed
    assert f"2 pieces of annotation {good}, which are no polygons of three corners" in printed
    written = read_json(refcoco.annotations_path(root, "refcoco", "train"))["annotations"]
    assert {json.dumps(a["segmentation"]) for a in written if a["original_id"] == good} == {json.dumps([SQUARE])}
    assert gone not in {a["original_id"] for a in written}
    assert checked("refcoco", root)[0] == 0
    outside = [[200, 200, 300, 200, 300, 300]]
    for damaged in (
        [["x", 2, 3, 4, 5, 6]],
        [[1, 2, 3, 4, 5, float("nan")]],
        {"size": [1, 3], "counts": [1, 2]},
        outside,
    ):
        originals_with(root, {good: damaged})
        *_, left_out = convert_refcoco.convert(root, "refcoco")
        problem = "has no pixel within its image" if damaged is outside else "is damaged"
        assert any(f"whose annotation {good} {problem}" in line for line in left_out)


def test_the_loader_and_the_checker_count_pieces_of_files_made_elsewhere(tmp_path, capsys, checked):
    root = write_mini_refcoco(tmp_path / "coco")
    path = refcoco.annotations_path(root, "refcoco", "train")
    edit(path, lambda c: [a.update(segmentation=[SQUARE, ODD]) for a in c["annotations"] if a["original_id"] == 91])
    video = refcoco.train_videos(root, "refcoco", True)[0]
    assert "train.json: 1 piece of polygons is no area of at least three corners" in capsys.readouterr().out
    assert (video.masks([0], [(91,)], (48, 64))[0, 0].numpy() == decode(parse([SQUARE], (48, 64)))).all()
    code, _, _, text = checked("refcoco", root)
    assert code == 0 and "1 piece of polygons is no area" in text
    edit(path, lambda c: [a.update(segmentation=[ODD]) for a in c["annotations"] if a["original_id"] == 91])
    faults = checked("refcoco", root)[1]
    assert [(kind, what) for kind, _, what in faults] == [
        ("damaged", "the mask of COCO's annotation 91: none of its polygons has three corners")
    ]


# ------------------------------------------------------------------------------------------ masks of another size


def scale_masks(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Writes the masks of an A2D frame in another size; returns them, bool ``[n, H, W]``."""
    with h5py.File(path) as file:
        content = {name: file[name][()] for name in file}
    masks = nearest(np.atleast_3d(content["reMask"].T).transpose(2, 0, 1), size)
    content["reMask"] = masks.transpose(0, 2, 1).squeeze()
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value
    return masks > 0


@pytest.fixture
def a2d_root(tmp_path) -> Path:
    root = write_mini_a2d(tmp_path / "a2d")
    tool.make_a2d(root, overwrite=False)
    return root


def test_masks_of_another_size_than_their_video_are_resized(a2d_root, capsys, monkeypatch, checked):
    monkeypatch.setattr(a2d, "_RESIZED", FileWarnings("they are resized"))
    path = a2d.mask_path(a2d_root, "bb_tall", 5)
    video = next(v for v in a2d.train_videos(a2d_root, 3) if v.mask_path == path)
    objects, size = [e.objects for e in video.expressions], (80, 48)
    whole = video.masks([0, 1, 2], objects, size)
    masks = scale_masks(path, (160, 96))
    for _ in range(2):
        assert torch.equal(video.masks([0, 1, 2], objects, size), whole)
    assert capsys.readouterr().err == (
        f"warning: {path}: its masks are 96x160 pixels, but the video is 48x80; they are resized\n"
    )
    assert masks.shape == (1, 160, 96)
    code, faults, _, text = checked("a2d", a2d_root)
    assert (code, faults) == (0, []) and "1 mask is of another size than its video and is resized" in text


def test_truth_is_made_in_the_size_of_the_video(a2d_root, capsys):
    before = a2d.truth(a2d_root)
    scale_masks(a2d.mask_path(a2d_root, "cc_test", 4), (96, 160))
    tool.make_a2d(a2d_root, overwrite=True)
    assert "00004.h5: its masks are 160x96 pixels, but the video is 80x48" in capsys.readouterr().err
    assert a2d.truth(a2d_root) == before


def test_answers_are_scored_in_the_size_of_their_truth(a2d_root, tmp_path, capsys):
    """As ReferFormer gives them; published truth has the size of the masks that it was made of."""
    args = a2d_args(a2d_root)
    clips = eval_set(args, "test").clips()
    truth = eval_set(args, "test").truth(clips)
    masks = [decode(parse(truth[name].mask, tuple(truth[name].mask["size"]))) for c in clips for name in c.expressions]
    path = a2d.truth_path(a2d_root)

    def double(content: dict) -> None:
        for image, annotation in zip(content["images"], content["annotations"], strict=True):
            mask = decode(parse(annotation["segmentation"], (image["height"], image["width"])))
            larger = nearest(mask, (2 * image["height"], 2 * image["width"]))
            image["height"], image["width"] = larger.shape
            annotation["segmentation"] = {"size": list(larger.shape), "counts": mini_refcoco.run_lengths(larger)}

    edit(path, double)
    scores = score_clips(Scripted(masks), clips, eval_set(args, "test").truth(clips), tmp_path / "out", {}, fit=True)
    assert scores["mean_iou"] == 1
    assert "5 samples have truth of another size than their frame" in capsys.readouterr().out


def test_warnings_about_files_are_few(capsys):
    warnings = FileWarnings("so it is")
    for number in range(1200):
        for _ in range(2):
            warnings.add(Path(f"{number}.h5"), "odd")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "warning: 0.h5: odd; so it is" and len(lines) == 6
    assert lines[3:] == [
        f"warning: {count:,} such files so far, the last {count - 1}.h5; so it is" for count in (10, 100, 1000)
    ]


# ------------------------------------------------------------------------------------------------- masks of A2D


def test_masks_beyond_the_list_of_instances_are_nobodys(tmp_path):
    masks = np.stack([mask(i, 4, (48, 80)).T for i in (0, 1, 0)]).astype(np.uint8)
    with h5py.File(tmp_path / "00004.h5", "w") as file:
        file["instance"], file["reMask"] = np.array([1.0, 0.0]), masks
    assert (a2d.read_masks(tmp_path / "00004.h5", [0, 1]) == masks[[1, 0]].transpose(0, 2, 1)).all()


def test_a_video_without_a_folder_of_masks_has_no_samples_and_is_named(tmp_path, capsys):
    root = write_mini_a2d(tmp_path / "a2d")
    shutil.rmtree(a2d.mask_path(root, "cc_test", 4).parent)
    tool.make_a2d(root, overwrite=False)
    assert "1 video with sentences has no folder of masks and is left out, the first cc_test" in capsys.readouterr().out
    assert {row[1] for row in read_json(a2d.list_path(root, "test"))} == {"T6bNPuKV-wY"}


def test_a_mask_file_without_pixels_is_named(tmp_path):
    with h5py.File(tmp_path / "00004.h5", "w") as file:
        file["instance"], file["reMask"] = np.array([1.0]), np.zeros((1, 0, 0), np.uint8)
    with pytest.raises(ValueError, match=r"00004.h5: has 1 instances, but masks of shape \[1, 0, 0\]"):
        a2d.read_masks(tmp_path / "00004.h5", [1])
