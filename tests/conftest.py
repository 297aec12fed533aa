"""Fixtures of several test files."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

# before torch is imported: processes of several tests share the cores, and sums differ with the number of threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from tests.mini_ytvos import VIDEOS, write_mini_ytvos
from tests.tiny_model import EXPRESSIONS
from tools.data import check
from tools.make_tiny_text_encoder import make_encoder, train_tokenizer
from util.run import parallel

# seconds, instead of five, after which torch looks whether a worker of a DataLoader has died, and ends one that stays
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5
_MultiProcessingDataLoaderIter._try_get_data.__defaults__ = (0.5,)

# which a run under nohup leaves alone, and these may be under one
signal.signal(signal.SIGHUP, signal.SIG_DFL)

Faults = list[tuple[str, str, str]]

# the longest first, or the last of them would run while other processes have nothing left to do
LONG = ("test_interruptions", "test_training", "test_distributed", "test_training_options", "test_loader")
LONG += ("test_paper_size", "test_library", "test_weight_files", "test_end_to_end", "test_benchmark_inference")
LONG += ("test_backbone", "test_checkpoint_optim", "test_inference_ready", "test_damaged_items", "test_tutorial")
LONG += ("test_check", "test_window_attention", "test_refcoco_end_to_end", "test_model", "test_parallel")
LONG += ("test_alignment",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture(scope="session", autouse=True)
def own_temporary_folder(tmp_path_factory) -> None:
    """Takes what killed processes leave in the temporary folder; it is deleted with the files of the tests."""
    tempfile.tempdir = os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("t"))


@pytest.fixture(scope="session")
def ytvos_root(tmp_path_factory) -> Path:
    """The tiny data set of shorter videos, so that an epoch has few steps, with a text encoder for it in ``text``."""
    short = tuple(replace(video, length=3, absent=video.absent[:1]) for video in VIDEOS)
    root = write_mini_ytvos(tmp_path_factory.mktemp("training"), train=short)
    tokenizer = train_tokenizer(list(EXPRESSIONS) * 5, 320)
    tokenizer.save_pretrained(root / "text")
    make_encoder(tokenizer, hidden_size=16, layers=1, heads=2, seed=0).save_pretrained(root / "text")
    return root


@pytest.fixture(scope="session")
def targets(tmp_path_factory) -> dict:
    """The readers that ``tools/fuzz.py`` tries, by name, with sound files; a test leaves these as they were."""
    from tools import fuzz

    return fuzz.all_targets(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture
def forked_workers(monkeypatch) -> None:
    """Worker processes of ``run_jobs`` are forks of this one: a new process takes five seconds to import torch."""
    forks = SimpleNamespace(get_context=lambda _: multiprocessing.get_context("fork"))
    monkeypatch.setattr(parallel, "multiprocessing", forks)


@pytest.fixture
def checked(monkeypatch, capsys, tmp_path):
    """Runs the command: exit code, faults as (kind, path, what), the list of what to download, the printed text."""

    def command(dataset: str, root: Path, *flags: str) -> tuple[int, Faults, list[str], str]:
        out, again = tmp_path / "report.json", tmp_path / "again.txt"
        words = ["check.py", dataset, root, "--json", out, "--fix-list", again, "--workers", 1, *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = check.main()
        report = json.loads(out.read_text())
        assert report["ok"] == (code == 0) == (not report["faults"])
        faults = [(fault["kind"], fault["path"], fault["what"]) for fault in report["faults"]]
        return code, faults, again.read_text().splitlines(), capsys.readouterr().out

    return command
