"""The baseline: agreement with ReferFormer's own code, published files, and what any network here must hold."""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import RobertaConfig, RobertaModel

import engine
import main
import models
from models import deformable, published
from models.criterion import Criterion
from models.deformable import DeformableAttention, DeformableTransformer, Maps, sample_maps
from models.matcher import LossWeights, TrajectoryMatcher
from models.referformer import ReferFormer
from models.text_encoder import TextEncoder
from opts import parse_train_args
from tests.helpers import SHARED, needs_shared
from tests.runs import log, same, trainer
from tests.tiny_model import EXPRESSIONS, FakeBackbone, random_batch, tiny_model, tiny_tokenizer
from tools import compare_referformer as compare
from tools.make_tiny_text_encoder import make_encoder
from util.samples.structures import Batch
from util.weights import checkpoint

GOLDEN = Path(__file__).parent / "golden" / "referformer.pt"
TEXT = str(GOLDEN.with_name("referformer_text"))
CASES = torch.load(GOLDEN, weights_only=True)


def tiny(**choice) -> ReferFormer:
    """A ReferFormer of width 32 on the fake backbone, whose heads do not start at zero."""
    torch.manual_seed(0)
    made = make_encoder(tiny_tokenizer(), hidden_size=16, layers=1, heads=2, seed=0)
    text = TextEncoder(config=made.config, tokenizer=tiny_tokenizer().backend_tokenizer, frozen=False, pooler=True)
    small = dict(
        dim=32, heads=2, dropout=0.0, dim_feedforward=48, enc_layers=2, dec_layers=2, num_queries=3, mask_dim=8
    )
    model = ReferFormer(backbone=FakeBackbone(), text_encoder=text, **{**small, **choice})
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
        if isinstance(module, DeformableAttention):
            for layer in (module.sampling_offsets, module.attention_weights):
                torch.nn.init.normal_(layer.weight, std=0.1)
    for boxes in model.bbox_embed:
        torch.nn.init.normal_(boxes[-1].weight, std=0.1)
    return model


# ----------------------------------------------------------------------------------------------- agreement with theirs


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_those_of_referformers_code(name):
    case = CASES[name]
    found = compare.outputs(compare.build(case, TEXT, name), case)
    for kind in ("pred_logits", "pred_boxes"):
        assert compare.difference(found[kind], case[kind]) < 1e-4, kind
    samples = found["pred_masks"].flatten()[:: case["mask_step"]]
    assert (samples - case["mask_samples"]).abs().max() / case["mask_range"] < 1e-4


@needs_shared
def test_the_tool_compares_every_output_of_a_file(monkeypatch, capsys, tmp_path):
    folder = SHARED / "golden" / "referformer"
    words = ["compare_referformer.py", str(folder / "outputs.pt"), "--text_encoder", str(folder)]
    monkeypatch.setattr("sys.argv", words)
    assert compare.main() == 0
    said = capsys.readouterr().out
    assert "7 configurations; no outputs differ" in said and "mask_features" in said
    cases = torch.load(folder / "outputs.pt", weights_only=True)
    case = cases["resnet50_no_refine_65_classes"]
    case["pred_boxes"] = case["pred_boxes"] + 1e-3
    torch.save({"changed": case}, tmp_path / "outputs.pt")
    monkeypatch.setattr("sys.argv", [words[0], str(tmp_path / "outputs.pt"), *words[2:]])
    assert compare.main() == 1 and "1 outputs differ" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------ published files


@pytest.fixture(scope="module")
def published_state() -> dict[str, Tensor]:
    """Parameters by ReferFormer's names, with what its files repeat and what they hold besides."""
    shapes = {name: tuple(shape) for name, (shape, dtype) in CASES["resnet50"]["shapes"].items() if "int" not in dtype}
    state = {name: compare.weight(name, shape) for name, shape in shapes.items()}
    for name in state:
        if name.startswith("transformer.decoder.bbox_embed."):
            state[name] = state[name.removeprefix("transformer.decoder.")]
    return state | {
        "text_encoder.embeddings.position_ids": torch.arange(66)[None],
        **{f"{part}total_ops": torch.zeros(1) for part in ("", "backbone.0.body.conv1.", "class_embed.0.")},
    }


