"""The device that a program computes on."""

from __future__ import annotations

import torch

from util.run.memory import keep_large_buffers


def device_of(name: str | torch.device | None) -> torch.device:
    """The device called ``name``; None takes a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is not the name of a device; give cuda, cuda:1 or cpu") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this machine has no usable GPU; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return device


def use_device(name: str | torch.device | None) -> torch.device:
    """:func:`device_of`, on which this program computes from now on; to be called before anything is computed.

    A GPU with a number becomes the current one. Otherwise what names no number, as pinned memory and questions to the
    driver, would mean the first GPU and take memory there. On a CPU, large buffers are kept
    (:mod:`util.run.memory`); beside a GPU they would hold up to 2 GB in every process, for little computation.
    """
    device = device_of(name)
    if device.type == "cpu":
        keep_large_buffers()
    elif device.index is not None:
        torch.cuda.set_device(device)
    return device
