"""What can be asked of a run: scores and averages on the way, a rehearsal, frozen parts, less memory."""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import sys
from concurrent.futures.process import BrokenProcessPool

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.ops import StochasticDepth

import datasets
import models
from models import build_criterion, prepare
from models.backbone import build_backbone
from models.fast import for_training
from models.proxyformer import ProxyFormer
from models.video_swin import VideoSwin
from tasks import plan, training
from tasks.scoring import score_split
from tests.runs import log, same, trainer
from tests.tiny_model import random_batch, tiny_args, tiny_model
from tools import plot
from util.run.log import RunLog, read_lines
from util.run.optim import Average
from util.run.precision import autocast
from util.samples.structures import Batch
from util.weights import checkpoint
from util.weights.saver import BEST, NEWEST

# Seeing it ---------------------------------------------------------------------------------------------------------


def test_the_log_holds_each_epoch_once(tmp_path):
    lines = ['{"epoch": 0, "loss": 3}', '{"epoch": 1, "loss": 2}', '{"epoch": 2, "lo']
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert [line["epoch"] for line in read_lines(tmp_path / "log.jsonl")] == [0, 1]
    run = RunLog(tmp_path, epoch=1, step=10)
    run.line({"epoch": 1, "loss": 1})
    run.close()
    assert [line["loss"] for line in read_lines(tmp_path / "log.jsonl")] == [3, 1]


def test_scores_during_training_choose_the_best_checkpoint(ytvos_root, tmp_path, monkeypatch):
    scores = iter([0.3, 0.5, 0.4])
    seen = []
    monkeypatch.setattr(training, "score_split", lambda split, *_: seen.append(split.split) or next(scores))
    monkeypatch.setattr(training, "pictures", lambda *_: {"a": torch.zeros(4, 4, 3, dtype=torch.uint8).numpy()})
    flags = ["--holdout", 1, "--eval_every", 1, "--keep", 1]
    trainer(ytvos_root, tmp_path / "run", *flags, "--epochs", 2).run()
    trainer(ytvos_root, tmp_path / "run", *flags, "--epochs", 3).run()
    assert seen == ["holdout"] * 3
    assert [line["score_holdout"] for line in log(tmp_path / "run")] == [0.3, 0.5, 0.4]
    best = checkpoint.load(tmp_path / "run" / BEST)
    assert (best["epoch"], best["best"]) == (2, 0.5)
    assert checkpoint.load(tmp_path / "run" / NEWEST)["best"] == 0.5


def test_a_split_that_cannot_be_scored_is_refused_before_an_epoch(ytvos_root, tmp_path):
    with pytest.raises(ValueError, match="split valid .* does not name its object"):
        trainer(ytvos_root, tmp_path / "run", "--eval_every", 1)


def test_a_run_that_goes_on_from_before_its_best_sets_that_aside(ytvos_root, tmp_path, monkeypatch):
    scores = iter([0.3, 0.2, 0.6, 0.4, 0.4])
    monkeypatch.setattr(training, "score_split", lambda *_: next(scores))
    monkeypatch.setattr(training, "pictures", lambda *_: {})
    folder, flags = tmp_path / "run", ["--holdout", 1, "--eval_every", 1, "--keep", 3, "--epochs", 3]
    first = trainer(ytvos_root, folder, *flags)
    first.run()
    trainer(ytvos_root, folder, *flags, resume=folder / f"checkpoint_{first.steps:08d}.pth").run()
    assert [checkpoint.load(folder / name)["best"] for name in (BEST, f"abandoned_{BEST}")] == [0.4, 0.6]


