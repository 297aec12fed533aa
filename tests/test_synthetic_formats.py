"""The generated set in the layouts of the other data sets goes through their converters, checks and loaders.

Its form of a user's own data is in test_convert_own.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import datasets
from datasets.samplers import ClipRequest
from opts import parse_train_args
from tools.data import convert_davis_to_ytvos, convert_refcoco, make_sentences_annotations
from tools.data.make_synthetic import FORMATS, generate
from tools.data.synthetic_formats import WRITERS
from util.video.pictures import read_labels

VIDEOS = dict(train_videos=3, valid_videos=6, seed=4, workers=1)


def prepare_refcoco(root: Path) -> None:
    for name in datasets.refcoco.SETS:
        splits, shared, left_out = convert_refcoco.convert(root, name)
        assert not left_out
        convert_refcoco.write(root, name, splits, shared)


# what a user runs on the originals
PREPARE = {
    "davis": lambda root: convert_davis_to_ytvos.convert(root, workers=1),
    "a2d": lambda root: make_sentences_annotations.make_a2d(root, overwrite=False),
    "jhmdb": lambda root: make_sentences_annotations.make_jhmdb(root, overwrite=False),
    "refcoco": prepare_refcoco,
    "mevis": lambda root: None,
    "mevis_v2": lambda root: None,
    "long_rvos": lambda root: None,
}
FLAGS = {"refcoco": "--coco_path", "mevis_v2": "--mevis_path"}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ytvos")
    generate(root, **VIDEOS)
    return root


@pytest.fixture(scope="module", params=[name for name in FORMATS if name not in ("ytvos", "own")])
def made(request, tmp_path_factory) -> tuple[str, Path]:
    root = tmp_path_factory.mktemp(request.param)
    generate(root, format=request.param, **VIDEOS)
    PREPARE[request.param](root)
    return request.param, root


def options(name: str, root: Path, *flags: str):
    small = "--train_sizes 96 --max_size 160 --eval_size 96 --num_frames 4 --no-random_crop --no-photometric --no-flip"
    words = ["--dataset_file", name, FLAGS.get(name, f"--{name}_path"), str(root), "--num_workers", "0"]
    return parse_train_args([*words, *small.split(), *flags])


def test_every_layout_has_a_writer():
    assert set(FORMATS) == {"ytvos", *WRITERS}


def test_the_check_finds_nothing_wrong(made, checked):
    assert not checked(*made)[1]


def test_shapes_are_no_categories_and_no_faults(source, checked):
    _, faults, _, text = checked("ytvos", source)
    assert not faults and "no category in train/meta.json is one of Ref-YouTube-VOS; train with --binary" in text


def test_it_can_be_trained_on(made, source):
    """The masks of the training clips are those of the same video in the layout of Ref-YouTube-VOS."""
    name, root = made
    if name == "jhmdb":
        pytest.skip("JHMDB-Sentences is only evaluated")
    loader = datasets.build_train_loader(
        options(name, root, "--num_frames", "1", "--expressions_per_clip", "8", "--binary")
    )
    names = sorted(path.name for path in (source / "train/JPEGImages").iterdir())
    for i in range(len(loader.dataset)):
        clip = loader.dataset[ClipRequest(i)]
        if name == "refcoco":  # numbered from 1, the middle frame of 8
            video, frame = names[int(clip.video_id.rpartition("_")[2]) - 1], "00020"
        else:
            video = clip.video_id
            (frame,) = clip.frame_ids
            frame = {"davis": 5 * int(frame), "a2d": 5 * (int(frame) - 1)}.get(name, int(frame))
            frame = f"{frame:05d}"
        labels = read_labels(source / "train/Annotations" / video / f"{frame}.png")
        objects = [labels == number for number in range(1, labels.max() + 1)]
        for target in clip.targets:
            mask = target.masks[0, 0].numpy()
            # in MeViS several objects may be meant
            inside = [shown for shown in objects if shown.any() and (mask & shown).any()]
            assert np.array_equal(mask, np.logical_or.reduce([np.zeros_like(mask), *inside]))
            assert len(inside) <= 1 or name.startswith("mevis")
    assert torch.isfinite(next(iter(loader)).video).all()


def test_it_can_be_scored(made):
    name, root = made
    args = options(name, root)
    split = datasets.eval_split(args, trained="ytvos")
    if datasets.eval_set(args, split).scores_frames:
        clips = datasets.eval_set(args, split).clips()
        truth = datasets.eval_set(args, split).truth(clips)
        assert {image_id for clip in clips for image_id in clip.expressions} == truth.keys()
        assert clips and clips[0].read().shape[1:] == (3, 96, 160)
    else:
        videos = datasets.eval_set(args, split).videos()
        assert len(videos) == VIDEOS["valid_videos"]
        assert videos[0].read(slice(None)).shape == (8, 3, 96, 160)


def test_images_of_coco_agree_on_their_categories(tmp_path):
    """A shape has one number in all of them."""
    generate(tmp_path, format="refcoco", **VIDEOS)
    content = convert_refcoco.read_instances(tmp_path / "refcoco/instances.json")[0]
    shapes = {category["id"]: category["name"] for category in content["categories"]}
    told = {category: set() for category in shapes}
    for reference in convert_refcoco.read_references(tmp_path / "refcoco/refs(unc).p"):
        words = {word for sentence in reference["sentences"] for word in sentence["sent"].split()}
        told[reference["category_id"]] |= words & set(shapes.values())
    assert all(shapes[category] in words for category, words in told.items() if words)


def test_frames_are_those_of_the_generated_videos(made, source):
    name, root = made
    patterns = {"davis": "DAVIS/JPEGImages/480p/*/*.jpg"}
    patterns |= dict.fromkeys(("mevis", "mevis_v2", "long_rvos"), "train/JPEGImages/*/*.jpg")
    pattern = patterns.get(name)
    if not pattern:
        pytest.skip("encoded anew")
    originals = sorted((source / "train/JPEGImages").glob("*/*.jpg"))
    copies = [path for path in sorted(root.glob(pattern)) if path.parent.name.startswith("train")]
    assert [p.read_bytes() for p in copies] == [p.read_bytes() for p in originals]
    assert Image.open(copies[0]).size == (160, 96)
