"""Which tokens of a Video Swin read each other: the arrangement of a map, kept for each size.

A block of torchvision's SwinTransformer3d pads its input to whole windows, rolls it, copies it into windows, and hides
from each other what a rolled window joins from opposite ends of the map. Here the tokens of a map are numbered. Each
window, or each part of it that lies on one side of such a seam, is a list of the numbers of its tokens.

All padding of a block has the same key and the same value, because it is zero before the projection. So the padding
that a part reads is one more token at its end, whose bias is the logarithm of the sum of the exponentials of theirs.

Shapes: t h w tokens of a clip; w parts of a tokens, which read k = a tokens, with padding a + 1; p places of padding.
"""

from __future__ import annotations

import itertools
import math
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
    """Windows, or parts of windows, of the same form.

    Attributes:
        tokens: int32 ``[w, k]``, numbers of the tokens in a clip; in the last place stands padding, if there is any.
        real: long ``[a]``, the places of the tokens in a window.
        padding: long ``[p]``, the places of the padding that they read.
    """

    tokens: Tensor
    real: Tensor
    padding: Tensor

    def added(self, bias: Tensor, dtype: torch.dtype) -> Tensor:
        """What attention adds to its scores ``[q, a, k]``, from the bias of all places of a window."""
        if len(self.real) == bias.shape[-1]:
            return bias.to(dtype)
        of_real = bias.index_select(1, self.real)
        added = of_real.index_select(2, self.real)
        if len(self.padding):
            of_padding = of_real.index_select(2, self.padding).logsumexp(-1, keepdim=True)
            added = torch.cat((added, of_padding), -1)
        return added.to(dtype)


@dataclass(frozen=True)
class Arrangement:
    """The windows of a map; padding has the number t h w."""

    groups: tuple[Group, ...]

    @property
    def nbytes(self) -> int:
        """The memory that the tensors take, in bytes."""
        return sum(x.nbytes for group in self.groups for x in (group.tokens, group.real, group.padding))


@dataclass(frozen=True)
class Permutation(Arrangement):
    """The windows of a map; the padding of each part has a number of its own, from t h w on.

    So every row is fetched once, and the gradient of the fetching is a permutation, too.

    Attributes:
        padding: how many there are.
        tokens: int32, the tokens and paddings of all parts, group by group; ``tokens_back``: its inverse.
        real: int32, for each token of a clip where it is among those without padding, group by group; ``real_back``:
            its inverse.
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


@dataclass(frozen=True)
class _Stretch:
    """What a window, or its part on one side of a seam, covers of an axis.

    Attributes:
        start: the first token; real: how many tokens; length: the same with padding; place: the first in the window.
    """

    start: int
    real: int
    length: int
    place: int

    @property
    def form(self) -> tuple[int, int, int]:
        """What stretches have in common that share a bias."""
        return self.real, self.length, self.place


def _stretches(size: int, window: int, shift: int) -> list[_Stretch]:
    """Those of an axis that hold tokens; in a rolled axis the last window lies half at the end, half at the start."""
    end = -(-size // window) * window
    cuts = [(start, min(window, end - start), 0) for start in range(shift, end, window)]
    cuts += [(0, shift, window - shift)] * (shift > 0)
    return [_Stretch(start, min(length, size - start), length, place) for start, length, place in cuts if start < size]


def _box(starts: Sequence[int], lengths: Sequence[int], size: Size) -> Tensor:
    """Numbers of the tokens of a box in a map of ``size``: int32 ``[n]``."""
    t, h, w = (
        torch.arange(start, start + length, dtype=torch.int32, device="cpu")
        for start, length in zip(starts, lengths, strict=True)
    )
    return ((t[:, None, None] * size[1] + h[:, None]) * size[2] + w).flatten()


def _arrange(size: Size, window: Size, shift: Size, device: torch.device) -> Arrangement:
    count = math.prod(size)
    forms: dict[tuple, list[tuple[int, ...]]] = {}
    for axes in itertools.product(*map(_stretches, size, window, shift)):
        forms.setdefault(tuple(x.form for x in axes), []).append(tuple(x.start for x in axes))
    groups = []
    for form, starts in forms.items():
        lengths, padded, places = zip(*form, strict=True)
        real, whole = _box(places, lengths, window).long(), _box(places, padded, window).long()
        padding = whole[torch.isin(whole, real, invert=True)]
        first = [(t * size[1] + h) * size[2] + w for t, h, w in starts]
        tokens = torch.tensor(first, dtype=torch.int32)[:, None] + _box((0, 0, 0), lengths, size)
        groups += [F.pad(tokens, (0, int(len(padding) > 0)), value=count), real, padding]
    moved = iter(_moved(groups, device))
    return Arrangement(tuple(Group(*parts) for parts in zip(moved, moved, moved, strict=True)))


def _permute(size: Size, window: Size, shift: Size, device: torch.device) -> Permutation:
    count = math.prod(size)
    groups = _arrange(size, window, shift, torch.device("cpu")).groups
    tokens = torch.cat([group.tokens.flatten() for group in groups])
    padding = tokens == count
    tokens = torch.where(padding, count - 1 + padding.cumsum(0), tokens)
    real_back = torch.cat([group.tokens[:, : len(group.real)].flatten() for group in groups])
    orders = [order.int() for order in (tokens, _inverse(tokens), _inverse(real_back), real_back)]
    places = (x for group in groups for x in (group.real, group.padding))
    tokens, tokens_back, real, real_back, *places = _moved([*orders, *places], device)
    parts = tokens.split([group.tokens.numel() for group in groups])
    groups = tuple(
        Group(part.view(group.tokens.shape), seen, empty)
        for group, part, seen, empty in zip(groups, parts, places[::2], places[1::2], strict=True)
    )
    return Permutation(groups, int(padding.sum()), tokens, tokens_back, real, real_back)


def _inverse(order: Tensor) -> Tensor:
    """Where each number stands in a permutation ``[n]``."""
    inverse = torch.empty_like(order)
    inverse[order.long()] = torch.arange(len(order), dtype=order.dtype)
    return inverse


def _moved(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of the CPU on another device. A GPU gets all in one copy, for which the CPU does not wait."""
    if device.type != "cuda":
        return [x.to(device) for x in tensors]
    packed, places = packed_together(tensors)
    packed = packed.pin_memory().to(device, non_blocking=True)
    return [unpacked(packed, place, x) for x, place in zip(tensors, places, strict=True)]


def packed_together(tensors: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
    """The bytes of all tensors, uint8 ``[n]``, and where each begins."""
    places, end = [], 0
    for x in tensors:
        places.append(end)
        end += -(-x.nbytes // ALIGNED) * ALIGNED
    packed = torch.zeros(end, dtype=torch.uint8)
    for x, place in zip(tensors, places, strict=True):
        packed[place : place + x.nbytes] = x.flatten().view(torch.uint8)
    return packed, places


def unpacked(packed: Tensor, place: int, like: Tensor) -> Tensor:
    """The tensor that begins at ``place``, with the type and shape of ``like``; a view of ``packed``."""
    return packed[place : place + like.nbytes].view(like.dtype).view(like.shape)


arrange = Kept(_arrange)
permute = Kept(_permute)
