"""tools/data/check.py on A2D-Sentences, JHMDB-Sentences and RefCOCO: a clean set passes, a planted fault is found."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from tests.helpers import edit
from tests.mini_a2d import MISSED, write_mini_a2d
from tests.mini_jhmdb import write_mini_jhmdb
from tests.mini_refcoco import write_mini_refcoco
from tools.data import make_sentences_annotations


@pytest.fixture
def a2d(tmp_path) -> Path:
    root = write_mini_a2d(tmp_path / "a2d")
    (root / f"Release/clips320H/{MISSED}.mp4").touch()
    make_sentences_annotations.make_a2d(root, overwrite=False)
    return root


@pytest.fixture
def jhmdb(tmp_path) -> Path:
    root = write_mini_jhmdb(tmp_path / "jhmdb")
    make_sentences_annotations.make_jhmdb(root, overwrite=False)
    return root


@pytest.fixture
def refcoco(tmp_path) -> Path:
    return write_mini_refcoco(tmp_path / "coco")


def rewrite_h5(path: Path, **arrays: np.ndarray) -> None:
    with h5py.File(path, "r+") as file:
        for name, array in arrays.items():
            del file[name]
            file[name] = array


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def shorten(path: Path, frames: int) -> None:
    """Keeps the first frames of a video."""
    with av.open(str(path)) as video:
        kept = [frame.to_ndarray(format="rgb24") for frame in islice(video.decode(video=0), frames)]
    with av.open(str(path), "w") as video:
        stream = video.add_stream("libx264", rate=25)
        stream.height, stream.width = kept[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in kept:
            video.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        video.mux(stream.encode())


@pytest.mark.parametrize(
    ("dataset", "told"),
    [
        (
            "a2d",
            [
                "train: videos 2 of 3,017 published, sentences 4, frames 4, samples 6, a part of the published set",
                "test: videos 2 of 737 published, sentences 4, frames 3, samples 5, a part",
                "note: train: 1 instance that sentences name is in no annotated frame",
            ],
        ),
        (
            "jhmdb",
            [
                "test: videos 2 of 928 published, samples 6 of 2,784 published, a part",
                "note: test: 1 sample lies past the last mask of its video and is not scored",
            ],
        ),
        (
            "refcoco",
            [
                "refcoco train: images 3 of 16,994 published, objects 6 of 42,404 published, sentences 12 of 120,624",
                "refcocog test: images 2 of 2,600 published, objects 4 of 5,023 published, sentences 8",
            ],
        ),
    ],
)
def test_a_clean_set_passes(dataset, told, request, checked, forked_workers):
    root = request.getfixturevalue(dataset)
    code, faults, again, text = checked(dataset, root)
    assert (code, faults, again) == (0, [], [])
    assert f"{dataset} in {root}: in order" in text
    for line in told:
        assert line in text
    assert text.endswith(checked(dataset, root, "--workers", "2")[3])


MP4, H5 = "Release/clips320H/cc_test.mp4", "text_annotations/a2d_annotation_with_instances/cc_test"
RAW, SPLITS = "text_annotations/a2d_annotation.txt", "Release/videoset.csv"
TRUTH = "a2d_sentences_test_annotations_in_coco_format.json"
LIST = "a2d_sentences_single_frame_test_annotations.json"


def drop_last_truth(content: dict) -> None:
    content["images"].pop()
    content["annotations"].pop()


# what is done to a set, and the one fault that it makes: kind, path, part of what is said, what to download again
A2D_FAULTS = {
    "video missing": (lambda r: (r / MP4).unlink(), "missing", MP4, "", 1),
    "video cut short": (lambda r: cut(r / MP4), "damaged", MP4, "the video is damaged", 1),
    "videos missing": (lambda r: (r / MP4).parent.rename(r / "x"), "missing", "Release/clips320H", "neither this", 1),
    "annotated frame past the end": (
        lambda r: shorten(r / MP4, 9),
        "list",
        f"{H5}/00010.h5",
        "is of frame 10, but its video has 9",
        2,
    ),
    "masks missing": (lambda r: (r / H5 / "00004.h5").unlink(), "missing", f"{H5}/00004.h5", "", 1),
    "masks cut short": (lambda r: cut(r / H5 / "00004.h5"), "damaged", f"{H5}/00004.h5", "cannot be read as h5", 1),
    "masks of a video missing": (lambda r: shutil.rmtree(r / H5), "missing", f"{H5}/", "the folder of this video's", 1),
    "masks of another size": (
        lambda r: rewrite_h5(r / H5 / "00010.h5", reMask=np.ones((70, 48), np.uint8)),
        "size",
        f"{H5}/00010.h5",
        "its masks are 70x48, its video 80x48",
        2,
    ),
    "no pixels": (
        lambda r: rewrite_h5(r / H5 / "00010.h5", reMask=np.zeros((80, 48), np.uint8)),
        "no_pixels",
        f"{H5}/00010.h5",
        "instance 1 has no pixels",
        0,
    ),
    "instance missing": (
        lambda r: rewrite_h5(r / H5 / "00010.h5", instance=np.array([0.0])),
        "no_objects",
        f"{H5}/00010.h5",
        "has no instance 1, which the list of samples names",
        1,
    ),
    "unknown file": (lambda r: (r / H5 / "4.txt").touch(), "unknown", f"{H5}/4.txt", "", 0),
    "unknown folder": (lambda r: (r / H5).with_name("new").mkdir(), "unknown", f"{Path(H5).parent}/new/", "", 0),
    "sentences missing": (lambda r: (r / RAW).unlink(), "missing", RAW, "the file of sentences", 1),
    "blank sentence": (
        lambda r: (r / RAW).write_text((r / RAW).read_text() + "bb_tall,0, \n"),
        "list",
        RAW,
        "must hold a video, the number of an instance and a sentence",
        1,
    ),
    "splits damaged": (lambda r: (r / SPLITS).write_text("a,7\n"), "list", SPLITS, "row 1 must begin with a video", 1),
    "list damaged": (lambda r: cut(r / LIST), "list", LIST, "is not a JSON file", 1),
    "truth damaged": (lambda r: cut(r / TRUTH), "list", TRUTH, "is not ground truth", 1),
    "truth of other samples": (
        lambda r: edit(r / LIST, lambda rows: rows.pop()),
        "list",
        TRUTH,
        "has ground truth of v_T6bNPuKV-wY_f_2_i_1, which the list of samples has not",
        1,
    ),
    "truth of fewer samples": (
        lambda r: edit(r / TRUTH, drop_last_truth),
        "list",
        TRUTH,
        "has no ground truth of v_T6bNPuKV-wY_f_2_i_1, which the list of samples has",
        1,
    ),
    "sentences in latin-1": (
        lambda r: (r / RAW).write_bytes((r / RAW).read_bytes() + b"bb_tall,0,caf\xe9\n"),
        "list",
        RAW,
        "cannot be read as comma-separated UTF-8 text",
        1,
    ),
    "unknown clip": (lambda r: (r / MP4).with_name("new.mp4").touch(), "unknown", "Release/clips320H/new.mp4", "", 0),
}

FRAMES, MAT = "Rename_Images/climb/Climb_climb_f_cm_0", "puppet_mask/climb/Climb_climb_f_cm_0/puppet_mask.mat"
SAMPLES = "jhmdb_sentences_samples_metadata.json"
JHMDB_TRUTH = "jhmdb_sentences_gt_annotations_in_coco_format.json"


def save_mat(path: Path, masks: np.ndarray) -> None:
    savemat(path, {"part_mask": masks.astype(np.uint8)})


JHMDB_FAULTS = {
    "frame missing": (lambda r: (r / FRAMES / "00002.png").unlink(), "missing", f"{FRAMES}/00002.png", "", 1),
    "frame cut short": (lambda r: cut(r / FRAMES / "00002.png"), "damaged", f"{FRAMES}/00002.png", "damaged", 1),
    "frame of another size": (
        lambda r: Image.new("RGB", (20, 10)).save(r / FRAMES / "00002.png"),
        "size",
        f"{FRAMES}/00002.png",
        "is 20x10, other frames of the video are 64x40",
        1,
    ),
    "frames missing": (lambda r: shutil.rmtree(r / FRAMES), "missing", f"{FRAMES}/", "the folder of 6 files", 1),
    "masks missing": (lambda r: (r / MAT).unlink(), "missing", MAT, "", 1),
    "masks cut short": (lambda r: cut(r / MAT), "damaged", MAT, "cannot be read as a MATLAB file", 1),
    "masks of another size": (
        lambda r: save_mat(r / MAT, np.ones((40, 60, 6))),
        "size",
        MAT,
        "its masks are 60x40, its frames 64x40",
        2,
    ),
    "no pixels": (
        lambda r: save_mat(r / MAT, np.stack([np.full((40, 64), t != 2) for t in range(6)], -1)),
        "no_pixels",
        MAT,
        "the person has no pixels in frame 3",
        0,
    ),
    "unknown frame": (lambda r: (r / FRAMES / "7.png").touch(), "unknown", f"{FRAMES}/7.png", "", 0),
    "damaged frame past the masks": (
        lambda r: (r / FRAMES / "00007.png").touch(),
        "damaged",
        f"{FRAMES}/00007.png",
        "",
        1,
    ),
    "unknown video": (lambda r: (r / FRAMES).with_name("new").mkdir(), "unknown", "Rename_Images/climb/new/", "", 0),
    "list damaged": (lambda r: cut(r / SAMPLES), "list", SAMPLES, "is not a JSON file", 1),
    "truth of fewer samples": (
        lambda r: edit(r / JHMDB_TRUTH, drop_last_truth),
        "list",
        JHMDB_TRUTH,
        "has no ground truth of v_wave_and_say_hi_1_f_5, which the list of samples has",
        1,
    ),
}

IMAGE = "train2014/COCO_train2014_000000000009.jpg"
CONVERTED = "refcoco/instances_refcoco_train.json"
REFCOCO_FAULTS = {
    "image missing": (lambda r: (r / IMAGE).unlink(), "missing", IMAGE, "", 1),
    "image cut short": (lambda r: cut(r / IMAGE), "damaged", IMAGE, "damaged", 1),
    "image of another size": (
        lambda r: Image.new("RGB", (20, 10)).save(r / IMAGE),
        "size",
        IMAGE,
        "is 20x10, refcoco",
        1,
    ),
    "list missing": (lambda r: (r / CONVERTED).unlink(), "missing", CONVERTED, "does not exist", 1),
    "list cut short": (lambda r: cut(r / CONVERTED), "list", CONVERTED, "is not a JSON file", 1),
    "sentence without object": (
        lambda r: edit(r / CONVERTED, lambda c: c["annotations"].pop()),
        "list",
        CONVERTED,
        "has no annotation",
        1,
    ),
    "mask damaged": (
        lambda r: edit(r / CONVERTED, lambda c: [a.update(segmentation=[[1, 2]]) for a in c["annotations"][:3]]),
        "damaged",
        CONVERTED,
        "the mask of COCO's annotation 91: none of its polygons has three corners",
        1,
    ),
    "no pixels": (
        lambda r: edit(
            r / CONVERTED,
            lambda c: [a.update(segmentation=[[-9, -9, -5, -9, -5, -5]]) for a in c["annotations"][:3]],
        ),
        "no_pixels",
        CONVERTED,
        "COCO's annotation 91",
        0,
    ),
}
FAULTS = {
    (dataset, name): fault
    for dataset, faults in (("a2d", A2D_FAULTS), ("jhmdb", JHMDB_FAULTS), ("refcoco", REFCOCO_FAULTS))
    for name, fault in faults.items()
}


def test_frames_past_the_last_mask_are_no_fault(jhmdb, checked):
    """The list counts the frames that have a mask (MTTR's jhmdb_sentences_dataset.py); a video may go on."""
    frames = jhmdb / FRAMES
    for number in (7, 8):
        shutil.copyfile(frames / "00006.png", frames / f"{number:05d}.png")
    code, faults, _, text = checked("jhmdb", jhmdb)
    assert (code, faults) == (0, []) and "2 frames lie past the last one with a mask and are not used" in text


def test_a_video_of_a2d_without_masks_that_no_list_names_is_a_note(tmp_path, checked):
    root = write_mini_a2d(tmp_path / "a2d")
    shutil.rmtree(root / "text_annotations/a2d_annotation_with_instances/cc_test")
    make_sentences_annotations.make_a2d(root, overwrite=False)
    code, faults, _, text = checked("a2d", root)
    assert (code, faults) == (0, []) and "1 video with sentences has no folder of masks and is not used" in text


@pytest.mark.parametrize(("dataset", "planted"), FAULTS)
def test_a_planted_fault_is_found_alone(dataset, planted, request, checked):
    root = request.getfixturevalue(dataset)
    plant, kind, path, what, downloads = FAULTS[dataset, planted]
    plant(root)
    code, faults, again, text = checked(dataset, root)
    assert code == 1
    # the three sets of COCO may say the same of one image
    assert {(found_kind, found_path) for found_kind, found_path, _ in faults} == {(kind, path)}
    assert what in faults[0][2] and "docs/data.md" not in faults[0][2] and str(root) not in faults[0][2]
    assert len(again) == downloads and path in text


def test_what_has_not_been_made_yet_is_a_note(tmp_path, checked):
    code, _, _, text = checked("a2d", write_mini_a2d(tmp_path / "a2d"))
    assert code == 0 and "there is no a2d_sentences_single_frame_test_annotations.json, which python tools/" in text
    code, _, _, text = checked("jhmdb", write_mini_jhmdb(tmp_path / "jhmdb"))
    assert code == 0 and "there is no jhmdb_sentences_gt_annotations_in_coco_format.json, which python tools/" in text
    root = write_mini_refcoco(tmp_path / "coco")
    shutil.rmtree(root / "refcoco+")
    for path in (root / "refcocog").glob("instances_*.json"):
        path.unlink()
    code, _, _, text = checked("refcoco", root)
    assert code == 0 and "note: refcoco+: not there" in text
    assert f"note: refcocog: not converted; python tools/data/convert_refcoco.py {root} --sets refcocog" in text
