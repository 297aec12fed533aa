"""Deformable attention and the transformer made of it: each query reads a few places of maps of several sizes.

Source: Deformable DETR (arXiv 2010.04159), in the form of models/deformable_transformer.py and
models/ops/modules/ms_deform_attn.py of github.com/wjn922/ReferFormer, whose parameters have the same names.

Shapes: g frames (of all samples), q queries, c channels, m heads, d channels of a head, l maps, p points that a head
reads in a map, s tokens of all maps, h w size of a map. Places are shares of a padded map, x before y, from 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

AT_ONCE = 2**26  # numbers that are read from maps together


@dataclass
class Maps:
    """Maps of several sizes as one row of tokens, finest first.

    Attributes:
        tokens: ``[g, s, c]``.
        sizes: height and width of each map.
        valid: bool ``[g, s]``, False on padding; None without padding.
        ratios: width and height of the real part of each map, as shares of the map: ``[g, l, 2]``.
    """

    tokens: Tensor
    sizes: list[tuple[int, int]]
    valid: Tensor | None
    ratios: Tensor

    def split(self) -> list[Tensor]:
        """The maps ``[g, c, h, w]``."""
        parts = self.tokens.split([h * w for h, w in self.sizes], dim=1)
        return [x.transpose(1, 2).unflatten(2, size) for x, size in zip(parts, self.sizes, strict=True)]


def sample_maps(values: Tensor, sizes: list[tuple[int, int]], places: Tensor, weights: Tensor) -> Tensor:
    """Weighted sums of values at places of maps, between whose tokens values are interpolated; zeros lie around a map.

    Args:
        values: ``[g, s, m, d]``.
        places: ``[g, q, m, l, p, 2]``.
        weights: ``[g, q, m, l, p]``.

    Returns:
        ``[g, q, m d]``.
    """
    g, _, m, d = values.shape
    parts = values.split([h * w for h, w in sizes], dim=1)
    read = 0
    for level, (part, (h, _)) in enumerate(zip(parts, sizes, strict=True)):
        at = rearrange(places[:, :, :, level].float() * 2 - 1, "g q m p i -> (g m) q p i")
        found = F.grid_sample(rearrange(part.float(), "g (h w) m d -> (g m) d h w", h=h), at, align_corners=False)
        share = rearrange(weights[:, :, :, level].float(), "g q m p -> (g m) q p")
        read = read + torch.einsum("gdqp,gqp->gqd", found, share)
    return rearrange(read, "(g m) q d -> g q (m d)", m=m).to(values.dtype)


class DeformableAttention(nn.Module):
    """Reads a map at learned offsets from a reference, which is a point or a box.

    Args:
        dim: channels; heads: divides it.
        levels: maps; points: that each head reads in each map.
    """

    def __init__(self, *, dim: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in directions all around, points ever farther away; all weigh the same."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        around = torch.stack((angles.cos(), angles.sin()), -1)
        around = around / around.abs().amax(-1, keepdim=True)
        far = torch.arange(1, self.points + 1)
        offsets = torch.einsum("mi,p->mpi", around, far)[:, None].expand(-1, self.levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, maps: Maps) -> Tensor:
        """``query [g, q, c]`` reads the maps.

        Args:
            reference: of each query in each map, ``[g, q, l, 2]`` points, or ``[g, q, l, 4]`` boxes (centre and size).

        Returns:
            ``[g, q, c]``.
        """
        values = self.value_proj(maps.tokens)
        if maps.valid is not None:
            values = values * maps.valid[..., None]
        values = values.unflatten(-1, (self.heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (self.heads, self.levels, self.points, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.heads, -1)).softmax(-1)
        weights = weights.unflatten(-1, (self.levels, self.points))
        centre = reference[:, :, None, :, None, :2]
        if reference.shape[-1] == 2:
            of_level = zip(offsets.unbind(3), maps.sizes, strict=True)
            steps = [torch.stack((x[..., 0] / w, x[..., 1] / h), -1) for x, (h, w) in of_level]
            places = centre + torch.stack(steps, 3)
        else:
            places = centre + offsets / self.points * reference[:, :, None, :, None, 2:] * 0.5
        # a few frames at a time: what is read takes 64 times the memory of a map
        few = max(1, AT_ONCE // (query.shape[1] * self.levels * self.points * query.shape[2]))
        parts = zip(values.split(few), places.split(few), weights.split(few), strict=True)
        return self.output_proj(torch.cat([sample_maps(v, maps.sizes, p, w) for v, p, w in parts]))


class EncoderLayer(nn.Module):
    """Every token of the maps reads the maps around itself.

    Args:
        hidden: width of the feed-forward layer; the others as in :class:`DeformableAttention`.
    """

    def __init__(self, *, dim: int, hidden: int, dropout: float, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(dim=dim, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, maps: Maps) -> Tensor:
        """Tokens ``[g, s, c]`` of maps after the layer.

        FSDP looks for tensors among the arguments and not within them, so the tokens of ``maps`` are not read here.

        Args:
            positions: ``[g, s, c]``; reference: ``[g, s, l, 2]``.
        """
        read = self.self_attn(x + positions, reference, replace(maps, tokens=x))
        x = self.norm1(x + self.dropout(read))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))


class DecoderLayer(nn.Module):
    """Queries read each other, then the maps around their reference. Arguments as of :class:`EncoderLayer`."""

    def __init__(self, *, dim: int, hidden: int, dropout: float, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.cross_attn = DeformableAttention(dim=dim, heads=heads, levels=levels, points=points)
        self.norm1 = nn.LayerNorm(dim)
        self.self_attn = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, tokens: Tensor, maps: Maps) -> Tensor:
        """Queries ``[g, q, c]`` after the layer.

        Args:
            positions: ``[g, q, c]``; reference: ``[g, q, l, 2 or 4]``; tokens: of ``maps``, see :class:`EncoderLayer`.
        """
        maps = replace(maps, tokens=tokens)
        placed = x + positions
        x = self.norm2(x + self.dropout(self.self_attn(placed, placed, x, need_weights=False)[0]))
        x = self.norm1(x + self.dropout(self.cross_attn(x + positions, reference, maps)))
        return self.norm3(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))


def token_places(maps: Maps) -> Tensor:
    """The middle of every token, in each map: ``[g, s, l, 2]``. Where a map is padded, as a share of its real part."""
    ratios, places = maps.ratios, []
    for level, (h, w) in enumerate(maps.sizes):
        y = (torch.arange(h, device=ratios.device) + 0.5) / (ratios[:, level, 1:] * h)
        x = (torch.arange(w, device=ratios.device) + 0.5) / (ratios[:, level, :1] * w)
        places.append(torch.stack((repeat(x, "g w -> g (h w)", h=h), repeat(y, "g h -> g (h w)", w=w)), -1))
    return torch.cat(places, 1)[:, :, None] * ratios[:, None]


def inverse_sigmoid(x: Tensor) -> Tensor:
    """Of values clamped to 1e-5 from 0 and 1, as util/misc.py of ReferFormer does."""
    x = x.clamp(0, 1)
    return torch.log(x.clamp(min=1e-5) / (1 - x).clamp(min=1e-5))


class DeformableTransformer(nn.Module):
    """Encodes maps, and answers queries whose references are refined from layer to layer where ``boxes`` are given.

    Args:
        enc_layers, dec_layers: how many; the others as in :class:`EncoderLayer`.
    """

    def __init__(
        self,
        *,
        dim: int,
        heads: int,
        hidden: int,
        dropout: float,
        enc_layers: int,
        dec_layers: int,
        levels: int,
        points: int,
    ) -> None:
        super().__init__()
        how = dict(dim=dim, hidden=hidden, dropout=dropout, heads=heads, levels=levels, points=points)
        self.encoder = nn.ModuleList(EncoderLayer(**how) for _ in range(enc_layers))
        self.decoder = nn.ModuleList(DecoderLayer(**how) for _ in range(dec_layers))
        self.reference_points = nn.Linear(dim, 2)
        nn.init.zeros_(self.reference_points.bias)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        for module in self.modules():
            if isinstance(module, DeformableAttention):
                module.reset_parameters()
        self.level_embed = nn.Parameter(torch.randn(levels, dim))

    def encode(self, maps: Maps, positions: Sequence[Tensor]) -> Maps:
        """The maps after all layers; ``positions [g, h w, c]`` of each map."""
        placed = torch.cat([x + level for x, level in zip(positions, self.level_embed, strict=True)], 1)
        reference = token_places(maps)
        for layer in self.encoder:
            maps = replace(maps, tokens=layer(maps.tokens, placed, reference, maps))
        return maps

    def decode(
        self, queries: Tensor, positions: Tensor, maps: Maps, boxes: Sequence[nn.Module] | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Answers queries.

        Args:
            queries, positions: ``[g, q, c]``, their content and their place.
            boxes: for each layer, what makes a change of the reference of the queries ``[g, q, c]``: ``[g, q, 4]``
                before the sigmoid. None: references stay the points that the places give.

        Returns:
            The queries after each layer, and references: the first points ``[g, q, 2]``, then those after each layer,
            ``[g, q, 4]`` where ``boxes`` are given.
        """
        # in float32 under autocast, too: a step of bfloat16 is two pixels of a frame that is 640 wide
        reference = self.reference_points(positions).float().sigmoid()
        states, references = [], [reference]
        for i, layer in enumerate(self.decoder):
            scale = maps.ratios.repeat(1, 1, reference.shape[-1] // 2)
            queries = layer(queries, positions, reference[:, :, None] * scale[:, None], maps.tokens, maps)
            if boxes is not None:
                reference = moved(reference, boxes[i](queries)).detach()
            states.append(queries)
            references.append(reference)
        return states, references


def moved(reference: Tensor, change: Tensor) -> Tensor:
    """Boxes ``[…, 4]`` in float32: the change, before the sigmoid, of a reference: a point ``[…, 2]`` or a box."""
    start = F.pad(inverse_sigmoid(reference.float()), (0, change.shape[-1] - reference.shape[-1]))
    return (change.float() + start).sigmoid()
