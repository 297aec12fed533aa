"""3×3 convolutions of upsampled maps, computed before upsampling (nearest neighbours, twice the size).

The pixels of a doubled map are of four kinds: even or odd row, even or odd column. Each kind is a map of the small
size. Norms, activations and 1×1 kernels treat all pixels alike, so they work on the four kinds directly.

Channels stand last, as in the backbone's maps and tokens, so a CPU transposes no map. CUDA's group norm returns maps
with channels first (``group_norm`` in torch's aten/src/ATen/native/group_norm.cpp).

Shapes: g maps, c channels, m channels after the convolution, h w small size, H W size after upsampling.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def kinds(x: Tensor) -> Tensor:
    """``[..., 2h, 2w, c]`` to ``[..., 2, 2, h, w, c]``, a view: even and odd rows, of these even and odd columns."""
    return rearrange(x, "... (h y) (w x) c -> ... y x h w c", y=2, x=2)


def joined(x: Tensor) -> Tensor:
    """The inverse of :func:`kinds`."""
    return rearrange(x, "... y x h w c -> ... (h y) (w x) c")


def channels_first(x: Tensor) -> Tensor:
    """``[g, h, w, c]`` to ``[g, c, h, w]``, a view, for the layers of torch."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """The inverse of :func:`channels_first`."""
    return x.permute(0, 2, 3, 1)


def upsampled_conv(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """The convolution of ``x [g, h, w, c]``, upsampled by its nearest neighbours to the size of ``added``, plus that.

    Args:
        weight: ``[m, c, 3, 3]``.
        added: ``[g, H, W, m]``, or its four kinds ``[g, 2, 2, h, w, m]``.

    Returns:
        The shape of ``added``.
    """
    if added.ndim == 6:
        return _doubled_conv(x, weight, added)
    (h, w), (height, width) = x.shape[1:3], added.shape[1:3]
    if not (0 <= 2 * h - height <= 1 and 0 <= 2 * w - width <= 1):
        return _conv(F.interpolate(channels_first(x), size=(height, width), mode="nearest"), weight, padding=1) + added
    # an odd size lacks the last row or column of the doubled map: the convolution reads zeros there, not their copy
    out = joined(_doubled_conv(x, weight, kinds(F.pad(added, (0, 0, 0, 2 * w - width, 0, 2 * h - height)))))
    out = out[:, :height, :width].contiguous()
    if height < 2 * h:
        row = F.interpolate(channels_first(x[:, -1:]), size=(1, 2 * w), mode="nearest")
        out[:, -1:] -= _conv(row, weight[:, :, 2:], padding=(0, 1))[:, :, :width]
    if width < 2 * w:
        column = F.interpolate(channels_first(x[:, :, -1:]), size=(2 * h, 1), mode="nearest")[:, :, :height]
        out[:, :, -1:] -= _conv(column, weight[..., 2:], padding=(1, 0))
    return out


def _conv(x: Tensor, weight: Tensor, padding: int | tuple[int, int] = 0) -> Tensor:
    """The convolution of ``[g, c, h, w]``: ``[g, h', w', m]``."""
    return channels_last(F.conv2d(x, weight, padding=padding))


def _doubled_conv(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """The four kinds of pixels ``[g, 2, 2, h, w, m]`` of the doubled map after the convolution, plus ``added``.

    Of a row of pixels and taps a, b, c, the even pixel reads a before + (b + c) own, the odd one (a + b) own + c after.
    These are (a + b + c) own, which both share, with -a (own - before), or with c (after - own): three products
    instead of six. Along both axes there are nine instead of 36.
    """
    h, w = x.shape[1:3]
    across = F.pad(x, (0, 0, 1, 1)).diff(dim=2)  # [g, h, w + 1, c]
    down = F.pad(x, (0, 0, 0, 0, 1, 1)).diff(dim=1)
    both = F.pad(across, (0, 0, 0, 0, 1, 1)).diff(dim=1)

    def shared_even_odd(taps: Tensor) -> tuple[Tensor, Tensor]:
        """Of taps along the last axis: what both kinds of pixels do with themselves, and each with a difference."""
        before, same, after = taps.unbind(-1)
        return before + same + after, torch.stack((-before, after))

    own, by_row = shared_even_odd(weight.transpose(2, 3))  # [m, c, 3], [2, m, c, 3]
    (own, by_column), (by_row, by_both) = shared_even_odd(own), shared_even_odd(by_row)
    by_both = by_both.transpose(0, 1)  # row, column

    def product(pixels: Tensor, kernels: Tensor) -> Tensor:
        """1×1 convolutions with ``[..., m, c]`` of ``[g, h, w, c]``: ``[g, h, w, ..., m]``."""
        found = _conv(channels_first(pixels), kernels.flatten(0, -2)[..., None, None])
        return found.unflatten(-1, kernels.shape[:-1])

    own, by_column, by_row, by_both = (
        product(pixels, kernels) for pixels, kernels in ((x, own), (across, by_column), (down, by_row), (both, by_both))
    )
    out = torch.empty_like(added, dtype=own.dtype, memory_format=torch.contiguous_format)
    for i, j in itertools.product((0, 1), (0, 1)):
        kind = torch.add(added[:, i, j], own, out=out[:, i, j])
        kind += by_column[:, :, j : j + w, j]
        kind += by_row[:, i : i + h, :, i]
        kind += by_both[:, i : i + h, j : j + w, i, j]
    return out
