"""From an index entry to a sample: index → decode → sample → transform → target, shared by all data sets."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.samplers import ClipRequest
from datasets.sampling import draw_group, draw_window, group_count, stream, window_starts
from datasets.transforms import TrainTransform
from datasets.video_io import image_size, read_frames, read_label_maps, read_labels
from util.box_ops import masks_to_boxes
from util.structures import Clip, Target

# Random streams of a sample: its own choices, those it shares with its step, the grouping of a window's expressions.
_OWN, _SHARED, _GROUPING = range(3)


@dataclass(frozen=True)
class Expression:
    """One expression about one object of a training video.

    Attributes:
        exp_id: key of the expression in its video.
        text: the expression.
        object_id: pixel value of the object in the masks.
        label: class index of the object.
    """

    exp_id: str
    text: str
    object_id: int
    label: int


@dataclass(frozen=True)
class TrainVideo:
    """A video with masks and expressions.

    Attributes:
        video_id: its name.
        frame_ids: names of its annotated frames, in order.
        frame_dir, mask_dir: folders that hold ``<frame_id>.jpg`` and ``<frame_id>.png``.
        expressions: at least one.
    """

    video_id: str
    frame_ids: tuple[str, ...]
    frame_dir: Path
    mask_dir: Path
    expressions: tuple[Expression, ...]


@dataclass(frozen=True)
class VideoEntry:
    """A video to run inference on.

    Attributes:
        video_id: its name.
        frame_names: names of its frames, in order.
        frame_paths: their files.
        expressions: text of each expression id.
    """

    video_id: str
    frame_names: tuple[str, ...]
    frame_paths: tuple[Path, ...]
    expressions: dict[str, str]

    @cached_property
    def original_size(self) -> tuple[int, int]:
        """Height and width of the frames on disk."""
        return image_size(self.frame_paths[0])

    def read(self, frames: slice | Sequence[int]) -> Tensor:
        """Decodes some frames: uint8 RGB ``[T, 3, H, W]``. A missing or damaged file is named in the error."""
        paths = self.frame_paths[frames] if isinstance(frames, slice) else [self.frame_paths[i] for i in frames]
        return read_frames(paths)


VideoSet = list[VideoEntry]


class ClipDataset(Dataset):
    """Training clips: for every window of every video one entry for each group of expressions.

    With ``expressions_per_clip`` = 1 this is ReferFormer's index, an entry for each (expression, window). Above 1 the
    expressions of a window are shuffled into groups anew in each epoch, each occurring once; those of a group share
    one decoded and transformed clip.

    Args:
        videos: the index.
        num_frames: frames of a clip.
        expressions_per_clip: most expressions of a clip.
        transform: augmentation.
        seed: of the run; with a :class:`ClipRequest` it determines a sample, whichever process makes it.
    """

    def __init__(
        self,
        videos: Sequence[TrainVideo],
        *,
        num_frames: int,
        expressions_per_clip: int,
        transform: TrainTransform,
        seed: int,
    ) -> None:
        self.videos = list(videos)
        self.num_frames = num_frames
        self.expressions_per_clip = expressions_per_clip
        self.transform = transform
        self.seed = seed
        # An array rather than tuples: worker processes then share its memory.
        self.entries = np.array(
            [
                (number, start, group)
                for number, video in enumerate(self.videos)
                for start in window_starts(num_frames, len(video.frame_ids))
                for group in range(group_count(len(video.expressions), expressions_per_clip))
            ]
        )
        self._found_objects: set[tuple[int, int]] = set()

    def __len__(self) -> int:
        return len(self.entries)

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each entry's frames on disk, from the header of its video's first frame."""
        first = [video.frame_dir / f"{video.frame_ids[0]}.jpg" for video in self.videos]
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(image_size, first)
            sizes = list(tqdm(found, "frame sizes", len(first), unit="video", disable=None, delay=1))
        return [sizes[number] for number in self.entries[:, 0]]

    def decode(self, video: TrainVideo, positions: list[int]) -> tuple[Tensor, Tensor]:
        """uint8 frames ``[T, 3, H, W]`` and object ids ``[T, 1, H, W]`` at these positions of the video."""
        names = [video.frame_ids[p] for p in positions]
        frames = read_frames([video.frame_dir / f"{name}.jpg" for name in names])
        size = (frames.shape[-2], frames.shape[-1])
        return frames, read_label_maps([video.mask_dir / f"{name}.png" for name in names], size)

    def _require_object(self, number: int, expression: Expression) -> None:
        """Raises ValueError where no mask of the whole video holds the object; absence from a clip is ordinary."""
        if (number, expression.object_id) in self._found_objects:
            return
        video = self.videos[number]
        masks = (read_labels(video.mask_dir / f"{name}.png") for name in video.frame_ids)
        if not any((mask == expression.object_id).any() for mask in masks):
            raise ValueError(
                f"{video.mask_dir}: no mask of this video has a pixel of value {expression.object_id}, the object of "
                f"expression {expression.exp_id} ({expression.text!r}); correct its obj_id or restore the masks"
            )
        self._found_objects.add((number, expression.object_id))

    def __getitem__(self, request: ClipRequest) -> Clip:
        number, start, group = (int(value) for value in self.entries[request.index])
        video = self.videos[number]
        own = stream(self.seed, request.epoch, _OWN, request.index)
        shared = stream(self.seed, request.epoch, _SHARED, request.step)
        grouping = stream(self.seed, request.epoch, _GROUPING, number, start)

        positions = draw_window(start, self.num_frames, len(video.frame_ids), own)
        chosen = draw_group(len(video.expressions), self.expressions_per_clip, group, grouping)
        expressions = [video.expressions[i] for i in chosen]
        frames, labels = self.decode(video, positions)
        original_size = (frames.shape[-2], frames.shape[-1])
        frames, labels, texts = self.transform(frames, labels, [e.text for e in expressions], shared, own)
        targets = [make_target(labels, expression, video.video_id) for expression in expressions]
        for expression, target in zip(expressions, targets, strict=True):
            if not target.present.any():
                self._require_object(number, expression)
        return Clip(
            frames=frames,
            expressions=texts,
            targets=targets,
            video_id=video.video_id,
            frame_ids=[video.frame_ids[p] for p in positions],
            original_size=original_size,
        )


def make_target(labels: Tensor, expression: Expression, video_id: str) -> Target:
    """Ground truth of an expression from object ids ``[T, 1, H, W]`` of a clip whose frames are all annotated."""
    masks = labels == expression.object_id
    return Target(
        masks=masks,
        boxes=masks_to_boxes(masks),
        labels=torch.tensor([expression.label]),
        present=masks.flatten(2).any(-1),
        annotated=torch.ones(len(masks), dtype=torch.bool),
        identity=f"{video_id}/{expression.object_id}",
    )
