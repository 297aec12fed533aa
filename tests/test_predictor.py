"""From frames on disk to masks of their size: encoded once, however many expressions are asked."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.postprocess import query_scores, resize_logits
from models.predictor import InMemory, Predictor
from tests.tiny_model import EXPRESSIONS, tiny_model
from util.samples.frames import fitted_size, normalise, resize_frames


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Of a random model whose masks are neither full nor empty."""
    model = tiny_model()
    with torch.no_grad():
        model.segmenter.kernel_head.kernel[-1].weight *= 30
    return Predictor(model, eval_size=40, max_size=96)


def frames(size: tuple[int, int] = (61, 83), length: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (length, 3, *size), dtype=torch.uint8, generator=generator)


def prepared() -> Tensor:
    return normalise(resize_frames(frames(), fitted_size(61, 83, 40, 96)))


# Predictor ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_encoding_once_gives_what_asking_one_by_one_gives(predictor, batch):
    together = predictor.segment(InMemory(frames()), list(EXPRESSIONS), batch=batch)
    masks = together.masks(0, 3)
    assert len(masks) == len(together.scores) == len(EXPRESSIONS)
    for text, score, mask in zip(EXPRESSIONS, together.scores, masks, strict=True):
        (alone,), (its_score,) = predictor(frames(), [text])
        assert score == pytest.approx(its_score, abs=1e-5)
        assert (mask != alone).float().mean() < 1e-3
    assert any((mask != masks[0]).any() for mask in masks[1:])
    assert 0 < masks[0].float().mean() < 1


def test_the_backbone_runs_once_for_any_number_of_expressions(predictor):
    calls = []
    hook = predictor.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    predictor(frames(), list(EXPRESSIONS))
    hook.remove()
    assert calls == [1]


@torch.inference_mode()
def test_the_masks_are_those_of_the_networks_best_query(predictor):
    model, video = predictor.model, prepared()
    assert video.shape[-2:] == (40, 54)
    out = model(video[None], [EXPRESSIONS[0]], supervised=False).final
    query = out.logits.sigmoid().mean((0, 1))[:, 0].argmax()
    full = torch.nn.functional.interpolate(out.masks[0, :, [query]], scale_factor=4, mode="bilinear")[..., :40, :54]
    full = torch.nn.functional.interpolate(full, size=(61, 83), mode="bilinear")[:, 0]
    (masks,), (score,) = predictor(frames(), [EXPRESSIONS[0]])
    assert (masks != (full > 0)).float().mean() < 1e-4
    assert score == pytest.approx(out.logits[0, :, query, 0].sigmoid().mean().item(), abs=1e-6)
    (strict,), _ = Predictor(model, eval_size=40, max_size=96, threshold=0.9)(frames(), [EXPRESSIONS[0]])
    assert (strict != (full.sigmoid() > 0.9)).float().mean() < 1e-4 and strict.sum() < masks.sum()


def test_a_frames_answer_has_every_query(predictor):
    """Masks and boxes of one frame, scored by that frame alone; of the best query the mask that a call gives."""
    answers = list(predictor.answer_frame(frames(), list(EXPRESSIONS), frame=1, batch=3))
    whole, _ = predictor(frames(), list(EXPRESSIONS))
    out = predictor.model(prepared()[None], [EXPRESSIONS[2]]).final
    assert torch.allclose(answers[2].scores, out.logits[0, 1].sigmoid().amax(-1), atol=1e-6)
    centre, extent = out.boxes[0, 1].split(2, -1)
    box = torch.cat((centre - extent / 2, centre + extent / 2), -1) * torch.tensor([83.0, 61, 83, 61])
    assert torch.allclose(answers[2].boxes, box, atol=1e-3)
    query = int(query_scores(out.logits)[0].argmax())
    assert torch.equal(answers[2].masks[query], whole[2, 1])
    assert all(a.masks.shape == (4, 61, 83) and a.masks.dtype == torch.bool for a in answers)


def test_autocast_ends_between_answers(predictor):
    half = Predictor(predictor.model, eval_size=40, max_size=96, amp=torch.bfloat16)
    for _ in half.answer_frame(frames(), list(EXPRESSIONS), frame=0, batch=1):
        assert not torch.is_autocast_enabled("cpu") and not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("size", [(61, 83), (33, 200), (97, 41), (32, 64), (1, 1)])
def test_masks_have_the_size_of_the_frames(predictor, size):
    for length in (1, 3):
        masks, (score,) = predictor(frames(size, length), ["a star"])
        assert masks.shape == (1, length, *size) and masks.dtype == torch.bool
        assert 0 <= score <= 1


