"""The data sets for training and evaluation, as the options ask for them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from datasets import mevis, refcoco
from datasets.absent import AbsentTexts
from datasets.base import ClipDataset, EvalClip, TrainVideo, VideoSet
from datasets.collate import collate
from datasets.loader import TrainLoader, set_up_worker
from datasets.samplers import ShapeBatchSampler
from datasets.sets import DATA_SETS, EvalSet
from datasets.transforms import TrainTransform
from util.files.origin import CONVERTED, generated_content
from util.options.inference import InferenceOptions
from util.run.counts import counted

__all__ = [
    "DATA_SETS",
    "EvalClip",
    "EvalSet",
    "VideoSet",
    "asked_set",
    "build_train_loader",
    "eval_set",
    "eval_split",
    "held_out",
    "may_be_trained_on",
    "mixing_weights",
    "num_classes",
    "refuse_trained",
]


def num_classes(args: argparse.Namespace) -> int:
    """Number of classes that the model tells apart: one with ``--binary``, else the categories of the data set.

    Raises ValueError for a mixture of data sets with different categories, unless ``--binary`` is given.
    """
    data_set = DATA_SETS[args.dataset_file]
    if args.binary:
        return 1
    counts = {name: DATA_SETS[name].classes for name in data_set.parts}
    if set(counts.values()) - {data_set.classes}:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(
            f"--dataset_file {args.dataset_file} mixes data sets with different categories ({told}); add --binary to "
            "train without categories"
        )
    return data_set.classes


def mixing_weights(args: argparse.Namespace) -> dict[str, float]:
    """How often the clips of each data set of ``--dataset_file`` occur in an epoch: 1, or what ``--mix`` says.

    Raises ValueError for a name that is no part of the mixture.
    """
    names = DATA_SETS[args.dataset_file].parts or (args.dataset_file,)
    given = dict(args.mix or ())
    for name in given.keys() - set(names):
        raise ValueError(
            f"--mix {name}={given[name]:g}: {name} is no part of --dataset_file {args.dataset_file}, which is made of "
            f"{', '.join(names)}"
        )
    return {name: given.get(name, 1.0) for name in names}


def eval_set(
    args: argparse.Namespace,
    split: str,
    *,
    name: str | None = None,
    root: str | None = None,
    holdout: int | None = None,
) -> EvalSet:
    """A split of a data set: ``train``, ``holdout``, ``valid`` or another one that it has.

    Args:
        name: of the data set; None: ``--dataset_file``.
        root: its folder; None: as the options have it.
        holdout: None: as the options have it.
    """
    name = name or args.dataset_file
    return EvalSet(
        name,
        split,
        Path(root or getattr(args, DATA_SETS[name].path)),
        args.num_frames,
        args.holdout if holdout is None else holdout,
        getattr(args, "annotations", None),  # earlier versions did not have these options
        getattr(args, "expressions", None),
    )


def asked_set(trained: Mapping[str, object], asked: InferenceOptions, name: str) -> EvalSet:
    """The split that an inference script segments.

    Args:
        trained: the options in the checkpoint, by name.
        asked: the options given on the command line, which win over those of the training.
        name: of the data set.

    Raises:
        ValueError: the checkpoint was trained on the split.
    """
    args = argparse.Namespace(**trained)
    holdout = args.holdout if asked.holdout is None else asked.holdout
    if not may_be_trained_on(name, args.dataset_file):
        # the hold-out of the training is one of another data set
        holdout = asked.holdout or 0
    elif not asked.allow_trained:
        refuse_trained(asked.split, holdout, args.holdout)
    return eval_set(args, asked.split, name=name, root=asked.data_path, holdout=holdout)


def eval_split(args: argparse.Namespace, trained: str) -> str:
    """The split that ``main.py --eval`` scores: that of ``--eval_split``, else the hold-out or the data set's default.

    The hold-out is the default only if the training was on the same data set (``trained``). Raises ValueError for a
    split that the data set lacks.
    """
    splits = DATA_SETS[args.dataset_file].eval_splits
    if not splits:
        parts = ", ".join(DATA_SETS[args.dataset_file].parts)
        raise ValueError(f"--dataset_file {args.dataset_file} is for training; to score, give one of {parts}")
    same = may_be_trained_on(args.dataset_file, trained)
    default = "holdout" if args.holdout and same and "holdout" in splits else splits[0]
    split = args.eval_split or default
    if split not in splits:
        raise ValueError(
            f"--eval_split {split} does not exist for --dataset_file {args.dataset_file}; choose one of "
            f"{', '.join(splits)}"
        )
    return split


def may_be_trained_on(dataset_file: str, trained: str) -> bool:
    """Whether training with ``--dataset_file trained`` may have seen the training videos of ``dataset_file``.

    The three sets of RefCOCO have images in common, the two versions of MeViS all videos.
    """
    seen = set(DATA_SETS[trained].parts or [trained])
    alike = (set(refcoco.SETS), set(mevis.LAYOUTS))
    return dataset_file in seen or any(dataset_file in sets and seen & sets for sets in alike)


def refuse_trained(split: str, holdout: int, trained_holdout: int, *, may_insist: bool = True) -> None:
    """Refuses to score a checkpoint on videos it was trained on.

    Args:
        split: to be scored.
        holdout: number of videos of the hold-out to be scored.
        trained_holdout: number that was kept out when the checkpoint was trained; the smaller hold-out is always a
            part of the larger.
        may_insist: the command has ``--allow_trained``.

    Raises:
        ValueError: the split was trained on, wholly or in part.
    """
    if split == "train" or (split == "holdout" and holdout > trained_holdout):
        which = f"--split holdout --holdout {holdout}" if split == "holdout" else f"--split {split}"
        kept = f"only {trained_holdout} of them were kept out" if trained_holdout else "none of them was kept out"
        raise ValueError(
            f"{which}: the checkpoint was trained on these videos ({kept} by --holdout), so its scores would mean "
            "nothing" + ("; add --allow_trained to go on all the same" if may_insist else "")
        )


def held_out(args: argparse.Namespace) -> tuple[list[TrainVideo], AbsentTexts]:
    """The training videos that ``--holdout`` keeps out, and texts that mean nothing in them.

    Raises as :func:`build_train_loader`, and ValueError where no video is kept out, or no such text is known.
    """
    name, holdout = args.dataset_file, args.holdout
    if not holdout:
        raise ValueError("no training video was kept out: give --holdout N, as in the training")
    train = DATA_SETS[name].train
    if train is None or "holdout" not in DATA_SETS[name].eval_splits:
        raise ValueError(f"--dataset_file {name} has no hold-out; give one of its parts")
    given = vars(args) | {"absent": 1.0}
    trained = {video.video_id for video in train(argparse.Namespace(**given))}
    every = train(argparse.Namespace(**given | {"holdout": 0}))
    texts, kept = AbsentTexts(every), [video for video in every if video.video_id not in trained]
    if not any(map(texts.knows, kept)):
        raise ValueError(
            f"no video of the hold-out of {name} has expressions that surely mean nothing in it (docs/data.md says "
            "which data sets have some)"
        )
    return kept, texts


def build_train_loader(
    args: argparse.Namespace, rank: int = 0, world_size: int = 1, accumulate: int = 1, grouped: int | None = None
) -> TrainLoader:
    """Batches of training clips for one of ``world_size`` processes, ``accumulate`` of which make a step.

    Clips are put together by their shape in groups of ``grouped``, by default a batch (:class:`ShapeBatchSampler`).

    ``loader.batch_sampler.set_epoch(e)`` selects the order and augmentation of an epoch, ``len(loader)`` is its number
    of batches. The content of a batch depends on the options and the epoch, and not on the number of workers.
    Raises as :meth:`EvalSet.videos`, and ValueError for a data set that is only evaluated.
    """
    weights = {name: weight for name, weight in mixing_weights(args).items() if weight}
    if not weights:
        raise ValueError("--mix: every weight is 0; at least one data set must be trained on")
    if args.holdout and "holdout" not in DATA_SETS[args.dataset_file].eval_splits:
        able = ", ".join(name for name, data in DATA_SETS.items() if "holdout" in data.eval_splits)
        raise ValueError(
            f"--holdout {args.holdout}: no training videos of {args.dataset_file} can be kept out (those of {able} "
            "can); leave it out"
        )
    num_classes(args)  # refuses a mixture without common categories, before anything is read
    for name in weights:
        if DATA_SETS[name].train is None:
            trainable = ", ".join(name for name, data in DATA_SETS.items() if data.train or data.parts)
            raise ValueError(
                f"--dataset_file {name} has nothing to train on: score a checkpoint on it with --eval, or train on one "
                f"of {trainable}"
            )
    sets = {name: DATA_SETS[name].train(args) for name in weights}
    transform = TrainTransform(
        args.train_sizes,
        args.train_max_size or args.max_size,
        flip=args.flip,
        random_crop=args.random_crop,
        photometric=args.photometric,
        crop_sizes=args.crop_sizes,
        crop_max_size=args.max_size,
    )
    videos = list(chain.from_iterable(sets.values()))
    absent_texts = AbsentTexts(videos if args.absent else ())
    if args.absent and not any(map(absent_texts.knows, videos)):
        raise ValueError(
            f"--absent {args.absent:g}: no training video of {', '.join(sets)} has expressions that surely mean "
            "nothing in it; leave the option out (docs/data.md says which data sets have some)"
        )
    dataset = ClipDataset(
        videos,
        num_frames=args.num_frames,
        expressions_per_clip=args.expressions_per_clip,
        transform=transform,
        seed=args.seed,
        bad_sample=args.bad_sample,
        absent_object=args.absent_object,
        absent=args.absent,
        draw_absent=absent_texts.draw,
        text_form=args.text_form,
    )
    owners = np.repeat(list(sets), [len(videos) for videos in sets.values()])[dataset.entries[:, 0]]
    shares = np.array([weights[name] for name in owners])
    sizes, size = dataset.sizes(), args.batch_size
    sampler = ShapeBatchSampler(sizes, size, args.seed, rank, world_size, shares, accumulate, grouped)
    if not len(sampler):
        raise ValueError("--mix: the weights are so small that an epoch has no clip; give larger ones")
    loader = TrainLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=args.num_workers,
        persistent_workers=args.num_workers > 0,
        pin_memory=torch.cuda.is_available() and torch.device(args.device or "cuda").type == "cuda",
        worker_init_fn=set_up_worker,
        generator=torch.Generator(),  # otherwise every epoch would draw from the generator of the training
    )
    loader.sets = sets
    loader.patience = args.loader_timeout
    loader.trained_on = _in_words(args, {name: len(of_set) for name, of_set in sets.items()})
    loader.clips = {name: round(shares[owners == name].sum()) for name in sets}
    return loader


def _in_words(args: argparse.Namespace, counts: Mapping[str, int]) -> tuple[str, bool]:
    """What a run trains on, for the record of its checkpoints, and whether all of it is generated.

    Args:
        counts: of training videos, by the name of the data set.
    """
    words, generated = [], []
    for name, count in counts.items():
        data_set = DATA_SETS[name]
        root = Path(getattr(args, data_set.path))
        shows = generated_content(root)
        generated.append(shows is not None)
        if shows is not None:
            words.append(counted(count, shows).replace(" ", " generated ", 1))
        elif name == "ytvos" and (root / CONVERTED).is_file():
            words.append(counted(count, "videos that are no published data set"))
        else:
            words.append(counted(count, f"{data_set.items} of {data_set.title}").replace(" ", " training ", 1))
    return " and ".join(words), all(generated)
