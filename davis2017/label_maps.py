"""Reading masks whose pixel values are object ids."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

# Label maps hold ids in 8 bits; 0 is the background.
LABELS = 256


def read_labels(path: str | os.PathLike) -> np.ndarray:
    """A mask PNG as uint8 ``[H, W]``: the pixel value is the object's id.

    Raises:
        FileNotFoundError, ValueError: missing, damaged, or neither palette nor grey.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such mask; every listed frame of a scored video needs one")
    try:
        with Image.open(path) as image:
            labels = np.asarray(image) if image.mode in ("P", "L") else None
    # Damaged bytes make decoders raise far more than OSError.
    except Exception as error:
        raise ValueError(f"{path}: this mask cannot be decoded ({error}); copy it again") from error
    if labels is None:
        raise ValueError(f"{path}: a mask is a palette PNG whose pixel values are object ids")
    return labels


def ids_in(labels: np.ndarray) -> set[int]:
    """The object ids of a label map, uint8 ``[H, W]``; 255 among them where there are such pixels."""
    ids = set()
    # A few passes of comparisons: several times as fast as counting every value.
    while highest := int(labels.max()):
        ids.add(highest)
        labels = labels * (labels != highest)
    return ids
