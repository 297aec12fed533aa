"""Damaged and hostile files out of sound ones. Each function takes a random stream and sound files, and gives a file.

Where a format has lengths and checksums, these are mended after most changes. Else no change would reach the code
behind them.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from io import BytesIO
from random import Random

Mutation = Callable[[Random, Sequence[bytes]], bytes]

NUMBERS = (
    0,
    1,
    -1,
    2,
    127,
    128,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63 - 1,
    2**63,
    10**18,
    10**400,
)
# Written as they are: JSON that no object of Python gives.
_RAW = tuple("[" * n + "]" * n for n in (40, 60, 500, 200_000)) + (
    '{"a":' * 3000 + "1" + "}" * 3000,
    "9" * 5000,
    "1e999",
)
TEXTS = (
    "",
    " ",
    "\n",
    "\x00",
    "\x1b[2J",
    "\ud800",
    "..",
    "../../x",
    "/x",
    "C:\\x",
    "é" * 300,
    "a" * 20_000,
    "'\"" * 3000,
    "9" * 30,
)
VALUES = (None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], [{}], {"": 0}, [0] * 3000)


# ---------------------------------------------------------------------------------------------------- any file: bytes


def raw(random: Random, sounds: Sequence[bytes]) -> bytes:
    """Bytes changed, cut, repeated, or taken from another sound file."""
    data = bytearray(random.choice(sounds))
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        _change(random, data, sounds)
    return bytes(data)


def _change(random: Random, data: bytearray, sounds: Sequence[bytes]) -> None:
    at = random.randrange(len(data) + 1)
    if random.random() < 0.4:  # most formats have what matters at their start
        at = min(at, random.randrange(256))
    end = min(len(data), at + random.choice((1, 2, 4, 8, 64, 1024)))
    what = random.randrange(8)
    if what == 0 and at < len(data):
        data[at] ^= 1 << random.randrange(8)
    elif what == 1:
        data[at:end] = random.randbytes(end - at)
    elif what == 2:
        value = random.choice(NUMBERS) % 2**64
        size = random.choice((1, 2, 4, 8))
        data[at : at + size] = (value % 256**size).to_bytes(size, random.choice(("little", "big")))
    elif what == 3:
        del data[at:end]
    elif what == 4:
        data[at:at] = data[at:end] * random.choice((1, 2, 50))
    elif what == 5:
        other = random.choice(sounds)
        place = random.randrange(len(other) + 1)
        data[at:end] = other[place : place + end - at]
    elif what == 6 and random.random() < 0.5:
        del data[at:]
    else:
        data[at:end] = bytes([random.choice((0, 255, 32, 48))]) * (end - at)


# --------------------------------------------------------------------------------------------------------------- JSON


def as_json(random: Random, sounds: Sequence[bytes]) -> bytes:
    """Values replaced by those of other types and sizes; entries left out, repeated or exchanged; sometimes bytes."""
    if random.random() < 0.15:
        return raw(random, sounds)
    content = json.loads(random.choice(sounds))
    return changed_json(random, content).encode("utf-8", "surrogatepass")


def changed_json(random: Random, content: object) -> str:
    """The text of JSON after a few changes of its values."""
    holder, raws = [content], {}
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        place, key = _place(random, holder)
        place[key] = _value(random, place[key], raws)
        if isinstance(place, list) and len(place) > 1 and random.random() < 0.2:
            place.append(deepcopy(random.choice(place)))
        elif place is not holder and random.random() < 0.15:
            del place[key]
        elif isinstance(place, dict) and random.random() < 0.15:
            place[random.choice((*TEXTS, *map(str, NUMBERS)))] = place.pop(key)
    text = json.dumps(holder[0], ensure_ascii=random.random() < 0.5)
    for mark, raw_text in raws.items():
        text = text.replace(f'"{mark}"', raw_text)
    return text


def _place(random: Random, holder: list) -> tuple[list | dict, object]:
    """A container of the content and one of its keys, at any depth."""
    place, key = holder, 0
    while isinstance(place[key], list | dict) and place[key] and random.random() < 0.9:
        place = place[key]
        key = random.choice(list(place)) if isinstance(place, dict) else random.randrange(len(place))
    return place, key


def _value(random: Random, value: object, raws: dict[str, str]) -> object:
    what = random.randrange(9)
    if what == 0:
        mark = f"raw {len(raws)}"
        raws[mark] = random.choice(_RAW)
        return mark
    if what <= 2 and isinstance(value, str) and value:
        return runs(random, value) if random.random() < 0.5 else value + random.choice(TEXTS)
    if what <= 2 and type(value) in (int, float) and abs(value) < 2**64:
        return random.choice((value + 1, -value, float(value), str(value), value * 10**9, [value], value + 0.5))
    others = (random.choice(NUMBERS), random.choice(TEXTS), random.choice(VALUES), [value, value], str(value))
    return deepcopy(random.choice(others))


def as_pickle(random: Random, sounds: Sequence[bytes]) -> bytes:
    """A pickle of plain data whose values are changed as in JSON, of any protocol; or its bytes are changed."""
    if random.random() < 0.5:
        return raw(random, sounds)
    try:
        content = json.loads(changed_json(random, pickle.loads(random.choice(sounds))))
        return pickle.dumps(content, random.randrange(pickle.HIGHEST_PROTOCOL + 1))
    except (ValueError, RecursionError):  # no JSON any more, or deeper than Python reads it
        return raw(random, sounds)


def runs(random: Random, counts: str) -> str:
    """Run lengths with other characters of their code, or with some of no code."""
    codes = list(counts)
    for _ in range(random.choice((1, 2, 8))):
        at = random.randrange(len(codes) + 1)
        new = "".join(chr(random.randrange(48, 112)) for _ in range(random.choice((1, 1, 7, 30))))
        codes[at : at + random.randrange(3)] = [
            random.choice((new, new, new, "o" * random.choice((1, 6, 7, 13)), "é", " "))
        ]
    return "".join(codes)


# --------------------------------------------------------------------------------- compressed and with checksums


def as_png(random: Random, sounds: Sequence[bytes]) -> bytes:
    """Chunks changed, left out, repeated or added; the checksums are right again, and often the pixels' compression."""
    data = random.choice(sounds)
    if data[:8] != b"\x89PNG\r\n\x1a\n" or random.random() < 0.2:
        return raw(random, sounds)
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(random.choice((1, 1, 2, 3))):
        place = random.randrange(len(chunks))
        kind, content = chunks[place]
        what = random.randrange(5)
        if what == 0:
            chunks.insert(random.randrange(len(chunks) + 1), random.choice((chunks[place], *_added(random))))
        elif what == 1:
            del chunks[place : place + (len(chunks) > 1)]
        elif what == 2 and kind == b"IHDR":
            fields = list(struct.unpack(">IIBBBBB", content.ljust(13, b"\0")[:13]))
            field = random.randrange(7)
            most = 2**32 if field < 2 else 256
            fields[field] = random.choice((*NUMBERS, 3, 4, 6, 8, 16, 17, 24, 30_000)) % most
            chunks[place] = kind, struct.pack(">IIBBBBB", *fields)
        elif kind == b"IDAT":
            chunks[place] = kind, _recompressed(random, content)
        else:
            chunks[place] = kind, raw(random, [content])
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(parts)


