"""The data sets by name, and their splits for evaluation."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import a2d, davis, jhmdb, long_rvos, mevis, refcoco, ytvos
from datasets.base import EvalClip, TrainVideo, VideoSet
from datasets.ytvos import Layout
from util.masks.coco import Truth, read_ground_truth
from util.run.gaps import Gaps


@dataclass(frozen=True)
class EvalSet:
    """A split that is evaluated, and all that its samples depend on.

    Attributes:
        name: of the data set, in :data:`DATA_SETS`.
        split: one that it has.
        root: its folder.
        num_frames: of the clips of which one frame is scored.
        holdout: how many training videos make the split ``holdout``.
        annotations, expressions: folder of the masks of Ref-YouTube-VOS's valid, and file that says what its
            expressions mean, if they lie in other places; see :func:`datasets.scorable.scorable_split`.
    """

    name: str
    split: str
    root: Path
    num_frames: int
    holdout: int = 0
    annotations: str | None = None
    expressions: str | None = None

    @property
    def scores_frames(self) -> bool:
        """Whether single frames are scored, rather than whole videos."""
        return DATA_SETS[self.name].clips is not None

    def videos(self, gaps: Gaps | None = None) -> VideoSet:
        """The videos of the split for inference.

        Args:
            gaps: takes single videos and expressions whose data has another form than documented. Missing files are
                then named when they are read, unless all are missing. Without it the first one is an error.

        Raises:
            FileNotFoundError, ValueError: the data is missing or has another form; names the file or flag and the mend.
        """
        return self._made_of("videos", "videos to evaluate")(self, gaps or Gaps(strict=True))

    def clips(self, gaps: Gaps | None = None) -> list[EvalClip]:
        """The clips of which one frame each is scored. ``gaps`` and errors as in :meth:`videos`."""
        return self._made_of("clips", "clips to evaluate")(self, gaps or Gaps(strict=True))

    def _made_of(self, what: str, meant: str) -> Callable:
        """A function of the data set, which makes what is ``meant``; ValueError where it has none."""
        make = getattr(DATA_SETS[self.name], what)
        if make is None:
            able = ", ".join(name for name, data_set in DATA_SETS.items() if getattr(data_set, what))
            raise ValueError(f"--dataset_file {self.name} has no {meant}; choose one of {able}")
        return make

    def truth(self, clips: Sequence[EvalClip], gaps: Gaps | None = None) -> dict[str | int, Truth]:
        """Ground truth of every sample of the clips, by image id.

        Args:
            gaps: the same as for :meth:`clips`; takes samples whose ground truth is damaged or missing.

        Raises as :meth:`videos`, and ValueError where the samples of the ground truth are not exactly these. With gaps
        only where it has other samples, or less than half of these.
        """
        gaps = gaps or Gaps(strict=True)
        truth = DATA_SETS[self.name].truth(self, gaps)
        asked = {image_id for clip in clips for image_id in clip.expressions}
        differing = {name for name in truth.keys() ^ asked if not gaps.has(f"sample {name}")}
        if not gaps.strict and differing <= asked and 2 * len(differing) <= len(asked):
            for name in sorted(differing, key=str):
                gaps.add(f"sample {name}", "the list of samples has it, the ground truth has not", on_all_ranks=True)
        elif differing:
            name = min(differing, key=str)
            has, lacks = ("ground truth", "list") if name in truth else ("list", "ground truth")
            raise ValueError(
                f"--dataset_file {self.name}: the {has} of the split {self.split} has sample {name}, its {lacks} has "
                f"not ({len(differing)} such samples): the two files are not of one data set; make them anew "
                "(docs/data.md)"
            )
        return {name: of_sample for name, of_sample in truth.items() if name in asked}

    def means_nothing(self) -> dict[str, set[str]]:
        """For each video, the ids of the expressions of which the list says that they mean nothing in it.

        Raises as :meth:`videos`, and ValueError where the list says so of none, or of all.
        """
        found = self._made_of("means_nothing", "expressions that may mean nothing")(self)
        if not any(found.values()):
            raise ValueError(f"the split {self.split} of {self.name} has no expression that means nothing in its video")
        if not any(len(found[video.video_id]) < len(video.expressions) for video in self.videos()):
            raise ValueError(f"the split {self.split} of {self.name} names the objects of no expression")
        return found

    def described(self) -> dict[str, object]:
        """The split as plain data, for the record of results."""
        return {"data": str(self.root.resolve()), "dataset_file": self.name, "num_frames": self.num_frames}


@dataclass(frozen=True)
class DataSet:
    """A data set. ``train`` takes the options; ``videos``, ``clips`` and ``truth`` take the split that is evaluated.

    Attributes:
        classes: number of its categories; 1 where it is always binary.
        path: the option that names its folder; for a mixture, the folder of the evaluated part or of all parts.
        train: the training videos; None for a set that is only evaluated.
        videos: of a split, to be segmented whole; None where single frames are scored.
        clips: of a split, each with one scored frame; None where whole videos are scored.
        truth: ground truth of the samples of those clips, by image id.
        means_nothing: of a split, for each video the ids of the expressions that mean nothing in it; None where lists
            do not say so.
        parts: of a mixture, its data sets; a mixture has no ``train``.
        eval_splits: those that ``main.py --eval`` scores, the default first.
        title: its name in papers; a mixture has none. items: what ``train`` makes a list of, in words.
    """

    classes: int
    path: str
    eval_splits: tuple[str, ...]
    title: str = ""
    items: str = "videos"
    train: Callable[[argparse.Namespace], list[TrainVideo]] | None = None
    videos: Callable[[EvalSet, Gaps], VideoSet] | None = None
    clips: Callable[[EvalSet, Gaps], list[EvalClip]] | None = None
    truth: Callable[[EvalSet, Gaps], dict[str | int, Truth]] | None = None
    means_nothing: Callable[[EvalSet], dict[str, set[str]]] | None = None
    parts: tuple[str, ...] = ()


def _refcoco(name: str) -> DataSet:
    return DataSet(
        title=name.replace("refcoco", "RefCOCO"),
        items="images",
        classes=refcoco.CLASSES,
        path="coco_path",
        eval_splits=refcoco.SPLITS[refcoco.DIVISIONS[name]][1:],
        train=lambda args: refcoco.train_videos(Path(args.coco_path), name, args.binary),
        clips=lambda of, gaps: refcoco.eval_clips(of.root, name, of.split, gaps),
        truth=lambda of, gaps: read_ground_truth(refcoco.annotations_path(of.root, name, of.split), gaps),
    )


def _mevis(layout: Layout) -> DataSet:
    return DataSet(
        title=layout.name,
        classes=1,
        path="mevis_path",
        eval_splits=("valid_u", "holdout"),
        train=lambda args: mevis.train_videos(Path(args.mevis_path), args.holdout, layout),
        videos=lambda of, gaps: mevis.eval_videos(of.root, of.split, of.holdout, gaps, layout),
        means_nothing=lambda of: _those_that(
            lambda entry: not mevis.annotations_of(entry),
            mevis.split_videos(of.root, of.split, of.holdout, layout=layout),
        ),
    )


def _those_that(mean: Callable[[Mapping], bool], videos: Mapping[str, dict]) -> dict[str, set[str]]:
    """For each video the ids of the expressions whose entries are ``mean``."""
    return {vid: {e for e, entry in video["expressions"].items() if mean(entry)} for vid, video in videos.items()}


DATA_SETS = {
    "ytvos": DataSet(
        title="Ref-YouTube-VOS",
        classes=len(ytvos.CATEGORIES),
        path="ytvos_path",
        eval_splits=("valid", "holdout"),
        train=lambda args: ytvos.train_videos(Path(args.ytvos_path), args.holdout, args.binary, absent=args.absent > 0),
        videos=lambda of, gaps: ytvos.eval_videos(of.root, of.split, of.holdout, gaps=gaps),
        means_nothing=lambda of: _those_that(ytvos.means_nothing, ytvos.split_videos(of.root, of.split, of.holdout)),
    ),
    "a2d": DataSet(
        title="A2D-Sentences",
        items="clips",
        classes=1,
        path="a2d_path",
        eval_splits=("test",),
        train=lambda args: a2d.train_videos(Path(args.a2d_path), args.num_frames),
        clips=lambda of, gaps: a2d.eval_clips(of.root, of.num_frames, gaps),
        truth=lambda of, gaps: a2d.truth(of.root, gaps),
    ),
    "jhmdb": DataSet(
        title="JHMDB-Sentences",
        classes=1,
        path="jhmdb_path",
        eval_splits=("test",),
        clips=lambda of, gaps: jhmdb.eval_clips(of.root, of.num_frames, gaps),
        truth=lambda of, gaps: jhmdb.truth(of.root, gaps),
    ),
    "davis": DataSet(
        title="Ref-DAVIS17",
        classes=len(davis.CATEGORIES),
        path="davis_path",
        eval_splits=("valid", "holdout"),
        train=lambda args: davis.train_videos(Path(args.davis_path), args.holdout, args.binary, absent=args.absent > 0),
        videos=lambda of, gaps: davis.eval_videos(of.root, of.split, of.holdout, gaps),
    ),
    "mevis": _mevis(mevis.MEVIS),
    "mevis_v2": _mevis(mevis.MEVIS_V2),
    "long_rvos": DataSet(
        title="Long-RVOS",
        classes=1,
        path="long_rvos_path",
        eval_splits=("valid", "test", "holdout"),
        train=lambda args: long_rvos.train_videos(Path(args.long_rvos_path), args.holdout),
        videos=lambda of, gaps: long_rvos.eval_videos(of.root, of.split, of.holdout, gaps),
    ),
    **{name: _refcoco(name) for name in refcoco.SETS},
    "all": DataSet(classes=refcoco.CLASSES, path="coco_path", eval_splits=(), parts=refcoco.SETS),
    "joint": DataSet(
        classes=1,
        path="ytvos_path",
        eval_splits=("valid", "holdout"),
        parts=("ytvos", *refcoco.SETS),
        videos=lambda of, gaps: ytvos.eval_videos(of.root, of.split, of.holdout, gaps=gaps),
    ),
}
