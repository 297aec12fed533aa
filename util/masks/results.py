"""Folders and zips of masks, which inference writes and scoring reads: the masks, and the record of the run.

Layout: ``Annotations/<video>/<expression id>/<frame>.png`` for every listed frame, in its original size, of mode L with
values 0 and 255. A zip for MeViS has no folder ``Annotations/`` (``root`` is empty). Ref-DAVIS17 has
``anno_<annotator>/<video>/<frame>.png``, palette PNGs whose pixel values are object numbers. Beside the masks,
``scores/<video>.json`` has the score of each expression, and whether it means something.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from util.files.images import open_image
from util.files.names import checked, inside
from util.files.reading import read_json, unfit
from util.files.writing import UNFINISHED, atomic_path, write_json

RESULTS_ROOT = "Annotations"
RECORD = "inference.json"  # what the masks of a folder depend on
SCORES = "scores"
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


def write_scores(
    results_dir: Path, vid: str, expressions: Iterable[str], scores: Iterable[float], there: Iterable[bool]
) -> None:
    """Keeps the score of expressions of a video, and whether they mean something; those of its others stay."""
    answers = zip(expressions, scores, there, strict=True)
    found = {name: {"score": round(score, 4), "there": bool(means)} for name, score, means in answers}
    write_json(inside(results_dir / SCORES, f"{vid}.json"), read_scores(results_dir, vid) | found)


def read_scores(results_dir: Path, vid: str) -> dict[str, dict]:
    """What :func:`write_scores` kept of a video; empty where its masks are of a version that kept nothing."""
    path = inside(results_dir / SCORES, f"{vid}.json")
    return read_json(path) if path.is_file() else {}


def require_results(path: str | os.PathLike) -> None:
    """FileNotFoundError where there is nothing at this path."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path}: no such results; give the folder or the zip that inference wrote")


