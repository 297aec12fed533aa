"""The segmenter for inference: the same masks from fewer products, a few frames at a time.

- What the laterals contribute to a 3×3 convolution is computed with them, once for all expressions. The 1×1 and the
  3×3 convolution of a lateral are one where that is less work.
- The rest of the 3×3 convolution is done before upsampling (:mod:`models.fast.upsampling`).
- The last 1×1 convolution is taken into the kernels: there are far fewer of these than pixels.

Shapes: v clips, b samples, t frames, g frames of all clips or samples, n proxies, c channels, m mask channels, h w grid
of a map.
Channels stand last. A map of twice the size of the one before it is held as its four kinds of pixels
``[…, 2, 2, h, w, c]``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fast.forms import Form
from models.fast.upsampling import channels_first, channels_last, joined, kinds, upsampled_conv
from models.segmenter import Segmenter


def frames_at_once(device: torch.device) -> int:
    """Frames that are segmented together: few enough for a CPU's cache, enough to fill a GPU."""
    return 64 if device.type == "cuda" else 5


class SmoothedLateral(Form, nn.Conv2d):
    """The form of a lateral, a 1×1 convolution, which does the 3×3 convolution after it, too."""

    def forward(self, x: Tensor, smooth: nn.Conv2d) -> Tensor:
        """``smooth(lateral(x))`` of ``x [g, c, h, w]``: ``[g, h, w, m]``; one convolution where that is less work."""
        if 9 * (self.in_channels + 1) >= self.in_channels + 9 * self.out_channels:
            return channels_last(smooth(super().forward(x)))
        # a further channel of ones carries the bias, which the zeros around the map do not have
        first = torch.cat((self.weight[:, :, 0, 0], self.bias[:, None]), 1)
        weight = torch.einsum("mwyx,wc->mcyx", smooth.weight, first)
        with_ones = x.new_ones(len(x), *x.shape[2:], self.in_channels + 1)
        with_ones[..., :-1] = channels_last(x)
        return channels_last(F.conv2d(channels_first(with_ones), weight, smooth.bias, padding=1))


class FastSegmenter(Form, Segmenter):
    """The form of :class:`models.segmenter.Segmenter` for inference, whose laterals are :class:`SmoothedLateral`."""

    def laterals(self, maps: list[Tensor]) -> list[Tensor]:
        """The share of the laterals in each 3×3 convolution, from the maps ``[v, t, c_i, h_i, w_i]``, finest first.

        Returns:
            Coarse to fine ``[v, t, h_i, w_i, c]``, or ``[v, t, 2, 2, h, w, c]`` where the map before has half the size.
        """
        decoder, shares = self.mask_decoder, []
        coarse_to_fine = maps[::-1][: 1 + len(decoder.lateral)]
        for i, (lateral, smooth, x) in enumerate(zip(decoder.lateral, decoder.smooth, coarse_to_fine[1:], strict=True)):
            # the first step starts from the tokens, which may lie on a finer grid than the coarsest map
            doubled = i > 0 and x.shape[-2:] == tuple(2 * n for n in coarse_to_fine[i].shape[-2:])
            shares.append(_share(x.flatten(0, 1), lateral, smooth[0], doubled).unflatten(0, x.shape[:2]))
        return shares

    def forward(
        self,
        stages: list[Tensor],
        encoded: Tensor,
        laterals: list[Tensor],
        words: Tensor,
        text_valid: Tensor,
        video_valid: Tensor | None = None,
    ) -> list[Tensor]:
        """As :meth:`models.segmenter.Segmenter.forward`, with what :meth:`laterals` gives."""
        b, t = encoded.shape[:2]
        step = max(1, frames_at_once(encoded.device) // b)
        parts = []
        for start in range(0, t, step):
            part = slice(start, start + step)
            shares = [x[:, part] for x in laterals]
            features = self._mask_features(encoded[:, part], shares, words, text_valid, video_valid)
            masks = [self._cut(proxies[:, part], features) for proxies in stages]
            parts.append([joined(x[..., None])[..., 0] if x.ndim == 7 else x for x in masks])
        return [torch.cat(pieces, dim=1) for pieces in zip(*parts, strict=True)]

    def _mask_features(
        self, encoded: Tensor, laterals: list[Tensor], words: Tensor, text_valid: Tensor, video_valid: Tensor | None
    ) -> Tensor:
        """The mask features before the last 1×1 convolution: ``[b, t, h, w, m]``, or their four kinds of pixels."""
        decoder = self.mask_decoder
        b, t, h, w, _ = encoded.shape
        x = encoded.flatten(0, 1)
        for i, (share, smooth) in enumerate(zip(laterals, decoder.smooth, strict=True)):
            last = i == len(laterals) - 1
            x = channels_last(decoder.narrow(channels_first(x))) if last else x
            x = upsampled_conv(x, smooth[0].weight, share.flatten(0, 1))
            x = channels_last(smooth[1:](channels_first(x.flatten(1, -3)))).view(x.shape)
            x = joined(x) if x.ndim == 6 and (decoder.words or not last) else x
            if decoder.words:
                x = channels_last(decoder.words[i](channels_first(x), (h, w), video_valid, words, text_valid))
        return x.unflatten(0, (b, t))

    def _cut(self, proxies: Tensor, features: Tensor) -> Tensor:
        """Mask logits ``[b, t, n, …]`` of ``proxies [b, t, n, c]`` from ``features [b, t, …, m]``."""
        out, kernels = self.mask_decoder.out, self.kernel_head.kernel(proxies)
        bias = kernels @ out.bias.to(kernels.dtype)
        kernels = kernels @ out.weight[:, :, 0, 0].to(kernels.dtype)
        masks = torch.einsum("btnm,btpm->btnp", kernels, features.flatten(2, -2)) + bias[..., None]
        return masks.unflatten(-1, features.shape[2:-1])


def _share(frames: Tensor, lateral: SmoothedLateral, smooth: nn.Conv2d, doubled: bool) -> Tensor:
    """What ``frames [g, c, h, w]`` of the backbone add after the 3×3 convolution; as four kinds of pixels if doubled.

    A few frames at a time bound the memory.
    """
    share = None
    for start in range(0, len(frames), step := frames_at_once(frames.device)):
        part = lateral(frames[start : start + step], smooth)
        part = kinds(part) if doubled else part
        share = part.new_empty(len(frames), *part.shape[1:]) if share is None else share
        share[start : start + step] = part
    return share
