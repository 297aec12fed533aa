"""Folders and zips of masks, which inference writes and scoring reads: the masks, and the record of the run.

Layout: ``Annotations/<video>/<expression id>/<frame>.png`` for every listed frame, in its original size, of mode L with
values 0 and 255. A zip for MeViS has no folder ``Annotations/`` (``root`` is empty). Ref-DAVIS17 has
``anno_<annotator>/<video>/<frame>.png``, palette PNGs whose pixel values are object numbers.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from util.files.names import checked, inside
from util.files.writing import UNFINISHED, atomic_path, write_json

RESULTS_ROOT = "Annotations"
# First frame and full video of Ref-DAVIS17's first annotator, then of its second.
ANNOTATOR_ROOTS = ("anno_0", "anno_1", "anno_2", "anno_3")
# The 256 colours of PASCAL VOC and DAVIS: the bits of an index are dealt to red, green and blue in turn.
LABEL_PALETTE = bytes(
    sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
    for index in range(256)
    for channel in range(3)
)
Size = tuple[int, int]


def write_mask_png(path: str | os.PathLike, mask: np.ndarray) -> None:
    """Writes a mask, bool ``[H, W]``, as a PNG of mode L with 0 and 255, atomically; makes the folder."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"{path}: a mask is bool [H, W], not {mask.dtype} {list(mask.shape)}")
    with atomic_path(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")


def write_label_png(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Writes object numbers, uint8 ``[H, W]``, as a PNG with DAVIS's palette, atomically; makes the folder."""
    labels = np.asarray(labels)
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"{path}: object numbers are uint8 [H, W], not {labels.dtype} {list(labels.shape)}")
    image = Image.fromarray(labels)
    image.putpalette(LABEL_PALETTE)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def mask_name(vid: str, eid: str, frame: str, root: str = RESULTS_ROOT) -> str:
    """Name of a mask, relative to the results folder or inside the zip. Raises as :func:`util.files.names.checked`."""
    return under(root, f"{checked(vid)}/{checked(eid)}/{checked(frame)}.png")


def under(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def decoded(content: bytes, name: str) -> Image.Image:
    try:
        # Decoding alone accepts a file whose end is missing.
        Image.open(BytesIO(content)).verify()
        image = Image.open(BytesIO(content))
        image.load()
    # On damaged bytes decoders raise many kinds of errors.
    except Exception as error:
        raise ValueError(f"{name} cannot be decoded ({error})") from error
    return image


class Results:
    """Read access to results in a folder or a zip; close it, or use it in a ``with`` block.

    Attributes:
        path: of the folder or zip.
        names: every file, sorted, as a path relative to the root. Hidden files of a folder are left out: an
            interrupted run may have left some. A zip may hold a name more than once.

    Raises:
        FileNotFoundError: there is nothing at this path.
        ValueError: the path is neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._zip = None
        if self.path.is_dir():
            files = (Path(folder, name) for folder, _, names in os.walk(self.path) for name in names)
            self.names = sorted(f.relative_to(self.path).as_posix() for f in files if not f.name.startswith("."))
            return
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such results; give the folder or the zip that inference wrote")
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.path}: not a folder and not a readable zip ({error})") from error
        self.names = sorted(name for name in self._zip.namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return (self.path / name).read_bytes() if self._zip is None else self._zip.read(name)

    def image(self, name: str) -> Image.Image:
        """A decoded image; ValueError when the file is damaged or is no image."""
        try:
            content = self.read(name)
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # encrypted, unknown method
            raise ValueError(f"{name} cannot be read ({error})") from error
        return decoded(content, name)

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def claim_results(
    results_dir: str | os.PathLike,
    run: Mapping[str, object],
    replace: bool,
    roots: Sequence[str] = (RESULTS_ROOT,),
    asked: Mapping[str, str] | None = None,
) -> None:
    """Makes ``results_dir`` the folder of this run's masks. Masks of an earlier attempt of the same run stay.

    It removes half-written files of killed processes, so no process may be writing to the folder yet.

    Args:
        results_dir: is made where it does not exist.
        run: all that the masks depend on, as plain data; kept in ``inference.json``.
        replace: delete the masks of another run, instead of refusing. Masks of unknown origin are never deleted.
        roots: its folders that hold masks.
        asked: a digest of the frames and texts of each video. Masks of a video with another digest are deleted.

    Raises:
        ValueError: the folder holds masks of another run, or masks of unknown origin.
    """
    record = Path(results_dir, "inference.json")
    masks = [folder for root in roots if (folder := Path(results_dir, root)).is_dir()]
    made_by = None
    if record.is_file():
        try:
            made_by = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            made_by = None
    before = made_by.pop("asked", {}) if isinstance(made_by, dict) else {}
    if masks and made_by is None:
        raise ValueError(f"--output_dir {results_dir} holds masks of unknown origin; choose another folder")
    if masks and made_by != dict(run):
        if not replace:
            differs = [f"{k} {made_by.get(k)} there, {v} now" for k, v in run.items() if made_by.get(k) != v]
            raise ValueError(
                f"--output_dir {results_dir} holds the masks of another run ({'; '.join(differs)}): choose another "
                "folder, or add --overwrite"
            )
        for folder in masks:
            shutil.rmtree(folder)
    asked = dict(asked or {})
    for vid in (vid for vid, digest in asked.items() if before.get(vid, digest) != digest):
        for root in masks:
            shutil.rmtree(inside(root, vid), ignore_errors=True)
    for unfinished in chain(Path(results_dir).glob(UNFINISHED), *(root.rglob(UNFINISHED) for root in masks)):
        unfinished.unlink(missing_ok=True)
    write_json(record, {**run, "asked": before | asked} if asked else dict(run))


def is_complete(results_dir: str | os.PathLike, vid: str, eid: str, frames: Iterable[str]) -> bool:
    """Whether every mask of one expression is on disk and can be decoded, so that it need not be computed again."""
    return holds_frames(Path(results_dir, RESULTS_ROOT, vid, eid), frames)


def holds_frames(folder: Path, frames: Iterable[str]) -> bool:
    """Whether the folder has a mask of every frame and all can be decoded."""
    try:
        for frame in frames:
            name = f"{frame}.png"
            decoded((folder / name).read_bytes(), name)
    except (OSError, ValueError):
        return False
    return True
