"""``main.py --eval``: which options it takes, on what its results depend, what is checked before the inference."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

import datasets
import inference_ytvos
import main
import models
from datasets.base import VideoEntry
from davis2017 import ytvos_protocol
from opts import parse_train_args
from tasks import inference, scoring
from tests.helpers import Painted
from tests.mini_davis import write_mini_davis
from tests.mini_mevis import write_mini_mevis
from tests.mini_ytvos import mini_args, write_mini_ytvos
from tools.data.convert_davis_to_ytvos import convert

CPU = torch.device("cpu")


class Painter:
    """A predictor whose masks are all ``value``."""

    def __init__(self, value: bool) -> None:
        self.value = value

    def announce(self, texts: Iterable[tuple[str, str]]) -> None:
        """Takes texts of any length."""

    def segment(self, video: VideoEntry, expressions: list[str], *, following: VideoEntry | None) -> Painted:
        return Painted(torch.full((len(expressions), len(video), *video.original_size), self.value))


@pytest.fixture
def ytvos(tmp_path) -> Path:
    (tmp_path / "checkpoint.pth").write_bytes(b"weights")
    return write_mini_ytvos(tmp_path / "ytvos")


def asked(root: Path, *flags: str) -> argparse.Namespace:
    """Options of ``main.py --eval`` on one held-out video."""
    return mini_args(root, "--holdout", "1", "--eval", "--resume", str(root.parent / "checkpoint.pth"), *flags)


def score_videos(args: argparse.Namespace, split: str, predictor: Painter | None, results: Path) -> float:
    of = datasets.eval_set(args, split)
    run = scoring.record("weights", of, models.predictor_settings(args), CPU)
    return scoring.score_videos(of, predictor, results, run)


def score(args: argparse.Namespace, predictor: Painter, results: Path, capsys) -> float:
    """The printed J."""
    score_videos(args, "holdout", predictor, results)
    return float(capsys.readouterr().out.partition(", J ")[2].partition(",")[0])


@pytest.mark.parametrize("change", ["--eval_size 96", "--max_size 80", "--amp bf16", "--ytvos_path {other}"])
def test_masks_made_with_other_options_are_not_scored_as_if_of_these(ytvos, tmp_path, change, capsys):
    results = tmp_path / "results"
    full = score(asked(ytvos), Painter(True), results, capsys)
    assert full > 0
    # what was made with the same options is not made again, which would give 0
    assert score(asked(ytvos), Painter(False), results, capsys) == full
    shutil.copytree(ytvos, tmp_path / "other")
    flags = change.format(other=tmp_path / "other").split()
    assert score(asked(ytvos, *flags), Painter(False), results, capsys) == 0


def test_inference_does_not_mix_in_masks_of_another_data_set(ytvos, tmp_path):
    given, results = inference_ytvos.parse_args(["--resume", str(tmp_path / "checkpoint.pth")]), tmp_path / "results"

    def claim(root: Path) -> None:
        args = mini_args(root)
        inference.claim(given, datasets.eval_set(args, "valid"), models.predictor_settings(args), CPU, results)

    claim(ytvos)
    (results / "Annotations").mkdir()
    (tmp_path / "link").symlink_to(ytvos)
    claim(tmp_path / "link")
    with pytest.raises(ValueError, match=r"another run \(data .*ytvos there, .*other now\).*--overwrite"):
        claim(tmp_path / "other")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ("", "--clips independent", "overlap 8 there, 0 now; clips None there, independent now"),
        ("--clips independent", "", "overlap 0 there, 8 now; clips independent there, None now"),
        ("--clips independent --window 36", "--clips independent", "window 36 there, 40 now"),
        ("", "--text_form raw", "text_form None there, raw now"),
    ],
)
def test_inference_does_not_mix_in_masks_of_other_clips_or_texts(ytvos, tmp_path, before, now, told):
    results, args = tmp_path / "results", mini_args(ytvos)

    def claim(words: str) -> None:
        given = inference_ytvos.parse_args(["--resume", str(tmp_path / "checkpoint.pth"), *words.split()])
        settings = models.asked_settings({"options": vars(args)}, given, CPU)
        inference.claim(given, datasets.eval_set(args, "valid"), settings, CPU, results)

    claim(before)
    (results / "Annotations").mkdir()
    claim(before)
    with pytest.raises(ValueError, match=rf"another run \({told}\).*--overwrite"):
        claim(now)


def test_a_split_that_cannot_be_scored_is_refused_before_it_is_segmented(ytvos, tmp_path):
    """There is no predictor that could be used."""
    results = tmp_path / "results"
    with pytest.raises(
        ValueError, match="split valid .* does not name its object .*; train, and a hold-out of it, can"
    ):
        score_videos(asked(ytvos), "valid", None, results)
    for mask in (ytvos / "train" / "Annotations").glob("*/00005.png"):
        mask.unlink()
    with pytest.raises(ValueError, match="split holdout .* there is no mask .*00005.png; nor can valid"):
        score_videos(asked(ytvos), "holdout", None, results)

    davis = write_mini_davis(tmp_path / "davis")
    convert(davis)
    shutil.rmtree(davis / "valid" / "Annotations")
    args = asked(ytvos, "--dataset_file", "davis", "--davis_path", str(davis))
    with pytest.raises(ValueError, match="split valid .* there is no folder .*; train, and a hold-out of it, can be"):
        score_videos(args, "valid", None, results)

    mevis = write_mini_mevis(tmp_path / "mevis")
    (mevis / "valid_u" / "mask_dict.json").unlink()
    args = asked(ytvos, "--dataset_file", "mevis", "--mevis_path", str(mevis))
    with pytest.raises(FileNotFoundError, match="mask_dict.json: the masks' file does not exist"):
        score_videos(args, "valid_u", None, results)
    assert not results.exists()


@pytest.mark.parametrize(("videos", "expected"), [(1, 2), (4, 1)])
def test_all_cores_score_where_that_pays(ytvos, tmp_path, monkeypatch, capsys, videos, expected):
    workers, run_jobs = [], ytvos_protocol.run_jobs

    def running(work, jobs, number, **options):
        workers.append(number)
        return run_jobs(work, jobs, number, **options)

    monkeypatch.setattr(scoring, "cores", lambda: 2)
    monkeypatch.setattr(scoring, "VIDEOS_PER_PROCESS", videos)
    monkeypatch.setattr(ytvos_protocol, "run_jobs", running)
    assert score(asked(ytvos, "--holdout", "3"), Painter(True), tmp_path / "results", capsys) > 0
    assert workers == [expected]


def evaluated(monkeypatch, trained: str, flags: str) -> argparse.Namespace:
    """The options with which ``main.py --eval FLAGS`` scores a checkpoint of ``main.py TRAINED``."""
    seen = []
    saved = {"options": vars(parse_train_args(trained.split()))}
    data = ["--ytvos_path", ".", "--davis_path", "."]  # only that the folders exist is looked at
    words = ["main.py", "--eval", "--resume", "x.pth", "--device", "cpu", *data, *flags.split()]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(models, "load_checkpoint", lambda path, given: models.upgraded(saved, path))
    monkeypatch.setattr(main, "evaluate", lambda args, saved, device: seen.append(args))
    # which would outlast the test
    monkeypatch.setattr(torch.backends.cuda, "enable_flash_sdp", lambda on: None)
    main.main()
    return seen[0]


@pytest.mark.parametrize(
    ("trained", "flags", "amp"),
    [
        ("--amp bf16", "", "auto"),
        ("--amp bf16", "--amp bf16", "bf16"),
        ("--amp bf16", "--amp off", "off"),
        ("--amp off", "", "off"),
        ("--amp auto", "", "auto"),
    ],
)
def test_the_precision_of_the_training_is_no_order(trained, flags, amp, monkeypatch):
    assert evaluated(monkeypatch, trained, flags).amp == amp


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--num_queries 7", "--num_queries is 9 there, 7 now"),
        ("--backbone resnet18 --binary", "--backbone is video_swin_t there, resnet18 now; --binary is False there"),
        ("--pretrained_weights y.pth", "--pretrained_weights is None there, y.pth now"),
    ],
)
def test_options_of_another_model_are_refused(flags, told, monkeypatch):
    with pytest.raises(ValueError, match=f"--resume x.pth, whose options differ: {told}.*Leave these flags out"):
        evaluated(monkeypatch, "--num_queries 9", flags)


def test_options_of_the_data_and_of_the_same_model_are_taken(monkeypatch):
    args = evaluated(
        monkeypatch, "--num_queries 9", "--preset pretrain --num_queries 9 --dataset_file davis --eval_size 96"
    )
    assert (args.num_queries, args.dataset_file, args.eval_size, args.num_frames) == (9, "davis", 96, 5)