@pytest.mark.parametrize("error", [ValueError, MemoryError, BrokenProcessPool, FloatingPointError])
def test_a_failure_while_scoring_does_not_cost_the_epoch(ytvos_root, tmp_path, monkeypatch, capsys, error):
    def damaged(*_):
        raise error("nothing can be scored")

    monkeypatch.setattr(training, "score_split", damaged)
    trainer(ytvos_root, tmp_path / "run", "--holdout", 1, "--epochs", 1, "--eval_every", 1).run()
    assert "epoch 0 has no score, training goes on: nothing can be scored" in capsys.readouterr().err
    assert "score_holdout" not in log(tmp_path / "run")[0] and (tmp_path / "run/checkpoint.pth").is_file()


def test_an_epoch_that_cannot_be_scored_for_want_of_space_costs_no_training(ytvos_root, tmp_path, monkeypatch, capsys):
    scores = iter([OSError("no space left"), 0.5])

    def score(*_) -> float:
        found = next(scores)
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(training, "score_split", score)
    trainer(ytvos_root, tmp_path / "run", "--holdout", 1, "--epochs", 2, "--eval_every", 1).run()
    assert "epoch 0 has no score, training goes on: no space left" in capsys.readouterr().err
    assert [line.get("score_holdout") for line in log(tmp_path / "run")] == [None, 0.5]
    assert checkpoint.load(tmp_path / "run" / BEST)["epoch"] == 2


def test_masks_of_other_weights_are_not_scored_as_these(ytvos_root, tmp_path):
    """Left in the folder by a run whose checkpoints were deleted."""
    flags = ["--holdout", 1, "--epochs", 1, "--eval_every", 1]
    trainer(ytvos_root, tmp_path / "run", *flags, "--lr", 0).run()
    for path in (tmp_path / "run").glob("*.pth"):
        path.unlink()
    trainer(ytvos_root, tmp_path / "run", *flags).run()
    trainer(ytvos_root, tmp_path / "other", *flags).run()
    assert log(tmp_path / "run") == log(tmp_path / "other")


def test_evaluation_does_not_change_the_training(ytvos_root, tmp_path):
    """And scores as ``--eval`` does; with what is averaged, where that is asked for."""
    flags = ["--holdout", 1, "--epochs", 2, "--ema_decay", 0.9]
    trainer(ytvos_root, tmp_path / "plain", *flags).run()
    trainer(ytvos_root, tmp_path / "scored", *flags, "--eval_every", 1).run()
    first, second = (checkpoint.load(tmp_path / name / NEWEST) for name in ("plain", "scored"))
    assert same(first["model"], second["model"]) and same(first["average"], second["average"])
    assert not same(first["model"], first["average"])
    model, args = models.restore_model(second, ""), argparse.Namespace(**second["options"])
    assert same(model.state_dict(), second["average"])
    settings, split = models.predictor_settings(args), datasets.eval_set(args, "holdout")
    again = score_split(split, models.build_predictor(model, settings), settings, "weights", tmp_path / "again")
    assert log(tmp_path / "scored")[-1]["score_holdout"] == again
    assert same(models.restore_model(second, "", to_train=True).state_dict(), second["model"])


def test_the_average_is_exponential(ytvos_root):
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = Average(model, 0.9)
    wanted = model[0].weight.detach().clone()
    for steps in (0, 1, 1000):
        with torch.no_grad():
            model[0].weight += 1
            model[1].running_mean += 1
        average.update(model, steps)
        decay = min(0.9, (1 + steps) / (10 + steps))
        wanted = decay * wanted + (1 - decay) * model[0].weight.detach()
    torch.testing.assert_close(average.values["0.weight"], wanted)
    assert torch.equal(average.values["1.running_mean"], model[1].running_mean)


def test_the_average_is_the_same_bit_for_bit_as_tensor_by_tensor():
    """Frozen parameters are their own average, and are left alone."""
    model = tiny_model(frozen_text=True)
    average, wanted = Average(model, 0.99), {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    frozen = [name for name, parameter in parameters.items() if not parameter.requires_grad]
    assert frozen and len(frozen) < len(parameters)
    for steps in range(0, 300, 60):
        with torch.no_grad():
            for parameter in parameters.values():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter))
        average.update(model, steps)
        for name, value in model.state_dict().items():
            if name in parameters:
                wanted[name].lerp_(value, 1 - min(0.99, (1 + steps) / (10 + steps)))
            else:
                wanted[name].copy_(value)
    assert same(average.values, wanted)


