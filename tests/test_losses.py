"""The losses against references written out by hand, in float64, and at the edges of the numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.losses import dice_loss, info_nce, sigmoid_focal_loss


def noise(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def coins(*shape: int, seed: int = 0) -> Tensor:
    return (noise(*shape, seed=seed) > 0).double()


# Focal loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 0.0), (0.5, 1.5)])
def test_focal_loss_is_its_definition(alpha, gamma):
    logits, targets = noise(50, scale=3), coins(50, seed=1)
    losses = sigmoid_focal_loss(logits, targets, alpha, gamma)
    for x, y, loss in zip(logits.tolist(), targets.tolist(), losses.tolist(), strict=True):
        p = 1 / (1 + math.exp(-x))
        p_t, alpha_t = (p, alpha) if y else (1 - p, 1 - alpha)
        assert loss == pytest.approx(-alpha_t * (1 - p_t) ** gamma * math.log(p_t), rel=1e-9)


# Dice --------------------------------------------------------------------------------------------------------------


def reference_dice(logits: Tensor, targets: Tensor) -> float:
    p = [1 / (1 + math.exp(-x)) for x in logits.flatten().tolist()]
    y = targets.flatten().tolist()
    return 1 - (2 * sum(a * b for a, b in zip(p, y, strict=True)) + 1) / (sum(p) + sum(y) + 1)


def test_dice_is_taken_over_the_whole_trajectory():
    logits, targets = noise(2, 3, 4, 5, scale=2), coins(2, 3, 4, 5, seed=1)
    targets[:, 1] = 0  # out of sight in one frame
    everywhere = torch.ones(2, 3, 1, 1, dtype=torch.float64)
    together = dice_loss(logits, targets, everywhere)
    assert together.tolist() == pytest.approx([reference_dice(*pair) for pair in zip(logits, targets, strict=True)])
    frame_by_frame = torch.tensor(
        [[reference_dice(logits[b, t], targets[b, t]) for t in range(3)] for b in range(2)]
    ).mean(1)
    assert (together - frame_by_frame).abs().min() > 0.01


def test_dice_sees_only_weighted_pixels():
    logits, targets, weight = noise(2, 3, 4, 5), coins(2, 3, 4, 5, seed=1), coins(2, 3, 4, 5, seed=2)
    for b in range(2):
        kept = weight[b] > 0
        expected = reference_dice(logits[b][kept], targets[b][kept])
        assert dice_loss(logits, targets, weight)[b].item() == pytest.approx(expected)


def test_dice_of_perfect_and_of_empty_masks_is_nothing():
    targets, weight = coins(1, 2, 4, 5), torch.ones(1, 2, 1, 1, dtype=torch.float64)
    assert dice_loss(200 * targets - 100, targets, weight).item() == pytest.approx(0, abs=1e-9)
    assert dice_loss(torch.full_like(targets, -100), 0 * targets, weight).item() == pytest.approx(0, abs=1e-9)
    assert dice_loss(100 - 200 * targets, targets, weight).item() > 0.9


# InfoNCE -----------------------------------------------------------------------------------------------------------


def reference_info_nce(first: Tensor, second: Tensor, temperature: float, identities: list[int]) -> float:
    """Mean over the samples and the two directions of -log softmax at the sample's own partner."""

    def cosine(a: Tensor, b: Tensor) -> float:
        return float(a @ b / a.norm() / b.norm())

    losses = []
    for queries, keys in ((first, second), (second, first)):
        for i, query in enumerate(queries):
            others = [j for j in range(len(keys)) if identities[j] != identities[i]]
            logits = {j: cosine(query, keys[j]) / temperature for j in [i, *others]}
            losses.append(math.log(sum(math.exp(x) for x in logits.values())) - logits[i])
    return sum(losses) / len(losses)


@pytest.mark.parametrize("identities", [[0, 1, 2, 3, 4], [0, 1, 0, 1, 4], [7, 7, 7, 7, 7]])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_is_its_definition(identities, temperature):
    first, second = noise(5, 6, scale=4), noise(5, 6, seed=1)
    loss = info_nce(first, second, temperature, torch.tensor(identities))
    assert loss.item() == pytest.approx(reference_info_nce(first, second, temperature, identities), rel=1e-9, abs=1e-12)
    assert info_nce(second, first, temperature, torch.tensor(identities)).item() == pytest.approx(loss.item())


def test_info_nce_of_one_sample_is_exactly_zero_with_zero_gradients():
    first, second = (noise(1, 6, seed=seed).float().requires_grad_() for seed in (0, 1))
    loss = info_nce(first, second, 0.07, torch.tensor([3]))
    loss.backward()
    assert loss.item() == 0 and not first.grad.any() and not second.grad.any()


def test_info_nce_does_not_push_the_same_object_away():
    first, second = (noise(3, 6, seed=seed).requires_grad_() for seed in (0, 1))
    info_nce(first[:2], second[:2], 0.07, torch.tensor([5, 5])).backward()
    assert not first.grad.any()
    info_nce(first[1:], second[1:], 0.07, torch.tensor([5, 6])).backward()
    assert first.grad[1:].abs().min() > 0


# Edges -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extreme", [1e4, -1e4, 88.8, -88.8])
def test_losses_and_gradients_are_finite_at_extreme_logits(extreme):
    targets = torch.tensor([0.0, 1.0]).repeat(4).view(1, 2, 2, 2)
    logits = torch.full_like(targets, extreme).requires_grad_()
    focal = sigmoid_focal_loss(logits, targets, 0.25, 2.0)
    loss = focal.sum() + dice_loss(logits, targets, torch.ones(1, 1, 1, 1)).sum()
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    assert focal.max().item() == pytest.approx(abs(extreme) * (0.75 if extreme > 0 else 0.25), rel=1e-5)


def test_info_nce_leaves_out_what_does_not_count():
    first, second = (noise(5, 6, seed=seed).requires_grad_() for seed in (0, 1))
    identities = torch.tensor([0, 1, 2, 3, 1])
    counted = torch.tensor([True, False, True, True, False])
    loss = info_nce(first, second, 0.2, identities, counted)
    expected = info_nce(first[counted], second[counted], 0.2, identities[counted])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    for features in (first, second):
        assert features.grad[counted].abs().sum() > 0 and features.grad[~counted].eq(0).all()


@pytest.mark.parametrize("counted", [[False, False, False], [False, True, False]])
def test_info_nce_of_at_most_one_counted_sample_is_exactly_zero(counted):
    first, second = (noise(3, 6, seed=seed).requires_grad_() for seed in (0, 1))
    loss = info_nce(first, second, 0.07, torch.arange(3), torch.tensor(counted))
    loss.backward()
    assert loss.item() == 0 and first.grad.eq(0).all() and second.grad.eq(0).all()


def test_info_nce_is_finite_for_huge_tiny_and_zero_features():
    for scale in (1e15, 1e-15, 0.0):
        first = (scale * noise(4, 6).float()).requires_grad_()
        loss = info_nce(first, noise(4, 6, seed=1).float(), 0.07, torch.arange(4))
        loss.backward()
        assert loss.isfinite() and first.grad.isfinite().all()
