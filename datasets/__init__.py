"""The data sets by name, and their loaders. The one file of ``datasets`` that reads options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import torch
from torch.utils.data import DataLoader

from datasets import davis, mevis, ytvos
from datasets.base import ClipDataset, EvalClip, TrainVideo, VideoSet
from datasets.collate import collate
from datasets.samplers import ShapeBatchSampler
from datasets.transforms import TrainTransform
from util.structures import Batch


@dataclass(frozen=True)
class DataSet:
    """What the project does with one data set; all but ``classes`` take the options first.

    Attributes:
        classes: how many its categories are; 1 where it is always binary.
        train: the training videos; None for a set that is only evaluated.
        videos: of a split, to be segmented whole; None where single frames are scored.
        clips: of a split, of which one frame each is scored; None where whole videos are.
        eval_splits: those that ``main.py --eval`` scores, the default first.
    """

    classes: int
    eval_splits: tuple[str, ...]
    train: Callable[[argparse.Namespace], list[TrainVideo]] | None = None
    videos: Callable[[argparse.Namespace, str], VideoSet] | None = None
    clips: Callable[[argparse.Namespace, str], list[EvalClip]] | None = None


DATA_SETS = {
    "ytvos": DataSet(
        classes=len(ytvos.CATEGORIES),
        eval_splits=("valid", "holdout"),
        train=lambda args: ytvos.train_videos(Path(args.ytvos_path), args.holdout, args.binary),
        videos=lambda args, split: ytvos.eval_videos(Path(args.ytvos_path), split, args.holdout),
    ),
    "davis": DataSet(
        classes=len(davis.CATEGORIES),
        eval_splits=("valid", "holdout"),
        train=lambda args: davis.train_videos(Path(args.davis_path), args.holdout, args.binary),
        videos=lambda args, split: davis.eval_videos(Path(args.davis_path), split, args.holdout),
    ),
    "mevis": DataSet(
        classes=1,
        eval_splits=("valid_u", "holdout"),
        train=lambda args: mevis.train_videos(Path(args.mevis_path), args.holdout),
        videos=lambda args, split: mevis.eval_videos(Path(args.mevis_path), split, args.holdout),
    ),
}


# Those that hold nothing of each other.
SINGLE = {"ytvos", "davis", "a2d", "jhmdb", "refcoco", "refcoco+", "refcocog", "mevis"}


def num_classes(args: argparse.Namespace) -> int:
    """Classes that the model tells apart: one with ``--binary``, else the data set's categories."""
    return 1 if args.binary else DATA_SETS[args.dataset_file].classes


def build_eval_videos(args: argparse.Namespace, split: str) -> VideoSet:
    """The videos of a split for inference: ``train``, ``holdout``, ``valid`` and, in Ref-YouTube-VOS, ``test``,
    in MeViS ``valid_u``.

    Raises FileNotFoundError or ValueError, naming the file or flag and the mend, where the data is not as documented.
    """
    return DATA_SETS[args.dataset_file].videos(args, split)


def build_eval_clips(args: argparse.Namespace, split: str) -> list[EvalClip]:
    """The clips of a split of a data set whose single frames are scored. Raises as :func:`build_eval_videos`."""
    return DATA_SETS[args.dataset_file].clips(args, split)


def eval_split(args: argparse.Namespace, trained: str) -> str:
    """The split that ``main.py --eval`` scores: that of ``--eval_split``, else the hold-out or the data set's default.

    A hold-out from training on another data set, ``trained``, is not meant. Raises ValueError for a split that the
    data set has not.
    """
    splits = DATA_SETS[args.dataset_file].eval_splits
    default = "holdout" if args.holdout and trained == args.dataset_file and "holdout" in splits else splits[0]
    split = args.eval_split or default
    if split not in splits:
        raise ValueError(
            f"--eval_split {split} does not exist for --dataset_file {args.dataset_file}; choose one of "
            f"{', '.join(splits)}"
        )
    return split


def may_be_trained_on(dataset_file: str, trained: str) -> bool:
    """Whether training with ``--dataset_file trained`` may have seen the training videos of ``dataset_file``.

    It has not where that is another single data set; a mixture may have.
    """
    return trained == dataset_file or trained not in SINGLE


def refuse_trained(split: str, holdout: int, trained_holdout: int) -> None:
    """Refuses to score a checkpoint on videos it was trained on.

    Args:
        split: to be scored.
        holdout: number of videos of the hold-out to be scored.
        trained_holdout: number that was kept out when the checkpoint was trained; the smaller hold-out is always a
            part of the larger.

    Raises:
        ValueError: the split was trained on, wholly or in part.
    """
    if split == "train" or (split == "holdout" and holdout > trained_holdout):
        which = f"--split holdout --holdout {holdout}" if split == "holdout" else f"--split {split}"
        kept = f"only {trained_holdout} of them were kept out" if trained_holdout else "none of them was kept out"
        raise ValueError(
            f"{which}: the checkpoint was trained on these videos ({kept} by --holdout), so its scores would mean "
            "nothing; add --allow_trained to go on all the same"
        )


def single_threaded(_worker: int) -> None:
    # The workers are the parallelism; threads within them would only compete with the training process.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


class TrainLoader(DataLoader):
    """A DataLoader whose workers' errors about the data read as those of the main process: one line, with the mend."""

    def __iter__(self) -> Iterator[Batch]:
        try:
            yield from super().__iter__()
        except (ValueError, FileNotFoundError) as error:
            if not str(error).startswith("Caught "):
                raise
            # torch makes the worker's whole traceback the message; it ends with "ValueError: what we said".
            message = str(error).rstrip().rpartition("\n")[2].partition(": ")[2]
            raise type(error)(message) from error


def build_train_loader(args: argparse.Namespace, rank: int = 0, world_size: int = 1) -> DataLoader:
    """Batches of training clips for one of ``world_size`` processes.

    ``loader.batch_sampler.set_epoch(e)`` selects the order and augmentation of an epoch, ``len(loader)`` is its number
    of steps. What a batch holds depends on the options and the epoch, never on the number of workers.
    Raises as :func:`build_eval_videos`.
    """
    transform = TrainTransform(
        args.train_sizes,
        args.max_size,
        flip=args.flip,
        random_crop=args.random_crop,
        photometric=args.photometric,
    )
    dataset = ClipDataset(
        DATA_SETS[args.dataset_file].train(args),
        num_frames=args.num_frames,
        expressions_per_clip=args.expressions_per_clip,
        transform=transform,
        seed=args.seed,
    )
    return TrainLoader(
        dataset,
        batch_sampler=ShapeBatchSampler(dataset.sizes(), args.batch_size, args.seed, rank, world_size),
        collate_fn=collate,
        num_workers=args.num_workers,
        persistent_workers=args.num_workers > 0,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=single_threaded,
    )
