"""Runs of two processes are ended early under several launchers, go on, and end as a run that was never ended.

Runs of one process are in tests/test_training.py.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import zipfile
from pathlib import Path

import pytest
import torch

from tests.commands import Program, run
from tests.helpers import ROOT
from tests.runs import log
from tools.data.make_synthetic import generate

# with dropout and a trained batch norm, whose results differ where a part of the state is lost
NETWORK = """
    --binary --backbone tsm_resnet10_half --random_backbone --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1
    --num_queries 2 --dropout 0.2 --train_sizes 32 48 --eval_size 48 --max_size 80 --batch_size 1 --num_frames 2
    --seed 3 --expressions_per_clip 2 --num_workers 1 --device cpu --epochs 2 --lr 1e-3 --lr_schedule cosine
"""
TOGETHER = "--standalone --nproc_per_node 2"


def start(*words, restarts: int = 0, meeting: str = TOGETHER, program: str = "main.py") -> Program:
    """torchrun, with a program of the repository."""
    return Program("-m", "torch.distributed.run", *meeting.split(), "--max_restarts", restarts, program, *words)


def finish(process: Program, code: int | None = 0) -> str:
    """Waits; checks the exit code unless it is None; returns all that was printed."""
    with process:  # nothing is left running where the test fails
        ended = process.wait()
        assert ended is not None and code in (None, ended), process.said()
        return process.said()


def ranks(process: Program) -> list[int]:
    """Process numbers of a launcher's ranks."""
    return list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> list:
    root = tmp_path_factory.mktemp("interruptions") / "data"
    generate(root, train_videos=2, valid_videos=1, frames=6, size=(48, 80), workers=1)
    expressions = root / "meta_expressions" / "train" / "meta_expressions.json"
    run("tools/make_tiny_text_encoder.py", expressions, "--output_dir", root / "text", "--hidden_size", 16)
    return [*shlex.split(NETWORK), "--ytvos_path", root, "--text_encoder", root / "text"]


@pytest.fixture(scope="module")
def whole(options, tmp_path_factory) -> Path:
    """The folder of a run without interruption, of new processes as a user starts them.

    With ``--use_env`` the older launcher hands over the rank as torchrun does.
    """
    folder = tmp_path_factory.mktemp("whole") / "run"
    launcher = ("-m", "torch.distributed.launch", "--use_env", "--nproc_per_node", 2)
    finish(Program(*launcher, "main.py", *options, "--output_dir", folder, anew=True))
    return folder


def assert_same(folder: Path, whole: Path) -> None:
    wanted, got = (torch.load(f / "checkpoint.pth", weights_only=True)["model"] for f in (whole, folder))
    assert all(torch.equal(value, got[name]) for name, value in wanted.items())
    assert log(folder) == log(whole)


def test_a_killed_rank_ends_the_job_and_the_same_command_goes_on(options, whole, tmp_path):
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--save_every", 1, "--keep", 3, "--resume", "auto"]
    process = start(*words)
    process.until((folder / "checkpoint_00000003.pth").exists)
    os.kill(ranks(process)[0], signal.SIGKILL)
    assert process.wait(60)
    assert "going on from" in finish(start(*words))
    assert_same(folder, whole)
    assert not list(folder.glob(".checkpoint*")) and len(list(folder.glob("checkpoint_*.pth"))) == 3


def test_a_killed_rank_ends_the_others_and_all_are_started_again(options, whole, tmp_path):
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--save_every", 1, "--resume", "auto"]
    process = start(*words, restarts=1)
    process.until((folder / "checkpoint_00000002.pth").exists)
    os.kill(ranks(process)[1], signal.SIGKILL)
    finish(process)
    assert_same(folder, whole)


def test_a_rank_that_stands_still_ends_the_other_and_one_process_goes_on(options, whole, tmp_path):
    """The other one is blocked in a collective, and its connections stay open, as those to a node without power."""
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--save_every", 1, "--resume", "auto"]
    process = start(*words, "--rank_timeout", 2)
    process.until((folder / "checkpoint_00000002.pth").exists)
    _, still = ranks(process)
    os.kill(still, signal.SIGSTOP)
    process.until(lambda: "no sign of life from rank 1 for 2 s (--rank_timeout), so rank 0 ends" in process.said())
    os.kill(still, signal.SIGKILL)  # as torchrun does after some time
    assert process.wait(60)
    said = finish(start(*words, meeting="--standalone --nproc_per_node 1"))
    assert "with 1 process where 2 were: its steps see the same clips" in said and "1 rank x 2 micro-batches" in said
    assert [line["epoch"] for line in log(folder)] == [line["epoch"] for line in log(whole)]


def test_a_signal_saves_on_all_ranks(options, whole, tmp_path):
    folder = tmp_path / "run"
    words = [*options, "--output_dir", folder, "--resume", "auto"]
    process = start(*words, "--save_every", 1)
    process.until((folder / "checkpoint_00000002.pth").exists)
    os.kill(process.pid, signal.SIGTERM)
    said = finish(process, None)
    assert process.returncode != 0 and "go on with --resume" in said
    finish(start(*words))
    assert_same(folder, whole)


def two_nodes(*words, restarts: int = 0) -> list[Program]:
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
    nodes[0].until((folder / "checkpoint_00000002.pth").exists)
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
    time.sleep(0.1)

engine.write_mask_png = slow
cli.run(lambda: inference_ytvos.run_inference(inference_ytvos.parse_args(), inference_ytvos.infer))
"""


def finished(results: Path) -> dict[Path, int]:
    """When each mask was written, of the expressions that have masks of all six frames."""
    folders = [folder for folder in results.glob("Annotations/*/*") if len(list(folder.glob("[!.]*.png"))) == 6]
    return {path: path.stat().st_mtime_ns for folder in folders for path in folder.glob("[!.]*.png")}


@pytest.mark.parametrize("restarts", [0, 1])
def test_an_inference_survives_a_killed_rank(options, whole, tmp_path, restarts):
    """Started again, by torchrun or by the user, it keeps finished masks, computes the others, and packs the same zip
    as one process. Masks are written slowly, so that some are finished and some are not when the rank is killed."""
    program, root = "inference_ytvos.py", options[options.index("--ytvos_path") + 1]
    words = ["--resume", whole / "checkpoint.pth", "--ytvos_path", root, "--split", "train", "--allow_trained"]
    words += ["--device", "cpu", "--output_dir"]
    slow = tmp_path / "slow_inference.py"
    slow.write_text(SLOW_INFERENCE.format(root=str(ROOT)))
    process = start(*words, tmp_path / "two", program=str(slow), restarts=restarts)
    process.until(lambda: finished(tmp_path / "two"))
    os.kill(ranks(process)[1], signal.SIGKILL)
    kept = finished(tmp_path / "two")
    if not restarts:
        assert process.wait(60) and not (tmp_path / "two" / "submission.zip").exists()
        process = start(*words, tmp_path / "two", program=program)
    finish(process)
    run(program, *words, tmp_path / "one")
    assert kept.items() <= finished(tmp_path / "two").items() and len(kept) < len(finished(tmp_path / "two"))
    assert not list((tmp_path / "two").rglob(".*"))
    wanted, got = (zipfile.ZipFile(tmp_path / name / "submission.zip") for name in ("one", "two"))
    assert got.namelist() == wanted.namelist() and len(got.namelist()) > 10
    assert all(got.read(name) == wanted.read(name) for name in got.namelist())
