"""A look at a file of torch.save before it is read: how large it becomes, and which functions reading it would call.

torch.load with ``weights_only=True`` runs no code of the file, but it inflates compressed entries of any size, and it
calls a few functions that the file names, among them ``bytearray``, with any size.
"""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import BinaryIO

# the functions of plain tensors and plain data; torch allows more (torch/_weights_only_unpickler.py)
_PLAIN = {
    "collections OrderedDict",
    "collections Counter",
    "argparse Namespace",
    "_codecs encode",
    "torch Size",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch.nn.parameter Parameter",
}
_PICKLES = 5  # that a file of torch before 1.6 begins with: torch.serialization._legacy_load


def check_before_reading(path: Path) -> None:
    """Looks at a file that torch.load is going to read; reads none of its tensors.

    Raises:
        ValueError: reading it would take more memory than the file has bytes, or would call other functions than those
            that make tensors and plain data. The message has the reason alone.
        OSError: the file cannot be read.
        Exception: of any kind, where the file is damaged.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(_PICKLES):
                _check_names(file)
        return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        large = sum(entry.file_size for entry in entries)
        # torch.save stores entries as they are
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries) or large > path.stat().st_size:
            raise ValueError(f"its content is packed, and unpacked it has {large:,} bytes; torch.save packs nothing")
        for entry in entries:
            if entry.filename.endswith("data.pkl"):
                with archive.open(entry) as file:
                    _check_names(file)


def _check_names(file: BinaryIO) -> None:
    """Reads one pickle; raises ValueError where it names a function that plain data does not need."""
    # torch.load takes names from this instruction alone
    for name in (argument for code, argument, _ in pickletools.genops(file) if code.name == "GLOBAL"):
        kind = name.removeprefix("torch ").removesuffix("Storage")
        if name not in _PLAIN and name != f"torch {kind}Storage":
            raise ValueError(f"it holds more than tensors and plain data: {name.replace(' ', '.')}")
