"""Window attention of Video Swin without padding, shifting or masking whole maps: the same numbers.

A block of torchvision's SwinTransformer3d adds a bias and a mask to a matrix of all pairs of tokens, which it keeps for
the gradient. Here each window fetches its tokens by number (:mod:`models.fast.arrangement`), and no such matrix
outlives a few windows.

Shapes: v clips, t h w grid of a clip, n its tokens, c channels; w windows of k tokens, of which a are real; q heads of
d channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchvision.models.swin_transformer import SwinTransformerBlock
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

from models.fast.arrangement import Group, Size, permute
from models.fast.feed_forward import tokens_at_once
from models.fast.forms import Form
from util.run.precision import precise

# (CPU, GPU) bytes of the scores of pairs of tokens that are held together: on a CPU they stay in the cache; a GPU's
# attention does not hold them, and needs many windows to be filled
SCORES_AT_ONCE = (1 << 23, 1 << 29)
# tokens that training reads at once, which holds several numbers for each pair of them
TRAINED_AT_ONCE = (2048, 1 << 16)


def fitted(attention: ShiftedWindowAttention3d, size: Size) -> tuple[Size, Size]:
    """Window and shift for a map of ``size``: along an axis that one window covers there is no shift."""
    window = tuple(min(w, s) for w, s in zip(attention.window_size, size, strict=True))
    shift = tuple(0 if s <= w else n for s, w, n in zip(size, attention.window_size, attention.shift_size, strict=True))
    return window, shift


# Inference ---------------------------------------------------------------------------------------------------------


class InferenceBlock(Form, SwinTransformerBlock):
    """The form of a block for inference: without gradients and without stochastic depth.

    Each token stands in one window only, so some windows go through the whole block before the next ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        """``[v, t, h, w, c]`` to the same shape; ``x`` may be overwritten."""
        attention, x = self.attn, x.contiguous()
        size = tuple(x.shape[1:4])
        window, shift = fitted(attention, size)
        bias = attention.get_relative_position_bias(list(window))[0]
        order = permute(size, window, shift, x.device)
        added = None
        for clip in x:
            rows, stop = clip.view(-1, clip.shape[-1]), 0
            for piece in order.pieces(tokens_at_once(x.device)):
                start, stop = stop, stop + sum(windows * order.groups[i].real for i, windows in piece)
                tokens = order.real_back[start:stop]
                some = rows.index_select(0, tokens)
                qkv = attention.qkv(self.norm1(some))
                added = order.added(bias, qkv.dtype) if added is None else added
                some += attention.proj(self._attend(qkv, [(order.groups[i], n, added[i]) for i, n in piece]))
                some += self.mlp(self.norm2(some))
                rows.index_copy_(0, tokens.long(), some)
        return x

    def _attend(self, qkv: Tensor, piece: list[tuple[Group, int, Tensor]]) -> Tensor:
        """What each token reads in its window, of queries, keys and values ``[n, 3 c]`` in windows: ``[n, c]``.

        Args:
            piece: groups, how many windows of each, and what is added to their scores.
        """
        attention = self.attn
        form = 3, attention.num_heads, qkv.shape[-1] // (3 * attention.num_heads)
        # padding is zero after the norm, so its queries, keys and values are the bias; other tokens read it
        padding, qkv = attention.qkv.bias.to(qkv.dtype).view(form), qkv.unflatten(-1, form)
        read, stop = torch.empty_like(qkv[:, 0]), 0
        for group, windows, added in piece:
            real = group.real
            start, stop = stop, stop + windows * real
            step = real * max(1, SCORES_AT_ONCE[qkv.device.type == "cuda"] // added.nbytes)
            for place in range(start, stop, step):
                some = slice(place, min(place + step, stop))
                query, key, value = _of_heads(qkv[some].unflatten(0, (-1, real)), real)
                if group.padded:
                    key, value = _with_padding(key, padding[1]), _with_padding(value, padding[2])
                read[some].unflatten(0, (-1, real))[:] = _read(query, key, value, added).transpose(1, 2)
        return read.flatten(1)


def _with_padding(x: Tensor, padding: Tensor) -> Tensor:
    """Keys or values ``[w, q, a, d]`` and one more, ``padding [q, d]``: ``[w, q, a + 1, d]``."""
    more = x.new_empty(*x.shape[:2], x.shape[2] + 1, x.shape[3])
    more[:, :, :-1] = x
    more[:, :, -1] = padding
    return more


def _read(query: Tensor, key: Tensor, value: Tensor, added: Tensor) -> Tensor:
    """Attention of ``query [w, q, a, d]`` to ``key`` and ``value [w, q, k, d]``, whose scores ``added [q, a, k]`` is
    added to: ``[w, q, a, d]``.

    On a CPU torch's fused attention takes more than twice as long as these products, whose scores stay in the cache.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value, attn_mask=added[None])
    windows = len(query)
    query, key, value = (x.reshape(-1, *x.shape[2:]) for x in (query, key, value))
    scores = added.new_empty(windows, *added.shape).copy_(added).flatten(0, 1)
    scores.baddbmm_(query, key.mT, alpha=query.shape[-1] ** -0.5)
    return torch.bmm(_softmax(scores), value).unflatten(0, (windows, -1))


# Training ----------------------------------------------------------------------------------------------------------


class TrainedAttention(Form, ShiftedWindowAttention3d):
    """The form of a block's attention for training: it keeps no scores of pairs of tokens. It has no dropout."""

    def forward(self, x: Tensor) -> Tensor:
        """``[v, t, h, w, c]`` to the same shape."""
        return self.proj(self._attend(self.qkv(x))).view(x.shape)

    @torch.compiler.disable  # torch.compile would unroll the windows into thousands of operations
    def _attend(self, qkv: Tensor) -> Tensor:
        """What each token reads in its window, of queries, keys and values ``[v, t, h, w, 3 c]``: ``[v, n, c]``."""
        size, heads = tuple(qkv.shape[1:4]), self.num_heads
        channels = qkv.shape[-1] // 3
        window, shift = fitted(self, size)
        bias = self.get_relative_position_bias(list(window))[0]
        order = permute(size, window, shift, qkv.device)
        qkv = qkv.flatten(1, 3)
        if order.padding:
            padding = self.qkv.bias.to(qkv.dtype).expand(len(qkv), order.padding, -1)
            qkv = torch.cat((qkv, padding), 1)
        rows = _Permuted.apply(qkv, order.tokens, order.tokens_back)
        read, stop = [], 0
        for group, added in zip(order.groups, order.added(bias, rows.dtype), strict=True):
            start, stop = stop, stop + group.windows * group.seen
            # [v, n, 3 c] to [v w, k, 3, q, d]
            windows = rows[:, start:stop].reshape(-1, group.seen, 3, heads, channels // heads)
            read.append(_Read.apply(windows, added).view(len(qkv), -1, channels))
        return _Permuted.apply(torch.cat(read, 1), order.real, order.real_back)


class _Permuted(torch.autograd.Function):
    """``x [v, n, c]`` with its rows in another order. Autograd's own gradient of index_select is slow: it adds rows
    one by one."""

    @staticmethod
    def forward(ctx, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(inverse)
        return x.index_select(1, order)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inverse,) = ctx.saved_tensors
        return gradient.index_select(1, inverse), None, None


class _Read(torch.autograd.Function):
    """What tokens read in their window; for the gradient the scores are computed again, a few windows at a time."""

    @staticmethod
    def forward(ctx, windows: Tensor, added: Tensor) -> Tensor:
        """``windows [w, k, 3, q, d]`` of queries, keys and values, ``added [q, a, k]`` to ``[w, a, q d]``."""
        ctx.save_for_backward(windows, added)
        found = []
        for some in windows.split(_windows_at_once(windows)):
            query, key, value = _of_heads(some, added.shape[1])
            read = _weights(query, key, added).to(value.dtype) @ value
            found.append(read.transpose(1, 2).flatten(2))
        return torch.cat(found)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        windows, added = ctx.saved_tensors
        real = added.shape[1]
        scale = windows.shape[-1] ** -0.5
        wanted = torch.zeros_like(windows)
        of_added = torch.zeros_like(precise(added))
        step = _windows_at_once(windows)
        gradient = gradient.unflatten(2, windows.shape[3:]).transpose(1, 2)  # [w, q, a, d]
        for start in range(0, len(windows), step):
            part = slice(start, start + step)
            query, key, value = _of_heads(windows[part], real)
            of_read = gradient[part]
            weights = _weights(query, key, added)
            of_scores = precise(of_read @ value.mT)
            of_scores.sub_((of_scores * weights).sum(-1, keepdim=True)).mul_(weights)
            of_added += of_scores.sum(0)
            of_scores = of_scores.mul_(scale).to(query.dtype)
            of_query, of_key, of_value = wanted[part].permute(2, 0, 3, 1, 4)
            of_query[:, :, :real] = of_scores @ key
            of_key.copy_(of_scores.mT @ query)
            of_value.copy_(weights.to(query.dtype).mT @ of_read)
        return wanted, of_added.to(added.dtype)


def _weights(query: Tensor, key: Tensor, added: Tensor) -> Tensor:
    """How much of each key a query reads, ``[w, q, a, k]``."""
    return _softmax(precise((query * query.shape[-1] ** -0.5) @ key.mT).add_(added))


def _softmax(scores: Tensor) -> Tensor:
    """Over the last axis; on a CPU in the place of ``scores``, because new memory costs as much as the softmax."""
    return torch.softmax(scores, -1, out=scores if scores.device.type == "cpu" else None)


def _of_heads(windows: Tensor, real: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries ``[w, q, a, d]``, keys and values ``[w, q, k, d]`` of ``windows [w, k, 3, q, d]``."""
    query, key, value = windows.permute(2, 0, 3, 1, 4)
    return query[:, :, :real], key, value


def _windows_at_once(windows: Tensor) -> int:
    return max(1, TRAINED_AT_ONCE[windows.device.type == "cuda"] // windows.shape[1])
