"""Long-RVOS: videos of a minute, and a folder of masks for each object.

A mask is not zero where the object is, and a frame without a mask does not show it. Every split has masks. Sources:
datasets/long_rvos/long_rvos_dataset.py and eval/eval_long_rvos/ of github.com/iSEE-Laboratory/Long_RVOS.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from datasets import ytvos
from datasets.base import Expression, FolderVideo, VideoSet
from util.files.names import inside
from util.files.reading import shown, whole_number
from util.run.gaps import Gaps
from util.video.pictures import MASK_SUFFIXES, find_files, read_label_maps

SPLITS = ("train", "holdout", "valid", "test")
# values of "type" in the lists, and the names that scores have in the paper
KINDS = {"static": "static", "dynamic": "dynamic", "static+dynamic": "hybrid"}


def _object_problem(expression: Mapping) -> str | None:
    if whole_number(expression.get("obj_id")) is not None:
        return None
    return 'its object as "obj_id", a number, which is also the name of the folder of its masks'


LONG_RVOS = ytvos.Layout(
    "Long-RVOS",
    SPLITS,
    categories=(),
    with_objects=("train", "valid", "test"),
    meta="{}/meta_expressions.json",
    object_problem=_object_problem,
)


def type_problem(expression: Mapping) -> str | None:
    """The fault of the type of an expression of meta_expressions; None where there is none."""
    kind = expression.get("type")
    if isinstance(kind, str) and kind in KINDS:
        return None
    return f'has the "type" {shown(kind)}, which must be {", ".join(KINDS)}'


@dataclass(frozen=True)
class ObjectFolderVideo(FolderVideo):
    """A video in the form of Long-RVOS: pictures, and the masks of each object in a folder of its own.

    Attributes:
        mask_dir: holds a folder for each object, named by its number.
    """

    mask_dir: Path

    def masks(self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], size: tuple[int, int]) -> Tensor:
        frames = [self.frame_path(p) for p in positions]
        found = {}
        for number in {number for of in objects for number in of}:
            files = self._files(number, positions)
            paths = [files.get(self.frame_ids[p]) for p in positions]
            found[number] = read_label_maps(paths, size, frames) != 0
        return torch.cat([torch.stack([found[number] for number in of]).any(0) for of in objects], dim=1).byte()

    def _files(self, number: int, positions: Sequence[int]) -> dict[str, Path]:
        """The masks of an object, by frame; the object is absent from frames without one."""
        folder = inside(self.mask_dir, str(number))
        # looked for when they are needed: Long-RVOS has two million of them, which no index needs to hold
        files = find_files(folder, {self.frame_ids[p] for p in positions}, MASK_SUFFIXES)
        return {frame: inside(folder, file) for frame, file in files.items()}

    def shows(self, objects: tuple[int, ...]) -> bool:
        every, size = range(len(self.frame_ids)), self.size()
        having = set().union(*(self._files(number, every) for number in objects))
        return any(self.masks([p], [objects], size).any() for p in every if self.frame_ids[p] in having)

    def where(self) -> str:
        return str(self.mask_dir)


def split_videos(root: Path, split: str, holdout: int = 0, gaps: Gaps | None = None) -> dict[str, dict]:
    """The meta_expressions entries of a split; see :func:`ytvos.split_videos`."""
    return ytvos.split_videos(root, split, holdout, LONG_RVOS, gaps)


def frames_root(root: Path, split: str) -> Path:
    """Folder that holds a folder of pictures for each video of the split."""
    return ytvos.frames_root(root, split, LONG_RVOS)


def annotations_root(root: Path, split: str) -> Path:
    """Folder that holds for each video of the split a folder with the objects' folders of masks."""
    return ytvos.annotations_root(root, split, LONG_RVOS)


def object_of(expression: Mapping) -> int:
    """The object that an expression of meta_expressions means."""
    return int(expression["obj_id"])


def check_object(annotations: Path, vid: str, exp_id: str, expression: Mapping) -> None:
    """Raises FileNotFoundError unless the object of an expression has a folder of masks."""
    folder = inside(annotations, vid, str(object_of(expression)))
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: there is no such folder of masks of the object that expression {exp_id} of video {vid} means; "
            f"unpack the masks of the split again; {LONG_RVOS.see}"
        )


def train_videos(root: Path, holdout: int) -> list[ObjectFolderVideo]:
    """Index of the training videos; every label is 0. Raises as :func:`split_videos` and :func:`check_object`."""
    videos = split_videos(root, "train", holdout)
    frames, annotations = frames_root(root, "train"), annotations_root(root, "train")
    for name, entry in videos.items():
        for exp_id, expression in entry["expressions"].items():
            check_object(annotations, name, exp_id, expression)
    files = ytvos.frame_files(frames, videos)
    return [
        ObjectFolderVideo(
            video_id=name,
            frame_ids=tuple(entry["frames"]),
            frame_dir=inside(frames, name),
            frame_files=files[name],
            mask_dir=inside(annotations, name),
            expressions=tuple(
                Expression(exp_id, expression["exp"], (object_of(expression),), label=0)
                for exp_id, expression in entry["expressions"].items()
            ),
        )
        for name, entry in videos.items()
    ]


def eval_videos(root: Path, split: str, holdout: int, gaps: Gaps | None = None) -> VideoSet:
    """The videos of a split for inference. Raises as :func:`ytvos.eval_videos`."""
    return ytvos.eval_videos(root, split, holdout, LONG_RVOS, gaps)
