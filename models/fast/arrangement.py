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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from util.run.memory import total_bytes

# Arrangements may take a 32nd of the memory of a device, so that a GPU with 16 GiB keeps all sizes of a training. With
# the usual short sides and crops, and the padding to multiples of 32 pixels, videos of 1280x720 make about 90 sizes
# (counted over 20,000 clips). The largest takes 4.4 MB with 5 frames, 7.0 MB with 8.
SHARE = 32
ALIGNED = 16  # bytes; tensors that are copied together begin at multiples of this
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Group:
    """Windows, or parts of windows, of the same form.

    Attributes:
        windows: how many there are.
        box: which places of a window their tokens fill.
        padded: whether they read padding.
    """

    windows: int
    box: tuple[slice, slice, slice]
    padded: bool

    @property
    def real(self) -> int:
        """How many tokens each has, without padding."""
        return math.prod(x.stop - x.start for x in self.box)

    @property
    def seen(self) -> int:
        """How many tokens each reads, with padding."""
        return self.real + self.padded


@dataclass(frozen=True)
class Permutation:
    """The windows of a map, group by group, and the numbers of their tokens in this order.

    The padding of each part has a number of its own, from t h w on. So training fetches every row once, and the
    gradient of the fetching is a permutation, too.

    Attributes:
        groups: in this order.
        window: the size of a whole window.
        padding: how many parts read padding.
        places: float32 ``[p, padded groups]``, one for each of the p places of a window with padding that they read.
        tokens: int32, the tokens and paddings of all parts; ``tokens_back``: its inverse.
        real: int32, for each token of a clip where it is among those without padding; ``real_back``: its inverse,
            which is the numbers of the tokens in this order.
    """

    groups: tuple[Group, ...]
    window: Size
    padding: int
    places: Tensor
    tokens: Tensor
    tokens_back: Tensor
    real: Tensor
    real_back: Tensor

    @property
    def nbytes(self) -> int:
        """The memory that the tensors take, in bytes."""
        return sum(x.nbytes for x in (self.places, self.tokens, self.tokens_back, self.real, self.real_back))

    def added(self, bias: Tensor, dtype: torch.dtype) -> list[Tensor]:
        """What attention adds to the scores of each group ``[q, a, k]``, from the bias of all places of a window."""
        of_padding = iter(self._of_padding(bias).to(dtype).unbind(-1) if self.places.shape[1] else ())
        of_places, found = bias.to(dtype), []
        for group in self.groups:
            of_real = of_places
            if group.real < of_places.shape[-1]:
                pairs = of_places.unflatten(2, self.window).unflatten(1, self.window)
                of_real = pairs[(slice(None), *group.box, *group.box)].flatten(4).flatten(1, 3)
            if group.padded:
                more = next(of_padding).unflatten(1, self.window)[(slice(None), *group.box)].flatten(1)
                of_real = torch.cat((of_real, more[..., None]), -1)
            found.append(of_real)
        return found

    def _of_padding(self, bias: Tensor) -> Tensor:
        """The bias of all padding that a part reads, as of one token: ``[q, p, padded groups]``."""
        with torch.autocast(bias.device.type, enabled=False):
            highest = bias.detach().amax((1, 2), keepdim=True)
            return ((bias - highest).exp() @ self.places.to(bias.dtype)).log() + highest

    def pieces(self, at_once: int) -> Iterator[list[tuple[int, int]]]:
        """Windows in their order, without padding at most ``at_once`` tokens together, but at least one window.

        Yields:
            Numbers of groups, and how many windows of each.
        """
        piece, room = [], at_once
        for i, group in enumerate(self.groups):
            left = group.windows
            while left:
                taken = min(left, max(room // group.real, 0 if piece else 1))
                if taken:
                    piece.append((i, taken))
                    left, room = left - taken, room - taken * group.real
                if left:
                    yield piece
                    piece, room = [], at_once
        yield piece


class Kept:
    """Permutations by size, window, shift and device; on each device they take a bounded share of the memory.

    Where a new one exceeds :data:`SHARE`, those that were not used for longest are dropped.

    Args:
        make: computes one on the device.

    Attributes:
        made: how many were computed.
    """

    def __init__(self, make: Callable[[Size, Size, Size, torch.device], Permutation]) -> None:
        self._make = make
        self._kept: dict[torch.device, OrderedDict[tuple[Size, Size, Size], Permutation]] = {}
        self._taken: dict[torch.device, int] = {}  # bytes
        self.made = 0

    def __call__(self, size: Size, window: Size, shift: Size, device: torch.device) -> Permutation:
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
        """Drops all permutations."""
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


def _box(lengths: Sequence[int], size: Size) -> Tensor:
    """Numbers of the tokens of a box in the corner of a map of ``size``: int32 ``[n]``."""
    t, h, w = (torch.arange(length, dtype=torch.int32, device="cpu") for length in lengths)
    return ((t[:, None, None] * size[1] + h[:, None]) * size[2] + w).flatten()


def _permute(size: Size, window: Size, shift: Size, device: torch.device) -> Permutation:
    count = math.prod(size)
    forms: dict[tuple, list[tuple[int, ...]]] = {}
    for axes in itertools.product(*map(_stretches, size, window, shift)):
        forms.setdefault(tuple(x.form for x in axes), []).append(tuple(x.start for x in axes))
    groups, tokens, places = [], [], []
    for form, starts in forms.items():
        box, whole = (tuple(slice(x[2], x[2] + x[i]) for x in form) for i in (0, 1))
        group = Group(len(starts), box, padded=box != whole)
        groups.append(group)
        corners = torch.tensor([(t * size[1] + h) * size[2] + w for t, h, w in starts], dtype=torch.int32, device="cpu")
        numbers = corners[:, None] + _box([x[0] for x in form], size)
        tokens.append(F.pad(numbers, (0, group.padded), value=count).flatten())
        if group.padded:
            places.append(torch.zeros(window, device="cpu"))
            places[-1][whole] = 1
            places[-1][box] = 0
    tokens = torch.cat(tokens)
    padding = tokens == count
    real_back = tokens[~padding]
    tokens = torch.where(padding, count - 1 + padding.cumsum(0), tokens).int()
    places = torch.stack(places, -1).flatten(0, 2) if places else torch.zeros(math.prod(window), 0, device="cpu")
    orders = tokens, _inverse(tokens), _inverse(real_back), real_back
    return Permutation(tuple(groups), window, int(padding.sum()), *_moved([places, *orders], device))


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


permute = Kept(_permute)
