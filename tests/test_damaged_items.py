"""Inference and ``main.py --eval`` on data of which an item is damaged: it is named, the rest is done, exit code 3."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import models
from datasets import a2d, eval_set, jhmdb, refcoco
from datasets.ytvos import split_videos
from models import build_model
from opts import parse_train_args
from tasks import scoring
from tasks.scoring import score_frames
from tests import mini_a2d, mini_refcoco
from tests.commands import run_ranks, started
from tests.helpers import edit
from tests.mini_davis import write_mini_davis
from tests.mini_jhmdb import write_mini_jhmdb
from tests.mini_ytvos import mini_args, write_mini_ytvos
from tests.runs import log, trainer
from tests.test_distributed import Bright
from tests.test_end_to_end import NETWORK
from tests.test_refcoco import KnownPredictor as KnownImages
from tests.test_single_frames import KnownPredictor
from tests.tiny_model import tiny_text_encoder
from tools.data import make_sentences_annotations as tool
from tools.data.convert_davis_to_ytvos import convert
from util.run import dist
from util.run.cli import INCOMPLETE
from util.run.gaps import Gaps
from util.weights import checkpoint


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A checkpoint that has not been trained."""
    folder = tmp_path_factory.mktemp("weights")
    tiny_text_encoder().model.save_pretrained(folder / "text")
    tiny_text_encoder().tokenizer.save(str(folder / "text" / "tokenizer.json"))
    args = parse_train_args([*NETWORK.split(), "--text_encoder", str(folder / "text"), "--holdout", "1"])
    torch.manual_seed(0)
    model = build_model(args, 1)
    content = {"options": vars(args), "num_classes": 1, "text_encoder": model.text_encoder.description()}
    checkpoint.save(folder / "checkpoint.pth", {"model": model.state_dict(), **content})
    return folder / "checkpoint.pth"


@pytest.fixture
def ytvos(tmp_path) -> Path:
    return write_mini_ytvos(tmp_path / "ytvos")


@pytest.fixture
def davis(tmp_path) -> Path:
    convert(write_mini_davis(tmp_path / "davis"))
    return tmp_path / "davis"


def command(*words: object, code: int = INCOMPLETE) -> tuple[str, str]:
    """What a program printed that ended with this code."""
    done = started(*words)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stdout + done.stderr
    return done.stdout, done.stderr


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def _holdout(root: Path) -> set[str]:
    return set(split_videos(root, "holdout", 3))


def odd(path: Path) -> None:
    Image.new("RGB", (32, 64)).save(path)


# The second frame of the first video is missing, damaged or of another size than the first.
FRAMES: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "empty": lambda path: path.write_bytes(b""),
    "of another size": odd,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_video_that_cannot_be_read_is_left_out_and_done_once_it_can(case, weights, ytvos, tmp_path):
    words = ("inference_ytvos.py", "--resume", weights, "--ytvos_path", ytvos, "--device", "cpu", "--output_dir")
    frame = ytvos / "valid/JPEGImages/aa_wide/00005.jpg"
    kept = shutil.copy(frame, tmp_path / "kept.jpg")
    FRAMES[case](frame)
    out, err = command(*words, tmp_path / "out")
    assert "in order" not in out and not (tmp_path / "out/submission.zip").exists()
    named, summary = [line for line in err.splitlines() if "aa_wide" in line]
    assert named.startswith("warning: video aa_wide: ") and "00005.jpg" in named
    assert "1 left out: video aa_wide" in summary and "no submission.zip" in summary and "same command again" in summary
    part = files(tmp_path / "out")
    assert {name.split("/")[1] for name in part} == {"bb_absent"} and len(part) == 3 * 6

    if case == "a folder":
        frame.rmdir()
    shutil.move(kept, frame)
    command(*words, tmp_path / "out", code=0)
    command(*words, tmp_path / "whole", code=0)
    assert files(tmp_path / "out") == files(tmp_path / "whole") and part.items() <= files(tmp_path / "out").items()
    zips = [(tmp_path / name / "submission.zip").read_bytes() for name in ("out", "whole")]
    assert zips[0] == zips[1]


