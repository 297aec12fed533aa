"""Feed-forward layers for inference, a few tokens at a time, so that their wide results stay in the cache.

Shapes: n tokens, c channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# (CPU, GPU)
TOKENS_AT_ONCE = (8192, 1 << 18)


def parts(rows: Tensor) -> list[slice]:
    """Which of ``rows [n, …]`` a layer works on together."""
    step = TOKENS_AT_ONCE[rows.device.type == "cuda"]
    return [slice(start, min(start + step, len(rows))) for start in range(0, len(rows), step)]


def add_fed(rows: Tensor, first: nn.Linear, second: nn.Linear, norm: nn.LayerNorm) -> None:
    """``norm(rows + second(relu(first(rows))))`` in the place of ``rows [n, c]``."""
    for part in parts(rows):
        some = rows[part]
        rows[part] = norm(some + product(product(some, first).relu_(), second))


def product(rows: Tensor, layer: nn.Linear) -> Tensor:
    """The layer of ``rows [n, c]``; on a CPU as a 1×1 convolution, which is up to a third faster than a product there."""
    if rows.device.type != "cpu":
        return layer(rows)
    pixels = rows.view(1, 1, *rows.shape).permute(0, 3, 1, 2)
    found = F.conv2d(pixels, layer.weight[:, :, None, None], layer.bias)
    return found.permute(0, 2, 3, 1).reshape(len(rows), -1)
