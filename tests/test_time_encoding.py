"""What tells the frames apart in temporal attention: numbers, drawn numbers, distances, or nothing."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import Tensor

import models
from models.cmie import CMIEStack
from models.earlier import upgraded
from models.position_encoding import FARTHEST, LAST_FRAME, drawn_frames, frame_distances, sine, sine_1d
from models.proxyformer import ProxyFormer
from models.windows import WINDOW
from tests.helpers import ROOT
from tests.test_attention_cmie import H, N, T, W, close, fresh, noise, run, streams, surroundings
from tests.test_checkpoint_optim import saved_model
from tests.tiny_model import EXPRESSIONS, random_batch, tiny_model
from util.weights import checkpoint

SHIPPED = ROOT / "pretrained_weights" / "demo.safetensors"


def masks(model: ProxyFormer, **clip: int) -> Tensor:
    batch = random_batch(**clip)
    return model(batch.video, batch.expressions, clip_index=batch.clip_index).final.masks


# Drawn numbers -----------------------------------------------------------------------------------------------------


def test_drawn_numbers_are_an_offset_and_a_stride_and_cover_what_inference_uses():
    torch.manual_seed(0)
    numbers = drawn_frames(20_000, 5)
    strides = numbers.diff(dim=1)
    assert (strides == strides[:, :1]).all() and torch.equal(numbers, numbers.round())
    assert set(numbers.unique().tolist()) == set(range(LAST_FRAME + 1)) and LAST_FRAME >= WINDOW
    assert set(strides.unique().tolist()) == set(range(1, LAST_FRAME // 4 + 1))
    assert (strides[:, 0] == 1).float().mean() > 0.2  # as inference has it
    pairs = torch.stack((numbers[:, 0], numbers[:, -1]), 1)
    assert (pairs[:, 0] == 0).any() and (pairs[:, 1] - pairs[:, 0]).max() >= WINDOW - 1


@pytest.mark.parametrize("frames", [1, 2, 40, LAST_FRAME + 1, 100])
def test_numbers_are_drawn_for_clips_of_any_length(frames):
    torch.manual_seed(0)
    numbers = drawn_frames(200, frames)
    assert numbers.shape == (200, frames) and numbers.min() >= 0
    assert (numbers.diff(dim=1) >= 1).all() and numbers.max() <= max(LAST_FRAME, frames - 1)


def test_numbers_are_drawn_once_per_clip_in_training_alone():
    model, batch = tiny_model(time_encoding="random").train(), random_batch(2)
    features = model.encode_video(batch.video)
    assert features.numbers.shape == (2, 3)
    first, second, again = features.of(torch.tensor([0, 1, 0])).numbers
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert model.eval().encode_video(batch.video).numbers is None
    assert tiny_model().train().encode_video(batch.video).numbers is None


@torch.no_grad()
def test_drawn_numbers_follow_torchs_seed_and_inference_counts_from_zero():
    model = tiny_model(time_encoding="random")
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(masks(model.train(), samples=2, frames=4))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    counted = masks(model.eval(), samples=2, frames=4)
    assert torch.equal(masks(model, samples=2, frames=4), counted)
    plain = tiny_model(time_encoding="absolute").eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(masks(plain, samples=2, frames=4), counted)


def test_each_clip_of_a_batch_keeps_its_own_numbers():
    stack, numbers = fresh(CMIEStack, layers=2), torch.tensor([[0.0, 1.0, 2.0], [7.0, 10.0, 13.0]])
    around = dataclasses.replace(surroundings(), time=sine(numbers, 16))
    together = run(stack, *streams(), around)
    for i in range(2):
        one = {f.name: getattr(around, f.name) for f in dataclasses.fields(around)}
        one |= dict(time=around.time[i], space=around.space[[i]], text_valid=around.text_valid[[i]])
        alone = run(stack, *(x[[i]] for x in streams()), type(around)(**one))
        for a, b in zip(together, alone, strict=True):
            close(a[[i]], b)


# Distances ---------------------------------------------------------------------------------------------------------


def test_distances_are_signed_and_clipped():
    distances = frame_distances(FARTHEST + 3) - FARTHEST
    assert distances[0].tolist() == [*range(FARTHEST + 1), FARTHEST, FARTHEST]
    assert torch.equal(distances, -distances.T)
    # every distance of a longer window was there in the paper's clips of five frames
    assert set(frame_distances(5).unique().tolist()) == set(frame_distances(WINDOW).unique().tolist())


@pytest.mark.parametrize("time", [True, "relative"])
def test_only_distances_give_a_clip_the_same_answer_at_other_numbers(time):
    """The clip comes after frames that are masked, so its frames have other numbers."""
    before, stack = 2, fresh(CMIEStack, layers=2, relative=time == "relative")
    video, proxies, text = streams()
    real = torch.arange(T + before) >= before
    shown = dict(
        video_valid=real[None, :, None, None].expand(2, -1, H, W), proxy_valid=real[None, :, None].expand(2, -1, N)
    )

    def later(x: Tensor) -> Tensor:
        return torch.cat((noise(2, before, *x.shape[2:], seed=9), x), 1)

    moved = run(stack, later(video), later(proxies), text, surroundings(T + before, time, **shown))
    alone = run(stack, video, proxies, text, surroundings(T, time))
    differences = [(a[:, before:] - b).abs().max() for a, b in zip(moved, alone, strict=True)]
    assert (max(differences) < 1e-5) == (time == "relative")


def test_without_biases_of_distances_the_frames_are_a_set():
    relative, none = tiny_model(time_encoding="relative").eval(), tiny_model(time_encoding="none").eval()
    names = relative.state_dict().keys() - none.state_dict().keys()
    assert len(names) == 3 * 2 and all(name.endswith("_time.distance_bias") for name in names)
    none.load_state_dict({name: x for name, x in relative.state_dict().items() if name not in names})
    with torch.no_grad():
        assert (masks(relative, frames=4) - masks(none, frames=4)).abs().max() > 1e-3
        for name in names:
            relative.get_parameter(name).zero_()
        assert (masks(relative, frames=4) - masks(none, frames=4)).abs().max() < 1e-5


# Checkpoints -------------------------------------------------------------------------------------------------------


def test_a_training_may_change_the_encoding_of_the_weights_that_it_starts_from(tmp_path, capsys):
    built = {kind: saved_model(tmp_path / kind, "--time_encoding", kind)[0] for kind in ("absolute", "relative")}
    for before, after, said in (("absolute", "relative", "start anew"), ("relative", "absolute", "are left out")):
        start, model = (copy.deepcopy(built[kind]) for kind in (before, after))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(2)
        models.load_pretrained_model(model, tmp_path / before)
        assert f"it has another --time_encoding; the biases of distances {said}" in capsys.readouterr().out
        for name, value in model.state_dict().items():
            wanted = start.state_dict().get(name, torch.full_like(value, 2))
            assert torch.equal(value, wanted), name


@pytest.mark.parametrize(("flag", "choice"), [(True, "absolute"), (False, "none")])
def test_a_checkpoint_of_before_the_choice_keeps_its_encoding(tmp_path, flag, choice):
    saved_model(tmp_path / "c.pth", "--time_encoding", choice, "--eval_size", "32")
    old = checkpoint.load(tmp_path / "c.pth")
    old["options"]["time_encoding"] = flag
    checkpoint.save(tmp_path / "old.pth", old)
    assert upgraded(old, "old.pth")["options"]["time_encoding"] == choice
    video = torch.randint(256, (3, 3, 32, 48), dtype=torch.uint8)
    answers = [models.load_predictor(tmp_path / name, "cpu")(video, [EXPRESSIONS[0]]) for name in ("c.pth", "old.pth")]
    assert torch.equal(answers[0][0], answers[1][0]) and answers[0][1] == answers[1][1]
    other = dict(old["options"], time_encoding="some")
    with pytest.raises(ValueError, match=r"--time_encoding is 'some', not one of absolute, random, relative, none"):
        upgraded(old | {"options": other}, "old.pth")


def test_the_shipped_weights_count_their_frames_as_they_did(monkeypatch):
    """Their encoding is the one of before the choice, written out: the same masks and scores to the last bit."""
    video = torch.randint(256, (9, 3, 96, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    asked = ["the red object", "a circle standing still"]
    masks, scores = models.load_predictor(SHIPPED, "cpu", not_there=0.0)(video, asked)
    real = ProxyFormer.surroundings

    def earlier(self, features, words, text_valid):
        around = real(self, dataclasses.replace(features, numbers=None), words, text_valid)
        time = sine_1d(features.tokens.shape[1], self.dim).to(features.tokens.dtype)
        return dataclasses.replace(around, time=time, distances=None)

    monkeypatch.setattr(ProxyFormer, "surroundings", earlier)
    as_before = models.load_predictor(SHIPPED, "cpu", not_there=0.0)(video, asked)
    assert torch.equal(masks, as_before[0]) and scores == as_before[1] and masks.any()
    monkeypatch.setattr(ProxyFormer, "surroundings", lambda self, *x: dataclasses.replace(earlier(self, *x), time=None))
    assert models.load_predictor(SHIPPED, "cpu")(video, asked)[1] != scores
