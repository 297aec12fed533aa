"""Checkpoints written whole, read strictly and enough to rebuild the model; parameter groups and schedules."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import pickle
import random

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

import inference_ytvos
import main
import models
from models.start import REPLACED_HEADS
from opts import parse_train_args
from tasks import inference
from tests.commands import run
from tests.tiny_model import EXPRESSIONS, checkpoint_of, tiny_args, tiny_model, tiny_text_encoder
from util.run import optim, precision
from util.weights import checkpoint


class Code:
    """Unpickling this runs a command."""

    def __reduce__(self):
        return (print, ("code in a checkpoint was run",))


class Unsavable:
    """Fails in the middle of being written."""

    def __reduce__(self):
        raise OSError("no space left on device")


# Files -------------------------------------------------------------------------------------------------------------


def test_what_is_saved_comes_back(tmp_path):
    options = {"lr": 0.1, "sizes": [1, 2], "file": None}
    content = checkpoint_of(model={"a": torch.arange(3.0)}, options=options, epoch=4)
    checkpoint.save(tmp_path / "new folder" / "c.pth", content)
    loaded = checkpoint.load(tmp_path / "new folder" / "c.pth")
    assert torch.equal(loaded["model"]["a"], content["model"]["a"])
    assert loaded["options"] == content["options"] and loaded["epoch"] == 4


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "c.pth"
    checkpoint.save(path, {"epoch": 1})
    before = path.read_bytes()
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save(path, {"weights": torch.zeros(1000), "bad": Unsavable()})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_who_reads_during_a_save_reads_the_old_file_to_its_end(tmp_path):
    path = tmp_path / "c.pth"
    checkpoint.save(path, checkpoint_of(epoch=1))
    before = path.read_bytes()
    with path.open("rb") as reader:
        checkpoint.save(path, checkpoint_of(epoch=2))
        assert reader.read() == before
    assert checkpoint.load(path)["epoch"] == 2


def damaged(path) -> dict[str, bytes]:
    """Files that are no checkpoint, by what is wrong with them."""
    checkpoint.save(path, checkpoint_of())
    good = path.read_bytes()
    numbers = random.Random(0)
    cases = {"empty": b"", "text": b"not a checkpoint", "code": pickle.dumps(Code(), 2), "zeros": bytes(1000)}
    cases |= {f"cut at {n}": good[:n] for n in (1, 10, 100, len(good) // 2, len(good) - 1)}
    cases |= {f"random {i}": numbers.randbytes(1 + i) for i in range(200)}
    return cases | {f"random pickle {i}": b"\x80\x02" + numbers.randbytes(1 + i % 40) for i in range(200)}


def test_damaged_files_are_refused_by_name(tmp_path, capfd):
    path = tmp_path / "c.pth"
    for what, content in damaged(path).items():
        path.write_bytes(content)
        with pytest.raises(ValueError) as raised:
            checkpoint.load(path)
        assert str(path) in str(raised.value), what
    assert "code in a checkpoint" not in capfd.readouterr().out


@pytest.mark.parametrize("content", [{"format": 99}, {"model": {}}, [1, 2], torch.ones(2)])
def test_other_peoples_files_are_refused_by_name(tmp_path, content):
    torch.save(content, tmp_path / "c.pth")
    with pytest.raises(ValueError, match="is not a checkpoint of this program") as raised:
        checkpoint.load(tmp_path / "c.pth")
    assert str(tmp_path / "c.pth") in str(raised.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth does not exist"):
        checkpoint.load(tmp_path / "nowhere.pth")


# Weights -----------------------------------------------------------------------------------------------------------


def test_load_weights_names_every_misfit_and_loads_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = {k: v + 1 for k, v in before.items()}
    checkpoint.load_weights(model, state, "good.pth")
    assert all(torch.equal(v, before[k] + 1) for k, v in model.state_dict().items())
    state = {
        "0.weight": torch.ones(3, 9),
        "0.bias": before["0.bias"],
        "1.bias": before["1.bias"],
        "2.bias": torch.ones(1),
    }
    with pytest.raises(ValueError) as raised:
        checkpoint.load_weights(model, state, "bad.pth")
    for part in (
        "bad.pth",
        "missing: 1.weight",
        "not of this model: 2.bias",
        "another shape: 0.weight (3, 9), not (3, 2)",
    ):
        assert part in str(raised.value)
    assert all(torch.equal(v, before[k] + 1) for k, v in model.state_dict().items())


def saved_model(path, *flags: str, num_classes: int = 1):
    """A model with a text encoder that exists nowhere on the disk, and its checkpoint as ``main.py`` writes it."""
    args = tiny_args("--text_encoder", "nowhere/encoder", *flags)
    torch.manual_seed(5)
    model = models.assemble(args, num_classes, tiny_text_encoder(args.freeze_text_encoder))
    content = dict(model=model.state_dict(), options=vars(args), num_classes=num_classes)
    checkpoint.save(path, {**content, "text_encoder": model.text_encoder.description()})
    return model, args


def restored(path, *flags: str):
    """The model and options that an inference script takes from a checkpoint."""
    asked = inference_ytvos.parse_args(["--resume", str(path), "--ytvos_path", str(path.parent), *flags])
    return inference.restore(asked, torch.device("cpu"), "ytvos")


@torch.no_grad()
@pytest.mark.parametrize("flags", ["", "--token_stride 16 --mask_decoder cross_modal --freeze_text_encoder --amp bf16"])
def test_a_checkpoint_alone_rebuilds_the_model_and_its_predictor(tmp_path, flags):
    model, args = saved_model(tmp_path / "c.pth", *flags.split(), "--eval_size", "40", num_classes=3)
    saved = checkpoint.load(tmp_path / "c.pth")
    rebuilt = models.restore_model(saved, "c.pth")
    assert saved["options"] == vars(args) and rebuilt.text_encoder.frozen == args.freeze_text_encoder
    video = torch.randn(1, 2, 3, 50, 70)
    outputs = [m.eval()(video, [EXPRESSIONS[0]]).final for m in (model, rebuilt)]
    assert torch.equal(outputs[0].masks, outputs[1].masks) and torch.equal(outputs[0].logits, outputs[1].logits)
    predictor = models.load_predictor(tmp_path / "c.pth", device="cpu")
    assert predictor.eval_size == 40 and not predictor.model.training


@pytest.mark.parametrize("form", ["clean", "lower", "raw"])
def test_a_checkpoint_knows_the_form_of_its_texts(form, tmp_path):
    model, _ = saved_model(tmp_path / "c.pth", "--text_form", form)
    saved = checkpoint.load(tmp_path / "c.pth")
    rebuilt = models.restore_model(saved, "c.pth")
    assert model.text_encoder.form == rebuilt.text_encoder.form == saved["options"]["text_form"] == form
    assert models.load_predictor(tmp_path / "c.pth", "cpu").model.text_encoder.form == form
    assert restored(tmp_path / "c.pth", "--text_form", form)[0].text_encoder.form == form
    with pytest.raises(ValueError, match=f"--text_form is {form} there"):
        restored(tmp_path / "c.pth", "--text_form", "raw" if form == "lower" else "lower")


def test_a_checkpoint_of_before_has_the_clean_form(tmp_path, monkeypatch):
    saved_model(tmp_path / "c.pth")
    saved = checkpoint.load(tmp_path / "c.pth")
    for name in ("text_form", "long_text"):
        del saved["options"][name]
    checkpoint.save(tmp_path / "old.pth", {k: v for k, v in saved.items() if k != "format"})
    assert models.restore_model(saved, "old.pth").text_encoder.form == "clean"
    predictor = models.load_predictor(tmp_path / "old.pth", "cpu", long_text="refuse")
    assert (predictor.model.text_encoder.form, predictor.long_text) == ("clean", "refuse")
    assert restored(tmp_path / "old.pth", "--text_form", "clean")[0].text_encoder.form == "clean"
    for flags, refusal in (((), None), (("--text_form", "raw"), "--text_form is clean there, raw now")):
        words = ["main.py", "--eval", "--resume", str(tmp_path / "old.pth"), *flags]
        monkeypatch.setattr("sys.argv", words)
        args, found = main.restore_options(parse_train_args(words[1:]))
        with pytest.raises(ValueError, match=refusal) if refusal else contextlib.nullcontext():
            main.refuse_other_model(args, found["options"])


@pytest.mark.parametrize(("trained", "speedup", "used"), [("bf16", 4, True), ("bf16", 0.01, False), ("off", 4, False)])
def test_a_model_trained_in_bf16_predicts_in_what_is_faster(trained, speedup, used, monkeypatch, tmp_path):
    monkeypatch.setattr(precision, "cpu_speedup", lambda _: speedup)
    saved_model(tmp_path / "c.pth", "--amp", trained)
    predictor = models.load_predictor(tmp_path / "c.pth", device="cpu")
    assert (predictor.amp is not None) == used


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"amp": "fp32"}, "--amp fp32 is unknown; choose one of off, bf16, fp16, auto"),
        ({"eval_size": 0}, "--eval_size 0 is no size"),
        ({"window": 8, "overlap": 8}, "--overlap 8 must be at least 1 and below --window 8"),
        ({"device": "gpu"}, "--device gpu is not the name of a device; give cuda, cuda:1 or cpu"),
        ({"device": "cuda:99"}, "--device cuda:99: this machine has"),
    ],
)
def test_what_a_predictor_cannot_be_is_refused(tmp_path, wrong, message):
    saved_model(tmp_path / "c.pth")
    with pytest.raises(ValueError, match=message):
        models.load_predictor(tmp_path / "c.pth", **({"device": "cpu"} | wrong))
    with pytest.raises(TypeError, match="evalsize"):
        models.load_predictor(tmp_path / "c.pth", evalsize=100)


def test_inference_takes_model_options_that_agree_with_the_checkpoint(tmp_path):
    """Commands written for ReferFormer repeat them."""
    saved_model(tmp_path / "c.pth", "--binary")

    path = tmp_path / "c.pth"
    agreeing = restored(path, "--backbone", "resnet18", "--binary", "--nheads", "2")[1]
    assert vars(agreeing) == vars(restored(path)[1])
    with pytest.raises(ValueError, match="c.pth is another model: --backbone is resnet18 there, resnet50 now. Leave"):
        restored(path, "--backbone", "resnet50", "--binary")


@torch.no_grad()
def test_exported_weights_predict_as_the_checkpoint_does(tmp_path):
    model, args = saved_model(tmp_path / "c.pth")
    checkpoint.export(tmp_path / "w.safetensors", checkpoint.load(tmp_path / "c.pth"), torch.float32)
    (tmp_path / "c.pth").unlink()
    saved = checkpoint.load(tmp_path / "w.safetensors")
    rebuilt = models.restore_model(saved, "w")
    assert saved["options"] == vars(args)
    assert all(torch.equal(v, rebuilt.state_dict()[k]) for k, v in model.state_dict().items())


def test_exported_weights_name_no_folder_of_the_training(tmp_path):
    paths = [name for name in vars(tiny_args()) if name.endswith("_path")]
    flags = [word for name in paths for word in (f"--{name}", "/home/somebody")]
    saved_model(tmp_path / "c.pth", *flags, "--output_dir", "/home/somebody/run")
    run("tools/export.py", tmp_path / "c.pth", tmp_path / "w.safetensors")
    found = (tmp_path / "w.safetensors").read_bytes()
    assert len(paths) > 5 and b"/home/somebody" not in found and b"nowhere/encoder" not in found


def test_exported_halves_are_read_as_full_floats(tmp_path):
    model, _ = saved_model(tmp_path / "c.pth")
    checkpoint.export(tmp_path / "w.safetensors", checkpoint.load(tmp_path / "c.pth"), torch.float16)
    read = checkpoint.load(tmp_path / "w.safetensors")["model"]
    for name, value in model.state_dict().items():
        assert read[name].dtype == value.dtype
        torch.testing.assert_close(read[name], value, atol=1e-3, rtol=1e-3)


def test_exported_files_that_are_damaged_or_of_others_are_named(tmp_path):
    saved_model(tmp_path / "c.pth")
    content, path = checkpoint.load(tmp_path / "c.pth"), tmp_path / "w.safetensors"
    checkpoint.export(path, content, torch.float32)
    assert path.stat().st_mode & 0o044
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"w\.safetensors cannot be read"):
        checkpoint.load(path)
    for header in (None, {"proxyformer": "[]"}, {"proxyformer": '{"format": 1}'}):
        save_file({"a": torch.zeros(1)}, path, metadata=header)
        with pytest.raises(ValueError, match=r"w\.safetensors is not a checkpoint of this program"):
            checkpoint.load(path)


def test_a_failed_export_leaves_nothing(tmp_path):
    saved_model(tmp_path / "c.pth")
    content = checkpoint.load(tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"w\.pth: exported weights end in \.safetensors"):
        checkpoint.export(tmp_path / "w.pth", content, torch.float32)
    next(iter(content["model"].values())).fill_(1e5)
    with pytest.raises(ValueError, match="cannot hold"):
        checkpoint.export(tmp_path / "w.safetensors", content, torch.float16)
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_weights_of_another_architecture_are_named(tmp_path):
    saved_model(tmp_path / "c.pth")
    content = checkpoint.load(tmp_path / "c.pth")
    content["options"]["enc_layers"] = 3
    with pytest.raises(ValueError, match=r"some\.pth do not fit; missing: cmie\.stages\.2"):
        models.restore_model(content, "some.pth")


def test_pretrained_weights_keep_all_but_a_class_head_of_other_classes(tmp_path, capsys):
    trained, _ = saved_model(tmp_path / "c.pth", num_classes=3)
    torch.manual_seed(6)
    other = models.assemble(tiny_args(), 5, tiny_text_encoder())
    head = {k: v.clone() for k, v in other.state_dict().items() if k.startswith(REPLACED_HEADS)}
    models.load_pretrained_model(other, tmp_path / "c.pth")
    for name, value in other.state_dict().items():
        assert torch.equal(value, head.get(name, trained.state_dict()[name]))
    assert "starts anew, for 5 classes, not 3" in capsys.readouterr().out
    same = models.assemble(tiny_args(), 3, tiny_text_encoder())
    models.load_pretrained_model(same, tmp_path / "c.pth")
    assert all(torch.equal(v, trained.state_dict()[k]) for k, v in same.state_dict().items())
    with pytest.raises(ValueError, match=r"--pretrained_weights .*c\.pth do not fit"):
        models.load_pretrained_model(
            models.assemble(tiny_args("--enc_layers", "3"), 3, tiny_text_encoder()), tmp_path / "c.pth"
        )


def test_a_resnet_fine_tuned_from_a_checkpoint_has_frozen_batch_norm(tmp_path):
    """Whether it was frozen there, because it came from a file, or trained there."""
    for flags in ([], ["--backbone_pretrained", "resnet18.pth"]):
        saved_model(tmp_path / "c.pth", *flags)
        tuned = models.assemble(tiny_args("--pretrained_weights", "c.pth"), 1, tiny_text_encoder())
        models.load_pretrained_model(tuned, tmp_path / "c.pth")
        assert isinstance(tuned.backbone.bn1, FrozenBatchNorm2d)


def test_build_model_reads_the_text_encoder_and_the_pretrained_files(tmp_path):
    with pytest.raises(ValueError, match="--text_encoder"):
        models.build_model(tiny_args("--text_encoder", str(tmp_path / "nowhere")), 1)
    encoder = tiny_text_encoder()
    encoder.model.save_pretrained(tmp_path / "text")
    tokenizer_file = tmp_path / "text" / "tokenizer.json"
    tokenizer_file.write_text(encoder.tokenizer.to_str())
    trained, _ = saved_model(tmp_path / "c.pth")
    backbone = {k.removeprefix("backbone."): v for k, v in trained.state_dict().items() if k.startswith("backbone.")}
    torch.save(backbone, tmp_path / "resnet18.pth")
    flags = ["--text_encoder", str(tmp_path / "text"), "--backbone_pretrained", str(tmp_path / "resnet18.pth")]
    model = models.build_model(tiny_args(*flags, "--freeze_text_encoder"), 1)
    assert model.text_encoder.frozen
    assert torch.equal(model.backbone.conv1.weight, trained.backbone.conv1.weight)
    assert torch.equal(model.text_encoder(["a star"])[0], tiny_text_encoder(frozen=True)(["a star"])[0]), (
        "the encoder of the directory"
    )
    with pytest.raises(FileNotFoundError, match="--backbone_pretrained"):
        models.build_model(tiny_args(*flags[:3], str(tmp_path / "nowhere.pth")), 1)


# Optimiser ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("frozen", [True, False])
def test_each_trained_parameter_is_in_one_group_of_its_learning_rate(frozen):
    model = tiny_model(frozen_text=frozen)
    groups = optim.parameter_groups(model, lr=3.0, lr_backbone=2.0, lr_text_encoder=1.0)
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    assert len(rate_of) == sum(len(group["params"]) for group in groups)
    for name, parameter in model.named_parameters():
        wanted = 2.0 if name.startswith("backbone.") else 1.0 if name.startswith("text_encoder.") else 3.0
        assert rate_of.pop(id(parameter), None) == (wanted if parameter.requires_grad else None)
    assert not rate_of
    assert [g["name"] for g in groups] == [
        n for n in ("backbone", "text_encoder", "rest") if n != "text_encoder" or not frozen
    ]


def factor(**changes):
    return optim.lr_factor(
        **{**dict(schedule="step", warmup_steps=0, steps_per_epoch=10, epochs=6, lr_drop=[3, 5]), **changes}
    )


def test_steps_divide_the_rate_by_ten_after_the_named_epochs():
    f = factor()
    values = {0: 1, 29: 1, 30: 0.1, 49: 0.1, 50: 0.01, 59: 0.01}
    assert {step: f(step) for step in values} == pytest.approx(values)


def test_warm_up_rises_in_equal_steps_to_the_full_rate():
    for schedule in ("step", "cosine"):
        f = factor(schedule=schedule, warmup_steps=4)
        assert [f(step) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cosine_falls_from_one_to_zero():
    f = factor(schedule="cosine", warmup_steps=10)
    assert f(10) == 1 and f(35) == pytest.approx(0.5) and f(60) == pytest.approx(0, abs=1e-12)
    assert f(22) == pytest.approx((1 + math.cos(math.pi * 12 / 50)) / 2)
    values = [f(step) for step in range(10, 61)]
    assert all(a > b for a, b in itertools.pairwise(values))


def test_the_optimizer_follows_the_schedule_in_each_group():
    groups = [{"name": n, "lr": lr, "params": [nn.Parameter(torch.ones(1))]} for n, lr in (("a", 1.0), ("b", 0.5))]
    optimizer, scheduler = optim.build_optimizer(groups, 0.05, factor(steps_per_epoch=1, lr_drop=[2]))
    rates = []
    for _ in range(4):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates == [pytest.approx(r) for r in ([1, 0.5], [1, 0.5], [0.1, 0.05], [0.1, 0.05])]
    assert isinstance(optimizer, torch.optim.AdamW) and all(g["weight_decay"] == 0.05 for g in optimizer.param_groups)


class Other:
    """What no checkpoint holds."""


def test_options_in_a_namespace_are_plain_data_and_nothing_else_is(tmp_path):
    """ReferFormer's main.py saves its options so."""
    torch.save({"model": {"a": torch.ones(1)}, "args": argparse.Namespace(lr=0.1)}, tmp_path / "c.pth")
    content = checkpoint.read_plain(tmp_path / "c.pth", "the file")
    assert content["args"].lr == 0.1 and content["model"]["a"] == 1
    torch.save({"args": argparse.Namespace(lr=Other())}, tmp_path / "other.pth")
    with pytest.raises(ValueError) as error:
        checkpoint.read_plain(tmp_path / "other.pth", "the file")
    assert str(error.value).endswith("it holds more than tensors and plain data: tests.test_checkpoint_optim.Other")