OPTIONS = dict(backbone="resnet50", with_box_refine=True, binary=True, rel_coord=True, nheads=8, dataset_file="ytvos")


@pytest.mark.parametrize("options", [OPTIONS, None], ids=["with options", "weights alone"])
def test_a_published_file_is_read_and_told(options, published_state, tmp_path, capsys):
    content = {"model": published_state}
    if options:
        content |= {"args": argparse.Namespace(**options), "optimizer": {}, "lr_scheduler": {}, "epoch": 5}
    path = tmp_path / "ytvos_r50.pth"
    torch.save(content, path)
    predictor = models.load_predictor(path, "cpu", text_encoder=TEXT)
    said = capsys.readouterr().out
    assert "a ReferFormer, 1 class, backbone resnet50" in said and "with_box_refine True" in said and str(path) in said
    assert ("no options" in said) == (options is None)
    assert predictor.model.text_encoder.form == "lower" and (predictor.eval_size, predictor.max_size) == (360, 16384)
    frames = torch.randint(256, (2, 3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    predictor.eval_size = 96
    masks, scores = predictor(frames, ["a small star", "the red circle"])
    assert masks.shape == (2, 2, 96, 128) and all(0 < score < 1 for score in scores)


def test_an_evaluation_takes_a_published_file_and_the_flags_of_its_scripts(
    published_state, tmp_path, monkeypatch, capsys
):
    path = tmp_path / "file.pth"
    torch.save({"model": published_state}, path)
    words = f"main.py --eval --resume {path} --text_encoder {TEXT} --with_box_refine --binary --text_form raw".split()
    monkeypatch.setattr("sys.argv", words)
    args, saved = main.restore_options(parse_train_args())
    main.refuse_other_model(args, saved["options"])
    assert (args.model, args.with_box_refine, args.text_form) == ("referformer", True, "raw")
    assert "ignored" not in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*words, "--dec_layers", "3"])
    args, saved = main.restore_options(parse_train_args())
    with pytest.raises(ValueError, match="--dec_layers is 4 there, 3 now"):
        main.refuse_other_model(args, saved["options"])
    monkeypatch.setattr("sys.argv", [*words, "--model", "proxyformer"])
    with pytest.raises(SystemExit):
        main.restore_options(parse_train_args())
    assert "the checkpoint is a referformer; leave --model out" in capsys.readouterr().err


def test_an_exported_published_file_is_an_ordinary_checkpoint(published_state, tmp_path):
    torch.save({"model": published_state}, tmp_path / "file.pth")
    content = models.load_checkpoint(tmp_path / "file.pth", {"text_encoder": TEXT})
    checkpoint.export(tmp_path / "own.safetensors", content, torch.float32)
    models.load_predictor(tmp_path / "own.safetensors", "cpu")  # it needs no text encoder
    again = models.restore_model(models.load_checkpoint(tmp_path / "own.safetensors"), "own").state_dict()
    for name, value in models.restore_model(content, "file").state_dict().items():
        assert torch.equal(again[name], value), name


