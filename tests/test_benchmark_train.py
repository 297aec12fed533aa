"""The training benchmark on a network and frames that take no time."""

from __future__ import annotations

import json

import pytest
import torch

from tests.tiny_model import tiny_model
from tools import benchmark_train

SMALL = ["--size", "48", "80", "--num_frames", "2", "--steps", "1", "--num_workers", "0", "--device", "cpu"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(benchmark_train, "build", lambda args, expressions: tiny_model())
    monkeypatch.setattr(benchmark_train, "ceiling", lambda device, dtype: 100.0)


def step_cost(*words: str) -> dict[str, float]:
    return benchmark_train.step_cost(benchmark_train.parse_args([*SMALL, *words]), torch.device("cpu"))


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
def test_a_step_costs_something(name):
    cost = step_cost("--one", name)
    assert cost["seconds"] > 0 and cost["peak"] > 0.01
    assert (cost["gflop"] > 0) == (name == "fp32")


def test_twice_the_clips_are_twice_the_work():
    one, two = (step_cost("--one", "fp32", "--batch_size", n)["gflop"] for n in ("1", "2"))
    assert two == pytest.approx(2 * one, rel=0.05)


def test_clips_are_loaded_from_a_set_of_the_same_size():
    assert benchmark_train.loading(benchmark_train.parse_args([*SMALL, "--batch_size", "2"])) > 0


def test_a_variant_that_fails_is_named_and_the_others_are_shown(monkeypatch, capsys):
    """Relative to fp32, which is always measured."""

    class Done:
        def __init__(self, name: str) -> None:
            self.returncode = int(name == "fp16")
            self.stderr = "first line\nbenchmark_train.py: error: no compiler here\nwhere torchrun was"
            self.stdout = "noise\n" + json.dumps(
                {"seconds": 2.0 if name == "fp32" else 1.0, "peak": 3, "gflop": 50.0, "frames": 2}
            )

    def run(words: list[str], env: dict[str, str], **_) -> Done:
        started.append((words[1:3], env.get("OMP_NUM_THREADS")))
        return Done(words[-1])

    started: list[tuple] = []
    monkeypatch.setattr(benchmark_train.subprocess, "run", run)
    monkeypatch.setattr(benchmark_train.torch, "get_num_threads", lambda: 4)
    words = ["x", *SMALL, "--variants", "fp16", "bf16", "fsdp", "--no_loading"]
    monkeypatch.setattr(benchmark_train.sys, "argv", words)
    benchmark_train.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[3].split() == ["fp32", "2.00", "1.00", "3.00", "25%", "1.00x"]
    assert lines[4].split(maxsplit=1) == ["fp16", "failed: benchmark_train.py: error: no compiler here"]
    assert lines[5].split() == ["bf16", "1.00", "2.00", "3.00", "50%", "2.00x"]
    assert started[-1] == (["-m", "torch.distributed.run"], "2")


def test_the_ceiling_is_of_this_machine(monkeypatch):
    monkeypatch.undo()
    assert 0.1 < benchmark_train.ceiling(torch.device("cpu"), torch.float32) < 1e6
