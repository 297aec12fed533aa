"""Pictures of results: masks over a frame, a legend, and videos."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction

import av
import cv2
import numpy as np
from av.codec.context import Flags
from PIL import Image, ImageDraw

from util.files.writing import atomic_path
from util.video.fonts import font, wrapped

Colour = tuple[int, int, int]

TRUTH_COLOUR: Colour = (46, 196, 120)
PREDICTED_COLOUR: Colour = (255, 122, 26)
# Colours of objects in one picture, which colour-blind eyes can tell apart, too (after Okabe and Ito).
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
DARK: Colour = (15, 15, 15)
LIGHT: Colour = (255, 255, 255)
FILL = 0.12  # share of its colour inside a mask: texts name colours, so what is found must keep its own
WHITE, INK = "#ffffff", "#14181f"
_KERNELS = (cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)), np.ones((3, 3), np.uint8))
# units of time in a second: a multiple of all usual frame rates, and within the limit of MPEG-4
_TICKS = 60_000


def distinct_colours(count: int) -> list[Colour]:
    """``count`` different colours, beginning with those of :data:`PALETTE`."""
    hues = (0.618034 * i % 1 for i in range(len(PALETTE), count))  # golden ratio: far from the hues just before
    more = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.6, 0.95)) for hue in hues]
    return [*PALETTE[:count], *more]


def overlay(frame: np.ndarray, masks: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Paints masks over a frame, later ones over earlier ones, so that they show on any colour, their own as well.

    A mask is filled lightly. Around it runs a line of its colour between a light line, inside, and a dark one.

    Args:
        frame: uint8 ``[H, W, 3]``.
        masks: bool ``[n, H, W]``.
        colours: one for each mask; fewer colours than masks repeat.

    Returns:
        uint8 ``[H, W, 3]``, a new array.
    """
    frame, masks = np.asarray(frame), np.asarray(masks)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    if masks.dtype != bool or masks.shape[1:] != frame.shape[:2]:
        raise ValueError(f"masks are bool [n, {frame.shape[0]}, {frame.shape[1]}], not {masks.dtype} {masks.shape}")
    out = frame.copy()
    found = [(mask.view(np.uint8), colours[i % len(colours)]) for i, mask in enumerate(masks)]
    line = line_width(*frame.shape[:2])
    places = [_surroundings(mask, 3 * line) for mask, _ in found]
    for (mask, colour), place in zip(found, places, strict=True):
        # the new value of each value from 0 to 255, in each channel
        mixed = np.round((1 - FILL) * np.arange(256)[:, None] + FILL * np.array(colour)).astype(np.uint8)
        out[place] = cv2.copyTo(cv2.LUT(out[place], mixed[None]), mask[place], out[place])
    for (mask, colour), place in zip(found, places, strict=True):  # so that no fill hides a line
        edge = mask[place]
        coloured = _grown(edge, 2 * line)
        for outer, inner, ink in (
            (_grown(coloured, line), coloured, DARK),
            (coloured, edge, colour),
            (edge, _grown(edge, -line), LIGHT),
        ):
            out[place][outer != inner] = ink
    return out


