"""Cross-Modality Interaction Encoder: the stacked, decoupled exchange between video, proxies and words (Figure 2).

Shapes: b samples, t frames, h w token grid, n proxies per frame, l words, c channels.
    video [b, t, h, w, c]     proxies [b, t, n, c]     text [b, l, c]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from models.attention import Attention, FeedForward


@dataclass
class Surroundings:
    """What every stage needs beside the three streams; the same for all stages.

    Attributes:
        space: ``[b, h, w, c]`` encoding of the token's place.
        time: ``[t, c]`` or ``[b, t, c]`` encoding of the frame's number, None where numbers are not encoded.
        words: ``[l, c]`` encoding of the word's place.
        text_valid: bool ``[b, l]``.
        video_valid: bool ``[b, t, h, w]``, or None when there is no padding.
        proxy_valid: bool ``[b, t, n]``, or None when there is no padding.
        distances: long ``[t, t]``, of :func:`models.position_encoding.frame_distances`, where distances are encoded.
    """

    space: Tensor
    time: Tensor | None
    words: Tensor
    text_valid: Tensor
    video_valid: Tensor | None = None
    proxy_valid: Tensor | None = None
    distances: Tensor | None = None


def masked_mean(x: Tensor, valid: Tensor | None, dim: int | tuple[int, ...]) -> Tensor:
    """Mean of ``x [..., c]`` over axes ``dim`` where ``valid [...]`` is True; zeros where nothing is."""
    if valid is None:
        return x.mean(dim)
    weight = valid[..., None].to(x.dtype)
    return (x * weight).sum(dim) / weight.sum(dim).clamp(min=1)


class CMIE(nn.Module):
    """One stage. Both blocks read the inputs of the stage; neither waits for the other (Figure 2).

    Args:
        dim: channels; heads: attention heads; dropout: of the attention outputs.
        dim_feedforward: width of a feed-forward layer after each block; 0 is the figure: none.
        relative: temporal attention learns biases of distances (:class:`models.attention.Attention`).
    """

    def __init__(
        self, *, dim: int, heads: int, dropout: float, dim_feedforward: int = 0, relative: bool = False
    ) -> None:
        super().__init__()

        def attention(relative: bool = False) -> Attention:
            return Attention(dim=dim, heads=heads, dropout=dropout, relative=relative)

        def feed_forward() -> nn.Module:
            return FeedForward(dim=dim, hidden=dim_feedforward, dropout=dropout) if dim_feedforward else nn.Identity()

        self.video_in = nn.Linear(dim, dim)
        self.video_space = attention()
        self.video_time = attention(relative)
        self.video_from_proxies_space = attention()
        self.video_from_proxies_time = attention(relative)
        self.video_out = feed_forward()

        self.proxies_in = nn.Linear(dim, dim)
        self.text_in = nn.Linear(dim, dim)
        self.proxies_from_text = attention()
        self.proxies_from_video_space = attention()
        self.proxies_from_video_time = attention(relative)
        self.proxies_out = feed_forward()

    def forward(self, video: Tensor, proxies: Tensor, text: Tensor, around: Surroundings) -> tuple[Tensor, Tensor]:
        """Returns the video ``[b, t, h, w, c]`` and the proxies ``[b, t, n, c]`` of the next stage."""
        return self.video_block(video, proxies, around), self.proxy_block(proxies, video, text, around)

    def video_block(self, video: Tensor, proxies: Tensor, around: Surroundings) -> Tensor:
        x = self.video_in(video)
        y = self.attend_space(x, around) + self.attend_time(x, around)
        read = self.read_proxies_space(y, proxies, around) + self.read_proxies_time(y, proxies, around)
        return self.video_out(read)

    def proxy_block(self, proxies: Tensor, video: Tensor, text: Tensor, around: Surroundings) -> Tensor:
        z, words = self.proxies_in(proxies), self.text_in(text)
        r = self.read_text(z, words, around)
        read = self.read_video_space(r, video, around) + self.read_video_time(r, video, around)
        return self.proxies_out(read)

    # Video block -----------------------------------------------------------------------------------------------

    def attend_space(self, x: Tensor, around: Surroundings) -> Tensor:
        """Tokens of one frame attend to each other."""
        b, t, h, w, _ = x.shape
        tokens = rearrange(x, "b t h w c -> (b t) (h w) c")
        place = _space(around, t)
        valid = None if around.video_valid is None else rearrange(around.video_valid, "b t h w -> (b t) (h w)")
        tokens = self.video_space(tokens, tokens, x_position=place, context_position=place, context_valid=valid)
        return rearrange(tokens, "(b t) (h w) c -> b t h w c", b=b, h=h)

    def attend_time(self, x: Tensor, around: Surroundings) -> Tensor:
        """Tokens of one location attend along time."""
        b, t, h, w, _ = x.shape
        tokens = rearrange(x, "b t h w c -> (b h w) t c")
        time = around.time
        if time is not None and time.ndim == 3:
            time = repeat(time, "b t c -> (b s) t c", s=h * w)
        valid = None if around.video_valid is None else rearrange(around.video_valid, "b t h w -> (b h w) t")
        tokens = self.video_time(
            tokens,
            tokens,
            x_position=time,
            context_position=time,
            context_valid=valid,
            distances=around.distances,
        )
        return rearrange(tokens, "(b h w) t c -> b t h w c", h=h, w=w)

    def read_proxies_space(self, y: Tensor, proxies: Tensor, around: Surroundings) -> Tensor:
        """A frame's tokens read that frame's proxies."""
        b, t, h, w, _ = y.shape
        tokens = self.video_from_proxies_space(
            rearrange(y, "b t h w c -> (b t) (h w) c"),
            rearrange(proxies, "b t n c -> (b t) n c"),
            x_position=_space(around, t),
            context_valid=None if around.proxy_valid is None else rearrange(around.proxy_valid, "b t n -> (b t) n"),
        )
        return rearrange(tokens, "(b t) (h w) c -> b t h w c", b=b, h=h)

    def read_proxies_time(self, y: Tensor, proxies: Tensor, around: Surroundings) -> Tensor:
        """Tokens of a location read the t frame-pooled proxies.

        The paper copies the pooled proxies to every location; the copies are equal, so all locations of a video
        share one set of t keys instead.
        """
        b, t, h, w, _ = y.shape
        tokens = self.video_from_proxies_time(
            rearrange(y, "b t h w c -> b (t h w) c"),
            masked_mean(proxies, around.proxy_valid, 2),
            x_position=None if around.time is None else repeat(around.time, "... t c -> ... (t s) c", s=h * w),
            context_position=around.time,
            context_valid=_frame_valid(around.video_valid, around.proxy_valid),
            distances=None if around.distances is None else repeat(around.distances, "t k -> (t s) k", s=h * w),
        )
        return rearrange(tokens, "b (t h w) c -> b t h w c", t=t, h=h)

    # Proxy block -----------------------------------------------------------------------------------------------

    def read_text(self, z: Tensor, words: Tensor, around: Surroundings) -> Tensor:
        """T2P: the proxies read the words."""
        t = z.shape[1]
        proxies = self.proxies_from_text(
            rearrange(z, "b t n c -> b (t n) c"),
            words,
            context_position=around.words,
            context_valid=around.text_valid,
        )
        return rearrange(proxies, "b (t n) c -> b t n c", t=t)

    def read_video_space(self, r: Tensor, video: Tensor, around: Surroundings) -> Tensor:
        """V2P: a frame's proxies read that frame's tokens."""
        t = r.shape[1]
        valid = None if around.video_valid is None else rearrange(around.video_valid, "b t h w -> (b t) (h w)")
        proxies = self.proxies_from_video_space(
            rearrange(r, "b t n c -> (b t) n c"),
            rearrange(video, "b t h w c -> (b t) (h w) c"),
            context_position=_space(around, t),
            context_valid=valid,
        )
        return rearrange(proxies, "(b t) n c -> b t n c", t=t)

    def read_video_time(self, r: Tensor, video: Tensor, around: Surroundings) -> Tensor:
        """V2P: a proxy's t copies read the t space-pooled video tokens, shared by the n proxies."""
        t, n = r.shape[1:3]
        proxies = self.proxies_from_video_time(
            rearrange(r, "b t n c -> b (t n) c"),
            masked_mean(video, around.video_valid, (2, 3)),
            x_position=None if around.time is None else repeat(around.time, "... t c -> ... (t n) c", n=n),
            context_position=around.time,
            context_valid=_frame_valid(around.video_valid),
            distances=None if around.distances is None else repeat(around.distances, "t k -> (t n) k", n=n),
        )
        return rearrange(proxies, "b (t n) c -> b t n c", t=t)


