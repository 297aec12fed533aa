"""torch.distributed for one or several processes. Without a process group, a single process is rank 0 of 1."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from util.run.cli import USER_ERRORS, cause, lacks_memory
from util.run.device import device_of, use_device
from util.run.interrupt import Interrupted
from util.run.watch import RANK_TIMEOUT, Watch

COLLECTIVE_TIMEOUT = 1800  # seconds; ranks wait for the slowest between steps
# the other ranks wait while one rank scores a whole split
LONG_PATIENCE = timedelta(hours=4)

# groups on the CPU; None: the default group
_patient: dist.ProcessGroup | None = None  # for objects and long waits
_prompt: dist.ProcessGroup | None = None  # for what ranks tell each other in every step
_watch: Watch | None = None  # for ranks that die; None: nobody looks


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
def joined(
    device: str | None, rank_timeout: int = RANK_TIMEOUT, collective_timeout: int = COLLECTIVE_TIMEOUT
) -> Iterator[torch.device]:
    """Joins the processes that torchrun or torch.distributed.launch started, and yields the device of this one.

    After an error the process leaves without a message to the others, which may be waiting; torchrun ends them, and on
    other nodes they end by themselves (:mod:`util.run.watch`).

    Args:
        device: "cuda", "cuda:1", "cpu" …; None takes a GPU when there is one.
        rank_timeout: seconds without a sign of life, after which a rank counts as dead and the others end; 0: none.
        collective_timeout: seconds that living ranks wait for each other, except where one rank works for all.

    Raises:
        ValueError: ``device`` is a GPU and there is none, or this node has fewer GPUs than ranks.
    """
    try:
        yield _init(device, rank_timeout, timedelta(seconds=collective_timeout))
    except Interrupted:  # all ranks leave this block together
        shut_down()
        raise
    shut_down()


def _init(name: str | None, rank_timeout: int, collective_timeout: timedelta) -> torch.device:
    global _patient, _prompt, _watch
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
        use_device(device)
        store, number, size = next(dist.rendezvous("env://"))
        # restarted ranks would find the addresses of their dead predecessors in the store
        store = dist.PrefixStore(f"attempt_{restarts()}", store)
        backend = "nccl" if kind == "cuda" else "gloo"
        _watch = Watch(store, number, size, rank_timeout) if rank_timeout and size > 1 else None
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=collective_timeout)
        _patient = dist.new_group(backend="gloo", timeout=LONG_PATIENCE)
        _prompt = dist.new_group(backend="gloo", timeout=collective_timeout) if kind == "cuda" else None
        if _watch:
            _watch.start()
        return device
    return use_device(device)


def shut_down() -> None:
    global _patient, _prompt, _watch
    if _watch:
        _watch.stop()
    _patient = _prompt = _watch = None
    if active():
        dist.destroy_process_group()


def restarts() -> int:
    """How often torchrun has started the processes again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def copy_from_main(state: dict[str, Tensor]) -> None:
    """Copies the values of rank 0 into these tensors on all ranks, in place. Needs a process group."""
    for value in state.values():
        dist.broadcast(value, 0)


def unsharded(state: Any) -> Any:
    """Nested plain data whose sharded tensors are put together on the CPU. All ranks must call it."""
    # one tensor at a time, because the device may lack the memory for all
    return _mapped(lambda x: whole(x).cpu() if isinstance(x, DTensor) else x, state)


def copied_to_main(state: Any) -> Any:
    """A copy of nested plain data on rank 0, whose tensors are whole and on the CPU. All ranks must call it.

    Tensors of a GPU are copied into pinned memory, and waited for once at the end instead of one by one. PyTorch pins
    what such a copy makes (``_to_copy`` in aten/src/ATen/native/TensorConversions.cpp), and keeps the memory for the
    next time.

    Returns:
        On other ranks the same with None for each tensor.
    """
    gpus: set[torch.device] = set()

    def begun(x: Tensor) -> Tensor | None:
        x = whole(x)  # whose memory a GPU uses again for the next one, after the copy
        if not is_main():
            return None
        if x.device.type == "cuda":
            gpus.add(x.device)
        return x.detach().to("cpu", non_blocking=True, copy=True)

    copy = _mapped(begun, state)
    for gpu in gpus:
        torch.cuda.synchronize(gpu)
    return copy


def _mapped(change: Callable[[Tensor], Tensor | None], state: Any) -> Any:
    """A copy of nested plain data, in which its tensors are changed, one after another."""
    if isinstance(state, Tensor):
        return change(state)
    if isinstance(state, dict):
        return {key: _mapped(change, value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_mapped(change, value) for value in state)
    return state


def whole(value: Tensor) -> Tensor:
    """A tensor that may be sharded, put together on its device. All ranks must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def sharded_like(value: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, which every rank has, sharded like ``other`` and on its device."""
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


def of_ranks(*numbers: int) -> list[list[int]]:
    """These numbers of every rank, in rank order. Processes wait for each other, but not for what GPUs still do."""
    if world_size() == 1:
        return [list(numbers)]
    mine = torch.tensor(numbers, dtype=torch.long)
    told = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(told, mine, group=_prompt)
    return [values.tolist() for values in told]


def any_rank(*flags: bool) -> list[bool]:
    """For each flag, whether it is True on any rank; waits as :func:`of_ranks`."""
    return [any(told) for told in zip(*of_ranks(*flags), strict=True)]


def from_main(value: Any) -> Any:
    """The value that rank 0 gave; plain data."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, 0, group=_patient)
    return box[0]


def agree(error: Exception | None = None) -> None:
    """Waits for all ranks (:data:`LONG_PATIENCE`). If one of them has an error, all ranks raise it.

    Raises:
        Exception: this rank's own error; another rank's is an OSError.
    """
    if world_size() > 1:
        told: list[str | None] = [None] * world_size()
        dist.all_gather_object(told, error and cause(error), group=_patient)
        if error is None and any(told):
            raise OSError(f"another process: {next(reason for reason in told if reason)}")
    if error:
        raise error


@contextmanager
def together() -> Iterator[None]:
    """At the end of the block all ranks wait for each other; an error on one rank that :func:`can_be_shared` is raised
    on all, as by :func:`agree`."""
    error = None
    try:
        yield
    except Exception as reason:
        if not can_be_shared(reason):
            raise
        error = reason
    agree(error)


def can_be_shared(error: Exception) -> bool:
    """Whether an error is no fault of the program: one in a user's files, of numbers that are not finite, a lack of
    memory, or a process for scoring that was ended."""
    return isinstance(error, (*USER_ERRORS, BrokenExecutor)) or lacks_memory(error)


def gather_list(items: list) -> list:
    """The lists of all ranks in one, on rank 0; other ranks get an empty list. Items are plain data."""
    if world_size() == 1:
        return items
    parts = [None] * world_size() if is_main() else None
    dist.gather_object(items, parts, group=_patient)
    return [item for part in parts for item in part] if is_main() else []


class _AllGather(torch.autograd.Function):
    """all_gather, whose backward sums the gradients of all ranks for the rows of this rank."""

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


def gather_rows(x: Tensor, counts: Sequence[int]) -> Tensor:
    """Rows ``[b_r, …]`` of all ranks, in rank order, with gradient.

    Args:
        counts: the number of rows b_r of each rank, from :func:`of_ranks`.
    """
    if world_size() == 1:
        return x
    parts = _AllGather.apply(torch.cat((x, x.new_zeros(max(counts) - len(x), *x.shape[1:]))))
    return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
