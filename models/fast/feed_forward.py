"""Feed-forward layers for inference, a few tokens at a time, so that their wide results stay in the cache.

Shapes: n tokens, c channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# (CPU, GPU)
TOKENS_AT_ONCE = (1 << 14, 1 << 18)


def tokens_at_once(device: torch.device) -> int:
    """How many tokens a layer works on together."""
    return TOKENS_AT_ONCE[device.type == "cuda"]


def parts(rows: Tensor) -> list[slice]:
    """Which of ``rows [n, …]`` a layer works on together."""
    step = tokens_at_once(rows.device)
    return [slice(start, min(start + step, len(rows))) for start in range(0, len(rows), step)]


def add_fed(rows: Tensor, first: nn.Linear, second: nn.Linear, norm: nn.LayerNorm) -> None:
    """``norm(rows + second(relu(first(rows))))`` in the place of ``rows [n, c]``."""
    for part in parts(rows):
        some = rows[part]
        rows[part] = norm(some + second(first(some).relu_()))
