"""Pictures of results: masks over a frame, a contact sheet of many, and videos."""

from __future__ import annotations

import colorsys
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from av.codec.context import Flags
from PIL import Image, ImageDraw

from util.files.writing import atomic_path
from util.video.fonts import font

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


def distinct_colours(count: int) -> list[Colour]:
    """``count`` different colours, beginning with those of :data:`PALETTE`."""
    hues = (0.618034 * i % 1 for i in range(len(PALETTE), count))  # golden ratio: far from the hues just before
    more = [tuple(round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.6, 0.95)) for hue in hues]
    return [*PALETTE[:count], *more]


def overlay(
    frame: np.ndarray, masks: np.ndarray, colours: Sequence[Colour], alpha: float = 0.5, outline: bool = True
) -> np.ndarray:
    """Paints masks over a frame, later ones over earlier ones.

    Args:
        frame: uint8 ``[H, W, 3]``.
        masks: bool ``[n, H, W]``.
        colours: one for each mask; fewer colours than masks repeat.
        alpha: share of the colour inside a mask.
        outline: draw the inner edge of each mask in its full colour, two pixels wide from 360 pixels height up.

    Returns:
        uint8 ``[H, W, 3]``, a new array.
    """
    frame, masks = np.asarray(frame), np.asarray(masks)
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
    if masks.dtype != bool or masks.shape[1:] != frame.shape[:2]:
        raise ValueError(f"masks are bool [n, {frame.shape[0]}, {frame.shape[1]}], not {masks.dtype} {masks.shape}")
    width = 1 if frame.shape[0] < 360 else 2
    out = frame.copy()
    for i, mask in enumerate(masks):
        colour = np.array(colours[i % len(colours)])
        # the new value of each value from 0 to 255, in each channel
        mixed = np.round((1 - alpha) * np.arange(256)[:, None] + alpha * colour).astype(np.uint8)
        out = cv2.copyTo(cv2.LUT(out, mixed[None]), mask.view(np.uint8), out)
        if outline:
            inside = cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8), iterations=width).view(bool)
            out[mask & ~inside] = colour
    return out


def titled(frame: np.ndarray, text: str, width: int = 640) -> np.ndarray:
    """A frame enlarged to at least ``width`` pixels with a line of text above it: uint8 ``[H, W, 3]``."""
    large = enlarged(frame, width)
    return np.concatenate([legend([text], [None], large.shape[1]), large])