def test_proxyformer_starts_from_its_encoders(published_state, tmp_path, capsys):
    path, text = tmp_path / "file.pth", tmp_path / "text"
    torch.save({"model": published_state}, path)
    RobertaModel(RobertaConfig.from_pretrained(TEXT)).save_pretrained(text)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(TEXT, name), text)
    words = ["--backbone", "resnet50", "--text_encoder", str(text), "--pretrained_weights", str(path)]
    words += ["--enc_layers", "1"]
    torch.manual_seed(0)
    model, starts = models.start_model(parse_train_args(words), 3)
    given = " ".join(words[-4:-2])
    assert {part for part, origin in starts.items() if origin == given} == {"backbone", "text_encoder", "text_proj"}
    said = capsys.readouterr().out
    state = model.state_dict()
    rows = {tuple(line.split()[:2]): line.split()[-1] for line in said.splitlines() if line.startswith("  ")}
    assert {("backbone.*", "backbone.*"), ("text_encoder.*", "text_encoder.*")} <= rows.keys()
    assert rows["resizer.*", "text_proj.*"] == f"{768 * 256 + 3 * 256:,}"
    assert {("-", "cmie.*,"), ("-", "segmenter.*,"), ("transformer.*", "-,"), ("query_embed.*", "-,")} <= rows.keys()
    named = [count for (_, ours), count in rows.items() if ours not in ("-,", "ProxyFormer")]
    counted = sum(int(count.replace(",", "")) for count in named if count != "parameters")
    assert counted == sum(x.numel() for x in state.values())  # every parameter is in one row
    for ours, theirs in {
        "backbone.layer1.0.conv1.weight": "backbone.0.body.layer1.0.conv1.weight",
        "text_encoder.model.embeddings.LayerNorm.bias": "text_encoder.embeddings.LayerNorm.bias",
        "text_proj.0.weight": "resizer.fc.weight",
        "text_proj.1.bias": "resizer.layer_norm.bias",
    }.items():
        assert torch.equal(state[ours], published_state[theirs]), ours
    # a ReferFormer takes all, but for a head of other classes
    baseline = models.build_model(parse_train_args([*words[:-2], "--model", "referformer", "--with_box_refine"]), 3)
    assert "class_embed.0.weight starts anew, for 3 classes, not 1" in capsys.readouterr().out
    assert torch.equal(baseline.state_dict()["input_proj.3.0.bias"], published_state["input_proj.3.0.bias"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("controller.layers.1.bias"), "missing: mask_head.controller.2.bias"),
        (lambda s: s.update({"transformer.stranger": torch.ones(1)}), "not of this model: transformer.stranger"),
        (lambda s: s.update({"resizer.fc.bias": torch.ones(3)}), r"of another shape: resizer.0.bias \(3,\)"),
        (lambda s: s.update({"resizer.fc.bias": torch.full((256,), float("nan"))}), "not finite, the first resizer.0"),
        (lambda s: s.update({"resizer.fc.bias": [1.0]}), "'resizer.fc.bias' of its weights is no plain tensor"),
        (lambda s: s.pop("backbone.0.body.conv1.weight"), "its backbone is none of ReferFormer's"),
        (lambda s: s.pop("transformer.encoder.layers.0.linear1.bias"), "no checkpoint of ReferFormer that can be read"),
        (lambda s: s.update({"pixel_decoder.mask_features.bias": torch.ones(())}), "no checkpoint of ReferFormer"),
    ],
)
def test_a_damaged_published_file_is_refused_by_name(change, message, published_state, tmp_path):
    state = dict(published_state)
    change(state)
    torch.save({"model": state}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=message) as raised:
        models.load_predictor(tmp_path / "file.pth", "cpu", text_encoder=TEXT)
    assert "file.pth" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"nheads": 10**9}, "--nheads is 1000000000 "),
        ({"nheads": 4}, "by its options it has 4 heads, by its shapes 8"),
        ({"rel_coord": torch.ones(2)}, "--no_rel_coord is a Tensor"),
        ({"dataset_file": "ytvos\x1b[2J\nall"}, r"--dataset_file is 'ytvos\\x1b\[2J\\nall'"),
        ({"controller_layers": True}, "--controller_layers is True"),
        ({"dec_n_points": 8}, "--dec_n_points is 8; only 4 is known here"),
        ({"dilation": True}, "--dilation is True; only False is known here"),
    ],
    ids=str,
)
def test_options_that_a_published_file_cannot_have_are_refused(option, message, published_state, tmp_path, capsys):
    torch.save({"model": published_state, "args": argparse.Namespace(**OPTIONS | option)}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=message) as raised:
        models.load_predictor(tmp_path / "file.pth", "cpu", text_encoder=TEXT)
    assert "file.pth" in str(raised.value) and "\n" not in str(raised.value) and not capsys.readouterr().out


