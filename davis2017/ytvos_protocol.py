"""J&F of Ref-YouTube-VOS, MeViS and Long-RVOS results on a split that has masks; of Long-RVOS also tIoU and vIoU.

For each (video, expression): J and F in the listed frames of the video, against the binary mask of the target (in MeViS
the union of some objects), averaged over frames, then over expressions.

With ``gaps`` a damaged file does not end the scoring. A predicted mask that is missing, damaged or of another size than
the ground truth scores 0 in its frame. A frame without usable ground truth is left out of the means (in MeViS: for the
expressions that mean the damaged object), and so is an expression of whose object no ground truth is left.

In version 2 of MeViS an expression may mean no object; averages.py says how it counts.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from davis2017 import temporal
from davis2017.averages import accuracies, average
from davis2017.metrics import PreparedMask
from davis2017.truth import FrameTruth, LabelMaps, Size, Target, Truth, VideoTruth
from util.masks.results import RESULTS_ROOT, Results, mask_name
from util.masks.submission import expected_names, missing_masks, root_problem
from util.run.cli import summarise
from util.run.gaps import Gaps, Shortfall, in_words
from util.run.parallel import run_jobs

# What the scores of an expression repeat of its entry in meta_expressions.
KEPT = ("exp", "obj_id", "anno_id", "kind")
_SUMS = 3 + len(temporal.UNUSABLE)  # over frames: J, F, number of frames, and those of the temporal measures

_results: Results | None = None


def _predicted(results: Results, name: str, shape: Size | None) -> PreparedMask:
    try:
        image = results.image(name, shape)
        if len(image.getbands()) > 1:
            raise ValueError(f"{name} has mode {image.mode}, but a mask has one channel")
    except ValueError as error:
        raise ValueError(f"{results.path}: {error}") from error
    return PreparedMask(np.asarray(image))


def score_video(
    results: Results,
    root: str,
    truth: VideoTruth,
    targets: Mapping[str, Target],
    video: Mapping,
    other_objects: bool,
    lost: Shortfall | None = None,
    missing: Collection[str] = (),
) -> dict[str, dict]:
    """Scores every expression of one video; its ground truth is read once.

    Args:
        results: the predictions.
        root: folder in them that holds the videos' folders.
        truth: the masks of the video.
        targets: what each expression means.
        video: its ``id``, ``expressions`` and ``frames``.
        other_objects: also compare with the other targets of the video.
        lost: takes unusable masks; without it the first one is an error.
        missing: names of masks that the results lack.

    Returns:
        ``{expression id: {"exp", "obj_id", "anno_id"?, "kind"?, "frames", "J", "F", "J&F", "tIoU"?, "vIoU"?, "target"?,
        "found"?, "other"?}}``, without those of whose object there is no ground truth. ``frames`` are those that were
        scored. ``tIoU`` and ``vIoU`` are there where the data set has them. ``target`` and ``found`` are there where
        expressions may mean no object: whether this one means any, and whether a predicted mask of it has a pixel.
        ``other`` is the ``obj_id`` or ``anno_id``, ``J``, ``F`` and ``J&F`` of the target without any of the
        expression's objects that the predictions fit best, None in a video without one and for an expression that means
        no object.
    """
    vid, frames = video["id"], video["frames"]
    wanted = set(targets.values())
    # Sums over frames for each target that an expression is compared with.
    totals: dict[str, dict[Target, np.ndarray]] = {eid: {} for eid in targets}
    # Later frames may show new objects; so far each of them would have been scored against an empty mask.
    blank = {eid: np.zeros(_SUMS) for eid in targets}
    unusable: dict[str, list[tuple[str, str]]] = {eid: [] for eid in targets}
    seen: set[Target] = set()
    found: set[str] = set()
    for t, frame in _frames_with_truth(truth, vid, frames, lost):
        here = _frame_truth(truth, t, frame, wanted, other_objects, vid, lost)
        if here is None:
            continue
        seen |= here.masks.keys()
        shown = {target: PreparedMask(mask) for target, mask in here.masks.items()}
        absent = here.size and PreparedMask(np.zeros(here.size, bool))
        for eid, target in targets.items():
            if target in here.damaged:
                continue
            predicted = _usable(results, mask_name(vid, eid, frame, root), here.size, missing, unusable[eid], lost)
            against_blank = _compared(predicted, absent)
            if predicted is not None and predicted.area:
                found.add(eid)
            sums = totals[eid]
            for new in (shown.keys() | here.damaged.keys()) - sums.keys():
                if new == target or (other_objects and target and not set(new) & set(target)):
                    sums[new] = blank[eid].copy()
            for candidate in sums.keys() - here.damaged.keys():
                sums[candidate] += _compared(predicted, shown[candidate]) if candidate in shown else against_blank
            blank[eid] += against_blank

    out = {}
    for eid, target in targets.items():
        item = f"video {vid}, expression {eid}"
        if not target and not blank[eid][2]:
            error = ValueError(f"{item}: {truth.where} holds no usable mask of any frame")
            if lost is None:
                raise error
            lost.whole += 1
            lost.note(item, error)
            continue
        if target and (target not in seen or target not in totals[eid]):
            error = _never_shown(item, truth, target)
            if lost is None:
                raise error
            lost.whole += 1
            lost.note(item, error if truth.objects else f"{truth.where} holds no usable mask of any object")
            continue
        if lost is not None:
            _note_unusable(lost, item, unusable[eid])
        means = {c: total[:2] / total[2] for c, total in totals[eid].items() if c in seen and total[2]}
        expression = video["expressions"][eid]
        total = totals[eid][target] if target else blank[eid]
        out[eid] = {key: expression[key] for key in KEPT if key in expression}
        out[eid] |= {"frames": int(total[2]), **_named(total[:2] / total[2])}
        if truth.temporal:
            out[eid] |= temporal.over_frames(total[3:])
        if truth.may_be_empty:
            out[eid] |= {"target": bool(target), "found": eid in found}
        if other_objects:
            others = sorted(means.keys() - {target}, key=lambda other: (-means[other].mean(), other))
            out[eid]["other"] = {**truth.named(others[0]), **_named(means[others[0]])} if others else None
    return out


def _compared(predicted: PreparedMask | None, true: PreparedMask | None) -> np.ndarray:
    """The sums of a single frame, ``[_SUMS]``; all measures are 0 for a prediction that is unusable (None).

    Args:
        true: the true mask; None: an empty one, where the size of the frame is not known.
    """
    if predicted is None:
        return np.array((0, 0, 1, *temporal.UNUSABLE), float)
    true = true or PreparedMask(np.zeros(predicted.shape, bool))
    j, f = predicted.jf(true)
    return np.array((j, f, 1, *temporal.in_frame(true.area > 0, predicted.area > 0, j)))


def _frames_with_truth(
    truth: VideoTruth, vid: str, frames: Sequence[str], lost: Shortfall | None
) -> Iterator[tuple[int, str]]:
    """Places and names of the frames that have a file of ground truth."""
    absent = truth.absent(frames) if lost is not None else []
    if absent:
        lost.truth += len(absent)
        why = f"{len(absent)} of {len(frames)} frames have no ground truth, the first is {absent[0]}"
        lost.note(f"video {vid}", why)
    gone = {path.stem for path in absent}
    return ((t, frame) for t, frame in enumerate(frames) if frame not in gone)


def _frame_truth(
    truth: VideoTruth, t: int, frame: str, wanted: set[Target], others: bool, vid: str, lost: Shortfall | None
) -> FrameTruth | None:
    """The ground truth of a frame, None where it is left out."""
    item = f"video {vid}, frame {frame}"
    try:
        here = truth.frame(t, frame, wanted, others)
    except (ValueError, OSError) as error:
        if lost is None:
            raise
        lost.truth += 1
        lost.note(item, error)
        return None
    for error in dict.fromkeys(here.damaged.values()):  # of an object that several expressions mean
        if lost is None:
            raise error
        lost.note(item, error)
    if here.damaged:
        lost.truth += 1
    return here


def _usable(
    results: Results,
    name: str,
    size: Size | None,
    missing: Collection[str],
    unusable: list[tuple[str, str]],
    lost: Shortfall | None,
) -> PreparedMask | None:
    """A predicted mask; None where it is unusable, and then ``unusable`` takes its name and the reason."""
    if name in missing:
        unusable.append((name, ""))
        return None
    try:
        return _predicted(results, name, size)
    except ValueError as error:
        if lost is None:
            raise
        unusable.append((name, str(error)))
        return None


def _note_unusable(lost: Shortfall, item: str, unusable: list[tuple[str, str]]) -> None:
    """Counts the masks of an expression that score 0, and names damaged ones each, missing ones together."""
    lost.predictions += len(unusable)
    missing = [name for name, why in unusable if not why]
    if missing:
        number = f"{len(missing)} masks are" if len(missing) > 1 else "1 mask is"
        lost.note(item, f"{number} missing and scored as 0, the first is {missing[0]}")
    for name, why in unusable:
        if why:
            lost.note(f"{item}, frame {name.rpartition('/')[2].removesuffix('.png')}", f"scored as 0: {why}")


def _never_shown(item: str, truth: VideoTruth, target: Target) -> ValueError:
    which = f"object {target[0]} is" if len(target) == 1 else f"objects {', '.join(map(str, target))} are"
    return ValueError(
        f"{item}: {which} in none of the masks in {truth.where}, which hold {sorted(truth.objects)}; correct its "
        f"{next(iter(truth.named(target)))}"
    )


def _named(jf: np.ndarray) -> dict[str, float]:
    return {"J": float(jf[0]), "F": float(jf[1]), "J&F": float(jf.mean())}


def _open_results(path: Path) -> None:
    global _results
    _results = Results(path)


def _score_in_worker(*args) -> tuple[dict[str, dict], Shortfall]:
    return _score_leniently(_results, *args)


def _score_leniently(results: Results, strict: bool, missing: Collection[str], *args) -> tuple[dict, Shortfall]:
    """The scores of a video, and the numbers of what they leave out."""
    if strict:
        return score_video(results, *args), Shortfall()
    lost = Shortfall()
    return score_video(results, *args, lost, missing), lost


def _targets(truth: Truth, videos: Mapping[str, dict], gaps: Gaps) -> dict[str, dict[str, Target]]:
    """The target of each expression; expressions without one are left out."""
    targets: dict[str, dict[str, Target]] = {}
    for vid, video in videos.items():
        targets[vid] = {}
        for eid, expression in video["expressions"].items():
            try:
                targets[vid][eid] = truth.target(vid, eid, expression)
            except ValueError as error:
                gaps.add(f"video {vid}, expression {eid}", error)
    return targets


def _jobs(
    truth: Truth,
    videos: Mapping[str, dict],
    targets: Mapping[str, dict[str, Target]],
    missing: Collection[str],
    gaps: Gaps,
    root: str,
    other_objects: bool,
) -> Iterator[tuple[str, tuple]]:
    """The work of each video with ground truth. Its masks are taken from the store only at its turn, because all masks
    of MeViS at once are too many."""
    for vid, video in videos.items():
        if not targets[vid]:
            continue
        try:
            masks = truth.video(vid, targets[vid].values())
        except ValueError as error:
            for eid in targets[vid]:
                gaps.add(f"video {vid}, expression {eid}", error)
            continue
        lacking = frozenset(name for name in expected_names({vid: video}, root) if name in missing)
        arguments = (root, masks, targets[vid], {**video, "id": vid}, other_objects)
        yield vid, (gaps.strict, lacking, *arguments)


def score_results(
    results: str | os.PathLike,
    truth: str | os.PathLike | Truth,
    videos: Mapping[str, dict],
    workers: int = 1,
    other_objects: bool = False,
    root: str = RESULTS_ROOT,
    gaps: Gaps | None = None,
) -> dict:
    """Scores a results folder or zip; the zip is not unpacked.

    Args:
        results: the predictions, ``<root>/<video>/<expression id>/<frame>.png``.
        truth: the ground truth; a path is a folder of ``<video>/<frame>.png``, pixel values being object ids.
        videos: ``{video: {"expressions": {id: {"exp", "obj_id", "kind"?}}, "frames": […]}}``; results of other videos
            are not looked at.
        workers: processes; each holds one video at a time. Above 1, a script needs its ``__main__`` guard.
        other_objects: also score the same masks against the *hardest other object*: for each expression, the other
            object of the video with the highest J&F; in MeViS, where expressions share objects, the target of another
            expression that has none of the same objects. Expressions without such a thing stay out of this mean.
        root: folder in the results that holds the videos' folders; empty where they lie at its root.
        gaps: takes what cannot be used; expressions and videos of the list that it has already count, too. Without it
            the first such thing is an error.

    Returns:
        ``{"J", "F", "J&F", "tIoU"?, "vIoU"?, "expressions", "J&F_other_object"?, "by_kind"?, "videos",
        "incomplete"?}``: means over the expressions, each kind's in the same form (only where all expressions have the
        key ``kind``), for each video what :func:`score_video` returns, and where something cannot be used how much of
        it (:class:`Shortfall`). Where expressions may mean no object, also what
        :func:`davis2017.averages.accuracies` returns.

    Raises:
        FileNotFoundError, ValueError: masks are missing, damaged or of another size, or ids are wrong, each is named;
            with ``gaps``: not one mask can be scored. No expression has a target.
    """
    gaps = gaps or Gaps(strict=True)
    lost = Shortfall(whole=len(gaps.items), problems=list(gaps.items))
    if not any(video["expressions"] for video in videos.values()):
        raise ValueError("there is nothing to score: the list of videos has no expressions")
    empty = [vid for vid, video in videos.items() if not video["frames"]]
    if empty:
        raise ValueError(f"video {empty[0]} lists no frames; mend its entry in meta_expressions.json")
    if not isinstance(truth, Truth):
        every = (expression for video in videos.values() for expression in video["expressions"].values())
        truth = LabelMaps(Path(truth), may_be_empty=any(e.get("obj_id", 0) is None for e in every))
    listed = len(gaps.items)
    targets = _targets(truth, videos, gaps)

    with Results(results) as opened:
        wrong_root = root_problem(opened, root)
        if wrong_root:
            raise ValueError(wrong_root)
        names = set(opened.names)
        missing = expected_names(videos, root).keys() - names
        if missing and (gaps.strict or names.isdisjoint(expected_names(videos, root))):
            problems = summarise(missing_masks(names, videos, root))
            mend = (
                "Run inference again to fill them" if gaps.strict else "These are results of another split, or of none"
            )
            raise ValueError(f"{results}: masks are missing: {problems}. {mend}")
        workers = min(workers, len(videos))
        scored = run_jobs(
            partial(_score_leniently, opened) if workers == 1 else _score_in_worker,
            _jobs(truth, videos, targets, missing, gaps, root, other_objects),
            workers,
            total=len(videos),
            desc="score",
            unit="video",
            prepare=_open_results,
            prepare_with=(opened.path,),
        )

    for item, why in gaps.items[listed:]:
        lost.whole += 1
        lost.note(item, why)
    for _, of_video in scored.values():
        lost += of_video
        for problem in of_video.problems:
            gaps.add(*problem)
    by_video = {vid: of_video for vid, (of_video, _) in scored.items() if of_video}
    every = [expression for video in by_video.values() for expression in video.values()]
    if lost.predictions == sum(expression["frames"] for expression in every):
        raise ValueError(
            f"{results}: not one mask can be scored; {len(lost.problems)} problems, the first: "
            f"{in_words(*lost.problems[0])}"
        )
    if not any(expression.get("target", True) for expression in every):
        raise ValueError("no expression that can be scored means an object, so there is no J and no F")
    out = average(every, other_objects)
    if truth.may_be_empty:
        out |= accuracies(every)
    if all("kind" in expression for expression in every):
        kinds = defaultdict(list)
        for expression in every:
            kinds[expression["kind"]].append(expression)
        out["by_kind"] = {kind: average(kinds[kind], other_objects) for kind in sorted(kinds)}
    return out | {"videos": by_video} | lost.described("frames", "expressions")