def test_curves_of_several_runs_are_drawn(tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        lines = [{"epoch": e, "loss": 3 - e, "loss_dice": 1, "loss_dice_1": 2, "seconds": 5} for e in range(3)]
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert plot.curves(tmp_path / "a", all_stages=False) == {
        "loss": [(0, 3), (1, 2), (2, 1)],
        "loss_dice": [(0, 1), (1, 1), (2, 1)],
    }
    assert "loss_dice_1" in plot.curves(tmp_path / "a", all_stages=True)
    monkeypatch.setattr(sys, "argv", ["plot.py", str(tmp_path / "a"), str(tmp_path / "b")])
    plot.main()
    with Image.open(tmp_path / "a" / "curves.png") as image:
        assert min(image.size) > 200
    with pytest.raises(ValueError, match="log.jsonl does not exist; give the --output_dir"):
        plot.curves(tmp_path, all_stages=False)


def test_the_curves_of_one_epoch_are_no_lone_dots(tmp_path):
    log = RunLog(tmp_path, 0, 0)
    for step in range(200):
        log.scalars({"train/loss": 3 - step / 100, "train/loss_dice_1": 1.0, "train/lr": 0.1}, step)
    log.line({"epoch": 0, "loss": 2.0, "loss_dice_1": 1.0, "score": 0.5})
    log.flush()
    found = plot.curves(tmp_path, all_stages=False)
    assert found.keys() == {"loss", "score"} and found["score"] == [(0, 0.5)]
    places, values = zip(*found["loss"], strict=True)
    assert len(places) == plot.PARTS and 0 <= places[0] < 0.02 and 0.98 < places[-1] <= 1
    assert values[0] == pytest.approx(3, abs=0.05) and values[-1] == pytest.approx(1, abs=0.05)


# Before it costs anything ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--batch_size 1 --expressions_per_clip 1", ["give --batch_size 2 or --expressions_per_clip 2"]),
        ("--jsc_loss_coef 0", ["or leave the loss out by --jsc_target none"]),
        ("--jsc_target none", []),
        ("--num_frames 1", ["--num_frames 1: a clip of ytvos is one frame, .* give --num_frames 5"]),
        ("", []),
    ],
)
def test_a_setting_that_switches_a_part_of_the_method_off_is_named(flags, told, ytvos_root, tmp_path, capsys):
    plan.describe(trainer(ytvos_root, tmp_path / "run", *flags.split()))
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == len(told) and all(map(re.search, told, warnings))


def test_a_rehearsal_tells_the_plan_and_writes_nothing(ytvos_root, tmp_path, capsys):
    words = ["--global_batch_size", 4, "--freeze", "backbone.*", "cmie.stages.0.video_*"]
    with pytest.raises(
        ValueError,
        match="--activation_checkpointing: the batch norms of this --backbone are trained, and would count every clip",
    ):
        trainer(ytvos_root, tmp_path / "run", "--activation_checkpointing")
    run = trainer(ytvos_root, tmp_path / "run", *words)
    plan.describe(run)
    plan.rehearse(run)
    said = capsys.readouterr().out
    assert "a step takes 4 clips of 2 frames (2 x 1 rank x 2 micro-batches)" in said
    assert "frozen by cmie.stages.0.video_*: 0.0 M" in said and "backbone:" not in said
    assert "come from one micro-batch of all ranks, 2 clips" in said
    # one wide and one tall shape, at the largest of --train_sizes, and what is left over of both
    assert said.index("64 x 96: ") < said.index("96 x 96: ") and "96 x 64: " in said
    assert f"{run.steps * 2} steps left" in said
    assert not (tmp_path / "run").exists()


