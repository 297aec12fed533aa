"""A picture of attention: how much is read of each word, and of each part of a frame.

Shapes: K stages, k frames that are shown, h w grid of the parts, H W size of the frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from util.video.fonts import font
from util.video.visualize import PREDICTED_COLOUR, overlay

_CELL, _GAP, _MARGIN, _LABELS = 220, 8, 18, 92
_BAR = 56  # pixels of the largest bar
_INK, _FAINT, _PAPER, _BARS = "#14181f", "#667080", "#ffffff", "#b5367a"
_LARGE, _SMALL = 20, 14


def attention_picture(
    *,
    frames: np.ndarray,
    masks: np.ndarray,
    maps: np.ndarray,
    words: Sequence[str],
    shares: np.ndarray,
    stride: int,
    title: str,
    note: str,
    names: Sequence[str],
) -> Image.Image:
    """Frames with the answer, then for each stage the words with bars and the frames with maps.

    Args:
        frames: uint8 ``[k, H, W, 3]``; names: of the frames.
        masks: bool ``[k, H, W]``, whose outlines are drawn.
        maps: ``[K, k, h, w]``, shares of a frame's parts, which are squares of ``stride`` pixels from the top left
            corner on. In each stage the largest share has the full colour.
        words: in their order; shares: ``[K, words]``, from 0 to 1.
        title, note: texts above.
    """
    width = 2 * _MARGIN + _LABELS + max(3, len(frames)) * (_CELL + _GAP)
    answer = [overlay(frame, mask[None], [PREDICTED_COLOUR]) for frame, mask in zip(frames, masks, strict=True)]
    bands = [_text(title, _LARGE, _INK, width), _text(note, _SMALL, _FAINT, width)]
    bands += [_row("answer", answer, names, width)]
    for number, (of_frames, of_words) in enumerate(zip(maps, shares, strict=True), 1):
        strongest = float(of_frames.max())
        painted = [heat(frame, shown / strongest, stride) for frame, shown in zip(frames, of_frames, strict=True)]
        for picture, mask in zip(painted, masks, strict=True):
            outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(picture, outlines, -1, (255, 255, 255), 1)
        bands.append(_bars(f"stage {number}", words, of_words, float(shares.max()), width))
        bands.append(_row(f"full colour:\n{strongest:.0%} of what\nis read of\na frame", painted, None, width))
    picture = Image.new("RGB", (width, sum(band.height for band in bands) + 2 * _MARGIN), _PAPER)
    y = _MARGIN
    for band in bands:
        picture.paste(band, (0, y))
        y += band.height
    return picture


def heat(frame: np.ndarray, shares: np.ndarray, stride: int) -> np.ndarray:
    """A frame in grey, uint8 ``[H, W, 3]``, under the colours of ``shares [h, w]``, from 0 to 1, each a square of
    ``stride`` pixels."""
    height, width = frame.shape[:2]
    spread = np.kron(shares, np.ones((stride, stride)))[:height, :width].clip(0, 1)
    colours = cv2.applyColorMap(np.round(255 * spread).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1]
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)[..., None] * 0.55
    part = 0.85 * np.sqrt(spread)[..., None]
    return np.round((1 - part) * grey + part * colours).astype(np.uint8)


def _text(text: str, size: int, colour: str, width: int) -> Image.Image:
    """A line of text. What does not fit is cut: the words stand below in full."""
    band = Image.new("RGB", (width, round(1.5 * size)), _PAPER)
    ImageDraw.Draw(band).text((_MARGIN, 0), text, colour, font(text, size))
    return band


def _row(label: str, pictures: Sequence[np.ndarray], names: Sequence[str] | None, width: int) -> Image.Image:
    """Pictures of one size side by side, behind a label."""
    full_height, full_width = pictures[0].shape[:2]
    scale = min(_CELL / full_width, 2 * _CELL / full_height)
    size = width_shown, height = max(1, round(scale * full_width)), max(1, round(scale * full_height))
    top = 24 if names else _GAP
    band = Image.new("RGB", (width, top + height + _GAP), _PAPER)
    draw = ImageDraw.Draw(band)
    draw.multiline_text((_MARGIN, top), label, _FAINT, font(label, _SMALL))
    for i, picture in enumerate(pictures):
        x = _MARGIN + _LABELS + i * (_CELL + _GAP)
        shown = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        band.paste(Image.fromarray(shown), (x, top))
        if names:
            draw.text((x + width_shown // 2, top - 6), names[i], _FAINT, font(names[i], _SMALL), anchor="ms")
    return band


def _bars(label: str, words: Sequence[str], shares: np.ndarray, largest: float, width: int) -> Image.Image:
    """The words, one after the other, each under a bar with its share; in as many lines as they need.

    Args:
        largest: share whose bar has the full height.
    """
    lines: list[list[tuple[int, int, str, float]]] = [[]]
    x = _MARGIN + _LABELS
    for word, share in zip(words, shares.tolist(), strict=True):
        column = max(44, round(font(word, _SMALL + 2).getlength(word)) + 16)
        if lines[-1] and x + column > width - _MARGIN:
            lines.append([])
            x = _MARGIN + _LABELS
        lines[-1].append((x, column, word, share))
        x += column
    height = _BAR + 50
    band = Image.new("RGB", (width, _GAP + height * len(lines)), _PAPER)
    draw = ImageDraw.Draw(band)
    draw.text((_MARGIN, _GAP + _BAR + 22), label, _INK, font(label, _SMALL + 2))
    for i, line in enumerate(lines):
        ground = _GAP + height * i + _BAR + 18
        for x, column, word, share in line:
            centre, top = x + column // 2, ground - max(1, round(_BAR * share / largest))
            draw.rectangle((centre - 16, top, centre + 16, ground), _BARS)
            percent = f"{share:.0%}"
            draw.text((centre, top - 3), percent, _FAINT, font(percent, _SMALL - 2), anchor="ms")
            draw.text((centre, ground + 20), word, _INK, font(word, _SMALL + 2), anchor="ms")
    return band
