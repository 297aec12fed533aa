"""A look inside: the words and tokens that proxies read, as the forward pass that gives the masks reads them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.attention import Attention
from models.fast import for_inference
from models.postprocess import resize_logits
from models.predictor import InMemory, Predictor
from models.reading import look_inside, words_of
from tests.test_attention_cmie import C, L, fresh, noise
from tests.test_referformer import tiny as tiny_referformer
from tests.tiny_model import EXPRESSIONS, QUERIES, tiny_model, tiny_text_encoder
from util.video.attention_picture import _BARS, attention_picture, heat
from util.video.visualize import PREDICTED_COLOUR

TEXT = EXPRESSIONS[0]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Of a random model with masks that are neither full nor empty, and attention that is not even."""
    model = tiny_model(token_stride=16)
    with torch.no_grad():
        model.segmenter.kernel_head.kernel[-1].weight *= 30
        for stage in model.cmie.stages:
            for attention in (stage.proxies_from_text, stage.proxies_from_video_space):
                attention.query.weight *= 4
    return Predictor(model, eval_size=40, max_size=96, window=4)


def frames(height: int = 61, width: int = 83, length: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (length, 3, height, width), dtype=torch.uint8, generator=generator)


def logits_of(predictor: Predictor, work) -> Tensor:
    """Mask logits of every query in the pass that ``work`` makes."""
    found = []
    hook = predictor.model.segmenter.register_forward_hook(lambda _, __, masks: found.append(masks[-1]))
    work()
    hook.remove()
    (logits,) = found
    return logits


# Weights -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("valid", [None, [[True] * 3 + [False] * 2, [False] * 5]])
@pytest.mark.parametrize("relative", [False, True])
def test_the_weights_are_those_that_the_attention_reads_with(valid, relative):
    layer, x, context = fresh(Attention, relative=relative), noise(2, 7, C), noise(2, L, C, seed=1)
    how = dict(x_position=noise(7, C, seed=2), context_position=noise(L, C, seed=3))
    how |= dict(context_valid=None if valid is None else torch.tensor(valid))
    how |= dict(distances=torch.arange(7 * L).reshape(7, L) % 9 if relative else None)
    weights, values = layer.weights(x, context, **how), layer.value(context).unflatten(-1, (2, -1)).transpose(1, 2)
    read = layer.out((weights @ values).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, context, **how), layer.norm(x + read), atol=1e-5, rtol=0)
    assert weights.shape == (2, 2, 7, L)


