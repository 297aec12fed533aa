"""Two ranks with one sample each train as one rank with both, and so do two micro-batches."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import datasets
import engine
import models
from datasets.base import VideoEntry
from datasets.collate import collate
from engine import train_step
from models import build_criterion, prepare
from models.backbone import build_backbone
from models.video_swin import VideoSwin
from tasks.scoring import score_split
from tests.commands import run_ranks
from tests.helpers import Painted
from tests.mini_ytvos import mini_args
from tests.runs import log, same, trainer
from tests.test_window_attention import SWIN as SMALL_SWIN
from tests.tiny_model import random_clip, random_target, tiny_args, tiny_model
from util.run import dist
from util.samples.structures import Batch
from util.weights import checkpoint
from util.weights.saver import NEWEST

CPU = torch.device("cpu")
STEPS = 3
# of each loss, gradient and weight
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-9}
PLAIN = ("", "--fsdp")
# of one stage of the CMIE, since each block of it takes seconds to compile
COMPILED = "--compile aot_eager --enc_layers 1"
WAYS = [(dtype, how) for dtype in TOLERANCE for how in PLAIN] + [(torch.float32, COMPILED)]


def batch_of(step: int, *samples: int) -> Batch:
    """Samples of different weight: in the second one an object is absent from most frames."""
    clips = [random_clip(i, [random_target(10 * step + i, absent=range(2 * i))]) for i in samples]
    return collate(clips)


def train(dtype: torch.dtype, batches: list[list[Batch]], *flags: str) -> dict[str, list]:
    """Trains one step on each list of micro-batches; returns losses, gradients and weights after each step."""
    args = tiny_args(*flags)
    # of other ranks, the weights are not used
    model = tiny_model(seed=dist.rank(), enc_layers=args.enc_layers).to(dtype).train()
    models.prepare_model(args, model, CPU)
    first = [dist.unsharded(p.detach()).clone() for p in model.parameters()]  # of which an average may be made
    wrapped = model if args.fsdp else prepare.replicate(model, CPU)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen: dict[str, list] = {"loss": [], "gradients": [], "weights": [first], "terms": []}
    for micro_batches in batches:
        for batch in micro_batches:
            batch.video = batch.video.to(dtype)
        step = train_step(
            wrapped,
            build_criterion(args),
            micro_batches,
            optimizer,
            device=CPU,
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            amp=None,
            clip_max_norm=0.5,
        )
        assert step.taken
        loss = dist.total(torch.tensor(step.terms["loss"], dtype=torch.float64)) / dist.world_size()
        seen["loss"].append(loss)
        seen["terms"].append(step.terms)
        seen["gradients"].append([dist.unsharded(p.grad).clone() for p in model.parameters() if p.grad is not None])
        seen["weights"].append([dist.unsharded(p.detach()).clone() for p in model.parameters()])
    return seen


def one_rank(rank: int, folder: str) -> None:
    seen = {
        (dtype, how): train(dtype, [[batch_of(step, rank)] for step in range(STEPS)], *how.split())
        for dtype, how in WAYS
    }
    torch.save(seen, f"{folder}/{rank}.pt")


def assert_close(got: dict[str, list], wanted: dict[str, list], tolerance: float) -> None:
    def close(a: Tensor, b: Tensor) -> None:
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)

    for name in ("loss", "gradients", "weights"):
        for a, b in zip(got[name], wanted[name], strict=True):
            for x, y in zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]:
                close(x, y)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(one_rank, 2, str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize(("dtype", "how"), WAYS)
def test_two_ranks_train_as_one_with_both_samples(two_ranks, dtype, how):
    layers = how.split()[2:]  # the flags that both runs have
    together = train(dtype, [[batch_of(step, 0, 1)] for step in range(STEPS)], *layers)
    assert all(terms["loss_jsc"] > 0 for terms in together["terms"])
    for rank in two_ranks:
        assert_close(rank[dtype, how], together, TOLERANCE[dtype])
    alone = train(dtype, [[batch_of(step, 0)] for step in range(STEPS)], *layers)
    assert abs(alone["loss"][0] - together["loss"][0]) > 0.01


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_two_micro_batches_train_as_one_batch(dtype):
    """Without the JSC loss, whose negatives come from one micro-batch."""
    flags = ("--jsc_loss_coef", "0")
    together = train(dtype, [[batch_of(step, 0, 1)] for step in range(STEPS)], *flags)
    apart = train(dtype, [[batch_of(step, 0), batch_of(step, 1)] for step in range(STEPS)], *flags)
    assert_close(apart, together, TOLERANCE[dtype])


def test_jsc_of_micro_batches_is_their_mean():
    batches = [batch_of(0, 0, 1), batch_of(1, 0, 1)]
    alone = [train(torch.float64, [[batch]])["terms"][0]["loss_jsc"] for batch in batches]
    both = train(torch.float64, [batches])["terms"][0]["loss_jsc"]
    assert both == pytest.approx(sum(alone) / 2, rel=1e-9) and min(alone) > 0


# Buffers -------------------------------------------------------------------------------------------------------------

SWIN, SHIFTED = "video_swin_t", "tsm_resnet10_half"  # the latter has trained batch norms


def sent_in_forward(rank: int, folder: str) -> None:
    """Writes down the buffers that each forward pass in training sends from rank 0, and whether the statistics of the
    ranks are those of rank 0 when it begins."""
    seen = {}
    for name, flags in ((SWIN, ""), (SHIFTED, ""), (SHIFTED, "--freeze backbone.*")):
        args, sent = tiny_args("--backbone", name, *flags.split()), []
        backbone = VideoSwin(**SMALL_SWIN) if name == SWIN else build_backbone(name, pretrained=False)
        model = tiny_model(seed=rank, backbone=backbone).train()
        frozen = models.prepare_model(args, model, CPU)
        wrapped = prepare.replicate(model, CPU)
        real = wrapped._distributed_broadcast_coalesced

        def broadcast(tensors, *how, real=real, sent=sent):
            real(tensors, *how)
            sent.append([x.clone() for x in tensors])

        wrapped._distributed_broadcast_coalesced = broadcast
        if frozen:
            prepare.train_mode(model)
        before = {name: value.clone() for name, value in model.named_buffers()}
        for step in range(2):
            batch = batch_of(step, rank)
            wrapped(batch.video, batch.expressions, batch.video_valid, batch.clip_index)
        changed = sorted(name for name, value in model.named_buffers() if not torch.equal(value, before[name]))
        seen[name, flags] = {"sent": sent, "changed": changed, "bytes": sum(x.nbytes for x in before.values())}
    torch.save(seen, f"{folder}/{rank}.pt")


def test_a_forward_pass_sends_the_statistics_that_change_and_no_table(tmp_path):
    run_ranks(sent_in_forward, 2, str(tmp_path))
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    statistics = first[SHIFTED, ""]
    assert same(statistics["sent"], second[SHIFTED, ""]["sent"]) and len(statistics["sent"]) == 2
    assert [len(tensors) for tensors in statistics["sent"]] == [len(statistics["changed"])] * 2 != [0, 0]
    for frozen in (first[SWIN, ""], first[SHIFTED, "--freeze backbone.*"]):
        assert frozen["sent"] == frozen["changed"] == [] and frozen["bytes"] > 1000


# A divided model -----------------------------------------------------------------------------------------------------

DIVIDED = """
    --backbone timm:convnext_atto --holdout 1 --eval_every 1 --ema_decay 0.9 --keep 1 --batch_size 2 --lr 1e-4
    --lr_schedule cosine --warmup_steps 5
