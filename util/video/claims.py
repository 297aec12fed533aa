"""What a film's header claims, before FFmpeg believes it: it makes room for every frame that an mp4 says it has."""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path

# Boxes that say how many samples there are (ISO/IEC 14496-12, 8.6 to 8.8), wherever they stand; QuickTime's cmov holds
# such boxes compressed.
_COUNTING = re.compile(rb"stsz|stz2|stts|ctts|trun|cmov")
# of which FFmpeg reads nothing; by chance it holds any four bytes
_PIXELS = b"mdat"


def overclaim(path: Path) -> str | None:
    """Why the header of an mp4 or mov cannot be true: it claims more samples than the file has bytes. None for others.

    A sample is a frame of a film or a moment of sound. Raises OSError where the file cannot be read.
    """
    with path.open("rb") as file:
        if path.stat().st_size < 16 or file.read(8)[4:] not in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for start, end in _boxes(data):
                for box in _COUNTING.finditer(data, start, end):
                    if box[0] == b"cmov":
                        return "its header is compressed, which is not read"
                    if (count := _count(data, box[0], box.end(), end)) > len(data):
                        return f"its header claims {count:,} frames or sounds in {len(data):,} bytes"
    return None


def _boxes(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Beginnings and ends of the outer boxes, but for those of pixels."""
    at = 0
    while at + 16 <= len(data):
        size, kind = _number(data, at, 4), data[at + 4 : at + 8]
        size = _number(data, at + 8, 8) if size == 1 else size or len(data)
        end = min(at + max(size, 8), len(data))
        if kind != _PIXELS:
            yield at, end
        at = end


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
