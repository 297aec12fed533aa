"""What the demo asks for is understood, and what it cannot do is said before anything is written."""

from __future__ import annotations

import runpy
import shlex
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from PIL import Image

import datasets
import models
from engine import predict_split
from opts import parse_train_args
from tests.commands import started
from tests.helpers import ROOT
from tools.data.make_synthetic import generate
from tools.small_job import held_out, tune
from tools.small_job import stages as small_job


@pytest.mark.parametrize(
    "stage", [small_job.IMAGES, *(f"{small_job.VIDEOS} {recipe.clips}" for recipe in (small_job.SHORT, small_job.LONG))]
)
def test_the_options_are_those_of_main(stage):
    args = parse_train_args(shlex.split(f"{small_job.NETWORK} {small_job.DEMO} {stage}"))
    assert args.backbone.startswith("tsm_") and args.bbox_loss_coef > 0


@pytest.fixture(scope="module")
def held_out_videos(tmp_path_factory) -> Path:
    """Videos that no training saw, with expressions that mean nothing in them."""
    folder = tmp_path_factory.mktemp("held_out") / "data"
    generate(folder, train_videos=1, valid_videos=12, seed=20261121, absent=4)
    return folder


def test_the_shipped_weights_know_appearance_motion_and_relations(held_out_videos, tmp_path):
    """And the same text about another object of the video has other pixels."""
    predictor, args = models.load_with_options(small_job.PRETRAINED, not_there=0.0)
    args.ytvos_path = held_out_videos
    predict_split(predictor, datasets.eval_set(args, "valid").videos(), tmp_path / "results")
    scores = held_out.score(tmp_path / "results", held_out_videos)
    assert scores["J&F"] > 0.7 and scores["J&F_other_object"] < 0.25
    for kind, least in {"appearance": 0.75, "motion": 0.5, "relation": 0.75}.items():
        assert scores["by_kind"][kind]["J&F"] > least, kind


def test_the_shipped_weights_know_what_is_not_there(held_out_videos, tmp_path):
    told = held_out.presence(small_job.PRETRAINED, tmp_path / "masks", held_out_videos, torch.device("cpu"))
    assert told["AUROC"] > 0.85 and told["calibration_error"] < 0.15
    assert told["N-acc"] > 0.7 and told["T-acc"] > 0.8 and told["J&F"] > 0.7


def test_the_example_of_the_docs(tmp_path, monkeypatch, capsys):
    generate(tmp_path / "data", train_videos=1, valid_videos=1, frames=9, seed=3)
    (tmp_path / "pretrained_weights").symlink_to(small_job.PRETRAINED.parent)
    (video,) = (tmp_path / "data" / "valid" / "JPEGImages").iterdir()
    monkeypatch.chdir(tmp_path)
    example = ROOT / "docs" / "example.py"

    def ran(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", [str(example), *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(example), run_name="__main__")
        return ended.value.code

    assert ran(video, "the red object", "a circle") == 0
    told = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[1] for line in told[:2]] == ["the red object", "a circle"]
    assert [line.split(":")[0] for line in told[2:]] == [f"frame {t}" for t in range(9)]
    picture = Image.open(tmp_path / "output" / "example.png")
    assert picture.width == 640 and picture.height > 384 and not list(tmp_path.glob("*.png"))
    assert ran(tmp_path / "gone.mp4", "the red object") == 2
    said = capsys.readouterr().err
    assert said.startswith("example.py: error: ") and "gone.mp4: no such" in said


def test_the_shipped_weights_are_small():
    assert small_job.PRETRAINED.stat().st_size < 10e6


def run(*words: object) -> CompletedProcess:
    return started("tools/small_job/run.py", *words)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        done = run("--output_dir", place)
        assert done.returncode == 2 and "already holds something" in done.stderr and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_tuning_is_scored_for_new_and_known_things_apart():
    def scores(*values: float) -> dict:
        one = dict.fromkeys(("J", "F"), 0.0) | {"other": {"J&F": 0.1}}
        return {"videos": {f"valid_0000{i}": {"0": one | {"J&F": value}} for i, value in enumerate(values)}}

    metrics = tune.summary(scores(0.9, 0.2, 0.7, 0.4), scores(0.8, 0.6, 0.8, 0.8), {"blank": scores(0, 0.2, 0, 0)})
    assert metrics["known"] == pytest.approx(
        {"expressions": 2, "before": 0.8, "after": 0.8, "other_object": 0.1, "blank": 0.0}
    )
    assert metrics["new"] == pytest.approx(
        {"expressions": 2, "before": 0.3, "after": 0.7, "other_object": 0.1, "blank": 0.1}
    )


@pytest.mark.parametrize(("left", "steps"), [(300.0, 300), (20.0, tune.FEWEST_STEPS), (5000.0, 400)])
def test_the_training_ends_in_time(monkeypatch, capsys, left, steps):
    said = (
        "48 x 160: 0.50 s a step, peak memory 1 GiB\n96 x 160: 1.00 s a step, peak memory 1 GiB\n"
        "400 steps left, at most 0.1 hours of them by the slowest; loading of clips not counted\n"
    )
    monkeypatch.setattr(small_job, "command", lambda *words, quiet: said)
    monkeypatch.setattr(tune.time, "perf_counter", lambda: 100.5)
    assert tune.share_of_clips([], Path("run"), 101 + left) == steps / 400
    assert f"{steps} steps take {steps / 60:.1f} minutes" in capsys.readouterr().out


@pytest.mark.parametrize(("printed", "seconds"), [("0.021", 0.021), ("0.000", 0.001)])
def test_steps_of_a_fast_machine_have_a_length(printed, seconds):
    said = f"48 x 160: {printed} s a step, peak memory 1 GiB\n1,400 steps left, at most 0.0 hours of them\n"
    assert small_job.read_cost(said) == (1400, seconds)
    assert "1,400 steps take" in small_job.ends(*small_job.read_cost(said))


def test_the_options_of_tuning_are_those_of_main():
    args = parse_train_args([*shlex.split(tune.OPTIONS), "--pretrained_weights", "x"])
    assert args.batch_size == 8 and args.absent == small_job.ABSENT_SHARE
