"""Reading masks whose pixel values are object ids."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from util.files.images import MOST_BYTES
from util.video import pictures

# Label maps hold ids in 8 bits; 0 is the background.
LABELS = 256
_SCORED = pictures.Wording(
    "no such mask", "this mask cannot be decoded", "every listed frame of a scored video needs a mask, so copy it again"
)


def read_labels(path: str | os.PathLike, most: int = MOST_BYTES) -> np.ndarray:
    """A mask as uint8 object ids ``[H, W]``: :func:`util.video.pictures.read_labels` with scoring's messages."""
    return pictures.read_labels(Path(path), _SCORED, most)


def label_size(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width that :func:`read_labels` would give, from the header of the file alone."""
    return pictures.image_size(Path(path), _SCORED)


def mask_path(folder: Path, frame: str) -> Path:
    """The file of a frame's mask: ``<frame>.png``, or where only that is there ``<frame>.PNG``."""
    usual, other = folder / f"{frame}.png", folder / f"{frame}.PNG"
    return other if not usual.is_file() and other.is_file() else usual


def ids_in(labels: np.ndarray) -> set[int]:
    """The object ids of a label map, uint8 ``[H, W]``; 255 among them where there are such pixels."""
    ids = set()
    # A few passes of comparisons: several times as fast as counting every value.
    while highest := int(labels.max()):
        ids.add(highest)
        labels = labels * (labels != highest)
    return ids
