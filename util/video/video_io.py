"""Reading the frames of a video file by position. Errors name the file and the mend."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import av
import numpy as np
import torch
from av.stream import Disposition
from torch import Tensor

from util.files.images import MOST_PIXELS
from util.files.reading import unfit
from util.video.claims import overclaim

_MEND = "restore this file from the data set's archive (docs/data.md)"
# failures of a decoder in a row, after which reading gives up
_TOLERATED = 100
# a day of 24 in a second; the times of so many take 0.7 GB
MOST_FRAMES = 2**21
# of a frame in an mp4, with its entry in the table of sizes; an H.264 frame in which nothing changes takes 12 and more
_LEAST_BYTES = 8


def open_film(path: Path, **options: str) -> av.container.InputContainer:
    """A film, opened for reading by FFmpeg; every film is opened here.

    Titles that are not UTF-8 are read with replacement characters; the film is what is asked for. Decoders refuse more
    than ``MOST_PIXELS``.

    Args:
        options: of FFmpeg's demuxers and decoders.

    Raises:
        av.FFmpegError: FFmpeg cannot read it.
        ValueError: its header claims more than the file can hold.
    """
    if why := overclaim(path):
        raise ValueError(f"{path}: the video is damaged ({why}); convert it (ffmpeg -i VIDEO NEW.mp4)")
    bounds = {"max_pixels": str(MOST_PIXELS)}
    film = av.open(str(path), options=bounds | options, metadata_errors="replace")
    for stream in film.streams.video:
        if stream.codec_context is not None:
            stream.codec_context.options = bounds
    return film


class VideoFile:
    """A video file whose frames are read by position, from 0 in the order in which they are shown; use it in ``with``.

    Reading in order, in windows that may overlap, decodes every frame once.

    Attributes:
        path: of the file.
        size: height and width in pixels.
        damaged: times of damaged frames, which another frame replaces.

    A subclass may override :meth:`_picture` and these:
        mend: what to do about a file that cannot be read.
        threads: of the decoder; 0: as many as it chooses. In data loading processes more threads would only decode
            frames that are not needed.
        lenient: replace a damaged picture by the one before, as a player does.

    Raises FileNotFoundError where there is no file, ValueError where it cannot be read.
    """

    mend = _MEND
    threads = 1
    lenient = False

    def __init__(self, path: Path) -> None:
        try:
            why = unfit(path)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise FileNotFoundError(f"{path}: the video does not exist; {self.mend}") from None
        if why:
            raise ValueError(f"{path}: {why}; {self.mend}")
        self.path = path
        with self._named_errors():
            self._container = open_film(path)
        # an attached cover picture is a video stream, too
        films = [s for s in self._container.streams.video if not s.disposition & Disposition.attached_pic]
        if not films or films[0].codec_context is None:
            self._container.close()
            problem = "has a codec that is unknown here" if films else "holds no video"
            raise ValueError(f"{path}: {problem}; {self.mend}")
        self._stream = films[0]
        self._check_claims()
        self._stream.codec_context.thread_type, self._stream.codec_context.thread_count = "AUTO", self.threads
        self._stored_size = self.size = (self._stream.codec_context.height, self._stream.codec_context.width)
        self._shown: list[int] | None = None
        self._counted = False  # whether the i-th frame gets the i-th time, because the frames' own times are wrong
        self._keys: list[tuple[int, int]] = []  # when key frames are shown, and when they are decoded
        self._end, self._closed = 0, False
        self._decoder: Iterator[av.VideoFrame] = iter(())
        self._at: int | None = None  # time of the frame that the decoder gave last
        self._last: dict[int, Tensor] = {}  # what was read last, by time
        self.damaged: set[int] = set()

    def _check_claims(self) -> None:
        """ValueError for a header that is absurd, before anything is allocated for it."""
        context, claimed = self._stream.codec_context, self._stream.frames
        why = None
        if self._stream.time_base is None:
            why = "its frames have no times of their own"
        elif context.height * context.width > MOST_PIXELS:
            why = f"it claims to be {context.width}x{context.height} pixels"
        elif "mp4" in self._container.format.name and claimed * _LEAST_BYTES > self.path.stat().st_size:
            why = f"it claims {claimed:,} frames in {self.path.stat().st_size:,} bytes"
        if why:
            self._container.close()
            raise self._damage(why)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends reading. Decoding after this would crash the process."""
        self._closed, self._decoder = True, iter(())
        self._container.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except av.FFmpegError as error:
            raise self._damage(error.strerror) from error

    def _damage(self, what: str) -> ValueError:
        return ValueError(f"{self.path}: the video is damaged ({what}); {self.mend}")

    def _times(self) -> list[int]:
        """When each frame is shown, in the stream's unit of time; decodes nothing."""
        if self._shown is not None:
            return self._shown
        count, shown, decoded, keys = 0, {}, {}, []
        try:
            for packet in self._container.demux(self._stream):
                if packet.size and not packet.is_discard:
                    count += 1
                    if count > MOST_FRAMES:
                        raise ValueError(f"{self.path}: has more than {MOST_FRAMES:,} frames; cut it into parts")
                    shown[packet.pts] = decoded[packet.dts] = packet.duration
                if packet.size and packet.is_keyframe and packet.pts is not None:
                    keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        except av.FFmpegError as error:
            if not self.lenient:
                raise self._damage(error.strerror) from error
        # An avi stores the times at which pictures are decoded. Where pictures are shown at other times, FFmpeg guesses
        # these: they may repeat, and with H.264 they may belong to other pictures. Then only counting the frames from
        # the first one on is reliable.
        if self._container.format.name == "avi" and (self._stream.codec_context.name == "h264" or len(shown) < count):
            self._counted, shown, keys = True, decoded, []
        times = sorted(time for time in shown if time is not None)
        if not times or len(times) < count:
            raise self._damage("its frames have no times of their own" if count else "it has no frames")
        self._keys = sorted(keys) or [(times[0], times[0])]
        before = times[-2] if len(times) > 1 else times[-1] - round(1 / self._stream.time_base)
        self._end = times[-1] + (shown[times[-1]] or times[-1] - before)
        self._shown = times
        return times

    def __len__(self) -> int:
        """Frames."""
        return len(self._times())

    def seconds(self) -> list[float]:
        """When each frame is shown, in seconds from the first; one more number is the end of the last frame.

        If the file does not store how long the last frame lasts, it lasts as long as the one before, or a second.
        """
        times = self._times()
        return [float((time - times[0]) * self._stream.time_base) for time in (*times, self._end)]

    def read(self, positions: Sequence[int]) -> Tensor:
        """Frames at these positions: uint8 RGB ``[T, 3, H, W]``, channels-last in memory as in
        :func:`util.video.pictures.read_frames`.

        Decoding begins where the last read ended, or at the key frame before the first position if that is nearer. It
        ends at the last position.

        Raises:
            ValueError: a frame is damaged, or the file has been closed.
        """
        if self._closed:
            raise ValueError(f"{self.path} has been closed; open it again to read it")
        times = self._times()
        frames = torch.empty((len(positions), *self.size, 3), dtype=torch.uint8)
        places: dict[int, list[int]] = {}
        for place, position in enumerate(positions):
            places.setdefault(times[position], []).append(place)
        missing = dict(places)
        for time in self._last.keys() & places.keys():
            frames[missing.pop(time)] = self._last[time]
        if missing:
            self._decode(frames, missing)
        found = {time: frames[places[time][0]] for time in places.keys() - missing.keys()}
        if missing:
            self._stand_in(frames, missing, self._last | found)
        self._last = {time: frames[places[time][0]] for time in places}
        return frames.permute(0, 3, 1, 2)

    def _decode(self, frames: Tensor, missing: dict[int, list[int]]) -> None:
        """Puts the frames at the times in ``missing`` into their places in ``frames``, and removes these times."""
        times, time = self._times(), min(missing)
        key, key_decoded = self._keys[max(0, bisect_right(self._keys, (time, self._end)) - 1)]
        if self._at is not None and self._at < time and bisect_left(times, key) <= bisect_left(times, self._at) + 1:
            self._go_on(frames, missing)
            return
        # Some containers seek by the time of showing, others by that of decoding, and an index may point behind the key
        # frame that a frame needs. So up to three targets are tried.
        for target in (self._keys[0][1],) if self._counted else (time, key_decoded, self._keys[0][1]):
            self._seek(target)
            first = self._go_on(frames, missing)
            if not missing or (first is not None and first <= time):
                return

    def _seek(self, time: int) -> None:
        with self._named_errors():
            self._container.seek(time, stream=self._stream)
        self._decoder = self._frames()

    def _frames(self) -> Iterator[av.VideoFrame]:
        """The frames that the decoder gives from here on; a lenient reader skips damaged ones."""
        failures, counted = 0, iter(self._times() if self._counted else ())
        while failures < _TOLERATED:
            try:
                for frame in self._container.decode(self._stream):
                    failures = 0
                    if self._counted:
                        frame.pts = next(counted, None)
                    if frame.pts is not None:
                        yield frame
                return
            except av.FFmpegError as error:
                if not self.lenient:
                    raise self._damage(error.strerror) from error
                failures += 1

    def _go_on(self, frames: Tensor, missing: dict[int, list[int]]) -> int | None:
        """Decodes until no frame is missing; returns the time of the first decoded frame."""
        first, last = None, max(missing)
        for frame in self._decoder:
            self._at = frame.pts
            first = frame.pts if first is None else first
            if frame.pts in missing:
                frames[missing.pop(frame.pts)] = torch.from_numpy(self._picture(frame))
            if frame.pts >= last:
                break
        return first

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``, of the same size even if the size changes within the video."""
        height, width = self._stored_size
        return frame.to_ndarray(format="rgb24", width=width, height=height)

    def _stand_in(self, frames: Tensor, missing: dict[int, list[int]], known: dict[int, Tensor]) -> None:
        """Fills the places of ``missing`` frames with the last ``known`` frame before each."""
        if not self.lenient or not known:
            times = self._times()
            raise self._damage(f"frame {times.index(min(missing)) + 1} of {len(times)} cannot be decoded")
        for time, places in missing.items():
            frames[places] = known[max((t for t in known if t < time), default=min(known))].clone()
        self.damaged.update(missing)
