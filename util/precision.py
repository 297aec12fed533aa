"""Whether to compute in bfloat16."""

from __future__ import annotations

import time
from functools import cache

import torch

from util import dist

# Below this, rounding costs more than the time it saves.
_WORTH = 1.3


@cache
def bf16_speedup() -> float:
    """How many times faster this CPU multiplies matrices in bfloat16 than in float32, measured.

    One without instructions for it emulates it: with AVX2 alone it is a hundred times slower. PyTorch's own flags for
    such instructions are private, and of some kinds of processors only.
    """

    def seconds(dtype: torch.dtype) -> float:
        # Small enough to be done in tens of milliseconds where it is emulated.
        a = torch.ones(256, 256, dtype=dtype)
        fastest = float("inf")
        for _ in range(4):  # the first one sets the kernels up
            start = time.perf_counter()
            (a @ a).sum().item()
            fastest = min(fastest, time.perf_counter() - start)
        return fastest

    return seconds(torch.float32) / seconds(torch.bfloat16)


def use_bf16(amp: str, device: torch.device) -> bool:
    """Whether ``--amp`` means bfloat16 autocast on this device; ``auto`` takes it where it is faster."""
    if amp == "off":
        return False
    if device.type != "cpu":
        return amp == "bf16" or torch.cuda.is_bf16_supported(including_emulation=False)
    speedup = bf16_speedup()
    if amp == "bf16" and speedup < 1 and dist.is_main():
        print(
            f"--amp bf16: this CPU multiplies {1 / speedup:.0f} times slower in bfloat16; --amp auto would not use it"
        )
    return amp == "bf16" or speedup > _WORTH


def inference_amp(trained: str) -> str:
    """The ``--amp`` of inference, unless it is asked for, by that of the training."""
    # It was for speed, and on another machine it may be the slower one.
    return "auto" if trained == "bf16" else trained
