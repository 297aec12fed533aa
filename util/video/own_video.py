"""A video of the user's own: a video file, a folder of frames or one image.

Pictures are turned upright by the rotation that phones write into their videos and images. Frames are counted from 0.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import av
import numpy as np
import torch
from torch import Tensor

from util.files.reading import unfit
from util.run.counts import counted
from util.video.pictures import PICTURE_SUFFIXES, Wording, image_size, read_frame
from util.video.video_io import VideoFile

FOLDER_FPS = 24
_IMAGE = Wording("the image does not exist", "the image cannot be read", "take it out, or copy it again")


class OwnVideo:
    """The selected frames of a video, read by position; use it in ``with``.

    Attributes:
        path: of the file or folder.
        is_image: whether the video is a single image.
        size: height and width in pixels.
        names: a text for each frame that can be the name of a file: its number in the whole video, or its image's name.
        times: when each frame is shown, in seconds from the first selected one; one more number is the end of the last.
    """

    def __init__(self, path: Path, source: _File | _Images, frames: range) -> None:
        self.path, self._source, self._frames = path, source, frames
        self.is_image = path.is_file() and isinstance(source, _Images)
        self.size = source.size
        self.names = [source.name(i) for i in frames]
        seconds = source.seconds()
        self.times = [seconds[i] - seconds[frames.start] for i in (*frames, frames.stop)]

    def __len__(self) -> int:
        """Frames."""
        return len(self._frames)

    def read(self, positions: Sequence[int]) -> Tensor:
        """Frames at these positions: uint8 RGB ``[T, 3, H, W]``, channels-last in memory.

        If each read starts where the last one ended, every frame is decoded once.

        Raises ValueError where a file is damaged.
        """
        return self._source.read([self._frames[position] for position in positions])

    @property
    def damaged(self) -> int:
        """How many of the frames read so far were damaged and replaced by the frame before."""
        return len(self._source.damaged)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._source.close()


def open_video(
    path: str | Path, every: int = 1, start: float | None = None, end: float | None = None, fps: float | None = None
) -> OwnVideo:
    """Opens a video, a folder of frames or an image.

    Args:
        path: of a file, or of a folder whose images are the frames, in natural order of their names (2 before 10).
        every: take one of so many frames.
        start, end: take the frames that are shown from ``start`` until just before ``end``. For a video file these are
            seconds from its first frame, for a folder numbers of frames.
        fps: frames per second of a folder, :data:`FOLDER_FPS` where it is None.

    Raises:
        FileNotFoundError: there is nothing at this path.
        ValueError: it cannot be read, or no frame is left.
    """
    path = Path(path)
    if every < 1:
        raise ValueError(f"--every {every}: take every frame with 1, or every Nth with N")
    for flag, value in (("--start", start), ("--end", end)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{flag} {value:g} is not a number of at least 0")
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"--fps {fps:g} is not a number above 0")
    source = _open(path, fps)
    for flag, value in (("--start", start), ("--end", end)):
        if value is not None and source.unit == "frames" and value != int(value):
            raise ValueError(f"{flag} {value:g}: the frames of {path} are counted, so this must be a whole number")
    clock = source.clock()
    first = bisect_left(clock, start or 0)
    stop = len(clock) if end is None else bisect_left(clock, end)
    if first >= stop:
        asked = " ".join(f"{f} {v:g}" for f, v in (("--start", start), ("--end", end)) if v is not None)
        raise ValueError(f"{asked} leaves no frame of {path}, which has {source.extent()}; ask for a part of that")
    return OwnVideo(path, source, range(first, stop)[::every])


def _open(path: Path, fps: float | None) -> _File | _Images:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder; give a video, a folder of frames or an image")
    if path.is_dir():
        return _Images(_frame_paths(path), fps)
    if why := unfit(path):
        raise ValueError(f"{path}: {why}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _Images([path], fps)
    if fps is not None:
        raise ValueError(f"--fps is for a folder of frames; {path} stores when its frames are shown. Leave it out")
    return _File(path)


class _File(VideoFile):
    """A video file, upright; a damaged frame is replaced by the one before, as in a player."""

    mend = "if a player can show it, convert it (ffmpeg -i VIDEO NEW.mp4); else copy or download it again"
    threads = 0
    lenient = True
    unit = "seconds"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        times = self._times()
        self._seek(self._keys[0][1])
        frame = next(self._decoder, None)
        if frame is None:
            raise self._damage("no frame of it can be decoded")
        # A video that was cut out of a longer one may begin with frames that depend on missing ones.
        self._shown = [time for time in times if time >= frame.pts]
        self._stored_size = self.size = (frame.height, frame.width)
        self._matrix = np.eye(3, dtype=np.int32)
        for data in frame.side_data:
            if data.type.name == "DISPLAYMATRIX":
                self._matrix = np.frombuffer(bytes(data), np.int32).reshape(3, 3)
        if _lies_on_its_side(self._matrix):
            self.size = (frame.width, frame.height)

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        return upright(super()._picture(frame), self._matrix)

    def name(self, frame: int) -> str:
        return f"{frame:05d}"

    def clock(self) -> Sequence[float]:
        return self.seconds()[:-1]

    def extent(self) -> str:
        """The length of the video in words."""
        return f"{counted(len(self), 'frames')} in {self.seconds()[-1]:.2f} seconds"


def _lies_on_its_side(matrix: np.ndarray) -> bool:
    return abs(int(matrix[0, 1])) > abs(int(matrix[0, 0]))


def upright(picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A stored picture ``[H, W, …]``, turned by quarters and mirrored to the way in which it is shown.

    Args:
        matrix: int ``[3, 3]``, the display matrix of a video: the pixel at x, y is shown at ``[x, y, 1] @ matrix``, up
            to a shift and a scale. Other angles are rounded to the nearest quarter turn.
    """
    (x_from_x, y_from_x, _), (x_from_y, y_from_y, _) = matrix[:2].tolist()
    if _lies_on_its_side(matrix):
        picture = picture.swapaxes(0, 1)
        mirror_x, mirror_y = x_from_y < 0, y_from_x < 0
    else:
        mirror_x, mirror_y = x_from_x < 0, y_from_y < 0
    return np.ascontiguousarray(picture[:: -1 if mirror_y else 1, :: -1 if mirror_x else 1])


