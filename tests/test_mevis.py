"""MeViS: targets of several objects, masks of one large file, scores, the submission, and what bad data says."""

from __future__ import annotations

import json
import shlex
import zipfile
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eval_mevis
from datasets import build_train_loader, eval_set, eval_split, may_be_trained_on, num_classes
from datasets.base import ClipDataset
from datasets.mevis import MaskStore, masks_path, read_masks, split_videos, train_videos
from datasets.samplers import ClipRequest
from davis2017.metrics import db_eval_boundary, db_eval_iou
from davis2017.truth import RleMasks
from davis2017.ytvos_protocol import score_results
from tests.helpers import edit
from tests.mini_mevis import TRAIN, VALID, VALID_U, MiniVideo, mini_args, rle, write_mini_mevis
from tests.test_end_to_end import NETWORK, run
from tests.test_rle import encoded
from util.masks.results import mask_name, write_mask_png
from util.masks.submission import build_submission, validate_submission

PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    return write_mini_mevis(tmp_path_factory.mktemp("mini_mevis"))


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A data set of its own for tests that damage it."""
    return write_mini_mevis(tmp_path / "fresh")


# ----------------------------------------------------------------------------------------------------------- loader


def test_targets_are_unions_of_the_annotations(mini):
    videos = {video.video_id: video for video in train_videos(mini, 0)}
    assert list(videos) == [video.name for video in TRAIN]
    for drawn in TRAIN:
        video = videos[drawn.name]
        positions = [0, 2, drawn.length - 1]
        assert [e.objects for e in video.expressions] == [
            (drawn.first,),
            (drawn.first + 1, drawn.first + 2),
            (drawn.first, drawn.first + 1, drawn.first + 2),
            (drawn.first + 1,),
        ]
        assert video.size() == (drawn.height, drawn.width)
        masks = video.masks(positions, [e.objects for e in video.expressions], video.size())
        assert masks.dtype == torch.uint8 and set(masks.unique().tolist()) == {0, 1}
        for e, numbers in enumerate(([0], [1, 2], [0, 1, 2], [1])):
            for i, t in enumerate(positions):
                assert np.array_equal(masks[i, e].numpy(), drawn.union(numbers, t)), (drawn.name, e, t)


def test_frames_are_those_that_the_list_names(mini):
    video = train_videos(mini, 0)[1]
    frames = video.frames([4, 1])
    assert np.abs(frames[1].permute(1, 2, 0).numpy().astype(int) - TRAIN[1].image(1)).mean() < 4
    assert not torch.equal(frames[0], frames[1])


def test_clips_are_binary_and_absence_is_seen(mini):
    loader = build_train_loader(mini_args(mini, "--expressions_per_clip", "4", *PLAIN))
    clips: ClipDataset = loader.dataset
    assert num_classes(mini_args(mini)) == 1
    hidden = next(i for i, (video, start, _) in enumerate(clips.entries) if clips.videos[video].video_id == "bb_hidden")
    clip = clips[ClipRequest(hidden)]
    assert {int(target.labels) for target in clip.targets} == {0}
    by_target = {target.identity: target for target in clip.targets}
    assert set(by_target) == {"bb_hidden/3", "bb_hidden/4/5", "bb_hidden/3/4/5", "bb_hidden/4"}
    shown = [int(frame) for frame in clip.frame_ids]
    assert by_target["bb_hidden/4"].present.flatten().tolist() == [t > 2 for t in shown]
    assert by_target["bb_hidden/4/5"].present.flatten().tolist() == [t != 1 for t in shown]
    assert sum(len(batch.expressions) for batch in loader) == 4 * sum(-(-video.length // 3) for video in TRAIN)


def test_worker_processes_share_the_masks(mini):
    """What a worker is sent names the memory of the masks and does not repeat it."""
    path = masks_path(mini, "train")
    few = len(bytes(ForkingPickler.dumps(MaskStore(path))))
    content = json.loads(path.read_text())
    longer = path.with_name("longer.json")
    longer.write_text(json.dumps({name: masks * 200 for name, masks in content.items()}))
    many = len(bytes(ForkingPickler.dumps(MaskStore(longer))))
    assert many < few + 200 < longer.stat().st_size / 10
    longer.unlink()


def test_batches_do_not_depend_on_worker_processes(mini):
    batches = [list(build_train_loader(mini_args(mini, "--num_workers", n, "--binary"))) for n in ("0", "2")]
    for one, other in zip(*batches, strict=True):
        assert torch.equal(one.video, other.video) and one.expressions == other.expressions
        assert torch.equal(one.targets.masks, other.targets.masks)


def test_splits(mini):
    names = {split: list(split_videos(mini, split)) for split in ("train", "valid_u", "valid")}
    assert names == {
        "train": [v.name for v in TRAIN],
        "valid_u": [v.name for v in VALID_U],
        "valid": [v.name for v in VALID],
    }
    kept, held = split_videos(mini, "train", 1), split_videos(mini, "holdout", 1)
    assert len(held) == 1 and not kept.keys() & held.keys() and kept | held == split_videos(mini, "train")
    (video,) = eval_set(mini_args(mini), "valid").videos()
    assert video.expressions == {i: e["exp"] for i, e in VALID[0].expressions().items()}
    assert video.frame_names == ("00000", "00001", "00002") and video.original_size == (48, 80)
    with pytest.raises(ValueError, match="--split test does not exist for MeViS; choose one of train, holdout"):
        split_videos(mini, "test")


def test_the_split_that_is_scored(mini):
    assert eval_split(mini_args(mini), "mevis") == "valid_u"
    assert eval_split(mini_args(mini, "--holdout", "1"), "mevis") == "holdout"
    assert eval_split(mini_args(mini, "--holdout", "1"), "ytvos") == "valid_u"
    with pytest.raises(ValueError, match="--eval_split valid does not exist for --dataset_file mevis"):
        eval_split(mini_args(mini, "--eval", "--resume", "x", "--eval_split", "valid"), "mevis")
    assert may_be_trained_on("mevis", "mevis") and not may_be_trained_on("mevis", "ytvos")
    # a mixture has seen its parts; the three sets of RefCOCO have images in common
    assert may_be_trained_on("ytvos", "joint") and not may_be_trained_on("mevis", "joint")
    assert may_be_trained_on("refcoco+", "refcocog") and may_be_trained_on("refcoco", "all")


# --------------------------------------------------------------------------------------------------------- bad data


def _expression(content: dict) -> dict:
    return content["videos"]["aa_wide"]["expressions"]["1"]


BAD_LISTS = {
    "no list": (
        lambda c: _expression(c).update(anno_id=1),
        'video aa_wide, expression 1 must name its objects as "ann',
    ),
    "empty list": (lambda c: _expression(c).update(anno_id=[]), "a list of at least one number"),
    "text": (lambda c: _expression(c).update(anno_id=["1"]), "a list of at least one number"),
    "nothing": (lambda c: _expression(c).pop("anno_id"), "docs/data.md, MeViS"),
    "unknown": (
        lambda c: _expression(c).update(anno_id=[1, 99]),
        "mask_dict.json: there is no annotation 99, which ex",
    ),
    "blank": (lambda c: _expression(c).update(exp=" "), "expression 1 is empty"),
    "frames": (
        lambda c: c["videos"]["aa_wide"]["frames"].append("00006"),
        "annotation 0 has masks for 6 frames, but video aa_wide, of which it is, has 7",
    ),
}


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_bad_expressions_are_named(fresh, kind):
    change, message = BAD_LISTS[kind]
    edit(fresh / "train" / "meta_expressions.json", change)
    with pytest.raises(ValueError, match=message):
        train_videos(fresh, 0)


BAD_MASKS = {
    "key": (lambda c: c.update(one=[]), "annotation one is not a number"),
    "no list": (lambda c: c.update({"0": 3}), "annotation 0 must be a list with a mask of each frame"),
    "number": (lambda c: c["0"].__setitem__(2, 5), "annotation 0 must have, as the mask of frame 2, null or"),
    "uncompressed": (lambda c: c["0"][1].update(counts=[3, 4]), "annotation 0 must have, as the mask of frame 1"),
    "size": (lambda c: c["0"][0].update(size=[48]), "annotation 0 must have, as the mask of frame 0"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_bad_mask_files_are_named(fresh, kind):
    change, message = BAD_MASKS[kind]
    edit(fresh / "train" / "mask_dict.json", change)
    with pytest.raises(ValueError, match=f"mask_dict.json: {message}.*docs/data.md, MeViS"):
        train_videos(fresh, 0)


def test_missing_and_unreadable_mask_files(fresh):
    path = fresh / "train" / "mask_dict.json"
    path.write_text(path.read_text()[:-100])
    with pytest.raises(ValueError, match="mask_dict.json: is not a JSON file .* download it again"):
        train_videos(fresh, 0)
    path.write_text("[]")
    with pytest.raises(ValueError, match="mask_dict.json: must hold {annotation"):
        train_videos(fresh, 0)
    path.write_text("{}")
    with pytest.raises(ValueError, match="there is no annotation 0"):
        train_videos(fresh, 0)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="mask_dict.json: the masks' file does not exist; see docs"):
        train_videos(fresh, 0)


def test_masks_that_do_not_fit_their_frames(fresh):
    path = fresh / "train" / "mask_dict.json"
    edit(path, lambda c: c["0"][1].update(size=[80, 48]))
    video = train_videos(fresh, 0)[0]
    with pytest.raises(
        ValueError, match=r"annotation 0, frame 00001 of aa_wide: is 48x80 pixels, but its frame is 80x48"
    ):
        video.masks([0, 1], [(0,)], (48, 80))
    edit(path, lambda c: c["0"][1].update(size=[48, 80], counts=rle(TRAIN[0].mask(0, 1)[:, 1:])["counts"]))
    video = train_videos(fresh, 0)[0]
    assert video.masks([0], [(0,)], (48, 80)).any()
    with pytest.raises(ValueError, match="annotation 0, frame 00001 of aa_wide: the mask is damaged .its runs do not"):
        video.masks([0, 1], [(0,)], (48, 80))


def test_an_expression_whose_objects_are_never_seen_is_refused(fresh):
    edit(fresh / "train" / "mask_dict.json", lambda c: c.update({"0": [None] * 6}))
    clips = build_train_loader(mini_args(fresh, "--expressions_per_clip", "4")).dataset
    with pytest.raises(ValueError, match="video aa_wide: no mask of this video shows object 0, which expression 0"):
        clips[ClipRequest(0)]


# ----------------------------------------------------------------------------------------------------------- scores


def local(mini: Path) -> tuple[RleMasks, dict[str, dict]]:
    videos = split_videos(mini, "valid_u")
    return RleMasks(masks_path(mini, "valid_u"), read_masks(mini, "valid_u", videos)), videos


def write_results(folder: Path, answer, root: str = "Annotations") -> Path:
    """Masks of every expression of valid_u: ``answer(video, expression id, t)``."""
    for video in VALID_U:
        for eid in video.expressions():
            for t, frame in enumerate(video.frames):
                write_mask_png(folder / mask_name(video.name, eid, frame, root), answer(video, eid, t))
    return folder


def meant(video: MiniVideo, eid: str, t: int) -> np.ndarray:
    return video.union(video.expressions()[eid]["obj_id"], t)


def test_right_answers_score_one_whatever_the_root(mini, tmp_path):
    truth, videos = local(mini)
    results = write_results(tmp_path / "results", meant)
    scores = score_results(results, truth, videos)
    assert (scores["J"], scores["F"], scores["expressions"]) == (1, 1, 8)
    sizes = {video.name: (video.height, video.width) for video in VALID_U}
    build_submission(results, tmp_path / "submission.zip", videos, sizes, root="")
    assert score_results(tmp_path / "submission.zip", truth, videos, root="") == scores
    bare = write_results(tmp_path / "bare", meant, root="")
    assert score_results(bare, truth, videos, root="") == scores
    assert score_results(results, truth, videos, other_objects=True)["J&F"] == 1


def test_worked_out_by_hand(mini, tmp_path):
    """Object 0 is a third of the height by 3 sixteenths of the width: 16 x 15 pixels."""
    truth, videos = local(mini)

    def answer(video, eid, t):
        if eid == "0":
            # the left one, of which the upper half is found, and nothing where it is out of sight
            mask = video.mask(0, t)
            mask[2 * t + 8 :] = False
            return mask
        if eid == "1":
            return video.mask(1, t)
        # one box of the three; and all of them where one is meant
        return video.mask(0, t) if eid == "2" else video.union([1, 2], t)

    results = write_results(tmp_path / "results", answer)
    scores = score_results(results, truth, videos, other_objects=True)
    left = scores["videos"]["dd_local"]["0"]
    assert left["J"] == pytest.approx((0.5 + 0.5 + 1 + 0.5) / 4)
    assert left["frames"] == 4 and left["anno_id"] == [0] and left["obj_id"] == [0]
    # Disjoint from the left box are the targets [1, 2] and [1]; the half of it touches neither, so both are missed
    # in every frame but the one in which nothing was predicted, where they are not blank either.
    assert left["other"] == {"anno_id": [1], "J": 0, "F": 0, "J&F": 0}
    # Objects 1 and 2 are in every frame: 1 is 16 x 20 pixels, 2 is 10 x 26, of which 10 x 10 are shared.
    two = scores["videos"]["dd_local"]["1"]
    assert two["J"] == pytest.approx(320 / (320 + 260 - 100))
    assert two["other"] == {"anno_id": [0], **{"J": 0.0, "F": 0.0, "J&F": 0.0}}
    assert scores["videos"]["dd_local"]["3"]["J"] == pytest.approx(320 / 480)
    # No other expression leaves out all of the three.
    assert scores["videos"]["dd_local"]["2"]["other"] is None
    every = np.stack([VALID_U[0].union([0, 1, 2], t) for t in range(4)])
    found = np.stack([VALID_U[0].mask(0, t) for t in range(4)])
    assert scores["videos"]["dd_local"]["2"]["J"] == pytest.approx(db_eval_iou(every, found).mean())
    assert scores["videos"]["dd_local"]["2"]["F"] == pytest.approx(db_eval_boundary(every, found).mean())


def test_right_masks_of_another_target_show_against_it(mini, tmp_path):
    truth, videos = local(mini)
    swapped = {"0": [1, 2], "1": [0], "2": [0, 1, 2], "3": [0]}
    results = write_results(tmp_path / "results", lambda video, eid, t: video.union(swapped[eid], t))
    scored = score_results(results, truth, videos, other_objects=True)["videos"]["ee_local"]
    assert scored["0"]["J"] == 0 and scored["0"]["other"] == {"anno_id": [8, 9], "J": 1, "F": 1, "J&F": 1}
    assert scored["1"]["J"] == 0 and scored["1"]["other"] == {"anno_id": [7], "J": 1, "F": 1, "J&F": 1}


def test_ground_truth_that_cannot_be_scored(mini, fresh, tmp_path):
    truth, videos = local(mini)
    results = write_results(tmp_path / "results", meant)
    without = json.loads(json.dumps(videos))
    without["dd_local"]["expressions"]["0"]["anno_id"] = [70]
    with pytest.raises(ValueError, match=r"video dd_local, expression 0: anno_id \[70\] must be a list of annotations"):
        score_results(results, truth, without)
    mask, blank, turned = (
        encoded(mask) for mask in (np.ones((48, 80), bool), np.zeros((48, 80), bool), np.ones((80, 48), bool))
    )
    masks = {0: [blank] * 4, 1: [mask, None] * 2, 2: [None] * 4, 7: [mask] * 3, 8: [mask] * 3, 9: [mask] * 3}
    with pytest.raises(
        ValueError,
        match=r"dd_local, expression 0: object 0 is in none of the masks in m.json, video dd_local, which hold \[1\]",
    ):
        score_results(results, RleMasks(Path("m.json"), masks), videos)
    masks[1] = [turned] * 4
    with pytest.raises(
        ValueError, match="m.json: the masks of video dd_local must have the one size .* 80x48 and 48x80"
    ):
        score_results(results, RleMasks(Path("m.json"), masks), videos)


def test_command(mini, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.json"
    for name, root in (("results", "Annotations"), ("bare", "")):
        results = write_results(tmp_path / name, meant, root)
        words = ["eval_mevis.py", results, "--mevis_path", mini, "--against", "other", "--workers", 1, "--json", out]
        monkeypatch.setattr("sys.argv", [str(word) for word in words])
        eval_mevis.main()
        assert json.loads(out.read_text())["J&F"] == 1
        lines = capsys.readouterr().out.splitlines()
        assert lines[1].split() == ["dd_local", "4", "1.0000", "1.0000", "1.0000", "0.0000"]
    with pytest.raises(FileNotFoundError, match="absent: no such folder; give the data set with --mevis_path"):
        eval_mevis.load_split(tmp_path / "absent", "valid_u", 0)
    with pytest.raises(SystemExit):
        eval_mevis.parse_args(["results", "--split", "valid"])
    assert "invalid choice: 'valid'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------- submission


def test_submission_has_the_videos_at_its_root(mini, tmp_path):
    _, videos = local(mini)
    results = write_results(tmp_path / "results", meant)
    sizes = {video.name: (video.height, video.width) for video in VALID_U}
    build_submission(results, tmp_path / "s.zip", videos, sizes, root="")
    names = zipfile.ZipFile(tmp_path / "s.zip").namelist()
    assert names == sorted(f"{v.name}/{e}/{f}.png" for v in VALID_U for e in v.expressions() for f in v.frames)
    assert validate_submission(tmp_path / "s.zip", videos, sizes, root="") == []
    (problem,) = validate_submission(results, videos, sizes, root="")
    assert "has a folder Annotations/ at its root, where the videos' folders should be" in problem
    (problem,) = validate_submission(tmp_path / "s.zip", videos, sizes)
    assert "has no folder Annotations/ at its root: the first file is dd_local/0/00000.png" in problem
    (tmp_path / "none").mkdir()
    (problem,) = validate_submission(tmp_path / "none", videos, sizes, root="")
    assert problem.endswith("none is empty")


# ------------------------------------------------------------------------------------------------------- end to end


def test_train_infer_and_score(mini, tmp_path):
    expressions = mini / "train" / "meta_expressions.json"
    run("tools/make_tiny_text_encoder.py", expressions, "--output_dir", tmp_path / "text", "--hidden_size", 16)
    options = [
        *shlex.split(NETWORK),
        "--random_backbone",
        "--dataset_file",
        "mevis",
        "--mevis_path",
        mini,
        "--text_encoder",
        tmp_path / "text",
    ]
    # one window of each of the three videos: two steps
    trained = run(
        "main.py",
        *options,
        "--num_frames",
        6,
        "--expressions_per_clip",
        4,
        "--epochs",
        1,
        "--output_dir",
        tmp_path / "run",
    )
    assert "1 epoch of 2 steps" in trained.stdout
    checkpoint = ("--resume", tmp_path / "run" / "checkpoint.pth", "--device", "cpu")

    out = tmp_path / "valid"
    run("inference_mevis.py", *checkpoint, "--output_dir", out, "--visualize")
    wanted = {f"ff_server/{e}/{f}.png" for e in VALID[0].expressions() for f in VALID[0].frames}
    with zipfile.ZipFile(out / "submission.zip") as archive:
        assert set(archive.namelist()) == wanted
    assert len(list((out / "overlays").rglob("*.mp4"))) == 4
    first = (out / "submission.zip").read_bytes()
    masks = sorted((out / "Annotations").rglob("*.png"))
    untouched = masks[-1].stat().st_mtime_ns
    masks[0].unlink()
    run("inference_mevis.py", *checkpoint, "--output_dir", out)
    assert (out / "submission.zip").read_bytes() == first and masks[-1].stat().st_mtime_ns == untouched

    done = run("inference_mevis.py", *checkpoint, "--output_dir", tmp_path / "train", "--split", "train", ok=False)
    assert done.returncode == 2 and "--allow_trained" in done.stderr and not (tmp_path / "train").exists()

    evaluated = run("main.py", "--eval", *checkpoint)
    scores = json.loads((tmp_path / "run" / "eval_mevis_valid_u" / "scores.json").read_text())
    assert f"valid_u: J&F {scores['J&F']:.4f}" in evaluated.stdout
    # by hand, from the masks that were saved
    saved = tmp_path / "run" / "eval_mevis_valid_u"
    j = []
    for video in VALID_U:
        for eid in video.expressions():
            truth = np.stack([meant(video, eid, t) for t in range(video.length)])
            found = np.stack([np.asarray(Image.open(saved / mask_name(video.name, eid, f))) for f in video.frames])
            j.append(db_eval_iou(truth, found).mean())
    assert scores["J"] == pytest.approx(np.mean(j), abs=1e-12)
