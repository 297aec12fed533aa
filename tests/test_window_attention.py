"""Video Swin's blocks, for inference and for training, against torchvision's own."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from datasets.transforms import TrainTransform
from models.fast import arrangement, feed_forward, window_attention
from models.fast.forms import take_form
from models.fast.window_attention import InferenceBlock, TrainedAttention
from models.video_swin import VARIANTS, VideoSwin
from opts import parse_train_args

SWIN = dict(embed_dim=12, depths=[2, 2, 2, 2], num_heads=[1, 2, 3, 4], window_size=(4, 3, 3), stochastic_depth=0.0)
SIZES = [(1, 32, 32), (4, 96, 96), (5, 50, 70), (8, 33, 130), (9, 64, 40), (19, 100, 36)]


@pytest.fixture(scope="module")
def swin() -> VideoSwin:
    torch.manual_seed(0)
    model = VideoSwin(**SWIN).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # biases, too: padding shows in them
    return model


def in_form(swin: VideoSwin, kind: type, form: type) -> VideoSwin:
    """A copy whose modules of ``kind`` have the form."""
    changed = copy.deepcopy(swin)
    for module in list(changed.modules()):
        if type(module) is kind:
            take_form(module, form)
    return changed


def for_inference(swin: VideoSwin) -> VideoSwin:
    return in_form(swin, SwinTransformerBlock, InferenceBlock)


def for_training(swin: VideoSwin) -> VideoSwin:
    return in_form(swin, ShiftedWindowAttention3d, TrainedAttention).train()


@pytest.mark.parametrize("few", [1, 40, 10**6])
@pytest.mark.parametrize("size", SIZES)
def test_the_features_are_those_of_torchvisions_blocks(swin, size, few, monkeypatch):
    monkeypatch.setattr(feed_forward, "TOKENS_AT_ONCE", (few, few))
    monkeypatch.setattr(window_attention, "SCORES_AT_ONCE", (few, few))
    video = torch.randn(2, size[0], 3, *size[1:], dtype=torch.float64)
    swin = copy.deepcopy(swin).double()
    with torch.no_grad():
        torch.testing.assert_close(for_inference(swin)(video), swin(video), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_rounding(swin, dtype):
    video = torch.randn(1, 5, 3, 64, 64)
    with torch.autocast("cpu", dtype), torch.no_grad():
        wanted, got = swin(video), for_inference(swin)(video)
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
    wanted_maps, wanted = maps_and_gradients(swin, video)
    maps, gradients = maps_and_gradients(for_training(swin), video)
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
        ours = maps_and_gradients(for_training(swin), video)[1]

    def error(gradients: dict[str, Tensor]) -> float:
        shares = [(gradients[name] - exact[name]).norm() / exact[name].norm() for name in exact]
        return torch.stack(shares).mean().item()

    assert 0 < error(ours) < 1.3 * error(theirs)


def test_no_scores_of_pairs_are_kept_for_the_gradient(swin):
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        for_training(swin)(torch.randn(1, 8, 3, 96, 96))
    pairs = 4 * 3 * 3, 4 * 3 * 3
    assert not any(shape[-2:] == pairs and len(shape) > 3 for shape in kept)


# Arrangements ------------------------------------------------------------------------------------------------------


@pytest.fixture
def forgotten() -> None:
    arrangement.permute.forget()


def test_windows_are_arranged_once_for_maps_of_a_size(swin, forgotten):
    """Four stages, each with blocks that shift and blocks that do not; in the last ones a window covers the map."""
    fast, video = for_inference(swin), torch.randn(1, 5, 3, 64, 64)
    with torch.no_grad():
        for _ in range(3):
            fast(video)
    assert 4 <= arrangement.permute.made <= 8


def test_training_goes_on_after_an_inference_of_the_same_size(swin, forgotten):
    """A tensor that inference mode made could not be saved for a gradient."""
    video, trained = torch.randn(1, 5, 3, 64, 64), for_training(swin)
    with torch.inference_mode():
        trained(video)
    maps_and_gradients(trained, video)


SIZE, WINDOW, SHIFT, CPU = (4, 8, 8), (4, 3, 3), (0, 1, 1), torch.device("cpu")


def test_arrangements_are_kept_as_long_as_memory_allows(monkeypatch, forgotten):
    """The one that was not used for longest goes first; a single one always stays."""
    sizes = [(4, 8, 8 + n) for n in range(4)]
    taken = arrangement.permute(sizes[-1], WINDOW, SHIFT, CPU).nbytes
    arrangement.permute.forget()
    monkeypatch.setattr(arrangement, "total_bytes", lambda device: arrangement.SHARE * int(3.2 * taken))
    for size in (*sizes[:3], sizes[0], sizes[3]):  # the second is the one that goes
        arrangement.permute(size, WINDOW, SHIFT, CPU)
    assert arrangement.permute.made == 4
    for size in (sizes[0], sizes[2], sizes[3]):
        arrangement.permute(size, WINDOW, SHIFT, CPU)
    assert arrangement.permute.made == 4
    arrangement.permute(sizes[1], WINDOW, SHIFT, CPU)
    assert arrangement.permute.made == 5
    monkeypatch.setattr(arrangement, "total_bytes", lambda device: 0)
    for _ in range(2):
        arrangement.permute((4, 9, 9), WINDOW, SHIFT, CPU)
    assert arrangement.permute.made == 6


def test_numbers_of_tokens_take_four_bytes_and_every_token_is_read_once():
    found = arrangement.permute(SIZE, WINDOW, SHIFT, CPU)
    for order, back in ((found.tokens, found.tokens_back), (found.real, found.real_back)):
        assert order.dtype == back.dtype == torch.int32
        assert torch.equal(order[back], torch.arange(len(order), dtype=torch.int32))
    count = 4 * 8 * 8
    assert len(found.real) == count and len(found.tokens) == count + found.padding
    start = 0
    for group in found.groups:
        stop = start + group.windows * group.seen
        numbers, start = found.tokens[start:stop].view(group.windows, group.seen), stop
        # padding stands last in each window, and nowhere else
        assert (numbers[:, : group.real] < count).all() and (numbers[:, group.real :] >= count).all()
    assert start == len(found.tokens) and any(group.padded for group in found.groups)
    assert torch.equal(found.real_back, found.tokens[found.tokens < count])


def test_tensors_that_are_copied_together_are_the_same_afterwards():
    """On a GPU all tensors of an arrangement come by one copy."""
    tensors = [torch.zeros(3, 0), torch.arange(5, dtype=torch.int32), torch.randn(2, 3), torch.arange(3)]
    packed, places = arrangement.packed_together(tensors)
    for x, place in zip(tensors, places, strict=True):
        found = arrangement.unpacked(packed, place, x)
        assert found.dtype == x.dtype and torch.equal(found, x)
        assert not x.numel() or found.data_ptr() == packed.data_ptr() + place


def test_a_gpu_keeps_the_arrangements_of_all_sizes_of_a_training():
    """Of the usual short sides and crops of 1280x720, for which 16 GiB suffice with 5 frames."""
    args = parse_train_args(["--preset", "scratch"])
    transform = TrainTransform(args.train_sizes, args.max_size, flip=True, random_crop=True, photometric=True)
    shared = np.random.default_rng(0)
    drawn = {transform.draw_size(720, 1280, shared)[0] for _ in range(3000)}
    sizes = {(-(-height // 32) * 32, -(-width // 32) * 32) for height, width in drawn}
    assert 80 < len(sizes) < 120
    height, width = max(sizes, key=math.prod)
    with torch.device("meta"):
        attention = [block.attn for block in VideoSwin(**VARIANTS["video_swin_t"]).blocks() if hasattr(block, "attn")]
    maps = [(5, height // stride, width // stride) for stride in VideoSwin.strides]
    kinds = {(size, *window_attention.fitted(shifted, size)) for size in maps for shifted in attention[:2]}
    largest = sum(arrangement.permute(*kind, CPU).nbytes for kind in kinds)
    assert len(kinds) == 8 and len(sizes) * largest < 16 * 2**30 / arrangement.SHARE
