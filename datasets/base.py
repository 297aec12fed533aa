"""From an index entry to a sample: index → decode → sample → transform → target, shared by all data sets."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from datasets.samplers import ClipRequest
from datasets.sampling import draw_group, draw_window, group_count, moved_onto, stream, window_starts
from datasets.transforms import TrainTransform
from util.masks.box_ops import masks_to_boxes
from util.samples.structures import Clip, Target
from util.samples.text import in_form
from util.video.pictures import check_size, image_size, read_frames, read_label_maps

# Random streams of a sample: its own choices, those it shares with its step, the grouping of a window's expressions.
_OWN, _SHARED, _GROUPING, _SUBSTITUTE, _ABSENT = range(5)
MAX_SUBSTITUTES = 10  # tries to replace a clip whose files are damaged
MAX_DRAWS = 200  # tries until a clip shows an object; if one clip in twenty does, all tries fail once in 30,000 times


@dataclass(frozen=True)
class Expression:
    """One expression of a training video.

    Attributes:
        exp_id: key of the expression in its video.
        text: the expression.
        objects: numbers, in the masks of the video, of the objects that it means. In MeViS these may be several. There
            are none where it means nothing in the video: the expression is then trained as absent.
        label: class index.
        category: name of the object's category, where it is known.
    """

    exp_id: str
    text: str
    objects: tuple[int, ...]
    label: int
    category: str | None = None


@dataclass(frozen=True)
class TrainVideo(ABC):
    """A video with masks and expressions. A data set adds the reading of its frames and masks.

    Attributes:
        video_id: its name.
        frame_ids: names of the frames that clips are made of, in order.
        expressions: at least one.
        absent: texts that mean nothing in the video, which its data set lists beside its expressions.
        categories: of all its objects, also of those that no expression means; empty where they are not known.
    """

    video_id: str
    frame_ids: tuple[str, ...]
    expressions: tuple[Expression, ...]
    absent: tuple[str, ...] = field(default=(), kw_only=True)
    categories: frozenset[str] = field(default=frozenset(), kw_only=True)

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """Height and width of the frames on disk, without decoding them."""

    @abstractmethod
    def frames(self, positions: Sequence[int]) -> Tensor:
        """uint8 RGB ``[T, 3, H, W]`` at these positions in ``frame_ids``."""

    @abstractmethod
    def masks(self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], size: tuple[int, int]) -> Tensor:
        """uint8 ``[T, E, H, W]``, 1 where any of ``objects[e]`` is; nowhere, where it names none.

        Raises ValueError for masks of another size than ``size`` (height, width), that of their frames.
        """

    @abstractmethod
    def where(self) -> str:
        """The file or folder of the masks, for messages."""

    def window_starts(self, num_frames: int) -> Sequence[int]:
        """First frames of the clips of an epoch, before :meth:`draw_positions` moves them."""
        return window_starts(num_frames, len(self.frame_ids))

    def draw_positions(self, start: int, num_frames: int, rng: np.random.Generator) -> list[int]:
        """Positions of the frames of a clip."""
        return draw_window(start, num_frames, len(self.frame_ids), rng)

    def annotated(self, positions: Sequence[int]) -> Tensor:
        """bool ``[T]``, the frames with ground truth."""
        return torch.ones(len(positions), dtype=torch.bool)

    def clip(
        self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        """Frames and masks at these positions, as :meth:`frames` and :meth:`masks`."""
        frames = self.frames(positions)
        return frames, self.masks(positions, objects, (frames.shape[-2], frames.shape[-1]))

    def shows(self, objects: tuple[int, ...]) -> bool:
        """Whether any mask of the whole video has any of the objects."""
        return any(self.masks([t], [objects], self.size()).any() for t in range(len(self.frame_ids)))


@dataclass(frozen=True)
class FolderVideo(TrainVideo):
    """A video whose frames are pictures in a folder.

    Attributes:
        frame_dir: the folder.
        frame_files: the name of each frame's file in it.
    """

    frame_dir: Path
    frame_files: tuple[str, ...]

    def frame_path(self, position: int) -> Path:
        return self.frame_dir / self.frame_files[position]

    def size(self) -> tuple[int, int]:
        return image_size(self.frame_path(0))

    def frames(self, positions: Sequence[int]) -> Tensor:
        return read_frames([self.frame_path(p) for p in positions])


@dataclass(frozen=True)
class LabelMapVideo(FolderVideo):
    """A video in the form of YouTube-VOS and DAVIS: its masks are PNGs whose pixel value is the object's number.

    Attributes:
        mask_dir: their folder.
        mask_files: file name of each frame's mask; None for a frame without a mask, which is not supervised.
    """

    mask_dir: Path
    mask_files: tuple[str | None, ...]

    def draw_positions(self, start: int, num_frames: int, rng: np.random.Generator) -> list[int]:
        drawn = super().draw_positions(start, num_frames, rng)
        return moved_onto(drawn, [p for p, file in enumerate(self.mask_files) if file], len(self.frame_ids))

    def annotated(self, positions: Sequence[int]) -> Tensor:
        return torch.tensor([self.mask_files[p] is not None for p in positions])

    def shows(self, objects: tuple[int, ...]) -> bool:
        size, having = self.size(), (p for p, file in enumerate(self.mask_files) if file)
        return any(self.masks([p], [objects], size).any() for p in having)

    def masks(self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], size: tuple[int, int]) -> Tensor:
        files = [self.mask_files[p] for p in positions]
        paths = [file and self.mask_dir / file for file in files]
        labels = read_label_maps(paths, size, [self.frame_path(p) for p in positions])
        return torch.cat([_where_any(labels, of) for of in objects], dim=1).byte()

    def where(self) -> str:
        return str(self.mask_dir)


def _where_any(labels: Tensor, numbers: Sequence[int]) -> Tensor:
    """Where labels have one of the numbers. Comparing with one at a time is much faster than torch.isin."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for number in numbers:
        found |= labels == number
    return found