def _space(around: Surroundings, frames: int) -> Tensor:
    """The place encoding of every frame's tokens, ``[(b t), h w, c]``."""
    return repeat(around.space, "b h w c -> (b t) (h w) c", t=frames)


def _frame_valid(*masks: Tensor | None) -> Tensor | None:
    """bool ``[b, t]``: frames in which every mask ``[b, t, ...]`` has something real; None when there is no padding."""
    some = [reduce(mask, "b t ... -> b t", "any") for mask in masks if mask is not None]
    return torch.stack(some).all(0) if some else None


class CMIEStack(nn.Module):
    """K stages, one after the other; each reads the backbone's words afresh."""

    def __init__(
        self, *, layers: int, dim: int, heads: int, dropout: float, dim_feedforward: int = 0, relative: bool = False
    ) -> None:
        super().__init__()
        options = dict(dim=dim, heads=heads, dropout=dropout, dim_feedforward=dim_feedforward, relative=relative)
        self.stages = nn.ModuleList(CMIE(**options) for _ in range(layers))

    def forward(
        self, video: Tensor, proxies: Tensor, text: Tensor, around: Surroundings
    ) -> tuple[Tensor, list[Tensor]]:
        """Returns ``F_v^K [b, t, h, w, c]`` and the proxies ``Q^1 … Q^K``, each ``[b, t, n, c]``."""
        stages = []
        for stage in self.stages:
            video, proxies = stage(video, proxies, text, around)
            stages.append(proxies)
        return video, stages