"""


def divided_rank(rank: int, root: str, folder: str) -> None:
    """A run whose ranks hold whole models; and one of divided models, ended after an epoch in which activations are
    computed again, and taken up without that."""
    trainer(Path(root), Path(folder) / "whole", *DIVIDED.split()).run()
    divided = [Path(root), Path(folder) / "divided", *DIVIDED.split(), "--fsdp"]
    first = trainer(*divided, "--activation_checkpointing")
    first.settings = dataclasses.replace(first.settings, epochs=1)
    first.run()
    second = trainer(*divided)
    assert second.epoch == 1
    second.run()


def test_a_divided_model_trains_scores_and_goes_on_as_a_whole_one(ytvos_root, tmp_path):
    run_ranks(divided_rank, 2, str(ytvos_root), str(tmp_path))
    whole, divided = (checkpoint.load(tmp_path / name / NEWEST) for name in ("whole", "divided"))
    for part in ("model", "average"):
        torch.testing.assert_close(divided[part], whole[part], rtol=1e-4, atol=1e-5)
    assert divided["optimizer"]["state"].keys() == whole["optimizer"]["state"].keys()
    scores = [[line["score_holdout"] for line in log(tmp_path / name)] for name in ("whole", "divided")]
    assert len(scores[0]) == 2 and scores[1] == pytest.approx(scores[0], abs=0.01)


def test_one_process_has_nothing_to_divide(ytvos_root, tmp_path):
    with pytest.raises(ValueError, match="--fsdp divides the model among processes, and this is one"):
        trainer(ytvos_root, tmp_path / "run", "--fsdp")


# Evaluation --------------------------------------------------------------------------------------------------------


class Bright:
    """A predictor whose masks are the bright pixels of the colour channel that the expression's length chooses."""

    device = CPU

    def announce(self, texts: Iterable[tuple[str, str]]) -> None:
        """Takes texts of any length."""

    def segment(self, video: VideoEntry, expressions: list[str], *, following: VideoEntry | None) -> Painted:
        frames = video.read(range(len(video)))
        return Painted(torch.stack([frames[:, len(text) % 3] > 150 for text in expressions]))