class Unreadable(ValueError):
    """The frames of a video are missing or damaged, or of several sizes; the message names the file."""


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

    def __len__(self) -> int:
        """Frames."""
        return len(self.frame_names)

    def read(self, frames: slice | Sequence[int]) -> Tensor:
        """Decodes some frames: uint8 RGB ``[T, 3, H, W]``. Raises :class:`Unreadable`."""
        paths = self.frame_paths[frames] if isinstance(frames, slice) else [self.frame_paths[i] for i in frames]
        try:
            read = read_frames(paths)
            first = self.frame_paths[0].name
            check_size(paths[0], read.shape[-2:], self.original_size, f"the frame {first} of its video")
        except (ValueError, OSError) as error:
            raise Unreadable(str(error)) from error
        return read


VideoSet = list[VideoEntry]


@dataclass(frozen=True)
class EvalClip(ABC):
    """A clip of which one frame has ground truth and is scored: A2D, JHMDB, and images.

    Attributes:
        clip_id: names it in messages and results.
        expressions: text of each sample; the key is the sample's image id in the COCO-format ground truth.
        scored: position in the clip of the frame that is scored.
    """

    clip_id: str
    expressions: dict[str | int, str]
    scored: int

    @abstractmethod
    def read(self) -> Tensor:
        """Decodes the frames: uint8 RGB ``[T, 3, H, W]``. A missing or damaged file is named in the error."""