def test_a_published_file_of_a_wrapped_model_or_another_mask_head_is_read(published_state, tmp_path, capsys):
    state = published_state | {
        "controller.layers.2.weight": torch.randn(4161, 256),
        "controller.layers.2.bias": torch.randn(4161),
    }
    options = argparse.Namespace(backbone="resnet50")  # as an older file, which lacks most of them
    torch.save({"model": {f"module.{name}": x for name, x in state.items()}, "args": options}, tmp_path / "file.pth")
    models.load_checkpoint(tmp_path / "file.pth", {"text_encoder": TEXT})
    said = capsys.readouterr().out
    assert "controller_layers 2, dynamic_mask_channels 16, no_rel_coord False" in said


class Sly(argparse.Namespace):
    """Options of a class of its own, as only code can read."""


def test_only_a_namespace_is_read_beside_tensors(published_state, tmp_path):
    torch.save({"model": published_state, "args": Sly(backbone="resnet50")}, tmp_path / "file.pth")
    with pytest.raises(ValueError, match=r"more than tensors and plain data: tests.test_referformer.Sly"):
        models.load_predictor(tmp_path / "file.pth", "cpu", text_encoder=TEXT)


def test_every_backbone_of_referformer_is_known_by_its_keys():
    for name, channels in (("resnet50", 6), ("resnet101", 23)):
        body = {"conv1.weight": torch.zeros(1), "layer1.0.conv3.weight": torch.zeros(1)}
        body |= {f"layer3.{i}.conv1.weight": torch.zeros(1) for i in range(channels)}
        assert published.backbone_of(body) == name
    for name, width, depth in (("t", 96, 6), ("s", 96, 18), ("b", 128, 18), ("l", 192, 18)):
        blocks = {f"layers.2.blocks.{i}.norm1.weight": torch.zeros(1) for i in range(depth)}
        image = blocks | {"patch_embed.proj.weight": torch.zeros(width, 3, 4, 4)}
        assert published.backbone_of(image) == f"swin_{name}_p4w7"
        if name != "l":
            video = blocks | {"patch_embed.proj.weight": torch.zeros(width, 3, 1, 4, 4)}
            assert published.backbone_of(video) == f"video_swin_{name}_p4w7"


# ---------------------------------------------------------------------------------------------------------- the network


def naive(values: Tensor, sizes: list[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """:func:`sample_maps` place by place."""
    g, _, m, d = values.shape
    out = torch.zeros(g, places.shape[1], m, d, dtype=values.dtype)
    for at in torch.cartesian_prod(*(torch.arange(n) for n in places.shape[:5])).tolist():
        frame, query, head, level, point = at
        h, w = sizes[level]
        start = sum(a * b for a, b in sizes[:level])
        x, y = (float(places[(*at, i)]) * n - 0.5 for i, n in ((0, w), (1, h)))
        for column in range(w):
            for row in range(h):
                share = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                value = values[frame, start + row * w + column, head]
                out[frame, query, head] += weights[frame, query, head, level, point] * share * value
    return out.flatten(2)


def test_maps_are_read_between_their_tokens_and_are_zero_around():
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 4), (2, 2)]
    values = torch.randn(2, 16, 2, 3, generator=generator, dtype=torch.float64).float()
    places = torch.rand(2, 3, 2, 2, 2, 2, generator=generator) * 1.6 - 0.3
    weights = torch.rand(2, 3, 2, 2, 2, generator=generator)
    torch.testing.assert_close(sample_maps(values, sizes, places, weights), naive(values, sizes, places, weights))