def score_rank(_: int, root: str, folder: str) -> None:
    args = mini_args(Path(root), "--holdout", "3", "--eval", "--resume", "any", "--output_dir", folder)
    settings, split = models.predictor_settings(args), datasets.eval_set(args, "holdout")
    score = score_split(split, Bright(), settings, "some weights", Path(folder))
    assert (score is not None) == dist.is_main()


def rank_without_space(rank: int, root: str, folder: str) -> None:
    """Two runs: in the one rank 0 cannot write the masks of the first epoch, in the other rank 1."""
    real = engine.write_mask_png
    for lacking in (0, 1):
        flags = [*DIVIDED.split(), "--holdout", 3, "--epochs", 2, "--warmup_steps", 0]
        run = trainer(Path(root), Path(folder) / str(lacking), *flags)

        def write(*args, run=run, lacking=lacking) -> None:
            if rank == lacking and run.epoch == 0:
                raise OSError("no space left")
            real(*args)

        engine.write_mask_png = write
        run.run()


def test_masks_that_one_rank_cannot_write_cost_a_score_and_no_training(ytvos_root, tmp_path):
    run_ranks(rank_without_space, 2, str(ytvos_root), str(tmp_path))
    for lacking in ("0", "1"):
        scores = [line.get("score_holdout") for line in log(tmp_path / lacking)]
        assert scores[0] is None and scores[1] is not None


def test_any_number_of_ranks_scores_the_same(ytvos_root, tmp_path):
    scores = {}
    for world_size in (1, 2, 3):
        folder = tmp_path / str(world_size)
        folder.mkdir()
        if world_size == 1:
            score_rank(0, str(ytvos_root), str(folder))
        else:
            run_ranks(score_rank, world_size, str(ytvos_root), str(folder))
        scores[world_size] = json.loads((folder / "eval_ytvos_holdout" / "scores.json").read_text())
    assert scores[1] == scores[2] == scores[3] and 0 < scores[1]["J&F"] < 1