class ClipDataset(Dataset):
    """Training clips: for every window of every video one entry for each group of expressions.

    With ``expressions_per_clip`` = 1 this is ReferFormer's index, an entry for each (expression, window). Above 1, each
    epoch shuffles the expressions of a window into groups; the expressions of a group share one decoded and transformed
    clip.

    Args:
        videos: the index.
        num_frames: frames of a clip.
        expressions_per_clip: most expressions of a clip.
        transform: augmentation.
        seed: of the run; with a :class:`ClipRequest` it determines a sample, whichever process makes it.
        bad_sample: "fail", or "skip" to replace a clip with damaged files by another clip.
        absent_object: what to do with an expression whose object no frame of the clip shows. "keep" trains the object
            as absent. "replace" leaves the expression out, and takes another clip of the whole set if no expression is
            left (``__getitem__`` of ReferFormer's datasets/ytvos.py). Expressions that mean no object stay.
        absent: share of the expressions that are replaced by a text that means nothing in the video.
        draw_absent: gives such a text; None where none is known, and the expression stays.
        text_form: of the expressions, see :func:`util.samples.text.in_form`.
    """

    def __init__(
        self,
        videos: Sequence[TrainVideo],
        *,
        num_frames: int,
        expressions_per_clip: int,
        transform: TrainTransform,
        seed: int,
        bad_sample: str = "fail",
        absent_object: str = "keep",
        absent: float = 0.0,
        draw_absent: Callable[[TrainVideo, np.random.Generator], str | None] = lambda video, rng: None,
        text_form: str = "clean",
    ) -> None:
        self.videos = list(videos)
        self.num_frames = num_frames
        self.expressions_per_clip = expressions_per_clip
        self.transform = transform
        self.seed = seed
        self.bad_sample = bad_sample
        self.absent_object = absent_object
        self.absent, self.draw_absent = absent, draw_absent
        self.text_form = text_form
        # Worker processes share the memory of an array, and would copy tuples.
        self.entries = np.array(
            [
                (number, start, group)
                for number, video in enumerate(self.videos)
                for start in video.window_starts(num_frames)
                for group in range(group_count(len(video.expressions), expressions_per_clip))
            ]
        )
        self._found_objects: set[tuple[int, tuple[int, ...]]] = set()

    def __len__(self) -> int:
        return len(self.entries)

    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each entry's frames on disk, from the header of its video's first frame.

        With ``bad_sample`` "skip" a video without a readable header gets the commonest size; its clips are replaced
        later.
        """
        errors: list[Exception] = []

        def size(video: TrainVideo) -> tuple[int, int] | None:
            try:
                return video.size()
            except (ValueError, OSError) as error:
                if self.bad_sample == "fail":
                    raise
                errors.append(error)
                return None

        with ThreadPoolExecutor(8) as pool:
            found = pool.map(size, self.videos)
            sizes = list(tqdm(found, "frame sizes", len(self.videos), unit="video", disable=None, delay=1))
        if len(errors) == len(sizes):
            raise errors[0]
        ((commonest, _),) = Counter(filter(None, sizes)).most_common(1)
        return [sizes[number] or commonest for number in self.entries[:, 0]]

    def _require_object(self, number: int, expression: Expression) -> None:
        """Raises ValueError where no mask of the whole video shows the object. Absence from one clip is no error."""
        if not expression.objects or (number, expression.objects) in self._found_objects:
            return
        video = self.videos[number]
        if not video.shows(expression.objects):
            names = ", ".join(map(str, expression.objects))
            raise ValueError(
                f"{video.where()}: no mask of this video shows object {names}, which expression "
                f"{expression.exp_id} ({expression.text!r}) means; correct the expression or restore the masks"
            )
        self._found_objects.add((number, expression.objects))

    def __getitem__(self, request: ClipRequest) -> Clip:
        """The requested clip, or another one where its files are damaged or it shows none of its objects.

        Raises ValueError and OSError as :meth:`make`, and ValueError where no clip is found.
        """
        others = stream(self.seed, request.epoch, _SUBSTITUTE, request.index)
        problems: list[str] = []
        index = request.index
        for _ in range(MAX_DRAWS):
            try:
                clip = self.make(replace(request, index=index))
            except (ValueError, OSError) as error:
                if self.bad_sample == "fail":
                    raise
                problems.append(str(error))
                if len(problems) > MAX_SUBSTITUTES:
                    raise ValueError(
                        f"--bad_sample skip: {len(problems)} clips in a row are no good, the last: {problems[-1]}"
                    ) from error
                clip = None
            if clip:
                return replace(clip, problems=problems)
            index = int(others.integers(len(self)))
        raise ValueError(
            f"{MAX_DRAWS} clips in a row show none of the objects that their expressions mean; check the masks with "
            "tools/data/check.py, or train such clips as they are with --absent_object keep"
        )

    def make(self, request: ClipRequest) -> Clip | None:
        """One clip; None where it shows none of its objects and ``absent_object`` is "replace".

        Raises ValueError and OSError naming a file that is missing, damaged or contradicts the others.
        """
        number, start, group = (int(value) for value in self.entries[request.index])
        video = self.videos[number]
        own = stream(self.seed, request.epoch, _OWN, request.index)
        shared = stream(self.seed, request.epoch, _SHARED, request.step)
        grouping = stream(self.seed, request.epoch, _GROUPING, number, start)

        positions = video.draw_positions(start, self.num_frames, own)
        chosen = draw_group(len(video.expressions), self.expressions_per_clip, group, grouping)
        expressions = self._with_absent(video, [video.expressions[i] for i in chosen], request)
        frames, masks = video.clip(positions, [e.objects for e in expressions], own)
        original_size = (frames.shape[-2], frames.shape[-1])
        texts = [in_form(e.text, self.text_form) for e in expressions]
        frames, masks, texts = self.transform(frames, masks, texts, shared, own)
        annotated = video.annotated(positions)
        targets = [
            make_target(masks[:, e, None], expression, video.video_id, annotated)
            for e, expression in enumerate(expressions)
        ]
        # an expression that means no object is right about any clip
        kept = [not e.objects or bool(target.present.any()) for e, target in zip(expressions, targets, strict=True)]
        for expression in compress(expressions, map(operator.not_, kept)):
            self._require_object(number, expression)
        if self.absent_object == "replace":
            if not any(kept):
                return None
            texts, targets = list(compress(texts, kept)), list(compress(targets, kept))
        return Clip(
            frames=frames,
            expressions=texts,
            targets=targets,
            video_id=video.video_id,
            frame_ids=[video.frame_ids[p] for p in positions],
            original_size=original_size,
        )

    def _with_absent(self, video: TrainVideo, expressions: list[Expression], request: ClipRequest) -> list[Expression]:
        """The expressions, some of which are replaced by texts that mean nothing in the video."""
        if not self.absent:
            return expressions
        rng = stream(self.seed, request.epoch, _ABSENT, request.index)
        replaced = rng.random(len(expressions)) < self.absent
        texts = [self.draw_absent(video, rng) if yes else None for yes in replaced]
        return [
            e if text is None else Expression(exp_id=e.exp_id, text=text, objects=(), label=0)
            for e, text in zip(expressions, texts, strict=True)
        ]


def make_target(masks: Tensor, expression: Expression, video_id: str, annotated: Tensor) -> Target:
    """Ground truth of an expression from its masks, uint8 ``[T, 1, H, W]``; ``annotated`` bool ``[T]``."""
    masks = masks.bool() & annotated[:, None, None, None]
    return Target(
        masks=masks,
        boxes=masks_to_boxes(masks),
        labels=torch.tensor([expression.label]),
        present=masks.flatten(2).any(-1),
        annotated=annotated,
        identity="/".join((video_id, *map(str, expression.objects))),
    )
