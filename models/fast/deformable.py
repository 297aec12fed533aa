"""Deformable attention and its encoder for inference: each query gathers what it reads in one pass over memory.

torch's ``grid_sample`` fetches every channel of a place by itself, from maps whose channels lie far apart. Here the
channels of a head lie together, and ``embedding_bag`` adds up the weighted rows that a head reads: of each of 4 points
in each of 4 maps, the 4 tokens around it. On a 2-core CPU the sums of a frame took 4 ms instead of 92.

Shapes: g frames, q queries, c channels, m heads, d channels of a head, l maps, p points, s tokens of all maps.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.deformable import DeformableAttention, EncoderLayer, Maps
from models.fast.feed_forward import add_fed
from models.fast.forms import Form


class GatheredAttention(Form, DeformableAttention):
    """The form of deformable attention for inference on a CPU; on a GPU it is that of the model."""

    def forward(self, query: Tensor, reference: Tensor, maps: Maps) -> Tensor:
        """As :meth:`models.deformable.DeformableAttention.forward`."""
        if query.device.type != "cpu":
            return super().forward(query, reference, maps)
        values = self.value_proj(maps.tokens)
        if maps.valid is not None:
            values = values * maps.valid[..., None]
        offsets = self.sampling_offsets(query).float()
        weights = self.attention_weights(query).float().unflatten(-1, (self.heads, -1)).softmax(-1)
        # maps of the frames one after the other in the same memory, each within a frame of zeros
        table = _Table(maps.sizes, self.heads, values.shape[-1], self.points)
        read = torch.empty(query.shape, dtype=values.dtype)
        for frame in range(len(query)):
            places = self._places(offsets[frame], reference[frame].float(), table)
            table.take(values[frame])
            read[frame] = table.sums(*places, weights[frame])
        return self.output_proj(read)

    def _places(self, offsets: Tensor, reference: Tensor, table: _Table) -> tuple[Tensor, Tensor]:
        """Columns and rows that the queries of a frame read, in tokens of each map: two ``[q, m, l p]``."""
        q = len(offsets)
        offsets = offsets.view(q, self.heads, self.levels * self.points, 2)
        found = []
        for axis, extent in enumerate((table.widths, table.heights)):
            # [q, l] to [q, 1, l p]
            centre = reference[..., axis].repeat_interleave(self.points, 1)[:, None]
            step = offsets[..., axis]
            if reference.shape[-1] == 4:
                size = reference[..., 2 + axis].repeat_interleave(self.points, 1)[:, None]
                step = step * (size * extent * (0.5 / self.points))
            found.append(step + (centre * extent - 0.5))
        return found[0], found[1]


class _Table:
    """Rows of ``d`` numbers, one for each head of each token of maps that have a border of zeros.

    Args:
        sizes: height and width of each map; channels: of all heads.
    """

    def __init__(self, sizes: list[tuple[int, int]], heads: int, channels: int, points: int) -> None:
        self.sizes, self.heads = sizes, heads
        rows, starts = 0, []
        for h, w in sizes:
            starts.append(rows)
            rows += (h + 2) * (w + 2)
        assert rows * heads < 2**24, "numbers of rows are computed in float32"
        self.values = torch.zeros(rows, channels)
        self.starts = starts

        def each(of_map: list[int]) -> Tensor:
            return torch.tensor(of_map, dtype=torch.float32).repeat_interleave(points)

        self.heights, self.widths = each([h for h, _ in sizes]), each([w for _, w in sizes])
        self.below = each([(w + 2) * heads for _, w in sizes])  # from a row to the one of the token below
        # the row of each head of token (0, 0): [m, l p]
        first = each([(start + w + 3) * heads for start, (_, w) in zip(starts, sizes, strict=True)])
        self.first = torch.arange(heads)[:, None] + first

    def take(self, values: Tensor) -> None:
        """``values [s, c]`` of a frame."""
        parts = values.split([h * w for h, w in self.sizes])
        for start, part, (h, w) in zip(self.starts, parts, self.sizes, strict=True):
            framed = self.values[start : start + (h + 2) * (w + 2)].view(h + 2, w + 2, -1)
            framed[1:-1, 1:-1] = part.view(h, w, -1)

    def sums(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Weighted sums ``[q, m d]`` of what is read at columns and rows ``[q, m, l p]``; they are overwritten."""
        left, top = (
            at.clamp_(min=-1).minimum(extent).floor().minimum(extent - 1)
            for at, extent in ((x, self.widths), (y, self.heights))
        )
        x = torch.minimum(x, self.widths).sub_(left)  # shares of the right and of the lower token
        y = torch.minimum(y, self.heights).sub_(top)
        start = top.mul_(self.below).add_(left.mul_(self.heads)).add_(self.first).int()
        q, m, n = start.shape
        rows = torch.empty(q, m, 4, n, dtype=torch.int32)
        shares = torch.empty(q, m, 4, n)
        below = self.below.int()
        rows[:, :, 0] = start
        torch.add(start, m, out=rows[:, :, 1])
        torch.add(start, below, out=rows[:, :, 2])
        torch.add(start, below + m, out=rows[:, :, 3])
        lower = weights * y
        upper = weights - lower
        torch.mul(upper, x, out=shares[:, :, 1])
        torch.sub(upper, shares[:, :, 1], out=shares[:, :, 0])
        torch.mul(lower, x, out=shares[:, :, 3])
        torch.sub(lower, shares[:, :, 3], out=shares[:, :, 2])
        table = self.values.view(-1, self.values.shape[1] // m)
        found = F.embedding_bag(rows.view(q * m, -1), table, per_sample_weights=shares.view(q * m, -1), mode="sum")
        return found.view(q, -1)


class FastEncoderLayer(Form, EncoderLayer):
    """The form of an encoder layer for inference: its feed-forward layer takes a few tokens at a time."""

    def forward(self, x: Tensor, positions: Tensor, reference: Tensor, maps: Maps) -> Tensor:
        """As :meth:`models.deformable.EncoderLayer.forward`."""
        x = self.norm1(x + self.self_attn(x + positions, reference, replace(maps, tokens=x)))
        add_fed(x.view(-1, x.shape[-1]), self.linear1, self.linear2, self.norm2)
        return x