def test_a_strict_inference_ends_with_all_that_was_computed(weights, ytvos, tmp_path):
    """The last video is damaged, of the one before every mask is written."""
    odd(ytvos / "valid/JPEGImages/bb_absent/00010.jpg")
    words = ("--ytvos_path", ytvos, "--device", "cpu", "--output_dir", tmp_path / "out", "--strict")
    _, err = command("inference_ytvos.py", "--resume", weights, *words, code=2)
    (line,) = [line for line in err.splitlines() if "bb_absent" in line]
    assert line.startswith("inference_ytvos.py: error: ") and "00010.jpg: is 32x64 pixels" in line
    assert len(files(tmp_path / "out")) == 3 * 7


def test_a_split_without_one_frame_is_refused_at_once(weights, ytvos, tmp_path):
    shutil.rmtree(ytvos / "valid/JPEGImages")
    (ytvos / "valid/JPEGImages/aa_wide").mkdir(parents=True)
    words = ("--ytvos_path", ytvos, "--device", "cpu", "--output_dir", tmp_path / "out")
    _, err = command("inference_ytvos.py", "--resume", weights, *words, code=2)
    assert "00000.jpg: the frame is listed in" in err and not (tmp_path / "out").exists()


def test_an_expression_without_text_is_left_out_of_an_inference(weights, ytvos, tmp_path):
    path = ytvos / "meta_expressions/valid/meta_expressions.json"
    edit(path, lambda content: content["videos"]["aa_wide"]["expressions"]["1"].update(exp="  "))
    words = ("--ytvos_path", ytvos, "--device", "cpu", "--output_dir", tmp_path / "out", "--visualize")
    _, err = command("inference_ytvos.py", "--resume", weights, *words)
    assert err.count("video aa_wide, expression 1 is empty") == 1
    assert {name.rpartition("/")[0] for name in files(tmp_path / "out/Annotations")} == {
        *(f"aa_wide/{e}" for e in "02"),
        *(f"bb_absent/{e}" for e in "012"),
    }
    assert len(list((tmp_path / "out/overlays").rglob("*.mp4"))) == 5


def test_annotators_of_a_damaged_davis_video_are_left_out_and_score_0(weights, davis, tmp_path):
    odd(davis / "valid/JPEGImages/goat/00003.jpg")
    words = ("--davis_path", davis, "--device", "cpu", "--output_dir", tmp_path / "out", "--visualize")
    out, err = command("inference_davis.py", "--resume", weights, *words)
    assert "complete" not in out and "1 left out: video goat" in err and "1 video, 2 objects" in err
    assert {name.split("/")[1] for name in files(tmp_path / "out")} == {"pigs"}
    out, err = command("eval_davis.py", tmp_path / "out", "--davis_path", davis, "--workers", 1)
    assert "INCOMPLETE: 20 predictions missing or damaged" in out and "video goat, anno_0: masks are missing" in err


def test_annotators_that_do_not_name_the_same_objects_cost_their_video(weights, davis, tmp_path):
    path = davis / "meta_expressions/valid/meta_expressions.json"
    edit(path, lambda content: content["videos"]["pigs"]["expressions"]["6"].update(exp=" "))
    words = ("--davis_path", davis, "--device", "cpu", "--output_dir", tmp_path / "out")
    _, err = command("inference_davis.py", "--resume", weights, *words)
    assert {name.split("/")[1] for name in files(tmp_path / "out")} == {"goat"}
    assert "video pigs, expression 6 is empty" in err


# --------------------------------------------------------------------------------------------------- main.py --eval


