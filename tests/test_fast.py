"""The forms for inference and for training: the numbers and gradients of the plain model, from the same parameters."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbone import build_backbone
from models.fast import for_inference, for_training
from models.fast.forms import Form, lay_off_form, take_form
from models.fast.linear import ConvolvedLinear
from models.fast.recompute import recompute
from models.fast.segmenter import FastSegmenter, SmoothedLateral
from models.fast.upsampling import channels_last, joined, kinds, upsampled_conv
from models.heads import DynamicKernelHead
from models.mask_decoder import MaskDecoder
from models.proxyformer import ProxyFormer
from models.segmenter import Segmenter
from models.video_swin import VideoSwin
from tests.test_mask_decoder_heads import CHANNELS, SIZES, B, C, M, T, tokens, words
from tests.test_model import CHOICES, answer, criterion, padded_batch
from tests.tiny_model import tiny_model

SWIN = dict(embed_dim=8, depths=[1, 2, 2, 1], num_heads=[1, 2, 2, 4], window_size=(4, 3, 3), stochastic_depth=0)


def network(backbone: str, choice: dict) -> ProxyFormer:
    torch.manual_seed(0)
    own = VideoSwin(**SWIN) if backbone == "video_swin" else build_backbone(backbone, pretrained=False)
    return tiny_model(**choice, backbone=own)


def forms(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules() if isinstance(module, Form)}


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


# The whole model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "choice",
    [CHOICES[0], CHOICES[3] | {"time_encoding": "relative"}, CHOICES[-1]],
    ids=["default", "cross-modal, relative", "other"],
)
@pytest.mark.parametrize("backbone", ["video_swin", "resnet18", "tsm_resnet10_half"])
def test_inference_gives_the_numbers_of_the_plain_model(backbone, choice):
    """With padding; whether the model comes as it was built or from training."""
    plain, batch = network(backbone, choice).eval(), padded_batch()
    with torch.no_grad():
        wanted = answer(plain, batch, supervised=False).final
    built, trained = copy.deepcopy(plain), copy.deepcopy(plain)
    for_training(trained)
    for block in trained.cmie.stages:
        recompute(block)
    for model in (built, trained):
        for_inference(model, None)
        with torch.inference_mode():
            got = answer(model, batch, supervised=False).final
        for name, value in vars(wanted).items():
            torch.testing.assert_close(getattr(got, name), value, rtol=0, atol=1e-5 * float(value.abs().max()))
        assert {"FastSegmenter", "SmoothedLateral"} <= forms(model)
        assert ("InferenceBlock" in forms(model)) == (backbone == "video_swin")
        assert not any("Recomputed" in form or "Trained" in form for form in forms(model))


@pytest.mark.parametrize("backbone", ["video_swin", "resnet18"])
def test_training_gives_the_losses_and_gradients_of_the_plain_model(backbone):
    plain, batch = network(backbone, {}).double(), padded_batch()
    batch.video = batch.video.double()
    model = copy.deepcopy(plain)
    for_training(model)
    assert ("TrainedAttention" in forms(model)) == (backbone == "video_swin") and not forms(plain)
    losses = [criterion()(answer(net.train(), batch), batch)[0] for net in (plain, model)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    wanted = parameters(plain)
    assert parameters(model).keys() == wanted.keys()
    for name, parameter in parameters(model).items():
        torch.testing.assert_close(parameter.grad, wanted[name].grad, rtol=1e-5, atol=1e-9, msg=name)


def test_training_changes_no_name_and_no_value():
    plain = network("video_swin", {})
    model = copy.deepcopy(plain)
    for_training(model)
    got, wanted = model.state_dict(), plain.state_dict()
    assert list(got) == list(wanted) and all(torch.equal(got[name], value) for name, value in wanted.items())


# Forms -------------------------------------------------------------------------------------------------------------


class Doubled(Form, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


def test_a_form_is_taken_on_replaced_and_laid_off():
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    wanted = layer(x)
    take_form(layer, Doubled)
    take_form(layer, Doubled)
    assert torch.equal(layer(x), 2 * wanted)
    recompute(layer)
    assert torch.equal(layer(x), 2 * wanted) and type(layer) is not Doubled
    lay_off_form(layer)
    assert type(layer) is nn.Linear
    with pytest.raises(AssertionError, match="Doubled is no form of Conv2d"):
        take_form(nn.Conv2d(1, 1, 1), Doubled)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (40, 30, 3), (1024, 3)])
def test_a_convolved_linear_layer_has_the_numbers_and_gradients_of_a_linear_one(shape, bias):
    torch.manual_seed(0)
    plain, x = nn.Linear(3, 5, bias=bias).double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    fast = copy.deepcopy(plain)
    take_form(fast, ConvolvedLinear)
    results = [layer(x) for layer in (plain, fast)]
    torch.testing.assert_close(results[1], results[0])
    wanted, got = (
        torch.autograd.grad(found.sin().sum(), (x, *layer.parameters()))
        for layer, found in zip((plain, fast), results, strict=True)
    )
    torch.testing.assert_close(got, wanted)


# The segmenter -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coarse", [(3, 5), (1, 1), (4, 4)])
@pytest.mark.parametrize("less", [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_a_convolution_of_an_upsampled_map(coarse, less):
    torch.manual_seed(0)
    size = tuple(max(1, 2 * n - k) for n, k in zip(coarse, less, strict=True))
    x, weight = torch.randn(2, 3, *coarse, dtype=torch.float64), torch.randn(4, 3, 3, 3, dtype=torch.float64)
    added = torch.randn(2, 4, *size, dtype=torch.float64)
    wanted = F.conv2d(F.interpolate(x, size=size, mode="nearest"), weight, padding=1) + added
    x, added, wanted = map(channels_last, (x, added, wanted))
    torch.testing.assert_close(upsampled_conv(x, weight, added), wanted)
    if less == (0, 0):
        torch.testing.assert_close(joined(upsampled_conv(x, weight, kinds(added))), wanted)


@pytest.mark.parametrize("channels", [2, 7, 8, 30])
def test_a_lateral_and_its_convolution_are_one(channels):
    torch.manual_seed(0)
    lateral, conv = nn.Conv2d(channels, 8, 1).double(), nn.Conv2d(8, 6, 3, padding=1, bias=False).double()
    x = torch.randn(2, channels, 5, 4, dtype=torch.float64)
    wanted = conv(lateral(x))
    take_form(lateral, SmoothedLateral)
    torch.testing.assert_close(lateral(x, conv), channels_last(wanted))


@pytest.mark.parametrize("cross_modal", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("grid", [SIZES[-1], (1, 2)], ids=["odd sizes", "doubled sizes"])
@torch.no_grad()
def test_the_fast_segmenter_cuts_the_masks_of_the_plain_one(steps, cross_modal, grid):
    torch.manual_seed(0)
    sizes = SIZES if grid == SIZES[-1] else [(8, 16), (4, 8), (2, 4), (1, 2)]
    pyramid = [torch.randn(B, T, c, *size) for c, size in zip(CHANNELS, sizes, strict=True)]
    decoder = MaskDecoder(channels=CHANNELS, dim=C, mask_dim=M, steps=steps, cross_modal=cross_modal, heads=2)
    segmenter = Segmenter(decoder, DynamicKernelHead(dim=C, mask_dim=M)).eval()
    stages, encoded, text = [torch.randn(B, T, 4, C) for _ in range(2)], tokens(grid), words()
    wanted = segmenter(stages, encoded, segmenter.laterals(pyramid), *text)
    take_form(segmenter, FastSegmenter)
    for lateral in decoder.lateral:
        take_form(lateral, SmoothedLateral)
    got = segmenter(stages, encoded, segmenter.laterals(pyramid), *text)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-4)
    assert all(masks.std() > 0.01 and masks.shape[-2:] == sizes[3 - steps] for masks in wanted)
