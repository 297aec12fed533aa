"""Contact sheets: cards with a caption and pictures, one below the other or side by side, in one PNG."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from util.files.writing import atomic_path
from util.video.fonts import font, wrapped
from util.video.visualize import INK, PREDICTED_COLOUR, TRUTH_COLOUR, WHITE, Colour, overlay, resized

CELL = 240  # usual width of a picture, in pixels
FAINT = "#566070"  # of small texts
CAPTION, NOTE = 24, 18  # sizes of letters, in pixels
GAP = 6  # between pictures
_BACKGROUND, _LINE = "#eef0f3", "#d9dde3"
_HEAD, _PAD, _MARGIN = 28, 14, 12


@dataclass
class Line:
    """Pictures side by side on a card, uint8 ``[h, w, 3]``, all of one size, with a label and a dot at their left."""

    pictures: Sequence[np.ndarray]
    label: str = ""
    colour: Colour | None = None


@dataclass
class Card:
    """What a sheet shows together.

    Attributes:
        caption: such as an expression; note: small text below it.
        lines: of pictures, all of one size, one below the other.
        names: of the columns of pictures, above them; none: no names.
    """

    caption: str
    note: str
    lines: Sequence[Line]
    names: Sequence[str] = ()


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


def contact_sheet(rows: Sequence[SheetRow], path: str | os.PathLike) -> None:
    """Writes a PNG, atomically. For each row it shows the caption, and the frames alone, with the ground truth and with
    the prediction."""
    if not rows:
        raise ValueError(f"{path}: a contact sheet needs at least one row")
    write_sheet([_card(row) for row in rows], path)


def for_sheet(frame: np.ndarray, masks: np.ndarray, cell: int = CELL) -> tuple[np.ndarray, np.ndarray]:
    """A frame and its masks, bool ``[n, H, W]``, in the size that a sheet with pictures of this width shows them in."""
    height, width = frame.shape[:2]
    scale = min(cell / width, 4 * cell / height)
    return resized(frame, masks, max(1, round(scale * width)), max(1, round(scale * height)))


def _card(row: SheetRow) -> Card:
    count = len(row.frames)
    if not count or len(row.frame_ids) != count:
        raise ValueError(f"{row.caption!r}: {count} frames with {len(row.frame_ids)} names")
    for masks in (row.predicted, row.truth):
        if masks is not None and masks.shape != (count, *row.frames[0].shape[:2]):
            raise ValueError(
                f"{row.caption!r}: masks are {list(masks.shape)} for {count} frames {list(row.frames[0].shape)}"
            )
    lines = []
    if row.plain:
        lines.append(Line([for_sheet(frame, row.predicted[:0])[0] for frame in row.frames], "frame"))
    for label, colour, masks in (("ground truth", TRUTH_COLOUR, row.truth), ("prediction", row.colour, row.predicted)):
        if masks is not None:
            cells = (for_sheet(frame, mask[None]) for frame, mask in zip(row.frames, masks, strict=True))
            lines.append(Line([overlay(*cell, [colour]) for cell in cells], label, colour))
    return Card(row.caption, row.note, lines, row.frame_ids)


def write_sheet(
    cards: Sequence[Card], path: str | os.PathLike, columns: int = 1, head: Sequence[tuple[str, np.ndarray | None]] = ()
) -> None:
    """Writes cards as a PNG, atomically.

    Args:
        columns: how many cards stand side by side.
        head: texts above the cards, the first one large; before others that have one, a sample of what they
            explain, uint8 ``[h, w, 3]``, as high as a small letter.
    """
    width = max(map(_least_width, cards))
    grid = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    texts = [max(_text_height(card, width) for card in row) for row in grid]  # so that pictures stand side by side
    heights = [
        text + max(sum(line.pictures[0].shape[0] + GAP for line in card.lines) for card in row) - GAP + _PAD
        for row, text in zip(grid, texts, strict=True)
    ]
    whole = columns * (width + _MARGIN) + _MARGIN
    banner = _banner(head, whole - 2 * _MARGIN) if head else None
    y = _MARGIN + (banner.height if banner else 0)
    sheet = Image.new("RGB", (whole, y + sum(height + _MARGIN for height in heights)), _BACKGROUND)
    if banner:
        sheet.paste(banner, (_MARGIN, _MARGIN // 2))
    for row, text, height in zip(grid, texts, heights, strict=True):
        for i, card in enumerate(row):
            sheet.paste(_drawn(card, width, height, text), (_MARGIN + i * (width + _MARGIN), y))
        y += height + _MARGIN
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG", optimize=True)


def _labels_width(card: Card) -> int:
    """Pixels that the labels at the left of the pictures need."""
    widths = [font(line.label, NOTE).getlength(line.label) for line in card.lines if line.label]
    return round(max(widths)) + 18 + _PAD if widths else 0


def _least_width(card: Card) -> int:
    columns = max(len(line.pictures) for line in card.lines)
    cell = card.lines[0].pictures[0].shape[1]
    return 2 * _PAD + _labels_width(card) + columns * (max(cell, CELL if card.names else 0) + GAP) - GAP


def _texts(card: Card, width: int) -> list[tuple[str, int, str]]:
    """Lines of text above the pictures: text, size and ink."""
    lines = [(line, CAPTION, INK) for line in wrapped(card.caption, CAPTION, width - 2 * _PAD)]
    if card.note:
        lines += [(line, NOTE, FAINT) for line in wrapped(card.note, NOTE, width - 2 * _PAD)]
    return lines


def _leading(size: int) -> int:
    return round(1.35 * size)


def _text_height(card: Card, width: int) -> int:
    """Pixels from the top of a card to its pictures."""
    return sum(_leading(size) for _, size, _ in _texts(card, width)) + _PAD + (_leading(NOTE) if card.names else GAP)


def _drawn(card: Card, width: int, height: int, top: int) -> Image.Image:
    """A card of this size, whose pictures begin at ``top``."""
    drawn = Image.new("RGB", (width, height), WHITE)
    draw = ImageDraw.Draw(drawn)
    y = _PAD // 2
    for text, size, ink in _texts(card, width):
        draw.text((_PAD, y), text, ink, font(text, size))
        y += _leading(size)
    left, y = _PAD + _labels_width(card), top
    cell_height, cell = card.lines[0].pictures[0].shape[:2]
    step = max(cell, CELL if card.names else 0) + GAP
    for i, name in enumerate(card.names):
        draw.text((left + i * step + (step - GAP) // 2, top - 6), name, FAINT, font(name, NOTE), anchor="ms")
    for line in card.lines:
        middle = y + cell_height // 2
        if line.colour:
            draw.ellipse((_PAD, middle - 6, _PAD + 12, middle + 6), fill=line.colour)
        draw.text((_PAD + 18, middle), line.label, INK, font(line.label, NOTE), anchor="lm")
        for i, picture in enumerate(line.pictures):
            drawn.paste(Image.fromarray(picture), (left + i * step, y))
        y += cell_height + GAP
    draw.rectangle((0, 0, width - 1, height - 1), outline=_LINE)
    return drawn


def _banner(head: Sequence[tuple[str, np.ndarray | None]], width: int) -> Image.Image:
    """The first text, and below it the others side by side, as far as they fit."""
    titles = wrapped(head[0][0], _HEAD, width)
    x, y, placed = 0, len(titles) * _leading(_HEAD), []
    for text, sample in head[1:]:
        indent = 0 if sample is None else sample.shape[1] + 8
        needed = indent + round(font(text, NOTE).getlength(text))
        if x and x + needed > width:
            x, y = 0, y + _leading(NOTE)
        placed.append((x, y, indent, text, sample))
        x += needed + 36
    banner = Image.new("RGB", (width, y + (_leading(NOTE) if placed else 0) + _PAD), _BACKGROUND)
    draw = ImageDraw.Draw(banner)
    for i, line in enumerate(titles):
        draw.text((0, i * _leading(_HEAD)), line, INK, font(line, _HEAD))
    for x, y, indent, text, sample in placed:
        if sample is not None:
            banner.paste(Image.fromarray(sample), (x, y + 1))
        draw.text((x + indent, y), text, INK, font(text, NOTE))
    return banner
