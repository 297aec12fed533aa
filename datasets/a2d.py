"""A2D-Sentences: its folders, its lists, the masks of a frame. Clips are read from mp4 files.

Frames are numbered from 1 in the lists and in the names of the masks, from 0 in :class:`util.video.video_io.VideoFile`.
Always binary.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from datasets.base import EvalClip, Expression, TrainVideo
from datasets.sampling import centred_window, place_in_window
from datasets.sentences import Sentences
from util.files.matlab import read_h5
from util.files.names import inside, name_fault
from util.files.reading import FileWarnings, encoding_of, shown, whole_number
from util.masks.coco import Truth, nearest
from util.run.gaps import Gaps
from util.samples.text import in_form, is_empty
from util.video.video_io import VideoFile

SPLITS = ("train", "test")
SET = Sentences(title="A2D-Sentences", flag="--a2d_path", name="a2d")
# the one wrong row of a2d_annotation.txt, of video T6bNPuKV-wY
_WRONG_INSTANCE = "1 (copy)"
_FORM = "[query, video, frame, instance]"
_MOST_NUMBERS = 2**16  # bytes of the numbers of a frame's instances, of which it has ten at most


@dataclass(frozen=True)
class Sample:
    """A sentence about an instance in one annotated frame, numbered from 1."""

    query: str
    video: str
    frame: int
    instance: int

    @property
    def image_id(self) -> str:
        return f"v_{self.video}_f_{self.frame}_i_{self.instance}"


def list_path(root: Path, split: str) -> Path:
    """The samples of a split, as JSON rows ``[query, video, frame, instance]``."""
    return root / f"a2d_sentences_single_frame_{split}_annotations.json"


def truth_path(root: Path) -> Path:
    """The ground truth of the split ``test``, in COCO's form."""
    return root / "a2d_sentences_test_annotations_in_coco_format.json"


def sentences_path(root: Path) -> Path:
    """The published file of sentences, from which the lists are made."""
    return root / "text_annotations" / "a2d_annotation.txt"


def clips_root(root: Path) -> Path:
    """Folder of the mp4 files, under either of the names in which copies of the data set have it."""
    folders = [root / "Release" / name for name in ("clips320H", "CLIPS320")]
    for folder in folders:
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{folders[0]}: there is neither this folder nor {folders[1].name} beside it; {SET.see}")


def masks_root(root: Path) -> Path:
    """Folder that holds a folder of h5 files for each video."""
    return root / "text_annotations" / "a2d_annotation_with_instances"


def mask_path(root: Path, video: str, frame: int) -> Path:
    """The masks of a frame, numbered from 1."""
    return inside(masks_root(root), video, f"{frame:05d}.h5")


# ------------------------------------------------------------------------------------------------------------- masks


def _read_h5(path: Path, with_masks: bool) -> tuple[list[int], np.ndarray | None]:
    """Instance numbers, and the array of their masks as the file has it."""
    SET.require(path, "the file of this frame's masks")
    try:
        with h5py.File(path, "r") as file:
            numbers = [float(i) for i in np.ravel(read_h5(file, "instance", _MOST_NUMBERS))]
            if not all(number.is_integer() and number >= 0 for number in numbers):
                raise ValueError("its instances are no whole numbers")
            return list(map(int, numbers)), read_h5(file, "reMask") if with_masks else None
    # h5py's errors on damaged files are of many kinds
    except Exception as error:
        raise SET.bad(path, f'cannot be read as h5 with "instance" and "reMask" ({error})') from error


def read_instances(path: Path) -> list[int]:
    """Numbers of the instances that the masks of a frame have. Raises FileNotFoundError or ValueError."""
    return _read_h5(path, with_masks=False)[0]


