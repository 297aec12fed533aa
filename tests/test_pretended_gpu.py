"""Training, prediction and the programs on a GPU that is pretended: nothing mixes devices, and what waits is known."""

from __future__ import annotations

import copy
import inspect
import json
import runpy
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.testing._internal.distributed.fake_pg import FakeProcessGroup

import models
from engine import Step
from models import Network, PredictorSettings, position_encoding, windows
from models.criterion import subsample
from models.fast.deformable import GatheredAttention
from models.fast.referformer import FoldedMaskHead
from models.fast.window_attention import _Read
from models.predictor import InMemory, Predictor
from models.video_swin import VARIANTS
from tasks.training import Trainer
from tests.commands import in_own_process
from tests.helpers import ROOT
from tests.pretended_gpu import CPU, GPU, needs_pretended_gpu, pretended_gpu
from tests.runs import FLAGS, log, trainer
from util.run import dist
from util.run.interrupt import StopRequest
from util.run.log import RunLog

pytestmark = needs_pretended_gpu

# What makes the CPU wait for the GPU in a training step: file, function, kind, and how often. It is the same for each
# network, in each precision, and in the first step, whose maps have a size that was not seen before. These numbers may
# only fall. Where a test finds fewer, write the new numbers here. Where it finds more, steps have become slower on a
# GPU: copy from pinned memory with non_blocking, and ask for all numbers at once.
WAITS = {"engine.py train_step: copy": 1}
# those that the step has besides on one GPU of eight
WAITS_OF_EIGHT: dict[str, int] = {}
# formulas of autograd that call ``.item()`` in the backward pass of the step, which is a wait on a GPU
ITEMS: dict[str, int] = {}

# small, but with windows that are shifted, and windows with padding
SWIN = dict(embed_dim=8, depths=[2, 2, 2, 2], num_heads=[1, 1, 2, 2], stochastic_depth=0.0)
NETWORKS = {
    "video_swin_t": "--backbone video_swin_t",
    "tsm_resnet10_half": "--enc_layers 2",
    "referformer": "--model referformer --with_box_refine --dec_layers 2 --dim_feedforward 32 --hidden_dim 32",
    "variants": """--backbone video_swin_t --mask_decoder cross_modal --cmie full --time_encoding random
        --mask_loss_size full --activation_checkpointing --ema_decay 0.9 --global_batch_size 4""",
}
TEXTS = ["the red box on the left", "a box that is not blue"]


@pytest.fixture(autouse=True, scope="module")
def small_swin() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "video_swin_t", SWIN)
        yield


def start(root: Path, folder: Path, network: str, *flags: object) -> Trainer:
    """A new run that draws nothing in its steps."""
    run = trainer(root, folder, *NETWORKS[network].split(), "--dropout", 0, "--amp", "off", *flags)
    for module in run.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return run


def two_steps(run: Trainer, after: Callable[[], object] = lambda: None) -> list[Step]:
    """Two steps as the run takes them; ``after`` is called after each."""
    steps, take_step = [], run.take_step
    run.take_step = lambda *of_step: steps.append(take_step(*of_step)) or steps[-1]
    loaded = run.batches()
    run.start_training(run.model)
    with closing(StopRequest()) as run.stop, closing(RunLog(run.settings.output_dir)) as run.log:
        for _ in range(2):
            run.train_step(run.model, run.next_batches(loaded))
            after()
    return steps


def counted_steps(run: Trainer, waits: Counter[str]) -> tuple[list[Step], list[Counter[str]]]:
    """Two steps, and the waits of each."""
    found: list[Counter[str]] = []
    waits.clear()
    return two_steps(run, lambda: (found.append(waits.copy()), waits.clear())), found


def assert_held(found: Counter[str], held: dict[str, int]) -> None:
    names = sorted(name for name in found.keys() | held.keys() if found[name] != held.get(name, 0))
    told = "; ".join(f"{name}: held {held.get(name, 0)}, found {found[name]}" for name in names)
    assert not told, f"{told}. Where these are fewer, lower the numbers at the top of this file; more make steps slower"


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", NETWORKS)
@in_own_process
def test_steps_give_the_numbers_of_the_cpu_and_wait_as_known(ytvos_root, tmp_path, network):
    wanted = two_steps(start(ytvos_root, tmp_path / "cpu", network))
    with pretended_gpu() as waits:
        for amp in ("off", "bf16", "fp16"):
            run = start(ytvos_root, tmp_path / amp, network, "--device", "cuda", "--amp", amp)
            if amp == "fp16":  # the first scale, 2^16, would take some steps to fall
                run.scaler.load_state_dict(run.scaler.state_dict() | {"scale": 64.0})
            steps, found = counted_steps(run, waits)
            for of_step in found:
                assert_held(of_step, WAITS)
            assert {p.device for p in run.model.parameters()} == {GPU}
            for here, step in zip(steps, wanted, strict=True):
                near = dict(rel=1e-4, abs=1e-5) if amp == "off" else dict(rel=0.1, abs=0.1)
                assert here.taken and here.terms == pytest.approx(step.terms, **near), amp
                assert here.gradient_norm == pytest.approx(step.gradient_norm, rel=near["rel"]), amp


