"""Checkpoints of earlier versions load, go on and are exported under the names of this one."""

from __future__ import annotations

import pytest
import torch

import models
from main import refuse_other_run, restore_options
from models.earlier import PREFIXES, current_names, upgraded
from opts import parse_train_args
from tests.runs import same, trainer
from tests.test_checkpoint_optim import saved_model
from tests.tiny_model import EXPRESSIONS
from util.options.saved import VARIANTS
from util.weights import checkpoint
from util.weights.saver import NEWEST

AS_THEN = ("--mask_loss_norm", "instances", "--float32", "ieee")


def earlier_name(name: str) -> str:
    return next((old + name.removeprefix(new) for old, new in PREFIXES.items() if name.startswith(new)), name)


def earlier(content: dict) -> dict:
    """The content of a checkpoint as it was written before the segmenter was a part of the model."""
    renamed = {
        key: {earlier_name(name): value for name, value in content[key].items()}
        for key in ("model", "average")
        if content.get(key)
    }
    later = {"text_form", "long_text", "loader_timeout", "mask_loss_norm", "float32", *VARIANTS}
    options = {name: value for name, value in content["options"].items() if name not in later}
    options["freeze"] = [earlier_name(pattern) for pattern in options["freeze"]]
    assert renamed["model"].keys() != content["model"].keys()
    return {key: value for key, value in (content | renamed | {"options": options}).items() if key != "format"}


def test_names_and_patterns_become_the_present_ones(tmp_path):
    saved_model(tmp_path / "c.pth", "--freeze", "segmenter.kernel_head.*", "backbone.*", *AS_THEN)
    present = checkpoint.load(tmp_path / "c.pth")
    old = earlier(present)
    assert old["options"]["freeze"] == ["kernel_head.*", "backbone.*"]
    assert "mask_decoder.out.weight" in old["model"] and "kernel_head.kernel.0.bias" in old["model"]
    found = upgraded(old, "old.pth")
    assert found["options"] == present["options"] and same(found["model"], present["model"])
    assert same(upgraded(found, "again.pth"), found)
    both = old["model"] | {"segmenter.mask_decoder.out.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match="old.pth do not fit; segmenter.mask_decoder.out.weight is doubled"):
        current_names(both, "old.pth")


def test_an_earlier_checkpoint_predicts_and_is_a_start_for_training(tmp_path):
    model, _ = saved_model(tmp_path / "c.pth", "--eval_size", "32")
    checkpoint.save(tmp_path / "old.pth", earlier(checkpoint.load(tmp_path / "c.pth")))
    video = torch.randint(256, (2, 3, 32, 48), dtype=torch.uint8)
    answers = [models.load_predictor(tmp_path / name, "cpu")(video, [EXPRESSIONS[0]]) for name in ("c.pth", "old.pth")]
    assert torch.equal(answers[0][0], answers[1][0]) and answers[0][1] == answers[1][1]
    wanted = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    models.load_pretrained_model(model, tmp_path / "old.pth")
    assert same(dict(model.state_dict()), wanted)


def test_a_run_of_an_earlier_version_goes_on(ytvos_root, tmp_path):
    flags = (*AS_THEN, "--ema_decay", 0.9, "--freeze", "segmenter.kernel_head.*", "--epochs")
    trainer(ytvos_root, tmp_path / "run", *flags, 1).run()
    (tmp_path / "old").mkdir()
    content = checkpoint.load(tmp_path / "run" / NEWEST)
    checkpoint.save(tmp_path / "old" / NEWEST, earlier(content))
    for folder in ("run", "old"):
        run = trainer(ytvos_root, tmp_path / folder, *flags, 2)
        assert run.epoch == 1
        run.run()
    present, old = (checkpoint.load(tmp_path / folder / NEWEST) for folder in ("run", "old"))
    for part in ("model", "average", "optimizer"):
        assert same(old[part], present[part]), part


def test_a_run_of_before_the_option_goes_on_dividing_mask_terms_by_targets(ytvos_root, tmp_path, monkeypatch):
    trainer(ytvos_root, tmp_path, *AS_THEN, "--epochs", 1).run()
    checkpoint.save(tmp_path / NEWEST, earlier(checkpoint.load(tmp_path / NEWEST)))

    def resumed(*flags: str):
        monkeypatch.setattr("sys.argv", ["main.py", "--resume", str(tmp_path / NEWEST), *flags])
        args, saved = restore_options(parse_train_args())
        refuse_other_run(args, saved)
        return models.build_criterion(args)

    assert resumed("--epochs", "2").mask_loss_norm == "instances"
    with pytest.raises(ValueError, match="--mask_loss_norm is instances there, frames now. Leave these flags out"):
        resumed("--epochs", "2", "--mask_loss_norm", "frames")