def test_bf16_is_close_to_float32(predictor):
    half = Predictor(predictor.model, eval_size=40, max_size=96, amp=torch.bfloat16)
    (a, (a_score,)), (b, (b_score,)) = (p(frames(), ["a star"]) for p in (predictor, half))
    assert (a != b).float().mean() < 0.1 and a_score == pytest.approx(b_score, abs=0.02)


def test_the_model_is_set_to_evaluation():
    assert not Predictor(tiny_model().train(), eval_size=40, max_size=96).model.training


@pytest.mark.parametrize(
    "bad",
    [
        frames()[:0],
        frames().float(),
        frames()[:, :1],
        frames()[0],
        frames().permute(0, 2, 3, 1),
    ],
    ids=["none", "float", "grey", "one frame", "channels last"],
)
def test_bad_frames_are_refused(predictor, bad):
    with pytest.raises(ValueError, match=r"expected uint8 frames \[T, 3, H, W\]"):
        predictor.encode(bad)


def test_bad_expressions_are_refused_and_none_is_no_work(predictor):
    with pytest.raises(ValueError, match="expression is empty"):
        predictor(frames(), ["a star", " "])
    masks, scores = predictor(frames(), [])
    assert masks.shape == (0, 3, 61, 83) and scores == []


def test_masks_of_texts_that_differ_in_form_alone_are_identical(predictor):
    masks, (score,) = predictor(frames(), ["a star"])
    for text in ("A Star.", "\u201ca\u00a0STAR\u201d", "\uff41 s\u200btar !"):
        other, (other_score,) = predictor(frames(), [text])
        assert torch.equal(other, masks) and other_score == score


def test_a_text_that_is_too_long_is_shortened_or_refused(predictor, capsys):
    long = "a star " * 600
    masks, _ = predictor(frames(), [long, "a star"])
    assert masks.shape[0] == 2 and "warning: expression 1: " in capsys.readouterr().err
    refusing = Predictor(predictor.model, eval_size=40, max_size=96, long_text="refuse")
    another = f"{long} a"
    with pytest.raises(ValueError, match="expression 2: .* tokens, the text encoder takes 512"):
        refusing(frames(), ["a star", another])
    with pytest.raises(ValueError, match="--long_text shorten"):
        list(refusing.answer_frame(frames(), [another], 0))
    with pytest.raises(ValueError, match="--long_text cut does not exist"):
        Predictor(predictor.model, eval_size=40, max_size=96, long_text="cut")


# Postprocessing ----------------------------------------------------------------------------------------------------


def test_score_is_the_probability_of_one_class_over_the_frames():
    # query 0 is now one class, now the other; query 1 is always 60 % the first
    probability = torch.tensor([[[[0.9, 0.1], [0.6, 0.0]], [[0.1, 0.9], [0.6, 0.0]]]])
    logits = probability.logit()
    torch.testing.assert_close(query_scores(logits), torch.tensor([[0.5, 0.6]]))
    only_first = torch.tensor([[True, False]])
    torch.testing.assert_close(query_scores(logits, only_first), torch.tensor([[0.9, 0.6]]))
    assert (query_scores(logits, torch.tensor([[False, False]])) == 0).all()


@pytest.mark.parametrize("stride", [4, 8, 16])
@pytest.mark.parametrize(("seen", "disk"), [((64, 96), (64, 96)), ((50, 70), (50, 70)), ((50, 70), (150, 210))])
def test_a_square_comes_back_at_its_place(stride, seen, disk):
    """The logits cover the input from the top left, also where the last cell hangs over its edge."""
    h, w = (-(-side // stride) for side in seen)
    logits = torch.full((1, 1, h, w), -8.0)
    logits[..., 1:2, 1:3] = 8.0
    mask = resize_logits(logits, seen, disk, stride)[0, 0] > 0
    assert mask.shape == disk
    scale = disk[0] / seen[0]
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    found = (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
    expected = (stride * scale, 2 * stride * scale, stride * scale, 3 * stride * scale)
    assert [float(x) for x in found] == pytest.approx(expected, abs=1 + scale / 2)


def test_one_text_instead_of_a_list_is_refused(predictor):
    with pytest.raises(ValueError, match=r"a list of texts: give \['red'\]"):
        predictor(frames(), "red")


def test_scores_that_are_not_finite_are_an_error(predictor):
    """They come from weights that overflow in float16, and would be no number in a JSON file."""
    broken = Predictor(tiny_model(), eval_size=40, max_size=96)
    with torch.no_grad():
        broken.model.reference_head.classes.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite; compute with --amp bf16 or off"):
        broken(frames(), [EXPRESSIONS[0]])
    with pytest.raises(FloatingPointError, match="not finite"):
        list(broken.answer_frame(frames(), [EXPRESSIONS[0]], 1))
