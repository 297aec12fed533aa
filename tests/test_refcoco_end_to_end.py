"""RefCOCO as a user has it: convert the originals, train on one set, on all three, on these and videos together."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch

from tests import commands
from tests.mini_refcoco import write_mini_refcoco
from tests.mini_ytvos import write_mini_ytvos

NETWORK = """
    --backbone resnet18 --random_backbone --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1
    --num_queries 2 --dropout 0 --train_sizes 48 --max_size 80 --batch_size 2 --expressions_per_clip 2 --num_workers 0
    --device cpu --epochs 1
"""


def run(*words, ok: bool = True) -> str:
    """What a program printed; where it failed, its error."""
    done = commands.run(*words, ok=ok)
    return done.stdout if ok else done.stderr


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("refcoco_end_to_end")
    write_mini_ytvos(root / "ytvos")
    write_mini_refcoco(root / "coco", converted=False)
    run("tools/data/convert_refcoco.py", root / "coco")
    expressions = root / "ytvos" / "meta_expressions" / "train" / "meta_expressions.json"
    run("tools/make_tiny_text_encoder.py", expressions, "--output_dir", root / "text", "--hidden_size", 16)
    return root


@pytest.mark.parametrize(
    ("flags", "classes", "steps", "clips"),
    [
        # two groups of two sentences of each image; the one video left has three windows of two frames
        ("--dataset_file refcoco --num_frames 1", 91, 3, "refcoco 6"),
        ("--preset pretrain --no-binary --mix refcoco=0.5", 91, 8, "refcoco 3, refcoco+ 6, refcocog 6"),
        (
            "--preset joint --num_frames 2 --holdout 3 --mix ytvos=0.5 refcoco+=0 refcocog=0",
            1,
            5,
            "ytvos 3, refcoco 6",
        ),
    ],
)
def test_converted_sets_train(data, flags, classes, steps, clips):
    out = data / f"run_{classes}_{steps}"
    paths = ("--ytvos_path", data / "ytvos", "--coco_path", data / "coco", "--text_encoder", data / "text")
    printed = run("main.py", *shlex.split(NETWORK), *paths, *flags.split(), "--output_dir", out)
    assert f"1 epoch of {steps} steps" in printed and f"clips of an epoch: {clips}\n" in printed
    saved = torch.load(out / "checkpoint.pth", weights_only=True)
    assert saved["num_classes"] == classes
    assert json.loads((out / "log.jsonl").read_text())["loss"] > 0
    if flags.startswith("--dataset_file refcoco"):
        printed = run("main.py", "--eval", "--eval_split", "val", "--resume", out / "checkpoint.pth", "--device", "cpu")
        scores = json.loads((out / "eval_refcoco_val" / "scores.json").read_text())
        assert "refcoco val, 4 samples in 1 frame:" in printed
        assert f"boxes, mean IoU {100 * scores['boxes']['mean_iou']:.2f}" in " ".join(printed.split())
        assert scores["run"]["data"] == str(data / "coco") and scores["run"]["split"] == "val"
        assert len(json.loads((out / "eval_refcoco_val" / "predictions.json").read_text())) == 4 * 2
    if "pretrain" in flags:  # the checkpoint holds it, and a run goes on with it
        assert "0.5" in str(saved["options"]["mix"])
        run("main.py", "--resume", out / "checkpoint.pth", "--epochs", 2, "--device", "cpu")
        other = run("main.py", "--resume", out / "checkpoint.pth", "--mix", "refcoco=2", "--epochs", 3, ok=False)
        assert "--mix is" in other


def test_mistakes_end_in_one_line(data):
    words = ("main.py", *shlex.split(NETWORK), "--coco_path", data / "nowhere", "--output_dir", data / "none")
    assert f"--coco_path {data / 'nowhere'}: there is no such folder" in run(*words, "--dataset_file", "all", ok=False)
    joint = ("--dataset_file", "joint", "--coco_path", data, "--ytvos_path", data)
    assert "add --binary" in run(*words, *joint, ok=False)
    assert "this file does not exist" in run("tools/data/convert_refcoco.py", data / "nowhere", ok=False)
