"""The types of numbers to compute in: float32, bfloat16, float16, and where each is worth it."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch import Tensor

from util.run import dist

# the name of each type for --amp
AMP = {None: "off", torch.bfloat16: "bf16", torch.float16: "fp16"}

# Below this speedup, the loss of precision is not worth the time saved.
_WORTH = 1.3


@cache
def cpu_speedup(half: torch.dtype) -> float:
    """How many times faster this CPU multiplies matrices in a half precision than in float32, measured.

    A CPU without such instructions emulates them a hundred times slower. PyTorch's own flags for these instructions are
    private, and exist for some kinds of processors only.
    """

    def seconds(dtype: torch.dtype) -> float:
        # small: takes only tens of milliseconds where half precision is emulated
        a = torch.ones(256, 256, dtype=dtype)
        fastest = float("inf")
        for _ in range(4):  # the first product sets up the kernels
            start = time.perf_counter()
            (a @ a).sum().item()
            fastest = min(fastest, time.perf_counter() - start)
        return fastest

    return seconds(torch.float32) / seconds(half)


def amp_dtype(amp: str, device: torch.device) -> torch.dtype | None:
    """The type in which ``--amp`` computes on this device; None: float32. ``auto`` takes bfloat16 where it is faster.

    Raises:
        ValueError: there is no such ``--amp``.
    """
    if amp not in (*AMP.values(), "auto"):
        raise ValueError(f"--amp {amp} is unknown; choose one of {', '.join(AMP.values())}, auto")
    if amp == "off":
        return None
    half = torch.float16 if amp == "fp16" else torch.bfloat16
    if device.type == "cpu":
        speedup = cpu_speedup(half)
        if amp != "auto" and speedup < 1 and dist.is_main():
            print(
                f"--amp {amp}: this CPU multiplies {1 / speedup:.0f} times slower in {amp} than in float32; --amp auto "
                "would compute in float32"
            )
        fast = speedup > _WORTH
    else:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    return half if amp != "auto" or fast else None


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Autocast to ``dtype`` for operations that may lose precision; without autocast where it is None."""
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def precise(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it is that: the precision of losses and boxes, also under autocast."""
    return x if x.dtype == torch.float64 else x.float()


def inference_amp(trained: str) -> str:
    """The default ``--amp`` of inference, from that of the training."""
    # Half precision was chosen for speed, and may be slower on another machine.
    return trained if trained == "off" else "auto"
