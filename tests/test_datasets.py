"""Ref-YouTube-VOS on disk: splits, decoding, clips, batches, and what bad data says."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from datasets import build_train_loader, eval_set, num_classes
from datasets.base import ClipDataset
from datasets.collate import collate, identity_numbers
from datasets.samplers import ClipRequest
from datasets.sides import swap_sides
from datasets.ytvos import CATEGORIES, annotations_root, frames_root, split_videos
from tests.helpers import SHARED, needs_shared
from tests.mini_ytvos import VIDEOS, MiniVideo, meta_entry, mini_args, write_meta, write_mini_ytvos, write_video
from util.masks.box_ops import masks_to_boxes
from util.samples.structures import Clip, Target
from util.video.pictures import read_frame, read_frames, read_label_maps


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    return write_mini_ytvos(tmp_path_factory.mktemp("mini"))


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A data set of its own for tests that damage it."""
    return write_mini_ytvos(tmp_path / "fresh", train=VIDEOS[:2])


def dataset(root: Path, *flags: str) -> ClipDataset:
    return build_train_loader(mini_args(root, *flags)).dataset


PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")


# ---------------------------------------------------------------------------------------------------------- splits


def test_categories_are_the_65_in_order():
    """Copied from ``ytvos_category_list`` of ReferFormer's datasets/categories.py (github.com/wjn922/ReferFormer)."""
    published = (
        "airplane ape bear bike bird boat bucket bus camel cat cow crocodile deer dog dolphin duck eagle earless_seal "
        "elephant fish fox frisbee frog giant_panda giraffe hand hat hedgehog horse knife leopard lion lizard monkey "
        "motorbike mouse others owl paddle parachute parrot penguin person plant rabbit raccoon sedan shark sheep "
        "sign skateboard snail snake snowboard squirrel surfboard tennis_racket tiger toilet train truck turtle "
        "umbrella whale zebra"
    )
    assert list(CATEGORIES) == published.split()
    assert len(CATEGORIES) == 65


def test_holdout_is_stable_disjoint_and_nested(mini):
    everything = split_videos(mini, "train")
    for size in (1, 2, 3):
        kept, held = split_videos(mini, "train", size), split_videos(mini, "holdout", size)
        assert len(held) == size
        assert not kept.keys() & held.keys()
        assert kept | held == everything
        assert held.items() >= split_videos(mini, "holdout", max(1, size - 1)).items()
    # Scores on the hold-out stay comparable only while the same videos are drawn.
    assert list(split_videos(mini, "holdout", 2)) == ["cc_portrait", "dd_short"]


@pytest.mark.parametrize(("split", "holdout", "message"), [("train", 4, "4 videos"), ("holdout", 0, "--holdout N")])
def test_impossible_holdouts_are_refused(mini, split, holdout, message):
    with pytest.raises(ValueError, match=message):
        split_videos(mini, split, holdout)


def test_holdout_videos_never_reach_training(mini):
    loader = build_train_loader(mini_args(mini, "--holdout", "2", "--binary"))
    seen = {clip["video_id"] for batch in loader for clip in batch.clips}
    held = {video.video_id for video in eval_set(mini_args(mini, "--holdout", "2"), "holdout").videos()}
    assert seen == {video.name for video in VIDEOS} - held


def test_valid_is_what_the_test_file_does_not_name(tmp_path):
    root = write_mini_ytvos(tmp_path, valid=VIDEOS)
    write_meta(root, "test", {video.name: meta_entry(video, objects=False) for video in VIDEOS[1:3]})
    assert list(split_videos(root, "valid")) == ["aa_wide", "dd_short"]
    assert list(split_videos(root, "test")) == ["bb_absent", "cc_portrait"]


def test_without_test_file_valid_is_what_lies_on_disk(fresh):
    elsewhere = {video.name: meta_entry(video, objects=False) for video in VIDEOS}
    write_meta(fresh, "valid", elsewhere)
    assert list(split_videos(fresh, "valid")) == ["aa_wide", "bb_absent"]
    with pytest.raises(FileNotFoundError, match="test.*docs/data.md, Ref-YouTube-VOS"):
        split_videos(fresh, "test")


