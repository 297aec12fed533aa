"""Long videos in windows: their places, their memory, how proxies are followed from one to the next, where masks wait.

Shapes: t frames of a window, n proxies, h w mask size, k classes.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.deformable import AT_ONCE
from models.fast import referformer, segmenter
from models.network import Network
from models.referformer import ReferFormer
from util.options.inference import CLIPS

SAMPLED = 2 * AT_ONCE  # numbers that ReferFormer's deformable attention reads together on a GPU
# maps of ReferFormer's width at stride 4, held at once: for each frame of a clip while its finest level is projected
# and read, and for each frame that the pixel decoder takes
READING, REFERRING = 4, 24
DECODING = 5  # maps of its size that the mask decoder holds at once for each map of mask features
# The longest video of Ref-YouTube-VOS has 36 frames. A multiple of the 8 frames of Video Swin's windows needs no
# padding.
WINDOW, OVERLAP = 40, 8


@dataclass(frozen=True)
class Window:
    """The network sees frames ``start`` to ``stop`` together, and answers frames ``first`` to ``last`` from them.

    All four are numbers of frames in the video; ``stop`` and ``last`` are exclusive.
    """

    start: int
    stop: int
    first: int
    last: int


def window_sizes(window: int | None = None, overlap: int | None = None, clips: str = "followed") -> tuple[int, int]:
    """Window and overlap; None becomes 40 frames, and 8 frames or half of a window of fewer than 16.

    With ``clips="independent"`` the overlap is 0, and given as None or 0.

    Raises:
        ValueError: there are no such windows.
    """
    window = WINDOW if window is None else window
    if clips not in CLIPS:
        raise ValueError(f"--clips {clips} does not exist; choose one of {', '.join(CLIPS)}")
    if clips == "independent":
        if overlap:
            raise ValueError(f"--overlap {overlap}: clips share no frame with --clips independent; leave it out")
        if window < 1:
            raise ValueError(f"--window {window} is too small: a clip has at least one frame")
        return window, 0
    if window < 2:
        raise ValueError(f"--window {window} is too small: neighbouring windows share a frame, so give at least 2")
    overlap = min(OVERLAP, window // 2) if overlap is None else overlap
    if not 1 <= overlap < window:
        raise ValueError(f"--overlap {overlap} must be at least 1 and below --window {window}")
    return window, overlap


def windows(length: int, size: int, overlap: int) -> list[Window]:
    """Windows of ``size`` frames over a video of ``length``; neighbours share at least ``overlap`` frames.

    The last window lies at the end of the video and may share more frames. Each frame is answered from one window: of
    the frames that two windows share, the earlier window answers the first half and the later window the rest. A video
    of at most ``size`` frames is one window. Without overlap the windows are clips that lie one after the other, and
    the last has the frames that are left.
    """
    if length <= size:
        return [Window(0, length, 0, length)]
    if not overlap:
        clips = ((start, min(start + size, length)) for start in range(0, length, size))
        return [Window(start, stop, start, stop) for start, stop in clips]
    starts = [*range(0, length - size, size - overlap), length - size]
    seams = [0, *((start + before + size) // 2 for before, start in zip(starts, starts[1:], strict=False)), length]
    return [Window(s, s + size, first, last) for s, first, last in zip(starts, seams, seams[1:], strict=False)]


def window_bytes(model: Network, size: tuple[int, int], frames: int, expressions: int) -> int:
    """Estimates the bytes that a window needs beside the weights, in float32 and in the forms for inference.

    For each frame: the input, the maps of the backbone, and the larger of two things, the other memory of the backbone
    or what decoding keeps of it. In addition the maps of the mask decoder for the few frames that it takes at once.

    Args:
        size: height and width that the network sees.
        expressions: answered together.
    """
    backbone, device = model.backbone, next(model.parameters()).device
    maps = [channels / stride**2 for channels, stride in zip(backbone.channels, backbone.strides, strict=True)]
    pixels = size[0] * size[1]
    if isinstance(model, ReferFormer):
        levels = [4.0**-level for level in range(2, 3 + len(model.input_proj))]  # of the maps, finest first
        projected, encoded = model.dim * sum(levels), model.dim * sum(levels[1:4])
        answers = expressions * model.query_embed.num_embeddings / model.mask_stride**2
        reading = projected + READING * model.dim * levels[0]
        of_frame = 3 + max(sum(maps) + max(backbone.working, reading), projected + encoded + answers)
        few = REFERRING * min(frames, referformer.frames_at_once(device)) * model.dim * levels[0]
        return int(4 * (pixels * (frames * of_frame + few) + SAMPLED * (device.type == "cuda")))
    decoder = model.segmenter.mask_decoder
    laterals = [conv.out_channels / s**2 for conv, s in zip(decoder.lateral, backbone.strides[-2::-1], strict=False)]
    of_frame = 3 + sum(maps) + max(backbone.working, sum(laterals))
    decoded = min(frames * expressions, max(segmenter.frames_at_once(device), expressions))
    return int(4 * pixels * (frames * of_frame + DECODING * decoded * max(laterals)))


def follow(before: Tensor, now: Tensor) -> Tensor:
    """Pairs the proxies of a window with those of the window before.

    The pairing has the largest sum of IoUs between masks, in the frames that both windows see. Where masks are empty,
    as of an absent object, a proxy is paired with itself, because all windows start from the same learned queries.

    Args:
        before, now: bool ``[n, t, h, w]``, masks of the shared frames.

    Returns:
        long ``[n]``: for each proxy of the window before, the proxy of this window that continues it.
    """
    a, b = before.flatten(1).float(), now.flatten(1).float()
    shared = a @ b.T
    union = a.sum(1)[:, None] + b.sum(1) - shared
    iou = (shared / union.clamp(min=1)).cpu()
    gain = iou + 1e-4 * torch.eye(len(iou))
    _, chosen = linear_sum_assignment(gain.numpy(), maximize=True)
    return torch.as_tensor(chosen, device=now.device)


class Waiting:
    """Mask logits of all proxies of a video, which wait until the best proxy is known.

    The logits of a single window stay in memory. Those of several windows go to a temporary file, so that memory does
    not grow with the length of the video.

    Args:
        on_disk: whether there are several windows.
        kept_as: type of the numbers in the file.
    """

    def __init__(self, *, on_disk: bool, kept_as: type[np.floating] = np.float16) -> None:
        self._type = np.dtype(kept_as)
        self._file = tempfile.TemporaryFile() if on_disk else None  # noqa: SIM115 (closed with the object)
        self._pieces: dict[int, list[tuple[int, int, Tensor | int]]] = {}  # first and last frame, logits or offset
        self._end = 0
        self._grid: torch.Size | None = None

    def put(self, expression: int, first: int, logits: Tensor) -> None:
        """Takes ``logits [t, n, h, w]`` of the frames from ``first`` on.

        Raises:
            OSError: the disk is full; names the mend.
        """
        kept: Tensor | int = logits
        if self._file:
            kept, self._grid = self._end, logits.shape[1:]
            try:
                self._end += self._file.write(logits.float().cpu().numpy().astype(self._type).tobytes())
            except OSError as error:
                mend = "free some space there, set TMPDIR to another folder, or ask fewer expressions at once"
                raise OSError(error.errno, f"{error.strerror}; {mend}", tempfile.gettempdir()) from error
        self._pieces.setdefault(expression, []).append((first, first + len(logits), kept))

    def get(self, expression: int, proxy: int, start: int, stop: int, device: torch.device) -> Tensor:
        """Logits ``[stop - start, h, w]`` of one proxy."""
        found = []
        for first, last, kept in self._pieces[expression]:
            for frame in range(max(first, start), min(last, stop)):
                found.append(
                    kept[frame - first, proxy] if isinstance(kept, Tensor) else self._read(kept, frame - first, proxy)
                )
        return torch.stack([logits.to(device) for logits in found])

    def _read(self, offset: int, frame: int, proxy: int) -> Tensor:
        proxies, height, width = self._grid
        pixels = height * width
        size = self._type.itemsize * pixels
        self._file.seek(offset + size * (frame * proxies + proxy))
        values = np.frombuffer(self._file.read(size), self._type)
        return torch.from_numpy(values.astype(np.float32)).view(height, width)
