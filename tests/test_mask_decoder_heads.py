"""The mask decoder and the heads on the proxies."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.heads import DynamicKernelHead, ReferenceHead, mlp
from models.mask_decoder import MaskDecoder

CHANNELS, C, M = [6, 8, 10, 12], 16, 8
SIZES = [(13, 18), (7, 9), (4, 5), (2, 3)]  # of 50×70 pixels
B, T, L = 2, 3, 5


def decoder(steps: int = 3, cross_modal: bool = False) -> MaskDecoder:
    torch.manual_seed(0)
    return MaskDecoder(channels=CHANNELS, dim=C, mask_dim=M, steps=steps, cross_modal=cross_modal, heads=2).eval()


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(B, T, c, *size, generator=generator) for c, size in zip(CHANNELS, SIZES, strict=True)]


def tokens(size: tuple[int, int] = SIZES[-1]) -> Tensor:
    return torch.randn(B, T, *size, C, generator=torch.Generator().manual_seed(2))


def words() -> tuple[Tensor, Tensor]:
    valid = torch.ones(B, L, dtype=torch.bool)
    valid[0, 3:] = False
    return torch.randn(B, L, C, generator=torch.Generator().manual_seed(3)), valid


def decode(net: MaskDecoder, video: Tensor, text: tuple[Tensor, Tensor], **masks: Tensor) -> Tensor:
    return net(video, net.laterals(maps()), *text, **masks)


@pytest.mark.parametrize("cross_modal", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("grid", [SIZES[-1], SIZES[-2]], ids=["stride 32", "stride 16"])
def test_features_have_the_size_of_the_last_lateral(steps, cross_modal, grid):
    net = decoder(steps, cross_modal)
    assert [x.shape[3:] for x in net.laterals(maps())] == SIZES[::-1][1 : steps + 1]
    assert decode(net, tokens(grid), words()).shape == (B, T, M, *SIZES[3 - steps])


def test_fpn_is_upsample_add_convolve_from_coarse_to_fine():
    net, video = decoder(), tokens()
    for b, t in itertools.product(range(B), range(T)):
        x = video[b, t].permute(2, 0, 1)[None]
        for k, level in enumerate((2, 1, 0)):
            x = net.narrow(x) if level == 0 else x
            rows, columns = ((torch.arange(n) * m / n).long() for n, m in zip(SIZES[level], x.shape[-2:], strict=True))
            x = x[:, :, rows][:, :, :, columns] + net.lateral[k](maps()[level][b, t][None])
            convolution, norm, _ = net.smooth[k]
            x = F.group_norm(convolution(x), norm.num_groups, norm.weight, norm.bias).relu()
        torch.testing.assert_close(decode(net, video, words())[b, t], net.out(x)[0], atol=1e-5, rtol=0)


def test_only_the_cross_modal_decoder_reads_the_words_and_only_real_ones():
    text, valid = words()
    other = (text + 1, valid)
    garbage = (text.masked_fill(~valid[..., None], 50.0), valid)
    assert torch.equal(decode(decoder(), tokens(), (text, valid)), decode(decoder(), tokens(), other))
    net = decoder(cross_modal=True)
    plain = decode(net, tokens(), (text, valid))
    assert (plain - decode(net, tokens(), other)).abs().max() > 1e-2
    torch.testing.assert_close(plain, decode(net, tokens(), garbage), atol=1e-5, rtol=0)


def test_cross_modal_pixels_do_not_attend_to_padding():
    net, text = decoder(1, cross_modal=True), words()
    valid = torch.ones(B, *SIZES[-1], dtype=torch.bool)
    valid[1, :, 2:] = False
    laterals = net.laterals(maps())
    level = net.words[0]

    def attended(x: Tensor) -> Tensor:
        return level(x, SIZES[-1], valid, *text)

    x = laterals[0].flatten(0, 1)
    garbage = x.clone()
    garbage[T:, :, :, 4:] = 50.0  # lies under the masked column of the second sample alone
    torch.testing.assert_close(attended(garbage)[..., :4], attended(x)[..., :4], atol=1e-5, rtol=0)
    assert (level(garbage, SIZES[-1], None, *text) - level(x, SIZES[-1], None, *text))[T:, ..., :4].abs().max() > 1e-3
    assert not torch.equal(decode(net, tokens(), text, video_valid=valid)[1], decode(net, tokens(), text)[1])


@pytest.mark.parametrize("cross_modal", [False, True])
def test_frames_and_samples_do_not_see_each_other(cross_modal):
    net, video, changed = decoder(cross_modal=cross_modal), tokens(), tokens()
    changed[1, 2] += 1
    difference = (decode(net, video, words()) - decode(net, changed, words())).abs().amax((2, 3, 4))
    assert difference[1, 2] > 1e-2
    difference[1, 2] = 0
    assert difference.max() < 1e-5


def test_masks_are_each_proxys_kernel_on_the_features_of_its_frame():
    torch.manual_seed(0)
    head, proxies, features = DynamicKernelHead(dim=C, mask_dim=M), torch.randn(B, T, 4, C), torch.randn(B, T, M, 5, 6)
    masks = head(proxies, features)
    assert masks.shape == (B, T, 4, 5, 6)
    for b, t, n in itertools.product(range(B), range(T), range(4)):
        kernel = head.kernel(proxies[b, t, n])
        expected = F.conv2d(features[b, t][None], kernel[None, :, None, None])[0, 0]
        torch.testing.assert_close(masks[b, t, n], expected, atol=1e-5, rtol=0)


def test_reference_head_starts_at_one_percent_and_gives_boxes_within_the_frame():
    torch.manual_seed(0)
    head = ReferenceHead(dim=C, num_classes=3)
    logits, boxes = head(100 * torch.randn(B, T, 4, C))
    assert logits.shape == (B, T, 4, 3) and boxes.shape == (B, T, 4, 4)
    assert boxes.min() >= 0 and boxes.max() <= 1
    torch.testing.assert_close(head(torch.zeros(C))[0].sigmoid(), torch.full((3,), 0.01))


def test_mlp_has_a_layer_less_than_sizes_and_is_not_linear():
    torch.manual_seed(0)
    net = mlp(C, 24, 4)
    assert [tuple(p.shape) for p in net.parameters()] == [(24, C), (24,), (4, 24), (4,)]
    x = torch.randn(50, C)
    assert (net(x) + net(-x) - 2 * net(torch.zeros(C))).abs().max() > 1e-2