def test_no_batch_of_an_epoch_is_larger_than_those_of_the_rehearsal(ytvos_root, tmp_path):
    run = trainer(ytvos_root, tmp_path / "run", "--train_sizes", 100, 150, "--max_size", 200)
    seen = [batch for epoch in range(3) for batch in batches_of(run, epoch)]
    largest = list(plan.largest_batches(run))

    def most(batches: list[Batch], axes: slice) -> int:
        return max(math.prod(batch.video.shape[axes]) for batch in batches)

    assert 128 * 224 < most(seen, slice(-2, None)) <= most(largest, slice(-2, None))  # of the whole frame: the former
    assert max(len(batch.expressions) for batch in largest) == max(len(batch.expressions) for batch in seen)


def batches_of(run: training.Trainer, epoch: int) -> list[Batch]:
    run.loader.batch_sampler.set_epoch(epoch)
    return list(run.loader)


def test_frozen_parts_stay(ytvos_root, tmp_path):
    run = trainer(ytvos_root, tmp_path / "run", "--epochs", 1, "--freeze", "cmie.stages.0.video_*", "text_encoder.*")
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.run()
    for name, value in run.model.named_parameters():
        frozen = name.startswith(("cmie.stages.0.video_", "text_encoder."))
        assert value.requires_grad != frozen
        assert torch.equal(value, before[name]) or not frozen, name
    with pytest.raises(ValueError, match=r"--freeze nothing is the name of no parameter; there are backbone\.\*"):
        trainer(ytvos_root, tmp_path / "other", "--freeze", "nothing")
    with pytest.raises(ValueError, match="--freeze leaves nothing to train"):
        trainer(ytvos_root, tmp_path / "other", "--freeze", "*")


@pytest.mark.parametrize(
    "part", ["backbone", "segmenter.mask_decoder", "cmie", "segmenter.kernel_head", "reference_head"]
)
def test_a_frozen_part_gives_what_it_gave(part):
    model = tiny_model(backbone=build_backbone("video_swin_t_p4w7", pretrained=False)).train()
    for_training(model)
    for block in model.backbone.modules():
        if isinstance(block, StochasticDepth):
            block.p = 0.0
    wanted, gradients = loss_and_gradients(model)
    model.zero_grad(set_to_none=True)
    prepare.freeze(model, [f"{part}.*"])
    prepare.train_mode(model)
    loss, left = loss_and_gradients(model)
    torch.testing.assert_close(loss, wanted)
    assert left.keys() == {name for name in gradients if not name.startswith(f"{part}.")}
    for name, gradient in left.items():
        difference = (gradient - gradients[name]).norm()
        assert difference <= 1e-4 * gradients[name].norm() + 1e-5, name


def test_frozen_batch_norms_do_not_forbid_to_recompute(ytvos_root, tmp_path):
    flags = ["--epochs", 1, "--freeze", "backbone.*"]
    trainer(ytvos_root, tmp_path / "plain", *flags).run()
    trainer(ytvos_root, tmp_path / "again", *flags, "--activation_checkpointing").run()
    assert log(tmp_path / "plain") == log(tmp_path / "again")


def test_frozen_batch_norms_keep_their_statistics(ytvos_root, tmp_path):
    run = trainer(ytvos_root, tmp_path / "run", "--epochs", 1, "--freeze", "backbone.*")
    before = {name: value.clone() for name, value in run.model.backbone.state_dict().items()}
    run.run()
    assert any("running_mean" in name for name in before) and same(run.model.backbone.state_dict(), before)


def test_a_warm_up_that_never_ends_is_refused(ytvos_root, tmp_path):
    with pytest.raises(ValueError, match="--warmup_steps 1000: the whole run has"):
        trainer(ytvos_root, tmp_path / "run", "--warmup_steps", 1000)


