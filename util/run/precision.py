"""The types of numbers to compute in: float32, TF32, bfloat16, float16, and where each is worth it."""

from __future__ import annotations

import time
import warnings
from functools import cache

import torch
from torch import Tensor

from util.run import dist

# the name of each type for --amp
AMP = {None: "off", torch.bfloat16: "bf16", torch.float16: "fp16"}
FLOAT32 = ("tf32", "ieee")  # of --float32

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


def use_float32(precision: str, device: torch.device) -> None:
    """Sets how a GPU computes products and convolutions of float32, in this process from now on; a CPU stays exact.

    PyTorch's own default is TF32 in convolutions alone. It has a newer setting, ``fp32_precision``, and refuses to tell
    the older one after the newer was set. ``torch.compile`` asks for the older one up to torch 2.13
    (torch/_inductor/codecache.py, select_algorithm.py), and the newer one follows it. So the older one is set.

    Args:
        precision: "tf32" rounds the factors to TensorFloat-32, which has 11 bits where float32 has 24, and sums up in
            float32; GPUs before Ampere do not have it. "ieee" rounds nothing.

    Raises:
        ValueError: there is no such ``--float32``.
    """
    if precision not in FLOAT32:
        raise ValueError(f"--float32 {precision} is unknown; choose one of {', '.join(FLOAT32)}")
    if device.type != "cuda":
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Please use the new API settings", UserWarning)  # of torch 2.9
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


def settled_float32(precision: str, device: torch.device) -> str | None:
    """How a device computes products of float32 when it is told ``precision``; None for a CPU, which has no choice.

    GPUs have TF32 from compute capability 8 on, Ampere (``is_tf32_supported`` in torch/cuda/__init__.py).
    """
    if device.type != "cuda":
        return None
    return precision if torch.cuda.get_device_capability(device)[0] >= 8 else "ieee"


def in_words(amp: torch.dtype | None, float32: str, device: torch.device) -> str:
    """What a network is computed in, for messages."""
    words = f"{str(amp or torch.float32).removeprefix('torch.')} (--amp {AMP[amp]})"
    if (settled := settled_float32(float32, device)) is None:
        return words
    why = f"--float32 {float32}" if settled == float32 else "this GPU has no TF32"
    return f"{words}; products of float32 in {'TF32' if settled == 'tf32' else 'float32'} ({why})"


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
