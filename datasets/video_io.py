"""Reading frames and masks from disk. Whatever cannot be read is named together with the mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

_MEND = "restore this file from the data set's archive (docs/data.md)"


def _check_exists(path: Path, what: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the {what} does not exist; {_MEND}")


def read_frame(path: Path) -> Tensor:
    """A JPEG or PNG frame as uint8 RGB ``[3, H, W]``.

    Raises FileNotFoundError where there is none, ValueError where it is damaged.
    """
    _check_exists(path, "frame")
    try:
        return decode_image(str(path), ImageReadMode.RGB)
    except RuntimeError as error:
        raise ValueError(f"{path}: the frame is damaged or not an image; {_MEND}") from error


def read_labels(path: Path) -> np.ndarray:
    """A mask as uint8 object ids ``[H, W]``: the palette index (PNG mode P) or the grey value (mode L).

    Raises FileNotFoundError where there is none, ValueError where it is damaged or of another mode.
    """
    _check_exists(path, "mask")
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L"):
                raise ValueError(
                    f"{path}: a mask is a palette or 8-bit grey PNG whose pixel value is the object id, not an image "
                    f"of mode {image.mode}; {_MEND}"
                )
            return np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path}: the mask is damaged or not an image; {_MEND}") from error


def image_size(path: Path) -> tuple[int, int]:
    """Height and width in pixels, from the file's header alone. Errors as in :func:`read_frame`."""
    _check_exists(path, "frame")
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError as error:
        raise ValueError(f"{path}: the frame is damaged or not an image; {_MEND}") from error


def check_size(path: Path | str, size: Sequence[int], expected: Sequence[int], of: str) -> None:
    """Raises ValueError, naming ``path``, unless a height and width are those ``of`` something else."""
    if tuple(size) != tuple(expected):
        raise ValueError(
            f"{path}: is {size[1]}x{size[0]} pixels, but {of} is {expected[1]}x{expected[0]}; restore whichever is "
            "wrong from the data set's archive (docs/data.md)"
        )


def read_frames(paths: Sequence[Path]) -> Tensor:
    """Frames of one video as uint8 RGB ``[T, 3, H, W]``; a file named twice in a row is decoded once.

    The memory is channels-last, as the decoder delivers it: resizing is 2.5 times as fast as from planes.
    Raises as :func:`read_frame`, and ValueError for frames of different sizes.
    """
    first = read_frame(paths[0])
    frames = torch.empty((len(paths), *first.shape[1:], 3), dtype=torch.uint8)
    frames[0] = first.permute(1, 2, 0)
    for t in range(1, len(paths)):
        if paths[t] == paths[t - 1]:
            frames[t] = frames[t - 1]
            continue
        frame = read_frame(paths[t])
        check_size(paths[t], frame.shape[1:], first.shape[1:], f"the frame {paths[0].name} of the same video")
        frames[t] = frame.permute(1, 2, 0)
    return frames.permute(0, 3, 1, 2)


def read_label_maps(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Masks of one video as uint8 object ids ``[T, 1, H, W]``; a file named twice in a row is decoded once.

    Raises as :func:`read_labels`, and ValueError for a mask that has not the ``size`` (height, width) of its frames.
    """
    labels = torch.empty((len(paths), 1, *size), dtype=torch.uint8)
    for t, path in enumerate(paths):
        if t and path == paths[t - 1]:
            labels[t] = labels[t - 1]
            continue
        ids = read_labels(path)
        check_size(path, ids.shape, size, "its frame")
        labels[t, 0] = torch.from_numpy(ids)
    return labels
