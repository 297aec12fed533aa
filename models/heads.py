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

    def forward(self, proxies: Tensor, mask_features: Tensor) -> Tensor:
        """``proxies [b, t, n, c]``, ``mask_features [b, t, m, h, w]`` to mask logits ``[b, t, n, h, w]``."""
        return torch.einsum("btnm,btmhw->btnhw", self.kernel(proxies), mask_features)


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
