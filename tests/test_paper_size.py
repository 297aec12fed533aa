"""The paper's own configuration runs: Video-Swin-T, a text encoder of RoBERTa-base's size, 5 frames of 360×640."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import StochasticDepth

from models.proxyformer import ProxyFormer
from tests.tiny_model import tiny_args
from tools.profile_model import EXPRESSION, build, flops, infer, make_batch, parameters, parse_args, table, train

FRAMES, SIZE = 5, (360, 640)
TRAINED_FRAMES = 2  # a step on all five takes 30 seconds and moves the same parameters
# two, so that the JSC loss has a negative and its projection a gradient
EXPRESSIONS = [EXPRESSION, "a dog on the left"]


@pytest.fixture(scope="module")
def model() -> ProxyFormer:
    torch.manual_seed(0)
    return build(parse_args([]), EXPRESSIONS)


@pytest.mark.slow
def test_inference(model):
    masks = infer(model, FRAMES, SIZE, EXPRESSIONS[:1])
    assert masks.shape == (1, FRAMES, 5, 90, 160) and masks.isfinite().all()


@pytest.mark.slow
def test_training_step_moves_every_parameter(model):
    for module in model.modules():
        if isinstance(module, StochasticDepth):
            module.p = 0.0  # a skipped block learns nothing
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = train(model, parse_args([]), make_batch(TRAINED_FRAMES, SIZE, EXPRESSIONS))
    assert step.taken and math.isfinite(step.terms["loss"]) and step.terms["loss"] > 0
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        # adding the same to all keys changes no softmax
        assert name.endswith("key.bias") or not torch.equal(parameter, before[name]), name


def test_the_table_counts_every_parameter_and_product():
    """On a small model; the sections must add up whatever the size."""
    small = build(tiny_args("--mask_decoder", "cross_modal"), [EXPRESSION])
    sizes = parameters(small)
    assert sum(sizes.values()) == sum(p.numel() for p in small.parameters())
    assert sizes["text"] == pytest.approx(124.1e6, rel=0.01)  # RoBERTa-base without its pooler
    once, twice = (flops(small, frames, (64, 96), [EXPRESSION]) for frames in (1, 2))
    assert all(once.values()) and once["text"] == twice["text"]
    for name in ("backbone", "segmenter"):
        assert twice[name] == pytest.approx(2 * once[name], rel=0.05)
    convolution = 2 * 16 * 16 * 9 * (4 * 6 + 8 * 12 + 16 * 24)  # the three 3×3 steps of the mask decoder
    assert once["segmenter"] > convolution
    assert f"{sum(once.values()) / 1e9:.1f}" in table(sizes, once).splitlines()[-1]
