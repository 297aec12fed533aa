"""The benchmarks of inference on networks and frames that take no time."""

from __future__ import annotations

import copy
import multiprocessing

import pytest
import torch

from models import backbone, fast
from models.fast import segmenter
from models.fast.window_attention import InferenceBlock
from tests.commands import FORKS_TRAIN
from tests.test_referformer import tiny
from tests.tiny_model import tiny_model
from tools import benchmark_inference, benchmark_levers
from tools.profile_model import sections
from util.run.precision import cpu_speedup

SMALL = ["--size", "64", "96", "--repeat", "1", "--device", "cpu"]


@pytest.mark.parametrize("frames", [3, 60])
def test_a_video_costs_something(monkeypatch, frames):
    monkeypatch.setattr(benchmark_inference, "build", lambda args, expressions: tiny_model())
    args = benchmark_inference.parse_args(SMALL)
    found = benchmark_inference.cost(args, "any", (64, 96), frames, 2, "fp32")
    assert found["seconds"] > 0 and found["peak"] > 0.01


def test_each_backbone_and_size_has_its_rows(monkeypatch, capsys):
    asked = []

    def run(*row) -> dict[str, float]:
        asked.append(row)
        return {"seconds": 2.0 if row[-1] == "fp32" else 1.0, "peak": 3.0}

    def flops(model, frames, size, expressions) -> dict[str, int]:
        return dict.fromkeys(sections(model), 0) | {"cmie": int((10 + 2 * len(expressions)) * 1e9)}

    monkeypatch.setattr(benchmark_inference, "run", run)
    monkeypatch.setattr(benchmark_inference, "flops", flops)
    monkeypatch.setattr(benchmark_inference, "build", lambda args, expressions: tiny_model())
    monkeypatch.setattr(benchmark_inference, "ceiling", lambda device, dtype: 100.0)
    words = ["x", "--device", "cpu", "--size", "64", "96", "--size", "32", "32", "--backbones", "resnet18", "resnet50"]
    words += ["--frames", "4", "--expressions", "1", "3"]
    monkeypatch.setattr(benchmark_inference.sys, "argv", words)
    benchmark_inference.main()
    rows = [("fp32", 1), ("fp32", 3), ("bf16", 1), ("bf16", 3)]
    places = [(name, size) for name in ("resnet18", "resnet50") for size in ((64, 96), (32, 32))]
    assert asked == [(*place, 4, count, mode) for place in places for mode, count in rows]
    lines = capsys.readouterr().out.splitlines()
    assert lines[6].split() == ["4", "3", "bf16", "1.00", "83", "4.00", "3.00", "16%", "6.00x"]
    assert lines[7].startswith("GFLOP of 4 frames: 12.0 (") and lines[7].endswith("a further expression 2.0")


def test_the_rows_of_referformer_end_with_its_operations(monkeypatch, capsys):
    """Counted on the network itself: a module that no section names, or that two name, is an error."""
    monkeypatch.setattr(benchmark_inference, "run", lambda *row: {"seconds": 1.0, "peak": 1.0})
    monkeypatch.setattr(benchmark_inference, "build", lambda args, expressions: tiny())
    monkeypatch.setattr(benchmark_inference, "ceiling", lambda device, dtype: 100.0)
    words = ["x", *SMALL, "--model", "referformer", "--frames", "2", "--expressions", "1", "--modes", "fp32"]
    monkeypatch.setattr(benchmark_inference.sys, "argv", words)
    benchmark_inference.main()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("GFLOP of 2 frames: ") and all(name in last for name in sections(tiny()))


def test_half_precision_agrees_with_float32_on_the_shipped_weights():
    # a CPU that emulates bfloat16 takes a hundred times as long
    modes = ["fp16", "bf16"] if cpu_speedup(torch.bfloat16) > 1 else ["fp16"]
    (_, plain), *halves = benchmark_inference.agreement(modes, torch.device("cpu"), count=3)
    assert plain.score > 0.85 and plain.difference == 0 and plain.iou == 1
    for mode, half in halves:
        assert 0.98 <= half.iou < 1 and abs(half.difference) <= 0.003, mode


@pytest.mark.skipif(not FORKS_TRAIN, reason="where there is a GPU a forked process cannot use it")
def test_a_long_video_takes_no_more_memory_than_a_short_one(monkeypatch):
    """Held whole, frames and masks of the long one would take a hundred megabytes more."""
    monkeypatch.setattr(benchmark_inference, "build", lambda args, expressions: tiny_model())

    def peak(frames: int) -> float:
        receive, send = multiprocessing.Pipe(duplex=False)

        def run() -> None:  # in a process whose peak is its own
            torch.set_num_threads(1)
            args = benchmark_inference.parse_args(SMALL)
            send.send(benchmark_inference.cost(args, "any", (120, 160), frames, 2, "fp32")["peak"])

        child = multiprocessing.get_context("fork").Process(target=run)
        child.start()
        child.join(100)
        return receive.recv()

    assert peak(1000) < peak(100) + 0.025


@pytest.mark.parametrize("name", ["video_swin_t", "resnet18"])
def test_what_makes_it_fast_changes_no_mask(monkeypatch, tmp_path, name):
    """Each is left out by itself, and all the others are not."""
    network = backbone.build_backbone(name, pretrained=False)
    monkeypatch.setattr(
        benchmark_levers, "build", lambda args, expressions: tiny_model(backbone=copy.deepcopy(network))
    )
    args = benchmark_levers.parse_args([*SMALL, "--num_frames", "2", "--backbone", name])
    patched = [(InferenceBlock, "forward"), (backbone, "_as_images"), (segmenter, "upsampled_conv")]
    patched += [(segmenter.SmoothedLateral, "forward"), (fast, "fold_batch_norms")]
    benchmark_levers.cost(args, benchmark_levers.ALL, tmp_path / "all")
    plain = torch.load(tmp_path / "all")
    for lever in benchmark_levers.LEVERS:
        with pytest.MonkeyPatch.context() as undone:
            for owner, function in patched:
                undone.setattr(owner, function, getattr(owner, function))
            benchmark_levers.cost(args, lever, tmp_path / "less")
        torch.testing.assert_close(
            torch.load(tmp_path / "less"), plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max())
        )
    assert plain.std() > 0
