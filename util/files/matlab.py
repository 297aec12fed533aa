"""Arrays of numbers from MATLAB's two kinds of files, ``.mat`` of version 5 and HDF5, of which nothing is believed.

What a file says about the size of an array costs nothing to write, and its compressed data may be a thousandth of what
comes out. So the size is looked at before anything is allocated, and no more is inflated than :data:`MOST_BYTES`.
"""

from __future__ import annotations

import math
import struct
import zlib
from io import BytesIO
from pathlib import Path

import h5py
import numpy as np
from h5py import h5z
from scipy.io import loadmat, whosmat

MOST_BYTES = 2**28  # of an array; the masks of 3,000 frames of 320x240 pixels

# Layout of a file of version 5: chapter 1 of MathWorks' "MAT-File Format"; names of the classes: `mclass_info` in
# scipy/io/matlab/_mio5_params.py.
_HEADER, _COMPRESSED = 128, 15
_ITEMSIZE = {"double": 8, "single": 4, "logical": 1}
_ITEMSIZE |= {f"{sign}int{bits}": bits // 8 for sign in ("", "u") for bits in (8, 16, 32, 64)}
# filters of HDF5 that are read: deflate, which makes bytes fewer, and shuffle and the checksum, which do not
_DEFLATE = h5z.FILTER_DEFLATE
_FILTERS = {_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32}


def read_mat(path: Path, name: str) -> np.ndarray:
    """The array ``name`` of real numbers of a ``.mat`` file of version 5.

    Raises ValueError, without the name of the file, where it holds no such array or is damaged; OSError where it cannot
    be read.
    """
    content = _inflated(path.read_bytes())
    try:
        listed = {listed: (shape, kind) for listed, shape, kind in whosmat(BytesIO(content))}
        if name not in listed:
            raise ValueError("there is no such array")
        shape, kind = listed[name]
        if kind not in _ITEMSIZE:
            raise ValueError(f"it is of class {kind}")
        _require_few(shape, _ITEMSIZE[kind])
        return _real(loadmat(BytesIO(content), variable_names=[name])[name])
    # scipy raises many kinds of errors on damaged files
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _inflated(content: bytes) -> bytes:
    """The content of a file of version 5 with its compressed parts inflated; ValueError where it is another file."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if not order or struct.unpack(f"{order}H", content[124:126]) != (0x0100,) or 0 in content[:4]:
        raise ValueError("it is no file of MATLAB's version 5 to 7")
    parts, at, room = [content[:_HEADER]], _HEADER, MOST_BYTES
    while at < len(content):
        if at + 8 > len(content):
            raise ValueError("its end is missing")
        kind, length = struct.unpack(f"{order}II", content[at : at + 8])
        part = content[at : at + 8 + length]
        if kind == _COMPRESSED:
            try:
                part = _inflate(part[8:], room)
            except zlib.error as error:
                raise ValueError(f"its compressed data is damaged ({error})") from error
        parts.append(part)
        at, room = at + 8 + length, room - len(part)
        if room < 0:
            raise ValueError(_too_large())
    return b"".join(parts)


def _inflate(data: bytes, most: int) -> bytes:
    inflated = zlib.decompressobj().decompress(data, most + 1)
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
    return _real(array[()])


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
            try:
                _inflate(data, size + 4)  # and the checksum
            except zlib.error as error:
                raise ValueError(f"a chunk of {name} is damaged ({error})") from error


def _require_few(shape: tuple[int, ...], itemsize: int, most: int = MOST_BYTES) -> None:
    if math.prod(map(int, shape)) * itemsize > most:
        raise ValueError(_too_large(most))


def _too_large(most: int = MOST_BYTES) -> str:
    return f"it holds more than {most:,} bytes, which is too much for what it is"


def _real(array: np.ndarray) -> np.ndarray:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise ValueError("it is not an array of real numbers")
    return array
