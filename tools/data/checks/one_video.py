"""Checks of a single video: every frame and mask that its list names.

Files are read with the functions of training and inference, so that the check finds what these would find.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from davis2017.label_maps import ids_in
from tools.data.checks.report import Found, Size, pixels
from util.masks.rle import Rle, is_blank
from util.video.pictures import MASK_SUFFIXES, PICTURE_SUFFIXES, group_files, read_labels, turned

VOID = OBJECT = 255
WITHOUT_MASK = "times a frame has no mask of an object, which is then not in it"
ODD_VALUES = "masks of an object have values other than 0 and 255; every value but 0 is the object"
UNSEEN = "times a mask does not show an object for which meta.json lists its frame"


@dataclass(frozen=True)
class LabelMaps:
    """Masks of a video as PNGs in ``folder``, a path within the data set.

    ``listed`` holds the frames that meta.json lists for each object. If it is None, every frame must have a mask.
    """

    folder: str
    listed: Mapping[int, frozenset[str]] | None = None


@dataclass(frozen=True)
class RleMasks:
    """Masks of a video, by annotation, in MeViS's file at ``path`` within the data set."""

    path: str
    masks: Mapping[int, list[Rle | None]]


@dataclass(frozen=True)
class ObjectFolders:
    """Masks of a video as PNGs in a folder for each object in ``folder``, a path within the data set."""

    folder: str


@dataclass(frozen=True)
class Video:
    """The files and objects that a video should have: ``objects`` are those of its expressions."""

    split: str
    name: str
    folder: str
    frames: tuple[str, ...]
    objects: frozenset[int] = frozenset()
    masks: LabelMaps | RleMasks | ObjectFolders | None = None


def check_video(root: Path, video: Video) -> Found:
    """Reads every frame and mask of a video."""
    found = Found()
    size = found.read_frames(root, video.folder, video.frames)
    if isinstance(video.masks, LabelMaps):
        _check_label_maps(found, root, video, video.masks, size)
    elif isinstance(video.masks, ObjectFolders):
        _check_object_folders(found, root, video, video.masks.folder, size)
    elif video.masks is not None:
        _check_rles(found, video, video.masks, size)
    return found


def _label_map(path: Path) -> tuple[Size, set[int]]:
    labels = read_labels(path)
    return labels.shape, ids_in(labels)


def _check_label_maps(found: Found, root: Path, video: Video, masks: LabelMaps, frame_size: Size | None) -> None:
    of_objects = masks.listed or {}
    listed = frozenset().union(*of_objects.values())
    names = [*video.frames, *sorted(listed.difference(video.frames))]
    needed = listed.__contains__ if masks.listed is not None else lambda _: True
    maps = found.read_all(root, masks.folder, names, _label_map, MASK_SUFFIXES, ".png", needed)
    having = group_files(root / masks.folder, names, MASK_SUFFIXES)
    without = sum(name not in having for name in video.frames)
    if without == len(video.frames) and masks.listed is not None and not listed and (root / masks.folder).is_dir():
        found.add("missing", f"{masks.folder}/", f"holds no mask of any of the video's {without} frames")
    elif masks.listed is not None:
        found.notes["frames have no mask and are not supervised"] += without
    _check_sizes(found, root, video, maps, frame_size)
    shown = set().union(*(ids for _, (_, ids) in maps.values()))
    # only if no mask is missing, because a missing mask may show the object
    if maps and all(name in maps for name in names if needed(name) or name in having):
        for number in sorted((video.objects | of_objects.keys()) - shown):
            found.add("no_pixels", f"{masks.folder}/", f"object {number} is in none of the masks", ())
    for number, of_object in of_objects.items():
        for name in sorted(of_object & maps.keys() if number in shown else ()):
            path, (_, ids) = maps[name]
            if number not in ids:
                found.note(UNSEEN, f"object {number} in {path}")
    found.notes["objects of the masks are named by no expression"] += len(shown - video.objects - {VOID})


def _check_sizes(
    found: Found,
    root: Path,
    video: Video,
    maps: Mapping[str, tuple[str, tuple[Size, set[int]]]],
    frame_size: Size | None,
) -> None:
    """Adds a fault for each mask that has another size than its frame."""
    frames = group_files(root / video.folder, video.frames, PICTURE_SUFFIXES)
    for name, (path, (size, _)) in maps.items():
        if frame_size and size != frame_size and name in frames:
            frame = root / video.folder / frames[name][0]
            why = turned(frame) if size == frame_size[::-1] else ""
            text = f"is {pixels(size)}, its frame {pixels(frame_size)}{why and f': {why}'}"
            found.add("size", path, text, (path, f"{video.folder}/{frame.name}"))


def _check_object_folders(found: Found, root: Path, video: Video, parent: str, frame_size: Size | None) -> None:
    for number in sorted(video.objects):
        folder = f"{parent}/{number}"
        maps = found.read_all(root, folder, video.frames, _label_map, MASK_SUFFIXES, ".png", lambda _: False)
        if not (root / folder).is_dir():
            continue
        _check_sizes(found, root, video, maps, frame_size)
        having = group_files(root / folder, video.frames, MASK_SUFFIXES)
        if maps.keys() == having.keys() and not any(ids for _, (_, ids) in maps.values()):
            found.add("no_pixels", f"{folder}/", f"object {number} has no pixels in any of its {len(maps)} masks", ())
        found.notes[WITHOUT_MASK] += len(video.frames) - len(having)
        for path, (_, ids) in maps.values():
            if ids - {OBJECT}:
                found.note(ODD_VALUES, f"{min(ids - {OBJECT})} in {path}")
    folders = {path.name for path in (root / parent).iterdir() if path.is_dir()} if (root / parent).is_dir() else set()
    found.notes["folders of masks are of objects that no expression names"] += len(
        folders - set(map(str, video.objects))
    )
    found.check_folder(root, parent, lambda path: path.name in folders)


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
