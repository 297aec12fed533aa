"""A look at a file of torch.save before it is read: how large it becomes, and which functions reading it would call.

torch.load with ``weights_only=True`` runs no code of the file, but it inflates compressed entries of any size, and it
calls a few functions that the file names, among them ``bytearray`` with any size, and ``_codecs.encode``, whose result
may be twice as large as what it is given, again and again.

The look is of use only if torch reads the same as was looked at. So the file is taken for a zip where torch does, and a
zip must leave no choice where its directory is: zipfile takes it from before the end record, torch from the place that
this record names.
"""

from __future__ import annotations

import pickletools
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

# the functions of plain tensors and plain data; torch allows more (torch/_weights_only_unpickler.py)
_PLAIN = {
    "collections OrderedDict",
    "collections Counter",
    "argparse Namespace",
    "__builtin__ set",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
}
_ZIP = b"PK\x03\x04"  # what torch knows a zip by: torch.serialization._is_zipfile
_PICKLES = 5  # that a file of torch before 1.6 begins with: torch.serialization._legacy_load


def check_before_reading(path: Path) -> None:
    """Looks at a file that torch.load is going to read; reads none of its tensors.

    Raises:
        ValueError: reading it would take more memory than the file has bytes, or would call other functions than those
            that make tensors and plain data. The message has the reason alone.
        OSError: the file cannot be read.
        Exception: of any kind, where the file is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(_ZIP)) != _ZIP:
            file.seek(0)
            for _ in range(_PICKLES):
                _check_names(file)
            return
        if not _has_one_directory(file):
            raise ValueError("it does not end as a zip of torch.save")
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        large = sum(entry.file_size for entry in entries)
        # torch.save stores entries as they are
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or large > path.stat().st_size:
            raise ValueError(f"its content is packed, and unpacked it has {large:,} bytes; torch.save packs nothing")
        for entry in entries:
            if entry.filename.lower().endswith("data.pkl"):  # torch finds entries in capitals, too
                with archive.open(entry) as file:
                    _check_names(file)


def _has_one_directory(file: BinaryIO) -> bool:
    """Whether the directory of a zip lies right before the records that name its place, and these end the file.

    The form of the records: 4.3.14 to 4.3.16 of PKWARE's APPNOTE.TXT.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 98))
    records = file.read().rjust(98, b"\0")
    end, locator, large = records[76:], records[56:76], records[:56]
    length, start, comment = struct.unpack("<2LH", end[12:])
    place = size - len(end)
    if locator.startswith(b"PK\x06\x07"):
        place -= len(locator) + len(large)
        length, start = struct.unpack("<2Q", large[40:])
        if not large.startswith(b"PK\x06\x06") or struct.unpack("<Q", locator[8:16])[0] != place:
            return False
    return end.startswith(b"PK\x05\x06") and not comment and start + length == place


def _check_names(file: BinaryIO) -> None:
    """Reads one pickle; raises ValueError where it names a function that plain data does not need."""
    # torch.load takes names from this instruction alone
    for name in (argument for code, argument, _ in pickletools.genops(file) if code.name == "GLOBAL"):
        module, _, kind = name.partition(" ")
        of_torch = kind.endswith("Storage") or isinstance(getattr(torch, kind, None), torch.dtype)
        if name not in _PLAIN and not (module == "torch" and of_torch):
            raise ValueError(f"it holds more than tensors and plain data: {name.replace(' ', '.')}")
