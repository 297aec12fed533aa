"""Fonts for texts in any script."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

_PLACES = (
    "/usr/share/fonts",
    "/usr/local/share/fonts",
    "~/.local/share/fonts",
    "~/.fonts",
    "/System/Library/Fonts",
    "/Library/Fonts",
    "C:/Windows/Fonts",
)
_SUFFIXES = (".ttf", ".otf", ".ttc")
_NO_CHARACTER = "\U0010ffff"


def font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """A font that has all characters of ``text``, or the font of this machine that has most of them.

    Args:
        size: in pixels.
    """
    return _sized(_path(frozenset(text)), size)


def wrapped(text: str, size: int, width: int) -> list[str]:
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


@cache
def _sized(path: Path | None, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size) if path is None else ImageFont.truetype(path, size)


@cache
def _path(characters: frozenset[str]) -> Path | None:
    """The file of the font for these characters; None: the font that Pillow brings along, which is for Latin script."""
    fewest = _lacking(None, characters)
    best = None
    for path in _installed() if fewest else ():
        lacking = _lacking(path, characters)
        if lacking < fewest:
            fewest, best = lacking, path
        if not fewest:
            break
    return best


def _lacking(path: Path | None, characters: frozenset[str]) -> int:
    """How many of the characters a font lacks: it draws them like a code point that is no character."""
    try:
        face = _sized(path, 20)
        none = bytes(face.getmask(_NO_CHARACTER))
        return sum(bytes(face.getmask(c)) == none for c in characters if c.isprintable() and not c.isspace())
    except OSError:  # a damaged font, or one of fixed sizes
        return len(characters) + 1


def _installed() -> Iterator[Path]:
    """Font files, plain ones first."""
    # matplotlib brings a font for the scripts of Europe and the Near East
    package = find_spec("matplotlib")
    if package and package.submodule_search_locations:
        yield Path(package.submodule_search_locations[0], "mpl-data", "fonts", "ttf", "DejaVuSans.ttf")
    found = [p for place in _PLACES for p in Path(place).expanduser().rglob("*") if p.suffix.lower() in _SUFFIXES]
    # such a font draws a sign for the kind of a character instead of the character
    found = [p for p in found if "LastResort" not in p.name]
    yield from sorted(found, key=lambda p: ("Regular" not in p.name, "Sans" not in p.name, p.name))
