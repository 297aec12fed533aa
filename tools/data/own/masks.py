"""The masks of a user's videos, in any of the forms that are taken: label maps, a file for each object, or COCO's json.

In the folder of masks, each video has

- a folder of label maps, ``<video>/<frame>.png``, whose pixel values are the objects' numbers, or
- a folder of folders, ``<video>/<object>/<frame>.png``, whose pixels other than 0 are the object, or
- a json file ``<video>.json`` (:mod:`tools.data.own.coco`), which may also hold all videos and be given by itself.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from davis2017.label_maps import ids_in
from tools.data.own.table import object_name
from tools.data.own.videos import SEE, Video
from util.masks.rle import count_unusable, decode, parse
from util.video.pictures import MASK_SUFFIXES, Wording, check_size, list_files, read_labels

# where two objects overlap, a label map can show one of them only
OVERLAP = "masks hold objects that overlap; the object with fewer pixels in the frame keeps the overlap"
UNUSABLE = "polygons have fewer than three corners and are left out"
_WORDING = Wording("the mask does not exist", "the mask is damaged or not an image", "mend it, or take it out")

Size = tuple[int, int]


@dataclass
class Findings:
    """The mismatches of a video, each with its file, and how often other things were met."""

    faults: list[str] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)


class VideoMasks(ABC):
    """The masks of one video. Its frames have the names that the user gave them (``stems``).

    Attributes:
        where: the file or folder, for messages.
    """

    where: str

    @property
    @abstractmethod
    def stems(self) -> Iterable[str]:
        """The frames that have masks."""

    @abstractmethod
    def seen(self, stem: str, size: Size, found: Findings) -> set[str]:
        """The objects that a frame of this size (height, width) shows. What cannot be used is added to ``found``."""


@dataclass(frozen=True)
class LabelMaps(VideoMasks):
    """Label maps, by frame. Their numbers stay."""

    where: str
    files: Mapping[str, Path]

    @property
    def stems(self) -> Iterable[str]:
        return self.files

    def seen(self, stem: str, size: Size, found: Findings) -> set[str]:
        labels = _read(self.files[stem], size, found)
        return set() if labels is None else set(map(str, ids_in(labels)))


class Composed(VideoMasks):
    """Masks of single objects, which are put into one label map."""

    @abstractmethod
    def shown(self, stem: str, size: Size, found: Findings) -> dict[str, np.ndarray]:
        """bool ``[H, W]`` of each object of a frame; blank ones may be among them."""

    def seen(self, stem: str, size: Size, found: Findings) -> set[str]:
        shown = {name: mask for name, mask in self.shown(stem, size, found).items() if mask.any()}
        if len(shown) > 1 and (np.sum(list(shown.values()), axis=0, dtype=np.uint8) > 1).any():
            found.notes[OVERLAP] += 1
            return _uncovered(shown)
        return set(shown)

    def labels(self, stem: str, size: Size, numbers: Mapping[str, int]) -> np.ndarray:
        """The label map of a frame, uint8 ``[H, W]``, from the pixel value of each object."""
        labels = np.zeros(size, np.uint8)
        shown = self.shown(stem, size, Findings())
        for name in sorted(shown, key=lambda name: (-int(shown[name].sum()), numbers.get(name, 0))):
            labels[shown[name]] = numbers.get(name, 0)
        return labels


def _uncovered(shown: Mapping[str, np.ndarray]) -> set[str]:
    """The objects of which a pixel is left in the label map."""
    order = sorted(shown, key=lambda name: (-int(shown[name].sum()), name))
    last = np.full(next(iter(shown.values())).shape, -1)
    for place, name in enumerate(order):
        last[shown[name]] = place
    return {order[place] for place in np.unique(last) if place >= 0}


@dataclass(frozen=True)
class NoObjects(Composed):
    """Of a video none of whose expressions mean anything in it: every frame is blank."""

    where: str
    frames: tuple[str, ...]

    @property
    def stems(self) -> Iterable[str]:
        return self.frames

    def shown(self, stem: str, size: Size, found: Findings) -> dict[str, np.ndarray]:
        return {}


@dataclass(frozen=True)
class ObjectFiles(Composed):
    """A file for each object, by frame."""

    where: str
    files: Mapping[str, Mapping[str, Path]]

    @property
    def stems(self) -> Iterable[str]:
        return self.files

    def shown(self, stem: str, size: Size, found: Findings) -> dict[str, np.ndarray]:
        read = {name: _read(path, size, found) for name, path in self.files[stem].items()}
        return {name: labels > 0 for name, labels in read.items() if labels is not None}


@dataclass(frozen=True)
class Code:
    """A mask in a json file.

    Attributes:
        where: the file and the annotation.
        object: as the file has it; None where it names none.
        segmentation: in any of COCO's forms.
    """

    where: str
    object: object
    segmentation: object


@dataclass
class CodedMasks(Composed):
    """Masks of a json file.

    Attributes:
        codes: of each frame; none where the frame shows no object.
        sizes: height and width of each frame, where the file says them.
        missing: what to do about a mask that names no object.
    """

    where: str
    missing: str
    codes: dict[str, list[Code]] = field(default_factory=dict)
    sizes: dict[str, Size | None] = field(default_factory=dict)

    @property
    def stems(self) -> Iterable[str]:
        return self.codes

    def shown(self, stem: str, size: Size, found: Findings) -> dict[str, np.ndarray]:
        stated = self.sizes.get(stem)
        if stated not in (None, size):
            found.faults.append(
                f"{self.where}: says that frame {stem} is {stated[1]}x{stated[0]} pixels, but it is {size[1]}x{size[0]}"
            )
            return {}
        shown: dict[str, np.ndarray] = {}
        for code in self.codes[stem]:
            name = object_name(code.object)
            if name is None:
                found.faults.append(f"{code.where}: {self.missing}")
                continue
            try:
                mask = decode(parse(code.segmentation, size))
            except ValueError as error:
                found.faults.append(f"{code.where}, frame {stem}: {error}")
                continue
            found.notes[UNUSABLE] += count_unusable(code.segmentation)
            shown[name] = shown[name] | mask if name in shown else mask
        return shown


def _read(path: Path, size: Size, found: Findings) -> np.ndarray | None:
    """uint8 ``[H, W]``; None where it cannot be used, which is added to ``found``."""
    try:
        labels = read_labels(path, _WORDING)
        check_size(path, labels.shape, size, "its frame")
    except (ValueError, OSError) as error:
        found.faults.append(str(error))
        return None
    return labels


def read_folder(folder: Path) -> VideoMasks:
    """The masks in the folder of a video. Raises ValueError where they are in neither form, or in both."""
    names = list_files(folder)
    folders = [name for name in names if (folder / name).is_dir()]
    files = _by_stem(folder, [name for name in names if name.lower().endswith(MASK_SUFFIXES)])
    if folders and files:
        raise ValueError(
            f"{folder}: holds label maps and folders; the masks of a video are one or the other: take out {folders[0]}"
        )
    if files:
        return LabelMaps(str(folder), files)
    of_frames: dict[str, dict[str, Path]] = {}
    for name in folders:
        number = object_name(name)
        for stem, path in _by_stem(folder / name, list_files(folder / name)).items():
            if number in of_frames.setdefault(stem, {}):
                raise ValueError(f"{folder}: {name} and another folder name the same object; rename one of them")
            of_frames[stem][number] = path
    if not of_frames:
        raise ValueError(f"{folder}: holds neither PNGs nor a folder of PNGs for each object; {SEE}")
    return ObjectFiles(str(folder), of_frames)


def _by_stem(folder: Path, names: Iterable[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name in names:
        path = folder / name
        if path.suffix.lower() in MASK_SUFFIXES and files.setdefault(path.stem, path) != path:
            raise ValueError(f"{folder}: holds {files[path.stem].name} and {name}; leave one file for each frame")
    return files


def frame_of(video: Video, stem: str) -> str:
    """The frame that a mask belongs to: of a folder, that of the same name; of a film, that of the number in which the
    name ends.

    Raises ValueError where the video has no such frame.
    """
    if not video.is_film:
        if stem not in video.files:
            raise ValueError(f"there is no frame {stem} in {video.path}; name masks like their frames")
        return stem
    digits = re.search(r"[0-9]{1,9}\Z", stem)
    if not digits:
        raise ValueError(f"{stem} does not end in the number of a frame of {video.path}, counted from 0")
    if int(digits[0]) >= len(video.names):
        raise ValueError(f"{video.path} has no frame {int(digits[0])}: its frames are 0 to {len(video.names) - 1}")
    return video.names[int(digits[0])]
