"""Table VIII as measured here: what is counted, and the rows side by side."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.video_swin import VideoSwin
from tests.test_referformer import tiny as tiny_referformer
from tests.tiny_model import tiny_model
from tools import benchmark_inference, paper, profile_model
from tools.paper_tables import cost
from tools.paper_tables.counting import _Layers, count
from tools.paper_tables.rows import find
from tools.profile_model import EXPRESSION, infer

SIZE, FRAMES = (64, 96), 3


@pytest.mark.parametrize("make", [tiny_model, tiny_referformer])
def test_counting_without_computing_gives_what_torch_counts_while_it_computes(make):
    model = make().requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        infer(model, FRAMES, SIZE, [EXPRESSION])
    assert count(model, FRAMES, SIZE).flops == counter.get_total_flops() > 0


def test_the_layers_of_proxyformer_are_those_that_its_modules_compute():
    model, seen = tiny_model(), []

    def multiply_adds(layer: nn.Module, _: object, out: torch.Tensor) -> None:
        seen.append(out.numel() * layer.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(multiply_adds) for layer in layers]
    infer(model, FRAMES, SIZE, [EXPRESSION])
    for hook in hooks:
        hook.remove()
    work = count(model, FRAMES, SIZE)
    assert work.layers == sum(seen) and 2 * work.layers < work.flops


def test_projections_within_windows_count_and_products_of_attention_do_not():
    """torchvision calls them as functions, on windows of 8x7x7 tokens at most."""
    attention = VideoSwin(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4).features[0][0].attn
    layers = _Layers(attention)
    with torch.no_grad(), layers:
        attention(torch.randn(1, 8, 7, 7, 8))
    assert layers.total == 8 * 7 * 7 * (8 * 24 + 8 * 8)


def test_only_products_with_weights_of_layers_count():
    layer, several = nn.Linear(5, 7, bias=False), nn.MultiheadAttention(4, 2, batch_first=True)
    conv = nn.Conv2d(4, 6, 3, groups=2)
    counted = _Layers(nn.ModuleList([layer, several, conv]))
    with torch.no_grad(), counted:
        torch.randn(3, 5) @ torch.randn(5, 7)
        assert counted.total == 0
        F.linear(torch.randn(3, 5), layer.weight)
        assert counted.total == 3 * 5 * 7
        conv(torch.randn(1, 4, 5, 5))
        assert counted.total == 3 * 5 * 7 + 6 * 3 * 3 * math.prod((2, 3, 3))
        counted.total = 0
        several(torch.randn(1, 3, 4), torch.randn(1, 3, 4), torch.randn(1, 3, 4), need_weights=False)
        assert counted.total == 3 * 4 * 4  # its last layer alone


def test_a_row_is_measured(monkeypatch):
    built = []

    def build(args, expressions):
        built.append(args.model)
        return tiny_model() if args.model == "proxyformer" else tiny_referformer()

    for module in (profile_model, benchmark_inference):
        monkeypatch.setattr(module, "build", build)
    model = tiny_model()
    expected = count(model, FRAMES, SIZE)
    found = cost.measured(find("VIII.c"), FRAMES, SIZE, "cpu", 1)
    assert found["gflop"] == expected.flops / 1e9 and found["gmac"] == expected.layers / 1e9
    assert found["parameters"] == sum(p.numel() for p in tiny_model().parameters())
    assert found["ms"] > 0 and found["peak"] > 0.01 and "threads" in found["machine"]
    assert cost.measured(find("VIII.a"), FRAMES, SIZE, "cpu", 1)["gmac"] != found["gmac"]
    assert built == ["proxyformer"] * 2 + ["referformer"] * 2


def test_the_rows_stand_beside_the_papers_and_a_row_that_fails_is_named(monkeypatch, capsys, tmp_path):
    def in_process(number):
        if number == "b":
            raise ValueError("unrecognized arguments: --video_reads words")
        content = {"gflop": 2000.25, "gmac": 900.5, "parameters": 162_900_000, "ms": 1234.5, "peak": 2.5}
        return content | {"machine": "an abacus"}

    monkeypatch.setattr(cost, "in_process", in_process)
    args = paper.parse_args(["cost", "--output_dir", str(tmp_path), "--frames", "7", "--size", "64", "96"])
    cost.run(args)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-8:] == ["2000.2", "900.5", "162.90", "M", "1234", "2.50", "1298.8", "104"]
    assert lines[2].endswith("no figures: unrecognized arguments: --video_reads words")
    assert lines[4].startswith("(d)") and lines[5].startswith("7 frames of 64x96, one expression, an abacus")
    written = json.loads((tmp_path / "cost.json").read_text())
    assert written["frames"] == 7 and list(written["rows"]) == ["a", "c", "d"]


def test_a_clip_that_no_network_takes_is_refused():
    with pytest.raises(ValueError, match="--size must be at least 32"):
        cost.run(paper.parse_args(["cost", "--size", "16", "64"]))


def test_counting_measures_no_time_and_writes_no_file(monkeypatch, capsys):
    built = []
    monkeypatch.setattr(profile_model, "build", lambda args, expressions: built.append(args.model) or tiny_model())
    found = cost.measured(find("VIII.c"), FRAMES, SIZE, "cpu", 0)
    assert found.keys() == {"gflop", "gmac", "parameters", "machine"} and built == ["proxyformer"]
    monkeypatch.setattr(cost, "in_process", lambda number: found)
    cost.run(paper.parse_args(["cost", "--count"]))
    assert capsys.readouterr().out.splitlines()[3].split()[-4:] == ["–", "–", "1341.6", "109"]
    with pytest.raises(ValueError, match="--count measures no time"):
        cost.run(paper.parse_args(["cost", "--count", "--output_dir", "x"]))


def test_a_wrong_option_is_refused_before_anything_runs(monkeypatch):
    monkeypatch.setattr(cost, "in_process", lambda number: pytest.fail("a process was started"))
    with pytest.raises(ValueError, match="no row has figures; the first: .*unrecognized arguments: --wrong"):
        cost.run(paper.parse_args(["cost", "--wrong"]))
