"""ReferFormer's mask features: a pyramid whose every level attends across the clip and to the words.

Source: CrossModalFPNDecoder in models/segmentation.py of github.com/wjn922/ReferFormer.

Shapes: b samples, t frames, c channels, h w size of a level, l words.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

GROUPS = 8
# by which queries and keys of the attention across the clip are made smaller, finest level first
REDUCTIONS = (8, 4, 2, 1)


@dataclass
class Level:
    """A level of the pyramid.

    Attributes:
        map: ``[b, t, c, h, w]``.
        position: ``[b, h, w, c]``, the same in all frames.
        valid: bool ``[b, h, w]``, False on padding; None without padding.
    """

    map: Tensor
    position: Tensor
    valid: Tensor | None


class CrossModalBlock(nn.Module):
    """Tokens of a level read those of the whole clip, on a smaller grid, and then the words.

    Args:
        dim: channels; heads: of both attentions; hidden: width of the feed-forward layer.
        reduction: of the grid.
    """

    def __init__(self, *, dim: int, heads: int, hidden: int, dropout: float, reduction: int) -> None:
        super().__init__()
        self.reduction = reduction
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, x: Tensor, level: Level, words: Tensor, word_position: Tensor, word_padding: Tensor | None
    ) -> Tensor:
        """A map ``[b, t, c, h, w]`` to the same shape; ``words`` and ``word_position [b, l, c]``.

        FSDP looks for tensors among the arguments and not within them, so the map of ``level`` is not read here.
        """
        level = replace(level, map=x)
        _, t, _, h, _ = x.shape
        x = self.norm1(rearrange(x + self.dropout(self.across_clip(level)), "b t c h w -> b (t h w) c"))
        placed = x + repeat(level.position, "b h w c -> b (t h w) c", t=t)
        read = self.multihead_attn(placed, words + word_position, words, word_padding, need_weights=False)[0]
        x = self.norm2(x + self.dropout(read))
        x = self.norm3(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        # FSDP takes no views of tensors that a module hands out
        return rearrange(x, "b (t h w) c -> b t c h w", t=t, h=h).contiguous()

    def across_clip(self, level: Level) -> Tensor:
        """What the tokens of a level read of the whole clip, ``[b, t, c, h, w]``."""
        return self.enlarged(self.read_clip(level).flatten(0, 1), level.map.shape[-2:]).unflatten(
            0, level.map.shape[:2]
        )

    def read_clip(self, level: Level) -> Tensor:
        """What the tokens of the smaller grid read of the whole clip, ``[b, t, c, h', w']``."""
        b, t, _, h, w = level.map.shape
        small = (max(1, h // self.reduction), max(1, w // self.reduction))  # a map may be smaller than a cell
        position = rearrange(level.position, "b h w c -> b c h w")
        content = level.map.flatten(0, 1)
        padding = None if level.valid is None else (~level.valid)[:, None].float()
        if self.reduction > 1:
            content, position = (F.interpolate(x, size=small, mode="nearest") for x in (content, position))
            padding = None if padding is None else F.interpolate(padding, size=small, mode="nearest")
        content = rearrange(content, "(b t) c h w -> b (t h w) c", t=t)
        placed = content + repeat(position, "b c h w -> b (t h w) c", t=t)
        if padding is not None:
            padding = repeat(padding > 0, "b 1 h w -> b (t h w)", t=t)
        read = self.self_attn(placed, placed, content, padding, need_weights=False)[0]
        return rearrange(read, "b (t h w) c -> b t c h w", t=t, h=small[0])

    def enlarged(self, read: Tensor, size: tuple[int, int]) -> Tensor:
        """Maps ``[g, c, h', w']`` of the smaller grid to ``[g, c, h, w]``."""
        return F.interpolate(read, size=size, mode="bilinear", align_corners=False) if self.reduction > 1 else read


class CrossModalPyramid(nn.Module):
    """From levels at strides 4 to 32 to mask features at stride 4.

    Args:
        channels: of the finest map, which comes from the backbone; the others have ``dim``.
        dim, heads, hidden, dropout: as in :class:`CrossModalBlock`; mask_dim: channels of the mask features.
    """

    def __init__(self, *, channels: int, dim: int, mask_dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        widths = (channels, dim, dim, dim)
        self.adapters = nn.ModuleList(_convolution(width, dim, 1) for width in widths)
        self.blocks = nn.ModuleList(
            CrossModalBlock(dim=dim, heads=heads, hidden=hidden, dropout=dropout, reduction=r) for r in REDUCTIONS
        )
        self.layers = nn.ModuleList(nn.Sequential(*_convolution(dim, dim, 3), nn.ReLU()) for _ in widths)
        self.mask_features = nn.Conv2d(dim, mask_dim, 3, padding=1)
        nn.init.kaiming_uniform_(self.mask_features.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def adapt(self, number: int, maps: Tensor) -> Tensor:
        """A map ``[b, t, c_i, h, w]`` in the width of the pyramid. No word changes that of the finest level, 0."""
        return self.adapters[number](maps.flatten(0, 1)).unflatten(0, maps.shape[:2])

    def forward(self, levels: list[Level], words: Tensor, word_position: Tensor, word_padding: Tensor | None) -> Tensor:
        """Levels that :meth:`adapt` gave, finest first, to mask features ``[b, t, m, h, w]`` of the finest."""
        x = None
        for level, block, layer in zip(levels[::-1], self.blocks[::-1], self.layers[::-1], strict=True):
            here = block(level.map, level, words, word_position, word_padding).flatten(0, 1)
            x = layer(here if x is None else here + F.interpolate(x, size=here.shape[-2:], mode="nearest"))
        return self.mask_features(x).unflatten(0, levels[0].map.shape[:2])


def _convolution(inner: int, outer: int, size: int) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, size, padding=size // 2, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, outer))