@in_own_process
def test_waits_of_a_step_on_one_gpu_of_eight_are_known(ytvos_root, tmp_path):
    with pretended_gpu() as waits:
        run = start(ytvos_root, tmp_path, "tsm_resnet10_half", "--device", "cuda")
        options = FakeProcessGroup.Options()
        options.simulate_uniform_ranks = True
        torch.distributed.init_process_group("fake", rank=0, world_size=8, pg_options=options)
        # gloo's, of the CPU
        dist._patient = dist._prompt = torch.distributed.new_group(backend="fake", pg_options=options)
        assert dist.world_size() == 8
        _, (_, found) = counted_steps(run, waits)
        more = found - Counter(WAITS)
        assert_held(more, WAITS_OF_EIGHT)


def test_formulas_of_autograd_that_ask_for_a_number_are_known(ytvos_root, tmp_path, monkeypatch):
    """On the CPU, because tensors of the pretended GPU have formulas of their own."""
    found: list[Counter[str]] = []
    backward = Tensor.backward

    def formula(event) -> str:
        while event.cpu_parent:
            event = event.cpu_parent
        return event.name.removeprefix("autograd::engine::evaluate_function: ")

    def profiled(loss: Tensor) -> None:
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            backward(loss)
        found.append(Counter(formula(event) for event in seen.events() if event.name == "aten::item"))

    monkeypatch.setattr(Tensor, "backward", profiled)
    two_steps(start(ytvos_root, tmp_path, "tsm_resnet10_half"))
    assert_held(found[1], ITEMS)


# Prediction ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(ytvos_root, tmp_path_factory) -> Callable[[str], Network]:
    """A network on the CPU, as training leaves it."""
    folder = tmp_path_factory.mktemp("trained")
    made = {network: start(ytvos_root, folder / network, network).model for network in NETWORKS}
    return made.__getitem__


def predictor(model: Network, device: torch.device, amp: str = "off", window: int | None = None) -> Predictor:
    settings = PredictorSettings(eval_size=40, max_size=96, amp=amp, window=window)
    return models.inference_predictor(copy.deepcopy(model), settings, device)


def answers(asked: Predictor) -> tuple[Tensor, Tensor]:
    """Mask logits of a video, scores of it, and the scores of all queries in one of its frames."""
    # in the size that the network sees: a resize on a GPU rounds in another way than torchvision's on a CPU
    frames = torch.randint(256, (5, 3, 40, 66), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = asked.segment(InMemory(frames), TEXTS)
    logits = torch.stack([found.logits(e, 0, len(frames)).cpu() for e in range(len(TEXTS))])
    assert found.masks(0, len(frames)).equal(logits > 0)
    of_frame = list(asked.answer_frame(frames, TEXTS, 1))
    assert {part.device for answer in of_frame for part in vars(answer).values()} == {CPU}
    return logits, torch.cat([torch.tensor(found.scores), *(answer.scores for answer in of_frame)])


@pytest.mark.parametrize("network", NETWORKS)
@in_own_process
def test_predictions_are_those_of_the_cpu(trained, network):
    model = trained(network)
    wanted = {window: answers(predictor(model, CPU, window=window)) for window in (None, 3)}
    with pretended_gpu():
        for window, of_cpu in wanted.items():
            for found, there in zip(answers(predictor(model, GPU, window=window)), of_cpu, strict=True):
                assert found.device == CPU and torch.allclose(found, there, rtol=1e-3, atol=1e-4), window
        for amp in ("bf16", "fp16"):
            found, scores = answers(predictor(model, GPU, amp))
            assert torch.allclose(scores, wanted[None][1], atol=0.02) and found.isfinite().all(), amp


# Programs ------------------------------------------------------------------------------------------------------------


def program(name: str, *words: object) -> None:
    """Runs a program of the repository in this process."""
    sys.argv = [name, *map(str, words)]
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / name), run_name="__main__")
    assert end.value.code == 0


def results(folder: Path, root: Path, resume: Path, device: str) -> dict[str, object]:
    """What the programs for inference and scoring make of a checkpoint: masks by name, and scores."""
    program("inference_ytvos.py", "--resume", resume, "--output_dir", folder / "ytvos", "--device", device)
    frames = root / "valid" / "JPEGImages" / "aa_wide"
    texts = [word for text in TEXTS for word in ("--text", text)]
    program(
        "inference_video.py", frames, *texts, "--resume", resume, "--output_dir", folder / "video", "--device", device
    )
    program("main.py", "--eval", "--resume", resume, "--output_dir", folder / "eval", "--device", device)
    masks = {str(path.relative_to(folder)): np.array(Image.open(path)) for path in sorted(folder.rglob("*.png"))}
    return masks | {"scores": json.loads(next((folder / "eval").rglob("scores.json")).read_text())}


