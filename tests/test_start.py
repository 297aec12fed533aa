"""What a run starts from: a new one names it or is refused, and the plan says it of every part."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch

import models
from main import build_trainer, restore_options
from opts import OF_TRAINING, model_options, parse_train_args
from tasks import plan
from tests.commands import run
from tests.runs import CPU, FLAGS, trainer
from tests.test_checkpoint_optim import saved_model
from tests.tiny_model import tiny_args
from util.options.start import departure, require_start
from util.weights import checkpoint
from util.weights.saver import NEWEST


def parse(argv: str) -> Namespace:
    return parse_train_args(argv.split())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--backbone video_swin_t would start from random weights.*--random_backbone"),
        ("--preset scratch --backbone resnet50", "--backbone resnet50 would start from random weights"),
        ("--preset pretrain --model referformer --dry_run", "would start from random weights"),
        (
            "--preset paper",
            "--preset paper starts from weights .* pretrained on RefCOCO: .*--pretrained_weights CKPT",
        ),
        ("--preset paper_a2d", "--preset paper_a2d starts from weights that were pretrained on RefCOCO"),
    ],
)
def test_a_run_that_names_no_start_is_refused(flags, message):
    with pytest.raises(ValueError, match=message):
        require_start(parse(flags))
    for start in ("--random_backbone", "--backbone_pretrained a.pth", "--pretrained_weights a.pth"):
        require_start(parse(f"{flags} {start}"))


def test_a_departure_from_the_start_of_a_recipe_is_told():
    for preset in ("paper", "paper_a2d", "finetune"):
        for start in ("--random_backbone", "--backbone_pretrained a.pth"):
            said = departure(parse(f"--preset {preset} {start}"))
            assert f"--preset {preset} is meant to start from weights pretrained on RefCOCO" in said
        assert departure(parse(f"--preset {preset} --pretrained_weights a.pth")) is None
    assert departure(parse("--preset scratch --random_backbone")) is None


def begun(root, folder, monkeypatch, *flags: object):
    """The trainer that ``main.py`` builds of these flags, without ``--random_backbone``."""
    words = [word for word in FLAGS.split() if word != "--random_backbone"] if "--resume" not in flags else []
    paths = ["--ytvos_path", root, "--output_dir", folder]
    paths += [] if "--resume" in flags else ["--text_encoder", root / "text"]
    monkeypatch.setattr("sys.argv", ["main.py", *words, *map(str, (*paths, *flags))])
    args, saved = restore_options(parse_train_args())
    return build_trainer(args, saved, CPU)


def test_a_refused_run_reads_no_data_and_leaves_nothing(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="--backbone tsm_resnet10_half would start from random weights"):
        begun(tmp_path / "nowhere", tmp_path / "run", monkeypatch)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_whatever_its_backbone_started_from(ytvos_root, tmp_path, monkeypatch, capsys):
    """Also one of before the option."""
    folder = tmp_path / "run"
    trainer(ytvos_root, folder, "--epochs", 1).run()
    content = checkpoint.load(folder / NEWEST)
    assert content["options"].pop("random_backbone")
    checkpoint.save(folder / NEWEST, content)
    for flags in (["--resume", "auto"], ["--resume", folder / NEWEST], ["--resume", "auto", "--random_backbone"]):
        run = begun(ytvos_root, folder, monkeypatch, *flags, "--epochs", 2)
        assert run.epoch == 1 and run.starts == {}
        plan.describe(run)
        assert "starting from" not in capsys.readouterr().out


def test_the_plan_says_what_every_part_starts_from(ytvos_root, tmp_path, monkeypatch, capsys):
    first = trainer(ytvos_root, tmp_path / "first", "--epochs", 1)
    parts = {name for name, module in first.model.named_children() if module.state_dict()} | {"proxies"}
    plan.describe(first)
    said = starts_in(capsys.readouterr().out)
    text = f"--text_encoder {ytvos_root / 'text'}"
    assert said.keys() == {text, "random weights"} and said[text] == ["text_encoder"]
    assert {*said["random weights"], "text_encoder"} == parts
    first.run()
    weights = tmp_path / "first" / NEWEST
    plan.describe(begun(ytvos_root, tmp_path / "tuned", monkeypatch, "--pretrained_weights", weights))
    said = starts_in(capsys.readouterr().out)
    assert list(said) == [f"--pretrained_weights {weights}"] and set(*said.values()) == parts


def test_weights_bring_the_options_of_their_model_and_their_text_encoder(ytvos_root, tmp_path, monkeypatch):
    """As far as neither a flag nor a preset gives them; what belongs to the data or to the training stays."""
    first = trainer(ytvos_root, tmp_path / "first", "--epochs", 1)
    first.run()
    run("tools/export.py", tmp_path / "first" / NEWEST, tmp_path / "w.safetensors")
    for weights in (tmp_path / "first" / NEWEST, tmp_path / "w.safetensors"):
        words = ["--pretrained_weights", weights, "--ytvos_path", ytvos_root, "--output_dir", tmp_path / "tuned"]
        words += ["--preset", "scratch", "--batch_size", 1, "--num_workers", 0, "--seed", 3]
        monkeypatch.setattr("sys.argv", ["main.py", *map(str, words)])
        args, saved = restore_options(parse_train_args())
        assert saved is None and args.text_encoder == str(weights)
        own = model_options() - OF_TRAINING - {"binary", "text_encoder"}
        trained = checkpoint.load(weights)["options"]
        assert {name: vars(args)[name] for name in own} == {name: trained[name] for name in own}
        assert args.seed == 3 and args.freeze_text_encoder and args.binary  # the preset's
        model, starts = models.start_model(args, 1)
        assert set(starts.values()) == {f"--pretrained_weights {weights}"}
        for name, value in model.text_encoder.state_dict().items():
            assert torch.equal(value, first.model.text_encoder.state_dict()[name])
        assert model.text_encoder.tokenizer.to_str() == first.model.text_encoder.tokenizer.to_str()
        monkeypatch.setattr("sys.argv", ["main.py", *map(str, words), "--hidden_dim", "32", "--text_encoder", "x"])
        args, _ = restore_options(parse_train_args())
        assert (args.hidden_dim, args.text_encoder) == (32, "x")


def test_a_text_encoder_may_be_that_of_a_checkpoint(ytvos_root, tmp_path):
    saved_model(tmp_path / "c.pth", num_classes=3)
    _, starts = models.start_model(tiny_args("--random_backbone", "--text_encoder", str(tmp_path / "c.pth")), 1)
    assert starts["text_encoder"] == f"--text_encoder {tmp_path / 'c.pth'}" and starts["cmie"] == "random weights"
    content = checkpoint.load(tmp_path / "c.pth")
    content["text_encoder"]["tokenizer"] = "{}"
    checkpoint.save(tmp_path / "d.pth", content)
    with pytest.raises(ValueError, match=r"--text_encoder .*d\.pth is damaged: the tokenizer"):
        models.start_model(tiny_args("--random_backbone", "--text_encoder", str(tmp_path / "d.pth")), 1)


def starts_in(printed: str) -> dict[str, list[str]]:
    lines = [line.partition("starting from ")[2] for line in printed.splitlines() if "starting from " in line]
    return {line.rpartition(": ")[0]: line.rpartition(": ")[2].split(", ") for line in lines}


def test_a_class_head_that_starts_anew_and_a_backbone_from_a_file_are_told_apart(ytvos_root, tmp_path):
    trained, _ = saved_model(tmp_path / "c.pth", num_classes=3)
    text = ["--text_encoder", str(ytvos_root / "text")]
    backbone = {k.removeprefix("backbone."): v for k, v in trained.state_dict().items() if k.startswith("backbone.")}
    torch.save(backbone, tmp_path / "resnet18.pth")
    file = ["--backbone_pretrained", str(tmp_path / "resnet18.pth")]
    _, starts = models.start_model(tiny_args(*text, *file), 1)
    assert starts["backbone"] == " ".join(file) and starts["text_encoder"] == " ".join(text)
    assert {starts[part] for part in ("cmie", "segmenter", "reference_head")} == {"random weights"}
    whole = ["--pretrained_weights", str(tmp_path / "c.pth")]
    _, starts = models.start_model(tiny_args(*text, *whole), 1)
    assert {part for part, origin in starts.items() if origin == "random weights"} == {"reference_head.classes"}
    assert starts["reference_head.boxes"] == starts["backbone"] == starts["text_encoder"] == " ".join(whole)


def test_flags_of_a_backbone_are_judged_once_the_weights_have_brought_theirs(capsys):
    argv = ["--pretrained_weights", "a.pth", "--no-freeze_stem"]
    assert not parse_train_args(argv).freeze_stem
    assert not parse_train_args(argv, {"backbone": "resnet50"}).freeze_stem
    with pytest.raises(SystemExit):
        parse_train_args(argv, {})
    assert "--backbone video_swin_t has no stem" in capsys.readouterr().err
