"""Video Swin's blocks, for inference and for training, against torchvision's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from models import window_attention
from models.video_swin import VideoSwin

SWIN = dict(embed_dim=12, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 4], window_size=(4, 3, 3), stochastic_depth=0.0)
SIZES = [(1, 32, 32), (4, 96, 96), (5, 50, 70), (8, 33, 130), (9, 64, 40), (19, 100, 36)]


@pytest.fixture(scope="module")
def swin() -> VideoSwin:
    torch.manual_seed(0)
    model = VideoSwin(**SWIN).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # biases, too: padding shows in them
    return model


@pytest.mark.parametrize("few", [1, 40, 10**6])
@pytest.mark.parametrize("size", SIZES)
def test_the_features_are_those_of_torchvisions_blocks(swin, size, few, monkeypatch):
    monkeypatch.setattr(window_attention, "TOKENS_AT_ONCE", (few, few))
    video = torch.randn(2, size[0], 3, *size[1:], dtype=torch.float64)
    swin = copy.deepcopy(swin).double()
    wanted = swin(video)  # with gradient: the blocks themselves
    with torch.no_grad():
        got = swin(video)
    assert all(w.requires_grad and not g.requires_grad for w, g in zip(wanted, got, strict=True))
    torch.testing.assert_close(got, [w.detach() for w in wanted], rtol=1e-9, atol=1e-9)


def test_windows_are_arranged_once_for_maps_of_a_size(swin):
    window_attention.arrange.cache_clear()
    with torch.no_grad():
        for _ in range(3):
            swin(torch.randn(1, 5, 3, 64, 64))
    info = window_attention.arrange.cache_info()
    assert info.hits > info.misses > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_rounding(swin, dtype):
    video = torch.randn(1, 5, 3, 64, 64)
    with torch.autocast("cpu", dtype):
        wanted = swin(video)
        with torch.no_grad():
            got = swin(video)
    for w, g in zip(wanted, got, strict=True):
        assert (w - g).norm() < 0.03 * w.norm()


# Training ----------------------------------------------------------------------------------------------------------


def maps_and_gradients(swin: VideoSwin, video: Tensor) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Of a sum in which every number of every map weighs differently."""
    swin.zero_grad()
    video = video.clone().requires_grad_()
    maps = swin(video)
    sum((x * torch.arange(x.numel()).sin().view_as(x)).sum() for x in maps).backward()
    return [x.detach() for x in maps], {"video": video.grad} | {n: p.grad for n, p in swin.named_parameters()}


@pytest.mark.parametrize("few", [1, 40, 10**6])
@pytest.mark.parametrize("size", SIZES)
def test_maps_and_gradients_of_training_are_those_of_torchvisions_blocks(swin, size, few, monkeypatch):
    monkeypatch.setattr(window_attention, "TRAINED_AT_ONCE", (few, few))
    video = torch.randn(2, size[0], 3, *size[1:], dtype=torch.float64)
    swin = copy.deepcopy(swin).double()
    wanted_maps, wanted = maps_and_gradients(swin, video)  # in evaluation: the blocks themselves
    maps, gradients = maps_and_gradients(swin.train(), video)
    torch.testing.assert_close(maps, wanted_maps, rtol=1e-9, atol=1e-9)
    for name, gradient in wanted.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-9 * gradient.abs().max(), msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_in_half_precision_are_as_near_as_those_of_torchvisions_blocks(swin, dtype):
    video = torch.randn(1, 5, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    swin = copy.deepcopy(swin)
    exact = maps_and_gradients(swin, video)[1]
    with torch.autocast("cpu", dtype):
        theirs = maps_and_gradients(swin, video)[1]
        theirs = {name: gradient.clone() for name, gradient in theirs.items()}
        ours = maps_and_gradients(swin.train(), video)[1]

    def error(gradients: dict[str, Tensor]) -> float:
        shares = [(gradients[name] - exact[name]).norm() / exact[name].norm() for name in exact]
        return torch.stack(shares).mean().item()

    assert 0 < error(ours) < 1.3 * error(theirs)


def test_no_scores_of_pairs_are_kept_for_the_gradient(swin):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        copy.deepcopy(swin).train()(torch.randn(1, 8, 3, 96, 96))
    pairs = 4 * 3 * 3, 4 * 3 * 3
    assert not any(shape[-2:] == pairs and len(shape) > 3 for shape in kept)


def test_training_goes_on_after_an_inference_of_the_same_size(swin):
    """What an inference has arranged is kept."""
    video = torch.randn(1, 5, 3, 64, 64)
    window_attention.arrange.cache_clear()
    window_attention.arrange_once.cache_clear()
    with torch.inference_mode():
        swin(video)
    maps_and_gradients(copy.deepcopy(swin).train(), video)
