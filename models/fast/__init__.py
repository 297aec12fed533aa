"""What gives the numbers of the model in less time or memory, applied to a built model from outside.

The model knows none of this. :func:`for_inference` and :func:`for_training` change the forward passes of modules
(:mod:`models.fast.forms`); every form is tested against the module that it replaces.

=============================  ================================================================================
:mod:`window_attention`        Video Swin's windows by number, without padding, rolling or masks of maps
:mod:`arrangement`             the numbers, kept for each size of a map
:mod:`segmenter`               convolutions before upsampling, folded laterals, the last 1×1 in the kernels
:mod:`upsampling`              the convolutions of upsampled maps
:mod:`referformer`             ReferFormer frame by frame, its mask features taken into the dynamic convolutions
:mod:`pixel_decoder`           its words taken into the projections of attention
:mod:`deformable`              its deformable attention as weighted sums of rows
:mod:`feed_forward`            its feed-forward layers, some tokens at a time
:mod:`linear`                  linear layers as convolutions, on a CPU
:mod:`weights`                 folded batch norms, weights stored in the type of the products
:mod:`norms`                   group norm on contiguous maps, in training
:mod:`recompute`               activation checkpointing
=============================  ================================================================================
"""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from models.fast.deformable import FastEncoderLayer, GatheredAttention
from models.fast.forms import lay_off_form, take_form
from models.fast.linear import convolve_linears
from models.fast.norms import ContiguousGroupNorm
from models.fast.pixel_decoder import FastBlock, WordAttention
from models.fast.referformer import FastReferFormer, FoldedMaskHead
from models.fast.segmenter import FastSegmenter, SmoothedLateral
from models.fast.weights import fold_batch_norms, store_as_computed
from models.fast.window_attention import InferenceBlock, TrainedAttention
from models.network import Network
from models.proxyformer import ProxyFormer
from models.referformer import ReferFormer


def for_inference(model: Network, amp: torch.dtype | None) -> None:
    """Gives a model the forms for inference, whatever forms it had.

    Afterwards the model cannot train, and its weights are no longer those of a checkpoint. To score a model that will
    train further, copy it first.

    Args:
        amp: type of the computation; None: float32.
    """
    model.eval()
    for module in list(model.modules()):
        lay_off_form(module)
        if isinstance(module, SwinTransformerBlock) and isinstance(module.attn, ShiftedWindowAttention3d):
            take_form(module, InferenceBlock)
    if isinstance(model, ProxyFormer):
        take_form(model.segmenter, FastSegmenter)
        for lateral in model.segmenter.mask_decoder.lateral:
            take_form(lateral, SmoothedLateral)
    else:
        _take_forms_of_referformer(model)
    fold_batch_norms(model)
    store_as_computed(model, amp)
    convolve_linears(model)


def for_training(model: Network) -> None:
    """Gives a model the forms for training. The names of its parameters, and their gradients, stay as they are."""
    for module in list(model.modules()):
        if isinstance(module, ShiftedWindowAttention3d):
            take_form(module, TrainedAttention)
    convolve_linears(model)
    if isinstance(model, ProxyFormer):
        for module in model.segmenter.modules():
            if isinstance(module, nn.GroupNorm):
                take_form(module, ContiguousGroupNorm)


def _take_forms_of_referformer(model: ReferFormer) -> None:
    take_form(model, FastReferFormer)
    take_form(model.mask_head, FoldedMaskHead)
    take_form(model.fusion, WordAttention)
    for block in model.pixel_decoder.blocks:
        take_form(block, FastBlock)
        take_form(block.multihead_attn, WordAttention)
    for layer in model.transformer.encoder:
        take_form(layer, FastEncoderLayer)
        take_form(layer.self_attn, GatheredAttention)
    for layer in model.transformer.decoder:
        take_form(layer.cross_attn, GatheredAttention)
