"""What ranks tell each other in a step: samples of the JSC loss, a loss that is not finite, clips that are damaged."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datasets.base import ClipDataset
from datasets.collate import collate
from engine import Step, train_step
from models import build_criterion, prepare
from models.criterion import Criterion
from models.losses import info_nce
from tests.commands import run_ranks
from tests.runs import CPU, trainer
from tests.test_matcher_criterion import C, criterion, leaves, output, prediction
from tests.tiny_model import random_batch, random_clip, random_target, tiny_args, tiny_model
from util.run import dist
from util.samples.structures import Batch
from util.weights import checkpoint
from util.weights.saver import NEWEST

# Samples of all ranks ------------------------------------------------------------------------------------------------

OF_RANKS = ((0,), (1, 2))  # samples


def rows_of(rank: int) -> Tensor:
    return torch.randn(2 + rank, C, generator=torch.Generator().manual_seed(rank))


def one_rank(rank: int, folder: str) -> None:
    """Gathers uneven rows, and scores its samples; leaves what it got in ``folder``."""
    rows = rows_of(rank).requires_grad_()
    counts = [of for (of,) in dist.of_ranks(len(rows))]
    gathered = dist.gather_rows(rows, counts)
    identities = dist.gather_rows(torch.arange(2 + rank) + 10 * rank, counts)
    info_nce(gathered, gathered.roll(1, 1), 0.5, identities).backward()
    mine = OF_RANKS[rank]
    pred, semantics = leaves(prediction(*mine)), semantics_of(*mine).requires_grad_()
    loss, parts = criterion()(output(pred, semantics=semantics), samples_of(*mine))
    loss.backward()
    alike = criterion()(output(pred, semantics=semantics), samples_of(*mine, identity="one"))[1]["loss_jsc"]
    saved = dict(gathered=gathered.detach(), rows=rows.grad, loss=loss.detach(), parts=parts, semantics=semantics.grad)
    saved |= dict(counts=counts, alike=alike, flags=dist.any_rank(rank == 1, False))
    torch.save({**saved, **{f.name: getattr(pred, f.name).grad for f in fields(pred)}}, f"{folder}/{rank}.pt")


def semantics_of(*samples: int) -> Tensor:
    return torch.stack([torch.randn(C, generator=torch.Generator().manual_seed(70 + i)) for i in samples])


def samples_of(*chosen: int, identity: str | None = None) -> Batch:
    """Each one has fewer present frames than the one before, so that the ranks do not weigh the same."""
    clips = [random_clip(i, [random_target(i, absent=range(i), identity=identity)]) for i in chosen]
    return collate(clips)


def test_two_ranks_are_one_batch(tmp_path):
    run_ranks(one_rank, 2, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]

    rows = torch.cat((rows_of(0), rows_of(1))).requires_grad_()
    info_nce(rows, rows.roll(1, 1), 0.5, torch.tensor([0, 1, 10, 11, 12])).backward()
    for rank in ranks:
        torch.testing.assert_close(rank["gathered"], rows.detach())
    # DDP averages over the ranks what each of them has of the same loss
    torch.testing.assert_close(torch.cat([rank["rows"] for rank in ranks]) / 2, rows.grad)

    every = sum(OF_RANKS, ())
    pred, semantics = leaves(prediction(*every)), semantics_of(*every).requires_grad_()
    loss, parts = criterion()(output(pred, semantics=semantics), samples_of(*every))
    loss.backward()
    assert parts["loss_jsc"] > 0
    for rank in ranks:
        assert rank["counts"] == [2, 3] and rank["flags"] == [True, False]
        assert rank["alike"] == 0  # samples of one object on both ranks are no negatives of each other
    assert sum(rank["loss"] for rank in ranks).item() / 2 == pytest.approx(loss.item(), rel=1e-5)
    for name, value in parts.items():
        assert sum(rank["parts"][name] for rank in ranks).item() / 2 == pytest.approx(value.item(), rel=1e-5)
    for name, whole in {"semantics": semantics, **{f.name: getattr(pred, f.name) for f in fields(pred)}}.items():
        torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]) / 2, whole.grad, atol=1e-6, rtol=1e-4)


# Losses --------------------------------------------------------------------------------------------------------------


class Infinite(Criterion):
    """Gives an infinite loss with finite gradients to the first micro-batch of the first step."""

    def __call__(self, *args):
        loss, terms = super().__call__(*args)
        self.called = getattr(self, "called", 0) + 1
        return (loss + float("inf") if self.called == 1 else loss), terms


def rank_with_an_infinite_loss(rank: int, folder: str) -> None:
    """Two steps of two micro-batches each; rank 1 has an infinite loss in the first one."""
    model = tiny_model().train()
    losses = build_criterion(tiny_args())
    if rank == 1:
        losses.__class__ = Infinite
    wrapped, optimizer = prepare.replicate(model, CPU), torch.optim.SGD(model.parameters(), lr=0.1)
    how = dict(device=CPU, scaler=torch.amp.GradScaler("cpu", enabled=False), amp=None, clip_max_norm=0.5)
    # of other sizes, so that ranks hold different numbers of samples
    batches = [random_batch(1 + (rank + i) % 2, first_seed=10 * rank + 3 * i) for i in range(2)]
    steps, weights = [], [[p.detach().clone() for p in model.parameters()]]
    for _ in range(2):
        steps.append(vars(train_step(wrapped, losses, batches, optimizer, **how)))
        weights.append([p.detach().clone() for p in model.parameters()])
    torch.save({"steps": steps, "weights": weights}, f"{folder}/{rank}.pt")


def test_an_infinite_loss_of_one_rank_keeps_all_from_the_step(tmp_path):
    run_ranks(rank_with_an_infinite_loss, 2, str(tmp_path))
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    for rank in ranks:
        first, second = (Step(**step) for step in rank["steps"])
        assert not first.taken and not first.overflow and second.taken
        before, between, after = rank["weights"]
        assert all(map(torch.equal, before, between)) and not all(map(torch.equal, before, after))
    first = [Step(**rank["steps"][0]) for rank in ranks]
    # each rank tells its own loss, which is finite on the first one, and the gradient of all
    assert torch.tensor([step.terms["loss"] for step in first]).isfinite().tolist() == [True, False]
    assert first[0].gradient_norm == first[1].gradient_norm < float("inf")
    assert all(map(torch.equal, ranks[0]["weights"][2], ranks[1]["weights"][2]))


# Clips ---------------------------------------------------------------------------------------------------------------


def rank_without_its_clips(rank: int, root: str, folder: str) -> None:
    """The second rank cannot read its clips from the third step on."""
    make = ClipDataset.make

    def damaged(self, request):
        if rank == 1 and request.step >= 2:
            raise ValueError("this file is damaged")
        return make(self, request)

    ClipDataset.make = damaged
    run = trainer(Path(root), Path(folder) / "run", "--batch_size", 1)
    expected = ValueError if rank == 1 else OSError
    with pytest.raises(expected, match="this file is damaged" if rank == 1 else "another process could not load"):
        run.run()
    assert run.steps_done == 2


def test_clips_that_one_rank_cannot_read_end_all_after_a_checkpoint(ytvos_root, tmp_path):
    run_ranks(rank_without_its_clips, 2, str(ytvos_root), str(tmp_path))
    assert checkpoint.load(tmp_path / "run" / NEWEST)["step"] == 2