def enlarged(frame: np.ndarray, width: int = 640, highest: int = 2160) -> np.ndarray:
    """A frame enlarged by a whole number to at least ``width`` pixels; padded with black at its sides instead where it
    would become higher than ``highest``."""
    scale = max(1, min(-(-width // frame.shape[1]), highest // frame.shape[0]))
    large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    gap = max(0, width - large.shape[1])
    return np.pad(large, ((0, 0), (gap // 2, gap - gap // 2), (0, 0)))


def legend(texts: Sequence[str], colours: Sequence[Colour | None], width: int) -> np.ndarray:
    """Texts on a white band, one below the other, each with a patch of its colour: uint8 ``[h, width, 3]``."""
    size = max(22, width // 56)
    height, patch = round(1.3 * size), size if any(colours) else 0
    indent = _PAD + round(1.4 * patch)
    lines: list[tuple[str, Colour | None]] = []
    for text, colour in zip(texts, colours, strict=True):
        first, *more = _wrapped(text, size, width - indent - _PAD)
        lines += [(first, colour), *((line, None) for line in more)]
    band = Image.new("RGB", (width, height * len(lines) + _PAD), _CARD)
    draw = ImageDraw.Draw(band)
    for i, (line, colour) in enumerate(lines):
        y = _PAD // 2 + height * i
        if colour:
            draw.rectangle((_PAD, y + size // 6, _PAD + patch, y + size // 6 + patch), colour)
        draw.text((indent, y), line, _INK, font(line, size))
    return np.asarray(band)


@dataclass
class SheetRow:
    """One expression of one video on a contact sheet.

    Attributes:
        caption: the expression.
        note: small text below the caption, such as score, kind and video.
        frames: ``k`` frames, uint8 ``[H, W, 3]`` each.
        truth: bool ``[k, H, W]``, or None where there is no ground truth.
        predicted: bool ``[k, H, W]``.
        frame_ids: names of the frames.
        colour: of the prediction.
        plain: show the frames as they are, too.
    """

    caption: str
    note: str
    frames: Sequence[np.ndarray]
    truth: np.ndarray | None
    predicted: np.ndarray
    frame_ids: Sequence[str]
    colour: Colour = PREDICTED_COLOUR
    plain: bool = True


# units of time in a second: a multiple of all usual frame rates, and within the limit of MPEG-4
_TICKS = 60_000
_BACKGROUND, _CARD, _INK, _FAINT, _LINE = "#eef0f3", "#ffffff", "#14181f", "#667080", "#d9dde3"
_CELL = 240
_GAP = 6
_MARGIN = 18
_PAD = 16
_LABELS = 118


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of ``text`` that fit into ``width`` pixels; a word that is too long alone is cut."""
    face, lines = font(text, size), []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if face.getlength(longer) <= width:
                line = longer
                continue
            lines += [line] if line else []
            pieces = textwrap.wrap(word, max(1, int(width / max(1, *map(face.getlength, word))))) or [word]
            lines += pieces[:-1]
            line = pieces[-1]
        lines.append(line)
    return lines or [""]


def _check(row: SheetRow) -> None:
    count = len(row.frames)
    if not count or len(row.frame_ids) != count:
        raise ValueError(f"{row.caption!r}: {count} frames with {len(row.frame_ids)} names")
    for masks in (row.predicted, row.truth):
        if masks is not None and masks.shape != (count, *row.frames[0].shape[:2]):
            raise ValueError(
                f"{row.caption!r}: masks are {list(masks.shape)} for {count} frames {list(row.frames[0].shape)}"
            )


def _cell_size(height: int, width: int) -> tuple[int, int]:
    """Width and height on a sheet, in pixels, of a frame."""
    scale = min(_CELL / width, 4 * _CELL / height)
    return max(1, round(scale * width)), max(1, round(scale * height))


def _fitted(picture: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    return cv2.resize(picture, cell, interpolation=cv2.INTER_AREA if picture.shape[1] > cell[0] else cv2.INTER_CUBIC)


def _fitted_mask(mask: np.ndarray, cell: tuple[int, int]) -> np.ndarray:
    return _fitted(mask.astype(np.float32), cell) > 0.5


def for_sheet(frame: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its masks, bool ``[n, H, W]``, in the size that a contact sheet shows them in."""
    cell = _cell_size(*frame.shape[:2])
    return _fitted(frame, cell), np.stack([_fitted_mask(mask, cell) for mask in masks])


def _card(row: SheetRow, width: int) -> Image.Image:
    _check(row)
    height, frame_width = row.frames[0].shape[:2]
    cell = _cell_size(height, frame_width)
    caption = _wrapped(row.caption, 22, width - 2 * _PAD)
    note = _wrapped(row.note, 15, width - 2 * _PAD) if row.note else []
    bands: list[tuple[str, Colour | None, np.ndarray | None]] = [("frame", None, None)] if row.plain else []
    if row.truth is not None:
        bands.append(("ground truth", TRUTH_COLOUR, row.truth))
    bands.append(("prediction", row.colour, row.predicted))

    top = _PAD + 29 * len(caption) + 21 * len(note) + 30
    card = Image.new("RGB", (width, top + len(bands) * (cell[1] + _GAP) - _GAP + _PAD), _CARD)
    draw = ImageDraw.Draw(card)
    y = _PAD
    for line in caption:
        draw.text((_PAD, y), line, _INK, font(line, 22))
        y += 29
    for line in note:
        draw.text((_PAD, y), line, _FAINT, font(line, 15))
        y += 21
    for t, name in enumerate(row.frame_ids):
        x = _PAD + _LABELS + t * (_CELL + _GAP) + _CELL // 2
        draw.text((x, top - 7), name, _FAINT, font(name, 14), anchor="ms")
    # Masks are painted after resizing, so that outlines are equally wide for small and large frames.
    frames = [_fitted(frame, cell) for frame in row.frames]
    for b, (label, colour, masks) in enumerate(bands):
        y = top + b * (cell[1] + _GAP)
        if colour:
            draw.ellipse((_PAD, y + cell[1] // 2 - 5, _PAD + 10, y + cell[1] // 2 + 5), fill=colour)
        draw.text((_PAD + 17, y + cell[1] // 2), label, _INK, font(label, 15), anchor="lm")
        for t, picture in enumerate(frames):
            if masks is not None:
                picture = overlay(picture, _fitted_mask(masks[t], cell)[None], [colour])
            card.paste(Image.fromarray(picture), (_PAD + _LABELS + t * (_CELL + _GAP), y))
    return card


def contact_sheet(rows: Sequence[SheetRow], path: str | os.PathLike) -> None:
    """Writes a PNG, atomically. For each row it shows the caption, and the frames alone, with the ground truth and with
    the prediction."""
    if not rows:
        raise ValueError(f"{path}: a contact sheet needs at least one row")
    columns = max(len(row.frames) for row in rows)
    width = 2 * _PAD + _LABELS + columns * (_CELL + _GAP) - _GAP
    cards = [_card(row, width) for row in rows]
    height = sum(card.height + _MARGIN for card in cards) + _MARGIN
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    for card in cards:
        sheet.paste(card, (_MARGIN, y))
        draw.rectangle((_MARGIN, y, _MARGIN + width - 1, y + card.height - 1), outline=_LINE)
        y += card.height + _MARGIN
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


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
