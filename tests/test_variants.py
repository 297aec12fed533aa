"""The variants of the paper's ablations: their formulas written out, their cost, and that checkpoints know them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import models
from models.attention import Attention
from models.cmie import CMIE
from models.earlier import upgraded
from models.surroundings import Surroundings
from opts import parse_train_args
from tests.test_attention_cmie import VARIANTS, B, C, H, L, N, T, W, close, fresh, some_masks, streams, surroundings
from tests.test_checkpoint_optim import restored, saved_model
from tests.tiny_model import EXPRESSIONS, random_batch, tiny_model
from util.options.saved import VARIANTS as DEFAULTS
from util.weights import checkpoint

each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=str)


# Formulas ----------------------------------------------------------------------------------------------------------


def attended(layer: Attention, x: Tensor, context: Tensor, at: Tensor, places: Tensor, valid: Tensor) -> Tensor:
    """``Norm(x + MHA(x, context))`` for ``x [q, c]`` at positions ``at`` and ``context [k, c]``, query by query."""
    keys = [i for i in range(len(context)) if valid[i]]
    width = C // layer.heads
    rows = []
    for query in layer.query(x + at):
        read = torch.zeros(C)
        if keys:
            key, value = layer.key(context + places)[keys], layer.value(context)[keys]
            for head in range(layer.heads):
                part = slice(head * width, (head + 1) * width)
                weights = (key[:, part] @ query[part] / math.sqrt(width)).softmax(0)
                read[part] = weights @ value[:, part]
        rows.append(layer.out(read))
    return layer.norm(x + torch.stack(rows))


def written_out(stage: CMIE, video: Tensor, proxies: Tensor, text: Tensor, around: Surroundings, sample: int):
    """The stage of CMIE* for one sample: each attention sees the tokens or proxies of all frames in one list.

    What the video reads is the stage's.
    """
    place = [around.space[sample, i, j] for _ in range(T) for i in range(H) for j in range(W)]
    time = torch.zeros(T, C) if around.time is None else around.time
    at_token = torch.stack(place) + time.repeat_interleave(H * W, 0)
    at_proxy = time.repeat_interleave(N, 0)
    tokens, queries = video[sample].flatten(0, 2), proxies[sample].flatten(0, 1)
    everything = torch.ones(T, max(N, H * W), dtype=torch.bool)
    real_token, real_proxy = everything[:, : H * W].flatten(), everything[:, :N].flatten()
    if around.video_valid is not None:
        real_token = around.video_valid[sample].flatten()
        frames = around.video_valid[sample].flatten(1).any(1)
        real_proxy = frames.repeat_interleave(N) & around.proxy_valid[sample].flatten()
    words, real_word = stage.text_in(text[sample]), around.text_valid[sample]
    nowhere = torch.zeros(1, C)

    x = stage.video_in(tokens)
    y = attended(stage.video_space_time, x, x, at_token, at_token, real_token)
    if stage.video_reads == "proxies":
        y = attended(stage.video_from_proxies_space_time, y, queries, at_token, at_proxy, real_proxy)
    elif stage.video_reads == "words":
        y = attended(stage.video_from_text, y, words, at_token, around.words, real_word)
    r = attended(stage.proxies_from_text, stage.proxies_in(queries), words, nowhere, around.words, real_word)
    r = attended(stage.proxies_from_video_space_time, r, tokens, at_proxy, at_token, real_token)
    return y.view(T, H, W, C), r.view(T, N, C)


@pytest.mark.parametrize("masks", [{}, some_masks()], ids=["whole", "padded"])
@pytest.mark.parametrize(("what", "time"), [("proxies", True), ("nothing", True), ("words", True), ("proxies", False)])
def test_full_attention_sees_space_and_time_together(masks, what, time):
    stage, around = fresh(CMIE, full=True, video_reads=what), surroundings(time=time, **masks)
    found = stage(*streams(), around)
    for sample in range(B):
        for got, expected in zip(found, written_out(stage, *streams(), around, sample), strict=True):
            close(got[sample], expected)


@pytest.mark.parametrize("masks", [{}, some_masks()], ids=["whole", "padded"])
def test_video_that_reads_no_proxies_is_y_and_the_proxies_are_the_same(masks):
    """Beside a whole stage of the same weights. Y is written out in tests/test_attention_cmie.py."""
    whole, around, (video, proxies, text) = fresh(CMIE), surroundings(**masks), streams()
    x = whole.video_in(video)
    y = whole.attend_space(x, around) + whole.attend_time(x, around)
    for what in ("nothing", "words"):
        stage = fresh(CMIE, video_reads=what)
        stage.load_state_dict(whole.state_dict(), strict=False)
        got = stage(video, proxies, text, around)
        close(got[1], whole(video, proxies, text, around)[1])
        if what == "nothing":
            close(got[0], y)
            continue
        at_token = around.space[:, None] + around.time[:, None, None]
        for i in range(B):
            words, at = stage.text_in(text[i]), at_token[i].flatten(0, 2)
            expected = attended(
                stage.video_from_text, y[i].flatten(0, 2), words, at, around.words, around.text_valid[i]
            )
            close(got[0][i].flatten(0, 2), expected)


@each_variant
def test_a_stage_has_only_the_attentions_that_it_uses(variant):
    """Each reaches its outputs; with data-parallel training a parameter without gradient ends the run."""
    stage = fresh(CMIE, **variant)
    used = set()
    for name, module in stage.named_children():
        module.register_forward_hook(lambda *_, name=name: used.add(name))
    outputs = stage(*streams(), surroundings())
    assert used == {name for name, _ in stage.named_children()}
    sum(x.square().sum() for x in outputs).backward()
    assert all(p.grad is not None for p in stage.parameters())


# Cost --------------------------------------------------------------------------------------------------------------


def attention_flops(groups: int, queries: int, keys: int) -> int:
    """Four projections and two products of each query with each key; a multiplication and an addition are two."""
    return groups * 2 * (2 * queries * C * C + 2 * keys * C * C + 2 * queries * keys * C)


def stage_flops(full: bool, video_reads: str) -> int:
    """Of one sample without padding."""
    place, tokens, proxies = H * W, T * H * W, T * N
    linear = 2 * C * C * (tokens + proxies + L)
    if full:
        itself = attention_flops(1, tokens, tokens)
        from_proxies = attention_flops(1, tokens, proxies)
        from_video = attention_flops(1, proxies, tokens)
    else:
        itself = attention_flops(T, place, place) + attention_flops(place, T, T)
        from_proxies = attention_flops(T, place, N) + attention_flops(1, tokens, T)
        from_video = attention_flops(T, N, place) + attention_flops(1, proxies, T)
    read = {"proxies": from_proxies, "nothing": 0, "words": attention_flops(1, tokens, L)}[video_reads]
    return linear + itself + read + attention_flops(1, proxies, L) + from_video


@each_variant
@torch.no_grad()
def test_the_flops_of_a_stage_are_those_of_its_formula(variant):
    stage = fresh(CMIE, **variant).requires_grad_(False)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH):  # torch counts the products of this kernel on every device
        stage(*streams(), surroundings())
    assert counter.get_total_flops() == B * stage_flops(**variant)


# The semantics of JSC ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("after", [False, True])
def test_the_video_of_the_semantics_is_from_before_or_after_the_encoder(after):
    model, batch = tiny_model(jsc_target="video", jsc_after=after).eval(), random_batch(2)
    seen = {}
    model.cmie.register_forward_hook(lambda _, given, found: seen.update(before=given[0], after=found[0]))
    valid = torch.ones(2, 32, 64, dtype=torch.bool)
    valid[1, :, 32:] = False
    features = model.encode_video(batch.video, valid)
    # answers for some of the frames change nothing: the clip is pooled whole
    out = model.decode(features, model.encode_text(batch.expressions), frames=[1], supervised=True)
    video = seen["after" if after else "before"]
    assert features.valid[1].sum() == 1
    pooled = torch.stack([video[0].mean((0, 1, 2)), video[1, :, :, :1].mean((0, 1, 2))])
    torch.testing.assert_close(out.semantics, model.semantics(pooled), atol=1e-5, rtol=0)


# Options and checkpoints -------------------------------------------------------------------------------------------

FLAGS = ["--cmie full --video_reads words --jsc_video after", "--no-proxy_to_video"]


@torch.no_grad()
@pytest.mark.parametrize("flags", FLAGS)
def test_checkpoints_and_exported_weights_keep_the_variant(flags, tmp_path):
    model, args = saved_model(tmp_path / "c.pth", *flags.split())
    content = checkpoint.load(tmp_path / "c.pth")
    checkpoint.export(tmp_path / "w.safetensors", content, torch.float32)
    video = torch.randn(1, 2, 3, 32, 64)
    expected = model.eval()(video, [EXPRESSIONS[0]]).final.masks
    for found in (models.restore_model(content, "c.pth"), restored(tmp_path / "w.safetensors", *flags.split())[0]):
        assert torch.equal(found.eval()(video, [EXPRESSIONS[0]]).final.masks, expected)
    with pytest.raises(ValueError, match="--proxy_to_video is .* there"):
        restored(tmp_path / "w.safetensors", "--proxy_to_video" if "--no" in flags else "--no-proxy_to_video")
    going_on = vars(parse_train_args([], defaults=content["options"]))
    assert all(going_on[option] == vars(args)[option] for option in DEFAULTS)


def test_a_checkpoint_of_before_is_the_whole_model(tmp_path):
    saved_model(tmp_path / "c.pth")
    content = checkpoint.load(tmp_path / "c.pth")
    for name in DEFAULTS:
        del content["options"][name]
    options = upgraded(content, "old.pth")["options"]
    assert (options["cmie"], options["proxy_to_video"], options["video_reads"]) == ("decoupled", True, "proxies")
    assert options["jsc_video"] == "before"
    model = models.restore_model(content, "old.pth")
    assert not model.jsc_after and model.cmie.stages[0].video_reads == "proxies" and not model.cmie.stages[0].full


def test_a_checkpoint_whose_variants_contradict_each_other_is_refused(tmp_path):
    saved_model(tmp_path / "c.pth", "--video_reads", "words")
    content = checkpoint.load(tmp_path / "c.pth")
    content["options"]["proxy_to_video"] = False
    with pytest.raises(ValueError, match="odd.pth is damaged: --video_reads words replaces the proxies"):
        models.restore_model(content, "odd.pth")
