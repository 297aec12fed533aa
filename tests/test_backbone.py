"""Visual backbones: one interface, and pretrained weights loaded whole or refused by name."""

from __future__ import annotations

import pickle

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import DropPath
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.video.swin_transformer import SwinTransformer3d
from torchvision.ops import FrozenBatchNorm2d, StochasticDepth

import models
from models.backbone import RESNETS, SHIFTED, SWINS, build_backbone, load_pretrained
from models.fast import fold_batch_norms
from models.video_swin import VARIANTS, VideoSwin
from tests.helpers import SHARED, needs_shared
from tests.test_checkpoint_optim import Code
from tests.tiny_model import tiny_args, tiny_model, tiny_text_encoder

TINY_SWIN = dict(embed_dim=8, depths=[1, 2, 1, 1], num_heads=[1, 2, 2, 4], window_size=(4, 3, 3))
TIMM = ("timm:resnet10t", "timm:convnext_atto", "timm:mobilenetv3_small_050", "timm:efficientnet_b0", "timm:pvt_v2_b0")


def tiny_swin() -> VideoSwin:
    torch.manual_seed(0)
    return VideoSwin(**TINY_SWIN).eval()


def clip(frames: int = 3, size: tuple[int, int] = (50, 70), clips: int = 1) -> Tensor:
    return torch.randn(clips, frames, 3, *size, generator=torch.Generator().manual_seed(1))


def ceil_sizes(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32)]


# The interface -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [(n, False) for n in (*RESNETS, *VARIANTS, "video_swin_t_p4w7", *SWINS, *SHIFTED, *TIMM)]
    + [(n, True) for n in RESNETS],
)
def test_every_name_gives_four_maps_of_the_stated_channels_and_strides(name, pretrained):
    with torch.device("meta"):  # shapes without the arithmetic
        backbone = build_backbone(name, pretrained=pretrained)
        for size in ((50, 70), (64, 96), (33, 36)):
            maps = backbone(torch.zeros(2, 3, 3, *size))
            wanted = [(2, 3, c, *s) for c, s in zip(backbone.channels, ceil_sizes(size), strict=True)]
            assert [tuple(x.shape) for x in maps] == wanted
    assert tuple(backbone.strides) == (4, 8, 16, 32)


@pytest.mark.parametrize(
    ("name", "pretrained"), [("resnet18", True), ("resnet50", False), ("tsm_resnet10_half", False)]
)
def test_folded_batch_norms_give_the_same_maps(name, pretrained):
    torch.manual_seed(0)
    model = tiny_model(backbone=build_backbone(name, pretrained=pretrained)).eval()
    norms = [m for m in model.backbone.modules() if isinstance(m, nn.BatchNorm2d | FrozenBatchNorm2d)]
    for norm in norms:  # as trained ones have them
        for value, (low, high) in zip(
            (norm.running_mean, norm.running_var, norm.weight, norm.bias),
            ((-0.1, 0.1), (0.5, 2), (0.5, 1.5), (-0.5, 0.5)),
            strict=True,
        ):
            nn.init.uniform_(value, low, high)
    wanted = model.backbone(clip())
    fold_batch_norms(model)
    assert len(norms) > 10 and not any("Norm" in type(m).__name__ for m in model.backbone.modules())
    for got, expected in zip(model.backbone(clip()), wanted, strict=True):
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


# Temporal shift ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shifted() -> nn.Module:
    torch.manual_seed(0)
    backbone = build_backbone("tsm_resnet10_half", pretrained=False).eval()
    for layer in backbone.modules():  # timm starts the residual branches, where the shift is, at zero
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
    return backbone


def test_a_shifted_resnet_sees_a_still_image_as_the_plain_one_does(shifted):
    plain = timm.create_model("resnet10t", features_only=True, channels=(32, 64, 128, 256)).eval()
    plain.load_state_dict(shifted.net.state_dict())
    still = clip(frames=1, size=(64, 64))
    wanted = plain(still[0])[-1]
    assert torch.allclose(shifted(still)[-1][0], wanted, atol=1e-5)
    assert torch.allclose(shifted(still.expand(-1, 5, -1, -1, -1))[-1][0, 3], wanted[0], atol=1e-4)