def test_eval_scores_the_rest_of_the_videos(weights, ytvos, tmp_path):
    video = min(_holdout(ytvos))
    odd(ytvos / "train/JPEGImages" / video / "00005.jpg")
    words = ("--eval", "--resume", weights, "--device", "cpu", "--ytvos_path", ytvos, "--holdout", 3, "--allow_trained")
    out, err = command("main.py", *words, "--output_dir", tmp_path / "out")
    scores = json.loads((tmp_path / "out/eval_ytvos_holdout/scores.json").read_text())
    (problem,) = scores["incomplete"]["problems"]
    assert "INCOMPLETE: " in out and scores["incomplete"]["predictions"] > 0 and scores["expressions"] == 9
    assert all(e["J&F"] == 0 for e in scores["videos"][video].values())
    assert [line for line in err.splitlines() if line.startswith("warning: ")] == [f"warning: {problem}"]
    assert problem.startswith(f"video {video}: ") and "00005.jpg: is 32x64 pixels" in problem
    _, err = command("main.py", *words, "--output_dir", tmp_path / "strict", "--strict", code=2)
    assert "00005.jpg: is 32x64 pixels" in err


def test_valid_is_scored_by_main_with_objects_that_lie_elsewhere(weights, ytvos, tmp_path):
    path = ytvos / "meta_expressions/valid/meta_expressions.json"
    content = json.loads(path.read_text())
    for video in content["videos"].values():
        for eid, number in {"0": "1", "1": "2", "2": "1"}.items():
            video["expressions"][eid]["obj_id"] = number
    (tmp_path / "objects.json").write_text(json.dumps(content))
    words = ("--eval", "--eval_split", "valid", "--resume", weights, "--device", "cpu", "--ytvos_path", ytvos)
    words += ("--output_dir", tmp_path / "out")
    _, err = command("main.py", *words, code=2)
    assert "does not name its object" in err and "--expressions FILE" in err
    out, _ = command("main.py", *words, "--expressions", tmp_path / "objects.json", code=0)
    results = tmp_path / "out/eval_ytvos_valid"
    given = ("--ytvos_path", ytvos, "--expressions", tmp_path / "objects.json", "--workers", 1)
    said, _ = command("eval_ytvos.py", results, *given, code=0)
    assert said.splitlines()[-1].split()[1] == out.split("J&F ")[1].split(",")[0]
    for flag in ("--annotations", "--expressions"):
        davis = ("--dataset_file", "davis", "--davis_path", ytvos)
        _, err = command("main.py", *words, *davis, flag, tmp_path / "objects.json", code=2)
        assert f"{flag} is for Ref-YouTube-VOS, not for --dataset_file davis" in err


@pytest.fixture
def sentences(tmp_path) -> Path:
    tool.make_a2d(mini_a2d.write_mini_a2d(tmp_path / "a2d"), overwrite=False)
    tool.make_jhmdb(write_mini_jhmdb(tmp_path / "jhmdb"), overwrite=False)
    return tmp_path


def framewise(args, predictor, folder: Path, split: str = "test") -> tuple[dict, Gaps]:
    """Scores of single frames, and what they leave out."""
    gaps = Gaps()
    score_frames(eval_set(args, split), predictor, folder, {}, gaps)
    return json.loads((folder / "scores.json").read_text()), gaps


def break_film(root: Path) -> None:
    (root / "Release/clips320H/cc_test.mp4").write_bytes(b"no film")


def lose_film(root: Path) -> None:
    (root / "Release/clips320H/cc_test.mp4").unlink()


@pytest.mark.parametrize("damage", [break_film, lose_film])
def test_samples_without_a_usable_prediction_have_iou_0(damage, sentences, capsys):
    """Three of the five samples are of the film: one red, two blue; of the others the red one is right."""
    damage(sentences / "a2d")
    scores, gaps = framewise(mini_a2d.mini_args(sentences / "a2d"), KnownPredictor(), sentences / "out")
    assert scores["samples"] == 5 and scores["mean_iou"] == pytest.approx((1 + 0.75) / 5, abs=1e-6)
    red, blue = 12 * 16, 12 * 34
    assert scores["overall_iou"] == pytest.approx((red + 0.75 * blue) / (2 * red + 3 * blue))
    assert scores["precision_at"]["0.5"] == pytest.approx(2 / 5)
    assert scores["incomplete"].items() >= {"predictions": 3, "truth_samples": 0}.items() and gaps.items
    out, err = capsys.readouterr()
    assert "5 samples in 3 frames:   INCOMPLETE: 3 predictions missing or damaged and scored as 0" in out
    assert "cc_test" in err


