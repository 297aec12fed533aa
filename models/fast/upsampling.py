"""3×3 convolutions of upsampled maps, computed before upsampling (nearest neighbours, twice the size).

The pixels of a doubled map are of four kinds: even or odd row, even or odd column. Each kind is a map of the small
size. Norms, activations and 1×1 kernels treat all pixels alike, so they work on the four kinds directly.

Shapes: g maps, c channels, m channels after the convolution, h w small size, H W size after upsampling.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def kinds(x: Tensor) -> Tensor:
    """``[..., 2h, 2w]`` to ``[..., 2, 2, h, w]``, a view: even and odd rows, and of these even and odd columns."""
    return rearrange(x, "... (h y) (w x) -> ... y x h w", y=2, x=2)


def joined(x: Tensor) -> Tensor:
    """The inverse of :func:`kinds`."""
    return rearrange(x, "... y x h w -> ... (h y) (w x)")


def upsampled_conv(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """The convolution of ``x [g, c, h, w]``, upsampled by its nearest neighbours to the size of ``added``, plus that.

    Args:
        weight: ``[m, c, 3, 3]``.
        added: ``[g, m, H, W]``, or its four kinds ``[g, m, 2, 2, h, w]``.

    Returns:
        The shape of ``added``.
    """
    if added.ndim == 6:
        return _doubled_conv(x, weight, added)
    (h, w), (height, width) = x.shape[2:], added.shape[2:]
    if not (0 <= 2 * h - height <= 1 and 0 <= 2 * w - width <= 1):
        return F.conv2d(F.interpolate(x, size=(height, width), mode="nearest"), weight, padding=1) + added
    # an odd size lacks the last row or column of the doubled map: the convolution reads zeros there, not their copy
    out = joined(_doubled_conv(x, weight, kinds(F.pad(added, (0, 2 * w - width, 0, 2 * h - height)))))
    out = out[..., :height, :width].contiguous()
    if height < 2 * h:
        row = F.interpolate(x[:, :, -1:], size=(1, 2 * w), mode="nearest")
        out[:, :, -1:] -= F.conv2d(row, weight[:, :, 2:], padding=(0, 1))[..., :width]
    if width < 2 * w:
        column = F.interpolate(x[..., -1:], size=(2 * h, 1), mode="nearest")[:, :, :height]
        out[..., -1:] -= F.conv2d(column, weight[..., 2:], padding=(1, 0))
    return out


def _doubled_conv(x: Tensor, weight: Tensor, added: Tensor) -> Tensor:
    """The four kinds of pixels ``[g, m, 2, 2, h, w]`` of the doubled map after the convolution, plus ``added``.

    Of a row of pixels and taps a, b, c, the even pixel reads a before + (b + c) own, the odd one (a + b) own + c after.
    These are (a + b + c) own, which both share, with -a (own - before), or with c (after - own): three products
    instead of six. Along both axes there are nine instead of 36.
    """
    h, w = x.shape[2:]
    across = F.pad(x, (1, 1)).diff(dim=-1)  # [g, c, h, w + 1]
    down = F.pad(x, (0, 0, 1, 1)).diff(dim=-2)
    both = F.pad(across, (0, 0, 1, 1)).diff(dim=-2)

    def shared_even_odd(taps: Tensor) -> tuple[Tensor, Tensor]:
        """Of taps along the last axis: what both kinds of pixels do with themselves, and each with a difference."""
        before, same, after = taps.unbind(-1)
        return before + same + after, torch.stack((-before, after))

    own, by_row = shared_even_odd(weight.transpose(2, 3))  # [m, c, 3], [2, m, c, 3]
    (own, by_column), (by_row, by_both) = shared_even_odd(own), shared_even_odd(by_row)
    by_both = by_both.transpose(0, 1)  # row, column

    def product(pixels: Tensor, kernels: Tensor) -> Tensor:
        """1×1 convolutions with ``[..., m, c]`` of ``[g, c, h, w]``: ``[g, ..., m, h, w]``."""
        return F.conv2d(pixels, kernels.flatten(0, -2)[..., None, None]).unflatten(1, kernels.shape[:-1])

    own, by_column, by_row, by_both = (
        product(pixels, kernels) for pixels, kernels in ((x, own), (across, by_column), (down, by_row), (both, by_both))
    )
    out = torch.empty_like(added, dtype=own.dtype)
    for i, j in itertools.product((0, 1), (0, 1)):
        kind = torch.add(added[:, :, i, j], own, out=out[:, :, i, j])
        kind += by_column[:, j, ..., j : j + w]
        kind += by_row[:, i, ..., i : i + h, :]
        kind += by_both[:, i, j, ..., i : i + h, j : j + w]
    return out