def test_the_shift_takes_an_eighth_from_each_neighbour(shifted):
    shifted(clip(frames=3, size=(64, 64)))
    numbered = torch.arange(3.0)[:, None, None, None].expand(3, 16, 1, 1)
    (x,) = shifted._shift(None, (numbered,))
    assert x[..., 0, 0].tolist() == [[n, n, p, p] + [t] * 12 for t, n, p in ((0, 1, 0), (1, 2, 0), (2, 2, 1))]


def test_a_shifted_resnet_tells_a_movement_from_its_reverse(shifted):
    video = clip(frames=5, size=(64, 64))
    ahead, back = shifted(video)[-1][0, 2], shifted(video.flip(1))[-1][0, 2]
    assert (ahead - back).abs().max() > 0.01 * ahead.abs().max()


def test_a_shifted_resnet_keeps_clips_apart(shifted):
    video = clip(frames=3, size=(64, 64), clips=2)
    assert torch.allclose(shifted(video)[-1][1], shifted(video[1:])[-1][0], atol=1e-5)


def test_video_swin_has_the_channels_of_its_size():
    with torch.device("meta"):
        channels = {name: build_backbone(name, pretrained=False).channels for name in VARIANTS}
    assert channels["video_swin_t"] == channels["video_swin_s"] == [96, 192, 384, 768]
    assert channels["video_swin_b"] == [128, 256, 512, 1024]


