"""Both protocols of Ref-DAVIS17 against values worked out by hand, and eval_davis.py."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import eval_davis
from davis2017.davis_protocol import count_objects, score_results, score_video, semi_supervised, unsupervised
from davis2017.metrics import db_eval_boundary, db_eval_iou
from tests.commands import started
from tests.helpers import SHARED, needs_shared
from tests.mini_davis import write_masks

SHAPE = (40, 60)
VOID = 255
# None overlap, and they are further apart than the tolerance of one pixel.
BOXES = {1: np.s_[4:14, 4:14], 2: np.s_[4:14, 40:50], 3: np.s_[24:34, 20:40]}
ONE = {"mean": 1.0, "recall": 1.0, "decay": 0.0}
ZERO = {"mean": 0.0, "recall": 0.0, "decay": 0.0}


def labels(places: dict[int, int] | None = None, void=None) -> np.ndarray:
    """A label map that has at each place (a key of BOXES) the given id."""
    out = np.zeros(SHAPE, np.uint8)
    for place, number in (places or {}).items():
        out[BOXES[place]] = number
    if void is not None:
        out[void] = VOID
    return out


BOTH = labels({1: 1, 2: 2})
SWAPPED = labels({1: 2, 2: 1})


def pairs(truths, predictions):
    """Frames with a single result."""
    return [(truth, [predicted]) for truth, predicted in zip(truths, predictions, strict=True)]


def jaccard(scores: list[np.ndarray]) -> list[list[float]]:
    """J of each object in each frame, of a single result."""
    (only,) = scores
    return only[..., 0].tolist()


# ----------------------------------------------------------------------------------------------- the two protocols


def test_swapped_objects_are_right_for_one_protocol_and_wrong_for_the_other():
    frames = pairs([BOTH] * 3, [SWAPPED] * 3)
    assert (unsupervised(frames)[0] == np.ones((2, 3, 2))).all()
    assert (semi_supervised(frames, 2)[0] == np.zeros((2, 3, 2))).all()


def test_one_assignment_holds_for_the_whole_video():
    frames = pairs([BOTH] * 4, [BOTH, BOTH, BOTH, SWAPPED])
    assert jaccard(unsupervised(frames)) == [[1, 1, 1, 0], [1, 1, 1, 0]]


def test_void_pixels_are_left_out_of_one_protocol_and_background_in_the_other():
    """The prediction is the box of 100 pixels and, to its right, 100 pixels that the truth calls void."""
    truth = labels({1: 1}, void=np.s_[4:14, 14:24])
    predicted = labels()
    predicted[4:14, 4:24] = 1
    frames = pairs([truth], [predicted])
    assert unsupervised(frames)[0].tolist() == [[[1, 1]]]
    semi = semi_supervised(frames, 1)[0][0, 0]
    assert semi[0] == 0.5
    assert semi[1] == db_eval_boundary(truth == 1, predicted == 1)


def test_void_is_no_object():
    frames = pairs([labels({1: 1}, void=np.s_[20:25, 5:9])], [BOTH])
    assert jaccard(unsupervised(frames)) == [[1]]
    assert count_objects(labels(void=np.s_[:5, :5])) == 0


def test_missing_proposals_are_empty_masks():
    """Object 2 is out of sight in the second frame, where an empty mask is right."""
    frames = pairs([BOTH, labels({1: 1})], [labels({1: 1}), labels({1: 1})])
    assert jaccard(unsupervised(frames)) == [[1, 1], [0, 1]]
    assert jaccard(semi_supervised(frames, 2)) == [[1, 1], [0, 1]]
    blank = pairs([BOTH], [labels()])
    assert jaccard(unsupervised(blank)) == [[0], [0]]
    assert jaccard(semi_supervised(blank, 2)) == [[0], [0]]


def test_proposals_may_leave_out_numbers_and_be_more_than_the_objects():
    many = labels({1: 20, 2: 7, 3: 3})
    assert jaccard(unsupervised(pairs([BOTH] * 2, [many] * 2))) == [[1, 1], [1, 1]]


def test_objects_are_those_of_the_first_frame():
    frames = pairs([labels({1: 1}), BOTH], [BOTH, BOTH])
    assert jaccard(unsupervised(frames)) == [[1, 1]]


def test_a_number_that_the_first_frame_skips_is_an_empty_object():
    frames = pairs([labels({1: 2})] * 2, [labels({1: 1})] * 2)
    assert jaccard(unsupervised(frames)) == [[1, 1], [1, 1]]


def test_several_results_are_assigned_each_by_itself():
    results = unsupervised([(BOTH, [BOTH, SWAPPED, labels({1: 1}), labels({2: 9})])])
    assert [each[..., 0].ravel().tolist() for each in results] == [[1, 1], [1, 1], [1, 0], [0, 1]]


@pytest.mark.parametrize("seed", range(4))
def test_equals_the_definition_on_noise(seed):
    """Every pair on whole images, and the best of all assignments."""
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, 4, (3, 12, 17), dtype=np.uint8).repeat(3, 1).repeat(3, 2)
    predictions = np.where(rng.random(truths.shape) < 0.3, rng.integers(0, 5, truths.shape), truths % 3).astype(
        np.uint8
    )
    truths[:, :6, :9] = VOID
    truths[0, -1, -1], predictions[0, -1, -1] = 3, 4
    void = truths == VOID
    scores = np.array(
        [
            [
                (
                    db_eval_iou(truths == n, predictions == p, void),
                    db_eval_boundary(truths == n, predictions == p, void),
                )
                for n in (1, 2, 3)
            ]
            for p in (1, 2, 3, 4)
        ]
    )
    best = max(itertools.permutations(range(4), 3), key=lambda chosen: scores[list(chosen), range(3)].mean())
    expected = scores[list(best), range(3)].transpose(0, 2, 1)
    assert unsupervised(pairs(truths, predictions))[0] == pytest.approx(expected, abs=1e-12)
    plain = [
        [db_eval_iou(truths == n, predictions == n), db_eval_boundary(truths == n, predictions == n)] for n in (1, 2, 3)
    ]
    assert semi_supervised(pairs(truths, predictions), 3)[0].transpose(0, 2, 1) == pytest.approx(
        np.array(plain), abs=1e-12
    )


# -------------------------------------------------------------------------------------------------------- on disk

FRAMES = ["00000", "00001", "00002", "00003"]
VIDEOS = {"pigs": FRAMES, "goat": FRAMES}


def write(folder: Path, maps) -> Path:
    write_masks(folder, dict(zip(FRAMES, maps, strict=False)))
    return folder


@pytest.fixture
def truth(tmp_path) -> Path:
    root = tmp_path / "data" / "valid" / "Annotations"
    write(root / "pigs", [BOTH] * 4)
    write(root / "goat", [labels({3: 1})] * 4)
    return root


@pytest.fixture
def results(tmp_path) -> Path:
    """anno_0 is right, anno_1 swaps the pigs, anno_2 is blank in the first and last frames, anno_3 in the last two."""
    folder, goat, blank = tmp_path / "results", labels({3: 1}), labels()
    for name, pigs, goats in (
        ("anno_0", [BOTH] * 4, [goat] * 4),
        ("anno_1", [SWAPPED] * 4, [goat] * 4),
        ("anno_2", [blank, BOTH, BOTH, blank], [blank, goat, goat, blank]),
        ("anno_3", [BOTH, BOTH, blank, blank], [goat, goat, blank, blank]),
    ):
        write(folder / name / "pigs", pigs)
        write(folder / name / "goat", goats)
    return folder


def test_statistics_of_each_annotator_and_their_mean(results, truth):
    scores = score_results(results, truth, VIDEOS)
    annotators = scores["annotators"]
    assert scores["objects"] == 3
    assert [annotators[f"anno_{k}"]["J"] for k in range(2)] == [ONE, ONE]
    # The quarters of four frames are frames 1 and 2, and frames 3 and 4.
    assert annotators["anno_2"]["J"] == {"mean": 0.5, "recall": 0.5, "decay": 0.0}
    assert annotators["anno_3"]["F"] == {"mean": 0.5, "recall": 0.5, "decay": 1.0}
    assert scores["J"] == scores["F"] == {"mean": 0.75, "recall": 0.75, "decay": 0.25}
    assert scores["J&F"] == 0.75
    assert annotators["anno_3"]["sequences"]["pigs"]["objects"]["2"]["J"] == {"mean": 0.5, "recall": 0.5, "decay": 1.0}


def test_first_and_last_frame_are_left_out_of_the_semi_supervised_protocol(results, truth):
    scores = score_results(results, truth, VIDEOS, "semi-supervised")
    annotators = scores["annotators"]
    assert annotators["anno_2"]["J"] == ONE
    assert annotators["anno_1"]["sequences"]["pigs"]["J"] == ZERO
    assert annotators["anno_3"]["sequences"]["goat"]["F"] == {"mean": 0.5, "recall": 0.5, "decay": 1.0}


def test_the_mean_is_over_objects_and_not_over_videos(results, truth):
    write(results / "anno_0" / "goat", [labels()] * 4)
    anno_0 = score_results(results, truth, VIDEOS)["annotators"]["anno_0"]
    assert anno_0["J&F"] == pytest.approx(2 / 3)
    assert [anno_0["sequences"][video]["J&F"] for video in ("pigs", "goat")] == [1, 0]


def test_a_single_results_folder(results, truth):
    scores = score_results(results / "anno_2", truth, VIDEOS)
    assert list(scores["annotators"]) == ["anno_2"] and scores["J&F"] == 0.5


def test_processes_change_nothing(results, truth):
    assert score_results(results, truth, VIDEOS, workers=2) == score_results(results, truth, VIDEOS)


def test_twenty_proposals_are_allowed_and_more_are_not(results, truth):
    goat = results / "anno_0" / "goat"
    write(goat, [labels({3: 1}), labels({3: 20}), labels({3: 1}), labels({3: 1})])
    scored = score_video("unsupervised", truth / "goat", [goat], FRAMES)
    assert scored[0]["1"]["J"]["mean"] == 0.75
    write(goat, [labels({3: 1})] * 3 + [labels({3: 21})])
    with pytest.raises(
        ValueError, match=r"anno_0/goat/00003\.png holds object 21, but there may be at most 20 proposals"
    ):
        score_results(results, truth, VIDEOS)


def test_ids_beyond_the_objects_have_no_meaning_in_the_semi_supervised_protocol(results, truth):
    write(results / "anno_1" / "goat", [labels(), labels({3: 2}), labels(), labels()])
    message = r"anno_1/goat/00001\.png holds object 2, but the ground truth in .*goat has only 1; .*--protocol unsuperv"
    with pytest.raises(ValueError, match=message):
        score_results(results, truth, VIDEOS, "semi-supervised")


def test_masks_of_another_size(results, truth):
    write(results / "anno_3" / "pigs", [BOTH, BOTH.T])
    message = r"anno_3/pigs/00001\.png is \[60, 40\], but the ground truth .*00001\.png is \[40, 60\]"
    with pytest.raises(ValueError, match=message):
        score_results(results, truth, VIDEOS)


@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_masks_and_missing_ground_truth(results, truth, workers):
    path = results / "anno_3" / "pigs" / "00002.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"anno_3/pigs/00002\.png: this mask cannot be decoded"):
        score_results(results, truth, VIDEOS, workers=workers)
    (truth / "pigs" / "00001.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"Annotations/pigs/00001\.png: no such mask"):
        score_results(results, truth, VIDEOS, workers=workers)


def test_what_is_missing_is_named(results, truth):
    (results / "anno_1" / "pigs" / "00002.png").unlink()
    (results / "anno_1" / "pigs" / "00003.png").unlink()
    (results / "anno_2" / "goat" / "00000.png").unlink()
    with pytest.raises(ValueError, match="masks are missing") as caught:
        score_results(results, truth, VIDEOS)
    assert "anno_1, video pigs: 2 of 4 frames, the first is 00002" in str(caught.value)
    assert "anno_2, video goat: 1 of 4 frames, the first is 00000" in str(caught.value)


def test_folders_that_are_no_results(results, truth, tmp_path):
    with pytest.raises(FileNotFoundError, match="absent: no such folder; give the one that inference_davis.py wrote"):
        score_results(tmp_path / "absent", truth, VIDEOS)
    with pytest.raises(
        ValueError, match=r"holds neither anno_0 … nor a folder of any video of the split; give .*/results"
    ):
        score_results(tmp_path, truth, VIDEOS)
    with pytest.raises(ValueError, match="nothing to score"):
        score_results(results, truth, {})
    (results / "anno_2").rename(results / "elsewhere")
    with pytest.raises(
        FileNotFoundError, match=r"results: anno_2 is not there; .*single annotator with .*results/anno_0"
    ):
        score_results(results, truth, VIDEOS)


def test_ground_truth_with_nothing_to_score(results, truth):
    with pytest.raises(ValueError, match="2 frames are too few; the first and the last are not scored"):
        score_results(results, truth, {"pigs": FRAMES[:2]}, "semi-supervised")
    write(truth / "goat", [labels(void=np.s_[:5, :5])])
    for protocol in ("unsupervised", "semi-supervised"):
        with pytest.raises(ValueError, match=r"goat/00000\.png: the first frame shows no object"):
            score_results(results, truth, VIDEOS, protocol)


# ------------------------------------------------------------------------------------------------- eval_davis.py


@pytest.fixture
def data(truth) -> Path:
    """The data set of the ground truth, without that of the semi-supervised protocol."""
    root = truth.parents[1]
    expressions = {str(i): {"exp": "it", "obj_id": "1"} for i in range(4)}
    path = root / "meta_expressions" / "valid" / "meta_expressions.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"videos": {v: {"expressions": expressions, "frames": FRAMES} for v in VIDEOS}}))
    return root


def command(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["eval_davis.py", *map(str, words), "--workers", "1"])
    eval_davis.main()


def test_command_leads_with_the_papers_protocol_and_says_what_it_leaves_out(
    results, data, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "new" / "scores.json"
    command(monkeypatch, results, "--davis_path", data, "--json", out)
    assert json.loads(out.read_text()) == {"unsupervised": score_results(results, data / "valid/Annotations", VIDEOS)}
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("unsupervised protocol, what the papers report: 2 videos, 3 objects")
    assert lines[1].split() == ["sequence", "J&F", "J", "F", "anno_0", "anno_1", "anno_2", "anno_3"]
    assert lines[2].split() == ["goat", "0.7500", "0.7500", "0.7500", "1.0000", "1.0000", "0.5000", "0.5000"]
    assert [line.split() for line in lines[-8:-3]] == [
        ["anno_0", "1.0000", "1.0000", "1.0000", "0.0000", "1.0000", "1.0000", "0.0000"],
        ["anno_1", "1.0000", "1.0000", "1.0000", "0.0000", "1.0000", "1.0000", "0.0000"],
        ["anno_2", "0.5000", "0.5000", "0.5000", "0.0000", "0.5000", "0.5000", "0.0000"],
        ["anno_3", "0.5000", "0.5000", "0.5000", "1.0000", "0.5000", "0.5000", "1.0000"],
        ["mean", "0.7500", "0.7500", "0.7500", "0.2500", "0.7500", "0.7500", "0.2500"],
    ]
    assert lines[-2].startswith("the semi-supervised protocol is left out: there is no folder ")
    assert lines[-1] == "unsupervised: J&F 0.7500   J 0.7500   F 0.7500"


def test_command_scores_by_both_where_there_is_ground_truth(results, data, tmp_path, monkeypatch, capsys):
    semi = data / "DAVIS" / "Annotations" / "480p"
    semi.parent.mkdir(parents=True)
    semi.symlink_to(data / "valid" / "Annotations")
    command(monkeypatch, results / "anno_1", "--davis_path", data)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "unsupervised: J&F 1.0000   J 1.0000   F 1.0000"
    assert lines[-1] == "semi-supervised: J&F 0.3333   J 0.3333   F 0.3333"
    semi.unlink()
    words = ("--protocol", "semi-supervised", "--semi_annotations", data / "valid" / "Annotations")
    command(monkeypatch, results / "anno_1", "--davis_path", data, *words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("semi-supervised protocol: 2 videos") and lines[-1].startswith(
        "semi-supervised: J&F 0.3333"
    )


def test_scores_are_made_anew_each_time(results, data, tmp_path, monkeypatch, capsys):
    out = tmp_path / "scores.json"
    command(monkeypatch, results / "anno_0", "--davis_path", data, "--json", out)
    write(results / "anno_0" / "goat", [labels()] * 4)
    command(monkeypatch, results / "anno_0", "--davis_path", data, "--json", out)
    assert json.loads(out.read_text())["unsupervised"]["J&F"] == pytest.approx(2 / 3)
    assert capsys.readouterr().out.splitlines()[-1].startswith("unsupervised: J&F 0.6667")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--protocol", "semi-supervised"], r"semi-supervised protocol cannot be scored: .*480p; see docs/data\.md"),
        (["--semi_annotations", "absent"], "semi-supervised protocol cannot be scored: there is no folder absent"),
        (["--davis_path", "absent"], "absent: no such folder; give the data set with --davis_path"),
        (["--split", "train"], r"meta_expressions\.json: this file does not exist; see docs/data\.md, Ref-DAVIS17"),
    ],
)
def test_ground_truth_that_is_not_there(results, data, monkeypatch, words, message):
    with pytest.raises(FileNotFoundError, match=message):
        command(monkeypatch, results, "--davis_path", data, *words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers must be at least 1"),
        (["--holdout", "-1"], "--holdout at least 0"),
        (["--split", "holdout"], "--split holdout needs --holdout N"),
        (["--protocol", "unsupervised", "--semi_annotations", "x"], "--semi_annotations is for the semi-supervised"),
    ],
)
def test_contradicting_options(words, message, capsys):
    with pytest.raises(SystemExit) as ended:
        eval_davis.parse_args(["results", *words])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_user_mistakes_end_without_a_traceback(tmp_path):
    mistakes = {tmp_path: "absent: no such folder", tmp_path / "typo": "typo: no such folder; give the one"}
    for results, mistake in mistakes.items():
        done = started("eval_davis.py", results, "--davis_path", tmp_path / "absent")
        assert done.returncode == 2 and done.stderr.startswith("eval_davis.py: error: ") and mistake in done.stderr
        assert len(done.stderr.splitlines()) == 1


@needs_shared
def test_real_masks_against_themselves_moved():
    """blackswan shown a frame late: both protocols agree with the measures frame by frame."""
    folder = SHARED / "data/ref-davis/valid/Annotations/blackswan"
    from davis2017.label_maps import read_labels

    maps = [read_labels(folder / f"{t:05d}.png") for t in range(0, 50, 10)]
    frames = pairs(maps[1:], maps[:-1])
    expected = [(db_eval_iou(a, b[0]), db_eval_boundary(a, b[0])) for a, b in frames]
    assert unsupervised(frames)[0][0] == pytest.approx(np.array(expected), abs=1e-12)
    assert semi_supervised(frames, 1)[0][0] == pytest.approx(np.array(expected), abs=1e-12)
