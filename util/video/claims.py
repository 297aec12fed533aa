"""What a film's header claims, before FFmpeg believes it: it makes room for every frame that an mp4 says it has."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

# Boxes that say how many samples there are (ISO/IEC 14496-12, 8.6 to 8.8), and QuickTime's, which holds such boxes
# compressed.
_COUNTING = {b"stsz", b"stz2", b"stts", b"ctts", b"trun"}
_COMPRESSED = b"cmov"
# Where other boxes begin in a box, in bytes behind its name: at once; behind a version and flags (meta); or behind the
# fields of a description of pictures or sounds, whose entries are boxes, too (stsd; 8.5.2, 12.1.3, 12.2.3, QuickTime)
_PLACES = {b"meta": (0, 4), b"stsd": (8,)}
_OF_ENTRIES = (28, 44, 64, 78)
_DEEPEST, _MOST = 12, 2**20  # boxes in each other, and all that are looked at


def overclaim(path: Path) -> str | None:
    """Why the header of an mp4 or mov cannot be true: it claims more samples than the file has bytes. None if it can.

    A sample is a frame of a film or a moment of sound. Every file is looked through, because FFmpeg takes one for an
    mp4 whatever box it begins with; in a file of another kind there are no boxes, or a few by chance.

    Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 16:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for number, (kind, at, end) in enumerate(_boxes(data)):
                if number == _MOST:
                    return f"it has more than {_MOST:,} boxes"
                if kind == _COMPRESSED:
                    return "its header is compressed, which is not read"
                if kind in _COUNTING and (count := _count(data, kind, at, end)) > len(data):
                    return f"its header claims {count:,} frames or sounds in {len(data):,} bytes"
    return None


def _boxes(data: mmap.mmap) -> Iterator[tuple[bytes, int, int]]:
    """Names of all boxes, with the places behind the name and behind the box.

    FFmpeg looks for boxes within most of them. So all are looked through, but for ``mdat``, which holds the pixels.
    """
    parts = [(0, len(data), 0, False)]
    while parts:
        at, end, depth, entries = parts.pop()
        while at + 8 <= end:
            size, kind, inner = _number(data, at, 4), data[at + 4 : at + 8], at + 8
            if size == 1:
                size, inner = _number(data, at + 8, 8), at + 16
            stop = end if size == 0 else min(at + size, end)
            if stop < inner:
                break
            yield kind, inner, stop
            if kind != b"mdat" and kind not in _COUNTING and depth < _DEEPEST:
                places = _OF_ENTRIES if entries else _PLACES.get(kind, (0,))
                parts += [(inner + place, stop, depth + 1, kind == b"stsd") for place in places]
            at = stop


def _count(data: mmap.mmap, kind: bytes, at: int, end: int) -> int:
    """Samples that a box claims; ``at`` is behind its name, where one byte of version and three of flags are."""
    if kind in (b"stsz", b"stz2"):
        return _number(data, at + 8, 4)
    number = _number(data, at + 4, 4)
    if kind == b"trun":
        return number
    return sum(_number(data, place, 4) for place in range(at + 8, min(at + 8 + 8 * number, end), 8))


def _number(data: mmap.mmap, at: int, size: int) -> int:
    return int.from_bytes(data[at : at + size], "big")
