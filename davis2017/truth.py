"""Ground truth of a split, wherever it comes from: what an expression means is the union of some objects of its video.

``LabelMaps`` are the PNGs of Ref-YouTube-VOS, ``RleMasks`` the run-length encoded masks of MeViS.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from davis2017.label_maps import LABELS, ids_in, mask_path, read_labels
from util.rle import Rle, decode

# The numbers of the objects that an expression means, in rising order.
Target = tuple[int, ...]
Masks = dict[Target, np.ndarray]


class VideoTruth(ABC):
    """The masks of one video. The process that scores the video gets a copy.

    Attributes:
        where: the file or folder they come from, for messages.
        objects: numbers of the objects seen so far.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.objects: set[int] = set()

    @abstractmethod
    def frame(self, t: int, name: str, targets: Collection[Target], others: bool) -> tuple[tuple[int, int], Masks]:
        """Ground truth of the frame at position ``t``.

        Args:
            name: of the frame.
            targets: what the expressions of the video mean.
            others: also give what targets may be mistaken for.

        Returns:
            Height and width of the frame, and bool ``[H, W]`` of each target that has pixels in it.
        """

    @abstractmethod
    def named(self, target: Target) -> dict[str, object]:
        """How results name a target."""


class Truth(ABC):
    """The masks of a split."""

    @abstractmethod
    def target(self, vid: str, eid: str, expression: Mapping) -> Target:
        """What an expression means; ValueError where it does not say so in the form of the data set."""

    @abstractmethod
    def video(self, vid: str, targets: Iterable[Target]) -> VideoTruth:
        """The masks of a video, with all that is needed for these targets."""


class LabelMaps(Truth):
    """Masks in ``<root>/<video>/<frame>.png``, whose pixel values are object ids.

    An expression names its object as ``obj_id``. It may be mistaken for any other object of the video.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def target(self, vid: str, eid: str, expression: Mapping) -> Target:
        try:
            target = int(expression["obj_id"])
        except KeyError:
            raise ValueError(
                f"video {vid}, expression {eid} has no obj_id: a split without them cannot be scored"
            ) from None
        except (TypeError, ValueError):
            target = 0
        if not 0 < target < LABELS:
            raise ValueError(
                f"video {vid}, expression {eid}: obj_id {expression['obj_id']!r} is no object id (1 to 255)"
            )
        return (target,)

    def video(self, vid: str, targets: Iterable[Target]) -> VideoTruth:
        return _LabelMapVideo(self.root / vid)


class _LabelMapVideo(VideoTruth):
    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder

    def frame(self, t: int, name: str, targets: Collection[Target], others: bool) -> tuple[tuple[int, int], Masks]:
        labels = read_labels(mask_path(self.folder, name))
        ids = ids_in(labels)
        self.objects |= ids
        wanted = {target for target in targets if ids & set(target)} | ({(i,) for i in ids} if others else set())
        return labels.shape, {target: np.isin(labels, target) for target in wanted}

    def named(self, target: Target) -> dict[str, object]:
        return {"obj_id": str(target[0])}


class RleMasks(Truth):
    """Run-length encoded masks, with the annotations of an expression listed as ``anno_id``.

    Expressions may share objects, so one may be mistaken for what another expression of its video means.

    Args:
        where: the file, for messages.
        masks: of each annotation: one of every frame of its video, None where there is nothing.
    """

    def __init__(self, where: Path, masks: Mapping[int, Sequence[Rle | None]]) -> None:
        self.where, self.masks = str(where), masks

    def target(self, vid: str, eid: str, expression: Mapping) -> Target:
        target = tuple(sorted(set(expression.get("anno_id") or ())))
        if not target or not all(annotation in self.masks for annotation in target):
            raise ValueError(
                f"video {vid}, expression {eid}: anno_id {expression.get('anno_id')!r} must be a list of annotations "
                f"of {self.where}"
            )
        return target

    def video(self, vid: str, targets: Iterable[Target]) -> VideoTruth:
        needed = sorted({annotation for target in targets for annotation in target})
        masks = {annotation: list(self.masks[annotation]) for annotation in needed}
        sizes = {rle.size for frames in masks.values() for rle in frames if rle is not None}
        if len(sizes) != 1:
            found = " and ".join(f"{width}x{height}" for height, width in sorted(sizes)) or "missing"
            raise ValueError(
                f"{self.where}: the masks of video {vid} must have the one size of its frames, but are {found}; "
                "download the file again (docs/data.md)"
            )
        return _RleVideo(f"{self.where}, video {vid}", masks, sizes.pop())


class _RleVideo(VideoTruth):
    def __init__(self, where: str, masks: dict[int, list[Rle | None]], size: tuple[int, int]) -> None:
        super().__init__(where)
        self.masks, self.size = masks, size

    def frame(self, t: int, name: str, targets: Collection[Target], others: bool) -> tuple[tuple[int, int], Masks]:
        shown = {
            annotation: self._mask(annotation, frames[t], name)
            for annotation, frames in self.masks.items()
            if frames[t] is not None
        }
        shown = {annotation: mask for annotation, mask in shown.items() if mask.any()}
        self.objects |= shown.keys()
        return self.size, {
            target: np.logical_or.reduce([shown[annotation] for annotation in target if annotation in shown])
            for target in targets
            if shown.keys() & set(target)
        }

    def _mask(self, annotation: int, rle: Rle, frame: str) -> np.ndarray:
        try:
            return decode(rle)
        except ValueError as error:
            raise ValueError(
                f"{self.where}: the mask of annotation {annotation} in frame {frame} is damaged ({error}); download "
                "the file again (docs/data.md)"
            ) from error

    def named(self, target: Target) -> dict[str, object]:
        return {"anno_id": list(target)}
