"""Which tokens make the windows of a Video Swin: the arrangement of a map, kept for each size.

A block of torchvision's SwinTransformer3d pads its input to whole windows, rolls it and copies it into windows. Here
the tokens of a map are numbered, and each window is a list of numbers. Windows with the same padding and the same seams
(a rolled map joins what lies at opposite ends) form a group, whose attention has one bias and one mask.

Shapes: t h w tokens of a clip; w windows of k tokens, of which a are real.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from util.run.memory import total_bytes

# Arrangements may take a 32nd of the memory of a device, so that a GPU with 16 GiB keeps all sizes of a training. With
# the usual short sides and crops, and the padding to multiples of 32 pixels, videos of 1280x720 make about 90 sizes
# (counted over 20,000 clips). The largest takes 5.1 MB with 5 frames in training, 8.5 MB with 8.
SHARE = 32
ALIGNED = 16  # bytes; tensors that are copied together begin at multiples of this
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Group:
    """Windows with the same padding and the same seams.

    Attributes:
        tokens: int32 ``[w, k]``, numbers of the tokens in a clip; numbers from t h w on are padding.
        real: long ``[a]``, the places in a window that hold tokens. What padding reads in attention is of no use.
        hidden: bool ``[a, k]``, which places a real place does not see; None: it sees all.
    """

    tokens: Tensor
    real: Tensor
    hidden: Tensor | None

    @property
    def whole(self) -> bool:
        """Whether there is no padding."""
        return len(self.real) == self.tokens.shape[1]

    def added(self, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """What attention adds to its scores ``[q, a, k]``: the bias ``[q, k, k]``, and -100 for hidden places."""
        added = bias if self.whole else bias[:, self.real]
        return (added if self.hidden is None else added - 100.0 * self.hidden).to(dtype)


@dataclass(frozen=True)
class Arrangement:
    """The windows of a map; every padding has the number t h w."""

    groups: tuple[Group, ...]

    @property
    def nbytes(self) -> int:
        """The memory that the tensors take, in bytes."""
        tensors = (x for group in self.groups for x in (group.tokens, group.real, group.hidden) if x is not None)
        return sum(x.nbytes for x in tensors)


@dataclass(frozen=True)
class Permutation(Arrangement):
    """The windows of a map; every padding has a number of its own, from t h w on.

    So every row is fetched once, and the gradient of the fetching is a permutation, too.

    Attributes:
        padding: how many there are.
        tokens: int32, the tokens and paddings of all windows, group by group; ``tokens_back``: its inverse.
        real: int32, for each token of a clip where it is among the real places, group by group; ``real_back``: its
            inverse.
    """

    padding: int
    tokens: Tensor
    tokens_back: Tensor
    real: Tensor
    real_back: Tensor

    @property
    def nbytes(self) -> int:
        """The memory that the tensors take, in bytes."""
        # ``tokens`` are counted with the groups, whose tokens are views of them
        return super().nbytes + sum(x.nbytes for x in (self.tokens_back, self.real, self.real_back))


Kind = TypeVar("Kind", bound=Arrangement)


class Kept(Generic[Kind]):
    """Arrangements by size, window, shift and device; on each device they take a bounded share of the memory.

    Where a new one exceeds :data:`SHARE`, those that were not used for longest are dropped.

    Args:
        make: computes one on the device.

    Attributes:
        made: how many were computed.
    """

    def __init__(self, make: Callable[[Size, Size, Size, torch.device], Kind]) -> None:
        self._make = make
        self._kept: dict[torch.device, OrderedDict[tuple[Size, Size, Size], Kind]] = {}
        self._taken: dict[torch.device, int] = {}  # bytes
        self.made = 0

    def __call__(self, size: Size, window: Size, shift: Size, device: torch.device) -> Kind:
        """The windows of a map of ``size`` tokens, shifted by ``shift``; sizes as time, height, width."""
        kept, key = self._kept.setdefault(device, OrderedDict()), (size, window, shift)
        if key not in kept:
            with torch.inference_mode(False):  # what inference arranges may serve training later
                kept[key] = self._make(size, window, shift, device)
            self.made += 1
            taken, limit = self._taken.get(device, 0) + kept[key].nbytes, total_bytes(device) // SHARE
            while len(kept) > 1 and taken > limit:
                taken -= kept.popitem(last=False)[1].nbytes
            self._taken[device] = taken
        kept.move_to_end(key)
        return kept[key]

    def forget(self) -> None:
        """Drops all arrangements."""
        self._kept.clear()
        self._taken.clear()
        self.made = 0


def _arrange(size: Size, window: Size, shift: Size, device: torch.device) -> Arrangement:
    count = size[0] * size[1] * size[2]
    numbers = torch.arange(count, dtype=torch.int32, device="cpu").view(size)
    pad = [n for s, w in zip(reversed(size), reversed(window), strict=True) for n in (0, -s % w)]
    numbers = F.pad(numbers, pad, value=count)
    padded = numbers.shape
    numbers = numbers.roll([-s for s in shift], (0, 1, 2))
    # at the end of a rolled axis lies what was at its start; in the last windows each of the two sees only itself
    parts = torch.zeros_like(numbers)
    for axis, (length, moved) in enumerate(zip(padded, shift, strict=True)):
        parts.narrow(axis, length - moved, moved).add_(1 << axis)

    def cut(x: Tensor) -> Tensor:
        """``[t, h, w]`` to ``[windows, places of a window]``."""
        x = x.unflatten(2, (-1, window[2])).unflatten(1, (-1, window[1])).unflatten(0, (-1, window[0]))
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, window[0] * window[1] * window[2])

    tokens, parts = cut(numbers), cut(parts)
    kinds, kind = torch.stack((parts, (tokens == count).int()), -1).unique(dim=0, return_inverse=True)
    groups = []
    for i, (part, padding) in enumerate(zip(*kinds.unbind(-1), strict=True)):
        real = (padding == 0).nonzero()[:, 0]
        hidden = part[real][:, None] != part
        groups.append((tokens[kind == i], real, hidden if hidden.any() else None))
    moved = iter(_moved([x for group in groups for x in group], device))
    return Arrangement(tuple(Group(*parts) for parts in zip(moved, moved, moved, strict=True)))


def _permute(size: Size, window: Size, shift: Size, device: torch.device) -> Permutation:
    count = size[0] * size[1] * size[2]
    groups = _arrange(size, window, shift, torch.device("cpu")).groups
    tokens = torch.cat([group.tokens.flatten() for group in groups])
    padding = tokens == count
    tokens = torch.where(padding, count - 1 + padding.cumsum(0), tokens)
    real_back = torch.cat([group.tokens[:, group.real].flatten() for group in groups])
    orders = [order.int() for order in (tokens, _inverse(tokens), _inverse(real_back), real_back)]
    places = (x for group in groups for x in (group.real, group.hidden))
    tokens, tokens_back, real, real_back, *places = _moved([*orders, *places], device)
    parts = tokens.split([group.tokens.numel() for group in groups])
    groups = tuple(
        Group(part.view(group.tokens.shape), seen, hidden)
        for group, part, seen, hidden in zip(groups, parts, places[::2], places[1::2], strict=True)
    )
    return Permutation(groups, int(padding.sum()), tokens, tokens_back, real, real_back)


def _inverse(order: Tensor) -> Tensor:
    """Where each number stands in a permutation ``[n]``."""
    inverse = torch.empty_like(order)
    inverse[order.long()] = torch.arange(len(order), dtype=order.dtype)
    return inverse


def _moved(tensors: Sequence[Tensor | None], device: torch.device) -> list[Tensor | None]:
    """Tensors of the CPU on another device. A GPU gets all in one copy, for which the CPU does not wait."""
    if device.type != "cuda":
        return [None if x is None else x.to(device) for x in tensors]
    packed, places = packed_together(tensors)
    packed = packed.pin_memory().to(device, non_blocking=True)
    return [None if x is None else unpacked(packed, place, x) for x, place in zip(tensors, places, strict=True)]


def packed_together(tensors: Sequence[Tensor | None]) -> tuple[Tensor, list[int]]:
    """The bytes of all tensors, uint8 ``[n]``, and where each begins."""
    places, end = [], 0
    for x in tensors:
        places.append(end)
        end += 0 if x is None else -(-x.nbytes // ALIGNED) * ALIGNED
    packed = torch.zeros(end, dtype=torch.uint8)
    for x, place in zip(tensors, places, strict=True):
        if x is not None:
            packed[place : place + x.nbytes] = x.flatten().view(torch.uint8)
    return packed, places


def unpacked(packed: Tensor, place: int, like: Tensor) -> Tensor:
    """The tensor that begins at ``place``, with the type and shape of ``like``; a view of ``packed``."""
    return packed[place : place + like.nbytes].view(like.dtype).view(like.shape)


arrange = Kept(_arrange)
permute = Kept(_permute)
