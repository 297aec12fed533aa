"""Fixed sine encodings of place, time and word order.

Shapes: b batch, t frames, h w token grid, l words, c channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TEMPERATURE = 10_000.0
# of the frame numbers that are drawn in training: windows of inference have 40 frames unless asked otherwise
LAST_FRAME = 63
# Distances of this many frames and more are one: the longest in the paper's clips of five frames. So a training at
# T = 5 sees every distance that a window of any length has.
FARTHEST = 4


def sine(position: Tensor, dim: int) -> Tensor:
    """Interleaved sine and cosine of ``position [...]`` at geometric frequencies: ``[..., dim]``, ``dim`` even."""
    frequency = torch.arange(dim // 2, dtype=torch.float32, device=position.device)
    angle = position[..., None] / _TEMPERATURE ** (2 * frequency / dim)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


def sine_1d(length: int, dim: int, device: torch.device | None = None) -> Tensor:
    """Encoding of the positions 0 … length-1 of a sequence: ``[length, dim]``."""
    return sine(torch.arange(length, dtype=torch.float32, device=device), dim)


def drawn_frames(clips: int, frames: int, device: torch.device | None = None) -> Tensor:
    """Frame numbers ``offset + stride · i`` of clips in training: float ``[clips, frames]``, within 0 … LAST_FRAME.

    Stride and offset are drawn once per clip, from torch's generator of the device. The stride is log-uniform from 1
    to the largest that fits, so that neighbours at distance 1, as inference has them, stay frequent; the offset is
    uniform. A clip of more than LAST_FRAME + 1 frames gets 0, 1, 2, …
    """
    largest = max(1, LAST_FRAME // max(1, frames - 1))
    stride, offset = torch.rand(2, clips, 1, device=device)
    stride = ((largest + 1) ** stride).floor().clamp(max=largest)
    room = (LAST_FRAME - stride * (frames - 1)).clamp(min=0)
    offset = (offset * (room + 1)).floor().minimum(room)
    return offset + stride * torch.arange(frames, device=device)


def frame_distances(frames: int, device: torch.device | None = None) -> Tensor:
    """How many frames each key is after each query, from -FARTHEST … FARTHEST: long ``[frames, frames]``, from 0 on."""
    number = torch.arange(frames, device=device)
    return (number - number[:, None]).clamp(-FARTHEST, FARTHEST) + FARTHEST


def sine_of_shares(valid: Tensor, dim: int) -> Tensor:
    """Encoding of places in a sequence as shares of its real part: ``[b, l, dim]``, for bool ``valid [b, l]``.

    ReferFormer's encoding of words (PositionEmbeddingSine1D in its models/position_encoding.py).
    """
    place = valid.float().cumsum(1)
    return sine(place / place[:, -1:].clamp(min=1) * 2 * math.pi, dim)


def sine_2d(valid: Tensor, dim: int, *, of_padding: bool = False) -> Tensor:
    """Encoding of rows and columns as shares of the valid area, so that padding does not change the encoding.

    Args:
        valid: bool ``[b, h, w]``, True on real tokens, which fill a top-left rectangle.
        dim: channels, a multiple of 4; half encode the row, half the column.
        of_padding: divide by the number of tokens and 1e-6, as ReferFormer does (its models/position_encoding.py). The
            encodings of real tokens are the same; those of padding are read at the edge by its convolutions.

    Returns:
        ``[b, h, w, dim]``.
    """
    rows, columns = valid.float().cumsum(1), valid.float().cumsum(2)
    # a grid without a valid token has extent 0; its encoding is never read and only has to be finite
    most = [x + 1e-6 if of_padding else x.clamp(min=1) for x in (rows[:, -1:], columns[:, :, -1:])]
    rows, columns = ((x - 0.5) / last * 2 * math.pi for x, last in zip((rows, columns), most, strict=True))
    return torch.cat((sine(rows, dim // 2), sine(columns, dim // 2)), dim=-1)
