"""The one attention layer of the model: multi-head, residual, post-norm, no materialised attention matrix.

Shapes: g independent groups, q queries and k keys in each, c channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from models.position_encoding import FARTHEST


class Attention(nn.Module):
    """``Norm(x + MultiHead(x, context))``, the building block of Figure 2.

    Args:
        dim: channels.
        heads: attention heads; divides ``dim``.
        dropout: applied to the attention's output in training.
        context_dim: channels of what is read, where they are not ``dim``.
        relative: each head learns a bias of its scores for each distance in time, as T5 does for words (Raffel et al.,
            arXiv 1910.10683, section 2.1), here clipped and not in buckets. The biases start as far apart as scores do,
            because a learning rate for weights moves single numbers slowly.
    """

    def __init__(
        self, *, dim: int, heads: int, dropout: float, context_dim: int | None = None, relative: bool = False
    ) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(context_dim or dim, dim)
        self.value = nn.Linear(context_dim or dim, dim)
        self.out = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.distance_bias = nn.Parameter(torch.randn(heads, 2 * FARTHEST + 1)) if relative else None
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        x: Tensor,
        context: Tensor,
        *,
        x_position: Tensor | None = None,
        context_position: Tensor | None = None,
        context_valid: Tensor | None = None,
        distances: Tensor | None = None,
    ) -> Tensor:
        """``x [g, q, c]`` reads ``context [g, k, c]``.

        Positions are added to queries and keys, never to values, and broadcast over g. Keys that
        ``context_valid [g, k]`` marks False are not read; a query without any valid key reads nothing (zeros).
        ``distances`` are long ``[q, k]``, of :func:`models.position_encoding.frame_distances`, where ``relative``.

        Returns:
            ``[g, q, c]``.
        """
        query, key, mask, some = self._compared(x, context, x_position, context_position, context_valid, distances)
        value = self._heads(self.value(context))
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        if some is not None:
            read = read * some
        read = self.out(rearrange(read, "g h n d -> g n (h d)"))
        return self.norm(x + self.dropout(read))

    def weights(self, x: Tensor, context: Tensor, **how: Tensor | None) -> Tensor:
        """How much each query reads of each key in :meth:`forward` with the same arguments, which never holds these
        numbers.

        Returns:
            float32 ``[g, heads, q, k]``; a query's numbers add up to 1, or are 0 where no key is valid.
        """
        query, key, mask, some = self._compared(x, context, **how)
        with torch.autocast(query.device.type, enabled=False):
            scores = query.float() @ key.float().transpose(-1, -2) / math.sqrt(query.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        read = scores.softmax(-1)
        return read if some is None else read * some

    def _compared(
        self,
        x: Tensor,
        context: Tensor,
        x_position: Tensor | None = None,
        context_position: Tensor | None = None,
        context_valid: Tensor | None = None,
        distances: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Queries and keys ``[g, heads, n, c / heads]``, the mask or the biases of their scores, and which groups have
        a valid key, ``[g, 1, 1, 1]``; the last two may be None."""
        query = self._heads(self.query(x if x_position is None else x + x_position))
        key = self._heads(self.key(context if context_position is None else context + context_position))
        mask = some = None
        if context_valid is not None:
            some = context_valid.any(dim=1)[:, None, None, None]
            # softmax over no key is NaN: open such rows, then drop what they read
            mask = context_valid[:, None, None, :] | ~some
        if distances is not None:
            bias = self.distance_bias[:, distances].to(query.dtype)[None]
            mask = bias if mask is None else bias.masked_fill(~mask, -torch.inf)
        return query, key, mask, some

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "g n (h d) -> g h n d", h=self.heads)


class FeedForward(nn.Module):
    """``Norm(x + MLP(x))``: the optional layer after each block (choice: ``--dim_feedforward``)."""

    def __init__(self, *, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., c]`` to ``[..., c]``."""
        return self.norm(x + self.layers(x))