def test_a_backend_that_does_not_exist_is_refused(ytvos_root, tmp_path):
    with pytest.raises(ValueError, match="--compile inductr: there is no such backend; choose one of"):
        trainer(ytvos_root, tmp_path / "run", "--compile", "inductr")


def test_global_batches_are_whole_micro_batches(ytvos_root, tmp_path):
    with pytest.raises(
        ValueError, match="--global_batch_size 5 is no multiple of 2, which 1 ranks with --batch_size 2"
    ):
        trainer(ytvos_root, tmp_path / "run", "--global_batch_size", 5)


# Less memory, less time --------------------------------------------------------------------------------------------


def loss_and_gradients(model: ProxyFormer, amp: torch.dtype | None = None) -> tuple[Tensor, dict[str, Tensor]]:
    """Of the same batch and, from the same random state, the same dropout."""
    batch = random_batch(1, expressions=2, size=(64, 64))
    torch.manual_seed(1)
    with autocast(torch.device("cpu"), amp):
        output = model(batch.video, batch.expressions, batch.video_valid, batch.clip_index)
    loss, _ = build_criterion(tiny_args())(output, batch)
    loss.backward()
    return loss.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("amp", "error"), [(torch.bfloat16, 0.1), (torch.float16, 0.03)])
def test_half_precision_gives_the_gradients_of_float32_but_for_rounding(amp, error):
    """Of rounding to 8 and 11 bits; the gradients themselves are float32."""
    torch.manual_seed(0)
    model = tiny_model(backbone=build_backbone("resnet18", pretrained=True)).train()
    plain, wanted = loss_and_gradients(model)
    model.zero_grad(set_to_none=True)
    loss, got = loss_and_gradients(model, amp)
    assert loss.dtype == torch.float32 and loss != plain
    torch.testing.assert_close(loss, plain, rtol=error / 10, atol=0)
    assert got.keys() == wanted.keys() and all(g.dtype == torch.float32 for g in got.values())
    ours, theirs = (torch.cat([g.flatten() for g in gradients.values()]) for gradients in (got, wanted))
    assert (ours - theirs).norm() <= error * theirs.norm()


@pytest.mark.parametrize(("backend", "swin", "graphs"), [("aot_eager", True, 12), ("inductor", False, 2)])
def test_compiled_blocks_give_the_same_gradients(backend, swin, graphs):
    if backend == "inductor" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("inductor takes a C++ compiler, and there is none")
    torch._dynamo.reset()
    small = dict(embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], window_size=(2, 3, 3), stochastic_depth=0.0)
    model = tiny_model(enc_layers=1, **({"backbone": VideoSwin(**small)} if swin else {})).train()
    for_training(model)
    plain, wanted = loss_and_gradients(model)
    model.zero_grad(set_to_none=True)
    prepare.compile_blocks(model, backend)
    torch._dynamo.utils.counters.clear()
    loss, got = loss_and_gradients(model)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= graphs  # of the encoders and the CMIE
    torch.testing.assert_close(loss, plain, rtol=1e-5, atol=0)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert not any("_orig_mod" in name for name in model.state_dict())


def test_a_backend_that_does_not_work_is_refused_at_once():
    @torch._dynamo.register_backend
    def without_its_compiler(*_):
        raise RuntimeError("no compiler found")

    with pytest.raises(ValueError, match="--compile without_its_compiler does not work here: .*no compiler found"):
        prepare.compile_blocks(tiny_model(), "without_its_compiler")


@pytest.mark.parametrize("backbone", ["video_swin_t", "resnet18", "timm:convnext_atto"])
def test_recomputed_activations_give_the_same_gradients(backbone):
    """With dropout and skipped blocks: what is computed again is what was computed."""
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        model = tiny_model(backbone=build_backbone(backbone, pretrained=True), dropout=0.2).train()
        for_training(model)
        if recompute:
            prepare.recompute_activations(model)
        gradients.append(loss_and_gradients(model)[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)
