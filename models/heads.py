"""Heads on the proxies: dynamic kernels that cut masks out of the mask features, classes and boxes.

Shapes: b samples, t frames, n proxies, c channels, m mask channels, k classes, h w mask size.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers of the given sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for i, (size_in, size_out) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(size_in, size_out)]
    return nn.Sequential(*layers)


class DynamicKernelHead(nn.Module):
    """One 1×1 kernel per proxy and frame, from a two-layer perceptron; masks are kernel · mask features."""

    def __init__(self, *, dim: int, mask_dim: int) -> None:
        super().__init__()
        self.kernel = mlp(dim, dim, mask_dim)

    def forward(self, proxies: Tensor, mask_features: Tensor, last: nn.Conv2d | None = None) -> Tensor:
        """``proxies [b, t, n, c]``, ``mask_features [b, t, m, ...]`` to mask logits ``[b, t, n, ...]``.

        Args:
            last: a 1×1 convolution that the mask features still lack. A kernel times what it makes of them is another
                kernel times themselves, and there are far fewer kernels than pixels.
        """
        kernels = self.kernel(proxies)
        if last is None:
            return _cut(kernels, mask_features)
        masks = _cut(kernels @ last.weight[:, :, 0, 0].to(kernels.dtype), mask_features)
        bias = kernels @ last.bias.to(kernels.dtype)
        return masks + bias.unflatten(-1, (-1, *(1 for _ in masks.shape[3:])))


def _cut(kernels: Tensor, mask_features: Tensor) -> Tensor:
    return torch.einsum("btnm,btmp->btnp", kernels, mask_features.flatten(3)).unflatten(-1, mask_features.shape[3:])


class ReferenceHead(nn.Module):
    """Class logits ``[b, t, n, k]`` and boxes ``[b, t, n, 4]`` (cxcywh in [0, 1])."""

    def __init__(self, *, dim: int, num_classes: int) -> None:
        super().__init__()
        self.classes = nn.Linear(dim, num_classes)
        self.boxes = mlp(dim, dim, dim, 4)
        # start from a 1 % chance of "referred", so that the many negatives do not swamp the first steps
        nn.init.constant_(self.classes.bias, -math.log(99))

    def forward(self, proxies: Tensor) -> tuple[Tensor, Tensor]:
        return self.classes(proxies), self.boxes(proxies).sigmoid()
