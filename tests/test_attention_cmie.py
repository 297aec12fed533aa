"""Attention, positions and the CMIE stages: equal to Figure 2 written out, blind to padding, and aware of time."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from models.attention import Attention
from models.cmie import CMIE, CMIEStack
from models.position_encoding import sine_1d, sine_2d
from models.surroundings import Surroundings, masked_mean

B, T, H, W, N, L, C = 2, 3, 2, 3, 4, 5, 16


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def streams(frames: int = T) -> tuple[Tensor, Tensor, Tensor]:
    """Random video, proxies and text."""
    return noise(B, frames, H, W, C, seed=1), noise(B, frames, N, C, seed=2), noise(B, L, C, seed=3)


def surroundings(frames: int = T, time: bool = True, **masks: Tensor) -> Surroundings:
    valid = masks.pop("text_valid", torch.ones(B, L, dtype=torch.bool))
    grid = masks["video_valid"].any(1) if "video_valid" in masks else torch.ones(B, H, W, dtype=torch.bool)
    return Surroundings(
        space=sine_2d(grid, C),
        time=sine_1d(frames, C) if time else None,
        words=sine_1d(valid.shape[1], C),
        text_valid=valid,
        **masks,
    )


def fresh(module: type[nn.Module], **options) -> nn.Module:
    """A module with random biases too, so that none of them is left out of a comparison."""
    torch.manual_seed(0)
    made = module(dim=C, heads=2, dropout=0.0, **options).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made


def grown(x: Tensor, axis: int, extra: int, garbage: bool = True) -> Tensor:
    """``x`` with ``extra`` entries at the end of an axis: large noise, or False for a mask."""
    shape = list(x.shape)
    shape[axis] = extra
    more = torch.zeros(shape, dtype=torch.bool) if x.dtype == torch.bool else 50 * noise(*shape, seed=9) * garbage
    return torch.cat((x, more), axis)


def close(a: Tensor, b: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# Attention ---------------------------------------------------------------------------------------------------------


def test_attention_is_torchs_multi_head_attention_with_residual_and_post_norm():
    layer, reference = fresh(Attention), nn.MultiheadAttention(C, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([a.weight for a in (layer.query, layer.key, layer.value)]))
        reference.in_proj_bias.copy_(torch.cat([a.bias for a in (layer.query, layer.key, layer.value)]))
    reference.out_proj = layer.out
    x, context, x_position, context_position = noise(B, 7, C), noise(B, L, C, seed=1), noise(7, C), noise(L, C, seed=2)
    valid = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    out = layer(x, context, x_position=x_position, context_position=context_position, context_valid=valid)
    read, _ = reference(x + x_position, context + context_position, context, key_padding_mask=~valid)
    close(out, layer.norm(x + read))


def test_attention_without_any_key_reads_nothing():
    layer, x = fresh(Attention), noise(B, 7, C)
    valid = torch.tensor([[False] * L, [True] * L])
    context = noise(B, L, C, seed=1).requires_grad_()
    out = layer(x, context, context_valid=valid)
    close(out[0], layer.norm(x + layer.out.bias)[0])
    close(out[1], layer(x, context)[1])
    out.square().sum().backward()
    assert context.grad.isfinite().all() and (context.grad[0] == 0).all()


# Positions and pooling ---------------------------------------------------------------------------------------------


def test_sine_of_a_sequence_is_the_formula():
    encoding = sine_1d(6, 8)
    for place in range(6):
        for i in range(4):
            angle = place / 10_000 ** (2 * i / 8)
            assert encoding[place, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert encoding[place, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_sine_of_a_grid_tells_places_apart_and_padding_does_not_shift_it():
    alone = sine_2d(torch.ones(1, 3, 4, dtype=torch.bool), C)
    assert torch.pdist(alone.flatten(0, 2)).min() > 0.1
    close(sine_2d(grown(grown(torch.ones(1, 3, 4, dtype=torch.bool), 1, 2), 2, 3), C)[:, :3, :4], alone)
    assert sine_2d(torch.zeros(1, 3, 4, dtype=torch.bool), C).isfinite().all()


def test_masked_mean():
    x, valid = noise(2, 3, 4, C), noise(2, 3, 4, seed=1) > 0
    valid[1] = False
    close(masked_mean(x, valid, (1, 2))[0], x[0][valid[0]].mean(0))
    assert (masked_mean(x, valid, (1, 2))[1] == 0).all()
    close(masked_mean(x, None, 2), x.mean(2))


# One stage ---------------------------------------------------------------------------------------------------------


def literal_stage(stage: CMIE, video: Tensor, proxies: Tensor, text: Tensor, around: Surroundings):
    """Figure 2, each group of queries with its own copy of the keys, as the paper replicates them."""

    def per_location(x: Tensor) -> Tensor:
        return rearrange(x, "b t h w c -> (b h w) t c")

    def per_frame(x: Tensor) -> Tensor:
        return x.flatten(0, 1).flatten(1, -2)

    place = repeat(around.space, "b h w c -> (b t) (h w) c", t=video.shape[1])
    frames = dict(x_position=around.time, context_position=around.time)
    token, real = around.video_valid, around.proxy_valid
    tokens_of_frame = None if token is None else token.flatten(0, 1).flatten(1)
    times_of_location = None if token is None else rearrange(token, "b t h w -> (b h w) t")
    times = None if token is None else token.flatten(2).any(2)
    pooled_proxies, pooled_video = masked_mean(proxies, real, 2), masked_mean(video, token, (2, 3))

    def frame_shaped(x: Tensor) -> Tensor:
        return rearrange(x, "(b t) (h w) c -> b t h w c", b=B, h=H)

    def location_shaped(x: Tensor) -> Tensor:
        return rearrange(x, "(b h w) t c -> b t h w c", h=H, w=W)

    def copies(x: Tensor | None, n: int) -> Tensor | None:
        return None if x is None else repeat(x, "b t ... -> (b n) t ...", n=n)

    x = stage.video_in(video)
    s = stage.video_space(
        per_frame(x), per_frame(x), x_position=place, context_position=place, context_valid=tokens_of_frame
    )
    m = stage.video_time(per_location(x), per_location(x), **frames, context_valid=times_of_location)
    y = frame_shaped(s) + location_shaped(m)
    keys = None if real is None else real.flatten(0, 1)
    p_s = stage.video_from_proxies_space(per_frame(y), per_frame(proxies), x_position=place, context_valid=keys)
    p_t = stage.video_from_proxies_time(
        per_location(y), copies(pooled_proxies, H * W), **frames, context_valid=copies(times, H * W)
    )
    z, u = stage.proxies_in(proxies), stage.text_in(text)
    r = stage.proxies_from_text(z.flatten(1, 2), u, context_position=around.words, context_valid=around.text_valid)
    r = r.unflatten(1, z.shape[1:3])
    v_s = stage.proxies_from_video_space(
        per_frame(r), per_frame(video), context_position=place, context_valid=tokens_of_frame
    )
    v_t = stage.proxies_from_video_time(
        rearrange(r, "b t n c -> (b n) t c"), copies(pooled_video, N), **frames, context_valid=copies(times, N)
    )
    v_t = rearrange(v_t, "(b n) t c -> b t n c", b=B)
    return frame_shaped(p_s) + location_shaped(p_t), v_s.view_as(v_t) + v_t


def some_masks() -> dict[str, Tensor]:
    """Padding of every kind: words, the right column of the second sample, a proxy, and the whole last frame of it."""
    masks = dict(
        text_valid=torch.ones(B, L, dtype=torch.bool),
        video_valid=torch.ones(B, T, H, W, dtype=torch.bool),
        proxy_valid=torch.ones(B, T, N, dtype=torch.bool),
    )
    masks["text_valid"][0, 3:] = False
    masks["video_valid"][1, :, :, 2:] = False
    masks["video_valid"][1, 2] = False
    masks["proxy_valid"][0, :, 1] = False
    return masks


@pytest.mark.parametrize("masks", [{}, some_masks()], ids=["whole", "padded"])
@pytest.mark.parametrize("time", [True, False])
def test_stage_is_figure_2_with_replicated_keys(masks, time):
    stage, around = fresh(CMIE), surroundings(time=time, **masks)
    for folded, literal in zip(stage(*streams(), around), literal_stage(stage, *streams(), around), strict=True):
        close(folded, literal)


def test_feed_forward_follows_each_block():
    plain, deep = fresh(CMIE), fresh(CMIE, dim_feedforward=24)
    deep.load_state_dict(plain.state_dict(), strict=False)
    video, proxies = plain(*streams(), surroundings())
    close(deep(*streams(), surroundings())[0], deep.video_out(video))
    close(deep(*streams(), surroundings())[1], deep.proxies_out(proxies))
    assert (deep.video_out(video) - video).abs().max() > 0.1


# The stack ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack() -> CMIEStack:
    return fresh(CMIEStack, layers=2)


def test_stack_feeds_each_stage_with_the_last_and_with_fresh_words(stack):
    video, proxies, text = streams()
    encoded, stages = stack(video, proxies, text, surroundings())
    assert encoded.shape == video.shape and [q.shape for q in stages] == [proxies.shape] * 2
    one = stack.stages[0](video, proxies, text, surroundings())
    two = stack.stages[1](*one, text, surroundings())
    for got, expected in zip((stages[0], encoded, stages[1]), (one[1], *two), strict=True):
        close(got, expected)


def run(stack: CMIEStack, video: Tensor, proxies: Tensor, text: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
    encoded, stages = stack(video, proxies, text, around)
    return encoded, stages[-1]


def test_padding_words_change_nothing(stack):
    video, proxies, text = streams()
    valid = grown(torch.ones(B, L, dtype=torch.bool), 1, 3)
    plain = run(stack, video, proxies, text, surroundings())
    padded = run(stack, video, proxies, grown(text, 1, 3), surroundings(text_valid=valid))
    for a, b in zip(padded, plain, strict=True):
        close(a, b)
    unmasked = run(stack, video, proxies, grown(text, 1, 3), surroundings(text_valid=torch.ones_like(valid)))
    assert (unmasked[1] - plain[1]).abs().max() > 0.1


def test_padding_tokens_change_nothing(stack):
    video, proxies, text = streams()
    valid = grown(grown(torch.ones(B, T, H, W, dtype=torch.bool), 2, 1), 3, 2)
    plain = run(stack, video, proxies, text, surroundings())
    padded = run(stack, grown(grown(video, 2, 1), 3, 2), proxies, text, surroundings(video_valid=valid))
    close(padded[0][:, :, :H, :W], plain[0])
    close(padded[1], plain[1])


def test_padding_proxies_change_nothing(stack):
    video, proxies, text = streams()
    valid = grown(torch.ones(B, T, N, dtype=torch.bool), 2, 2)
    plain = run(stack, video, proxies, text, surroundings())
    padded = run(stack, video, grown(proxies, 2, 2), text, surroundings(proxy_valid=valid))
    close(padded[0], plain[0])
    close(padded[1][:, :, :N], plain[1])


@pytest.mark.parametrize("what", ["tokens and proxies", "tokens"])
def test_a_fully_masked_frame_is_finite_and_does_not_reach_the_others(stack, what):
    video, proxies, text = streams()
    tokens = grown(torch.ones(B, T, H, W, dtype=torch.bool), 1, 1)
    around = surroundings(T + 1, video_valid=tokens)
    if what == "tokens and proxies":
        around = dataclasses.replace(around, proxy_valid=grown(torch.ones(B, T, N, dtype=torch.bool), 1, 1))
    longer = run(stack, grown(video, 1, 1), grown(proxies, 1, 1), text, around)
    for a, b in zip(longer, run(stack, video, proxies, text, surroundings()), strict=True):
        assert a.isfinite().all()
        close(a[:, :T], b)


def test_proxies_masked_in_a_whole_frame_do_not_reach_the_other_frames(stack):
    video, proxies, text = streams()
    valid = torch.ones(B, T, N, dtype=torch.bool)
    valid[:, 1] = False
    stage, around = stack.stages[0], surroundings(proxy_valid=valid)
    kept = [0, 2]
    without = dataclasses.replace(surroundings(2), time=around.time[kept])
    read = stage.read_proxies_time(video, proxies, around)[:, kept]
    close(read, stage.read_proxies_time(video[:, kept], proxies[:, kept], without))


def test_a_sample_without_any_real_token_is_finite(stack):
    masks = dict(video_valid=torch.zeros(B, T, H, W, dtype=torch.bool), text_valid=torch.zeros(B, L, dtype=torch.bool))
    assert all(x.isfinite().all() for x in run(stack, *streams(), surroundings(**masks)))


def frame_order_error(stack: CMIEStack, time: bool) -> float:
    """How far the result of reordered frames is from the reordered result."""
    video, proxies, text = streams(frames=4)
    order = [2, 0, 3, 1]
    plain = run(stack, video, proxies, text, surroundings(4, time))
    mixed = run(stack, video[:, order], proxies[:, order], text, surroundings(4, time))
    return max((m - p[:, order]).abs().max().item() for m, p in zip(mixed, plain, strict=True))


def test_only_the_time_encoding_knows_the_order_of_the_frames(stack):
    assert frame_order_error(stack, time=False) < 1e-5
    assert frame_order_error(stack, time=True) > 1e-2


def test_the_order_of_the_words_matters(stack):
    video, proxies, text = streams()
    forward = run(stack, video, proxies, text, surroundings())
    backward = run(stack, video, proxies, text.flip(1), surroundings())
    assert (forward[1] - backward[1]).abs().max() > 1e-2


def test_video_reads_the_words_from_the_second_stage_on(stack):
    video, proxies, text = streams()
    once, again = (stack.stages[0](video, proxies, x, surroundings()) for x in (text, text + 1))
    close(once[0], again[0])
    assert (once[1] - again[1]).abs().max() > 1e-2
    assert (stack(video, proxies, text, surroundings())[0] - stack(video, proxies, text + 1, surroundings())[0]).any()
