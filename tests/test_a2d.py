"""A2D-Sentences on disk: original files, lists and ground truth made of them, clips, and what bad data says."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from pycocotools import mask as rle

from datasets import a2d, build_train_loader, eval_set, num_classes
from datasets.collate import identity_numbers
from tests.helpers import SHARED, needs_shared
from tests.mini_a2d import (
    MISSED,
    QUERIES,
    VIDEOS,
    frame_number,
    mask,
    mini_args,
    write_mini_a2d,
    write_video,
)
from tools.data import make_sentences_annotations as tool

PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    """The original files only."""
    return write_mini_a2d(tmp_path_factory.mktemp("a2d") / "raw")


@pytest.fixture(scope="module")
def mini(raw) -> Path:
    """With lists and ground truth."""
    root = raw.with_name("made")
    shutil.copytree(raw, root)
    tool.make_a2d(root, overwrite=False)
    return root


@pytest.fixture
def fresh(mini, tmp_path) -> Path:
    """A data set of its own for tests that damage it."""
    return shutil.copytree(mini, tmp_path / "fresh")


def rows_of(root: Path, split: str) -> list:
    return json.loads(a2d.list_path(root, split).read_text())


def use(monkeypatch, *words) -> None:
    """Runs the tool as from the command line."""
    monkeypatch.setattr(sys, "argv", ["make_sentences_annotations.py", *map(str, words)])
    tool.main()


def numbers(frames: torch.Tensor) -> list[int]:
    return [frame_number(frame) for frame in frames.permute(0, 2, 3, 1).numpy()]


# --------------------------------------------------------------------------------------------- lists and ground truth


def test_lists_hold_each_sentence_in_each_frame_that_has_its_instance(mini):
    train, test = (rows_of(mini, split) for split in a2d.SPLITS)
    for rows, split in ((train, "train"), (test, "test")):
        expected = {
            (QUERIES[i].lower(), video.name, frame, i)
            for video in VIDEOS
            if video.split == split
            for frame, instances in video.annotated.items()
            for i in instances
        }
        assert set(map(tuple, rows)) == expected and len(rows) == len(expected)
    assert len(train) == 6 and len(test) == 5
    assert not any("bird" in query or "never" in query or video == MISSED for query, video, *_ in train + test)


def test_ground_truth_has_the_masks_the_right_way_round(mini):
    content = json.loads(a2d.truth_path(mini).read_text())
    assert {a["category_id"] for a in content["annotations"]} == {1}
    truth = a2d.truth(mini)
    assert list(truth) == [sample.image_id for sample in a2d.read_samples(mini, "test")]
    assert (rle.decode(truth["v_cc_test_f_4_i_1"].mask) == mask(1, 4, (48, 80))).all()
    assert (rle.decode(truth["v_cc_test_f_10_i_1"].mask) == mask(1, 10, (48, 80))).all()
    assert truth["v_T6bNPuKV-wY_f_2_i_0"].box == (4, 2, 16, 12)


def test_masks_come_in_the_order_asked(mini):
    path = a2d.mask_path(mini, "cc_test", 4)
    assert a2d.read_instances(path) == [1, 0]
    both = a2d.read_masks(path, [0, 1])
    assert both.dtype == np.uint8
    assert (both == np.stack([mask(i, 4, (48, 80)) for i in (0, 1)])).all()
    assert (a2d.read_masks(a2d.mask_path(mini, "bb_tall", 5), [0])[0] == mask(0, 5, (80, 48))).all()


def test_what_is_there_is_kept_unless_asked(fresh, monkeypatch, capsys):
    path = a2d.list_path(fresh, "test")
    fewer = rows_of(fresh, "test")[:2]
    path.write_text(json.dumps(fewer))
    a2d.truth_path(fresh).unlink()
    before = a2d.list_path(fresh, "train").read_bytes()
    use(monkeypatch, "a2d", fresh)
    assert rows_of(fresh, "test") == fewer and len(a2d.truth(fresh)) == 2
    assert "test_annotations.json: kept" in capsys.readouterr().out
    use(monkeypatch, "a2d", fresh, "--overwrite")
    assert len(rows_of(fresh, "test")) == 5 and len(a2d.truth(fresh)) == 5
    assert a2d.list_path(fresh, "train").read_bytes() == before
    assert "2 videos, 4 frames, 6 samples" in capsys.readouterr().out


def test_the_tool_says_what_it_made_and_what_no_frame_shows(raw, tmp_path, monkeypatch, capsys):
    root = shutil.copytree(raw, tmp_path / "set")
    use(monkeypatch, "a2d", root)
    out = capsys.readouterr().out
    assert "train_annotations.json: 2 videos, 4 frames, 6 samples" in out
    assert "test_annotations.json: 2 videos, 3 frames, 5 samples" in out
    assert "1 sentence is about an instance that no annotated frame has, the first bb_tall, instance 7" in out
    assert "coco_format.json: 5 samples" in out
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        use(monkeypatch, "a2d", tmp_path / "nowhere")


def rewrite_h5(path: Path, **content) -> None:
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


TEXTS = "text_annotations/"
H5 = TEXTS + "a2d_annotation_with_instances/cc_test/00004.h5"
RAW_DAMAGE: dict[str, tuple[Callable[[Path], object], type, str]] = {
    "no videoset": (lambda r: (r / "Release/videoset.csv").unlink(), FileNotFoundError, "videoset.csv.*--a2d_path"),
    "no missed": (
        lambda r: (r / TEXTS / "a2d_missed_videos.txt").unlink(),
        FileNotFoundError,
        "a2d_missed_videos.txt: the list of videos without annotation does not exist",
    ),
    "no sentences": (lambda r: (r / TEXTS / "a2d_annotation.txt").unlink(), FileNotFoundError, "file of sentences"),
    "subset": (
        lambda r: replace(r / "Release/videoset.csv", ",12,2,1", ",12,2,3"),
        ValueError,
        r"videoset.csv: row 3 must begin with a video and end in 0 \(train\) or 1 \(test\); see docs/data.md, A2D",
    ),
    "header": (
        lambda r: replace(r / TEXTS / "a2d_annotation.txt", "instance_id", "instance"),
        ValueError,
        "first row must name the columns video_id,instance_id,query",
    ),
    "instance": (
        lambda r: replace(r / TEXTS / "a2d_annotation.txt", "bb_tall,0", "bb_tall,zero"),
        ValueError,
        "a2d_annotation.txt: row 4 must hold",
    ),
    "unknown video": (
        lambda r: replace(r / TEXTS / "a2d_annotation.txt", "bb_tall,0", "zz_new,0"),
        ValueError,
        "sentences about video zz_new, which Release/videoset.csv does not list",
    ),
    "no masks": (
        lambda r: shutil.rmtree((r / H5).parents[1]),
        FileNotFoundError,
        "a2d_annotation_with_instances: the folder of masks does not exist",
    ),
    "frame name": (
        lambda r: (r / H5).rename((r / H5).with_name("four.h5")),
        ValueError,
        "four.h5: the name must be the number of a frame",
    ),
    "damaged h5": (lambda r: (r / H5).write_bytes(b"x" * 900), ValueError, "00004.h5: cannot be read as h5"),
    "no reMask": (
        lambda r: rewrite_h5(r / H5, instance=np.array([0.0, 1.0])),
        ValueError,
        '00004.h5: cannot be read as h5 with "instance" and "reMask"',
    ),
    "other count": (
        lambda r: rewrite_h5(r / H5, instance=np.array([0.0, 1.0]), reMask=np.zeros((1, 80, 48), np.uint8)),
        ValueError,
        r"00004.h5: has 2 instances, but masks of shape \[1, 80, 48\]",
    ),
    "not transposed": (
        lambda r: rewrite_h5(r / H5, instance=np.array([0.0, 1.0]), reMask=np.zeros((2, 48, 80), np.uint8)),
        ValueError,
        "00004.h5: its masks are 48x80 pixels, but the video is 80x48",
    ),
    "no clips": (
        lambda r: shutil.rmtree(r / "Release/clips320H"),
        FileNotFoundError,
        "clips320H: there is neither this folder nor CLIPS320 beside it",
    ),
    "only training": (
        lambda r: replace(r / TEXTS / "a2d_missed_videos.txt", MISSED, "cc_test\nT6bNPuKV-wY"),
        ValueError,
        "there is not one sample of the split test: see Release/videoset.csv",
    ),
    "two sentences": (
        lambda r: replace(r / TEXTS / "a2d_annotation.txt", "bb_tall,7", "bb_tall, 0"),
        ValueError,
        "a2d_annotation.txt: rows 4 and 10 are both about instance 0 of video bb_tall, .*; delete one of the rows",
    ),
    "sentences in latin-1": (
        lambda r: (r / TEXTS / "a2d_annotation.txt").write_bytes(b"video_id,instance_id,query\ncc_test,0,caf\xe9\n"),
        ValueError,
        "a2d_annotation.txt: cannot be read as comma-separated UTF-8 text .*0xe9.*see docs/data.md, A2D-Sentences",
    ),
    "videoset in latin-1": (
        lambda r: (r / "Release/videoset.csv").write_bytes(b"\xe9,0\n"),
        ValueError,
        "videoset.csv: cannot be read",
    ),
    "missed in latin-1": (
        lambda r: (r / TEXTS / "a2d_missed_videos.txt").write_bytes(b"\xe9\n"),
        ValueError,
        "a2d_missed_videos.txt: cannot be read",
    ),
    "no end of a sentence": (
        lambda r: replace(r / TEXTS / "a2d_annotation.txt", "bb_tall,0,", 'bb_tall,0,"' + "x" * 200_000),
        ValueError,
        "a2d_annotation.txt: cannot be read as comma-separated UTF-8 text .*field larger",
    ),
}


@pytest.mark.parametrize("name", RAW_DAMAGE)
def test_bad_originals_are_named_and_nothing_is_half_made(raw, tmp_path, name):
    damage, error, message = RAW_DAMAGE[name]
    root = shutil.copytree(raw, tmp_path / "set")
    damage(root)
    with pytest.raises(error, match=message):
        tool.make_a2d(root, overwrite=False)
    assert not a2d.truth_path(root).exists()
    assert not list(root.glob(".*"))


def test_sentences_about_missed_videos_are_dropped(raw, tmp_path):
    root = shutil.copytree(raw, tmp_path / "set")
    expected = a2d.read_raw(root)
    path = root / TEXTS / "a2d_annotation.txt"
    path.write_text(path.read_text() + f"{MISSED},0,it was left out\n")
    assert a2d.read_raw(root) == expected and a2d.read_subsets(root)[MISSED] is None


def test_marks_that_spreadsheets_leave_are_read_over(raw, tmp_path):
    root = shutil.copytree(raw, tmp_path / "set")
    expected = a2d.read_raw(root)
    for name in (TEXTS + "a2d_annotation.txt", TEXTS + "a2d_missed_videos.txt", "Release/videoset.csv"):
        (root / name).write_text((root / name).read_text() + "\n", encoding="utf-8-sig")
    assert a2d.read_raw(root) == expected and MISSED in a2d.read_subsets(root)


def test_masks_are_read_once_whatever_the_order_of_the_list(fresh, monkeypatch):
    rows = [["blue", "cc_test", 4, 1], ["blue", "cc_test", 10, 1], ["red", "cc_test", 4, 0]]
    a2d.list_path(fresh, "test").write_text(json.dumps(rows))
    paths, read_masks = [], a2d.read_masks
    monkeypatch.setattr(a2d, "read_masks", lambda path, instances: paths.append(path) or read_masks(path, instances))
    found = list(tool.a2d_masks(fresh))
    assert [image_id for image_id, _ in found] == [f"v_cc_test_f_{f}_i_{i}" for f, i in ((4, 1), (10, 1), (4, 0))]
    for (_, read), (_, video, frame, instance) in zip(found, rows, strict=True):
        assert (read == mask(instance, frame, (48, 80))).all() and video == "cc_test"
    assert paths == [a2d.mask_path(fresh, "cc_test", frame) for frame in (4, 10)]


@needs_shared
def test_the_sentences_of_the_real_file(tmp_path):
    texts = tmp_path / "text_annotations"
    texts.mkdir()
    shutil.copyfile(SHARED / "data/text/a2d_annotation_with_short_query.txt", texts / "a2d_annotation.txt")
    (texts / "a2d_missed_videos.txt").write_text("")
    with (texts / "a2d_annotation.txt").open(newline="") as file:
        names = sorted({row["video_id"] for row in csv.DictReader(file)})
    (tmp_path / "Release").mkdir()
    with (tmp_path / "Release" / "videoset.csv").open("w", newline="") as file:
        csv.writer(file).writerows([name, *"1234567", i % 2] for i, name in enumerate(names))
    videos = a2d.read_raw(tmp_path)
    assert len(videos) == 3754 and {v.split for v in videos} == {"train", "test"}
    assert sum(len(v.sentences) for v in videos) == 6654
    copied = next(v for v in videos if v.video == "T6bNPuKV-wY")
    assert [i for i, _ in copied.sentences] == [0, 1, 2, 3] and not any("bird" in text for _, text in copied.sentences)


# ------------------------------------------------------------------------------------------------------------- clips


def entry(root: Path, video: str, frame: int, num_frames: int = 4) -> a2d.AnnotatedFrame:
    found = [v for v in a2d.train_videos(root, num_frames) if (v.video_id, v.frame) == (video, frame)]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("video", "frame", "num_frames", "shown"),
    [
        ("-aa_long", 15, 5, [13, 14, 15, 16, 17]),
        ("-aa_long", 15, 6, [12, 13, 14, 15, 16, 17]),
        ("-aa_long", 1, 4, [1, 1, 1, 2]),
        ("-aa_long", 30, 4, [28, 29, 30, 30]),
        ("bb_tall", 5, 1, [5]),
    ],
)
def test_a_training_clip_is_one_window_around_its_one_supervised_frame(mini, video, frame, num_frames, shown):
    found = entry(mini, video, frame, num_frames)
    assert len(found.window_starts(num_frames)) == 1
    positions = found.draw_positions(0, num_frames, np.random.default_rng(0))
    objects = [e.objects for e in found.expressions]
    frames, masks = found.clip(positions, objects, np.random.default_rng(0))
    assert numbers(frames) == shown
    assert found.annotated(positions).tolist() == [t == num_frames // 2 for t in range(num_frames)]
    size = next(v.size for v in VIDEOS if v.name == video)
    assert found.size() == frames.shape[-2:] == size
    for e, (instance,) in enumerate(objects):
        assert (masks[num_frames // 2, e].numpy() == mask(instance, frame, size)).all()
    assert masks.sum() == masks[num_frames // 2].sum()


def test_expressions_are_those_of_the_instances_in_the_frame_and_cleaned(mini):
    assert {e.text: e.objects for e in entry(mini, "-aa_long", 30).expressions} == {
        "the red box on the left": (0,),
        "blue box, moving down": (1,),
    }
    assert [e.objects for e in entry(mini, "-aa_long", 15).expressions] == [(1,)]


def test_batches_supervise_the_annotated_frame_alone(mini):
    args = mini_args(mini, *PLAIN, "--batch_size", "2", "--expressions_per_clip", "2", "--train_sizes", "48")
    loader = build_train_loader(args)
    assert len(loader.dataset) == 4 and num_classes(args) == 1
    identities = set()
    for batch in loader:
        targets = batch.targets
        assert targets.annotated.tolist() == [[False, False, True, False]] * len(targets.annotated)
        assert targets.annotated_frames == [2]
        assert targets.present[:, :, 0].tolist() == targets.annotated.tolist()
        assert not targets.masks[:, [0, 1, 3]].any() and not targets.labels.any()
        identities |= set(targets.identities.tolist())
    # another frame of the same instance is no negative of it
    assert identities == set(identity_numbers(["-aa_long/0", "-aa_long/1", "bb_tall/0"]).tolist())


def test_an_instance_without_pixels_in_its_frame_is_absent_not_an_error(fresh):
    path = a2d.mask_path(fresh, "bb_tall", 5)
    rewrite_h5(path, instance=np.array([0.0]), reMask=np.zeros((48, 80), np.uint8))
    loader = build_train_loader(mini_args(fresh, *PLAIN))
    batches = [b for b in loader if b.clips[0]["video_id"] == "bb_tall"]
    assert len(batches) == 1 and not batches[0].targets.present.any() and batches[0].targets.annotated.any()


@pytest.mark.parametrize("num_frames", [1, 4, 5])
def test_evaluation_clips_are_centred_on_their_frame(mini, num_frames):
    clips = eval_set(mini_args(mini, "--num_frames", str(num_frames)), "test").clips()
    assert len(clips) == 3
    by_id = {clip.clip_id: clip for clip in clips}
    assert by_id["cc_test, frame 4"].expressions == {
        "v_cc_test_f_4_i_0": "the red box on the left",
        "v_cc_test_f_4_i_1": "blue box, moving down",
    }
    for clip in clips:
        assert numbers(clip.read())[clip.scored] == clip.frame
        assert clip.read().shape == (num_frames, 3, 48, 80)


def test_both_spellings_of_the_folder_of_clips(tmp_path):
    root = write_mini_a2d(tmp_path, VIDEOS[2:], clips="CLIPS320")
    replace(root / TEXTS / "a2d_annotation.txt", "bb_tall,7", "cc_test,7")
    tool.make_a2d_lists(root, ["test"])
    assert numbers(a2d.eval_clips(root, 1)[0].read()) == [4]


def test_numbers_of_downloaded_lists_may_be_text(fresh):
    expected = a2d.read_samples(fresh, "test")
    rows = [[query, video, str(frame), str(instance)] for query, video, frame, instance in rows_of(fresh, "test")]
    a2d.list_path(fresh, "test").write_text(json.dumps(rows))
    assert a2d.read_samples(fresh, "test") == expected


LIST_DAMAGE = {
    "not json": ("{", "is not a JSON file"),
    "empty": ("[]", r"must be a list of \[query, video, frame, instance\], at least one"),
    "short row": ('[["a box", "cc_test", 4]]', r"row 1 must be \[query, video, frame, instance\], not .*cc_test"),
    "frame 0": ('[["a box", "cc_test", 0, 1]]', "row 1 must be .* a frame from 1"),
    "no text": ('[[" ", "cc_test", 4, 1]]', "row 1 must be .* with a sentence"),
    "instance": ('[["a box", "cc_test", 4, "1 (copy)"]]', r"row 1: instance '1 \(copy\)' is not a number"),
    "twice": ('[["a box", "cc_test", 4, 1], ["a box", "cc_test", 4, "1"]]', "lists v_cc_test_f_4_i_1 twice"),
    "unknown": ('[["a box", "zz_new", 4, 1]]', "zz_new.mp4: the video, which .*test_annotations.json names"),
}


@pytest.mark.parametrize("name", LIST_DAMAGE)
def test_bad_lists_are_named(fresh, name):
    content, message = LIST_DAMAGE[name]
    a2d.list_path(fresh, "test").write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{message}.*see docs/data.md, A2D-Sentences"):
        a2d.eval_clips(fresh, 3)


def test_missing_lists_and_ground_truth_say_how_to_make_them(raw):
    args = mini_args(raw)
    command = f"python tools/data/make_sentences_annotations.py a2d {raw}"
    for read in (build_train_loader, lambda a: eval_set(a, "test").clips(), lambda a: eval_set(a, "test").truth([])):
        with pytest.raises(FileNotFoundError, match=command):
            read(args)


def test_masks_that_do_not_fit_are_named_in_training(fresh):
    frame = entry(fresh, "bb_tall", 5)
    with pytest.raises(ValueError, match="00005.h5: has no instance 3, which the list of samples names"):
        frame.masks([2], [(3,)], (80, 48))
    with pytest.raises(ValueError, match="00005.h5: its masks are 48x80 pixels, but the video is 80x48"):
        frame.masks([2], [(0,)], (48, 80))
    a2d.mask_path(fresh, "bb_tall", 5).unlink()
    with pytest.raises(FileNotFoundError, match="00005.h5: the file of this frame's masks does not exist"):
        a2d.train_videos(fresh, 3)


def test_a_video_that_ends_before_its_annotated_frame_is_named(fresh):
    write_video(fresh / "Release" / "clips320H" / "cc_test.mp4", 7, (48, 80))
    clips = {clip.frame: clip for clip in a2d.eval_clips(fresh, 3)}
    assert numbers(clips[4].read()) == [3, 4, 5]
    with pytest.raises(ValueError, match="cc_test.mp4: has 7 frames, but frame 10 is annotated"):
        clips[10].read()


def test_ground_truth_of_other_samples_is_refused_before_inference(fresh):
    args = mini_args(fresh)
    clips = eval_set(args, "test").clips()
    assert eval_set(args, "test").truth(clips).keys() == {i for clip in clips for i in clip.expressions}
    with pytest.raises(
        ValueError, match=r"ground truth of the split test has sample v_cc_test_f_10_i_1.*make them anew"
    ):
        eval_set(args, "test").truth([clip for clip in clips if clip.frame != 10])
    a2d.truth_path(fresh).write_text("{}")
    with pytest.raises(ValueError, match="coco_format.json: is not ground truth .*; delete it and make it anew; see"):
        eval_set(args, "test").truth(clips)
