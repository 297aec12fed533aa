"""How ReferFormer's published numbers are made: sizes, padding, the order of enlarging and thresholding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.predictor import InMemory, Predictor
from tests.test_referformer import tiny
from tests.tiny_model import EXPRESSIONS, tiny_model
from util.samples.frames import fitted_size, normalise, resize_frames

SIZE, SEEN = (61, 83), (40, 54)  # of the frames, and of the network's input


def frames(length: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (length, 3, *SIZE), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Its masks are neither full nor empty."""
    return Predictor(tiny(num_classes=2), eval_size=40, max_size=96)


def prepared() -> Tensor:
    assert fitted_size(*SIZE, 40, 96) == SEEN
    return normalise(resize_frames(frames(), SEEN))


@torch.inference_mode()
def test_a_single_frame_is_padded_and_its_masks_are_thresholded_before_they_are_resized(predictor):
    video, valid = torch.zeros(1, 3, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    video[0, ..., :40, :54], valid[:, :40, :54] = prepared(), True
    out = predictor.model(video, [EXPRESSIONS[0]], valid, frames=[1]).final
    enlarged = F.interpolate(out.masks[:, 0], scale_factor=4, mode="bilinear", align_corners=False)
    inside = (enlarged.sigmoid() > 0.5)[..., :40, :54].float()
    wanted = F.interpolate(inside, size=SIZE, mode="nearest")[0] > 0
    (answer,) = predictor.answer_frame(frames(), [EXPRESSIONS[0]], 1)
    assert answer.masks.shape == (3, *SIZE) and 0.05 < wanted.float().mean() < 0.95
    assert torch.equal(answer.masks, wanted)
    assert torch.allclose(answer.scores, out.logits[0, 0].sigmoid().amax(-1))
    # another order, or no padding, would give other masks
    other = F.interpolate(enlarged[..., :40, :54], size=SIZE, mode="bilinear")[0] > 0
    assert not torch.equal(other, wanted)


def test_only_single_frames_of_referformer_are_padded(predictor, monkeypatch):
    ours = Predictor(tiny_model(), eval_size=40, max_size=96)
    seen = []
    for each in (predictor, ours):
        encode = each.model.encode_video

        def note(video: Tensor, valid: Tensor | None = None, encode=encode):
            seen.append((tuple(video.shape[-2:]), None if valid is None else int(valid.sum())))
            return encode(video, valid)

        monkeypatch.setattr(each.model, "encode_video", note)
        list(each.answer_frame(frames(), [EXPRESSIONS[0]], 0))
        each.segment(InMemory(frames()), [EXPRESSIONS[0]])
    assert seen == [((64, 64), 40 * 54), (SEEN, None), (SEEN, None), (SEEN, None)]


@torch.inference_mode()
def test_one_query_answers_for_a_video_and_its_mask_is_enlarged_in_one_step(predictor):
    out = predictor.model(prepared()[None], [EXPRESSIONS[0]]).final
    probability = out.logits[0].sigmoid().mean(0)  # over the frames; then the best class
    query = int(probability.amax(-1).argmax())
    wanted = F.interpolate(out.masks[0, :, query][None], size=SIZE, mode="bilinear", align_corners=False)[0]
    found = predictor.segment(InMemory(frames()), [EXPRESSIONS[0]])
    assert torch.equal(found.masks(0, 3)[0], wanted.sigmoid() > 0.5) and 0 < (wanted > 0).float().mean() < 1
    assert found.scores[0] == pytest.approx(probability.max().item(), abs=1e-6)
