"""Window attention of Video Swin without padding, shifting or masking whole maps: the same numbers, for inference.

A block of torchvision's SwinTransformer3d pads its input to whole windows, rolls it, copies it into windows, and adds a
bias and a mask to a matrix of all pairs of tokens. Here tokens stay where they are; each window fetches its own by
number, and windows that are cut in the same way share one bias.

Shapes: v clips, t h w tokens of a clip, c channels; w windows of k tokens, q heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.swin_transformer import SwinTransformerBlock

# on a CPU few enough for what a layer makes of them to stay in the cache; on a GPU enough to fill it
TOKENS_AT_ONCE = (8192, 1 << 18)
Size = tuple[int, int, int]


@dataclass(frozen=True)
class Group:
    """Windows that are cut in the same way.

    Attributes:
        tokens: long ``[w, k]``, numbers of the tokens in a clip, t h w of them; one past the last is padding.
        asking: long, places in a window where there is no padding; what padding reads is of no use.
        hidden: bool ``[asking, k]``, which tokens an asking one does not see; None: it sees all.
    """

    tokens: Tensor
    asking: Tensor
    hidden: Tensor | None


@lru_cache(maxsize=32)
def arrange(size: Size, window: Size, shift: Size, device: torch.device) -> tuple[Group, ...]:
    """The windows of a map of ``size`` tokens, shifted by ``shift``; sizes as time, height, width."""
    numbers = torch.arange(size[0] * size[1] * size[2], device=device).view(size)
    pad = [n for s, w in zip(reversed(size), reversed(window), strict=True) for n in (0, -s % w)]
    numbers = F.pad(numbers, pad, value=numbers.numel())
    padded = numbers.shape
    numbers = numbers.roll([-s for s in shift], (0, 1, 2))
    # a shifted map joins what lies at opposite ends; in the last windows of an axis each end sees only itself
    parts = torch.zeros_like(numbers)
    for axis, (length, moved) in enumerate(zip(padded, shift, strict=True)):
        parts.narrow(axis, length - moved, moved).add_(1 << axis)

    def cut(x: Tensor) -> Tensor:
        """``[t, h, w]`` to ``[windows, tokens of a window]``."""
        x = x.unflatten(2, (-1, window[2])).unflatten(1, (-1, window[1])).unflatten(0, (-1, window[0]))
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, window[0] * window[1] * window[2])

    tokens = cut(numbers)
    padding = tokens == size[0] * size[1] * size[2]
    kinds, kind = torch.stack((cut(parts), padding.long()), -1).unique(dim=0, return_inverse=True)
    groups = []
    for i, (part, padded) in enumerate(zip(*kinds.unbind(-1), strict=True)):
        asking = (padded == 0).nonzero()[:, 0]
        hidden = part[asking][:, None] != part
        groups.append(Group(tokens[kind == i], asking, hidden if hidden.any() else None))
    return tuple(groups)


def forward(block: SwinTransformerBlock, x: Tensor) -> Tensor:
    """What ``block(x)`` gives, in evaluation: ``[v, t, h, w, c]`` to the same shape. ``x`` may be overwritten."""
    attention, x = block.attn, x.contiguous()
    size = x.shape[1:4]
    window = tuple(min(w, s) for w, s in zip(attention.window_size, size, strict=True))
    shift = tuple(0 if s <= w else n for s, w, n in zip(size, attention.window_size, attention.shift_size, strict=True))
    bias = attention.get_relative_position_bias(list(window))[0]
    for clip in x:
        rows = clip.view(-1, clip.shape[-1])
        read = _attend(block, rows, arrange(tuple(size), window, shift, x.device), bias)
        for part in _parts(rows):
            rows[part] += attention.proj(read[part])
            rows[part] += block.mlp(block.norm2(rows[part]))
    return x


def _attend(block: SwinTransformerBlock, rows: Tensor, groups: tuple[Group, ...], bias: Tensor) -> Tensor:
    """What each token ``rows [n, c]`` reads in its window, before the projection: ``[n, c]``."""
    attention = block.attn
    count, channels = rows.shape
    heads = attention.num_heads
    first = attention.qkv(block.norm1(rows[:1]))
    qkv = first.new_empty(count + 1, 3 * channels)
    for part in _parts(rows):
        qkv[part] = attention.qkv(block.norm1(rows[part]))
    qkv[count] = attention.qkv.bias  # of padding, which is zero after the norm, and is read like any other token
    read = first.new_empty(count + 1, channels)
    for group in groups:
        whole = len(group.asking) == group.tokens.shape[1]
        added = bias if whole else bias[:, group.asking]
        if group.hidden is not None:
            added = added - 100.0 * group.hidden
        added = added.to(first.dtype)[None]
        for some in group.tokens.split(max(1, _at_once(rows) // group.tokens.shape[1])):
            query, key, value = (
                qkv.index_select(0, some.flatten())
                .view(*some.shape, 3, heads, channels // heads)
                .permute(2, 0, 3, 1, 4)
            )
            asking = some
            if not whole:
                query, asking = query[:, :, group.asking], some[:, group.asking]
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=added)
            read.index_copy_(0, asking.flatten(), found.transpose(1, 2).reshape(-1, channels))
    return read[:count]


def _at_once(rows: Tensor) -> int:
    """Tokens that a layer works on at once."""
    return TOKENS_AT_ONCE[rows.device.type == "cuda"]


def _parts(rows: Tensor) -> list[slice]:
    step = _at_once(rows)
    return [slice(start, min(start + step, len(rows))) for start in range(0, len(rows), step)]
