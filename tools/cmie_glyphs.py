"""Small pictures of what one query of an attention of the CMIE reads: three frames of tokens, their proxies below."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle

VIDEO, PROXIES, TEXT = "video", "proxies", "text"
LIGHT = {VIDEO: "#dbe9f6", PROXIES: "#fde4cf", TEXT: "#dff0d8"}
BRIGHT = {VIDEO: "#7fb2de", PROXIES: "#f4a261", TEXT: "#7cc172"}
DARK = {VIDEO: "#23608f", PROXIES: "#b3560f", TEXT: "#3b7f33"}
OTHER = "#e6e9ed"
FRAMES, COLUMNS, ROWS, DOTS, WORDS = 3, 4, 3, 3, 5  # in the small picture
CELL, GAP = 0.11, 0.13  # at size 1
QUERY = (1, 1, 1)  # frame, row and column of the token that reads; its frame and number, where a proxy reads

# what the query of each attention reads
KEYS = {
    "video_space": "tokens of its frame",
    "video_time": "tokens of its place",
    "video_space_time": "all tokens",
    "video_from_proxies_space": "proxies of its frame",
    "video_from_proxies_time": "pooled proxies",
    "video_from_proxies_space_time": "all proxies",
    "video_from_text": "words",
    "proxies_from_text": "words",
    "proxies_from_video_space": "tokens of its frame",
    "proxies_from_video_time": "pooled tokens",
    "proxies_from_video_space_time": "all tokens",
}


def glyph(axis: Axes, x: float, y: float, name: str, *, size: float = 1.0, alpha: float = 1.0) -> None:
    """Draws around ``x, y`` what one query of the attention ``name`` reads, 1.6 wide and 0.7 high at ``size`` 1.

    Raises:
        KeyError: the CMIE has no attention of this name.
    """
    keys, proxy_reads = KEYS[name], name.startswith("proxies_")
    cell, gap, style = CELL * size, GAP * size, dict(alpha=alpha, zorder=6)
    wide, high = COLUMNS * cell, ROWS * cell
    left = x - (FRAMES * wide + (FRAMES - 1) * gap) / 2
    bottom = y - high / 2 + 0.1 * size
    for frame in range(FRAMES):
        start = left + frame * (wide + gap)
        if keys == "pooled tokens":
            axis.add_patch(Rectangle((start, bottom), wide, high, facecolor=BRIGHT[VIDEO], edgecolor="white", **style))
        for row in range(0 if keys == "pooled tokens" else ROWS):
            for column in range(COLUMNS):
                read = (
                    keys == "all tokens"
                    or (keys == "tokens of its frame" and frame == QUERY[0])
                    or (keys == "tokens of its place" and (row, column) == QUERY[1:])
                )
                asks = not proxy_reads and (frame, row, column) == QUERY
                colour = DARK[VIDEO] if asks else BRIGHT[VIDEO] if read else OTHER
                corner = start + column * cell, bottom + row * cell
                axis.add_patch(Rectangle(corner, cell, cell, facecolor=colour, edgecolor="white", lw=0.7, **style))
        _proxies(axis, start + wide / 2, bottom - 0.11 * size, frame, keys, asks=proxy_reads, size=size, style=style)
    if keys == "words":
        width = (FRAMES * wide + (FRAMES - 1) * gap) / WORDS
        for word in range(WORDS):
            corner = left + (word + 0.1) * width, bottom - 0.31 * size
            _pill(axis, corner, 0.8 * width, 0.1 * size, TEXT, style)


def _pill(axis: Axes, corner: tuple[float, float], width: float, height: float, stream: str, style: dict) -> None:
    shape = f"round,pad=0,rounding_size={height / 2}"
    axis.add_patch(
        FancyBboxPatch(corner, width, height, boxstyle=shape, facecolor=BRIGHT[stream], edgecolor="none", **style)
    )


def _proxies(axis: Axes, x: float, y: float, frame: int, keys: str, *, asks: bool, size: float, style: dict) -> None:
    """The proxies of a frame, or their mean."""
    if keys == "pooled proxies":
        _pill(axis, (x - 0.18 * size, y - 0.05 * size), 0.36 * size, 0.1 * size, PROXIES, style)
        return
    for number in range(DOTS):
        read = keys == "all proxies" or (keys == "proxies of its frame" and frame == QUERY[0])
        reads = asks and (frame, number) == QUERY[:2]
        colour = DARK[PROXIES] if reads else BRIGHT[PROXIES] if read else OTHER
        place = x + (number - (DOTS - 1) / 2) * 0.13 * size, y
        axis.add_patch(Circle(place, 0.05 * size, facecolor=colour, edgecolor="none", **style))
