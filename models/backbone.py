"""Visual backbones behind one interface.

Every backbone turns a clip ``[v, t, 3, h, w]`` into four feature maps ``[v, t, c_i, h_i, w_i]``, finest first.
``strides`` (4, 8, 16, 32) and ``channels`` describe the maps. Image backbones see each frame alone. ``blocks()`` are
the modules that run in turn. ``working`` estimates memory at inference: how many numbers per pixel of a frame a
backbone holds besides the maps (measured).
"""

from __future__ import annotations

import re
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import torchvision
from einops import rearrange
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.swin_transformer import SwinTransformerBlock
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from models.video_swin import VARIANTS, VideoSwin, convert_weights
from util.weights.checkpoint import load_weights, read_plain
from util.weights.names import renamed, unwrapped

# ``working`` of a stem of 64 channels at half the resolution
STEM = 70
RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
# ReferFormer's names for image Swin, timm's, and the largest chance that a block is skipped in training
# (drop_path_rate in models/swin_transformer.py of github.com/wjn922/ReferFormer)
SWINS = {
    "swin_t_p4w7": ("swin_tiny_patch4_window7_224", 0.2),
    "swin_s_p4w7": ("swin_small_patch4_window7_224", 0.2),
    "swin_b_p4w7": ("swin_base_patch4_window7_224", 0.3),
    "swin_l_p4w7": ("swin_large_patch4_window7_224", 0.3),
}

# Names of other parts in files that contain a backbone: classifiers of mmaction, timm and torchvision; parts of
# ReferFormer (models/referformer.py) and of DETR (models/segmentation.py), which share names; parts of mmsegmentation
# (mmseg/models/segmentors/encoder_decoder.py) and mmdetection (mmdet/models/detectors/two_stage.py).
OTHER_PARTS = ("cls_head.", "head.", "fc.", "classifier.")
OTHER_PARTS += ("transformer.", "class_embed.", "bbox_embed.", "query_embed.", "input_proj.", "text_encoder.")
OTHER_PARTS += ("resizer.", "fusion_module.", "pixel_decoder.", "controller.", "bbox_attention.", "mask_head.")
OTHER_PARTS += ("neck.", "decode_head.", "auxiliary_head.", "shared_head.", "rpn_head.", "roi_head.", "bbox_head.")
# buffers that Microsoft's Swin stores and timm computes
_TABLES = (".relative_position_index", ".attn_mask", ".relative_coords_table")

# ResNets whose blocks see the neighbouring frames: timm's name and the channels of the four maps
SHIFTED = {
    "tsm_resnet10": ("resnet10t", (64, 128, 256, 512)),
    "tsm_resnet10_half": ("resnet10t", (32, 64, 128, 256)),
}