def _added(random: Random) -> list[tuple[bytes, bytes]]:
    bomb = zlib.compress(bytes(random.choice((100, 1_000_000))))
    return [
        (b"zTXt", b"Raw profile type exif\0\0" + bomb),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        (b"iCCP", b"x\0\0" + bomb),
        (b"eXIf", b"MM\0*\0\0\0\x08\0\1\x01\x12\0\3\0\0\0\1" + random.randbytes(8)),
        (b"acTL", struct.pack(">II", 2**31 - 1, 0)),
        (b"tRNS", random.randbytes(random.choice((1, 2, 6, 300)))),
        (b"PLTE", random.randbytes(random.choice((1, 3, 768, 900)))),
    ]


def _recompressed(random: Random, content: bytes) -> bytes:
    """Compressed data whose content is changed; damaged data is changed as it is."""
    try:
        return zlib.compress(raw(random, [zlib.decompress(content)]))
    except zlib.error:
        return raw(random, [content])


def as_mat(random: Random, sounds: Sequence[bytes]) -> bytes:
    """A MATLAB file of version 5, changed within its compressed parts."""
    data = random.choice(sounds)
    if random.random() < 0.3:
        return raw(random, sounds)
    out, at = [data[:128]], 128
    while at < len(data):
        kind, length = struct.unpack("<II", data[at : at + 8])
        content = data[at + 8 : at + 8 + length]
        content = _recompressed(random, content) if kind == 15 else raw(random, [content])
        out.append(struct.pack("<II", kind, len(content)) + content)
        at += 8 + length
    return b"".join(out)


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def as_zip(of_entry: Mutation = raw) -> Mutation:
    """A change of zips: of some entries' content, name or compression, or of the bytes that describe them."""

    def mutation(random: Random, sounds: Sequence[bytes]) -> bytes:
        if random.random() < 0.2:
            return raw(random, sounds)
        out, method = BytesIO(), random.choice((0, 0, *_METHODS))
        with zipfile.ZipFile(BytesIO(random.choice(sounds))) as archive, zipfile.ZipFile(out, "w", method) as made:
            names = archive.namelist()
            chosen = set(random.sample(names, min(len(names), random.choice((0, 1, 1, 2, 5)))))
            for name in names:
                content = archive.read(name)
                if name in chosen:
                    what = random.randrange(8)
                    if what == 0:
                        continue
                    if what == 1:
                        name = random.choice((name + "x", f"../{name}", name.upper(), random.choice(names)))
                    elif what == 2:
                        content = bytes(5_000_000)
                    else:
                        content = of_entry(random, [content])
                made.writestr(zipfile.ZipInfo(name), content, random.choice((method, method, *_METHODS)))
        return _described_otherwise(random, bytearray(out.getvalue())) if random.random() < 0.5 else out.getvalue()

    return mutation


