"""A model that is for inference only: what it computes in, which ranks agree on and results tell, and its weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

import inference_davis
import inference_ytvos
import main
import models
from models.backbone import build_backbone
from models.fast import fold_batch_norms, store_as_computed
from models.predictor import InMemory, Predictor
from models.proxyformer import ProxyFormer
from tasks import inference, scoring
from tests.commands import run_ranks
from tests.mini_ytvos import mini_args, write_mini_ytvos
from tests.test_checkpoint_optim import saved_model
from tests.tiny_model import EXPRESSIONS, tiny_args, tiny_model
from util.run import precision
from util.weights import checkpoint

CPU = torch.device("cpu")
NORMS = (nn.BatchNorm2d, FrozenBatchNorm2d)


@pytest.fixture
def speed(monkeypatch):
    """Sets what a CPU is found to be."""
    return lambda times: monkeypatch.setattr(precision, "cpu_speedup", lambda _: times)


# What is computed in -------------------------------------------------------------------------------------------------


def settle(rank: int, folder: str) -> None:
    found = []
    for of_main, of_other in ((4.0, 0.1), (0.1, 4.0)):
        speedup = (of_main, of_other)[rank]
        precision.cpu_speedup = lambda _, speedup=speedup: speedup
        found.append(models.settled_amp("auto", CPU))
    Path(folder, str(rank)).write_text(" ".join(found))


def test_all_ranks_compute_in_what_rank_0_finds_faster(tmp_path):
    run_ranks(settle, 2, str(tmp_path))
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["bf16 off", "bf16 off"]


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_what_is_asked_for_is_what_is_computed_in(amp, speed):
    speed(0.1)
    assert models.settled_amp(amp, CPU) == amp


def inferred(monkeypatch, script, words: list) -> tuple[torch.dtype | None, dict]:
    """In what a script for inference computes, and what it writes into its record, without segmenting anything."""
    used, folder = [], Path(words[words.index("--output_dir") + 1])
    for module, function in (("tasks.inference", "predict_split"), ("inference_davis", "predict_annotators")):
        monkeypatch.setattr(f"{module}.{function}", lambda predictor, *_, **__: used.append(predictor.amp))
    monkeypatch.setattr("datasets.EvalSet.videos", lambda split, gaps: [])
    monkeypatch.setattr("tasks.inference.build_submission", lambda *_: None)
    asked = script.parse_args([*map(str, words), "--device", "cpu"])
    script.run_inference(asked, script.infer)
    return used[0], json.loads(next(folder.rglob("inference.json")).read_text())


@pytest.mark.parametrize("script", [inference_ytvos, inference_davis])
def test_masks_of_two_precisions_are_not_mixed(script, speed, monkeypatch, tmp_path):
    """The training was in half precision, so inference is ``auto``; which is not what is written down."""
    saved_model(tmp_path / "c.pth", "--amp", "bf16")
    data = "--davis_path" if script is inference_davis else "--ytvos_path"
    words = ["--resume", tmp_path / "c.pth", "--output_dir", tmp_path / "out", data, tmp_path]
    speed(4)
    used, record = inferred(monkeypatch, script, words)
    assert used == torch.bfloat16 and record["amp"] == "bf16"
    for root in ("Annotations", "anno_0"):
        (tmp_path / "out" / root).mkdir(parents=True, exist_ok=True)
    inferred(monkeypatch, script, words)
    speed(0.1)
    with pytest.raises(ValueError, match=r"the masks of another run \(amp bf16 there, off now\)"):
        inferred(monkeypatch, script, words)
    assert inferred(monkeypatch, script, [*words, "--amp", "bf16"])[0] == torch.bfloat16
    used, record = inferred(monkeypatch, script, [*words, "--overwrite"])
    assert used is None and record["amp"] == "off"


@pytest.mark.parametrize(("times", "amp"), [(4, "bf16"), (0.1, "off")])
def test_a_score_says_what_it_was_computed_in_and_norms_are_folded(times, amp, speed, monkeypatch, tmp_path):
    speed(times)
    saved_model(tmp_path / "c.pth", "--amp", "bf16")
    root, seen = write_mini_ytvos(tmp_path / "data"), []
    args = mini_args(root, "--holdout", "1", "--amp", "auto", "--allow_trained", "--eval", "--resume", "c.pth")
    args.resume = tmp_path / "c.pth"

    def scored(split, predictor, settings, weights, *_):
        seen.append((predictor, scoring.record(weights, split, settings, predictor.device)))

    monkeypatch.setattr(main, "score_split", scored)
    main.evaluate(args, checkpoint.load(tmp_path / "c.pth"), CPU)
    ((predictor, record),) = seen
    assert record["amp"] == precision.AMP[predictor.amp] == amp
    assert not any(isinstance(module, NORMS) for module in predictor.model.modules())


# Weights in that type ------------------------------------------------------------------------------------------------


def network(name: str) -> ProxyFormer:
    """A tiny model, but for its backbone, whose masks are neither full nor empty."""
    torch.manual_seed(1)
    model = tiny_model(backbone=build_backbone(name, pretrained=False)).eval()
    with torch.no_grad():
        model.segmenter.kernel_head.kernel[-1].weight *= 30
    return model


def answers(model: ProxyFormer, amp: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Mask and class logits of every proxy, and the masks, for expressions of different lengths."""
    predictor = Predictor(model, eval_size=48, max_size=96, amp=amp)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, (3, 3, 50, 70), dtype=torch.uint8, generator=generator)
    with torch.inference_mode():
        logits = [x for pair in predictor._samples(predictor.encode(frames), list(EXPRESSIONS), 3) for x in pair]
    masks = predictor.segment(InMemory(frames), list(EXPRESSIONS)).masks(0, 3)
    assert 0 < masks.float().mean() < 1
    return torch.cat([x.float().flatten() for x in logits]), masks


