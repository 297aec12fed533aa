"""A GPU that is pretended, so that tests on a CPU find what would fail, or would wait, on CUDA.

Within :func:`pretended_gpu` there is a device cuda:0. Its tensors say so, to Python and to torch's dispatcher, and the
CPU computes their numbers. So autograd, CUDA's autocast and GradScaler do what they do on a GPU. What mixes tensors of
both devices raises, as on CUDA. What makes the CPU wait for the GPU is counted.

Not seen are CUDA's own kernels and their rounding; waits in the formulas of autograd itself, which torch computes in
another way for tensors of a subclass (count ``aten::item`` in a backward pass on a CPU instead); how long it takes to
allocate pinned memory and to ask the driver; the reducer of DistributedDataParallel, and FSDP.

It takes private parts of torch, so it is for one version; and CUDA must find no GPU. Much of what it changes stays
changed, so use it in a process of its own, and compute on the CPU first what is to be compared.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from tests.helpers import ROOT

VERSION = "2.15."
GPU, CPU = torch.device("cuda:0"), torch.device("cpu")

aten, DEVICE_OF = torch.ops.aten, torch.ops.prim.device.default
COPYING = {aten.copy_.default, aten._to_copy.default}
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
# numbers on the GPU decide the size of a result, or are asked for
COUNTING = {
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten._local_scalar_dense.default: "item",
    aten.equal.default: "equal",
    aten.unique_dim.default: "unique",
    aten._unique2.default: "unique",
    aten.repeat_interleave.Tensor: "repeat_interleave",
}
# what CUDA computes and the CPU does not
OF_CUDA = {
    aten._fused_sdp_choice.default: lambda *_, **__: 0,  # plain products
    aten._softmax.default: lambda x, dim, to_float: torch._softmax(x.float() if to_float else x, dim, False),
    aten._softmax_backward_data.default: lambda gradient, y, dim, dtype: torch._softmax_backward_data(
        gradient, y, dim, gradient.dtype
    ).to(dtype),
}

_run_thread, _run_backward = threading.Thread.run, torch.autograd._engine_run_backward

needs_pretended_gpu = pytest.mark.skipif(
    not torch.__version__.startswith(VERSION) or torch.cuda.is_available(),
    reason=f"the pretended GPU takes private parts of torch {VERSION}*, this is {torch.__version__}; and no GPU may be "
    'visible (CUDA_VISIBLE_DEVICES="")',
)


class OnGpu(Tensor):
    """A tensor of the pretended GPU. Its memory is that of ``held``, a plain tensor."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: GPU)

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        made = Tensor._make_subclass(cls, held, False, dispatch_device=True, device_for_backend_keys=GPU)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        assert func is DEVICE_OF, f"{func} outside of pretended_gpu()"
        return _place()

    def __deepcopy__(self, memo: dict[int, object]) -> Tensor:
        """Without its gradient, as torch copies a parameter."""
        if id(self) not in memo:
            made = self.detach().clone()
            memo[id(self)] = nn.Parameter(made, self.requires_grad) if isinstance(self, nn.Parameter) else made
        return memo[id(self)]

    def tolist(self) -> list:
        return self.cpu().tolist()

    def numpy(self) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")


class Device(TorchDispatchMode):
    """Takes every operation of a thread, and has the CPU compute it.

    Args:
        waits: counts what makes the CPU wait, by file, function and kind.
    """

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is DEVICE_OF:
            return _place()
        if _is_whole(func):
            with self:
                return func.decompose(*args, **kwargs)
        tensors = list(_tensors((args, *kwargs.values())))
        here, there = [x for x in tensors if type(x) is OnGpu], [x for x in tensors if type(x) is not OnGpu]
        asked = kwargs.get("device")
        to_gpu = bool(here) if asked is None else torch.device(asked).type == "cuda"
        if not there and _in_formula():  # what it makes for itself
            to_gpu = True
        if to_gpu and asked is not None:
            kwargs = kwargs | {"device": CPU}
        self._judge(func, args, kwargs, here, there, to_gpu)
        compute = OF_CUDA.get(func, func) if to_gpu else func
        found = compute(*_held(args), **{name: _held(value) for name, value in kwargs.items()})
        # what is changed in place stays the same tensor
        same = {id(x.held): x for x in here} | {id(x): x for x in there}
        return _as_on_gpu(found, same) if to_gpu else found

    def _judge(self, func, args, kwargs, here: list[OnGpu], there: list[Tensor], to_gpu: bool) -> None:
        """Counts a wait, or raises, where CUDA would wait or raise for these tensors of the GPU and of the CPU."""
        if func.namespace == "c10d":
            return self._judge_message(func, args, here, there)
        if func in COPYING:
            crosses = (bool(here) or to_gpu) and (bool(there) or not to_gpu)
            later = kwargs.get("non_blocking") or (func is aten.copy_.default and len(args) > 2 and args[2])
            # a copy to the CPU that need not be waited for is made in pinned memory, unless the place for it is given
            if crosses and not (later and all(getattr(x, "pinned", False) for x in there)):
                self._wait("copy")
            return None
        if func in INDEXING and type(args[0]) is OnGpu:
            indices = [x for x in args[1] if x is not None]
            filled = func is not aten.index.Tensor and args[2].numel() == 1
            if any(type(x) is not OnGpu or (x.dtype == torch.bool and not filled) for x in indices):
                self._wait("index")
            there = [x for x in there if all(x is not index for index in indices)]
        elif func in COUNTING and here:
            self._wait(COUNTING[func])
        takes_numbers = func in INDEXING or torch.Tag.pointwise in func.tags
        if here and any(x.ndim or not takes_numbers for x in there):
            found = [(str(x.device), tuple(x.shape)) for x in here + there]
            raise RuntimeError(f"{func}: expected all tensors on one device, got {found}")

    def _judge_message(self, func, args, here: list[OnGpu], there: list[Tensor]) -> None:
        """The default process group is NCCL's on a GPU; others are on the CPU."""
        of = [
            dist.ProcessGroup.unbox(x) for x in args if isinstance(x, torch.ScriptObject) and "Group" in str(x._type())
        ]
        if not all(x.is_contiguous() for x in here) or (there and dist.group.WORLD in of):
            raise RuntimeError(f"{func}: NCCL takes contiguous tensors of a GPU")

    def _wait(self, why: str) -> None:
        self.waits[f"{_where()}: {why}"] += 1