@pytest.mark.parametrize("name", ["resnet18", "timm:resnet10t"])
@torch.no_grad()
def test_image_backbones_see_the_frames_one_by_one(name):
    torch.manual_seed(0)
    backbone, video = build_backbone(name, pretrained=False).eval(), clip(3, clips=2)
    for whole, *alone in zip(backbone(video), *(backbone(video[:, [t]]) for t in range(3)), strict=True):
        torch.testing.assert_close(whole, torch.cat(alone, 1), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_video_swin_sees_the_frames_together_and_clips_apart():
    backbone, video = tiny_swin(), clip(3, clips=2)
    changed = video.clone()
    changed[0, 2] += 1
    for a, b in zip(backbone(video), backbone(changed), strict=True):
        assert (a[0, 0] - b[0, 0]).abs().max() > 1e-4
        torch.testing.assert_close(a[1], b[1], atol=1e-5, rtol=0)


def test_batch_norm_is_frozen_only_under_pretrained_weights():
    for pretrained in (False, True):
        backbone = build_backbone("resnet18", pretrained=pretrained).train()
        before = {k: v.clone() for k, v in backbone.state_dict().items()}
        backbone(clip())[3].sum().backward()
        trained = {k.rsplit(".", 1)[0] for k, p in backbone.named_parameters() if "bn" in k and p.grad is not None}
        moved = [k for k, v in backbone.state_dict().items() if not torch.equal(v, before[k])]
        assert bool(trained) == bool(moved) == (not pretrained)


def test_a_pretrained_resnet_learns_from_its_second_stage_on():
    for pretrained in (False, True):
        backbone = build_backbone("resnet50", pretrained=pretrained).train()
        sum(x.sum() for x in backbone(clip())).backward()
        learning = {name.partition(".")[0] for name, p in backbone.named_parameters() if p.grad is not None}
        assert learning >= {"layer2", "layer3", "layer4"}
        assert ("conv1" in learning, "layer1" in learning) == (not pretrained, not pretrained)


@pytest.mark.parametrize(("flags", "frozen"), [([], True), (["--no-freeze_stem"], False)])
def test_the_stem_of_a_pretrained_resnet_learns_where_the_flag_says_so(flags, frozen):
    net = models.assemble(tiny_args("--backbone_pretrained", "r.pth", *flags), 1, tiny_text_encoder()).backbone
    assert isinstance(net.bn1, FrozenBatchNorm2d)
    early = [net.conv1.weight, *net.layer1.parameters()]
    assert {p.requires_grad for p in early} == {not frozen} and net.layer2[0].conv1.weight.requires_grad


@pytest.mark.parametrize(
    ("name", "most"),
    [("video_swin_t", 0.2), ("video_swin_s", 0.2), ("video_swin_b", 0.2)]
    + [("swin_t_p4w7", 0.2), ("swin_s_p4w7", 0.2), ("swin_b_p4w7", 0.3), ("swin_l_p4w7", 0.3)],
)
def test_blocks_are_skipped_in_training_as_often_as_in_referformers(name, most):
    """The chance rises from 0 in the first block to drop_path_rate, or to what is asked for, in the last."""
    for asked in (None, 0.1):
        with torch.device("meta"):
            backbone = build_backbone(name, pretrained=True, stochastic_depth=asked)
        chances = [m.p for m in backbone.modules() if isinstance(m, StochasticDepth)]
        chances += [m.drop_prob for m in backbone.modules() if isinstance(m, DropPath)]
        assert chances == sorted(chances) and chances[-1] == pytest.approx(asked or most)


@pytest.mark.parametrize("name", ["resnet19", "video_swin_x", "timm:no_such_model", "timm:vit_tiny_patch16_224", ""])
def test_names_that_do_not_serve_are_refused(name):
    with pytest.raises(ValueError, match="--backbone") as raised:
        build_backbone(name, pretrained=False)
    assert name.removeprefix("timm:") in str(raised.value)


# Video Swin weights ------------------------------------------------------------------------------------------------


def official(net: nn.Module) -> dict[str, Tensor]:
    """The weights of a torchvision Video Swin under the names of the official checkpoints."""
    state = {}
    for name, value in net.state_dict().items():
        parts = name.split(".")
        if parts[0] == "features":
            stage, inner = divmod(int(parts[1]), 2)
            parts[:2] = ["layers", str(stage), "downsample" if inner else "blocks"]
        renamed = ".".join(parts).replace("mlp.0.", "mlp.fc1.").replace("mlp.3.", "mlp.fc2.")
        state["cls_head.fc_cls." + parts[1] if parts[0] == "head" else f"backbone.{renamed}"] = value
    return state


@pytest.fixture(scope="module")
def reference() -> SwinTransformer3d:
    """A Video Swin as published: patches of two frames, a classifier."""
    torch.manual_seed(3)
    small = {**TINY_SWIN, "window_size": list(TINY_SWIN["window_size"])}
    return SwinTransformer3d(patch_size=[2, 4, 4], num_classes=4, **small).eval()


@torch.no_grad()
@pytest.mark.parametrize("names", ["official", "torchvision", "module."])
def test_video_swin_gives_on_each_frame_what_the_published_one_gives_on_it_twice(reference, tmp_path, names):
    state = reference.state_dict() if names == "torchvision" else official(reference)
    if names == "module.":
        state = {f"module.{k}": v for k, v in state.items()}
    torch.save({"meta": {"epoch": 30}, "state_dict": state}, tmp_path / "swin.pth")
    backbone, video = VideoSwin(**TINY_SWIN).eval(), clip(5)
    load_pretrained(backbone, tmp_path / "swin.pth")

    x = reference.patch_embed(video.repeat_interleave(2, 1).transpose(1, 2))
    expected = []
    for i, layer in enumerate(reference.features):
        x = layer(x)
        expected += [x.permute(0, 1, 4, 2, 3)] * (i % 2 == 0)
    for got, wanted in zip(backbone(video), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@needs_shared
@torch.no_grad()
def test_video_swin_agrees_with_the_official_code():
    golden = torch.load(SHARED / "golden" / "video_swin_tiny_features.pt", weights_only=True)
    config = {k: v for k, v in golden["config"].items() if k != "patch_size"}
    backbone = VideoSwin(**{**config, "window_size": tuple(config["window_size"])}).eval()
    load_pretrained(backbone, SHARED / "golden" / "video_swin_tiny_checkpoint.pth")
    for case in golden["cases"]:
        for got, wanted in zip(backbone(case["video"]), case["features"], strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("key", "change", "complaint"),
    [
        ("backbone.patch_embed.proj.weight", lambda x: None, "missing: patch_embed.proj.weight"),
        ("backbone.patch_embed.proj.weight", lambda x: x[0, 0, 0, 0], "of another shape: patch_embed.proj.weight"),
        ("backbone.layers.1.blocks.1.mlp.fc1.bias", lambda x: None, "missing: features.2.1.mlp.0.bias"),
        ("backbone.layers.0.downsample.norm.weight", lambda x: x[1:], "of another shape: features.1.norm.weight"),
        (
            "backbone.layers.1.blocks.7.norm1.bias",
            lambda x: torch.ones(8),
            "not of this model: features.2.7.norm1.bias",
        ),
        ("backbone.stranger", lambda x: torch.ones(8), "not of this model: stranger"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_none_is_loaded(reference, tmp_path, key, change, complaint):
    state = official(reference)
    state[key] = change(state.get(key))
    path = tmp_path / "swin.pth"
    torch.save({"state_dict": {k: v for k, v in state.items() if v is not None}}, path)
    backbone = tiny_swin()
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(ValueError, match="do not fit") as raised:
        load_pretrained(backbone, path)
    assert complaint in str(raised.value) and str(path) in str(raised.value)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "does not exist"),
        (b"", "cannot be read"),
        (b"<html>404 Not Found</html>", "cannot be read"),
        (bytes(range(256)) * 4, "cannot be read"),
        (pickle.dumps(Code(), 2), "cannot be read"),
        ([torch.ones(2)], "holds no dictionary of tensors"),
        ({"state_dict": {"a": 3}}, "holds no dictionary of tensors"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_are_no_weights_are_refused(tmp_path, capfd, content, complaint, suffix):
    path = tmp_path / f"weights{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises((ValueError, FileNotFoundError), match="--backbone_pretrained") as raised:
        load_pretrained(tiny_swin(), path)
    assert str(path) in str(raised.value) and "code" not in capfd.readouterr().out
    if suffix == ".pth":
        assert complaint in str(raised.value)


# ResNet and timm weights -------------------------------------------------------------------------------------------


@torch.no_grad()
def test_torchvision_resnet_weights_with_frozen_statistics(tmp_path):
    torch.manual_seed(0)
    published = torchvision.models.resnet18(weights=None).train()
    published(clip()[0])  # moves the running statistics away from 0 and 1
    torch.save(published.state_dict(), tmp_path / "resnet18.pth")
    backbone = build_backbone("resnet18", pretrained=True).train()
    load_pretrained(backbone, tmp_path / "resnet18.pth")
    layers = [f"layer{i}" for i in (1, 2, 3, 4)]
    expected = create_feature_extractor(published.eval(), layers)(clip()[0])
    for got, layer in zip(backbone(clip()), layers, strict=True):
        torch.testing.assert_close(got[0], expected[layer], atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="not of this model: layer1.0.conv3.weight|layer1.0.bn3"):
        torch.save(torchvision.models.resnet50(weights=None).state_dict(), tmp_path / "resnet50.pth")
        load_pretrained(backbone, tmp_path / "resnet50.pth")


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "timm_name"), [("timm:resnet10t", "resnet10t"), ("swin_t_p4w7", SWINS["swin_t_p4w7"][0])]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_timm_weights(tmp_path, name, timm_name, suffix):
    torch.manual_seed(0)
    options = {"strict_img_size": False} if timm_name.startswith("swin") else {}
    published = timm.create_model(timm_name, pretrained=False, **options).eval()
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(published.state_dict(), path)
    # on other sizes timm places Swin's windows in another way than its authors, and always on the last map
    swin = name == "swin_t_p4w7"
    backbone, video = build_backbone(name, pretrained=True).eval(), clip(1, (224, 224) if swin else (64, 96))
    load_pretrained(backbone, path)
    expected = published.forward_intermediates(video[0], indices=4, intermediates_only=True)
    for got, wanted in list(zip(backbone(video), expected, strict=True))[: 3 if swin else 4]:
        torch.testing.assert_close(got[0], wanted, atol=1e-4, rtol=1e-4)
    state = published.state_dict()
    lost = next(k for k in state if "layer" in k)
    del state[lost]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(ValueError, match=r"missing: (net\.)?layer"):
        load_pretrained(backbone, tmp_path / "short.pth")
