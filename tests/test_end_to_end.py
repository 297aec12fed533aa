"""The entry scripts as a user runs them, on a handful of generated videos: train, resume, infer, score."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.commands import run
from tools.data.make_synthetic import generate

NETWORK = """
    --binary --backbone tsm_resnet10_half --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1 --num_queries 2
    --dropout 0 --train_sizes 48 --eval_size 48 --max_size 80 --no-random_crop --batch_size 2 --num_frames 2
    --expressions_per_clip 2 --num_workers 0 --device cpu
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("end_to_end") / "data"
    generate(root, train_videos=3, valid_videos=2, frames=6, size=(48, 80), workers=1)
    expressions = root / "meta_expressions" / "train" / "meta_expressions.json"
    run("tools/make_tiny_text_encoder.py", expressions, "--output_dir", root / "text", "--hidden_size", 16)
    return root


@pytest.fixture(scope="module")
def options(data) -> list:
    return [*shlex.split(NETWORK), "--ytvos_path", data, "--text_encoder", data / "text", "--holdout", 1]


@pytest.fixture(scope="module")
def trained(data, options) -> Path:
    """The folder of a run of two epochs."""
    folder = data.parent / "run"
    done = run("main.py", *options, "--random_backbone", "--epochs", 2, "--output_dir", folder)
    (folder / "stdout").write_text(done.stdout)
    return folder


def test_training_leaves_a_log_and_a_checkpoint_of_plain_data(trained):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [0, 1]
    assert {"loss", "loss_cls", "loss_bbox", "loss_giou", "loss_mask", "loss_dice", "loss_jsc"} <= lines[0].keys()
    assert list((trained / "tensorboard").iterdir())
    assert torch.load(trained / "checkpoint.pth", weights_only=True)["epoch"] == 2