@in_own_process
def test_programs_give_what_they_give_on_the_cpu(ytvos_root, tmp_path):
    # frames of 48×80 are not resized: a GPU rounds that in another way
    flags = "--dropout 0 --freeze_text_encoder --lr_schedule step --amp off --eval_size 48 --batch_size 4"
    words = [*FLAGS.split(), *flags.split(), "--holdout", 1, "--eval_every", 1]
    words += ["--ytvos_path", ytvos_root, "--text_encoder", ytvos_root / "text"]
    program("main.py", *words, "--epochs", 2, "--output_dir", tmp_path / "cpu")
    checkpoint = tmp_path / "cpu" / "checkpoint.pth"
    wanted = results(tmp_path / "of_cpu", ytvos_root, checkpoint, "cpu")
    with pretended_gpu():
        gpu = tmp_path / "gpu"
        program("main.py", *words, "--epochs", 1, "--output_dir", gpu, "--device", "cuda")
        program("main.py", "--resume", gpu / "checkpoint.pth", "--epochs", 2, "--device", "cuda")
        found = results(tmp_path / "of_gpu", ytvos_root, checkpoint, "cuda")
    for here, there in zip(log(gpu), log(tmp_path / "cpu"), strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-4)
    assert found.keys() == wanted.keys() and found["scores"] == wanted["scores"]
    for name in found.keys() - {"scores"}:
        assert (found[name] != wanted[name]).mean() < 1e-3, name


# Planted faults ------------------------------------------------------------------------------------------------------


def plant(function: Callable, sound: str, faulty: str) -> None:
    """Changes the text of a function, until the process ends."""
    function = inspect.unwrap(function)
    source = textwrap.dedent(inspect.getsource(function))
    source = source[source.index("def ") :]  # without decorators
    assert source.count(sound) == 1, f"{function.__qualname__} does not have {sound!r} once; plant another fault"
    scope = dict(vars(sys.modules[function.__module__]))
    text = "class Scope:\n" + textwrap.indent(source.replace(sound, faulty), " ")  # a class has super()
    exec(compile(text, function.__code__.co_filename, "exec"), scope)
    code = vars(scope["Scope"])[function.__name__].__code__
    function.__code__ = code.replace(co_qualname=function.__code__.co_qualname)


MIXED, UNLIKE = "one device", "dtype|scalar type"
OF_TRAINING = {
    "batches are not moved": (Trainer.train_step, "batch.to(self.device, non_blocking=True)", "batch", MIXED),
    "places are on the CPU": (position_encoding.sine, ", device=position.device", "", MIXED),
    "a backward pass does not cast": (_Read.backward, ".mul_(scale).to(query.dtype)", ".mul_(scale)", UNLIKE),
}
OF_EVALUATION = {
    "a table is on the CPU": (GatheredAttention.forward, 'query.device.type != "cpu"', "False", MIXED),
    "kernels are not cast": (FoldedMaskHead.forward, "weights[0].float()", "weights[0]", UNLIKE),
    "boxes are not fetched": (Predictor.answer_frame, "boxes[:, 0]).cpu()", "boxes[:, 0])", MIXED),
    "IoUs of windows are not fetched": (windows.follow, ".clamp(min=1)).cpu()", ".clamp(min=1))", MIXED),
}


@pytest.mark.parametrize("fault", OF_TRAINING)
@in_own_process
def test_a_fault_of_training_is_found(ytvos_root, tmp_path, fault):
    *fault, message = OF_TRAINING[fault]
    plant(*fault)
    amp = ("--amp", "bf16") if message == UNLIKE else ()
    with pretended_gpu():
        run = start(ytvos_root, tmp_path, "video_swin_t", "--device", "cuda", *amp)
        with pytest.raises(RuntimeError, match=message):
            two_steps(run)


@pytest.mark.parametrize("fault", OF_EVALUATION)
@in_own_process
def test_a_fault_of_evaluation_is_found(trained, fault):
    *fault, message = OF_EVALUATION[fault]
    plant(*fault)
    with pretended_gpu():
        asked = predictor(trained("referformer"), GPU, "bf16", window=3)
        with pytest.raises(RuntimeError, match=message):
            answers(asked)


@in_own_process
def test_a_further_wait_is_found(ytvos_root, tmp_path):
    plant(subsample, "torch.arange(small, device=masks.device)", "torch.arange(small)")
    with pretended_gpu() as waits:
        run = start(ytvos_root, tmp_path, "tsm_resnet10_half", "--device", "cuda")
        _, (_, found) = counted_steps(run, waits)
        assert found["models/criterion.py subsample: index"] == 2
