"""Runs of two processes: under several launchers, ended before their time, and what they go on from.

Those of one process are in tests/test_training.py.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.commands import ENVIRONMENT, run
from tests.helpers import ROOT
from tests.runs import log
from tools.data.make_synthetic import generate

# dropout on, and a batch norm that is trained: both would show a state that was not kept
NETWORK = """
    --binary --backbone tsm_resnet10_half --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1 --num_queries 2
    --dropout 0.2 --train_sizes 32 48 --eval_size 48 --max_size 80 --batch_size 1 --num_frames 2 --seed 3
    --expressions_per_clip 2 --num_workers 1 --device cpu --epochs 2 --lr 1e-3 --lr_schedule cosine
"""
SECONDS = 300


def start(
    *words,
    restarts: int = 0,
    launcher: str = "run",
    meeting: str = "--standalone --nproc_per_node 2",
    program: str = "main.py",
) -> subprocess.Popen:
    command = ["-m", f"torch.distributed.{launcher}", *meeting.split(), "--max_restarts", str(restarts)]
    return subprocess.Popen(
        [sys.executable, *command, program, *map(str, words)],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen, code: int | None = 0) -> str:
    """Waits; checks the exit code unless it is None; returns all that was printed."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        with suppress(ProcessLookupError):  # nothing is left running where the test fails
            os.killpg(process.pid, signal.SIGKILL)
    assert code is None or process.returncode == code, out + err
    return out + err


def when_there(path: Path, process: subprocess.Popen) -> None:
    """Waits until the run has written ``path``."""
    until(path.exists, process)


def until(condition: Callable[[], object], process: subprocess.Popen) -> None:
    """Waits until it holds; the run must not end before."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, finish(process, None)
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ranks(process: subprocess.Popen, program: str = "main.py") -> list[int]:
    """Process numbers of a launcher's ranks."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(n) for n in children if program in Path(f"/proc/{n}/cmdline").read_text().split("\0")]


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list:
    root = tmp_path_factory.mktemp("interruptions") / "data"
    generate(root, train_videos=4, valid_videos=1, frames=6, size=(48, 80), workers=1)
    expressions = root / "meta_expressions" / "train" / "meta_expressions.json"
    run("tools/make_tiny_text_encoder.py", expressions, "--output_dir", root / "text", "--hidden_size", 16)
    return [*shlex.split(NETWORK), "--ytvos_path", root, "--text_encoder", root / "text"]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    """The folder of a run without interruption; the older launcher hands the rank over as torchrun does, if asked."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(*options, "--output_dir", folder, launcher="launch", meeting="--use_env --nproc_per_node 2"))
    return folder


def assert_same(folder: Path, whole: Path) -> None:
    wanted, got = (torch.load(f / "checkpoint.pth", weights_only=True)["model"] for f in (whole, folder))
    assert all(torch.equal(value, got[name]) for name, value in wanted.items())
    assert log(folder) == log(whole)


def test_a_killed_rank_ends_the_job_and_the_same_command_goes_on(options, whole, tmp_path):
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--save_every", 1, "--keep", 3, "--resume", "auto"]
    process = start(*words)
    when_there(folder / "checkpoint_00000003.pth", process)
    os.kill(ranks(process)[0], signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert "going on from" in finish(start(*words))
    assert_same(folder, whole)
    assert not list(folder.glob(".checkpoint*")) and len(list(folder.glob("checkpoint_*.pth"))) == 3


def test_a_killed_rank_ends_the_others_and_all_are_started_again(options, whole, tmp_path):
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--save_every", 1, "--resume", "auto"]
    process = start(*words, restarts=1)
    when_there(folder / "checkpoint_00000002.pth", process)
    os.kill(ranks(process)[1], signal.SIGKILL)
    finish(process)
    assert_same(folder, whole)


def test_a_signal_saves_on_all_ranks(options, whole, tmp_path):
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--resume", "auto"]
    process = start(*words, "--save_every", 1)
    when_there(folder / "checkpoint_00000002.pth", process)
    process.send_signal(signal.SIGTERM)
    said = finish(process, None)
    assert process.returncode != 0 and "go on with --resume" in said
    finish(start(*words))
    assert_same(folder, whole)


def two_nodes(*words, restarts: int = 0) -> list[subprocess.Popen]:
    """Two launchers, each with one process, that meet at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = f"--nnodes 2 --nproc_per_node 1 --master_addr 127.0.0.1 --master_port {port} --node_rank"
    return [start(*words, restarts=restarts, meeting=f"{meeting} {rank}") for rank in (0, 1)]


def test_two_nodes_of_one_process_train_as_one_of_two(options, whole, tmp_path):
    for node in two_nodes(*options, "--output_dir", tmp_path / "run"):
        finish(node)
    assert_same(tmp_path / "run", whole)


def test_a_killed_rank_of_one_node_starts_both_again(options, whole, tmp_path):
    folder = tmp_path / "run"
    nodes = two_nodes(*options, "--output_dir", folder, "--save_every", 1, "--resume", "auto", restarts=1)
    when_there(folder / "checkpoint_00000002.pth", nodes[0])
    os.kill(*ranks(nodes[1]), signal.SIGKILL)
    for node in nodes:
        finish(node)
    assert_same(folder, whole)


SLOW_INFERENCE = """
import sys, time
sys.path.insert(0, {root!r})
import engine, inference_ytvos
from util.run import cli

def slow(*arguments, write=engine.write_mask_png):
    write(*arguments)
    time.sleep(0.2)

engine.write_mask_png = slow
cli.run(lambda: inference_ytvos.run_inference(inference_ytvos.parse_args(), inference_ytvos.infer))
"""


def finished(results: Path) -> dict[Path, int]:
    """When each mask was written, of the expressions that have one of all six frames."""
    folders = [folder for folder in results.glob("Annotations/*/*") if len(list(folder.glob("[!.]*.png"))) == 6]
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.glob("[!.]*.png")}


@pytest.mark.parametrize("restarts", [0, 1])
def test_an_inference_survives_a_killed_rank(options, whole, tmp_path, restarts):
    """Started again, by torchrun or by the user, it keeps what is done, does what is left, and packs what one process
    packs. Masks are written slowly, so that the rank is killed while there is something of both."""
    program, root = "inference_ytvos.py", options[options.index("--ytvos_path") + 1]
    words = ["--resume", whole / "checkpoint.pth", "--ytvos_path", root, "--split", "train", "--allow_trained"]
    words += ["--device", "cpu", "--output_dir"]
    slow = tmp_path / "slow_inference.py"
    slow.write_text(SLOW_INFERENCE.format(root=str(ROOT)))
    process = start(*words, tmp_path / "two", program=str(slow), restarts=restarts)
    until(lambda: finished(tmp_path / "two"), process)
    os.kill(ranks(process, str(slow))[1], signal.SIGKILL)
    kept = finished(tmp_path / "two")
    if not restarts:
        process.communicate(timeout=60)
        assert process.returncode != 0 and not (tmp_path / "two" / "submission.zip").exists()
        process = start(*words, tmp_path / "two", program=program)
    finish(process)
    run(program, *words, tmp_path / "one")
    assert kept.items() <= finished(tmp_path / "two").items() and len(kept) < len(finished(tmp_path / "two"))
    assert not list((tmp_path / "two").rglob(".*"))
    wanted, got = (zipfile.ZipFile(tmp_path / name / "submission.zip") for name in ("one", "two"))
    assert got.namelist() == wanted.namelist() and len(got.namelist()) > 10
    assert all(got.read(name) == wanted.read(name) for name in got.namelist())