@needs_shared
def test_valid_of_the_real_file(tmp_path):
    videos = json.loads((SHARED / "data/text/ref_youtube_vos_valid_test_507.json").read_text())["videos"]
    test = dict(list(videos.items())[:305])
    write_meta(tmp_path, "valid", videos)
    write_meta(tmp_path, "test", test)
    valid = split_videos(tmp_path, "valid")
    assert len(videos) == 507 and len(valid) == 202
    assert valid.keys() | test.keys() == videos.keys()


def test_folders_of_splits(mini, tmp_path):
    assert frames_root(mini, "holdout") == mini / "train" / "JPEGImages"
    assert annotations_root(mini, "holdout") == mini / "train" / "Annotations"
    assert frames_root(mini, "test") == mini / "valid" / "JPEGImages"
    (tmp_path / "test" / "JPEGImages").mkdir(parents=True)
    assert frames_root(tmp_path, "test") == tmp_path / "test" / "JPEGImages"
    with pytest.raises(ValueError, match="--split val .*holdout"):
        frames_root(mini, "val")


# ----------------------------------------------------------------------------------------------------------- clips


def test_windows_cover_every_expression(mini):
    data = dataset(mini)
    per_window = len(VIDEOS[0].expressions())
    assert len(data) == per_window * sum(-(-video.length // 3) for video in VIDEOS)
    asked = Counter()
    for index in range(len(data)):
        clip = data[ClipRequest(index)]
        asked[clip.video_id, clip.targets[0].identity, swap_sides(clip.expressions[0])] += 1
    assert sum(asked.values()) == len(data)


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_every_epoch_asks_each_expression_once_per_window(mini, most):
    data = dataset(mini, "--expressions_per_clip", str(most), *PLAIN)
    groupings = set()
    for epoch in range(4):
        asked, grouping = Counter(), []
        for index in range(len(data)):
            clip = data[ClipRequest(index, epoch)]
            assert len(clip.expressions) == len(clip.targets) <= most
            asked.update((clip.video_id, text) for text in clip.expressions)
            grouping.append(tuple(clip.expressions))
        windows = {video.name: -(-video.length // 3) for video in VIDEOS}
        texts = [expression["exp"].lower() for expression in VIDEOS[0].expressions().values()]
        assert asked == {(name, text): count for name, count in windows.items() for text in texts}
        groupings.add(tuple(grouping))
    assert len(groupings) > 1


def test_targets_are_the_masks_on_disk(mini):
    """Without augmentation and at the frames' own size nothing may change, in no frame, for either object."""
    known = {video.name: video for video in VIDEOS}
    data = dataset(mini, *PLAIN, "--train_sizes", "48", "--max_size", "80")
    for index in range(len(data)):
        clip = data[ClipRequest(index)]
        video = known[clip.video_id]
        if video.width != 80:
            continue
        target = clip.targets[0]
        object_id = int(target.identity.split("/")[1])
        times = [video.frames.index(name) for name in clip.frame_ids]
        assert times == sorted(times) and set(times) == set(range(times[0], times[-1] + 1))
        masks = torch.stack([torch.from_numpy(video.labels(t) == object_id) for t in times])[:, None]
        assert torch.equal(target.masks, masks)
        assert torch.equal(target.present, masks.flatten(2).any(-1))
        assert torch.equal(target.boxes, masks_to_boxes(masks))
        assert target.labels.tolist() == [CATEGORIES.index({1: "person", 2: "zebra"}[object_id])]
        assert target.annotated.all()
        assert clip.original_size == (48, 80)


def test_short_videos_repeat_their_last_frame(mini):
    data = dataset(mini, *PLAIN, "--num_frames", "5")
    clip = next(clip for i in range(len(data)) if (clip := data[ClipRequest(i)]).video_id == "dd_short")
    assert clip.frame_ids == ["00000", "00005", "00010", "00010", "00010"]
    assert torch.equal(clip.frames[2], clip.frames[4]) and not torch.equal(clip.frames[1], clip.frames[2])
    assert clip.targets[0].annotated.all()


def test_a_sample_is_determined_by_seed_epoch_and_request(mini):
    request = ClipRequest(4, epoch=2, step=3)
    first, again = (dataset(mini)[request] for _ in range(2))
    assert torch.equal(first.frames, again.frames) and first.expressions == again.expressions
    others = [dataset(mini, "--seed", "7")[request], dataset(mini)[ClipRequest(4, 3, 3)]]
    assert all(
        other.frames.shape != first.frames.shape or not torch.equal(other.frames, first.frames) for other in others
    )


def test_binary_needs_no_categories(fresh):
    (fresh / "train" / "meta.json").unlink()
    args = mini_args(fresh, "--binary")
    assert num_classes(args) == 1 and num_classes(mini_args(fresh)) == 65
    assert all(not batch.targets.labels.any() for batch in build_train_loader(args))
    with pytest.raises(FileNotFoundError, match=r"meta\.json.*--binary"):
        build_train_loader(mini_args(fresh))


# --------------------------------------------------------------------------------------------------------- batches


def batches_of(root: Path, *flags: str) -> list:
    loader = build_train_loader(mini_args(root, "--batch_size", "2", "--expressions_per_clip", "2", *flags))
    loader.batch_sampler.set_epoch(1)
    batches = list(loader)
    assert len(batches) == len(loader)
    return batches


def test_workers_change_nothing(mini):
    alone, shared = batches_of(mini), batches_of(mini, "--num_workers", "2")
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a.video, b.video) and torch.equal(a.targets.masks, b.targets.masks)
        assert a.expressions == b.expressions and a.clips == b.clips


def test_batches_are_consistent(mini):
    for batch in batches_of(mini):
        height, width = batch.video.shape[-2:]
        assert height % 32 == 0 and width % 32 == 0
        assert len(batch.expressions) == len(batch.clip_index) == len(batch.targets.identities)
        for sample, clip_number in enumerate(batch.clip_index.tolist()):
            clip = batch.clips[clip_number]
            objects = identity_numbers([f"{clip['video_id']}/{number}" for number in (1, 2)])
            assert batch.targets.identities[sample] in objects
            real_h, real_w = clip["size"]
            valid = batch.video_valid[clip_number]
            assert valid[:real_h, :real_w].all() and valid.sum() == real_h * real_w
            assert not batch.video[clip_number][..., ~valid].any()
            masks = batch.targets.masks[sample]
            assert not masks[..., ~valid].any()
            assert torch.equal(masks_to_boxes(masks[..., :real_h, :real_w]), batch.targets.boxes[sample])


def make_clip(height: int, width: int, instances: list[int], name: str) -> Clip:
    """A clip of two frames, with as many expressions as there are numbers of instances."""
    targets = []
    for count in instances:
        masks = torch.ones(2, count, height, width, dtype=torch.bool)
        present = torch.ones(2, count, dtype=torch.bool)
        labels = torch.full((count,), 3)
        targets.append(Target(masks, masks_to_boxes(masks), labels, present, torch.tensor([True, False]), name))
    texts = [f"{name} {i}" for i in range(len(instances))]
    return Clip(torch.ones(2, 3, height, width), texts, targets, name, ["0", "1"], (height, width))


def test_collate_pads_clips_and_instances():
    batch = collate([make_clip(30, 64, [1, 2], "a"), make_clip(33, 40, [3], "b")])
    assert batch.video.shape == (2, 2, 3, 64, 64)
    assert batch.clip_index.tolist() == [0, 0, 1]
    assert batch.expressions == ["a 0", "a 1", "b 0"]
    assert batch.targets.masks.shape == (3, 2, 3, 64, 64)
    assert batch.targets.valid.tolist() == [[True, False, False], [True, True, False], [True, True, True]]
    assert torch.equal(batch.targets.present.any(1), batch.targets.valid)
    assert batch.targets.masks.sum((1, 3, 4)).tolist() == [
        [2 * 30 * 64, 0, 0],
        [2 * 30 * 64] * 2 + [0],
        [2 * 33 * 40] * 3,
    ]
    # A mask that fills its clip has the box of the whole clip, however much padding there is.
    assert torch.equal(batch.targets.boxes[2, 0, 0], torch.tensor([0.5, 0.5, 1, 1]))
    assert batch.targets.annotated.tolist() == [[True, False]] * 3
    assert batch.clips[1]["size"] == (33, 40)


def test_collate_without_targets():
    clip = make_clip(32, 32, [], "a")
    assert collate([clip]).targets is None


# ------------------------------------------------------------------------------------------------------- inference


def test_eval_videos_read_what_is_asked(mini):
    videos = eval_set(mini_args(mini), "valid").videos()
    assert [video.video_id for video in videos] == ["aa_wide", "bb_absent"]
    video = videos[0]
    assert video.original_size == (48, 80)
    assert video.expressions["0"] == "the red box on the left"
    everything = video.read(slice(None))
    assert everything.dtype == torch.uint8 and everything.shape == (7, 3, 48, 80)
    assert torch.equal(video.read(slice(2, 4)), everything[2:4])
    assert torch.equal(video.read([5, 0, 0]), everything[[5, 0, 0]])
    assert torch.equal(read_frame(video.frame_paths[3]), everything[3])


@needs_shared
def test_real_sample_videos():
    args = mini_args(SHARED / "data/ref-youtube-vos", "--expressions_per_clip", "3", *PLAIN)
    for batch in build_train_loader(args):
        assert batch.targets.present.any() and set(batch.targets.labels.flatten().tolist()) == {
            CATEGORIES.index("penguin")
        }
    (video,) = eval_set(args, "valid").videos()
    assert video.original_size == (720, 1280) and video.read([0, 18]).shape == (2, 3, 720, 1280)


# ------------------------------------------------------------------------------------------------------- bad input


def rewrite(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _entry(content: dict) -> dict:
    return content["videos"]["bb_absent"]


BAD_META = {
    "no videos": (lambda c: c.pop("videos"), '"videos"'),
    "no frames key": (lambda c: _entry(c).pop("frames"), '"expressions" and "frames"'),
    "zero-length video": (lambda c: _entry(c).update(frames=[]), "at least one frame"),
    "frame listed twice": (lambda c: _entry(c)["frames"].append("00005"), "00005 twice"),
    "no expressions": (lambda c: _entry(c).update(expressions={}), "at least one expression"),
    "no text": (lambda c: _entry(c)["expressions"]["1"].pop("exp"), 'expression 1 .*"exp"'),
    "blank text": (lambda c: _entry(c)["expressions"]["1"].update(exp=" "), "bb_absent, expression 1 is empty"),
    "no object": (lambda c: _entry(c)["expressions"]["1"].pop("obj_id"), 'expression 1 .*"obj_id"'),
    "odd object": (lambda c: _entry(c)["expressions"]["1"].update(obj_id="0"), "1 to 255"),
    "unknown object": (lambda c: _entry(c)["expressions"]["1"].update(obj_id="9"), "no object 9"),
}


@pytest.mark.parametrize("case", BAD_META)
def test_bad_expression_files_name_file_and_mend(fresh, case):
    change, message = BAD_META[case]
    rewrite(fresh / "meta_expressions/train/meta_expressions.json", change)
    with pytest.raises(ValueError, match=rf"\.json: .*{message}.*see docs/data\.md, Ref-YouTube-VOS"):
        build_train_loader(mini_args(fresh))


def test_unparsable_and_missing_expression_files(fresh):
    path = fresh / "meta_expressions/train/meta_expressions.json"
    path.write_text('{"videos": {')
    with pytest.raises(ValueError, match=r"meta_expressions\.json: is not a JSON file"):
        build_train_loader(mini_args(fresh))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"meta_expressions\.json.*docs/data\.md"):
        build_train_loader(mini_args(fresh))


def test_unknown_category_suggests_binary(fresh):
    rewrite(fresh / "train/meta.json", lambda c: _entry(c)["objects"]["2"].update(category="unicorn"))
    with pytest.raises(ValueError, match=r"meta\.json: .*'unicorn'.*--binary"):
        build_train_loader(mini_args(fresh))


FRAME, MASK = "train/JPEGImages/bb_absent/00010.jpg", "train/Annotations/bb_absent/00010.png"


def _resize(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((40, 24), Image.Resampling.NEAREST).save(path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BAD_FILES = {
    "missing frame": (FRAME, Path.unlink, FileNotFoundError, "frame does not exist"),
    "truncated frame": (FRAME, _truncate, ValueError, "damaged"),
    "frame that is text": (FRAME, lambda p: p.write_text("no"), ValueError, "damaged"),
    "frame of another size": (
        FRAME,
        _resize,
        ValueError,
        "pixels, but the frame 000.*.jpg of the same video is",
    ),
    "truncated mask": (MASK, _truncate, ValueError, "damaged"),
    "mask of another size": (MASK, _resize, ValueError, "40x24 pixels, but its frame is 80x48"),
    "colour mask": (MASK, lambda p: Image.new("RGB", (80, 48), (1, 2, 3)).save(p), ValueError, "mode RGB"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files_are_named_with_the_mend(fresh, case):
    name, damage, error, message = BAD_FILES[case]
    damage(fresh / name)
    with pytest.raises(error, match=rf"{Path(name).parent.name}/.*: .*{message}.*docs/data\.md"):
        list(build_train_loader(mini_args(fresh)))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_errors_are_one_line_from_workers_too(fresh, workers):
    (fresh / FRAME).write_text("no")
    with pytest.raises(ValueError) as caught:
        list(build_train_loader(mini_args(fresh, "--num_workers", workers)))
    assert str(caught.value).startswith(str(fresh / FRAME)) and "\n" not in str(caught.value)


def test_first_frame_that_cannot_be_measured(fresh):
    (fresh / "train/JPEGImages/aa_wide/00000.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"aa_wide/00000\.jpg: the frame is damaged"):
        build_train_loader(mini_args(fresh))


def test_object_that_no_mask_holds(fresh):
    for mask in (fresh / "train/Annotations/bb_absent").iterdir():
        Image.new("L", (80, 48)).save(mask)
    with pytest.raises(ValueError, match="no mask of this video shows object 2, .*correct the expression"):
        list(build_train_loader(mini_args(fresh)))


def test_listed_frame_missing_at_inference(fresh):
    (fresh / "valid/JPEGImages/aa_wide/00015.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"aa_wide/00015\.jpg: the frame is listed in .*meta_expressions\.json"):
        eval_set(mini_args(fresh), "valid").videos()


def test_reading_repeated_paths_equals_reading_each(tmp_path):
    video = MiniVideo("x")
    write_video(tmp_path, "train", video)
    frames = [tmp_path / f"train/JPEGImages/x/{name}.jpg" for name in video.frames[:2]]
    masks = [tmp_path / f"train/Annotations/x/{name}.png" for name in video.frames[:2]]
    repeated = [0, 1, 1]
    assert torch.equal(read_frames([frames[i] for i in repeated]), read_frames(frames)[repeated])
    maps = read_label_maps([masks[i] for i in repeated], (48, 80))
    assert torch.equal(maps[:, 0], torch.stack([torch.from_numpy(video.labels(t)) for t in repeated]))


def test_listed_videos_without_frames_are_told_of_where_no_test_list_says_why(fresh, capsys):
    shutil.rmtree(fresh / "valid/JPEGImages/bb_absent")
    assert list(split_videos(fresh, "valid")) == ["aa_wide", "bb_absent"], "it has masks"
    shutil.rmtree(fresh / "valid/Annotations/bb_absent")
    for _ in range(2):
        assert list(split_videos(fresh, "valid")) == ["aa_wide"]
    assert capsys.readouterr().err.count("1 of 2 listed videos have no frames") == 1


def test_the_older_form_of_a_list_is_known_for_what_it_is(fresh):
    write_meta(fresh, "valid", {"aa_wide": {"objects": {"1": {"expressions": ["it"], "frames": []}}}})
    with pytest.raises(ValueError, match="an older form of the list, which scoring takes with --expressions"):
        split_videos(fresh, "valid")