def _where() -> str:
    """The file and the function of this repository that is running."""
    frame = sys._getframe(1)
    while frame and not _ours(frame.f_code.co_filename):
        frame = frame.f_back
    if not frame:
        return "elsewhere"
    function = frame.f_code.co_qualname.split(".<locals>")[0]
    return f"{Path(frame.f_code.co_filename).relative_to(ROOT)} {function}"


@cache
def _ours(file: str) -> bool:
    """Whether it is a file of this repository, but not this one."""
    path = Path(file)
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts and file != __file__


@cache
def _is_whole(func) -> bool:
    """Whether an operation is made of others; in inference mode these come as a whole."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _tensors(x: object) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, list | tuple):
        for value in x:
            yield from _tensors(value)


def _held(x: object) -> object:
    """``x`` with plain tensors for those of the GPU."""
    if type(x) is OnGpu:
        return x.held
    return type(x)(map(_held, x)) if type(x) in (list, tuple) else x


def _as_on_gpu(x: object, same: dict[int, Tensor]) -> object:
    """``x`` with tensors of the GPU for plain ones; ``same``: what stands for some of these."""
    if isinstance(x, Tensor):
        return same[id(x)] if id(x) in same else OnGpu(x)
    return type(x)(_as_on_gpu(value, same) for value in x) if type(x) in (list, tuple) else x


# whether a backward pass runs
_in_backward = False


def _in_formula() -> bool:
    """Whether a formula of autograd itself calls, not a backward pass written in Python."""
    if not _in_backward:
        return False
    frame = sys._getframe(1)
    while frame.f_code.co_filename.endswith((__file__, "torch/_compile.py", "eval_frame.py")):
        frame = frame.f_back
    return frame.f_code.co_name == "_engine_run_backward"


def _place() -> torch.device:
    """Where a tensor of the GPU is; the engine of autograd would look for streams of a real one."""
    return CPU if _in_formula() else GPU


def _backward(*args, **kwargs):
    global _in_backward
    _in_backward = True
    try:
        return _run_backward(*args, **kwargs)
    finally:
        _in_backward = False


def _pinned(x: Tensor) -> Tensor:
    x = x.clone()
    x.pinned = True
    return x


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Within, there is a GPU. Yields what has waited for it: file, function and kind, and how often."""
    waits: Counter[str] = Counter()

    def run(thread: threading.Thread) -> None:
        with Device(waits):  # which is of one thread
            _run_thread(thread)

    fakes = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.device_count": lambda: 1,
        "torch.cuda.is_bf16_supported": lambda including_emulation=True: True,
        "torch.cuda.get_device_capability": lambda device=None: (8, 0),
        "torch.cuda.mem_get_info": lambda device=None: (1 << 40, 1 << 40),
        "torch.cuda.memory_reserved": lambda device=None: 0,
        "torch.cuda.set_device": lambda device: None,
        "torch.cuda.synchronize": lambda device=None: waits.update([f"{_where()}: synchronize"]),
        "torch.cuda.get_rng_state": lambda device=None: torch.get_rng_state(),
        "torch.cuda.set_rng_state": lambda state, device=None: None,
        "torch.cuda.amp.common.amp_definitely_not_available": lambda: False,
        "torch.autograd._engine_run_backward": _backward,
        "torch.Tensor.pin_memory": _pinned,
        "threading.Thread.run": run,
    }
    torch._C._ensureCUDADeviceGuardSet()
    if (
        torch._C._get_privateuse1_backend_name() != "pretended"
    ):  # autograd asks an accelerator for streams; this has some
        _setup_privateuseone_for_python_backend("pretended")
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # model.to() makes new parameters
    with ExitStack() as stack:
        for name, value in fakes.items():
            stack.enter_context(mock.patch(name, value))
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(Device(waits))
        yield waits
