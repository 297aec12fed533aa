"""FPN from the encoded tokens F_v^K down to the mask features F_m.

Shapes: b samples, t frames, h w grid of a level, c channels, m mask channels, l words.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from models.attention import Attention


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


class MaskDecoder(nn.Module):
    """Top-down steps: upsample, add the lateral of the next finer level, 3×3 conv with group norm.

    The laterals are a 1×1 projection of backbone maps, which do not depend on the words: :meth:`laterals`
    computes them once per clip for any number of expressions.

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
        self.lateral = nn.ModuleList(nn.Conv2d(c, width, 1) for c, width in zip(finer, widths, strict=True))
        self.smooth = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.GroupNorm(math.gcd(32, width), width),
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
        """The backbone maps ``[v, t, c_i, h_i, w_i]``, finest first, to what they add: ``[v, t, c, h_i, w_i]``, coarse
        to fine."""
        finer = maps[::-1][1 : len(self.lateral) + 1]
        return [conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]) for conv, x in zip(self.lateral, finer, strict=True)]

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
            ``[b, t, m, h', w']`` of the last lateral's size.
        """
        b, t, h, w, _ = video.shape
        x = rearrange(video, "b t h w c -> (b t) c h w")
        for i, (lateral, smooth) in enumerate(zip(laterals, self.smooth, strict=True)):
            if i == len(laterals) - 1:
                x = self.narrow(x)
            x = F.interpolate(x, size=lateral.shape[3:], mode="nearest") + lateral.flatten(0, 1)
            x = smooth(x)
            if self.words:
                x = self.words[i](x, (h, w), video_valid, text, text_valid)
        return self.out(x).unflatten(0, (b, t))
