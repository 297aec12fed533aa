"""Weights of a model that is for inference only: with batch norms taken in, and in the type of the products."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from models.backbone import ResNet, ShiftedResNet
from models.proxyformer import ProxyFormer


def fold_batch_norms(model: ProxyFormer) -> None:
    """Takes the batch norms of a ResNet into the convolutions before them, which spares a pass over every map.

    The numbers are the same but for rounding. The model is for inference afterwards: there is nothing left to train in
    the norms, and its weights are no longer those of a checkpoint.
    """
    if not isinstance(model.backbone, ResNet | ShiftedResNet):
        return  # elsewhere a norm need not follow what stands before it
    for module in list(model.backbone.modules()):
        for (_, conv), (name, norm) in pairwise(list(module.named_children())):
            conv = conv[-1] if isinstance(conv, nn.Sequential) else conv  # a stem of several
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
                statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
                conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
                setattr(module, name, nn.Identity())


def store_as_computed(model: ProxyFormer, amp: torch.dtype | None) -> None:
    """Stores weights in the type that autocast would make of them in every forward pass, and keep beside them.

    Those are most of the weights: linear layers and convolutions of the encoders and the CMIE. Their results are the
    same to the last bit. The model is for inference in this type afterwards.

    Args:
        amp: what is computed in; None: float32, and nothing changes.
    """
    if amp is None:
        return
    for part in (model.backbone, model.text_encoder, model.cmie):
        for module in part.modules():
            # not what is derived from them: that may make something of its weights before they are cast
            if type(module) in (nn.Linear, nn.Conv2d, nn.Conv3d):
                module.to(amp)