def damage_truth(content: dict, name: str) -> None:
    (annotation,) = (a for a in content["annotations"] if a["image_id"] == name)
    annotation["segmentation"]["counts"] = annotation["segmentation"]["counts"][:-2]


def lose_truth(content: dict, name: str) -> None:
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != name]
    content["images"] = [image for image in content["images"] if image["id"] != name]


@pytest.mark.parametrize("damage", [damage_truth, lose_truth])
def test_samples_without_usable_ground_truth_are_left_out(damage, sentences, capsys):
    args = mini_a2d.mini_args(sentences / "a2d")
    name = "v_cc_test_f_10_i_1"  # a blue one
    edit(a2d.truth_path(sentences / "a2d"), lambda content: damage(content, name))
    scores, _ = framewise(args, KnownPredictor(), sentences / "out")
    assert scores["samples"] == 4 and scores["mean_iou"] == pytest.approx((2 + 2 * 0.75) / 4, abs=1e-6)
    assert scores["incomplete"].items() >= {"predictions": 0, "truth_samples": 1}.items()
    assert capsys.readouterr().err.count(name) == 1
    with pytest.raises(ValueError):
        eval_set(args, "test").truth(eval_set(args, "test").clips())


def test_a_sample_without_a_sentence_is_left_out(sentences):
    path = a2d.list_path(sentences / "a2d", "test")
    edit(path, lambda rows: rows[0].__setitem__(0, " "))
    scores, gaps = framewise(mini_a2d.mini_args(sentences / "a2d"), KnownPredictor(), sentences / "out")
    assert scores["samples"] == 4 and scores["incomplete"]["truth_samples"] == 1 and "row 1 must be" in gaps.items[0][1]


def test_a_frame_of_jhmdb_that_is_missing(sentences):
    sample = jhmdb.read_samples(sentences / "jhmdb")[0]
    args = parse_train_args(["--dataset_file", "jhmdb", "--jhmdb_path", str(sentences / "jhmdb"), "--num_frames", "1"])
    sample.frame_path.unlink()
    scores, gaps = framewise(args, KnownPredictor(), sentences / "out")
    assert scores["incomplete"]["predictions"] == 1 and scores["mean_iou"] == pytest.approx(4 / 5, abs=1e-6)
    assert "does not exist" in gaps.items[0][1]


def test_an_image_of_refcoco_of_another_size_costs_its_sentences(tmp_path):
    """The four sentences have IoU 1, 3/8, 3/4 and 0; the first gets an image of its own, which is damaged."""
    root = mini_refcoco.write_mini_refcoco(tmp_path / "coco")
    path = refcoco.annotations_path(root, "refcoco", "val")

    def part(content: dict) -> None:
        image = content["images"][0]
        shutil.copy(root / "train2014" / image["file_name"], root / "train2014" / "copy.jpg")
        image.update(file_name="copy.jpg", original_id=12345)

    edit(path, part)
    args = mini_refcoco.mini_args(root)
    assert len(eval_set(args, "val").clips()) == 2
    odd(root / "train2014" / "copy.jpg")
    scores, gaps = framewise(args, KnownImages(), tmp_path / "out", "val")
    first = json.loads(path.read_text())["images"][0]["caption"]
    rest = {"red box on the left": 9 / 8, "caf\xe9 table": 7 / 4, "cr\xe8me box": 11 / 8, "blue box on right": 17 / 8}
    assert scores["mean_iou"] == pytest.approx(rest[first] / 4, abs=1e-6)
    assert scores["boxes"]["mean_iou"] == pytest.approx(rest[first] / 4) and scores["boxes"]["samples"] == 4
    assert scores["incomplete"]["predictions"] == 1 and "copy.jpg: is 32x64 pixels" in gaps.items[0][1]

    edit(path, lambda content: content["images"][1].update(caption=" "))
    scores, _ = framewise(args, KnownImages(), tmp_path / "out", "val")
    assert scores["samples"] == 3 and scores["incomplete"]["truth_samples"] == 1
    for image in (root / "train2014").iterdir():
        odd(image)
    with pytest.raises(ValueError, match=r"not one sample can be scored; the first problem: sample .* is empty"):
        framewise(args, KnownImages(), tmp_path / "out", "val")


