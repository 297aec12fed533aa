"""Ground truth of a split. The target of an expression is the union of some objects of its video.

``LabelMaps`` are the PNGs of Ref-YouTube-VOS, ``RleMasks`` the run-length encoded masks of MeViS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from davis2017.label_maps import LABELS, ids_in, mask_path, read_labels
from util.files.reading import shown, whole_number
from util.masks.rle import Rle, decode
from util.video.pictures import PICTURE_SUFFIXES, group_files, image_size

# The numbers of the objects that an expression means, in rising order.
Target = tuple[int, ...]
Masks = dict[Target, np.ndarray]
Size = tuple[int, int]  # height, width

_AGAIN = "download the file again (docs/data.md)"
# pixels of the masks of a frame, of the objects and of the targets together; a file may claim any size for them
_MOST_PIXELS = 2**31


@dataclass
class FrameTruth:
    """Ground truth of a frame.

    Attributes:
        size: of the frame; None in a video of whose objects no mask is known.
        masks: bool ``[H, W]`` of each target that has pixels in it.
        damaged: targets whose masks cannot be used here, and why.
    """

    size: Size | None
    masks: Masks
    damaged: dict[Target, ValueError] = field(default_factory=dict)


def mask_size(folder: Path, frames: Sequence[str]) -> Size | None:
    """The right size of the masks of a video, from the headers of the files: that of most of its frames or, where no
    frame is found, of most masks. None where no file can be read.

    Args:
        folder: of the masks. The frames' is that with ``JPEGImages`` instead of ``Annotations``, as in YouTube-VOS and
            DAVIS.
        frames: names of the frames.
    """
    places = [place for place in folder.absolute().parents if place.name == "Annotations"]
    if places:
        pictures = places[0].with_name("JPEGImages") / folder.absolute().relative_to(places[0])
        found = group_files(pictures, frames, PICTURE_SUFFIXES)
        size = _commonest_size(pictures / files[0] for files in found.values())
        if size:
            return size
    return _commonest_size(mask_path(folder, frame) for frame in frames)


def _commonest_size(paths: Iterable[Path]) -> Size | None:
    sizes: Counter[Size] = Counter()
    for path in paths:
        with suppress(ValueError, OSError):  # reading the mask will name the fault
            sizes[image_size(path)] += 1
    return sizes.most_common(1)[0][0] if sizes else None


def read_mask_of(path: Path, size: Size | None) -> np.ndarray:
    """As :func:`read_labels`; ValueError where it has not the ``size`` of its video, if that is known."""
    labels = read_labels(path)
    if size and labels.shape != size:
        raise ValueError(f"{path} is {list(labels.shape)}, but its video is {list(size)} (height, width)")
    return labels


class VideoTruth(ABC):
    """The masks of one video. The process that scores the video gets a copy.

    Attributes:
        where: the file or folder they come from, for messages.
        objects: numbers of the objects seen so far.
        may_be_empty: whether a target may have no objects; its right masks are then empty in every frame.
    """

    may_be_empty = False

    def __init__(self, where: str) -> None:
        self.where = where
        self.objects: set[int] = set()

    def absent(self, frames: Sequence[str]) -> list[Path]:
        """The missing files of masks. Call this before reading frames, so that all are named together."""
        return []

    @abstractmethod
    def frame(self, t: int, name: str, targets: Collection[Target], others: bool) -> FrameTruth:
        """Ground truth of the frame at position ``t``.

        Args:
            name: of the frame.
            targets: of the expressions of the video.
            others: also give the targets for which they may be mistaken.

        Raises:
            FileNotFoundError, ValueError: the ground truth of the frame is unusable.
        """

    @abstractmethod
    def named(self, target: Target) -> dict[str, object]:
        """The name of a target in results."""


class Truth(ABC):
    """The masks of a split. ``may_be_empty``: whether an expression of it may mean no object."""

    may_be_empty = False

    @abstractmethod
    def target(self, vid: str, eid: str, expression: Mapping) -> Target:
        """The target of an expression; ValueError where its entry has another form than the data set's."""

    @abstractmethod
    def video(self, vid: str, targets: Iterable[Target]) -> VideoTruth:
        """The masks of a video, with all that is needed for these targets."""


class LabelMaps(Truth):
    """Masks in ``<root>/<video>/<frame>.png``, whose pixel values are object ids.

    An expression names its object as ``obj_id``. It may be mistaken for any other object of the video.

    Args:
        root: the folder.
        may_be_empty: take an expression whose ``obj_id`` is null for one that means no object.
    """

    def __init__(self, root: Path, may_be_empty: bool = False) -> None:
        self.root, self.may_be_empty = root, may_be_empty

    def target(self, vid: str, eid: str, expression: Mapping) -> Target:
        if "obj_id" not in expression:
            raise ValueError(f"video {vid}, expression {eid} has no obj_id: a split without them cannot be scored")
        if self.may_be_empty and expression["obj_id"] is None:
            return ()
        target = whole_number(expression["obj_id"])
        if not 0 < (target or 0) < LABELS:
            raise ValueError(
                f"video {vid}, expression {eid}: obj_id {shown(expression['obj_id'])} is no object id (1 to 255)"
            )
        return (target,)

    def video(self, vid: str, targets: Iterable[Target]) -> VideoTruth:
        return _LabelMapVideo(self.root / vid, self.may_be_empty)


