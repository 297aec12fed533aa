"""Weight files as they are published and as wrapped models are saved: under which names, and what comes of them."""

from __future__ import annotations

import argparse
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor

import models
from models.backbone import SWINS, build_backbone, load_pretrained
from models.video_swin import VARIANTS
from tests.tiny_model import tiny_args, tiny_text_encoder
from util.weights import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:.*to a meta parameter in the current model")

State = dict[str, Tensor]

# embed_dim, depths, heads of the published models: configs/swin/*.yaml of microsoft/Swin-Transformer and
# configs/_base_/models/swin/*.py of SwinTransformer/Video-Swin-Transformer
SIZES = {
    "swin_t_p4w7": (96, (2, 2, 6, 2), (3, 6, 12, 24)),
    "swin_s_p4w7": (96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "swin_b_p4w7": (128, (2, 2, 18, 2), (4, 8, 16, 32)),
    "swin_l_p4w7": (192, (2, 2, 18, 2), (6, 12, 24, 48)),
}
VIDEO_SIZES = {name.replace("swin_", "video_swin_"): size for name, size in SIZES.items() if name != "swin_l_p4w7"}


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def norm(name: str, channels: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (channels,)
    yield f"{name}.bias", (channels,)


def published(size: tuple, window: tuple[int, ...], patch: tuple[int, ...], *, masks: bool = False) -> dict:
    """Names and shapes of what is stored of a Swin but for its classifier.

    As models/swin_transformer.py of microsoft/Swin-Transformer (``window`` and ``patch`` of two numbers) and
    mmaction/models/backbones/swin_transformer.py of SwinTransformer/Video-Swin-Transformer (of three) register them. In
    both a stage ends with ``downsample``; the former has ``attn_mask`` in every second block but the last stage's.
    """
    width, depths, heads = size
    positions, places = 1, 1
    for side in window:
        positions, places = positions * side, places * (2 * side - 1)
    shapes = {"patch_embed.proj.weight": (width, 3, *patch), "patch_embed.proj.bias": (width,)}
    shapes |= norm("patch_embed.norm", width)
    for stage, (depth, head) in enumerate(zip(depths, heads, strict=True)):
        channels = width * 2**stage
        for number in range(depth):
            block = f"layers.{stage}.blocks.{number}"
            if masks and number % 2 and stage < 3:
                shapes[f"{block}.attn_mask"] = ((8 >> stage) ** 2, positions, positions)
            shapes |= norm(f"{block}.norm1", channels)
            shapes[f"{block}.attn.relative_position_bias_table"] = (places, head)
            shapes[f"{block}.attn.relative_position_index"] = (positions, positions)
            shapes |= linear(f"{block}.attn.qkv", channels, 3 * channels)
            shapes |= linear(f"{block}.attn.proj", channels, channels)
            shapes |= norm(f"{block}.norm2", channels)
            shapes |= linear(f"{block}.mlp.fc1", channels, 4 * channels)
            shapes |= linear(f"{block}.mlp.fc2", 4 * channels, channels)
        if stage < 3:
            shapes |= linear(f"layers.{stage}.downsample.reduction", 4 * channels, 2 * channels, bias=False)
            shapes |= norm(f"layers.{stage}.downsample.norm", 4 * channels)
    return shapes | dict(norm("norm", 8 * width))


def image_swin(name: str, window: int = 7, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    shapes = published(SIZES[name], (window, window), (4, 4), masks=True)
    return shapes | dict(linear("head", 8 * SIZES[name][0], classes))


def zeros(shapes: dict[str, tuple[int, ...]]) -> State:
    """Tensors of these shapes that take no room."""
    return {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: value for name, value in state.items()}


# Microsoft's Swin --------------------------------------------------------------------------------------------------


@functools.cache
def microsoft() -> State:
    """Random weights under the names of swin_tiny_patch4_window7_224.pth."""
    generator = torch.Generator().manual_seed(5)
    state = {}
    for name, shape in image_swin("swin_t_p4w7").items():
        state[name] = 0.2 * torch.randn(shape, generator=generator)
        if len(shape) == 2 and name.endswith("weight"):
            state[name] *= 4 * shape[1] ** -0.5
        if "norm" in name and name.endswith("weight"):
            state[name] += 1
    return state


def windows_of(x: Tensor, side: int) -> Tensor:
    """``[H, W, C]`` to ``[n, side · side, C]``."""
    h, w, c = x.shape
    x = x.reshape(h // side, side, w // side, side, c)
    return x.transpose(1, 2).reshape(-1, side * side, c)


def attention(x: Tensor, state: State, block: str, heads: int, shift: int, side: int = 7) -> Tensor:
    """Attention within windows that lie ``shift`` places further, of an image ``[H, W, C]`` without borders between
    them: what a window has from beyond the edge is another area, which is not seen."""
    h, w, c = x.shape
    area = torch.zeros(h, w, 1)
    edges = [0, h - side, h - shift, h] if shift else [0, h]
    for i in range(len(edges) - 1):
        for j in range(len(edges) - 1):
            area[edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = 10 * i + j
    rolled = windows_of(x.roll((-shift, -shift), (0, 1)), side)
    areas = windows_of(area, side)[..., 0]
    q, k, v = F.linear(rolled, state[f"{block}.qkv.weight"], state[f"{block}.qkv.bias"]).chunk(3, -1)
    table = state[f"{block}.relative_position_bias_table"]
    place = [(i, j) for i in range(side) for j in range(side)]
    index = [[(a - c + side - 1) * (2 * side - 1) + b - d + side - 1 for c, d in place] for a, b in place]
    seen = []
    for n, part in enumerate(torch.stack((q, k, v), 1)):
        of_heads = []
        for head in range(heads):
            mine = slice(head * c // heads, (head + 1) * c // heads)
            scores = (part[0, :, mine] @ part[1, :, mine].T) * (c // heads) ** -0.5 + table[index, head]
            scores = scores.masked_fill(areas[n][:, None] != areas[n][None], -torch.inf)
            of_heads.append(scores.softmax(-1) @ part[2, :, mine])
        seen.append(torch.cat(of_heads, -1))
    out = torch.stack(seen).reshape(h // side, w // side, side, side, c).transpose(1, 2).reshape(h, w, c)
    out = F.linear(out, state[f"{block}.proj.weight"], state[f"{block}.proj.bias"])
    return out.roll((shift, shift), (0, 1))


def reference(state: State, image: Tensor) -> list[Tensor]:
    """The four maps ``[H, W, C]`` of an image ``[3, 224, 224]``, by the paper (arXiv 2103.14030), from official names.

    The official order of merged patches is down before right: x0, x1 = rows 0 and 1 of column 0, x2, x3 of column 1.
    """

    def layer_norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    def linear_layer(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    _, depths, heads = SIZES["swin_t_p4w7"]
    x = F.conv2d(image, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=4).permute(1, 2, 0)
    x, maps = layer_norm(x, "patch_embed.norm"), []
    for stage in range(4):
        for number in range(depths[stage]):
            block = f"layers.{stage}.blocks.{number}"
            shift = 3 if number % 2 else 0  # a single window, too, as the code for detection and ReferFormer's has it
            x = x + attention(layer_norm(x, f"{block}.norm1"), state, f"{block}.attn", heads[stage], shift)
            inner = F.linear(
                layer_norm(x, f"{block}.norm2"), *(state[f"{block}.mlp.fc1.{p}"] for p in ("weight", "bias"))
            )
            x = x + F.linear(F.gelu(inner), *(state[f"{block}.mlp.fc2.{p}"] for p in ("weight", "bias")))
        maps.append(x)
        if stage < 3:
            four = [x[row::2, column::2] for column in (0, 1) for row in (0, 1)]
            merged = layer_norm(torch.cat(four, -1), f"layers.{stage}.downsample.norm")
            x = F.linear(merged, state[f"layers.{stage}.downsample.reduction.weight"])
    return maps


@pytest.fixture(scope="module")
def swin_maps() -> tuple[Tensor, list[Tensor]]:
    image = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(6))
    return image, reference(microsoft(), image)


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.0.body."])
def test_microsofts_swin_gives_the_features_of_its_definition(swin_maps, tmp_path, prefix):
    torch.save({"model": prefixed(microsoft(), prefix)}, tmp_path / "swin.pth")
    backbone = build_backbone("swin_t_p4w7", pretrained=True).eval()
    load_pretrained(backbone, tmp_path / "swin.pth")
    image, wanted = swin_maps
    for got, expected in zip(backbone(image[None, None]), wanted, strict=True):
        expected = expected.permute(2, 0, 1)
        assert (got[0, 0] - expected).abs().max() < 1e-4 * expected.abs().max()


@pytest.mark.parametrize("classes", [1000, 21841])  # of ImageNet-1K, and -22K: swin_…_22k.pth
@pytest.mark.parametrize("name", SWINS)
def test_microsofts_swin_of_every_size_is_taken_whole(tmp_path, name, classes):
    path = tmp_path / "swin.pth"
    torch.save({"model": zeros(image_swin(name, classes=classes))}, path)
    with torch.device("meta"):
        backbone = build_backbone(name, pretrained=True)
    load_pretrained(backbone, path)
    state = zeros(image_swin(name))
    del state["layers.2.downsample.reduction.weight"]
    torch.save({"model": state}, path)
    with pytest.raises(ValueError, match="missing: net.layers_3.downsample.reduction.weight$"):
        load_pretrained(backbone, path)


@pytest.mark.parametrize(
    ("name", "shapes", "rows"),
    [
        # swin_base_patch4_window12_384_22k.pth
        ("swin_b_p4w7", lambda: image_swin("swin_b_p4w7", 12, 21841), "529 rows, not 169"),
        # swin_base_patch244_window1677_sthv2.pth
        (
            "video_swin_b",
            lambda: published(VIDEO_SIZES["video_swin_b_p4w7"], (16, 7, 7), (2, 4, 4)),
            "5239 rows, not 2535",
        ),
    ],
)
def test_a_swin_with_other_windows_is_refused(tmp_path, name, shapes, rows):
    torch.save({"model": zeros(shapes())}, tmp_path / "swin.pth")
    with torch.device("meta"):
        backbone = build_backbone(name, pretrained=True)
    with pytest.raises(ValueError, match=f"other attention windows .*{rows}.*window7 of swin_"):
        load_pretrained(backbone, tmp_path / "swin.pth")


# Video Swin --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["backbone.", "module.backbone.", "_orig_mod.backbone.", ""])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_official_video_swin_of_every_size_is_taken_whole(tmp_path, name, prefix):
    """swin_{tiny,small,base}_patch244_window877_*.pth; the classifier is that of mmaction's I3DHead."""
    size = VIDEO_SIZES[f"{name}_p4w7"]
    wrapped = prefix.removesuffix("backbone.")
    shapes = prefixed(published(size, (8, 7, 7), (2, 4, 4)), prefix)
    shapes |= linear(f"{wrapped}cls_head.fc_cls", 8 * size[0], 400)
    torch.save({"meta": {"epoch": 30}, "state_dict": zeros(shapes)}, tmp_path / "swin.pth")
    with torch.device("meta"):
        backbone = build_backbone(name, pretrained=True)
    load_pretrained(backbone, tmp_path / "swin.pth")


def test_the_video_swin_of_a_referformer_checkpoint_is_taken(tmp_path):
    """Its models/video_swin_transformer.py moves the merging of patches to a list of its own and keeps one frame."""
    shapes = published(VIDEO_SIZES["video_swin_t_p4w7"], (8, 7, 7), (1, 4, 4))
    body = {re.sub(r"layers\.(\d)\.downsample", r"downsamples.\1", k): v for k, v in shapes.items() if k[:4] != "norm"}
    others = {"transformer.level_embed": (4, 256), "class_embed.0.bias": (1,), "text_encoder.pooler.dense.bias": (768,)}
    content = {"model": zeros(prefixed(body, "backbone.0.body.") | others), "args": argparse.Namespace(lr=1e-4)}
    torch.save(content, tmp_path / "whole.pth")
    with torch.device("meta"):
        backbone = build_backbone("video_swin_t_p4w7", pretrained=True)
    load_pretrained(backbone, tmp_path / "whole.pth")


# Prefixes ----------------------------------------------------------------------------------------------------------

PREFIXES = ["module.", "backbone.", "_orig_mod.", "module.backbone.", "_orig_mod.module.", "backbone.0.body."]


@functools.cache
def resnet() -> State:
    """Under the names of resnet18-f37072fd.pth."""
    torch.manual_seed(1)
    return torchvision.models.resnet18(weights=None).state_dict()


def load_resnet(state: State, path: Path) -> State:
    torch.save(state, path)
    backbone = build_backbone("resnet18", pretrained=True)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    try:
        load_pretrained(backbone, path)
    except ValueError:
        assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
        raise
    return backbone.state_dict()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_a_backbone_are_taken_off(tmp_path, prefix):
    loaded = load_resnet(prefixed(resnet(), prefix), tmp_path / "net.pth")
    assert all(torch.equal(value, resnet()[name]) for name, value in loaded.items()) and len(loaded) > 90
    without_head = {name: value for name, value in resnet().items() if not name.startswith("fc.")}
    load_resnet(prefixed(without_head, prefix) | {"fc.weight": torch.zeros(3)}, tmp_path / "net.pth")


@pytest.mark.parametrize("parts", [["decode_head", "auxiliary_head"], ["neck", "rpn_head", "roi_head"]])
def test_a_backbone_of_a_segmenter_or_detector_is_taken(tmp_path, parts):
    """Named as in mmsegmentation and mmdetection."""
    backbone = build_backbone("resnet18", pretrained=True)
    state = prefixed(backbone.state_dict(), "backbone.") | {f"{part}.0.weight": torch.ones(2) for part in parts}
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, tmp_path / "whole.pth")
    other = build_backbone("resnet18", pretrained=True)
    load_pretrained(other, tmp_path / "whole.pth")
    assert all(torch.equal(value, backbone.state_dict()[name]) for name, value in other.state_dict().items())


def test_wrappers_within_names_are_taken_out(tmp_path):
    state = {name.replace("layer2.", "layer2._orig_mod."): value for name, value in resnet().items()}
    loaded = load_resnet(prefixed(state, "module."), tmp_path / "net.pth")
    assert torch.equal(loaded["layer2.0.conv1.weight"], resnet()["layer2.0.conv1.weight"])


def test_an_average_of_torch_has_a_counter_beside_its_weights(tmp_path):
    averaged = torch.optim.swa_utils.AveragedModel(torchvision.models.resnet18(weights=None)).state_dict()
    assert "n_averaged" in averaged
    loaded = load_resnet(averaged, tmp_path / "net.pth")
    assert loaded and all(torch.equal(value, averaged[f"module.{name}"]) for name, value in loaded.items())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s | {"module.stranger": torch.zeros(1)}, "not of this model: stranger"),
        (lambda s: s | {"stranger": torch.zeros(1)}, "begin with module. except .* not of this model: stranger$"),
        (lambda s: {k: v for k, v in s.items() if k != "module.bn1.bias"}, "missing: bn1.bias$"),
        (lambda s: s | {"module.bn1.bias": torch.zeros(7)}, r"of another shape: bn1.bias \(7,\), not \(64,\)"),
        (lambda s: s | {"bn1.bias": torch.zeros(64)}, "begin with module. except .*: bn1.bias$"),
        (
            lambda s: s | {"module._orig_mod.bn1.bias": torch.zeros(64)},
            "module.bn1.bias is doubled: module.bn1.bias and module._orig_mod.bn1.bias",
        ),
    ],
)
def test_what_then_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_resnet(change(prefixed(resnet(), "module.")), tmp_path / "net.pth")


@torch.no_grad()
@pytest.mark.parametrize("name", ["mvitv2_tiny", "convnext_atto", "resnet10t"])
def test_timm_files_under_prefixes(tmp_path, name):
    """timm has two ways of making feature maps, with other names in each."""
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    save_file(prefixed(whole.state_dict(), "module."), tmp_path / "net.safetensors")
    backbone = build_backbone(f"timm:{name}", pretrained=True).eval()
    load_pretrained(backbone, tmp_path / "net.safetensors")
    image = torch.randn(1, 3, 224, 224)
    wanted = whole.forward_intermediates(image, indices=4, intermediates_only=True)
    for got, expected in zip(backbone(image[:, None]), wanted, strict=True):
        torch.testing.assert_close(got[0], expected, atol=1e-4, rtol=1e-4)


# Whole models ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole() -> dict:
    """Content of a checkpoint."""
    torch.manual_seed(0)
    args = tiny_args("--binary")
    model = models.assemble(args, 1, tiny_text_encoder())
    described = {"options": vars(args), "num_classes": 1, "text_encoder": model.text_encoder.description()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return {"format": checkpoint.FORMAT, "model": weights, "average": None, **described}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_prefixes_of_a_whole_model_are_taken_off(whole, tmp_path, prefix, suffix):
    path = tmp_path / f"weights{suffix}"
    wrapped = whole | {"model": prefixed(whole["model"], prefix)}
    if suffix == ".pth":
        checkpoint.save(path, wrapped)
    else:
        checkpoint.export(path, wrapped, torch.float32)
    loaded = models.load_predictor(path, "cpu").model.text_encoder.state_dict()
    assert all(torch.equal(v, whole["model"][f"text_encoder.{k}"]) for k, v in loaded.items()) and loaded
    model = models.assemble(tiny_args("--binary"), 1, tiny_text_encoder())
    models.load_pretrained_model(model, path)
    assert all(torch.equal(value, whole["model"][name]) for name, value in model.state_dict().items())


def test_the_class_head_of_a_wrapped_model_starts_anew(whole, tmp_path, capsys):
    checkpoint.save(tmp_path / "c.pth", whole | {"model": prefixed(whole["model"], "module.")})
    model = models.assemble(tiny_args(), 65, tiny_text_encoder())
    models.load_pretrained_model(model, tmp_path / "c.pth")
    assert "reference_head.classes.weight starts anew, for 65 classes, not 1" in capsys.readouterr().out


def test_a_whole_model_is_still_read_strictly(whole, tmp_path):
    state = prefixed(whole["model"], "module.")
    checkpoint.save(tmp_path / "c.pth", whole | {"model": state | {"module.stranger": torch.zeros(1)}})
    with pytest.raises(ValueError, match="not of this model: stranger$"):
        models.load_predictor(tmp_path / "c.pth", "cpu")
    first = next(iter(state))
    lacking = {name: value for name, value in state.items() if name != first}
    checkpoint.save(tmp_path / "c.pth", whole | {"model": lacking})
    with pytest.raises(ValueError, match=f"missing: {first.removeprefix('module.')}$"):
        models.load_predictor(tmp_path / "c.pth", "cpu")
