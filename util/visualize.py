"""Pictures of results: masks over a frame, a contact sheet of many, and videos."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from util.writers import atomic_path

Colour = tuple[int, int, int]

TRUTH_COLOUR: Colour = (46, 196, 120)
PREDICTED_COLOUR: Colour = (255, 122, 26)
# For several objects in one picture; apart from each other also for colour-blind eyes (after Okabe and Ito).
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


def overlay(
    frame: np.ndarray, masks: np.ndarray, colours: Sequence[Colour], alpha: float = 0.5, outline: bool = True
) -> np.ndarray:
    """Paints masks over a frame, later ones over earlier ones.

    Args:
        frame: uint8 ``[H, W, 3]``.
        masks: bool ``[n, H, W]``.
        colours: one for each mask; they repeat when there are fewer, as with :data:`PALETTE`.
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
        out[mask] = np.round((1 - alpha) * out[mask] + alpha * colour)
        if outline:
            inside = cv2.erode(mask.view(np.uint8), np.ones((3, 3), np.uint8), iterations=width).view(bool)
            out[mask & ~inside] = colour
    return out


def titled(frame: np.ndarray, text: str, width: int = 640) -> np.ndarray:
    """A frame enlarged to at least ``width`` pixels with a line of text above it: uint8 ``[H, W, 3]``."""
    scale = max(1, -(-width // frame.shape[1]))
    large = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    lines = _wrapped(text, 22, large.shape[1] - 2 * _PAD)
    band = Image.new("RGB", (large.shape[1], 29 * len(lines) + _PAD), _CARD)
    draw = ImageDraw.Draw(band)
    for i, line in enumerate(lines):
        draw.text((_PAD, _PAD // 2 + 29 * i), line, _INK, _font(22))
    return np.concatenate([np.asarray(band), large])


@dataclass
class SheetRow:
    """One expression of one video on a contact sheet.

    Attributes:
        caption: the expression.
        note: scores, kind, video: whatever is set small below the caption.
        frames: ``k`` frames, uint8 ``[H, W, 3]`` each.
        truth: bool ``[k, H, W]``, or None where there is no ground truth.
        predicted: bool ``[k, H, W]``.
        frame_ids: names of the frames.
    """

    caption: str
    note: str
    frames: Sequence[np.ndarray]
    truth: np.ndarray | None
    predicted: np.ndarray
    frame_ids: Sequence[str]


_BACKGROUND, _CARD, _INK, _FAINT, _LINE = "#eef0f3", "#ffffff", "#14181f", "#667080", "#d9dde3"
_CELL = 240
_GAP = 6
_MARGIN = 18
_PAD = 16
_LABELS = 118


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of ``text`` that fit into ``width`` pixels; a word that is too long alone is cut."""
    font, lines = _font(size), []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if font.getlength(longer) <= width:
                line = longer
                continue
            lines += [line] if line else []
            pieces = textwrap.wrap(word, max(1, int(width / font.getlength("m")))) or [word]
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


def _card(row: SheetRow, width: int) -> Image.Image:
    _check(row)
    height, frame_width = row.frames[0].shape[:2]
    cell = (_CELL, max(1, round(_CELL * height / frame_width)))
    shrink_or_grow = cv2.INTER_AREA if frame_width > _CELL else cv2.INTER_CUBIC
    caption = _wrapped(row.caption, 22, width - 2 * _PAD)
    note = _wrapped(row.note, 15, width - 2 * _PAD) if row.note else []
    bands: list[tuple[str, Colour | None, np.ndarray | None]] = [("frame", None, None)]
    if row.truth is not None:
        bands.append(("ground truth", TRUTH_COLOUR, row.truth))
    bands.append(("prediction", PREDICTED_COLOUR, row.predicted))

    top = _PAD + 29 * len(caption) + 21 * len(note) + 30
    card = Image.new("RGB", (width, top + len(bands) * (cell[1] + _GAP) - _GAP + _PAD), _CARD)
    draw = ImageDraw.Draw(card)
    y = _PAD
    for line in caption:
        draw.text((_PAD, y), line, _INK, _font(22))
        y += 29
    for line in note:
        draw.text((_PAD, y), line, _FAINT, _font(15))
        y += 21
    for t, name in enumerate(row.frame_ids):
        x = _PAD + _LABELS + t * (_CELL + _GAP) + _CELL // 2
        draw.text((x, top - 7), name, _FAINT, _font(14), anchor="ms")
    # Masks are painted at the size they are seen in, so that outlines are equally fine on small and large frames.
    frames = [cv2.resize(frame, cell, interpolation=shrink_or_grow) for frame in row.frames]
    for b, (label, colour, masks) in enumerate(bands):
        y = top + b * (cell[1] + _GAP)
        if colour:
            draw.ellipse((_PAD, y + cell[1] // 2 - 5, _PAD + 10, y + cell[1] // 2 + 5), fill=colour)
        draw.text((_PAD + 17, y + cell[1] // 2), label, _INK, _font(15), anchor="lm")
        for t, picture in enumerate(frames):
            if masks is not None:
                soft = cv2.resize(masks[t].astype(np.float32), cell, interpolation=shrink_or_grow)
                picture = overlay(picture, soft[None] > 0.5, [colour])
            card.paste(Image.fromarray(picture), (_PAD + _LABELS + t * (_CELL + _GAP), y))
    return card


def contact_sheet(rows: Sequence[SheetRow], path: str | os.PathLike) -> None:
    """Writes a PNG with, for each row, its caption and its frames as they are, with the ground truth, with the
    prediction; atomically."""
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


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float) -> None:
    """Writes an mp4, atomically; frames of odd height or width get their last row or column twice.

    Args:
        path: ends in ``.mp4``.
        frames: uint8 ``[H, W, 3]`` each, all of one size; read one at a time.
        fps: frames per second.
    """
    if not 0 < fps < float("inf"):
        raise ValueError(f"{path}: frames per second must be above 0, not {fps}")
    stream = size = None
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        for frame in frames:
            size = size or frame.shape
            if frame.dtype != np.uint8 or frame.shape != size or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(f"{path}: frames are uint8 [H, W, 3] of one size, not {frame.dtype} {frame.shape}")
            if stream is None:
                stream = container.add_stream(_encoder(), rate=Fraction(fps).limit_denominator(1000))
                stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
                stream.pix_fmt = "yuv420p"
                if stream.codec.name == "libx264":
                    stream.options = {"crf": "18"}
                else:
                    stream.bit_rate = 8_000_000
            even = np.pad(frame, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), "edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if stream is None:
            raise ValueError(f"{path}: a video needs at least one frame")
        container.mux(stream.encode())
