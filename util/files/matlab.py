"""Arrays of numbers from MATLAB's two kinds of files, ``.mat`` of version 5 and HDF5, of which nothing is believed.

What a file says about the size of an array costs nothing to write, and its compressed data may be a thousandth of what
comes out. So the size is looked at before anything is allocated, and no more is inflated than :data:`MOST_BYTES`.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
from h5py import h5z

MOST_BYTES = 2**28  # of an array; the masks of 3,000 frames of 320x240 pixels

# Layout of a file of version 5: chapter 1 of MathWorks' "MAT-File Format". Numbers of types and classes as in
# scipy/io/matlab/_mio5_params.py.
_HEADER, _MATRIX, _COMPRESSED, _COMPLEX = 128, 14, 15, 0x0800
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC = range(6, 16)  # classes
_AXES = 8  # that are looked at; masks have three
# filters of HDF5 that are read: deflate, which makes bytes fewer, and shuffle and the checksum, which do not
_DEFLATE = h5z.FILTER_DEFLATE
_FILTERS = {_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}


def read_mat(path: Path, name: str) -> np.ndarray:
    """The array ``name`` of real numbers of a ``.mat`` file of MATLAB's versions 5 to 7.

    It is read here, because scipy allocates whatever the file claims, and some damaged files end the process (found
    by tools/fuzz.py with scipy 1.17).

    Raises ValueError, without the name of the file, where it holds no such array or is damaged; OSError where it cannot
    be read.
    """
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if not order or struct.unpack(f"{order}H", content[124:126]) != (0x0100,):
        raise ValueError("it is no file of MATLAB's versions 5 to 7")
    for kind, data in _elements(content[_HEADER:], order):
        if kind == _COMPRESSED:
            kind, data = next(_elements(_inflate(data, MOST_BYTES), order), (0, b""))
        parts = list(islice(_elements(data, order), 4)) if kind == _MATRIX else []
        if len(parts) > 2 and parts[2][1] == name.encode():
            return _array(parts, order)
    raise ValueError("there is no such array")


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and data of each element, one after the other; ValueError where the last one is not whole."""
    at = 0
    while at < len(content):
        if at + 8 > len(content):
            raise ValueError("its end is missing")
        kind, length = struct.unpack(f"{order}II", content[at : at + 8])
        start, following = at + 8, at + 8 + length
        if kind >> 16:  # a small element, which has its length and up to four bytes within these eight
            kind, length, start, following = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if start + length > min(following, len(content)):
            raise ValueError("its end is missing")
        yield kind, content[start : start + length]
        # padded to eight bytes, but for compressed ones
        at = following if kind == _COMPRESSED else following + -following % 8


def _array(parts: list[tuple[int, bytes]], order: str) -> np.ndarray:
    """An array from its elements: flags, sizes, name, real part."""
    (_, flags), (_, sizes), _, (kind, data) = [*parts, (0, b"")][:4]
    (flags,) = struct.unpack(f"{order}I", flags[:4].ljust(4, b"\0"))
    if flags & 0xFF not in _NUMERIC or flags & _COMPLEX or kind not in _TYPES:
        raise ValueError("it is not an array of real numbers")
    shape = np.frombuffer(sizes[: min(len(sizes) // 4, _AXES) * 4], f"{order}i4").tolist()
    dtype = np.dtype(f"{order}{_TYPES[kind]}")
    values = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    if min(shape, default=-1) < 0 or math.prod(shape) != len(values):
        raise ValueError(f"it has {len(values)} values, but is of size {shape}")
    return values.reshape(shape, order="F")


def _inflate(data: bytes, most: int) -> bytes:
    try:
        inflated = zlib.decompressobj().decompress(data, most + 1)
    except zlib.error as error:
        raise ValueError(f"its compressed data is damaged ({error})") from error
    if len(inflated) > most:
        raise ValueError(_too_large(most))
    return inflated


def read_h5(file: h5py.File, name: str, most: int = MOST_BYTES) -> np.ndarray:
    """The array ``name`` of real numbers, of at most so many bytes, at the root of an open HDF5 file.

    Raises ValueError where there is none, where it is too large, or where its values lie outside of the file: links to
    other files, external storage and virtual arrays can name any file of the machine.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"there is no {name}, or it is only a link")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "biuf" or array.shape is None:
        raise ValueError(f"{name} is not an array of numbers")
    if array.is_virtual or array.external:
        raise ValueError(f"the values of {name} lie in another file")
    _require_few(array.shape, array.dtype.itemsize, most)
    if array.chunks:
        _require_few(array.chunks, array.dtype.itemsize, most)
        _require_honest_chunks(array, name)
    return array[()]


def _require_honest_chunks(array: h5py.Dataset, name: str) -> None:
    """Raises ValueError for a chunk that inflates to more than it should: HDF5 would inflate it whole."""
    pipeline = array.id.get_create_plist()
    filters = [pipeline.get_filter(i)[0] for i in range(pipeline.get_nfilters())]
    if not set(filters) <= _FILTERS or len(set(filters)) < len(filters):
        raise ValueError(f"{name} is compressed in a way that is not read here")
    if _DEFLATE not in filters:
        return
    size = math.prod(array.chunks) * array.dtype.itemsize
    for number in range(array.id.get_num_chunks()):
        place = array.id.get_chunk_info(number).chunk_offset
        mask, data = array.id.read_direct_chunk(place)
        if not mask >> filters.index(_DEFLATE) & 1:  # else this chunk is stored without it
            _inflate(data, size + 4)  # and the checksum


def _require_few(shape: tuple[int, ...], itemsize: int, most: int = MOST_BYTES) -> None:
    if math.prod(map(int, shape)) * itemsize > most:
        raise ValueError(_too_large(most))


def _too_large(most: int = MOST_BYTES) -> str:
    return f"it holds more than {most:,} bytes, which is too much for what it is"
