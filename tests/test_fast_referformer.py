"""ReferFormer's forms for inference: the numbers of the plain modules, from the same parameters."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.deformable import DeformableAttention, Maps
from models.fast import for_inference
from models.fast.deformable import GatheredAttention
from models.fast.forms import take_form
from models.fast.pixel_decoder import WordAttention
from models.fast.referformer import FoldedMaskHead
from models.referformer import DynamicMaskHead
from tests.test_fast import forms
from tests.test_referformer import tiny
from tests.tiny_model import random_batch

FORMS = {"FastReferFormer", "FoldedMaskHead", "WordAttention", "FastBlock", "FastEncoderLayer", "GatheredAttention"}
FORMS |= {"ConvolvedLinear"}


def share(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """The largest difference, as a share of the range."""
    return float((got - wanted).abs().max() / (wanted.max() - wanted.min()))


@pytest.mark.parametrize("frames", [None, [1], [2, 0]], ids=["all frames", "one frame", "two frames"])
@pytest.mark.parametrize(
    "choice",
    [{}, {"refine": False}, {"relative": False}, {"levels": 3}, {"levels": 5}, {"mask_layers": 2}],
    ids=str,
)
def test_inference_gives_the_numbers_of_the_plain_referformer(choice, frames):
    """With padding and without, with several expressions of a clip, in the last and in every decoder layer."""
    plain = tiny(**choice).eval()
    model = copy.deepcopy(plain)
    for_inference(model, None)
    assert forms(model) == FORMS and not forms(plain)
    # neither size is a multiple of the strides
    batch = random_batch(2, expressions=2, frames=3, size=(72, 100))
    valid = batch.video_valid.clone()
    valid[1, 51:] = valid[1, :, 77:] = False
    for real in (valid, None):
        with torch.inference_mode():
            asked = (batch.video, batch.expressions, real, batch.clip_index)
            wanted, got = (net(*asked, frames=frames, supervised=real is None) for net in (plain, model))
        assert len(got.aux) == (1 if real is None else 0)
        for mine, theirs in zip([*got.aux, got.final], [*wanted.aux, wanted.final], strict=True):
            for name, value in vars(theirs).items():
                assert share(getattr(mine, name), value) < 1e-5, name


@torch.inference_mode()
def test_features_of_a_clip_serve_any_number_of_expressions():
    model, batch = tiny().eval(), random_batch(1, expressions=3, frames=2, size=(72, 100))
    for_inference(model, None)
    features = model.encode_video(batch.video)
    together = model.decode(features.of(batch.clip_index), model.encode_text(batch.expressions)).final.masks
    for i, expression in enumerate(batch.expressions):
        alone = model.decode(features.of(torch.tensor([0])), model.encode_text([expression])).final.masks
        assert share(alone[0], together[i]) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("shape", [2, 4], ids=["points", "boxes"])
def test_what_is_gathered_is_what_is_sampled(shape):
    """Also far outside of the maps and exactly on their edges."""
    torch.manual_seed(0)
    attention = DeformableAttention(dim=8, heads=2, levels=2, points=3).eval()
    nn.init.normal_(attention.sampling_offsets.weight, std=3.0)
    nn.init.normal_(attention.attention_weights.weight)
    maps = Maps(torch.randn(3, 16, 8), [(3, 4), (2, 2)], torch.rand(3, 16) > 0.2, torch.ones(3, 2, 2))
    query, reference = torch.randn(3, 40, 8), torch.rand(3, 40, 2, shape)
    query[:, :2], reference[:, 0, ..., :2], reference[:, 1, ..., :2] = 0, 0, 1
    wanted = attention(query, reference, maps)
    take_form(attention, GatheredAttention)
    assert share(attention(query, reference, maps), wanted) < 1e-5


@torch.inference_mode()
def test_words_taken_into_the_projections_are_read_as_by_attention():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(16, 4, batch_first=True).eval()
    nn.init.normal_(attention.in_proj_bias)
    nn.init.normal_(attention.out_proj.bias)
    tokens, places, words, order = (torch.randn(1, n, 16) for n in (30, 30, 5, 5))
    padding = torch.tensor([[False, False, False, True, True]])
    wanted = attention(tokens + places, words + order, words, padding, need_weights=False)[0]
    take_form(attention, WordAttention)
    taken = attention.take_in(words[0], order[0], padding[0])
    of_position = nn.functional.linear(places[0], taken.scores, taken.constant)
    assert share(attention(tokens[0], taken, of_position), wanted[0]) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("layers", [2, 3])
def test_the_folded_head_cuts_the_masks_of_the_plain_one(layers):
    """At the edges, too, where the folded convolution reads zeros."""
    torch.manual_seed(0)
    head = DynamicMaskHead(dim=16, mask_dim=12, channels=4, layers=layers, relative=True)
    nn.init.normal_(head.controller[-1].weight, std=0.3)
    convolution = nn.Conv2d(10, 12, 3, padding=1)
    queries, features, centres = torch.randn(2, 3, 16), torch.randn(2, 10, 6, 7), 20 * torch.rand(2, 3, 2)
    wanted = head(queries[None], convolution(features)[None], centres[None])[0]
    take_form(head, FoldedMaskHead)
    assert share(head(queries, features, centres, convolution), wanted) < 1e-5
