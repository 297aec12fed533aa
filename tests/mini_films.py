"""Writes films of the tiny A2D-Sentences as phones make them: of any size, turned, each frame at its own time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.mini_a2d import image

SIZE = (48, 80)
PHONE_TIMES = (0, 0.033, 0.067, 0.3, 0.333, 0.5)


def scene(length: int, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """uint8 ``[H, W, 3]`` each: the frames from 1 on, of which each shows its number."""
    return [image(number, size) for number in range(1, length + 1)]


def write_film(
    path: Path,
    frames: Sequence[np.ndarray],
    times: Sequence[float] | None = None,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    gop: int = 8,
    turn: tuple[float, bool, bool] = (0, False, False),
) -> Path:
    """Frames shown at these times in seconds, 25 in a second without.

    Args:
        turn: how a player has to turn it: degrees counterclockwise, then mirrored in x, in y.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        stream.gop_size = gop
        if codec == "libx264":
            stream.options = {"crf": "8", "bf": "0" if times else "2"}  # phones make no B-frames
        if any(turn):
            stream.set_display_rotation(*turn)
        for frame, time in zip(frames, times or [i / 25 for i in range(len(frames))], strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_sound(path: Path, cover: bool = False) -> Path:
    """A file with sound and no film, but maybe with the picture of an album."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        if cover:
            picture = container.add_stream("mjpeg")
            picture.height, picture.width, picture.pix_fmt = *SIZE, "yuvj420p"
            picture.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if cover:
            container.mux(picture.encode(av.VideoFrame.from_ndarray(scene(1)[0], format="rgb24")))
            container.mux(picture.encode())
    return path


def counting(video) -> list[int]:
    """A list that will hold the times of all that a ``VideoFile`` decodes from now on."""
    decoded, container = [], video._container

    class Counting:
        def __getattr__(self, name):
            return getattr(container, name)

        def decode(self, stream):
            for frame in container.decode(stream):
                decoded.append(frame.pts)
                yield frame

    video._container = Counting()
    return decoded
