"""torch.distributed, with one process being the ordinary case: every function works without a process group."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

# the others wait while one rank scores; that a rank has died is for torchrun to notice
PATIENCE = timedelta(hours=2)


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
        dist.barrier()


def init(device: str | None) -> torch.device:
    """Joins the process group that torchrun or torch.distributed.launch describes, and picks this rank's device.

    Args:
        device: "cuda", "cuda:1", "cpu" …; None takes a GPU when there is one.

    Raises:
        ValueError: a GPU is asked for and there is none, or there are fewer than ranks on this node.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: this machine has no usable GPU; use --device cpu")
    if "RANK" in os.environ and "WORLD_SIZE" in os.environ:
        local = int(os.environ.get("LOCAL_RANK", 0))
        if kind == "cuda":
            if local >= torch.cuda.device_count():
                raise ValueError(f"local rank {local} has no GPU; start at most {torch.cuda.device_count()} per node")
            device = f"cuda:{local}"
            torch.cuda.set_device(local)
        store, number, size = next(dist.rendezvous("env://"))
        # ranks that torchrun has started again would find the addresses of their dead predecessors there
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        backend = "nccl" if kind == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=PATIENCE)
    return torch.device(device)


def shut_down() -> None:
    if active():
        dist.destroy_process_group()


def copy_from_main(state: dict[str, Tensor]) -> None:
    """Gives these tensors, in place, the values they have on rank 0."""
    for value in state.values():
        dist.broadcast(value, 0)


def whole(state: Any) -> Any:
    """Nested plain data, with tensors that are divided among the ranks put together. All ranks take part."""
    if isinstance(state, DTensor):
        return state.full_tensor()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(whole(value) for value in state)
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


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether ``flag`` is True on some rank."""
    if world_size() == 1:
        return flag
    return bool(total(torch.tensor([float(flag)], device=device)).item())


def gather_list(items: list) -> list:
    """The lists of all ranks, one after the other, on rank 0; elsewhere an empty list. Items are plain data."""
    if world_size() == 1:
        return items
    parts = [None] * world_size() if is_main() else None
    dist.gather_object(items, parts)
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
