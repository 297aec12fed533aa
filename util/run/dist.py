"""torch.distributed, with one process being the ordinary case: every function works without a process group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from util.run.interrupt import Interrupted

# between steps ranks wait for the slowest; that one has died is for torchrun to notice
PATIENCE = timedelta(minutes=30)
# the others wait while one rank scores a whole split
LONG_PATIENCE = timedelta(hours=4)

_patient: dist.ProcessGroup | None = None  # of the CPU, for objects and long waits; None: the ordinary one


def active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if active() else 0


def world_size() -> int:
    return dist.get_world_size() if active() else 1


def is_main() -> bool:
    return rank() == 0


def barrier() -> None:
    if active():
        dist.barrier(group=_patient)


@contextmanager
def joined(device: str | None) -> Iterator[torch.device]:
    """Within, this process is one of those that torchrun or torch.distributed.launch started; yields its device.

    After an error it leaves without a word to the others, which may be waiting for something else: torchrun ends them.

    Args:
        device: "cuda", "cuda:1", "cpu" …; None takes a GPU when there is one.

    Raises:
        ValueError: a GPU is asked for and there is none, or there are fewer than ranks on this node.
    """
    try:
        yield _init(device)
    except Interrupted:  # which all ranks are together
        shut_down()
        raise
    shut_down()


def device_of(name: str | torch.device | None) -> torch.device:
    """The device of that name; None takes a GPU where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device {name} is not the name of one; give cuda, cuda:1 or cpu") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {name}: this machine has no usable GPU; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs, counted from cuda:0")
    return device


def _init(name: str | None) -> torch.device:
    global _patient
    device = device_of(name)
    kind = device.type
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        local = int(os.environ.get("LOCAL_RANK", 0))
        if kind == "cuda":
            if device.index is not None:
                raise ValueError(f"--device {device}: each rank takes a GPU of its own; choose by CUDA_VISIBLE_DEVICES")
            if local >= torch.cuda.device_count():
                raise ValueError(f"local rank {local} has no GPU; start at most {torch.cuda.device_count()} per node")
            device = torch.device("cuda", local)
            torch.cuda.set_device(local)
        store, number, size = next(dist.rendezvous("env://"))
        # ranks that torchrun has started again would find the addresses of their dead predecessors there
        store = dist.PrefixStore(f"attempt_{restarts()}", store)
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=PATIENCE)
        _patient = dist.new_group(backend="gloo", timeout=LONG_PATIENCE)
    return device


def shut_down() -> None:
    global _patient
    _patient = None
    if active():
        dist.destroy_process_group()


def restarts() -> int:
    """How often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def copy_from_main(state: dict[str, Tensor]) -> None:
    """Gives these tensors, in place, the values they have on rank 0."""
    for value in state.values():
        dist.broadcast(value, 0)


def whole(state: Any, *, everywhere: bool = True) -> Any:
    """Nested plain data, with tensors that are divided among the ranks put together on the CPU. All ranks take part.

    Args:
        everywhere: on all ranks; else None takes their place where it is not rank 0.
    """
    if isinstance(state, DTensor):
        value = state.full_tensor()  # one at a time on the device, which may not hold all of them
        return value.cpu() if everywhere or is_main() else None
    if isinstance(state, dict):
        return {key: whole(value, everywhere=everywhere) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value, everywhere=everywhere) for value in state)
    return state


def divided_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which every rank has, divided as ``other`` is; on its device."""
    value = value.to(other.device)
    if isinstance(other, DTensor):
        return distribute_tensor(value, other.device_mesh, other.placements, src_data_rank=None)
    return value


def total(value: Tensor) -> Tensor:
    """Sum of a tensor over all ranks; no gradient."""
    value = value.detach().clone()
    if active():
        dist.all_reduce(value)
    return value


def any_rank(*flags: bool, device: torch.device) -> list[bool]:
    """Of each flag, whether it is True on some rank."""
    if world_size() == 1:
        return list(flags)
    return [value > 0 for value in total(torch.tensor([float(flag) for flag in flags], device=device)).tolist()]


def from_main(value: Any) -> Any:
    """What rank 0 gave; plain data."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0, group=_patient)
    return box[0]


def agree(error: OSError | ValueError | None = None) -> None:
    """Waits for all ranks, however long; where one of them has met an error, all raise it.

    Raises:
        OSError: another rank's error, or, like a ValueError, this rank's own.
    """
    if world_size() > 1:
        told: list[str | None] = [None] * world_size()
        dist.all_gather_object(told, error and str(error), group=_patient)
        if error is None and any(told):
            raise OSError(f"another process: {next(reason for reason in told if reason)}")
    if error:
        raise error


@contextmanager
def together() -> Iterator[None]:
    """At its end all ranks wait for each other, and what one of them has met with of a user's files is an error of all.

    Raises:
        OSError, ValueError: as :func:`agree`.
    """
    error = None
    try:
        yield
    except (OSError, ValueError) as reason:
        error = reason
    agree(error)


def gather_list(items: list) -> list:
    """The lists of all ranks, one after the other, on rank 0; elsewhere an empty list. Items are plain data."""
    if world_size() == 1:
        return items
    parts = [None] * world_size() if is_main() else None
    dist.gather_object(items, parts, group=_patient)
    return [item for part in parts for item in part] if is_main() else []


class _AllGather(torch.autograd.Function):
    """all_gather whose backward sums what every rank wants of this rank's rows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        return gradient[rank()]


def gather_rows(x: Tensor) -> Tensor:
    """Rows ``[b_r, …]`` of all ranks, in rank order, with gradient; ranks may hold different numbers of rows."""
    if world_size() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    most = int(max(counts))
    parts = _AllGather.apply(torch.cat((x, x.new_zeros(most - len(x), *x.shape[1:]))))
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])