def under(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def shown(name: str) -> str:
    """The name of a file for a message, in one line whatever characters it has."""
    return name if name.isprintable() else ascii(name)


def most_bytes(size: Size | None = None) -> int:
    """The most bytes that the PNG of a mask can need: four channels of 16 bits, two filter bytes for a row (interlaced
    PNGs have up to two rows for one), and 1 MiB for headers, palette, profiles and texts; 64 MiB where the size is
    unknown."""
    return 2**26 if size is None else size[0] * (8 * size[1] + 2) + 2**20


def decoded(content: bytes, name: str, size: Size | None = None) -> Image.Image:
    """The image in a file. ValueError where it is damaged, or not of this size: then no pixel has been decoded."""
    try:
        # Decoding alone accepts a file whose end is missing.
        open_image(BytesIO(content)).verify()
        image = open_image(BytesIO(content))
        if size is None or (image.height, image.width) == tuple(size):
            image.load()
            return image
    except MemoryError:
        raise
    # On damaged bytes decoders raise many kinds of errors.
    except Exception as error:
        raise ValueError(f"{shown(name)} cannot be decoded ({error})") from error
    raise ValueError(f"{shown(name)} is {image.width}x{image.height}, but the video's frames are {size[1]}x{size[0]}")


def _walk(folder: Path) -> Iterator[tuple[str, bool]]:
    """Names of all in a folder that is no folder, relative to it, and whether each is a file; no link is followed."""
    inner = [""]
    while inner:
        prefix = inner.pop()
        with os.scandir(folder / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    inner.append(f"{prefix}{entry.name}/")
                else:
                    yield prefix + entry.name, entry.is_file(follow_symlinks=False)


class Results:
    """Read access to results in a folder or a zip; close it, or use it in a ``with`` block.

    The path may be a link, but no link within the folder is followed.

    Attributes:
        path: of the folder or zip.
        names: every file, sorted, as a path relative to the root, and whatever else is no folder (links, pipes), which
            :meth:`read` refuses. Hidden files of a folder are left out: an interrupted run may have left some. A zip
            may hold a name more than once.

    Raises:
        FileNotFoundError: there is nothing at this path.
        ValueError: the path is neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._zip = None
        self._entries: dict[str, list[zipfile.ZipInfo]] = {}
        if self.path.is_dir():
            self.names = sorted(name for name, _ in _walk(self.path) if not PurePosixPath(name).name.startswith("."))
            self._entries = {name: [] for name in self.names}
            return
        require_results(self.path)
        try:
            if why := unfit(self.path):
                raise ValueError(why)
            self._zip = zipfile.ZipFile(self.path)
        # On a damaged directory zipfile raises many kinds of errors.
        except Exception as error:
            raise ValueError(f"{self.path}: not a folder and not a readable zip ({error})") from error
        # The original name: zipfile cuts the other one at a NUL, and so may make it that of a mask.
        for entry in self._zip.infolist():
            if not entry.orig_filename.endswith("/"):
                self._entries.setdefault(entry.orig_filename, []).append(entry)
        self.names = sorted(name for name, entries in self._entries.items() for _ in entries)

    def read(self, name: str, most: int | None = None) -> bytes:
        """The bytes of one file.

        Args:
            name: one of ``names``.
            most: bytes that it may have; :func:`most_bytes` where it is None. Not one byte of a larger file is read.

        Raises:
            ValueError: it is no regular file, too large, or damaged, in whatever way; of a zip, it is there twice.
        """
        most = most_bytes() if most is None else most
        if name not in self._entries:
            raise ValueError(f"{shown(name)} is not there")
        if self._zip is None:
            path = self.path / name
            try:
                if why := unfit(path, most, links=False):
                    raise ValueError(f"{shown(name)} {why}")
                return path.read_bytes()
            except OSError as error:
                raise ValueError(f"{shown(name)} cannot be read ({error.strerror})") from error
        if len(self._entries[name]) > 1:
            raise ValueError(f"{shown(name)} occurs {len(self._entries[name])} times")
        return self._unpacked(self._entries[name][0], most)

    def _unpacked(self, entry: zipfile.ZipInfo, most: int) -> bytes:
        name = shown(entry.orig_filename)
        if entry.file_size > most:
            raise ValueError(f"{name} has {entry.file_size:,} bytes, but at most {most:,} are read")
        # zipfile bounds what it inflates in a step for this method alone (ZipExtFile._read1 in zipfile.py)
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            method = zipfile.compressor_names.get(entry.compress_type, "an unknown method")
            raise ValueError(f"{name} cannot be read (it is packed by {method}; pack it by deflate, as zip does)")
        try:
            with self._zip.open(entry) as file:
                content = file.read(entry.file_size)
                # the end, where zipfile compares the checksum
                if len(content) < entry.file_size or file.read(1):
                    raise ValueError("it has another size than the zip says")
        except MemoryError:
            raise
        # On damaged bytes zipfile raises many kinds of errors: encrypted, cut off, wrong checksum …
        except Exception as error:
            raise ValueError(f"{name} cannot be read ({error or type(error).__name__})") from error
        return content

    def image(self, name: str, size: Size | None = None) -> Image.Image:
        """A decoded image; ValueError where the file is damaged or no image, or has not this height and width.

        Files that are larger than such an image can be are not read.
        """
        return decoded(self.read(name, most_bytes(size)), name, size)

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

    It removes half-written files of killed processes, so no process may be writing to the folder yet. Where it deletes
    masks, it deletes their scores, too.

    Args:
        results_dir: is made where it does not exist.
        run: all that the masks depend on, as plain data; kept in :data:`RECORD`.
        replace: delete the masks of another run, instead of refusing. Masks of unknown origin are never deleted.
        roots: its folders that hold masks.
        asked: a digest of the frames and texts of each video. Masks of a video with another digest are deleted.

    Raises:
        ValueError: the folder holds masks of another run, masks or scores of unknown origin, or links among them: they
            are not followed, neither to write nor to delete.
    """
    record = Path(results_dir, RECORD)
    masks = [folder for root in roots if (folder := Path(results_dir, root)).is_dir()]
    scores = [folder for folder in [Path(results_dir, SCORES)] if folder.is_dir()]
    found = _claimable(results_dir, [*masks, *scores])
    made_by = None
    if record.is_file():
        try:
            made_by = json.loads(record.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            made_by = None
        made_by = made_by if isinstance(made_by, dict) else None
    before = (made_by or {}).pop("asked", None)
    before = before if isinstance(before, dict) else {}
    if (masks or scores) and made_by is None:
        what = " and ".join(["masks"] * bool(masks) + [f"{SCORES}/"] * bool(scores))
        raise ValueError(f"--output_dir {results_dir} holds {what} of unknown origin; choose another folder")
    if (masks or scores) and made_by != dict(run):
        if masks and not replace:
            names = [name for name in {**run, **made_by} if made_by.get(name) != run.get(name)]
            differs = [f"{name} {made_by.get(name)} there, {run.get(name)} now" for name in names]
            raise ValueError(
                f"--output_dir {results_dir} holds the masks of another run ({'; '.join(differs)}): choose another "
                "folder, or add --overwrite"
            )
        for folder in (*masks, *scores):
            shutil.rmtree(folder)
    asked = dict(asked or {})
    for vid in (vid for vid, digest in asked.items() if before.get(vid, digest) != digest):
        for root in masks:
            shutil.rmtree(inside(root, vid), ignore_errors=True)
        for folder in scores:
            inside(folder, f"{vid}.json").unlink(missing_ok=True)
    for path in (*Path(results_dir).glob(UNFINISHED), *found):
        if path.match(UNFINISHED):
            path.unlink(missing_ok=True)
    write_json(record, {**run, "asked": before | asked} if asked else dict(run))


def _claimable(results_dir: str | os.PathLike, roots: Sequence[Path]) -> list[Path]:
    """The files in these folders. ValueError where there is a link or another thing that is no file."""
    files = []
    for root in roots:
        if root.is_symlink():
            raise ValueError(f"--output_dir {results_dir}: {root.name} is a link, which is not followed; remove it")
        for name, is_file in _walk(root):
            if not is_file:
                what = "is no file, and links are not followed; remove it"
                raise ValueError(f"--output_dir {results_dir}: {root.name}/{shown(name)} {what}")
            files.append(root / name)
    return files


def is_complete(results_dir: str | os.PathLike, vid: str, eid: str, frames: Iterable[str]) -> bool:
    """Whether every mask of one expression is on disk and can be decoded, so that it need not be computed again."""
    return holds_frames(Path(results_dir, RESULTS_ROOT, vid, eid), frames)


def holds_frames(folder: Path, frames: Iterable[str]) -> bool:
    """Whether the folder has a mask of every frame and all can be decoded."""
    try:
        for frame in frames:
            path = folder / f"{frame}.png"
            if unfit(path, most_bytes(), links=False):
                return False
            decoded(path.read_bytes(), path.name)
    except (OSError, ValueError):
        return False
    return True