# A look --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width", "length"), [(61, 83, 3), (40, 200, 1), (96, 33, 4), (320, 160, 2)])
def test_any_size_and_the_same_masks(predictor, height, width, length):
    video = frames(height, width, length)
    looked = []
    inside = logits_of(predictor, lambda: looked.append(look_inside(predictor, video, TEXT)))
    outside = logits_of(predictor, lambda: predictor(video, [TEXT]))
    assert torch.equal(inside, outside)
    (masks,), (score,) = predictor(video, [TEXT])
    (reading,) = looked
    assert torch.equal(reading.masks, masks) and reading.score == score and reading.masks.any()

    seen_height, seen_width = reading.frames.shape[-2:]
    grid = (-(-seen_height // 16), -(-seen_width // 16))
    assert reading.stride == 16 and reading.frames.shape[:2] == (length, 3)
    assert reading.of_tokens.shape == (2, length, QUERIES, *grid)
    assert reading.of_words.shape == (2, length, QUERIES, len(reading.words))
    for sums in (reading.of_words.sum(-1), reading.of_tokens.sum((-1, -2))):
        torch.testing.assert_close(sums, torch.ones_like(sums), atol=1e-5, rtol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in predictor.model.modules())
    picture = reading.picture()
    assert picture.width > 500 and picture.size == reading.picture(proxy=reading.proxy).size


def test_the_proxy_is_the_one_whose_masks_are_the_answer(predictor):
    reading = look_inside(predictor, frames(), TEXT)
    logits = logits_of(predictor, lambda: predictor(frames(), [TEXT]))[0].transpose(0, 1)
    large = resize_logits(logits, tuple(reading.frames.shape[-2:]), (61, 83), predictor.model.mask_stride)
    same = [torch.equal(masks > predictor.threshold, reading.masks) for masks in large]
    assert [proxy for proxy in range(QUERIES) if same[proxy]] == [reading.proxy]


def test_another_word_is_read_otherwise(predictor):
    one, other = (look_inside(predictor, frames(), f"the {shape} circle") for shape in ("big", "red"))
    assert one.words[2] != other.words[2] and len(one.words) == len(other.words)
    for stage in range(2):
        assert (one.of_words[stage] - other.of_words[stage]).abs().max() > 1e-3
        assert (one.of_tokens[stage] - other.of_tokens[stage]).abs().max() > 1e-4


def test_where_a_proxy_looks_is_where_the_frame_changes(predictor):
    """The map lies as the frame does: an attention of keys alone looks at the one token that differs."""
    video = torch.zeros(2, 3, 40, 80, dtype=torch.uint8)
    video[:, :, 16:32, 48:64] = 255  # the token of row 1 and column 3
    reading = look_inside(predictor, video, TEXT)
    plain = look_inside(predictor, torch.zeros_like(video), TEXT)
    change = (reading.of_tokens - plain.of_tokens)[0].abs().amax((0, 1))
    assert divmod(int(change.argmax()), change.shape[1]) == (1, 3)


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_the_form_for_inference_reads_the_same(amp):
    plain = look_inside(Predictor(tiny_model(), eval_size=40, max_size=96), frames(), TEXT)
    model = tiny_model()
    for_inference(model, amp)
    fast = look_inside(Predictor(model, eval_size=40, max_size=96, amp=amp), frames(), TEXT)
    near = dict(atol=0.02 if amp else 1e-5, rtol=0)
    torch.testing.assert_close(fast.of_words, plain.of_words, **near)
    torch.testing.assert_close(fast.of_tokens, plain.of_tokens, **near)
    torch.testing.assert_close(fast.of_words.sum(-1), torch.ones_like(fast.of_words[..., 0]), atol=1e-5, rtol=0)


def test_a_long_video_is_looked_at_in_one_window(predictor):
    video = frames(length=10)
    reading, cut = look_inside(predictor, InMemory(video), TEXT, first=3), video[3:7]
    assert reading.numbers == range(3, 7)
    torch.testing.assert_close(reading.of_words, look_inside(predictor, cut, TEXT).of_words)
    assert torch.equal(reading.masks, predictor(cut, [TEXT])[0][0])
    assert look_inside(predictor, video, TEXT, first=8).numbers == range(8, 10)
    with pytest.raises(ValueError, match="first=10: the video has the frames 0 to 9"):
        look_inside(predictor, video, TEXT, first=10)


def test_what_has_no_such_attention():
    with pytest.raises(ValueError, match="a ReferFormer has no proxies"):
        look_inside(Predictor(tiny_referformer(), eval_size=32, max_size=64), frames(), TEXT)
    with pytest.raises(ValueError, match="--cmie full"):
        look_inside(Predictor(tiny_model(full=True), eval_size=32, max_size=64), frames(), TEXT)


def test_what_cannot_be_drawn(predictor):
    reading = look_inside(predictor, frames(), TEXT)
    with pytest.raises(ValueError, match="proxy 4 does not exist: this model has the proxies 0 to 3"):
        reading.picture(proxy=4)
    with pytest.raises(ValueError, match="give at least 1"):
        reading.picture(frames=0)


# Words ---------------------------------------------------------------------------------------------------------------


def test_words_are_whole_and_in_the_form_that_is_read(predictor):
    """The tokenizer knows neither of these words, and makes several tokens of each."""
    encoder, text = predictor.model.text_encoder, "The gnu's  hoof, mauve."
    words, word_of = words_of(encoder, text)
    assert words == ["<s>", "the", "gnu", "'s", "hoof", ",", "mauve", "</s>"]
    ids, _ = encoder.tokenize([text])
    assert len(word_of) == ids.shape[1] > len(words)
    assert word_of.tolist() == sorted(word_of.tolist()) and set(word_of.tolist()) == set(range(len(words)))

    raw = []
    layer = predictor.model.cmie.stages[-1].proxies_from_text
    hook = layer.register_forward_hook(lambda _, x, how, __: raw.append(layer.weights(*x, **how)), with_kwargs=True)
    reading = look_inside(predictor, frames(), text)
    hook.remove()
    of_tokens = raw[0].mean(1)[0].unflatten(0, (3, QUERIES))
    for place in range(len(words)):
        together = of_tokens[..., word_of == place].sum(-1)
        torch.testing.assert_close(reading.of_words[-1, ..., place], together, atol=1e-6, rtol=0)


def test_a_text_in_another_script():
    words, word_of = words_of(tiny_text_encoder(), "狗 跳")
    assert words[1:-1] == ["狗", "跳"] and len(word_of) > 4


# Pictures ------------------------------------------------------------------------------------------------------------


def test_heat_is_where_the_share_is():
    shares = np.zeros((2, 3))
    shares[1, 2] = 1
    painted = heat(np.full((24, 40, 3), (200, 40, 90), np.uint8), shares, 16)
    assert painted.shape == (24, 40, 3)
    coloured = (painted != painted[..., :1]).any(-1)
    assert coloured[16:, 32:].all() and coloured.sum() == 8 * 8


def test_a_larger_share_has_a_larger_bar():
    how = dict(frames=np.zeros((1, 32, 32, 3), np.uint8), masks=np.zeros((1, 32, 32), bool), names=["frame 1"])
    how |= dict(maps=np.full((1, 1, 2, 2), 0.25), stride=16, title="t", note="n")

    def bars(words: list[str], shares: list[float]) -> np.ndarray:
        picture = np.asarray(attention_picture(words=words, shares=np.array([shares]), **how))
        colour = np.array([int(_BARS[i : i + 2], 16) for i in (1, 3, 5)])
        return (picture == colour).all(-1)

    columns = bars(["a", "b"], [0.25, 0.75]).sum(0)
    left, right = (columns[part] for part in (slice(0, 192), slice(192, None)))
    assert 0 < left.max() < right.max()
    assert bars(["word"] * 40, [1 / 40] * 40).any(1).sum() > bars(["word"] * 4, [1 / 40] * 4).any(1).sum()


def test_the_answer_has_sharp_lines_in_a_picture_of_small_frames():
    mask = np.zeros((1, 32, 48), bool)
    mask[:, 8:24, 12:36] = True
    how = dict(maps=np.full((1, 1, 2, 3), 1 / 6), words=["a"], shares=np.ones((1, 1)), stride=16, title="t", note="n")
    frames = np.full((1, 32, 48, 3), 120, np.uint8)
    picture = np.asarray(attention_picture(frames=frames, masks=mask, names=["frame 1"], **how))
    around = 2 * (120 + 80)  # in a picture that is 5 times as large
    assert (picture == PREDICTED_COLOUR).all(-1).sum() > around
