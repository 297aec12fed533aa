"""The whole network: shapes and gradients under every choice, and what must not matter to an answer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import models
from datasets.collate import collate
from models.criterion import Criterion
from models.matcher import LossWeights, TrajectoryMatcher
from models.postprocess import query_scores
from models.proxyformer import ProxyFormer, VideoFeatures, Words
from models.video_swin import VideoSwin
from tests.tiny_model import (
    DIM,
    EXPRESSIONS,
    QUERIES,
    random_batch,
    random_clip,
    random_target,
    tiny_args,
    tiny_model,
    tiny_text_encoder,
)
from util.samples.structures import Batch, Output

CHOICES = [
    {},
    {"token_stride": 16},
    {"dec_layers": 1},
    {"dec_layers": 2, "mask_decoder": "cross_modal"},
    {"dim_feedforward": 24},
    {"jsc_target": "video"},
    {"jsc_target": "text"},
    {"jsc_target": "none"},
    {"time_encoding": "none"},
    {"time_encoding": "random"},
    {"time_encoding": "relative"},
    {"num_classes": 3},
    {"aux_loss": False},
    {"enc_layers": 1},
    {"full": True},
    {"video_reads": "nothing", "jsc_after": True},
    {"video_reads": "words", "jsc_target": "video", "jsc_after": True},
    {
        "token_stride": 16,
        "dec_layers": 2,
        "mask_decoder": "cross_modal",
        "dim_feedforward": 24,
        "jsc_target": "video",
        "time_encoding": "none",
        "num_classes": 3,
        "aux_loss": False,
    },
]
each_choice = pytest.mark.parametrize("choice", CHOICES, ids=lambda c: " ".join(f"{k}={v}" for k, v in c.items()))


def criterion() -> Criterion:
    return Criterion(matcher=TrajectoryMatcher(LossWeights()), weights=LossWeights())


def answer(model: ProxyFormer, batch: Batch, *, supervised: bool = True) -> Output:
    return model(batch.video, batch.expressions, batch.video_valid, batch.clip_index, supervised=supervised)


def assert_same(a: Output, b: Output, rows: slice | list = slice(None), atol: float = 1e-4) -> None:
    """``rows`` of a's final prediction are b's."""
    for name in ("logits", "boxes", "masks", "proxies"):
        torch.testing.assert_close(getattr(a.final, name)[rows], getattr(b.final, name), atol=atol, rtol=0)


def padded_batch(**target) -> Batch:
    """Two clips of different sizes and three expressions."""
    small, large = (32, 64), (50, 70)
    clips = [
        random_clip(0, [random_target(0, size=small, **target)], size=small),
        random_clip(1, [random_target(i, size=large, **target) for i in (1, 2)], size=large),
    ]
    return collate(clips)


# Shapes and gradients ----------------------------------------------------------------------------------------------


@each_choice
def test_shapes(choice):
    model, batch = tiny_model(**choice), padded_batch()
    stride = 4 * 2 ** (3 - choice.get("dec_layers", 3))
    b, t, h, w = 3, 3, 64 // stride, 96 // stride
    for supervised in (True, False):
        out = answer(model, batch, supervised=supervised)
        stages = choice.get("enc_layers", 2) if supervised and choice.get("aux_loss", True) else 1
        assert len(out.aux) == stages - 1
        for prediction in (*out.aux, out.final):
            assert prediction.logits.shape == (b, t, QUERIES, choice.get("num_classes", 1))
            assert prediction.boxes.shape == (b, t, QUERIES, 4)
            assert prediction.masks.shape == (b, t, QUERIES, h, w)
            assert prediction.proxies.shape == (b, t, QUERIES, DIM)
        assert model.mask_stride == stride
        if supervised and choice.get("jsc_target") != "none":
            assert out.semantics.shape == (b, DIM)
        else:
            assert out.semantics is None


def cannot_learn(name: str) -> bool:
    """Parameters whose gradient is zero by construction.

    Adding the same to all keys changes no softmax. And the first stage's proxies are the same in every frame: how its
    temporal attention weighs equal values changes nothing.
    """
    blind = [f"cmie.stages.0.video_from_proxies_time.{part}" for part in ("query.", "key.", "distance_bias")]
    return name.endswith("key.bias") or name.startswith(tuple(blind))


def assert_every_parameter_learns(model: ProxyFormer, batch: Batch) -> None:
    """Backpropagates the whole loss, in float64 to tell a small gradient from none."""
    batch.video = batch.video.double()
    loss, _ = criterion()(answer(model.double().train(), batch), batch)
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
            largest = parameter.grad.abs().max().item()
            assert (largest < 1e-12) if cannot_learn(name) else (largest > 1e-10), f"{name}: {largest}"


@each_choice
def test_every_parameter_gets_a_gradient(choice):
    batch = padded_batch(classes=choice.get("num_classes", 1), instances=2, absent=[1])
    assert_every_parameter_learns(tiny_model(**choice), batch)


def test_every_parameter_of_real_backbones_gets_a_gradient():
    swin = VideoSwin(
        embed_dim=8, depths=[1, 1, 2, 1], num_heads=[1, 2, 2, 4], window_size=(4, 3, 3), stochastic_depth=0
    )
    assert_every_parameter_learns(tiny_model(backbone=swin), random_batch(2, size=(64, 96)))
    resnet = models.assemble(tiny_args(), 1, tiny_text_encoder())
    assert_every_parameter_learns(resnet, random_batch(2, size=(64, 96)))


def test_a_frozen_text_encoder_gets_no_gradient_and_its_projection_does():
    model, batch = tiny_model(frozen_text=True), random_batch(2)
    assert_every_parameter_learns(model, batch)
    assert all(p.grad is None for p in model.text_encoder.parameters())
    assert model.text_proj[0].weight.grad.any()


def test_options_reach_the_model():
    flags = "--enc_layers 3 --dec_layers 2 --num_queries 5 --token_stride 16 --mask_decoder cross_modal --mask_dim 24"
    flags += " --dim_feedforward 24 --time_encoding none --no_aux_loss --jsc_target video --dropout 0.3 --nheads 4"
    flags += " --cmie full --video_reads words --jsc_video after"
    model = models.assemble(tiny_args(*flags.split()), 7, tiny_text_encoder())
    choice = dict(enc_layers=3, dec_layers=2, num_queries=5, token_stride=16, mask_decoder="cross_modal", mask_dim=24)
    choice |= dict(dim_feedforward=24, time_encoding="none", aux_loss=False, jsc_target="video", dropout=0.3, heads=4)
    choice |= dict(full=True, video_reads="words", jsc_after=True)
    expected = tiny_model(**choice, num_classes=7, backbone=model.backbone)
    expected.load_state_dict(model.state_dict())
    batch = random_batch(2)
    assert_same(answer(model.eval(), batch), answer(expected.eval(), batch), atol=1e-6)
    torch.testing.assert_close(answer(model, batch).semantics, answer(expected, batch).semantics)
    assert not answer(model.train(), batch).aux and model.text_proj[2].p == 0.3


# What must not matter ----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("choice", [CHOICES[0], CHOICES[-1]], ids=["default", "other"])
@pytest.mark.parametrize("backbone", ["fake", "resnet18"])
def test_a_batch_of_equal_shapes_is_its_samples_one_by_one(choice, backbone):
    if backbone == "resnet18":
        choice = {**choice, "backbone": models.assemble(tiny_args(), 1, tiny_text_encoder()).backbone}
    model, batch = tiny_model(**choice).eval(), random_batch(3, size=(50, 70))
    together = model(batch.video, batch.expressions)
    for i, text in enumerate(batch.expressions):
        assert_same(together, model(batch.video[[i]], [text]), [i])


@torch.no_grad()
def test_several_expressions_of_a_clip_are_as_each_alone():
    model, batch = tiny_model().eval(), random_batch(2)
    asked = list(EXPRESSIONS[:3])
    together = model(batch.video, asked, clip_index=torch.tensor([1, 0, 1]))
    for i, clip in enumerate((1, 0, 1)):
        assert_same(together, model(batch.video[[clip]], asked[i : i + 1]), [i])
    assert (together.final.masks[0] - together.final.masks[2]).abs().max() > 1e-4


@torch.no_grad()
def test_any_number_of_frames_serves():
    model = tiny_model().eval()
    for frames in (1, 2, 7):
        batch = random_batch(1, frames=frames)
        assert answer(model, batch).final.masks.shape[1] == frames


def encoded(model: ProxyFormer) -> tuple[VideoFeatures, Words]:
    batch = padded_batch()
    features = model.encode_video(batch.video, batch.video_valid).of(batch.clip_index)
    return features, model.encode_text(batch.expressions)


def with_garbage(features: VideoFeatures) -> VideoFeatures:
    """Large numbers in the padding tokens."""
    padding = ~features.valid[:, None, :, :, None]
    assert padding.any()
    return dataclasses.replace(features, tokens=features.tokens.masked_fill(padding, 50.0))


@torch.no_grad()
@each_choice
def test_garbage_in_padding_tokens_reaches_no_proxy_and_no_semantics(choice):
    model = tiny_model(**choice)
    features, text = encoded(model)
    clean, dirty = (model.decode(f, text, supervised=True) for f in (features, with_garbage(features)))
    for name in ("logits", "boxes", "proxies"):
        torch.testing.assert_close(getattr(dirty.final, name), getattr(clean.final, name), atol=1e-5, rtol=0)
    if clean.semantics is not None:
        torch.testing.assert_close(dirty.semantics, clean.semantics, atol=1e-5, rtol=0)


@torch.no_grad()
@each_choice
def test_garbage_in_padding_words_reaches_nothing(choice):
    model = tiny_model(**choice)
    features, text = encoded(model)
    assert not text.valid.all()
    garbage = Words(text.words.masked_fill(~text.valid[..., None], 50.0), text.valid)
    clean, dirty = (model.decode(features, t, supervised=True) for t in (text, garbage))
    assert_same(clean, dirty, atol=1e-5)
    if clean.semantics is not None:
        torch.testing.assert_close(dirty.semantics, clean.semantics, atol=1e-5, rtol=0)


def test_a_wholly_masked_clip_is_finite_and_leaves_the_other_alone():
    model, batch = tiny_model(), random_batch(2)
    valid = torch.ones(2, 32, 64, dtype=torch.bool)
    valid[1] = False
    out = model(batch.video, batch.expressions, valid)
    sum(x.square().sum() for x in (out.final.masks, out.final.boxes, out.final.logits, out.semantics)).backward()
    assert out.final.masks.isfinite().all() and out.semantics.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert_same(out, model(batch.video[[0]], batch.expressions[:1]), [0])


@torch.no_grad()
def test_a_token_is_real_when_any_pixel_under_it_is():
    model = tiny_model()
    for rows, columns in ((1, 33), (32, 64), (50, 70), (64, 96)):
        valid = torch.zeros(1, 64, 96, dtype=torch.bool)
        valid[:, :rows, :columns] = True
        tokens = model.encode_video(torch.zeros(1, 1, 3, 64, 96), valid).valid[0]
        expected = torch.zeros(2, 3, dtype=torch.bool)
        expected[: -(-rows // 32), : -(-columns // 32)] = True
        assert torch.equal(tokens, expected)


# What does matter --------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("time_encoding", ["absolute", "random", "relative", "none"])
def test_only_the_time_encoding_knows_the_order_of_the_frames(time_encoding):
    model, batch, order = tiny_model(time_encoding=time_encoding).eval(), random_batch(1, frames=4), [2, 0, 3, 1]
    plain, mixed = (model(video, batch.expressions).final.proxies for video in (batch.video, batch.video[:, order]))
    assert ((mixed - plain[:, order]).abs().max() < 1e-5) == (time_encoding == "none")


def test_a_tiny_model_learns_which_of_two_objects_is_meant():
    clip = random_clip(0, [random_target(seed, size=(32, 64)) for seed in (1, 2)])
    clip.frames[:, 1] += 3 * clip.targets[1].masks[:, 0]
    batch, model = collate([clip]), tiny_model()
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(100):
        loss, _ = criterion()(answer(model.train(), batch), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        final = answer(model.eval(), batch).final
        best = query_scores(final.logits).argmax(1)
        masks = final.masks[[0, 1], :, best] > 0
    truth = batch.targets.masks[:, :, 0, 2::4, 2::4]
    iou = [[float((m & y).sum() / (m | y).sum()) for y in truth] for m in masks]
    assert min(iou[0][0], iou[1][1]) > 0.8 and max(iou[0][1], iou[1][0]) < 0.6, iou
