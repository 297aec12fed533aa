"""FPN from the encoded tokens F_v^K down to the mask features F_m.

Shapes: b samples, t frames, h w grid of a level, c channels, m mask channels, l words.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from models.attention import Attention
from models.upsampling import joined, kinds, upsampled_conv


def frames_at_once(device: torch.device) -> int:
    """Frames that the mask decoder makes together at inference: few enough for a CPU's cache, enough to fill a GPU."""
    return 64 if device.type == "cuda" else 4


class GroupNorm(nn.GroupNorm):
    """Group norm on the plain layout: on CPU torch's channels-last kernel is several times slower."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.contiguous())


class WordAttention(nn.Module):
    """Self-attention and word attention at one level (choice ``--mask_decoder cross_modal``).

    ReferFormer's decoder attends at every level; keys of the self-attention are averaged down to the coarsest
    grid, which keeps its cost linear in the pixels.
    """

    def __init__(self, *, dim: int, text_dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.pixels_from_pixels = Attention(dim=dim, heads=heads, dropout=dropout)
        self.pixels_from_words = Attention(dim=dim, context_dim=text_dim, heads=heads, dropout=dropout)

    def forward(
        self, x: Tensor, grid: tuple[int, int], grid_valid: Tensor | None, text: Tensor, text_valid: Tensor
    ) -> Tensor:
        """``x [(b t), c, h, w]``, keys pooled to ``grid``, ``text [b, l, c]`` to ``[(b t), c, h, w]``.

        Keys that ``grid_valid [b, *grid]`` marks False, and words that ``text_valid [b, l]`` does, are not read.
        """
        h = x.shape[2]
        frames = x.shape[0] // text.shape[0]
        keys = rearrange(F.adaptive_avg_pool2d(x, grid), "g c h w -> g (h w) c")
        pixels = rearrange(x, "g c h w -> g (h w) c")
        keys_valid = None if grid_valid is None else repeat(grid_valid, "b h w -> (b t) (h w)", t=frames)
        pixels = self.pixels_from_pixels(pixels, keys, context_valid=keys_valid)
        pixels = self.pixels_from_words(
            pixels,
            repeat(text, "b l c -> (b t) l c", t=frames),
            context_valid=repeat(text_valid, "b l -> (b t) l", t=frames),
        )
        return rearrange(pixels, "g (h w) c -> g c h w", h=h)


class Lateral(nn.Conv2d):
    """A 1×1 projection of a backbone map."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels, width, 1)

    def forward(self, x: Tensor, smooth: nn.Conv2d | None = None) -> Tensor:
        """``[g, c, h, w]`` to ``[g, width, h, w]``; or what a 3×3 convolution ``smooth`` makes of that, in one
        convolution where this is less work."""
        if smooth is None:
            return super().forward(x)
        if 9 * (self.in_channels + 1) >= self.in_channels + 9 * self.out_channels:
            return smooth(super().forward(x))
        # a further channel of ones carries the bias, which the zeros around the map do not have
        first = torch.cat((self.weight[:, :, 0, 0], self.bias[:, None]), 1)
        weight = torch.einsum("mwyx,wc->mcyx", smooth.weight, first)
        ones = x.new_ones(()).expand(len(x), 1, *x.shape[2:])
        x = torch.cat((x, ones), 1).contiguous(memory_format=torch.channels_last)
        return F.conv2d(x, weight, smooth.bias, padding=1)