@torch.no_grad()
def test_a_few_frames_at_a_time_read_the_same(monkeypatch):
    torch.manual_seed(0)
    attention = DeformableAttention(dim=8, heads=2, levels=2, points=2)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    maps = Maps(torch.randn(5, 16, 8), [(3, 4), (2, 2)], torch.rand(5, 16) > 0.2, torch.ones(5, 2, 2))
    query, boxes = torch.randn(5, 3, 8), torch.rand(5, 3, 2, 4)
    whole = attention(query, boxes, maps)
    monkeypatch.setattr(deformable, "AT_ONCE", 1)
    torch.testing.assert_close(attention(query, boxes, maps), whole)


@torch.no_grad()
@pytest.mark.parametrize(
    "choice", [{}, {"refine": False}, {"relative": False}, {"levels": 3}, {"mask_layers": 2}], ids=str
)
def test_shapes_and_the_independence_of_samples(choice):
    model = tiny(**choice).eval()
    batch = random_batch(2, expressions=2, frames=3)
    out = model(batch.video, batch.expressions, batch.video_valid, batch.clip_index)
    assert out.final.masks.shape == (4, 3, 3, 8, 16) and out.final.logits.shape == (4, 3, 3, 1) and len(out.aux) == 1
    alone = model(batch.video[1:], batch.expressions[3:])
    for kind in ("logits", "boxes", "masks"):
        torch.testing.assert_close(getattr(alone.final, kind)[0], getattr(out.final, kind)[3], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_frames_that_are_asked_for_are_answered_alone():
    model, batch = tiny().eval(), random_batch(1, frames=4)
    features, text = model.encode_video(batch.video), model.encode_text(batch.expressions)
    only = model.decode(features, text, frames=[2]).final
    # everything behind the backbone sees this frame alone
    alone = model.decode(features.at([2]), text).final
    assert only.masks.shape[1] == 1 and torch.equal(only.masks, alone.masks)
    assert not torch.allclose(only.masks[:, 0], model.decode(features, text).final.masks[:, 2], atol=1e-3)


def test_places_keep_float32_under_autocast():
    model, batch = tiny().eval(), random_batch(1, frames=2)
    with torch.autocast("cpu", torch.bfloat16):
        boxes = model(batch.video, batch.expressions).final.boxes
    assert boxes.dtype == torch.float32 and not torch.equal(boxes, boxes.bfloat16().float())


@pytest.mark.parametrize(("refine", "aux_loss"), [(True, True), (False, True), (True, False)])
def test_every_parameter_learns(refine, aux_loss):
    """With several GPUs one that is trained, and takes no part in the loss, is an error."""
    model = tiny(refine=refine, aux_loss=aux_loss).train()
    batch = random_batch(2, frames=2)
    criterion = Criterion(matcher=TrajectoryMatcher(LossWeights(2, 5, 2, 2, 5)), weights=LossWeights(2, 5, 2, 2, 5))
    output = model(batch.video, batch.expressions, batch.video_valid, batch.clip_index)
    loss, terms = criterion(output, batch)
    loss.backward()
    assert ("loss_mask_1" in terms) == aux_loss and "loss_jsc" not in terms
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    still = [name for name, p in trained if p.grad is None or not p.grad.abs().sum() > 0]
    # keys of attention get no gradient through their bias: softmax does not change when all scores move together
    assert not [name for name in still if not name.endswith("key.bias")], still


def test_it_starts_as_referformer_does():
    """Xavier for all weights of the transformer; heads of the attention look all around; levels are told apart."""
    model = DeformableTransformer(
        dim=64, heads=4, hidden=256, dropout=0.1, enc_layers=1, dec_layers=1, levels=4, points=4
    )
    for layer in (model.encoder[0].linear2, model.decoder[0].linear1):
        assert layer.weight.abs().max().item() == pytest.approx((6 / (64 + 256)) ** 0.5, rel=0.01)
    offsets = model.encoder[0].self_attn.sampling_offsets.bias.detach().view(4, 4, 4, 2)[1, 0]
    assert offsets.flatten().tolist() == pytest.approx([0, 1, 0, 2, 0, 3, 0, 4], abs=1e-6)
    assert not model.encoder[0].self_attn.attention_weights.weight.any()
    assert model.level_embed.std().item() == pytest.approx(1, abs=0.3)


# ------------------------------------------------------------------------------------------------------------- training

FLAGS = "--model referformer --hidden_dim 32 --dim_feedforward 48 --dec_layers 2 --with_box_refine"


def test_it_trains_and_goes_on_bit_for_bit(ytvos_root, tmp_path):
    whole = tmp_path / "whole"
    trainer(ytvos_root, whole, *FLAGS.split()).run()
    first = trainer(ytvos_root, tmp_path / "again", *FLAGS.split())
    first.settings = replace(first.settings, epochs=1)
    first.run()
    trainer(ytvos_root, tmp_path / "again", *FLAGS.split(), resume="auto").run()
    ends = [checkpoint.load(folder / "checkpoint.pth") for folder in (whole, tmp_path / "again")]
    assert same(ends[0]["model"], ends[1]["model"]) and same(ends[0]["optimizer"], ends[1]["optimizer"])
    assert {"loss_mask_1", "loss_cls"} <= log(whole)[-1].keys() and "loss_jsc" not in log(whole)[-1]
    predictor = models.load_predictor(whole / "checkpoint.pth", "cpu")
    masks, _ = predictor(torch.zeros(3, 3, 48, 80, dtype=torch.uint8), [EXPRESSIONS[0]])
    assert masks.shape == (1, 3, 48, 80)


def one_step(model, criterion: Criterion, batch: Batch) -> engine.Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    how = dict(device=torch.device("cpu"), scaler=torch.amp.GradScaler(enabled=False), amp=None, clip_max_norm=0)
    return engine.train_step(model, criterion, [batch], optimizer, **how)


def test_of_a_clip_of_a2d_only_the_annotated_frame_is_decoded():
    """The backbone sees the clip; attention behind it, as that of the mask features, does not reach other frames."""
    model, batch = tiny().train(), random_batch(2, expressions=2, frames=4, unannotated=(0, 1, 3))
    asked, decode = [], model.decode
    model.decode = lambda *given, frames=None, **how: asked.append(frames) or decode(*given, frames=frames, **how)
    criterion = models.build_criterion(parse_train_args(["--model", "referformer"]))
    step = one_step(model, criterion, batch)
    assert asked == [[2]]

    frame = replace(batch, video=batch.video[:, [2]], targets=batch.targets.at([2]))
    alone = one_step(model, criterion, frame)  # this backbone sees each frame by itself
    assert asked[1:] == [None] and step.terms == pytest.approx(alone.terms, rel=1e-4)
    criterion.all_frames = True
    assert one_step(model, criterion, batch).terms["loss_mask"] != pytest.approx(step.terms["loss_mask"], rel=1e-4)


def test_the_proxies_of_all_frames_are_there_for_the_jsc_loss():
    """Without it, ProxyFormer's losses are the same whether or not frames without ground truth are decoded."""
    targets = random_batch(2, frames=4, unannotated=(0, 3)).targets
    assert models.build_criterion(parse_train_args([])).frames(targets) is None
    without = models.build_criterion(parse_train_args(["--jsc_target", "none"]))
    assert without.frames(targets) == [1, 2] and without.frames(random_batch(2).targets) is None
    model, batch = tiny_model(jsc_target="none").train(), random_batch(2, frames=4, unannotated=(0, 3))
    few = one_step(model, without, batch)
    without.all_frames = True
    assert one_step(model, without, batch).terms == pytest.approx(few.terms, rel=1e-4)


@pytest.mark.parametrize("flag", ["--amp bf16", "--freeze transformer.*"])
def test_what_can_be_asked_of_a_run_can_be_asked_of_it(flag, ytvos_root, tmp_path):
    run = trainer(ytvos_root, tmp_path, *FLAGS.split(), *flag.split(), "--epochs", "1")
    run.run()