class _LabelMapVideo(VideoTruth):
    def __init__(self, folder: Path, may_be_empty: bool) -> None:
        super().__init__(str(folder))
        self.folder, self.may_be_empty = folder, may_be_empty
        self._size: Size | None = None

    def absent(self, frames: Sequence[str]) -> list[Path]:
        paths = [mask_path(self.folder, name) for name in frames]
        self._size = mask_size(self.folder, frames)
        return [path for path in paths if not path.is_file()]

    def frame(self, t: int, name: str, targets: Collection[Target], others: bool) -> FrameTruth:
        labels = read_mask_of(mask_path(self.folder, name), self._size)
        ids = ids_in(labels)
        self.objects |= ids
        wanted = {target for target in targets if ids & set(target)} | ({(i,) for i in ids} if others else set())
        return FrameTruth(labels.shape, {target: np.isin(labels, target) for target in wanted})

    def named(self, target: Target) -> dict[str, object]:
        return {"obj_id": str(target[0])}


class RleMasks(Truth):
    """Run-length encoded masks, with the annotations of an expression listed as ``anno_id``.

    Expressions may share objects, so one may be mistaken for what another expression of its video means.

    Args:
        where: the file, for messages.
        masks: of each annotation: one of every frame of its video, None where there is nothing.
        may_be_empty: take an expression whose list is empty or missing for one that means no object, as in version 2
            of MeViS.
    """

    def __init__(self, where: Path, masks: Mapping[int, Sequence[Rle | None]], may_be_empty: bool = False) -> None:
        self.where, self.masks, self.may_be_empty = str(where), masks, may_be_empty

    def target(self, vid: str, eid: str, expression: Mapping) -> Target:
        named = expression.get("anno_id")
        if self.may_be_empty and (named is None or named == []):
            return ()
        numbers = isinstance(named, list) and all(type(annotation) is int for annotation in named)
        target = tuple(sorted(set(named))) if numbers else ()
        if not target or not all(annotation in self.masks for annotation in target):
            raise ValueError(
                f"video {vid}, expression {eid}: anno_id {shown(named)} must be a list of annotations of {self.where}"
            )
        return target

    def video(self, vid: str, targets: Iterable[Target]) -> VideoTruth:
        targets = set(targets)
        if not any(targets):
            return _RleVideo(self.where, vid, {}, None, self.may_be_empty)
        needed = sorted({annotation for target in targets for annotation in target})
        masks = {annotation: list(self.masks[annotation]) for annotation in needed}
        sizes = Counter(rle.size for frames in masks.values() for rle in frames if rle is not None)
        if not sizes:
            raise ValueError(
                f"{self.where}: the masks of video {vid} must have the one size of its frames, but are missing; "
                f"{_AGAIN}"
            )
        size = sizes.most_common(1)[0][0]
        if (len(masks) + len(targets)) * size[0] * size[1] > _MOST_PIXELS:
            raise ValueError(
                f"{self.where}: the {len(masks)} masks of video {vid} are too large to be held together, of "
                f"{size[1]}x{size[0]} pixels; {_AGAIN}"
            )
        return _RleVideo(self.where, vid, masks, size, self.may_be_empty)


class _RleVideo(VideoTruth):
    def __init__(
        self, file: str, vid: str, masks: dict[int, list[Rle | None]], size: Size | None, may_be_empty: bool
    ) -> None:
        super().__init__(f"{file}, video {vid}")
        self.file, self.vid, self.masks, self.size, self.may_be_empty = file, vid, masks, size, may_be_empty

    def frame(self, t: int, name: str, targets: Collection[Target], others: bool) -> FrameTruth:
        shown: dict[int, np.ndarray] = {}
        damaged: dict[int, ValueError] = {}
        for annotation, frames in self.masks.items():
            if frames[t] is None:
                continue
            try:
                mask = self._mask(annotation, frames[t], name)
            except ValueError as error:
                damaged[annotation] = error
            else:
                if mask.any():
                    shown[annotation] = mask
        self.objects |= shown.keys()
        spoilt = {target: damaged[a] for target in targets for a in target if a in damaged}
        masks = {
            target: np.logical_or.reduce([shown[annotation] for annotation in target if annotation in shown])
            for target in targets
            if target not in spoilt and shown.keys() & set(target)
        }
        return FrameTruth(self.size, masks, spoilt)

    def _mask(self, annotation: int, rle: Rle, frame: str) -> np.ndarray:
        if rle.size != self.size:
            sizes = " and ".join(f"{width}x{height}" for height, width in (self.size, rle.size))
            raise ValueError(
                f"{self.file}: the masks of video {self.vid} must have the one size of its frames, but are {sizes} "
                f"(that of annotation {annotation} in frame {frame}); {_AGAIN}"
            )
        try:
            return decode(rle)
        except ValueError as error:
            raise ValueError(
                f"{self.where}: the mask of annotation {annotation} in frame {frame} is damaged ({error}); {_AGAIN}"
            ) from error

    def named(self, target: Target) -> dict[str, object]:
        return {"anno_id": list(target)}
