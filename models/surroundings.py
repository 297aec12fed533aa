"""Positions and masks of the streams that the CMIE joins, arranged as its attentions take them.

Shapes: b samples, t frames, h w token grid, n proxies per frame, l words, c channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor


@dataclass
class Surroundings:
    """What every stage needs beside the three streams; the same for all stages.

    Attributes:
        space: ``[b, h, w, c]`` encoding of the token's place.
        time: ``[t, c]`` encoding of the frame, None without time encoding.
        words: ``[l, c]`` encoding of the word's place.
        text_valid: bool ``[b, l]``.
        video_valid: bool ``[b, t, h, w]``, or None when there is no padding.
        proxy_valid: bool ``[b, t, n]``, or None when there is no padding.
    """

    space: Tensor
    time: Tensor | None
    words: Tensor
    text_valid: Tensor
    video_valid: Tensor | None = None
    proxy_valid: Tensor | None = None

    def places(self, frames: int) -> Tensor:
        """The encoding of each token's place, frame by frame: ``[(b t), (h w), c]``."""
        return repeat(self.space, "b h w c -> (b t) (h w) c", t=frames)

    def times(self, copies: int) -> Tensor | None:
        """The encoding of the frame, for each of the ``copies`` that a frame has: ``[(t n), c]``, or None."""
        return None if self.time is None else repeat(self.time, "t c -> (t n) c", n=copies)

    def places_and_times(self, frames: int) -> Tensor:
        """The encodings of each token's place and frame, added; of its place alone without time encoding.

        Returns:
            ``[b, (t h w), c]``.
        """
        added = repeat(self.space, "b h w c -> b t (h w) c", t=frames)
        if self.time is not None:
            added = added + self.time[:, None]
        return rearrange(added, "b t s c -> b (t s) c")

    def valid_tokens(self, groups: str) -> Tensor | None:
        """``video_valid`` with its axes in ``groups``, such as "(b t) (h w)"; None when there is no padding."""
        return None if self.video_valid is None else rearrange(self.video_valid, f"b t h w -> {groups}")

    def valid_frames(self, *, of_proxies: bool = False) -> Tensor | None:
        """bool ``[b, t]``: frames with a real token, with ``of_proxies`` also a real proxy; None when there is no
        padding."""
        masks = (self.video_valid, self.proxy_valid if of_proxies else None)
        some = [reduce(mask, "b t ... -> b t", "any") for mask in masks if mask is not None]
        return torch.stack(some).all(0) if some else None

    def valid_proxies(self, proxies: int) -> Tensor | None:
        """bool ``[b, (t n)]``: the real ones of n ``proxies`` in the frames with a real token; None when there is no
        padding."""
        frames, valid = self.valid_frames(), self.proxy_valid
        if frames is not None:
            frames = repeat(frames, "b t -> b t n", n=proxies)
            valid = frames if valid is None else frames & valid
        return None if valid is None else rearrange(valid, "b t n -> b (t n)")


def masked_mean(x: Tensor, valid: Tensor | None, dim: int | tuple[int, ...]) -> Tensor:
    """Mean of ``x [..., c]`` over axes ``dim`` where ``valid [...]`` is True; zeros where nothing is."""
    if valid is None:
        return x.mean(dim)
    weight = valid[..., None].to(x.dtype)
    return (x * weight).sum(dim) / weight.sum(dim).clamp(min=1)
