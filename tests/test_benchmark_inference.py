"""The benchmarks of inference on networks and frames that take no time."""

from __future__ import annotations

import copy

import pytest
import torch

from models import backbone, mask_decoder, window_attention
from tests.tiny_model import tiny_model
from tools import benchmark_inference, benchmark_levers

SMALL = ["--size", "64", "96", "--repeat", "1", "--device", "cpu"]


@pytest.mark.parametrize("frames", [3, 60])
def test_a_video_costs_something(monkeypatch, frames):
    monkeypatch.setattr(benchmark_inference, "build", lambda args, expressions: tiny_model())
    found = benchmark_inference.cost(benchmark_inference.parse_args(SMALL), frames, 2, "fp32")
    assert found["seconds"] > 0 and found["peak"] > 0.01


@pytest.mark.parametrize("name", ["video_swin_t", "resnet18"])
def test_what_makes_it_fast_changes_no_mask(monkeypatch, tmp_path, name):
    """Each is left out by itself, and all the others are not."""
    network = backbone.build_backbone(name, pretrained=False)
    monkeypatch.setattr(
        benchmark_levers, "build", lambda args, expressions: tiny_model(backbone=copy.deepcopy(network))
    )
    args = benchmark_levers.parse_args([*SMALL, "--num_frames", "2", "--backbone", name])
    patched = [(window_attention, "forward"), (backbone, "_as_images"), (mask_decoder, "upsampled_conv")]
    patched.append((mask_decoder.Lateral, "forward"))
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
