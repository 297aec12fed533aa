"""Video Swin's blocks for inference against torchvision's own."""

from __future__ import annotations

import copy

import pytest
import torch

from models import window_attention
from models.video_swin import VideoSwin

SWIN = dict(embed_dim=12, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 4], window_size=(4, 3, 3))


@pytest.fixture(scope="module")
def swin() -> VideoSwin:
    torch.manual_seed(0)
    model = VideoSwin(**SWIN).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # biases, too: padding shows in them
    return model


@pytest.mark.parametrize("few", [1, 40, 10**6])
@pytest.mark.parametrize("size", [(1, 32, 32), (4, 96, 96), (5, 50, 70), (8, 33, 130), (9, 64, 40), (19, 100, 36)])
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
