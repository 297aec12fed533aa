"""In which precision --amp and --float32 compute."""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from contextlib import nullcontext

import pytest
import torch

import inference_video
import inference_ytvos
import main
import models
from models import PredictorSettings
from tasks import inference, plan
from tests.mini_ytvos import write_mini_ytvos
from tests.runs import trainer
from tests.test_checkpoint_optim import saved_model
from util.masks.results import claim_results
from util.run import precision

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.mark.parametrize(
    ("amp", "speedup", "used"),
    [
        ("off", 4.0, None),
        ("bf16", 4.0, torch.bfloat16),
        ("bf16", 0.01, torch.bfloat16),
        ("auto", 4.0, torch.bfloat16),
        ("auto", 1.1, None),
        ("auto", 0.01, None),
        ("fp16", 0.01, torch.float16),
    ],
)
def test_auto_takes_it_where_it_is_faster(amp, speedup, used, monkeypatch, capsys):
    monkeypatch.setattr(precision, "cpu_speedup", lambda _: speedup)
    assert precision.amp_dtype(amp, CPU) == used
    told = f"--amp {amp}: this CPU multiplies 100 times slower in {amp}"
    assert (told in capsys.readouterr().out) == (amp in ("bf16", "fp16") and speedup == 0.01)


# float32 on a GPU --------------------------------------------------------------------------------------------------


