"""MeViS: an expression may mean several objects; masks are run-length encoded in one large file for each split.

The splits that have masks are ``train`` and ``valid_u``; those of ``valid`` are with the challenge's server.

Version 2 (arXiv 2512.10945) has more expressions of the same videos, and some of them mean no object of their video.
Its lists have names of their own, so both versions may lie in one folder. Its spoken expressions are not read.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets import ytvos
from datasets.base import Expression, FolderVideo, VideoSet
from datasets.ytvos import Layout
from util.files.names import inside
from util.files.reading import read_json, whole_number
from util.masks.rle import Rle, decode, require_size
from util.run.gaps import Gaps
from util.video.pictures import check_size

SPLITS = ("train", "holdout", "valid_u", "valid")


_OPTIONS = "--dataset_file {}; of eval_mevis.py and inference_mevis.py: --mevis_version {}"
_OBJECTS = 'its objects as "anno_id", a list of {}, which mask_dict.json has as keys'


def _are_annotations(value: object) -> bool:
    return isinstance(value, list) and all(type(a) is int and a >= 0 for a in value)


def _object_problem(expression: Mapping) -> str | None:
    named = expression.get("anno_id")
    if named and _are_annotations(named):
        return None
    empty = (
        "" if named not in (None, []) else f" (only in version 2 may there be none: {_OPTIONS.format('mevis_v2', 2)})"
    )
    return _OBJECTS.format("at least one number") + empty


def _object_problem_v2(expression: Mapping) -> str | None:
    """As in version 1, but ``anno_id`` and ``obj_id`` may both be empty or missing: the expression means no object."""
    annotations, objects = expression.get("anno_id"), expression.get("obj_id")
    if annotations is None or annotations == []:
        return None if objects is None or objects == [] else 'its objects as "anno_id" too, as "obj_id" is not empty'
    return None if _are_annotations(annotations) else _OBJECTS.format("numbers, empty where it means no object")


MEVIS = ytvos.Layout(
    "MeViS",
    SPLITS,
    categories=(),
    with_objects=("train", "valid_u"),
    meta="{}/meta_expressions.json",
    object_problem=_object_problem,
)
# Names of the lists: those of train and of valid in the Hugging Face set FudanCVL/MeViSv2 (docs/data.md).
MEVIS_V2 = replace(
    MEVIS,
    name="MeViS version 2",
    meta="{}/meta_expressions_v2.json",
    also=("{}/meta_expressions_v2_release.json",),
    object_problem=_object_problem_v2,
)
LAYOUTS = {"mevis": MEVIS, "mevis_v2": MEVIS_V2}  # by --dataset_file


def _require_version(root: Path, split: str, layout: Layout) -> None:
    """Raises FileNotFoundError where the split has the list of the other version alone."""
    path = layout.meta_path(root, layout.folder(split))
    for version, (name, other) in enumerate(LAYOUTS.items(), 1):
        beside = other.meta_path(root, other.folder(split))
        if other is not layout and beside.is_file() and not path.is_file():
            rename = f"; if it is version 2's, name it {path.name}" if version == 1 else ""
            raise FileNotFoundError(
                f"{path}: this file does not exist. {beside.name} beside it is read as version {version} "
                f"({_OPTIONS.format(name, version)}){rename}; {layout.see}"
            )


def masks_path(root: Path, split: str) -> Path:
    """The file with the masks of a split."""
    return root / MEVIS.folder(split) / "mask_dict.json"


class _Place(int):
    """Place of a mask in the tensors. It has a type of its own, so that no number of the file is taken for it."""


class MaskStore:
    """The masks of a ``mask_dict.json``: for each annotation a mask of every frame, None where it has no pixel.

    The file is parsed once into a few tensors, whose memory all data loading processes share. Python objects would be
    copied, also by forked processes, which write to their reference counts.

    Args:
        gaps: takes annotations of another form than documented. Without it the first one is an error.

    Raises:
        FileNotFoundError, ValueError: naming the file and the annotation.
    """

    def __init__(self, path: Path, gaps: Gaps | None = None) -> None:
        gaps = gaps or Gaps(strict=True)
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the masks' file does not exist; {MEVIS.see}")
        counts, ends, sizes = bytearray(), array("q", [0]), array("i")

        def keep(content: dict) -> dict | _Place:
            size, code = content.get("size"), content.get("counts")
            if not isinstance(code, str) or not code.isascii() or not _is_size(size):
                return content
            counts.extend(code.encode("ascii"))
            ends.append(len(counts))
            sizes.extend(size)
            return _Place(len(ends) - 2)

        try:
            content = read_json(path, keep)
        except ValueError as error:
            raise MEVIS.bad(path, f"is not a JSON file ({error}); download it again") from error
        if not isinstance(content, dict):
            raise MEVIS.bad(path, "must hold {annotation: [mask of each frame, or null]}")
        places = array("q")
        self._spans: dict[int, tuple[int, int]] = {}
        for name, masks in content.items():
            wrong = self._problem(name, masks)
            if wrong:
                gaps.add(f"annotation {name}", MEVIS.bad(path, f"annotation {name} {wrong}"))
                continue
            self._spans[int(name)] = (len(places), len(masks))
            places.extend(-1 if mask is None else mask for mask in masks)
        self._counts = torch.from_numpy(np.frombuffer(counts, np.uint8))
        self._ends, self._places = (torch.from_numpy(np.frombuffer(a, np.int64)) for a in (ends, places))
        self._sizes = torch.from_numpy(np.frombuffer(sizes, np.int32)).view(-1, 2)

    @staticmethod
    def _problem(name: str, masks: object) -> str | None:
        if whole_number(name) is None:
            return "is not a number"
        if not isinstance(masks, list):
            return "must be a list with a mask of each frame"
        for t, mask in enumerate(masks):
            if mask is not None and not isinstance(mask, _Place):
                return f'must have, as the mask of frame {t}, null or {{"size": [height, width], "counts": text}}'
        return None

    def __iter__(self) -> Iterator[int]:
        """The annotations."""
        return iter(self._spans)

    def __contains__(self, annotation: object) -> bool:
        return annotation in self._spans

    def frames(self, annotation: int) -> int:
        """Number of frames for which an annotation has a mask or null."""
        return self._spans[annotation][1]

    def mask(self, annotation: int, t: int) -> Rle | None:
        """The mask of an annotation in a frame."""
        start, _ = self._spans[annotation]
        place = int(self._places[start + t])
        if place < 0:
            return None
        begin, end = self._ends[place : place + 2].tolist()
        height, width = self._sizes[place].tolist()
        return Rle((height, width), self._counts[begin:end].numpy().tobytes())

    def __getitem__(self, annotation: int) -> list[Rle | None]:
        """The masks of an annotation in all frames."""
        return [self.mask(annotation, t) for t in range(self.frames(annotation))]


def _is_size(size: object) -> bool:
    try:
        require_size(size)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class RleVideo(FolderVideo):
    """A video in the form of MeViS: pictures, and masks in the file of its split.

    Attributes:
        store: the masks of the split; ``Expression.objects`` are annotations in it.
    """

    store: MaskStore = field(repr=False, compare=False)

    def masks(self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], size: tuple[int, int]) -> Tensor:
        masks = np.zeros((len(positions), len(objects), *size), np.uint8)
        decoded: dict[tuple[int, int], np.ndarray | None] = {}
        for t, position in enumerate(positions):
            for e, numbers in enumerate(objects):
                for annotation in numbers:
                    key = (annotation, position)
                    if key not in decoded:
                        decoded[key] = self._mask(annotation, position, size)
                    if decoded[key] is not None:
                        masks[t, e] |= decoded[key]
        return torch.from_numpy(masks)

    def _mask(self, annotation: int, position: int, size: tuple[int, int]) -> np.ndarray | None:
        rle = self.store.mask(annotation, position)
        if rle is None:
            return None
        where = f"{self.store.path}: annotation {annotation}, frame {self.frame_ids[position]} of {self.video_id}"
        check_size(where, rle.size, size, "its frame", [self.frame_path(position)])
        try:
            return decode(rle)
        except ValueError as error:
            raise ValueError(f"{where}: the mask is damaged ({error}); download the file again; {MEVIS.see}") from error

    def where(self) -> str:
        return f"{self.store.path}, video {self.video_id}"


def split_videos(
    root: Path, split: str, holdout: int = 0, gaps: Gaps | None = None, layout: Layout = MEVIS
) -> dict[str, dict]:
    """The meta_expressions entries of a split; see :func:`ytvos.split_videos`. ``layout``: that of the version."""
    _require_version(root, split, layout)
    return ytvos.split_videos(root, split, holdout, layout, gaps)


def annotations_of(expression: Mapping) -> tuple[int, ...]:
    """The annotations that an expression of meta_expressions means, as keys of the masks; in version 2 maybe none."""
    return tuple(sorted(set(expression.get("anno_id") or ())))


def check_annotations(store: MaskStore, vid: str, exp_id: str, annotations: Iterable[int], frames: int) -> None:
    """Raises ValueError unless the store has every annotation that an expression names, for every frame."""
    for annotation in annotations:
        if annotation not in store:
            problem = f"there is no annotation {annotation}, which expression {exp_id} of video {vid} means"
        elif store.frames(annotation) < frames:
            problem = (
                f"annotation {annotation} has masks for {store.frames(annotation)} frames, but video {vid}, of which "
                f"it is, has {frames}"
            )
        else:
            continue
        raise MEVIS.bad(store.path, f"{problem}; download this file and meta_expressions.json again")


def read_masks(root: Path, split: str, videos: Mapping[str, dict]) -> MaskStore:
    """The masks of a split; raises where an annotation of these videos' expressions is missing.

    Raises FileNotFoundError or ValueError, naming the file, the annotation and the mend.
    """
    store = MaskStore(masks_path(root, split))
    for vid, video in videos.items():
        for exp_id, expression in video["expressions"].items():
            check_annotations(store, vid, exp_id, annotations_of(expression), len(video["frames"]))
    return store


def train_videos(root: Path, holdout: int, layout: Layout = MEVIS) -> list[RleVideo]:
    """Index of the training videos; every label is 0. Raises as :func:`split_videos` and :func:`read_masks`."""
    videos = split_videos(root, "train", holdout, layout=layout)
    store = read_masks(root, "train", videos)
    frames = ytvos.frame_files(ytvos.frames_root(root, "train", layout), videos)
    return [
        RleVideo(
            video_id=name,
            frame_ids=tuple(entry["frames"]),
            frame_dir=inside(ytvos.frames_root(root, "train", layout), name),
            frame_files=frames[name],
            expressions=tuple(
                Expression(exp_id, expression["exp"], annotations_of(expression), label=0)
                for exp_id, expression in entry["expressions"].items()
            ),
            store=store,
        )
        for name, entry in videos.items()
    ]


def eval_videos(root: Path, split: str, holdout: int, gaps: Gaps | None = None, layout: Layout = MEVIS) -> VideoSet:
    """The videos of a split for inference. Raises as :func:`split_videos` and :func:`ytvos.eval_videos`."""
    _require_version(root, split, layout)
    return ytvos.eval_videos(root, split, holdout, layout, gaps)