@pytest.mark.parametrize("amp", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["video_swin_t", "resnet50", "tsm_resnet10_half", "timm:convnext_atto", "swin_t_p4w7"])
def test_weights_in_half_precision_change_no_bit(name, amp):
    model = network(name)
    fold_batch_norms(model)
    stored = copy.deepcopy(model)
    store_as_computed(stored, amp)
    for got, wanted in zip(answers(stored, amp), answers(model, amp), strict=True):
        assert torch.equal(got, wanted)


def test_only_what_autocast_would_cast_is_stored_in_it():
    model = network("video_swin_t")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    store_as_computed(model, torch.bfloat16)
    halved = {name for name, value in model.state_dict().items() if value.dtype == torch.bfloat16}
    assert {name.split(".")[0] for name in halved} == {"backbone", "text_encoder", "cmie"}
    for name in ("backbone.features.0.0.attn.qkv.bias", "backbone.patch_embed.proj.weight"):
        assert name in halved
    assert "text_encoder.model.encoder.layer.0.attention.self.query.weight" in halved
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name].to(value.dtype))
        kept = any(part in name for part in ("norm", "embeddings", "relative_position", "segmenter", "head"))
        assert not (kept and name in halved), name


def test_in_float32_nothing_changes():
    model = network("video_swin_t")
    store_as_computed(model, None)
    assert all(value.dtype != torch.bfloat16 for value in model.state_dict().values())


@pytest.mark.parametrize(("amp", "stored"), [("off", torch.float32), ("bf16", torch.bfloat16)])
def test_every_way_to_a_predictor_makes_the_model_ready(amp, stored, tmp_path):
    saved_model(tmp_path / "c.pth")
    words = ["--resume", str(tmp_path / "c.pth"), "--ytvos_path", str(tmp_path), "--amp", amp, "--allow_trained"]
    asked = inference_ytvos.parse_args(words)
    model, _, settings = inference.restore(asked, CPU, "ytvos")
    for predictor in (
        models.load_predictor(tmp_path / "c.pth", "cpu", amp=amp),
        models.inference_predictor(model, settings, CPU),
    ):
        assert predictor.model.backbone.conv1.weight.dtype == stored and predictor.model.backbone.conv1.bias is not None
        assert predictor.model.segmenter.mask_decoder.out.weight.dtype == torch.float32
        assert not any(isinstance(module, NORMS) for module in predictor.model.modules())


def test_a_predictor_by_itself_leaves_the_model_as_it_is():
    args = tiny_args("--amp", "bf16")
    model = models.assemble(args, 1, tiny_model().text_encoder)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    predictor = models.build_predictor(model, models.predictor_settings(args))
    assert predictor.amp == torch.bfloat16
    after = predictor.model.state_dict()
    assert after.keys() == before.keys()
    assert all(after[name].dtype == value.dtype and torch.equal(after[name], value) for name, value in before.items())