class ResNet(nn.Module):
    """torchvision ResNet. From random weights all of it is trained.

    Args:
        name: one of :data:`RESNETS`.
        pretrained: batch norms use the stored statistics and are never trained.
        freeze_stem: of a pretrained one the stem and the first stage are frozen, too (BackboneBase in
            models/backbone.py of github.com/wjn922/ReferFormer).
    """

    strides = (4, 8, 16, 32)

    def __init__(self, name: str, *, pretrained: bool, freeze_stem: bool = True) -> None:
        super().__init__()
        norm = FrozenBatchNorm2d if pretrained else nn.BatchNorm2d
        net = getattr(torchvision.models, name)(weights=None, norm_layer=norm)
        self.conv1, self.bn1, self.relu, self.maxpool = net.conv1, net.bn1, net.relu, net.maxpool
        self.layer1, self.layer2, self.layer3, self.layer4 = net.layer1, net.layer2, net.layer3, net.layer4
        width = net.fc.in_features
        self.channels = [width // 8, width // 4, width // 2, width]
        self.working = STEM
        if pretrained and freeze_stem:
            self.conv1.requires_grad_(False)
            self.layer1.requires_grad_(False)

    def blocks(self) -> list[nn.Module]:
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def forward(self, video: Tensor) -> list[Tensor]:
        x = _as_images(video)
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for layer in self.blocks():
            x = layer(x)
            maps.append(rearrange(x, "(v t) c h w -> v t c h w", v=video.shape[0]))
        return maps


class TimmBackbone(nn.Module):
    """Any timm model with feature maps at strides 4, 8, 16 and 32.

    Args:
        name: of the model in timm.
        options: of the model in timm, instead of its defaults.

    Raises:
        ValueError: timm has no such model, or its feature maps have other strides.
    """

    strides = (4, 8, 16, 32)
    cell = 32  # images are padded to a multiple of it

    def __init__(self, name: str, **options: object) -> None:
        super().__init__()
        if name.startswith("swin_"):
            options["strict_img_size"] = False
        try:
            self.net = timm.create_model(name, pretrained=False, features_only=True, **options)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(f"--backbone: timm cannot make feature maps from {name!r}: {error}") from error
        info = [(i["reduction"], i["num_chs"], k) for k, i in enumerate(self.net.feature_info)]
        chosen = [(c, k) for r, c, k in info if r in self.strides]
        if len(chosen) != len(self.strides):
            raise ValueError(
                f"--backbone: timm's {name!r} has maps at strides {[r for r, _, _ in info]}; 4, 8, 16, 32 are needed"
            )
        self.channels = [c for c, _ in chosen]
        self._picked = [k for _, k in chosen]
        self.working = max(STEM, 11 * max(c / r**2 for r, c, _ in info if r in self.strides))
        channels_last = getattr(self.net, "output_fmt", None) == timm.layers.Format.NHWC
        self._layout = "h w c" if channels_last else "c h w"

    def blocks(self) -> list[nn.Module]:
        return [self.net]

    def forward(self, video: Tensor) -> list[Tensor]:
        # pad to whole cells: some models need them, others drop an incomplete cell at the edge
        h, w = video.shape[-2:]
        images = _as_images(F.pad(video, (0, -w % self.cell, 0, -h % self.cell)))
        maps = self.net(images)
        pattern = f"(v t) {self._layout} -> v t c h w"
        return [
            rearrange(maps[k], pattern, v=video.shape[0])[..., : -(-h // stride), : -(-w // stride)]
            for k, stride in zip(self._picked, self.strides, strict=True)
        ]


class _PaddedBlock(SwinTransformerBlock):
    """A block of image Swin that pads the map before it moves it, as the publishers' code does; timm does it after.

    Source: SwinTransformerBlock.forward in models/swin_transformer.py of github.com/wjn922/ReferFormer, and in
    mmdet/models/backbones/swin_transformer.py of SwinTransformer/Swin-Transformer-Object-Detection. Published weights
    were trained so.
    """

    def _attn(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        padded = F.pad(x, (0, 0, 0, -w % self.window_size[1], 0, -h % self.window_size[0]))
        return super()._attn(padded)[:, :h, :w]


class ImageSwin(TimmBackbone):
    """timm's Swin on maps of any size. The image is padded to whole patches, and no further.

    Args:
        name: of the model in timm; stochastic_depth: the largest chance that a block is skipped in training.
    """

    cell = 4

    def __init__(self, name: str, stochastic_depth: float) -> None:
        super().__init__(name, drop_path_rate=stochastic_depth)
        for block in self.net.modules():
            if type(block) is SwinTransformerBlock:
                block.__class__ = _PaddedBlock
                # timm does not move maps that were one window in training
                block.shift_size = block.target_shift_size


class ShiftedResNet(TimmBackbone):
    """A small ResNet that sees motion: temporal shift (TSM, Lin et al., arXiv 1811.08383).

    The first convolution of every residual block reads an eighth of its channels from the next frame and an eighth
    from the frame before, which costs no arithmetic. The first and the last frame use their own channels in place of
    the missing neighbour, so a still image has the same features as a video of equal frames.

    Args:
        name: of a ResNet in timm; channels: of the four maps.
    """

    def __init__(self, name: str, channels: tuple[int, ...]) -> None:
        super().__init__(name, channels=channels)
        self._frames = 1
        for block in self.net.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                block.conv1.register_forward_pre_hook(self._shift)

    def forward(self, video: Tensor) -> list[Tensor]:
        self._frames = video.shape[1]
        return super().forward(video)

    def _shift(self, _: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        """``[(v t), c, h, w]`` to the same shape."""
        (x,) = inputs
        if self._frames == 1:
            return inputs
        x = x.unflatten(0, (-1, self._frames))
        share = x.shape[2] // 8
        coming, passed, own = x.split((share, share, x.shape[2] - 2 * share), dim=2)
        coming = torch.cat((coming[:, 1:], coming[:, -1:]), dim=1)
        passed = torch.cat((passed[:, :1], passed[:, :-1]), dim=1)
        x = torch.cat((coming, passed, own), dim=2).flatten(0, 1)
        return (x.contiguous(memory_format=torch.channels_last),)


def _as_images(video: Tensor) -> Tensor:
    """``[v, t, 3, h, w]`` to ``[(v t), 3, h, w]`` in channels-last memory, in which convolutions are faster."""
    return rearrange(video, "v t c h w -> (v t) c h w").contiguous(memory_format=torch.channels_last)


def build_backbone(
    name: str, *, pretrained: bool, freeze_stem: bool = True, stochastic_depth: float | None = None
) -> nn.Module:
    """The backbone called ``name``, with random weights.

    Args:
        name: ``resnet18/34/50/101``, ``video_swin_t/s/b`` (also ``…_p4w7``), ``swin_t/s/b/l_p4w7``,
            ``tsm_resnet10``, ``tsm_resnet10_half``, ``timm:NAME``.
        pretrained: pretrained weights will be loaded, so a ResNet's batch norm is frozen.
        freeze_stem: and so are its stem and its first stage; of other backbones nothing is.
        stochastic_depth: largest chance that a block of a Swin or Video Swin is skipped in training; None:
            ReferFormer's. No other backbone skips blocks.

    Raises:
        ValueError: there is no such backbone.
    """
    if name in RESNETS:
        return ResNet(name, pretrained=pretrained, freeze_stem=freeze_stem)
    depth = {} if stochastic_depth is None else {"stochastic_depth": stochastic_depth}
    if name.removesuffix("_p4w7") in VARIANTS:
        return VideoSwin(**VARIANTS[name.removesuffix("_p4w7")] | depth)
    if name in SHIFTED:
        return ShiftedResNet(*SHIFTED[name])
    if name in SWINS:
        timm_name, usual = SWINS[name]
        return ImageSwin(timm_name, **{"stochastic_depth": usual} | depth)
    if name.startswith("timm:"):
        return TimmBackbone(name.removeprefix("timm:"))
    known = [*RESNETS, *VARIANTS, *SWINS, *SHIFTED, "timm:NAME"]
    raise ValueError(f"--backbone {name!r} is unknown; choose one of {', '.join(known)}")


def _read_state(path: Path) -> dict[str, Tensor]:
    """The parameters in a weights file, which may lie within a dictionary under one of the usual keys."""
    if not path.is_file():
        raise FileNotFoundError(
            f"--backbone_pretrained: {path} does not exist; pretrained_weights/README.md lists the files"
        )
    if path.suffix == ".safetensors":  # the form on timm's hub
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"--backbone_pretrained: {path} cannot be read: {error}") from error
    state = read_plain(path, f"--backbone_pretrained: {path}")
    for wrapping in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"--backbone_pretrained: {path} holds no dictionary of tensors")
    return state


def load_pretrained(backbone: nn.Module, path: str | Path) -> None:
    """Loads published weights into a backbone, all of them or none.

    The file may be of torchvision, timm, Microsoft's Swin or Video Swin, or of a model of the DETR family. Its other
    parts (:data:`OTHER_PARTS`), such as classifiers, are ignored.

    Raises:
        FileNotFoundError, ValueError: the file is missing or unreadable, or names the parameters that do not fit.
    """
    source = f"--backbone_pretrained {path}"
    load_weights(backbone, named_as_ours(backbone, _read_state(Path(path)), source), source)


def named_as_ours(backbone: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """Published weights under the names of a backbone, without other parts; the names may have prefixes.

    Raises:
        ValueError: naming ``source``; two names become one, or its attention windows are of another size.
    """
    target, prefix = backbone, ""
    if isinstance(backbone, TimmBackbone):
        target, prefix = backbone.net, "net."
    if all(name.startswith("model.") for name in target.state_dict()):  # timm wraps some networks so
        target, prefix = target.model, f"{prefix}model."
    wanted = target.state_dict()
    state = unwrapped(state, wanted, source, OTHER_PARTS)
    if isinstance(backbone, TimmBackbone):
        state = _timm_feature_names(state, set(wanted), source)
    else:
        state = {k: v for k, v in state.items() if not k.startswith(OTHER_PARTS)}
    if isinstance(backbone, VideoSwin):
        state = convert_weights(state, wanted, source)
    if isinstance(backbone, ResNet):
        frozen = any(isinstance(m, FrozenBatchNorm2d) for m in backbone.modules())
        if frozen:
            state = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    _require_same_windows(state, wanted, source)
    return {prefix + name: value for name, value in state.items()}


def _timm_feature_names(state: dict[str, Tensor], wanted: set[str], source: str) -> dict[str, Tensor]:
    """The state under the names of timm's feature wrapper, which flattens ``layers.0.…`` to ``layers_0.…`` and has no
    head or final norm.

    In Microsoft's Swin (models/swin_transformer.py of microsoft/Swin-Transformer) a stage ends with the merging of
    patches, in timm the next stage begins with it (checkpoint_filter_fn in timm/models/swin_transformer.py); the order
    of the four patches is the same. Swin's tables of positions are dropped: they follow from the size of the windows.
    """
    merges_last = any(name.startswith("layers.0.downsample.") for name in state) and not any(
        name.startswith(("layers.0.downsample.", "layers_0.downsample.")) for name in wanted
    )

    def own_name(name: str) -> str | None:
        if merges_last:
            name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name)
        flat = re.sub(r"^([^.]+)\.([^.]+)\.", r"\1_\2.", name)
        if name in wanted or flat in wanted:
            return name if name in wanted else flat
        no_part = name.startswith((*OTHER_PARTS, "norm.", "conv_head.", "bn2."))
        # norm0 to norm3 follow the stages in ReferFormer's models/swin_transformer.py
        return None if no_part or name.endswith(_TABLES) or re.match(r"norm[0-3]\.", name) else name

    return renamed(state, own_name, source)


def _require_same_windows(state: dict[str, Tensor], wanted: dict[str, Tensor], source: str) -> None:
    """Raises ValueError where a Swin's bias tables belong to windows of another size.

    ReferFormer refuses such files, too: torch's load_state_dict raises for different shapes, strict or not.
    """
    for name in wanted:
        if name.endswith("relative_position_bias_table") and name in state and state[name].ndim == 2:
            here, there = len(wanted[name]), len(state[name])
            if here != there:
                raise ValueError(
                    f"the weights of {source} do not fit: they are of a Swin with other attention windows ({name} has "
                    f"{there} rows, not {here}); take the file for windows of this --backbone, window7 of swin_…_p4w7 "
                    "and window877 of video_swin_… (pretrained_weights/README.md)"
                )
