"""Reading frames and masks from disk. Whatever cannot be read is named together with the mend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

_MEND = "restore this file from the data set's archive (docs/data.md)"


def _check_exists(path: Path, what: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the {what} does not exist; {_MEND}")


def read_frame(path: Path) -> Tensor:
    """A JPEG or PNG frame as uint8 RGB ``[3, H, W]``.

    Raises FileNotFoundError where there is none, ValueError where it is damaged.
    """
    _check_exists(path, "frame")
    try:
        return decode_image(str(path), ImageReadMode.RGB)
    except RuntimeError as error:
        raise ValueError(f"{path}: the frame is damaged or not an image; {_MEND}") from error


def read_labels(path: Path) -> np.ndarray:
    """A mask as uint8 object ids ``[H, W]``: the palette index (PNG mode P) or the grey value (mode L).

    Raises FileNotFoundError where there is none, ValueError where it is damaged or of another mode.
    """
    _check_exists(path, "mask")
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(
                    f"{path}: a mask is a palette or 8-bit grey PNG whose pixel value is the object id, not an image "
                    f"of mode {image.mode}; {_MEND}"
                )
            return np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: the mask is damaged or not an image; {_MEND}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header alone. Errors as in :func:`read_frame`."""
    _check_exists(path, "frame")
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path}: the frame is damaged or not an image; {_MEND}") from error


def check_size(path: Path | str, size: Sequence[int], expected: Sequence[int], of: str) -> None:
    """Raises ValueError, naming ``path``, unless a height and width are those ``of`` something else."""
    if tuple(size) != tuple(expected):
        raise ValueError(
            f"{path}: is {size[1]}x{size[0]} pixels, but {of} is {expected[1]}x{expected[0]}; restore whichever is "
            "wrong from the data set's archive (docs/data.md)"
        )


def read_frames(paths: Sequence[Path]) -> Tensor:
    """Frames of one video as uint8 RGB ``[T, 3, H, W]``; a file named twice in a row is decoded once.

    The memory is channels-last, as the decoder delivers it: resizing is 2.5 times as fast as from planes.
    Raises as :func:`read_frame`, and ValueError for frames of different sizes.
    """
    first = read_frame(paths[0])
    frames = torch.empty((len(paths), *first.shape[1:], 3), dtype=torch.uint8)
    frames[0] = first.permute(1, 2, 0)
    for t in range(1, len(paths)):
        if paths[t] == paths[t - 1]:
            frames[t] = frames[t - 1]
            continue
        frame = read_frame(paths[t])
        check_size(paths[t], frame.shape[1:], first.shape[1:], f"the frame {paths[0].name} of the same video")
        frames[t] = frame.permute(1, 2, 0)
    return frames.permute(0, 3, 1, 2)


def read_label_maps(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Masks of one video as uint8 object ids ``[T, 1, H, W]``; a file named twice in a row is decoded once.

    Raises as :func:`read_labels`, and ValueError for a mask that has not the ``size`` (height, width) of its frames.
    """
    labels = torch.empty((len(paths), 1, *size), dtype=torch.uint8)
    for t, path in enumerate(paths):
        if t and path == paths[t - 1]:
            labels[t] = labels[t - 1]
            continue
        ids = read_labels(path)
        check_size(path, ids.shape, size, "its frame")
        labels[t, 0] = torch.from_numpy(ids)
    return labels


class VideoFile:
    """A video file whose frames are read by position, from 0 in the order in which they are shown; use it in ``with``.

    Attributes:
        path: of the file.
        size: height and width in pixels.

    Raises FileNotFoundError where there is none, ValueError where it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        _check_exists(path, "video")
        self.path = path
        with self._named_errors():
            self._container = av.open(str(path))
        if not self._container.streams.video:
            self._container.close()
            raise ValueError(f"{path}: holds no video; {_MEND}")
        self._stream = self._container.streams.video[0]
        # Workers are the parallelism, and threads that decode frames ahead would only decode more than is wanted.
        self._stream.codec_context.thread_count = 1
        self.size = (self._stream.codec_context.height, self._stream.codec_context.width)
        self._shown: list[int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._container.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise ValueError(f"{self.path}: the video is damaged ({error.strerror}); {_MEND}") from error

    def _times(self) -> list[int]:
        """When each frame is shown, in the container's unit of time; decodes nothing."""
        if self._shown is None:
            with self._named_errors():
                packets = [p for p in self._container.demux(self._stream) if p.size and not p.is_discard]
            times = sorted({p.pts for p in packets if p.pts is not None})
            if not times or len(times) < len(packets):
                raise ValueError(f"{self.path}: the video is damaged (its frames have no times of their own); {_MEND}")
            self._shown = times
        return self._shown

    def __len__(self) -> int:
        """Frames."""
        return len(self._times())

    def read(self, positions: Sequence[int]) -> Tensor:
        """Frames at these positions: uint8 RGB ``[T, 3, H, W]``, channels-last in memory as in :func:`read_frames`.

        Nothing is decoded but from the last key frame before the first of them to the last of them.
        """
        times = self._times()
        wanted = {times[p] for p in positions}
        found = self._decode(min(wanted), wanted)
        if found.keys() != wanted:
            # A file's index may point behind the key frame that a frame needs.
            found = self._decode(times[0], wanted)
        if found.keys() != wanted:
            missing = times.index(min(wanted - found.keys()))
            raise ValueError(
                f"{self.path}: the video is damaged (frame {missing + 1} of {len(times)} cannot be decoded); {_MEND}"
            )
        frames = torch.empty((len(positions), *self.size, 3), dtype=torch.uint8)
        for t, position in enumerate(positions):
            frames[t] = torch.from_numpy(found[times[position]])
        return frames.permute(0, 3, 1, 2)

    def _decode(self, start: int, wanted: set[int]) -> dict[int, np.ndarray]:
        """The wanted frames, by the time they are shown, decoding from the last key frame until ``start``."""
        found = {}
        with self._named_errors():
            self._container.seek(start, stream=self._stream)
            for frame in self._container.decode(self._stream):
                if frame.pts in wanted:
                    found[frame.pts] = frame.to_ndarray(format="rgb24")
                if frame.pts is not None and frame.pts >= max(wanted):
                    break
        return found