class _Images:
    """Images of one size as the frames of a video."""

    unit = "frames"
    damaged = frozenset()

    def __init__(self, paths: list[Path], fps: float | None) -> None:
        self._paths, self._fps = paths, fps or FOLDER_FPS
        self.size = image_size(paths[0], _IMAGE)
        # checked at the start, because the error could otherwise come hours into the video
        for path in paths:
            height, width = image_size(path, _IMAGE)
            if (height, width) != self.size:
                raise ValueError(
                    f"{path}: is {width}x{height} pixels, but {paths[0].name} is {self.size[1]}x{self.size[0]}; the "
                    "frames of a video have one size, so take out what does not belong to it"
                )

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, positions: Sequence[int]) -> Tensor:
        frames = torch.empty((len(positions), *self.size, 3), dtype=torch.uint8)
        for place, position in enumerate(positions):
            frames[place] = read_frame(self._paths[position], _IMAGE).permute(1, 2, 0)
        return frames.permute(0, 3, 1, 2)

    def name(self, frame: int) -> str:
        return self._paths[frame].stem

    def seconds(self) -> list[float]:
        return [frame / self._fps for frame in range(len(self) + 1)]

    def clock(self) -> Sequence[float]:
        return range(len(self))

    def extent(self) -> str:
        return f"{len(self)} frames, from 0" if len(self) > 1 else "1 frame, number 0"

    def close(self) -> None:
        pass


def _frame_paths(folder: Path) -> list[Path]:
    """The images in a folder, in natural order."""
    paths = [p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith(".")]
    if not paths:
        raise ValueError(f"{folder}: holds no JPEG or PNG; give the folder that directly holds the frames, or a video")
    paths.sort(key=_natural)
    stems: dict[str, Path] = {}
    for path in paths:
        other = stems.setdefault(path.stem, path)
        if other != path:
            raise ValueError(f"{folder}: holds {other.name} and {path.name}; leave one image for each frame")
    return paths


def _natural(path: Path) -> tuple:
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if i % 2 else part.casefold() for i, part in enumerate(parts)], path.name
