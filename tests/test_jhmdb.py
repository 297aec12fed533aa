"""JHMDB-Sentences on disk: the list, the masks, the ground truth made of them, clips, and what bad data says."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from scipy.io import savemat

from datasets import build_train_loader, eval_set, eval_split, jhmdb
from opts import parse_train_args
from tests.helpers import SHARED, needs_shared
from tests.mini_a2d import frame_number, mask
from tests.mini_jhmdb import VIDEOS, WITHOUT_MASK, write_mini_jhmdb
from tools.data import make_sentences_annotations as tool


@pytest.fixture
def raw(tmp_path) -> Path:
    """The original files only."""
    return write_mini_jhmdb(tmp_path / "somewhere else")


@pytest.fixture
def mini(raw) -> Path:
    """With ground truth."""
    tool.make_jhmdb(raw, overwrite=False)
    return raw


def args_of(root: Path, *flags: str) -> argparse.Namespace:
    return parse_train_args(["--dataset_file", "jhmdb", "--jhmdb_path", str(root), *flags])


def test_paths_of_the_list_are_taken_under_the_root(raw):
    samples = jhmdb.read_samples(raw)
    assert len(samples) == 6
    assert all(s.frame_path.is_file() and s.mask_path.is_file() for s in samples)
    assert samples[1].frame_path == raw / "Rename_Images" / "climb" / VIDEOS[0].name / "00003.png"
    assert samples[1].image_id == "v_Climb_climb_f_cm_0_f_3"


@needs_shared
def test_the_real_list(tmp_path):
    shutil.copyfile(SHARED / "data/text/jhmdb_sentences_samples_metadata.json", jhmdb.list_path(tmp_path))
    samples = jhmdb.read_samples(tmp_path)
    assert len(samples) == 2784
    assert set(Counter(sample.video for sample in samples).values()) == {3}
    first = samples[0]
    assert (first.frame, first.length, first.query) == (2, 40, "man in black pulling up")
    video = "pullup/100_pullups_pullup_f_nm_np1_fr_med_1"
    assert first.frame_path == tmp_path / "Rename_Images" / video / "00002.png"
    assert all(s.mask_path.parts[-4] == "puppet_mask" and s.mask_path.parent.name == s.video for s in samples)


def test_ground_truth_leaves_out_frames_past_the_last_mask_and_says_so(raw, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["make_sentences_annotations.py", "jhmdb", str(raw)])
    tool.main()
    out = capsys.readouterr().out
    assert "5 samples of 2 videos" in out
    assert f"1 sample is left out, because the masks of its video end before its frame, the first {WITHOUT_MASK}" in out
    truth = jhmdb.truth(raw)
    assert WITHOUT_MASK not in truth
    assert (rle.decode(truth["v_wave_and_say_hi_1_f_5"].mask) == mask(0, 5, (40, 64))).all()
    assert (rle.decode(truth["v_Climb_climb_f_cm_0_f_1"].mask) == mask(0, 1, (40, 64))).all()

    made = jhmdb.truth_path(raw).read_bytes()
    jhmdb.truth_path(raw).write_text("kept")
    tool.main()
    assert "kept as it is" in capsys.readouterr().out and jhmdb.truth_path(raw).read_text() == "kept"
    tool.make_jhmdb(raw, overwrite=True)
    assert jhmdb.truth_path(raw).read_bytes() == made


def test_clips_are_centred_and_unscored_samples_are_counted(mini, capsys):
    args = args_of(mini, "--num_frames", "4")
    clips = eval_set(args, eval_split(args, "a2d")).clips()
    assert "1 of 6 samples have no ground truth and are not scored" in capsys.readouterr().out
    assert eval_set(args, "test").truth(clips).keys() == {name for clip in clips for name in clip.expressions}
    by_id = {next(iter(clip.expressions)): clip for clip in clips}
    shown = {
        name: [frame_number(frame) for frame in clip.read().permute(0, 2, 3, 1).numpy()] for name, clip in by_id.items()
    }
    # the window reaches into the frames that have no mask, which are there to be seen
    assert shown["v_wave_and_say_hi_1_f_5"] == [3, 4, 5, 6]
    assert shown["v_Climb_climb_f_cm_0_f_1"] == [1, 1, 1, 2] and shown["v_Climb_climb_f_cm_0_f_6"] == [4, 5, 6, 6]
    assert by_id["v_wave_and_say_hi_1_f_2"].expressions == {"v_wave_and_say_hi_1_f_2": "red man waving"}
    assert all(text == text.strip().lower() for clip in clips for text in clip.expressions.values())
    # of the places that show the frame, the first
    assert {name: clip.scored for name, clip in by_id.items() if clip.scored != 2} == {"v_Climb_climb_f_cm_0_f_1": 0}


def test_it_is_not_trained_on_and_has_one_split(mini):
    with pytest.raises(ValueError, match="--dataset_file jhmdb has nothing to train on: .*--eval.*ytvos, a2d"):
        build_train_loader(args_of(mini))
    args = args_of(mini, "--eval", "--resume", "x", "--eval_split", "valid", "--holdout", "5")
    with pytest.raises(
        ValueError, match="--eval_split valid does not exist for --dataset_file jhmdb; choose one of test"
    ):
        eval_split(args, "a2d")


@pytest.mark.parametrize(
    ("flags", "trained", "split"),
    [
        ("--dataset_file jhmdb --holdout 3", "a2d", "test"),
        ("--dataset_file a2d --eval --resume x --eval_split test", "a2d", "test"),
        ("", "ytvos", "valid"),
        ("--holdout 3", "ytvos", "holdout"),
        ("--holdout 3", "joint", "holdout"),
        ("--holdout 3", "mevis", "valid"),
        ("--holdout 3 --eval --resume x --eval_split valid", "ytvos", "valid"),
    ],
)
def test_the_split_that_is_scored(flags, trained, split):
    assert eval_split(parse_train_args(flags.split()), trained) == split


def test_a_mixture_of_images_is_not_scored_as_one():
    with pytest.raises(ValueError, match="--dataset_file all is for training; .*refcoco, refcoco\\+, refcocog"):
        eval_split(parse_train_args(["--dataset_file", "all"]), "all")


def test_ground_truth_that_is_missing_says_how_to_make_it(raw):
    with pytest.raises(FileNotFoundError, match="make it with python tools/data/make_sentences_annotations.py jhmdb "):
        eval_set(args_of(raw), "test").clips()


ROW = [
    "v",
    "./jhmdb_sentences/Rename_Images/a/v/00002.png",
    "./jhmdb_sentences/puppet_mask/a/v/puppet_mask.mat",
    3,
    "x",
]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW[:4], r"row 1 must be \[video, frame path, mask path, number of frames with a mask, query\], not"),
        (
            [ROW[0], "images/00002.png", *ROW[2:]],
            "row 1 must name a frame in Rename_Images/ and a file in puppet_mask/",
        ),
        ([*ROW[:2], 7, *ROW[3:]], "row 1 must name a frame"),
        ([*ROW[:3], 1, "x"], "row 1: 00002.png is not one of the 1 frames with a mask"),
        ([*ROW[:4], " "], "row 1 must be .* with a video and a sentence"),
    ],
)
def test_bad_rows_are_named(raw, row, message):
    jhmdb.list_path(raw).write_text(json.dumps([row]))
    with pytest.raises(ValueError, match=f"samples_metadata.json: {message}.*; see docs/data.md, JHMDB-Sentences"):
        jhmdb.read_samples(raw)


def test_a_sample_listed_twice_is_refused(raw):
    jhmdb.list_path(raw).write_text(json.dumps([ROW, ROW]))
    with pytest.raises(ValueError, match="lists v_v_f_2 twice"):
        jhmdb.read_samples(raw)


def test_bad_files_are_named_and_nothing_is_half_made(raw):
    sample = jhmdb.read_samples(raw)[0]
    damages = [
        (
            lambda: savemat(sample.mask_path, {"part_mask": np.zeros((3, 4, 6))}),
            ValueError,
            "mask is 4x3 pixels.*64x40",
        ),
        (lambda: savemat(sample.mask_path, {"part_mask": np.zeros((40, 64))}), ValueError, None),
        (lambda: savemat(sample.mask_path, {"part_mask": np.zeros((3, 4, 6, 2))}), ValueError, r"not \[3, 4, 6, 2\]"),
        (lambda: savemat(sample.mask_path, {"masks": 1}), ValueError, 'puppet_mask.mat: cannot be read.*"part_mask"'),
        (lambda: sample.mask_path.write_bytes(b"MATLAB"), ValueError, "puppet_mask.mat: cannot be read"),
        (lambda: sample.mask_path.unlink(), FileNotFoundError, "puppet_mask.mat: the file of masks does not exist"),
        (lambda: jhmdb.list_path(raw).unlink(), FileNotFoundError, "samples_metadata.json: the list.*--jhmdb_path"),
    ]
    for damage, error, message in damages:
        damage()
        if message is None:  # MATLAB drops the last axis of a video with a single mask
            assert jhmdb.read_puppet_masks(sample.mask_path).shape == (1, 40, 64)
            continue
        with pytest.raises(error, match=message):
            tool.make_jhmdb(raw, overwrite=False)
        assert not jhmdb.truth_path(raw).exists()


def test_masks_that_all_end_too_early_are_an_error(raw):
    listed = [row for row in json.loads(jhmdb.list_path(raw).read_text()) if row[1].endswith("00008.png")]
    jhmdb.list_path(raw).write_text(json.dumps(listed))
    with pytest.raises(ValueError, match="not one of its samples has a mask"):
        tool.make_jhmdb(raw, overwrite=False)


def test_frames_that_are_missing_or_of_another_size_are_named(mini):
    sample = jhmdb.read_samples(mini)[0]
    Image.new("RGB", (20, 20)).save(sample.frame_path)
    clip = jhmdb.eval_clips(mini, 3)[0]
    with pytest.raises(ValueError, match="00002.png: is 64x40 pixels, but the frame 00001.png of the same video"):
        clip.read()
    sample.frame_path.with_name("00002.png").unlink()
    with pytest.raises(FileNotFoundError, match="00002.png: the frame, one of 6 with a mask, does not exist"):
        jhmdb.eval_clips(mini, 3)


def test_a_copy_elsewhere_reads_alike(mini, tmp_path):
    shutil.copytree(mini, tmp_path / "copy")
    assert [c.expressions for c in jhmdb.eval_clips(tmp_path / "copy", 2)] == [
        c.expressions for c in jhmdb.eval_clips(mini, 2)
    ]