@pytest.fixture
def as_before():
    """PyTorch's settings outlast a test."""
    yield
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def settings() -> list[str]:
    """What PyTorch says of products and of convolutions, asked in its older and in its newer way; the first is an error
    where both ways were used to set it."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    newer = (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)
    return [products, str(convolutions), *(name.replace("none", "ieee") for name in newer)]


def test_a_gpu_computes_in_tf32_or_in_float32_and_pytorch_knows_it_in_both_its_ways(as_before):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            precision.use_float32("tf32", GPU)
            assert settings() == ["high", "True", "tf32", "tf32"]
            precision.use_float32("ieee", CPU)
            assert settings() == ["high", "True", "tf32", "tf32"]
            precision.use_float32("ieee", GPU)
            assert settings() == ["highest", "False", "ieee", "ieee"]


def test_another_precision_is_refused_on_any_device(tmp_path):
    saved_model(tmp_path / "c.pth")
    with pytest.raises(ValueError, match="--float32 fp32 is unknown; choose one of tf32, ieee"):
        models.load_predictor(tmp_path / "c.pth", "cpu", float32="fp32")


@pytest.fixture
def capability(monkeypatch):
    """Sets the compute capability of the GPU."""
    return lambda *of_gpu: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: of_gpu)


def test_the_plan_says_what_is_computed_in(capability):
    capability(8, 0)
    assert precision.in_words(None, "tf32", CPU) == "float32 (--amp off)"
    wanted = "float32 (--amp off); products of float32 in TF32 (--float32 tf32)"
    assert precision.in_words(None, "tf32", GPU) == wanted
    wanted = "bfloat16 (--amp bf16); products of float32 in float32 (--float32 ieee)"
    assert precision.in_words(torch.bfloat16, "ieee", GPU) == wanted
    capability(7, 5)
    wanted = "float32 (--amp off); products of float32 in float32 (this GPU has no TF32)"
    assert precision.in_words(None, "tf32", GPU) == wanted


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        ((CPU, "tf32"), (CPU, "ieee"), None),
        ((CPU, "tf32"), (GPU, "tf32"), "float32 None there, tf32 now"),
        ((GPU, "tf32"), (GPU, "tf32"), None),
        ((GPU, "tf32"), (GPU, "ieee"), "float32 tf32 there, ieee now"),
    ],
)
def test_masks_of_float32_and_of_tf32_are_not_mixed(before, now, told, capability, tmp_path):
    """Masks that a GPU made before there was TF32 say nothing of it, like those of a CPU."""

    def claim(device: torch.device, float32: str) -> None:
        run = PredictorSettings(eval_size=40, max_size=96, float32=float32).described(device)
        claim_results(tmp_path, run, replace=False)

    capability(8, 0)
    claim(*before)
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(ValueError, match=rf"another run \({told}\)") if told else nullcontext():
        claim(*now)
    capability(7, 0)
    assert PredictorSettings(40, 96).described(GPU)["float32"] == "ieee"


@pytest.fixture
def used(monkeypatch) -> list[str]:
    """Takes what a GPU is told to compute float32 in."""
    told: list[str] = []
    monkeypatch.setattr(models, "use_float32", lambda precision, device: told.append(precision))
    return told


def optioned(monkeypatch, *words: object) -> None:
    """Makes these the words of the command line of ``main.py``."""
    monkeypatch.setattr(sys, "argv", ["main.py", *map(str, words)])


@pytest.mark.parametrize(("flags", "wanted"), [([], "tf32"), (["--float32", "ieee"], "ieee")])
def test_every_way_to_a_predictor_takes_tf32_unless_it_is_told(flags, wanted, used, capability, monkeypatch, tmp_path):
    """Whatever the training took: nothing in a checkpoint makes inference slow."""
    weights, root = tmp_path / "c.pth", write_mini_ytvos(tmp_path / "data")
    saved_model(weights, "--float32", "ieee")
    asked = inference_ytvos.parse_args(["--resume", str(weights), "--ytvos_path", str(root), "--allow_trained", *flags])
    model, _, settings = inference.restore(asked, CPU, "ytvos")
    models.inference_predictor(model, settings, CPU)
    capability(8, 0)
    assert settings.described(GPU)["float32"] == wanted  # so the masks of the two are not mixed
    video = inference_video.parse_args(["video.mp4", "--text", "dog", "--resume", str(weights), *flags])
    inference_video.load(video, CPU)
    monkeypatch.setattr(main, "score_split", lambda *_: 0.0)
    optioned(monkeypatch, "--eval", "--resume", weights, "--ytvos_path", root, "--eval_split", "holdout")
    sys.argv += ["--holdout", "1", "--allow_trained", "--device", "cpu", *flags]
    main.main()
    assert used == [wanted] * 3


def test_a_training_computes_in_what_it_was_started_in(used, ytvos_root, monkeypatch, tmp_path, capsys):
    plan.describe(trainer(ytvos_root, tmp_path / "run", "--float32", "ieee"))
    assert used == ["ieee"] and "  computed in float32 (--amp off)\n" in capsys.readouterr().out
    saved_model(tmp_path / "c.pth", "--float32", "ieee")
    for flags, wanted in (([], "ieee"), (["--float32", "tf32"], "tf32")):
        optioned(monkeypatch, "--resume", tmp_path / "c.pth", *flags)
        args, saved = main.restore_options(main.parse_train_args())
        assert args.float32 == wanted
        assert "float32" in main.FREE_TO_CHANGE and saved["options"]["float32"] == "ieee"


class Started(BaseException):
    """Raised where a run would be built, in place of that."""


@pytest.mark.parametrize(
    ("device", "flags", "amp"),
    [("cuda", [], "auto"), ("cuda", ["--amp", "off"], "off"), ("cuda", ["--amp", "fp16"], "fp16"), ("cpu", [], "off")],
)
def test_a_new_training_takes_half_precision_on_a_gpu_unless_it_is_told(device, flags, amp, monkeypatch, tmp_path):
    monkeypatch.setattr(main.dist, "joined", lambda *_: nullcontext(torch.device(device)))
    monkeypatch.setattr(main, "build_trainer", raising)
    optioned(monkeypatch, *flags, "--ytvos_path", tmp_path)
    with pytest.raises(Started) as started:
        main.main()
    assert started.value.args[0].amp == amp


def raising(args: Namespace, saved: dict | None, device: torch.device) -> None:
    raise Started(args)


def test_a_training_that_goes_on_keeps_its_precision_on_a_gpu(monkeypatch, tmp_path):
    saved_model(tmp_path / "c.pth")
    monkeypatch.setattr(main.dist, "joined", lambda *_: nullcontext(torch.device("cuda")))
    monkeypatch.setattr(main, "build_trainer", raising)
    optioned(monkeypatch, "--resume", tmp_path / "c.pth", "--ytvos_path", tmp_path)
    with pytest.raises(Started) as started:
        main.main()
    assert started.value.args[0].amp == "off"