class MaskDecoder(nn.Module):
    """Top-down steps: upsample, add the lateral of the next finer level, 3×3 conv with group norm.

    The laterals are a 1×1 projection of backbone maps, which do not depend on the words: :meth:`laterals`
    computes them once per clip for any number of expressions. In evaluation their share of the 3×3 convolution is taken
    with them, and the rest is done before upsampling (:mod:`models.upsampling`): the same numbers from fewer products.

    Args:
        channels: of the backbone's maps, finest first.
        dim: of the tokens and of every step but the last.
        mask_dim: of the mask features and of the last step, the costliest by far.
        steps: top-down steps; 3 ends at stride 4.
        heads, dropout: of the attention, where ``cross_modal``.
    """

    def __init__(
        self,
        *,
        channels: list[int],
        dim: int,
        mask_dim: int,
        steps: int,
        cross_modal: bool = False,
        heads: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        finer = channels[::-1][1 : steps + 1]
        widths = [dim] * (steps - 1) + [mask_dim]
        self.narrow = nn.Conv2d(dim, mask_dim, 1) if mask_dim != dim else nn.Identity()
        self.lateral = nn.ModuleList(Lateral(c, width) for c, width in zip(finer, widths, strict=True))
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                GroupNorm(math.gcd(32, width), width),
                nn.ReLU(inplace=True),
            )
            for width in widths
        )
        self.words = nn.ModuleList(
            WordAttention(dim=width, text_dim=dim, heads=heads, dropout=dropout)
            for width in (widths if cross_modal else [])
        )
        self.out = nn.Conv2d(mask_dim, mask_dim, 1)

    def laterals(self, maps: list[Tensor]) -> list[Tensor]:
        """What the backbone maps ``[v, t, c_i, h_i, w_i]``, finest first, add in each step.

        Returns:
            Coarse to fine ``[v, t, c, h_i, w_i]``; in evaluation as the four kinds of pixels of a doubled map
            ``[v, t, c, 2, 2, h, w]`` where the map before is of half the size.
        """
        added = []
        coarse_to_fine = maps[::-1][: 1 + len(self.lateral)]
        for i, (conv, smooth, x) in enumerate(zip(self.lateral, self.smooth, coarse_to_fine[1:], strict=True)):
            frames = rearrange(x, "v t c h w -> (v t) c h w")
            if self.training:
                made = conv(frames)
            else:
                # the first step starts from the tokens, which may lie on a finer grid than the coarsest map
                doubled = i > 0 and x.shape[-2:] == tuple(2 * n for n in coarse_to_fine[i].shape[-2:])
                made = self._whole_lateral(frames, conv, smooth[0], kinds if doubled else Tensor.contiguous)
            added.append(made.unflatten(0, x.shape[:2]))
        return added

    @staticmethod
    def _whole_lateral(frames: Tensor, conv: Lateral, smooth: nn.Conv2d, arrange: Callable[[Tensor], Tensor]) -> Tensor:
        """What the map ``[g, c, h, w]`` adds after the 3×3 convolution; a few frames at a time bound the memory."""
        made = None
        for start in range(0, len(frames), step := frames_at_once(frames.device)):
            part = arrange(conv(frames[start : start + step], smooth))
            made = part.new_empty(len(frames), *part.shape[1:]) if made is None else made
            made[start : start + step] = part
        return made

    def forward(
        self,
        video: Tensor,
        laterals: list[Tensor],
        text: Tensor,
        text_valid: Tensor,
        video_valid: Tensor | None = None,
    ) -> Tensor:
        """``video [b, t, h, w, c]``, real where ``video_valid [b, h, w]``, and its laterals to the mask features.

        Returns:
            ``[b, t, m, h', w']`` of the last lateral's size, or as four kinds of pixels like it; in evaluation without
            the last 1×1 convolution, ``out``, which :class:`models.heads.DynamicKernelHead` takes into its kernels.
        """
        b, t, h, w, _ = video.shape
        x = rearrange(video, "b t h w c -> (b t) c h w")
        if not self.training:
            x = x.contiguous()
        for i, (lateral, smooth) in enumerate(zip(laterals, self.smooth, strict=True)):
            last = i == len(laterals) - 1
            x = self.narrow(x) if last else x
            lateral = lateral.flatten(0, 1)
            if self.training:
                x = smooth(F.interpolate(x, size=lateral.shape[2:], mode="nearest") + lateral)
            else:
                x = smooth[1:](upsampled_conv(x, smooth[0].weight, lateral))
                x = joined(x) if x.ndim == 6 and (self.words or not last) else x
            if self.words:
                x = self.words[i](x, (h, w), video_valid, text, text_valid)
        return (self.out(x) if self.training else x).unflatten(0, (b, t))