def dashed(frame: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Draws a line of light and dark dashes along the inner edge of a mask, bool ``[H, W]``: a new frame."""
    out, line = frame.copy(), line_width(*mask.shape)
    edge = mask & ~_grown(mask.view(np.uint8), -line).view(bool)
    y, x = np.indices(mask.shape, sparse=True)
    dark = (x + y) // (4 * line) % 2 == 0
    out[edge & dark], out[edge & ~dark] = DARK, LIGHT
    return out


def line_width(height: int, width: int) -> int:
    """Pixels of one of the lines around a mask in a picture of this size, so that they look alike in any size."""
    return min(max(1, round(min(height, width) / 360)), 6)


def _surroundings(mask: np.ndarray, margin: int) -> tuple[slice, slice]:
    """The rows and columns of a picture that hold a mask, and as many pixels more on each side."""
    x, y, width, height = cv2.boundingRect(mask)
    return slice(max(0, y - margin), y + height + margin), slice(max(0, x - margin), x + width + margin)


def _grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """A mask that reaches further on each side; negative: less far. At the edges of the picture it stays."""
    change = cv2.dilate if pixels > 0 else cv2.erode
    for i in range(abs(pixels)):  # a cross and a square in turn: nearly a circle
        mask = change(mask, _KERNELS[i % 2])
    return mask


def resized(frame: np.ndarray, masks: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its masks, bool ``[n, H, W]``, in another size. Masks are painted after this, for sharp outlines."""
    if (height, width) == frame.shape[:2]:
        return frame, masks
    smaller = width < frame.shape[1]
    picture = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    fitted = [cv2.resize(mask.view(np.uint8) * 255, (width, height), interpolation=how) > 127 for mask in masks]
    return picture, np.stack(fitted) if fitted else np.zeros((0, height, width), bool)


def enlarged(
    frame: np.ndarray, masks: np.ndarray, width: int = 640, highest: int = 2160
) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its masks, at least ``width`` pixels wide; where they would become higher than ``highest``, they are
    padded with black at the sides instead."""
    scale = max(1.0, min(width / frame.shape[1], highest / frame.shape[0]))
    frame, masks = resized(frame, masks, round(scale * frame.shape[1]), round(scale * frame.shape[0]))
    gap = max(0, width - frame.shape[1])
    if not gap:
        return frame, masks
    sides = (gap // 2, gap - gap // 2)
    return np.pad(frame, ((0, 0), sides, (0, 0))), np.pad(masks, ((0, 0), (0, 0), sides))


def painter(
    texts: Sequence[str], colours: Sequence[Colour], width: int = 640
) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function that enlarges a frame to at least ``width``, paints the mask of each text over it, and sets a legend
    above.

    It takes a frame, uint8 ``[H, W, 3]``, and masks, bool ``[n, H, W]``, and returns uint8 ``[h, w, 3]``. All frames of
    a video become equally large.
    """
    band = None

    def painted(frame: np.ndarray, masks: np.ndarray) -> np.ndarray:
        nonlocal band
        picture = overlay(*enlarged(frame, masks, width), colours)
        if band is None:
            band = legend(texts, colours[: len(texts)], picture.shape[1])
        return np.concatenate([band, picture])

    return painted


def legend(texts: Sequence[str], colours: Sequence[Colour | None], width: int) -> np.ndarray:
    """Texts on a white band, one below the other, each with a patch of its colour: uint8 ``[h, width, 3]``.

    The letters grow with the width, because players show wide pictures smaller.
    """
    size = max(22, width // 36)
    height, patch, pad = round(1.3 * size), size if any(colours) else 0, size * 3 // 4
    indent = pad + round(1.4 * patch)
    lines: list[tuple[str, Colour | None]] = []
    for text, colour in zip(texts, colours, strict=True):
        first, *more = wrapped(text, size, width - indent - pad)
        lines += [(first, colour), *((line, None) for line in more)]
    band = Image.new("RGB", (width, height * len(lines) + pad), WHITE)
    draw = ImageDraw.Draw(band)
    for i, (line, colour) in enumerate(lines):
        y = pad // 2 + height * i
        if colour:
            draw.rectangle((pad, y + size // 6, pad + patch, y + size // 6 + patch), colour)
        draw.text((indent, y), line, INK, font(line, size))
    return np.asarray(band)


def _encoder() -> str:
    """H.264, which every browser plays, where PyAV was built with it."""
    try:
        return av.Codec("libx264", "w").name
    except ValueError:
        return "mpeg4"


@contextmanager
def open_film(path: str | os.PathLike, fps: float) -> Iterator[Callable[[np.ndarray, float, float], None]]:
    """Writes an mp4 frame by frame, atomically. Where height or width is odd, the last row or column is repeated.

    Yields a function that adds a frame, uint8 ``[H, W, 3]``, and takes the times in seconds from and until which the
    frame is shown. All frames must have the same size.

    Args:
        path: ends in ``.mp4``.
        fps: approximate frames per second, for the encoder.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(f"{path}: frames per second must be above 0, not {fps}")
    stream = size = None
    shown = -1
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:

        def add(frame: np.ndarray, start: float, end: float) -> None:
            nonlocal stream, size, shown
            size = size or frame.shape
            if frame.dtype != np.uint8 or frame.shape != size or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(f"{path}: frames are uint8 [H, W, 3] of one size, not {frame.dtype} {frame.shape}")
            if stream is None:
                stream = container.add_stream(_encoder(), rate=Fraction(fps).limit_denominator(1000))
                stream.codec_context.time_base = Fraction(1, _TICKS)
                stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
                stream.pix_fmt = "yuv420p"
                stream.codec_context.flags |= Flags.frame_duration
                if stream.codec.name == "libx264":
                    # With B-frames, an mp4 stores times in the order of decoding, and the length of the film is lost.
                    stream.options = {"crf": "18", "bf": "0", "preset": "veryfast"}
                else:
                    stream.bit_rate = 8_000_000
            even = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), "edge")
            picture = av.VideoFrame.from_ndarray(even, format="rgb24")
            shown = max(shown + 1, round(start * _TICKS))
            picture.pts, picture.time_base = shown, Fraction(1, _TICKS)
            picture.duration = max(1, round(end * _TICKS) - shown)
            container.mux(stream.encode(picture))

        yield add
        if stream is None:
            raise ValueError(f"{path}: a video needs at least one frame")
        container.mux(stream.encode())


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes an mp4 whose frames are shown equally long; ``frames`` are read one at a time. See :func:`open_film`."""
    with open_film(path, fps) as add:
        for i, frame in enumerate(frames):
            add(frame, i / fps, (i + 1) / fps)
