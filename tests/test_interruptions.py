"""Runs that end before their time, on one process and on two, and what they go on from."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.helpers import ROOT
from tools.data.make_synthetic import generate
from util.interrupt import REQUEUE

# dropout on, and a batch norm that is trained: both would show a state that was not kept
NETWORK = """
    --binary --backbone tsm_resnet10_half --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1 --num_queries 2
    --dropout 0.2 --train_sizes 32 48 --eval_size 48 --max_size 80 --batch_size 1 --num_frames 2 --seed 3
    --expressions_per_clip 2 --num_workers 1 --device cpu --epochs 2 --lr 1e-3 --lr_schedule cosine
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SECONDS = 120


def start(*words, ranks: int = 1) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    return subprocess.Popen(
        [sys.executable, *launcher, "main.py", *map(str, words)],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, code: int | None = 0) -> str:
    """Waits; checks the exit code unless it is None; returns all that was printed."""
    out, err = process.communicate(timeout=SECONDS)
    assert code is None or process.returncode == code, out + err
    return out + err


def when_there(path: Path, process: subprocess.Popen) -> None:
    """Waits until the run has written ``path``."""
    deadline = time.monotonic() + SECONDS
    while not path.exists():
        assert process.poll() is None, finish(process, None)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the run and all its processes."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list:
    root = tmp_path_factory.mktemp("interruptions") / "data"
    generate(root, train_videos=4, valid_videos=1, frames=6, size=(48, 80), workers=1)
    expressions = root / "meta_expressions" / "train" / "meta_expressions.json"
    words = ["tools/make_tiny_text_encoder.py", expressions, "--output_dir", root / "text", "--hidden_size", 16]
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True)
    return [*shlex.split(NETWORK), "--ytvos_path", root, "--text_encoder", root / "text"]


@pytest.fixture(scope="module", params=[1, 2])
def ranks(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def whole(ranks, options, tmp_path_factory) -> Path:
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(*options, "--output_dir", folder, ranks=ranks))
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pth", weights_only=True)["model"]


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same(folder: Path, whole: Path) -> None:
    wanted, got = weights(whole), weights(folder)
    assert all(torch.equal(value, got[name]) for name, value in wanted.items())
    assert log(folder) == log(whole)


@pytest.mark.parametrize("step", [3, 13])
def test_a_killed_run_ends_as_if_nothing_had_happened(options, whole, ranks, tmp_path, step):
    """Step 3 is within the first epoch; 13 with one process, of 12 steps an epoch, is within the second."""
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--save_every", 1, "--keep", 3, "--resume", "auto"]
    if step > len(list(range(12))) and ranks == 2:
        pytest.skip("two processes take 12 steps in all")
    process = start(*words, ranks=ranks)
    when_there(folder / f"checkpoint_{step:08d}.pth", process)
    kill(process)
    said = finish(start(*words, ranks=ranks))
    assert "going on from" in said
    assert_same(folder, whole)
    assert not list(folder.glob(".checkpoint*"))
    assert len(list(folder.glob("checkpoint_*.pth"))) == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_asks_to_be_run_again(options, whole, ranks, tmp_path, number):
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--resume", "auto"]
    process = start(*words, "--save_every", 2, ranks=ranks)
    when_there(folder / "checkpoint_00000002.pth", process)
    process.send_signal(number)
    said = finish(process, REQUEUE if ranks == 1 else None)
    assert process.returncode != 0 and "go on with --resume" in said and "Traceback" not in said.split("go on with")[0]
    finish(start(*words, ranks=ranks))
    assert_same(folder, whole)
