"""The operations of a network, counted without computing them: PyTorch's device "meta" has tensors without numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from models.network import Network
from tools.profile_model import EXPRESSION


@dataclass(frozen=True)
class Work:
    """What one inference takes, without padding, of the network as the papers describe it.

    Attributes:
        flops: of convolutions and matrix products, by torch's counter; a multiplication and an addition are two.
        layers: multiply-adds with the weights of Linear and convolution layers alone. Products of attention and the
            projections of ``nn.MultiheadAttention``, which are no Linear layers, are left out.
    """

    flops: int
    layers: int


def count(model: Network, frames: int, size: tuple[int, int]) -> Work:
    """Counts one clip with one expression. The model is on the device "meta" afterwards, and useless.

    Args:
        model: in its plain form, on any device; the words are encoded there.
        size: height and width.
    """
    model = model.eval().requires_grad_(False)
    flops, layers = FlopCounterMode(display=False), _Layers(model)
    # every version of torch counts the products of the plain attention kernel, but not those of the others
    with torch.no_grad(), flops, layers, sdpa_kernel(SDPBackend.MATH):
        words = _moved(model.encode_text([EXPRESSION]))
        layers.follow(model.to("meta"))
        video = torch.empty(1, frames, 3, *size, device="meta")
        features = model.encode_video(video, None).of(torch.zeros(1, dtype=torch.long, device="meta"))
        model.decode(features, words)
    return Work(flops.get_total_flops(), layers.total)


def _moved(words: object) -> object:
    """A dataclass with its tensors on the device "meta"."""
    values = {field.name: getattr(words, field.name) for field in dataclasses.fields(words)}
    return dataclasses.replace(words, **{k: v.to("meta") if isinstance(v, Tensor) else v for k, v in values.items()})


class _Layers(TorchDispatchMode):
    """Counts multiply-adds with weights of Linear and convolution layers, also where a function applies them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.total = 0
        self.follow(model)

    def follow(self, model: nn.Module) -> None:
        """Takes the weights that the model has now; its parameters are others after a move."""
        layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | _ConvNd)]
        self._weights = [layer.weight for layer in layers]  # kept, so that no other storage gets their addresses
        self._storages = {weight.untyped_storage()._cdata for weight in self._weights}

    def __torch_dispatch__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula and any(isinstance(x, Tensor) and x.untyped_storage()._cdata in self._storages for x in args):
            self.total += formula(*args, **(kwargs or {}), out_val=out) // 2
        return out
