"""Checks of a single video: every frame and mask that its list names.

Files are read by the loaders' own functions, so that what is found here is what training and inference would meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets.video_io import read_frame, read_labels
from davis2017.label_maps import ids_in
from tools.data.checks.report import Fault
from util.rle import Rle, is_blank

VOID = 255
Size = tuple[int, int]


@dataclass(frozen=True)
class LabelMaps:
    """Masks of a video in a folder of PNGs, relative to the data set."""

    folder: str


@dataclass(frozen=True)
class RleMasks:
    """Masks of a video in MeViS's file, relative to the data set, by annotation."""

    path: str
    masks: Mapping[int, list[Rle | None]]


@dataclass(frozen=True)
class Video:
    """What there should be of a video: ``objects`` are those that its expressions mean. Paths are in the data set."""

    split: str
    name: str
    folder: str
    frames: tuple[str, ...]
    objects: frozenset[int] = frozenset()
    masks: LabelMaps | RleMasks | None = None


@dataclass
class Found:
    """What was found of a video: faults, and objects that have pixels and no expression."""

    faults: list[Fault] = field(default_factory=list)
    unnamed: int = 0

    def add(self, kind: str, path: str, what: str = "", again: Iterable[str] | None = None) -> None:
        self.faults.append(Fault(kind, path, what, (path,) if again is None else tuple(again)))


def said(error: Exception, path: Path) -> str:
    """A loader's message without the path and the mend."""
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def pixels(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


def check_video(root: Path, video: Video) -> Found:
    """Reads every frame and mask of a video."""
    found = Found()
    sizes = _read_all(found, root, video.folder, [f"{name}.jpg" for name in video.frames], _frame_size)
    usual = Counter(sizes.values()).most_common(1)[0][0] if sizes else None
    for path, size in sizes.items():
        if size != usual:
            found.add("size", path, f"is {pixels(size)}, other frames of the video are {pixels(usual)}")
    if isinstance(video.masks, LabelMaps):
        _check_label_maps(found, root, video, video.masks, usual)
    elif video.masks is not None:
        _check_rles(found, video, video.masks, usual)
    return found


def _frame_size(path: Path) -> Size:
    height, width = read_frame(path).shape[1:]
    return height, width


def _read_all(found: Found, root: Path, folder: str, names: list[str], read: Callable[[Path], object]) -> dict:
    """What ``read`` makes of each file of a folder that can be read, by its path in the data set."""
    if not (root / folder).is_dir():
        found.add("missing", f"{folder}/", f"the folder of {len(names)} files")
        return {}
    content = {}
    for name in names:
        path = root / folder / name
        try:
            content[f"{folder}/{name}"] = read(path)
        except FileNotFoundError:
            found.add("missing", f"{folder}/{name}")
        except ValueError as error:
            found.add("damaged", f"{folder}/{name}", said(error, path))
    listed = set(names)
    for path in sorted((root / folder).iterdir()):
        if path.name not in listed and not path.name.startswith("."):
            found.add("unknown", f"{folder}/{path.name}" + "/" * path.is_dir(), again=())
    return content


def _label_map(path: Path) -> tuple[Size, set[int]]:
    labels = read_labels(path)
    return labels.shape, ids_in(labels)


def _check_label_maps(found: Found, root: Path, video: Video, masks: LabelMaps, frame_size: Size | None) -> None:
    names = [f"{name}.png" for name in video.frames]
    maps = _read_all(found, root, masks.folder, names, _label_map)
    for path, (size, _) in maps.items():
        if frame_size and size != frame_size:
            frame = f"{video.folder}/{Path(path).stem}.jpg"
            found.add("size", path, f"is {pixels(size)}, its frame {pixels(frame_size)}", (path, frame))
    shown = set().union(*(ids for _, ids in maps.values()))
    # What is missing may show what else would be without pixels.
    if len(maps) == len(names):
        for number in sorted(video.objects - shown):
            found.add("no_pixels", f"{masks.folder}/", f"object {number} is in none of the masks", ())
    found.unnamed = len(shown - video.objects - {VOID})


def _check_rles(found: Found, video: Video, masks: RleMasks, frame_size: Size | None) -> None:
    again = (masks.path,)
    for annotation, frames in masks.masks.items():
        readable, shown = True, False
        for t, rle in enumerate(frames[: len(video.frames)]):
            if rle is None:
                continue
            where = f"annotation {annotation}, frame {video.frames[t]} of {video.name}"
            try:
                shown |= not is_blank(rle)
            except ValueError as error:
                readable = False
                found.add("damaged", masks.path, f"{where}: {error}", again)
            if frame_size and rle.size != frame_size:
                text = f"{where} is {pixels(rle.size)}, its frame {pixels(frame_size)}"
                found.add("size", masks.path, text, (*again, f"{video.folder}/{video.frames[t]}.jpg"))
        if readable and not shown:
            found.add("no_pixels", masks.path, f"annotation {annotation} of {video.name} has no pixels", ())