# ------------------------------------------------------------------------------------------ two ranks, and training


def rank_with_damage(rank: int, root: str, folder: str) -> None:
    words = ("--holdout", "3", "--eval", "--resume", "any", "--output_dir", folder)
    gaps = Gaps()
    args = mini_args(Path(root), *words)
    how = Bright(), models.predictor_settings(args), "some weights"
    score = scoring.score_split(eval_set(args, "holdout"), *how, Path(folder), gaps)
    assert (score is not None) == dist.is_main() and gaps.code() == INCOMPLETE
    strict = None
    try:
        (Path(folder) / "strict").mkdir(exist_ok=True)
        scoring.score_split(eval_set(args, "holdout"), *how, Path(folder) / "strict", Gaps(strict=True))
    except (ValueError, OSError) as error:
        strict = str(error)
    Path(folder, f"{rank}.txt").write_text(strict or "")


def test_ranks_count_what_each_of_them_left_out(ytvos, tmp_path):
    """Two of three videos are damaged; where the first one is an error, both ranks end with it."""
    for video in sorted(_holdout(ytvos))[:2]:
        odd(ytvos / "train/JPEGImages" / video / "00005.jpg")
    scores = {}
    for world_size in (1, 2):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        if world_size == 1:
            rank_with_damage(0, str(ytvos), str(folder))
        else:
            run_ranks(rank_with_damage, 2, str(ytvos), str(folder))
            told = [(folder / f"{rank}.txt").read_text() for rank in (0, 1)]
            assert all("00005.jpg" in line for line in told)
        scores[world_size] = json.loads((folder / "eval_ytvos_holdout/scores.json").read_text())
        scores[world_size]["incomplete"]["problems"].sort()
    assert scores[1] == scores[2] and len(scores[1]["incomplete"]["problems"]) == 2


def test_training_goes_on_and_says_of_how_much_its_score_is(ytvos_root, tmp_path, capsys):
    root = tmp_path / "data"
    shutil.copytree(ytvos_root, root)
    (video, *_) = sorted(_holdout(root))
    odd(root / "train/JPEGImages" / video / "00005.jpg")
    run = trainer(root, tmp_path / "run", "--holdout", 3, "--eval_every", 1, "--epochs", 1, resume=None)
    run.run()
    (line,) = log(tmp_path / "run")
    assert line["score_holdout"] is not None and line["score_left_out"] == 1
    err = capsys.readouterr().err
    assert f"video {video}: " in err and "the score of epoch 0 is incomplete: 1 problem" in err


def test_a_zip_holds_what_the_list_asks_for(weights, ytvos, tmp_path):
    """Masks that are there already need no frames, but for the size of the first."""
    words = ("inference_ytvos.py", "--resume", weights, "--ytvos_path", ytvos, "--device", "cpu", "--output_dir")
    command(*words, tmp_path / "out", code=0)
    (ytvos / "valid/JPEGImages/aa_wide/00010.jpg").unlink()
    command(*words, tmp_path / "out", code=0)
    assert len(zipfile.ZipFile(tmp_path / "out/submission.zip").namelist()) == 3 * (7 + 6)
    (ytvos / "valid/JPEGImages/aa_wide/00000.jpg").write_bytes(b"")
    _, err = command(*words, tmp_path / "out")
    assert "video aa_wide: " in err
