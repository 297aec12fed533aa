"""A picture of attention: how much is read of each word, and of each part of a frame.

Shapes: K stages, k frames that are shown, h w grid of the parts, H W size of the frames.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from util.video.fonts import font
from util.video.sheets import CAPTION, CELL, FAINT, GAP, NOTE, for_sheet
from util.video.visualize import DARK, INK, LIGHT, PREDICTED_COLOUR, WHITE, line_width, overlay

_MARGIN, _LABELS = 18, 118
_BAR, _BARS = 56, "#b5367a"  # pixels of the largest bar; colour


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
    width = 2 * _MARGIN + _LABELS + max(3, len(frames)) * (CELL + GAP)
    cells = [for_sheet(frame, mask[None]) for frame, mask in zip(frames, masks, strict=True)]
    answer = [overlay(*cell, [PREDICTED_COLOUR]) for cell in cells]
    bands = [_text(title, CAPTION, INK, width), _text(note, NOTE, FAINT, width), _row("answer", answer, names, width)]
    for number, (of_frames, of_words) in enumerate(zip(maps, shares, strict=True), 1):
        strongest = float(of_frames.max())
        maps_over = (heat(frame, shown / strongest, stride) for frame, shown in zip(frames, of_frames, strict=True))
        painted = [_outlined(*for_sheet(over, mask[None])) for over, mask in zip(maps_over, masks, strict=True)]
        bands.append(_bars(f"stage {number}", words, of_words, float(shares.max()), width))
        bands.append(_row(f"full colour:\n{strongest:.0%} of what\nis read of\na frame", painted, None, width))
    picture = Image.new("RGB", (width, sum(band.height for band in bands) + 2 * _MARGIN), WHITE)
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


def _outlined(picture: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The outlines of masks, bool ``[n, H, W]``: a light line between dark ones, which shows on any colour of a map."""
    picture, line = picture.copy(), line_width(*picture.shape[:2])
    for mask in masks:
        outlines, _ = cv2.findContours(mask.view(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        for colour, thickness in ((DARK, 3 * line), (LIGHT, line)):
            cv2.drawContours(picture, outlines, -1, colour, thickness)
    return picture


def _text(text: str, size: int, colour: str, width: int) -> Image.Image:
    """A line of text. What does not fit is cut: the words stand below in full."""
    band = Image.new("RGB", (width, round(1.5 * size)), WHITE)
    ImageDraw.Draw(band).text((_MARGIN, 0), text, colour, font(text, size))
    return band


def _row(label: str, pictures: Sequence[np.ndarray], names: Sequence[str] | None, width: int) -> Image.Image:
    """Pictures of one size side by side, behind a label."""
    height, width_shown = pictures[0].shape[:2]
    top = NOTE + 10 if names else GAP
    band = Image.new("RGB", (width, top + height + GAP), WHITE)
    draw = ImageDraw.Draw(band)
    draw.multiline_text((_MARGIN, top), label, FAINT, font(label, NOTE))
    for i, picture in enumerate(pictures):
        x = _MARGIN + _LABELS + i * (CELL + GAP)
        band.paste(Image.fromarray(picture), (x, top))
        if names:
            draw.text((x + width_shown // 2, top - 6), names[i], FAINT, font(names[i], NOTE), anchor="ms")
    return band


def _bars(label: str, words: Sequence[str], shares: np.ndarray, largest: float, width: int) -> Image.Image:
    """The words, one after the other, each under a bar with its share; in as many lines as they need.

    Args:
        largest: share whose bar has the full height.
    """
    lines: list[list[tuple[int, int, str, float]]] = [[]]
    x = _MARGIN + _LABELS
    for word, share in zip(words, shares.tolist(), strict=True):
        column = max(56, round(font(word, NOTE).getlength(word)) + 16)
        if lines[-1] and x + column > width - _MARGIN:
            lines.append([])
            x = _MARGIN + _LABELS
        lines[-1].append((x, column, word, share))
        x += column
    height = _BAR + 50
    band = Image.new("RGB", (width, GAP + height * len(lines)), WHITE)
    draw = ImageDraw.Draw(band)
    draw.text((_MARGIN, GAP + _BAR + 22), label, INK, font(label, NOTE))
    for i, line in enumerate(lines):
        ground = GAP + height * i + _BAR + 18
        for x, column, word, share in line:
            centre, top = x + column // 2, ground - max(1, round(_BAR * share / largest))
            draw.rectangle((centre - 16, top, centre + 16, ground), _BARS)
            percent = f"{share:.0%}"
            draw.text((centre, top - 3), percent, FAINT, font(percent, NOTE), anchor="ms")
            draw.text((centre, ground + 20), word, INK, font(word, NOTE), anchor="ms")
    return band
