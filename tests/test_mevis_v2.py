"""MeViS version 2: expressions that mean no object, in training, in the check, in scores and in the submission."""

from __future__ import annotations

import json
import shlex
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import eval_mevis
from datasets import build_train_loader, eval_set, may_be_trained_on
from datasets.base import ClipDataset
from datasets.mevis import MEVIS_V2, eval_videos, split_videos, train_videos
from datasets.samplers import ClipRequest
from davis2017.averages import accuracies, table
from davis2017.ytvos_protocol import score_results
from tests.helpers import edit
from tests.mini_mevis import LISTS, TRAIN, VALID, VALID_U, MiniVideo, mini_args, write_mini_mevis
from tests.test_end_to_end import NETWORK, run
from util.masks.results import mask_name, write_mask_png
from util.run.cli import INCOMPLETE

PLAIN = ("--no-flip", "--no-random_crop", "--no-photometric")
LIST = "train/meta_expressions_v2.json"
EMPTY = "4"  # the expression that means no object


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    return write_mini_mevis(tmp_path_factory.mktemp("mini_mevis_v2"), version=2)


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A data set of its own for tests that change it."""
    return write_mini_mevis(tmp_path / "fresh", version=2)


def last_of(content: dict, video: str = "aa_wide") -> dict:
    return content["videos"][video]["expressions"][EMPTY]


# ----------------------------------------------------------------------------------------------------------- loader


def test_an_expression_without_objects_has_empty_masks(mini):
    for video in train_videos(mini, 0, MEVIS_V2):
        *meant, empty = video.expressions
        assert all(e.objects for e in meant) and empty.objects == () and empty.exp_id == EMPTY
        masks = video.masks([0, 3], [e.objects for e in video.expressions], video.size())
        assert not masks[:, -1].any() and masks[:, 2].any()


@pytest.mark.parametrize("how", ["keep", "replace"])
def test_it_is_trained_as_absent_and_never_replaced(mini, how):
    flags = (*PLAIN, "--absent_object", how)
    data: ClipDataset = build_train_loader(mini_args(mini, *flags, version=2)).dataset
    alone = 0
    for index in range(len(data)):
        clip, video = data[ClipRequest(index)], data.videos[data.entries[index, 0]]
        if video.expressions[-1].text in clip.expressions:
            alone += 1
            assert clip.video_id == video.video_id and not clip.problems
            (target,) = clip.targets
            assert not target.present.any() and not target.masks.any() and not target.boxes.any()
            assert target.annotated.all() and target.identity == video.video_id
    assert alone == sum(-(-video.length // 3) for video in TRAIN)  # of every window one
    together = build_train_loader(mini_args(mini, *flags, "--expressions_per_clip", "5", version=2)).dataset
    for index in range(len(together)):
        clip = together[ClipRequest(index)]
        assert together.videos[together.entries[index, 0]].expressions[-1].text in clip.expressions
        assert how == "keep" or sum(not target.present.any() for target in clip.targets) == 1


@pytest.mark.parametrize("change", [lambda e: e.pop("anno_id") and e.pop("obj_id"), lambda e: e.update(anno_id=None)])
def test_the_lists_of_objects_may_be_missing(fresh, change):
    edit(fresh / LIST, lambda c: change(last_of(c)))
    assert train_videos(fresh, 0, MEVIS_V2)[0].expressions[-1].objects == ()


BAD_LISTS = {
    "objects without annotations": (
        dict(obj_id=[1]),
        'must name its objects as "anno_id" too, as "obj_id" is not empt',
    ),
    "text": (dict(anno_id=""), "a list of numbers, empty where it means no object"),
    "number": (dict(anno_id=0), "a list of numbers, empty where it means no object"),
    "negative": (dict(anno_id=[-1]), "video aa_wide, expression 4 must name its objects as"),
    "unknown": (
        dict(anno_id=[1, 99]),
        "mask_dict.json: there is no annotation 99, which expression 4 of video aa_wide",
    ),
}


@pytest.mark.parametrize("kind", BAD_LISTS)
def test_bad_lists_of_objects_are_named(fresh, kind):
    change, message = BAD_LISTS[kind]
    edit(fresh / LIST, lambda c: last_of(c).update(change))
    with pytest.raises(ValueError, match=message):
        train_videos(fresh, 0, MEVIS_V2)


def test_version_1_still_refuses_an_expression_without_objects(fresh):
    (fresh / LIST).rename(fresh / "train/meta_expressions.json")
    with pytest.raises(
        ValueError, match="expression 4 must name its .* in version 2 .*--dataset_file mevis_v2; .*_ver"
    ):
        train_videos(fresh, 0)


def test_both_versions_may_lie_in_one_folder(fresh):
    write_mini_mevis(fresh)
    for split in ("train", "valid_u"):
        one, two = split_videos(fresh, split), split_videos(fresh, split, layout=MEVIS_V2)
        assert one.keys() == two.keys()
        for vid, video in one.items():
            assert video["expressions"].items() < two[vid]["expressions"].items()
    # a checkpoint of one version has not seen the hold-out of the other
    held = split_videos(fresh, "holdout", 1, layout=MEVIS_V2)
    assert held.keys() == split_videos(fresh, "holdout", 1).keys()


def test_the_list_of_the_other_version_is_not_taken_for_it(fresh):
    with pytest.raises(
        FileNotFoundError, match="meta_expressions_v2.json beside it is read as version 2 .*mevis_v2; of"
    ):
        split_videos(fresh, "train")
    with pytest.raises(FileNotFoundError, match="meta_expressions_v2_release.json beside it is read as version 2"):
        eval_videos(fresh, "valid", 0)
    for split, name in LISTS[2].items():
        (fresh / split / name).rename(fresh / split / "meta_expressions.json")
    with pytest.raises(
        FileNotFoundError, match="--mevis_version 1.; if it is version 2's, name it meta_expressions_v2.js"
    ):
        split_videos(fresh, "train", layout=MEVIS_V2)
    (fresh / "train/meta_expressions.json").unlink()
    with pytest.raises(FileNotFoundError, match="v2.json: this file does not exist; see docs/data.md, MeViS version 2"):
        split_videos(fresh, "train", layout=MEVIS_V2)


def test_the_versions_share_their_training_videos():
    for one, other in (("mevis", "mevis_v2"), ("mevis_v2", "mevis")):
        assert may_be_trained_on(one, other) and not may_be_trained_on(one, "refcoco")


# ------------------------------------------------------------------------------------------------------------ check


def test_a_clean_set_passes_the_check(mini, checked, tmp_path):
    code, faults, _, text = checked("mevis_v2", mini)
    assert (code, faults) == (0, [])
    assert "train: videos 3 of 1,662 published, expressions 15 of 27,502 published" in text
    assert "note: train: 3 expressions mean no object" in text and "valid_u: 2 expressions mean no object" in text
    published = json.loads((tmp_path / "report.json").read_text())["published"]
    assert [published[split]["expressions"] for split in LISTS[2]] == [27502, 907, 2523]
    with pytest.raises(FileNotFoundError, match="meta_expressions.json: the list of the split's"):
        checked("mevis", mini)


def test_planted_faults_are_found(fresh, checked):
    edit(fresh / LIST, lambda c: last_of(c).update(obj_id=[0]))
    edit(fresh / LIST, lambda c: last_of(c, "bb_hidden").update(anno_id=[0.5]))
    code, faults, again, text = checked("mevis_v2", fresh)
    assert code == 1 and again == [LIST] and "train: 1 expression means no object" in text
    assert {(kind, path, what.partition(" must name")[0]) for kind, path, what in faults} == {
        ("no_objects", LIST, f"video {vid}, expression {EMPTY}") for vid in ("aa_wide", "bb_hidden")
    }


# ----------------------------------------------------------------------------------------------------------- scores


def write_results(folder: Path, answer) -> Path:
    """Masks of every expression of valid_u: ``answer(video, expression id, t)``."""
    for video in VALID_U:
        for eid in video.expressions(2):
            for t, frame in enumerate(video.frames):
                write_mask_png(folder / mask_name(video.name, eid, frame), answer(video, eid, t))
    return folder


def meant(video: MiniVideo, eid: str, t: int) -> np.ndarray:
    numbers = video.expressions(2)[eid]["obj_id"]
    return video.union(numbers, t) if numbers else np.zeros((video.height, video.width), bool)


def worked_out(video: MiniVideo, eid: str, t: int) -> np.ndarray:
    """Nothing for the red box of dd_local, which is there in three of four frames; a pixel for the yellow box of
    ee_local, which is not there, in one of three frames; the rest is right."""
    mask = meant(video, eid, t)
    if (video.name, eid) == ("dd_local", "0"):
        mask[:] = False
    if (video.name, eid, t) == ("ee_local", EMPTY, 1):
        mask[5, 5] = True
    return mask


def test_worked_out_by_hand(mini, tmp_path):
    truth, videos = eval_mevis.load_split(mini, "valid_u", 0, version=2)
    scores = score_results(write_results(tmp_path, worked_out), truth, videos, other_objects=True)
    # eight expressions mean objects: seven are right, of the eighth only the frame without the object
    assert scores["J"] == scores["F"] == scores["J&F"] == pytest.approx((7 + 1 / 4) / 8)
    assert (scores["N-acc"], scores["T-acc"]) == (1 / 2, 7 / 8)
    assert scores["Final"] == pytest.approx(((7 + 1 / 4) / 8 + 1 / 2 + 7 / 8) / 3)
    assert scores["J&F_all"] == pytest.approx((7 + 1 / 4 + 1 + 2 / 3) / 10)
    assert (scores["expressions"], scores["without_target"]) == (8, 2)
    unseen, wrong = scores["videos"]["dd_local"]["0"], scores["videos"]["ee_local"][EMPTY]
    assert (unseen["target"], unseen["found"]) == (True, False)
    assert (wrong["target"], wrong["found"], wrong["anno_id"], wrong["other"]) == (False, True, [], None)
    lines = table(scores, 3).splitlines()
    assert lines[1].split()[:3] == ["dd_local", "4", "0.8125"] and lines[2].split()[:3] == ["ee_local", "4", "1.0000"]
    assert "N-acc 0.5000   T-acc 0.8750   Final 0.7604" in lines
    assert "2 expressions mean no object and count in N-acc alone; J&F with them: 0.8917" in lines


def test_without_such_expressions_there_is_no_n_acc(mini, tmp_path):
    truth, videos = eval_mevis.load_split(mini, "valid_u", 0, version=2)
    results = write_results(tmp_path, meant)
    for video in videos.values():
        del video["expressions"][EMPTY]
    scores = score_results(results, truth, videos)
    assert (scores["J&F"], scores["T-acc"], scores["N-acc"], scores["Final"]) == (1, 1, None, None)
    assert "N-acc -   T-acc 1.0000   Final -" in table(scores, 0)


def test_a_video_may_have_none_but_such_expressions(mini, tmp_path):
    """Then no mask says how large its frames are."""
    truth, videos = eval_mevis.load_split(mini, "valid_u", 0, version=2)
    results = write_results(tmp_path, worked_out)
    videos["ee_local"]["expressions"] = {EMPTY: videos["ee_local"]["expressions"][EMPTY]}
    scores = score_results(results, truth, videos)
    assert (scores["N-acc"], scores["T-acc"]) == (1 / 2, 3 / 4) and scores["videos"]["ee_local"][EMPTY]["frames"] == 3
    assert table(scores, 0).splitlines()[2].split() == ["ee_local", "0", "-", "-", "-"]
    videos["dd_local"]["expressions"] = {EMPTY: videos["dd_local"]["expressions"][EMPTY]}
    with pytest.raises(ValueError, match="no expression that can be scored means an object"):
        score_results(results, truth, videos)


OFFICIAL = [(0.7922, 34, 161, 0.908134), (0.7163, 35, 159, 0.888004), (0.761, 30, 159, 0.856593)]


@pytest.mark.parametrize(("jf", "empty", "found", "final"), OFFICIAL)
def test_final_is_that_of_the_challenge(jf, empty, found, final):
    """J&F, N-acc, T-acc and Final of the first three of the 8th LSVOS challenge: arXiv 2608.17279, table 1. Its rates
    are those of 36 expressions without target and 163 with one."""
    expressions = [{"target": False, "found": i >= empty, "J": float(i < empty), "J&F": 0.5} for i in range(36)]
    expressions += [{"target": True, "found": i < found, "J": jf, "J&F": jf} for i in range(163)]
    assert accuracies(expressions)["Final"] == pytest.approx(final, abs=5e-5)


def test_a_missing_mask_is_not_an_empty_one(mini, tmp_path, monkeypatch, capsys):
    results, out = write_results(tmp_path / "results", meant), tmp_path / "scores.json"

    def command(*words: str) -> tuple[int | None, dict]:
        words = (results, "--mevis_path", mini, "--mevis_version", 2, "--json", out, "--workers", 1, *words)
        monkeypatch.setattr(sys, "argv", ["eval_mevis.py", *map(str, words)])
        return eval_mevis.main(), json.loads(out.read_text())

    code, scores = command()
    assert code is None and scores["Final"] == 1
    assert "N-acc 1.0000   T-acc 1.0000   Final 1.0000" in capsys.readouterr().out
    (results / mask_name("dd_local", EMPTY, "00002")).unlink()
    code, scores = command()
    assert code == INCOMPLETE and (scores["N-acc"], scores["T-acc"]) == (1 / 2, 1)
    with pytest.raises(ValueError, match="masks are missing: video dd_local, expression 4: 1 of 4 frames"):
        command("--strict")


def test_scores_of_version_1_are_as_they_were(tmp_path):
    root = write_mini_mevis(tmp_path / "mevis")
    truth, videos = eval_mevis.load_split(root, "valid_u", 0)
    scores = score_results(write_results(tmp_path / "results", meant), truth, videos)
    assert scores.keys() == {"J", "F", "J&F", "expressions", "videos"}
    assert scores["videos"]["ee_local"]["0"].keys() == {"exp", "obj_id", "anno_id", "frames", "J", "F", "J&F"}


# ------------------------------------------------------------------------------------------------------- end to end


def test_train_infer_and_score(mini, tmp_path):
    run("tools/make_tiny_text_encoder.py", mini / LIST, "--output_dir", tmp_path / "text", "--hidden_size", 16)
    options = [*shlex.split(NETWORK), "--random_backbone", "--mevis_path", mini, "--text_encoder", tmp_path / "text"]
    options += ["--absent_object", "replace", "--num_frames", 6, "--expressions_per_clip", 5, "--epochs", 1]
    trained = run("main.py", *options, "--dataset_file", "mevis_v2", "--output_dir", tmp_path / "run")
    assert "1 epoch of 2 steps" in trained.stdout
    checkpoint = ("--resume", tmp_path / "run" / "checkpoint.pth", "--device", "cpu")

    out = tmp_path / "valid"
    run("inference_mevis.py", *checkpoint, "--mevis_version", 2, "--output_dir", out)
    with zipfile.ZipFile(out / "submission.zip") as archive:  # the layout of version 1
        names = {f"ff_server/{e}/{f}.png" for e in VALID[0].expressions(2) for f in VALID[0].frames}
        assert set(archive.namelist()) == names and len(names) == 5 * 3
    done = run("inference_mevis.py", *checkpoint, "--output_dir", tmp_path / "one", ok=False)
    assert done.returncode == 2 and "--mevis_version 2" in done.stderr and not (tmp_path / "one").exists()

    evaluated = run("main.py", "--eval", *checkpoint)
    saved = tmp_path / "run" / "eval_mevis_v2_valid_u"
    scores = json.loads((saved / "scores.json").read_text())
    assert f"valid_u: J&F {scores['J&F']:.4f}, J " in evaluated.stdout
    assert f"N-acc {scores['N-acc']:.4f}, T-acc {scores['T-acc']:.4f}, Final {scores['Final']:.4f}" in evaluated.stdout
    again = tmp_path / "again.json"
    run("eval_mevis.py", saved, "--mevis_path", mini, "--mevis_version", 2, "--json", again, "--workers", 1)
    assert json.loads(again.read_text())["Final"] == scores["Final"]
    (video,) = eval_set(mini_args(mini, version=2), "valid").videos()
    assert video.expressions[EMPTY] == "the yellow box that stands still"
