"""Changes to the weights of a model for inference: batch norms are folded, and weights stored in the computed type."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from models.backbone import ResNet, ShiftedResNet
from models.network import Network


def fold_batch_norms(model: Network) -> None:
    """Folds the batch norms of a ResNet into the convolutions before them, which saves a pass over every map.

    The numbers are the same up to rounding. Afterwards the model cannot train any more, and its weights are no longer
    those of a checkpoint.
    """
    if not isinstance(model.backbone, ResNet | ShiftedResNet):
        return  # in other backbones a norm need not follow the module that is listed before it
    for module in list(model.backbone.modules()):
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            conv = conv[-1] if isinstance(conv, nn.Sequential) else conv  # a stem of several convolutions
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
                setattr(module, name, nn.Identity())


def store_as_computed(model: Network, amp: torch.dtype | None) -> None:
    """Stores weights in the type to which autocast would cast them in every forward pass.

    These are the linear layers and convolutions of the encoders and the CMIE, which hold most of the weights. The
    results are the same to the last bit. Afterwards the model is for inference in this type only.

    Args:
        amp: type of the computation; None: float32, and nothing changes.
    """
    if amp is None:
        return
    for part in (model.backbone, model.text_encoder, *model.stages()):
        for module in part.modules():
            # subclasses are left out: they may use their weights before autocast casts them
            if type(module) in (nn.Linear, nn.Conv2d, nn.Conv3d):
                module.to(amp)