def read_masks(path: Path, instances: Sequence[int]) -> np.ndarray:
    """uint8 ``[n, H, W]``, 1 where each of these instances is.

    The file holds masks transposed, as MATLAB writes arrays, and without the leading axis for a single instance. Masks
    beyond the list of instances are ignored, as in MTTR and ReferFormer, which look masks up by this list.
    Raises FileNotFoundError or ValueError, also for an instance that the frame lacks.
    """
    present, masks = _read_h5(path, with_masks=True)
    if len(present) == 1 and masks.ndim == 2:
        masks = masks[None]
    if masks.ndim != 3 or len(masks) < len(present) or 0 in masks.shape[1:]:
        raise SET.bad(path, f"has {len(present)} instances, but masks of shape {list(masks.shape)}")
    absent = [i for i in instances if i not in present]
    if absent:
        raise SET.bad(
            path,
            f"has no instance {absent[0]}, which the list of samples names; make the lists anew with "
            "tools/data/make_sentences_annotations.py --overwrite",
        )
    chosen = masks[[present.index(i) for i in instances]]
    return (chosen.transpose(0, 2, 1) > 0).astype(np.uint8)


_RESIZED = FileWarnings("they are resized")


def fitted(path: Path, masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks ``[n, h, w]`` of a file, resized to the ``size`` (height, width) of their frame with a warning.

    ReferFormer never compares the two: it stretches both to the size of its input, masks by nearest neighbours
    (`resize` in datasets/transforms_video.py of github.com/wjn922/ReferFormer).

    Raises ValueError for transposed masks, from a file whose axes are in another order than MATLAB's.
    """
    if masks.shape[1:] == tuple(size):
        return masks
    shapes = f"its masks are {masks.shape[2]}x{masks.shape[1]} pixels, but the video is {size[1]}x{size[0]}"
    if masks.shape[1:] == (size[1], size[0]):
        raise SET.bad(path, shapes)
    _RESIZED.add(path, shapes)
    return nearest(masks, size)


# ----------------------------------------------------------------------------------------------------------- samples


def read_samples(root: Path, split: str, gaps: Gaps | None = None) -> list[Sample]:
    """The samples of ``train`` or ``test``, from the list that was downloaded or made.

    Args:
        gaps: takes samples without a sentence. Without it the first one is an error.

    Raises:
        FileNotFoundError, ValueError: naming the file, the row and the mend.
    """
    path = list_path(root, split)
    SET.require_made(root, path, "the list of samples")
    gaps, samples = gaps or Gaps(strict=True), []
    for number, (query, video, *numbers) in enumerate(SET.read_rows(path, 4, _FORM), 1):
        frame, instance = map(whole_number, numbers)
        wrong = SET.bad(path, f"row {number} must be {_FORM}, with a sentence, a video and a frame from 1")
        if not isinstance(query, str) or not isinstance(video, str) or not frame:
            raise wrong
        if instance is None:
            raise SET.bad(path, f"row {number}: instance {shown(numbers[1])} is not a number")
        _check_video(path, number, video)
        sample = Sample(query, video, frame, instance)
        if is_empty(query):
            gaps.add(f"sample {sample.image_id}", wrong, on_all_ranks=True)
            continue
        samples.append(sample)
    SET.require_new(path, (sample.image_id for sample in samples))
    return samples


def _check_video(path: Path, row: int, video: str) -> None:
    """Raises ValueError for the name of a video from which no path may be made."""
    if fault := name_fault(video):
        raise SET.bad(path, f"row {row}: the video {fault}")


def _read_csv(path: Path, what: str) -> dict[int, list[str]]:
    """The rows of a text file that are not empty, by their number from 1."""
    SET.require(path, what)
    try:
        # spreadsheets put a mark before the first row
        with path.open(newline="", encoding=encoding_of(path)) as file:
            return {number: row for number, row in enumerate(csv.reader(file), 1) if row}
    except (UnicodeError, csv.Error) as error:
        raise SET.bad(path, f"cannot be read as comma-separated UTF-8 text ({error})") from error


def read_subsets(root: Path) -> dict[str, str | None]:
    """Split of each video of videoset.csv; None of missed ones, which have no annotation.

    Raises as :func:`read_raw`.
    """
    missed_path = root / "text_annotations" / "a2d_missed_videos.txt"
    missed = {row[0].strip() for row in _read_csv(missed_path, "the list of videos without annotation").values()}
    path = root / "Release" / "videoset.csv"
    splits: dict[str, str | None] = {}
    for number, row in _read_csv(path, "the list of videos").items():
        if len(row) < 2 or row[-1].strip() not in ("0", "1"):
            raise SET.bad(path, f"row {number} must begin with a video and end in 0 (train) or 1 (test)")
        video = row[0].strip()
        _check_video(path, number, video)
        splits[video] = None if video in missed else SPLITS[int(row[-1])]
    return splits


def _read_sentences(path: Path) -> dict[str, list[tuple[int, str]]]:
    """Instance and sentence of each row of a2d_annotation.txt, by video."""
    rows = _read_csv(path, "the file of sentences")
    columns, names = rows.pop(1, []), ("video_id", "instance_id", "query")
    if not set(names) <= set(columns):
        raise SET.bad(path, "its first row must name the columns video_id,instance_id,query")
    sentences: dict[str, list[tuple[int, str]]] = {}
    first: dict[tuple[str, int], int] = {}
    for number, row in rows.items():
        cells = dict(zip(columns, row, strict=False))
        video, instance_id, query = (cells.get(name, "") for name in names)
        if instance_id == _WRONG_INSTANCE:
            continue
        instance = whole_number(instance_id.strip())
        if not video or instance is None or is_empty(query):
            raise SET.bad(path, f"row {number} must hold a video, the number of an instance and a sentence")
        _check_video(path, number, video)
        # Video, frame and instance name a sample, so two sentences about one instance could not be scored separately.
        if first.setdefault((video, instance), number) != number:
            raise SET.bad(
                path,
                f"rows {first[video, instance]} and {number} are both about instance {instance} of video {video}, but "
                "an instance has one sentence; delete one of the rows",
            )
        sentences.setdefault(video, []).append((instance, query))
    return sentences


@dataclass(frozen=True)
class RawVideo:
    """A video of the original files: its sentences as (instance, text), and its split."""

    video: str
    split: str
    sentences: tuple[tuple[int, str], ...]

    def samples(self, root: Path) -> list[Sample]:
        """A sample for each sentence and each annotated frame that has its instance; other frames are skipped.

        A video without a folder of masks has no samples, as in MTTR's datasets/a2d_sentences/a2d_sentences_dataset.py.
        """
        SET.require(masks_root(root), "the folder of masks")
        folder = inside(masks_root(root), self.video)
        found = []
        for path in sorted(folder.glob("*.h5")):
            if not whole_number(path.stem):
                raise SET.bad(path, "the name must be the number of a frame, from 00001")
            present = read_instances(path)
            found += [Sample(text, self.video, int(path.stem), i) for i, text in self.sentences if i in present]
        return sorted(found, key=lambda sample: (sample.instance, sample.frame))


def read_raw(root: Path) -> list[RawVideo]:
    """The videos of the original files, without missed ones and without the row of instance ``1 (copy)``.

    Raises:
        FileNotFoundError, ValueError: naming the file, the row and the mend.
    """
    splits = read_subsets(root)
    path = sentences_path(root)
    videos = []
    for video, sentences in _read_sentences(path).items():
        if video not in splits:
            raise SET.bad(path, f"has sentences about video {video}, which Release/videoset.csv does not list")
        if split := splits[video]:
            videos.append(RawVideo(video, split, tuple(sentences)))
    return videos


# ------------------------------------------------------------------------------------------------------------- clips


@cache
def video_size(path: Path) -> tuple[int, int]:
    """Height and width of a video's frames, from the file's header."""
    with VideoFile(path) as video:
        return video.size


def _read_window(path: Path, frame: int, offsets: Sequence[int], num_frames: int) -> Tensor:
    """Frames of the window of ``num_frames`` centred on ``frame`` (from 1), ``offsets`` into it."""
    with VideoFile(path) as video:
        if frame > len(video):
            raise SET.bad(path, f"has {len(video)} frames, but frame {frame} is annotated; restore the video")
        window = centred_window(frame - 1, num_frames, len(video))
        return video.read([window[i] for i in offsets])


@dataclass(frozen=True)
class AnnotatedFrame(TrainVideo):
    """The window around an annotated frame, as a training video of one clip. Its other frames have no ground truth.

    ``frame_ids`` are the numbers of the window's frames. Before the first and after the last frame, that frame is
    repeated.

    Attributes:
        video_path: the mp4.
        mask_path: the masks of the frame.
        frame: its number, from 1.
    """

    video_path: Path
    mask_path: Path
    frame: int

    def size(self) -> tuple[int, int]:
        return video_size(self.video_path)

    def frames(self, positions: Sequence[int]) -> Tensor:
        return _read_window(self.video_path, self.frame, positions, len(self.frame_ids))

    def masks(self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], size: tuple[int, int]) -> Tensor:
        masks = torch.zeros((len(positions), len(objects), *size), dtype=torch.uint8)
        read = read_masks(self.mask_path, [instance for (instance,) in objects])
        masks[self.annotated(positions)] = torch.from_numpy(fitted(self.mask_path, read, size))
        return masks

    def where(self) -> str:
        return str(self.mask_path)

    def window_starts(self, num_frames: int) -> Sequence[int]:
        return (0,)

    def draw_positions(self, start: int, num_frames: int, rng: np.random.Generator) -> list[int]:
        return list(range(num_frames))

    def annotated(self, positions: Sequence[int]) -> Tensor:
        return torch.tensor([p == len(self.frame_ids) // 2 for p in positions])

    def shows(self, objects: tuple[int, ...]) -> bool:
        # read_masks checked the instance; one frame without its pixels proves nothing about the video.
        return True


@dataclass(frozen=True)
class WindowClip(EvalClip):
    """A clip of ``num_frames`` frames of an mp4 around ``frame``, numbered from 1."""

    video_path: Path
    frame: int
    num_frames: int

    def read(self) -> Tensor:
        return _read_window(self.video_path, self.frame, range(self.num_frames), self.num_frames)


def _by_frame(root: Path, split: str, gaps: Gaps | None = None) -> Iterator[tuple[Path, list[Sample]]]:
    """The mp4 and the samples of each annotated frame of the split."""
    gaps, clips = gaps or Gaps(strict=True), clips_root(root)
    frames: dict[tuple[str, int], list[Sample]] = {}
    for sample in read_samples(root, split, gaps):
        frames.setdefault((sample.video, sample.frame), []).append(sample)
    paths = [inside(clips, f"{video}.mp4") for video, _ in frames]
    what = f"the video, which {list_path(root, split).name} names,"
    for path in paths if gaps.strict else ():
        SET.require(path, what)
    SET.require_any(paths, what)  # reading names other missing files
    yield from zip(paths, frames.values(), strict=True)


def train_videos(root: Path, num_frames: int) -> list[AnnotatedFrame]:
    """Index of the training split: an entry for each annotated frame, with clips of ``num_frames`` frames.

    Raises as :func:`read_samples`, also for a video or a frame's masks that are missing.
    """
    videos = []
    for video_path, samples in _by_frame(root, "train"):
        frame, video = samples[0].frame, samples[0].video
        masks = mask_path(root, video, frame)
        SET.require(masks, "the file of this frame's masks")
        first = frame - num_frames // 2
        videos.append(
            AnnotatedFrame(
                video_id=video,
                frame_ids=tuple(str(first + t) for t in range(num_frames)),
                expressions=tuple(
                    Expression(sample.image_id, in_form(sample.query, "lower"), (sample.instance,), label=0)
                    for sample in samples
                ),
                video_path=video_path,
                mask_path=masks,
                frame=frame,
            )
        )
    return videos


def eval_clips(root: Path, num_frames: int, gaps: Gaps | None = None) -> list[WindowClip]:
    """A clip of ``num_frames`` frames for each annotated frame of the split ``test``, with its sentences.

    Raises as :func:`read_samples`, also for a video that is missing; with ``gaps`` only where all are.
    """
    return [
        WindowClip(
            clip_id=f"{samples[0].video}, frame {samples[0].frame}",
            expressions={sample.image_id: in_form(sample.query, "lower") for sample in samples},
            scored=place_in_window(samples[0].frame - 1, num_frames),
            video_path=video_path,
            frame=samples[0].frame,
            num_frames=num_frames,
        )
        for video_path, samples in _by_frame(root, "test", gaps)
    ]


def truth(root: Path, gaps: Gaps | None = None) -> dict[str, Truth]:
    """Ground truth of the split ``test``, by image id; ``gaps`` as in :func:`util.masks.coco.read_ground_truth`."""
    return SET.read_truth(root, truth_path(root), gaps)