# Of the local and the central header of an entry: where its flags, method, time, checksum and two sizes lie. Sections
# 4.3.7 and 4.3.12 of PKWARE's APPNOTE.TXT.
_HEADERS = {b"PK\x03\x04": 6, b"PK\x01\x02": 8}


def _described_otherwise(random: Random, data: bytearray) -> bytes:
    """Flags, methods and sizes of some headers replaced: encrypted, unknown, too large, too small; or bytes changed."""
    for _ in range(random.choice((0, 0, 1, 4))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    for signature, first in _HEADERS.items():
        at = data.find(signature)
        while at >= 0:
            if random.random() < 0.3:
                offset, form = random.choice(((0, "<H"), (2, "<H"), (8, "<I"), (12, "<I"), (16, "<I"), (20, "<H")))
                value = random.choice((*NUMBERS, 1, 8, 9, 12, 14, 93, 98, 99, 2**30))
                size = struct.calcsize(form)
                place = at + first + offset
                data[place : place + size] = struct.pack(form, value % 256**size)
            at = data.find(signature, at + 4)
    return bytes(data)


def as_safetensors(random: Random, sounds: Sequence[bytes]) -> bytes:
    """The header changed as JSON, as is the JSON in it that describes the model; its length is right again."""
    data = random.choice(sounds)
    if random.random() < 0.2:
        return raw(random, sounds)
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    meta = header["__metadata__"]
    key = next(iter(meta))
    if random.random() < 0.8:
        meta[key] = changed_json(random, json.loads(meta[key]))
        text = json.dumps(header)
    else:
        text = changed_json(random, header)
    new = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(new)) + new + data[8 + length :]