def test_the_terms_of_an_epochs_line_add_up_to_its_loss(trained):
    lines = re.findall(r"^epoch \d+: \d+ s, loss (\S+) = (.+)$", (trained / "stdout").read_text(), re.MULTILINE)
    logged = [json.loads(line)["loss"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [float(loss) for loss, _ in lines] == pytest.approx(logged, rel=1e-3) and len(lines) == 2
    for loss, terms in lines:
        values = dict(term.split() for term in terms.split(" + "))
        assert values.keys() == {"bbox", "cls", "dice", "giou", "jsc", "mask"}
        assert sum(map(float, values.values())) == pytest.approx(float(loss), rel=1e-3)


def test_resuming_after_one_epoch_ends_like_two_epochs_at_once(data, options, trained):
    """The constant part of the step schedule does not depend on the number of epochs, so only resuming could differ."""
    halves = data.parent / "halves"
    run("main.py", *options, "--random_backbone", "--epochs", 1, "--output_dir", halves)
    run("main.py", "--resume", halves / "checkpoint.pth", "--epochs", 2, "--device", "cpu")
    weights = [torch.load(d / "checkpoint.pth", weights_only=True)["model"] for d in (trained, halves)]
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_second_run_into_the_same_folder_is_refused(options, trained):
    done = run("main.py", *options, "--output_dir", trained, ok=False)
    assert done.returncode == 2 and "--resume" in done.stderr


def test_flags_that_would_make_it_another_run_are_refused(trained):
    done = run("main.py", "--resume", trained / "checkpoint.pth", "--lr", 0.5, ok=False)
    assert done.returncode == 2 and "--lr is 0.0001 there, 0.5 now" in done.stderr


def test_inference_writes_a_submission_without_the_text_encoder_and_goes_on_after_an_interruption(data, trained):
    kept = trained / "moved_away"
    shutil.move(data / "text", kept)
    try:
        out = data.parent / "results"
        words = ("inference_ytvos.py", "--resume", trained / "checkpoint.pth", "--output_dir", out, "--device", "cpu")
        run(*words, "--visualize")
        first = (out / "submission.zip").read_bytes()
        masks = sorted((out / "Annotations").rglob("*.png"))
        masks[0].unlink()
        masks[-1].write_bytes(b"cut short")
        untouched = masks[len(masks) // 2].stat().st_mtime_ns
        run(*words)
    finally:
        shutil.move(kept, data / "text")
    assert (out / "submission.zip").read_bytes() == first
    assert masks[len(masks) // 2].stat().st_mtime_ns == untouched
    meta = json.loads((data / "meta_expressions" / "valid" / "meta_expressions.json").read_text())["videos"]
    wanted = {f"Annotations/{v}/{e}/{f}.png" for v, m in meta.items() for e in m["expressions"] for f in m["frames"]}
    assert set(zipfile.ZipFile(out / "submission.zip").namelist()) == wanted
    assert len(list((out / "overlays").rglob("*.mp4"))) == sum(len(m["expressions"]) for m in meta.values())

    scores = data.parent / "scores.json"
    run("eval_ytvos.py", out / "submission.zip", "--ytvos_path", data, "--json", scores, "--workers", 1)
    evaluated = run("main.py", "--eval", "--eval_split", "valid", "--resume", trained / "checkpoint.pth")
    assert f"J&F {json.loads(scores.read_text())['J&F']:.4f}" in evaluated.stdout


def test_masks_of_another_checkpoint_are_not_mixed_in(data, trained):
    out = data.parent / "other"
    words = ("--split", "holdout", "--output_dir", out, "--device", "cpu")
    run("inference_ytvos.py", "--resume", trained / "checkpoint.pth", *words)
    run("main.py", "--resume", trained / "checkpoint.pth", "--epochs", 3, "--output_dir", data.parent / "longer")
    longer = data.parent / "longer" / "checkpoint.pth"
    done = run("inference_ytvos.py", "--resume", longer, *words, ok=False)
    assert done.returncode == 2 and "--overwrite" in done.stderr
    masks = sorted((out / "Annotations").rglob("*.png"))
    done = run("inference_ytvos.py", "--resume", longer, *words, "--overwrite", "--window", 8, "--overlap", 8, ok=False)
    assert done.returncode == 2 and "below --window 8" in done.stderr
    assert masks and all(mask.exists() for mask in masks)  # what is asked for is checked before they are deleted
    run("inference_ytvos.py", "--resume", longer, *words, "--overwrite")


@pytest.mark.parametrize("words", [("--split", "train"), ("--split", "holdout", "--holdout", "2")])
def test_videos_that_were_trained_on_are_not_scored_unasked(data, trained, words):
    checkpoint = ("--resume", trained / "checkpoint.pth", "--output_dir", data.parent / "trained", "--device", "cpu")
    done = run("inference_ytvos.py", *checkpoint, *words, ok=False)
    assert done.returncode == 2 and "--allow_trained" in done.stderr
    assert not (data.parent / "trained").exists()


def test_pretrained_weights_start_a_new_run_and_must_fit(data, options, trained):
    weights = trained / "checkpoint.pth"
    words = ("--epochs", 1, "--pretrained_weights", weights, "--output_dir", data.parent / "tuned")
    assert f"starting from --pretrained_weights {weights}: backbone, " in run("main.py", *options, *words).stdout
    wider = ("--hidden_dim", 32, "--output_dir", data.parent / "wider")
    done = run("main.py", *options, *wider, "--pretrained_weights", weights, ok=False)
    assert done.returncode == 2 and "of another shape" in done.stderr


def test_exported_weights_predict_alike_and_are_no_run_to_go_on_with(data, options, trained):
    exported = data.parent / "shared.safetensors"
    run("tools/export.py", trained / "checkpoint.pth", exported)
    assert str(data).encode() not in exported.read_bytes()
    zips = []
    for weights in (trained / "checkpoint.pth", exported):
        out = data.parent / f"from_{weights.suffix[1:]}"
        run("inference_ytvos.py", "--resume", weights, "--ytvos_path", data, "--output_dir", out)
        zips.append((out / "submission.zip").read_bytes())
    assert zips[0] == zips[1]
    words = ("--resume", exported, "--ytvos_path", data, "--output_dir", data.parent / "gone_on")
    done = run("main.py", *words, ok=False)
    assert done.returncode == 2 and "--pretrained_weights" in done.stderr and "Traceback" not in done.stderr


def test_aligned_encoders_are_taken_as_pretrained(data, options):
    encoder = options[options.index("--text_encoder") + 1]
    aligned, given = data.parent / "aligned", data.parent / "with_aligned"
    backbone = ("--backbone", "resnet18")
    words = (*backbone, "--text_encoder", encoder, "--steps", 20, "--batch_size", 1)
    run("tools/small_job/pretrain_alignment.py", data, *words, "--output_dir", aligned)
    words = (*backbone, "--backbone_pretrained", aligned / "backbone.pth", "--text_encoder", aligned / "text_encoder")
    run("main.py", *options, *words, "--epochs", 1, "--lr_text_encoder", 0, "--output_dir", given)
    saved = torch.load(given / "checkpoint.pth", weights_only=True)["model"]
    # frozen batch norm keeps the statistics that it was given, an encoder that does not learn its weights
    backbone = torch.load(aligned / "backbone.pth", weights_only=True)
    assert torch.equal(saved["backbone.bn1.running_mean"], backbone["bn1.running_mean"])
    text = load_file(aligned / "text_encoder" / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.bias"
    assert text[name].any() and torch.equal(saved[f"text_encoder.model.{name}"], text[name])


def test_two_processes_train_and_infer_like_one_command(data, options):
    launch = ("-m", "torch.distributed.launch", "--nproc_per_node", 2, "--master_port", 29611)
    run(*launch, "main.py", *options, "--random_backbone", "--epochs", 1, "--output_dir", data.parent / "two")
    out = data.parent / "two_valid"
    checkpoint = data.parent / "two" / "checkpoint.pth"
    words = ("inference_ytvos.py", "--resume", checkpoint, "--device", "cpu", "--output_dir")
    run(*launch, *words, out)
    run(*words, data.parent / "one_valid")
    assert (out / "submission.zip").read_bytes() == (data.parent / "one_valid" / "submission.zip").read_bytes()


def test_a_folder_of_unknown_masks_is_never_deleted(data, trained):
    words = ("--resume", trained / "checkpoint.pth", "--output_dir", data / "valid", "--overwrite", "--device", "cpu")
    masks = len(list((data / "valid" / "Annotations").rglob("*.png")))
    done = run("inference_ytvos.py", *words, ok=False)
    assert done.returncode == 2 and "unknown origin" in done.stderr
    assert len(list((data / "valid" / "Annotations").rglob("*.png"))) == masks > 0
