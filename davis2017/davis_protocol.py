"""J&F of Ref-DAVIS17 results by the two protocols of the DAVIS toolkit.

*Unsupervised*, which the papers report: the objects are 1 to the highest id of the first frame; void pixels (255) do
not count; the proposals, 1 to the highest id in any frame, are assigned to the objects so that the mean of (J+F)/2 is
highest; all frames. *Semi-supervised*: an id means the same object in both, 255 is background, the first and the last
frame are left out.

Each mask is prepared once, and the masks of one frame are held at a time: memory depends neither on the number nor on
the length of the videos. Shapes: T frames, n objects, p proposals; the last axis of scores is J, F.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from davis2017.label_maps import ids_in, mask_path, read_labels
from davis2017.metrics import PreparedMask, db_statistics
from util.parallel import run_jobs
from util.writers import ANNOTATOR_ROOTS, summarise

PROTOCOLS = ("unsupervised", "semi-supervised")
MAX_PROPOSALS = 20
VOID = 255
STATISTICS = ("mean", "recall", "decay")

# The label map of a frame, uint8 [H, W], and those that each of the results has for it.
LabelledFrame = tuple[np.ndarray, Sequence[np.ndarray]]


def count_objects(labels: np.ndarray) -> int:
    """Highest object id of a label map, uint8 ``[H, W]``; void is no object."""
    return max(ids_in(labels) - {VOID}, default=0)


def unsupervised(frames: Iterable[LabelledFrame]) -> list[np.ndarray]:
    """J and F in every frame of the proposal assigned to each object.

    Args:
        frames: in order; each holds as many predictions, of ids up to :data:`MAX_PROPOSALS`.

    Returns:
        float64 ``[n, T, 2]`` for each of the results.
    """
    scores: list[np.ndarray] = []  # [results, p, n, 2] of each frame
    proposals: list[int] = []
    count = 0
    for labels, predictions in frames:
        if not scores:
            count = count_objects(labels)
            # Fewer proposals than objects are filled up with empty ones.
            proposals = [count] * len(predictions)
        void = labels == VOID
        void = void if void.any() else None
        objects = [PreparedMask(labels == i, void) for i in range(1, count + 1)]
        empty = PreparedMask(np.zeros_like(labels))
        here = np.empty((len(predictions), max(MAX_PROPOSALS, count), count, 2))
        here[:] = np.reshape([empty.jf(target) for target in objects], (count, 2))
        for r, predicted in enumerate(predictions):
            for i in ids_in(predicted):
                proposal = PreparedMask(predicted == i, void)
                here[r, i - 1] = [proposal.jf(target) for target in objects]
                proposals[r] = max(proposals[r], i)
        scores.append(here)
    whole = np.stack(scores, axis=3)
    return [_assigned(each[:number]) for each, number in zip(whole, proposals, strict=True)]


def _assigned(scores: np.ndarray) -> np.ndarray:
    """Of ``[p, n, T, 2]`` the best assignment of proposals to objects, ``[n, T, 2]``; p is at least n."""
    chosen, objects = linear_sum_assignment(scores.mean(axis=2).mean(axis=2), maximize=True)
    return scores[chosen[np.argsort(objects)], np.sort(objects)]


def semi_supervised(frames: Iterable[LabelledFrame], count: int) -> list[np.ndarray]:
    """J and F in every frame of the mask that has an object's id.

    Args:
        frames: in order, those that are scored; each holds as many predictions.
        count: objects, ids 1 to ``count``.

    Returns:
        float64 ``[n, T, 2]`` for each of the results.
    """
    scores = []
    for labels, predictions in frames:
        objects = [PreparedMask(labels == i) for i in range(1, count + 1)]
        scores.append(
            [
                [PreparedMask(predicted == i).jf(target) for i, target in enumerate(objects, 1)]
                for predicted in predictions
            ]
        )
    return list(np.array(scores).transpose(1, 2, 0, 3))


def _read(truth: Path, results: Sequence[Path], frames: Iterable[str], most: int, why: str) -> Iterator[LabelledFrame]:
    """Reads frame by frame; raises ValueError where sizes disagree or an id is above ``most``."""
    for frame in frames:
        labels = read_labels(mask_path(truth, frame))
        predictions = []
        for folder in results:
            path = folder / f"{frame}.png"
            predicted = read_labels(path)
            if predicted.shape != labels.shape:
                raise ValueError(
                    f"{path} is {list(predicted.shape)}, but the ground truth {truth / path.name} is "
                    f"{list(labels.shape)} (height, width); results are written in the frames' original size"
                )
            highest = int(predicted.max())
            if highest > most:
                raise ValueError(f"{path} holds object {highest}, but {why}")
            predictions.append(predicted)
        yield labels, predictions


def score_video(protocol: str, truth: Path, results: Sequence[Path], frames: Sequence[str]) -> list[dict]:
    """Scores one video by one protocol.

    Args:
        protocol: one of :data:`PROTOCOLS`.
        truth: folder of its ground truth, ``<frame>.png``.
        results: folders of its label maps.
        frames: names of its frames, in order.

    Returns:
        For each of the results ``{object id: {"J", "F"}}``, each :data:`STATISTICS` by name.

    Raises:
        FileNotFoundError, ValueError: a mask is missing, damaged, of another size or holds too high an id; there is
            nothing to score.
    """
    first = mask_path(truth, frames[0])
    count = count_objects(read_labels(first))
    if not count:
        raise ValueError(f"{first}: the first frame shows no object, so there is nothing to score; restore the mask")
    if protocol == "unsupervised":
        why = f"there may be at most {MAX_PROPOSALS} proposals in a video"
        values = unsupervised(_read(truth, results, frames, MAX_PROPOSALS, why))
    else:
        if len(frames) < 3:
            raise ValueError(f"{truth}: {len(frames)} frames are too few; the first and the last are not scored")
        why = f"the ground truth in {truth} has only {count}; leave it out with --protocol unsupervised"
        values = semi_supervised(_read(truth, results, frames[1:-1], count, why), count)
    return [
        {
            str(number): {
                measure: dict(zip(STATISTICS, db_statistics(of_object[:, m]), strict=True))
                for m, measure in enumerate("JF")
            }
            for number, of_object in enumerate(each, 1)
        }
        for each in values
    ]


def average(parts: Iterable[Mapping]) -> dict:
    """Mean of each statistic over parts that have ``J`` and ``F``, and ``J&F``, the mean of the two means."""
    parts = list(parts)
    out = {
        measure: {name: float(np.mean([part[measure][name] for part in parts])) for name in STATISTICS}
        for measure in "JF"
    }
    return {"J&F": (out["J"]["mean"] + out["F"]["mean"]) / 2, **out}


def annotator_folders(results: str | os.PathLike, videos: Iterable[str]) -> dict[str, Path]:
    """The results folders to be scored, by name: of the four annotators, or a single one of label maps.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, an annotator is missing, or it holds neither.
    """
    results = Path(results)
    if not results.is_dir():
        raise FileNotFoundError(f"{results}: no such folder; give the one that inference_davis.py wrote")
    present = [root for root in ANNOTATOR_ROOTS if (results / root).is_dir()]
    if present:
        missing = [root for root in ANNOTATOR_ROOTS if root not in present]
        if missing:
            raise FileNotFoundError(
                f"{results}: {', '.join(missing)} is not there; run inference_davis.py again to fill it, or score a "
                f"single annotator with {results / present[0]}"
            )
        return {root: results / root for root in ANNOTATOR_ROOTS}
    if any((results / video).is_dir() for video in videos):
        return {results.resolve().name: results}
    inner = [child.name for child in sorted(results.iterdir()) if (child / ANNOTATOR_ROOTS[0]).is_dir()]
    hint = f"; give {results / inner[0]}" if inner else ""
    raise ValueError(f"{results} holds neither {ANNOTATOR_ROOTS[0]} … nor a folder of any video of the split{hint}")


def missing_frames(folders: Mapping[str, Path], videos: Mapping[str, Sequence[str]]) -> list[str]:
    """One line for each result and video of which frames are missing."""
    lines = []
    for name, folder in folders.items():
        for video, frames in videos.items():
            absent = [frame for frame in frames if not (folder / video / f"{frame}.png").is_file()]
            if absent:
                lines.append(f"{name}, video {video}: {len(absent)} of {len(frames)} frames, the first is {absent[0]}")
    return lines


def score_results(
    results: str | os.PathLike,
    truth: str | os.PathLike,
    videos: Mapping[str, Sequence[str]],
    protocol: str = "unsupervised",
    workers: int = 1,
) -> dict:
    """Scores the results of the four annotators, or a single results folder, always from the masks.

    Args:
        results: holds ``anno_0`` to ``anno_3``, or is one folder of ``<video>/<frame>.png``.
        truth: ground truth, ``<video>/<frame>.png``.
        videos: names of the frames of each video.
        protocol: one of :data:`PROTOCOLS`.
        workers: processes; each holds one frame at a time. Above 1, a script needs its ``__main__`` guard.

    Returns:
        ``{"J&F", "J", "F", "objects", "annotators"}``: the mean over the annotators, and for each of them the mean over
        all objects and ``sequences``, for each video the mean over its objects and ``objects``. J and F are
        :data:`STATISTICS` by name.

    Raises:
        FileNotFoundError, ValueError: masks are missing, damaged or do not fit; each is named.
    """
    if not videos:
        raise ValueError("there is nothing to score: the list of videos is empty")
    folders = annotator_folders(results, videos)
    missing = missing_frames(folders, videos)
    if missing:
        raise ValueError(f"{results}: masks are missing: {summarise(missing)}. Run inference again to fill them")
    jobs = (
        (video, (protocol, Path(truth, video), [folder / video for folder in folders.values()], list(frames)))
        for video, frames in videos.items()
    )
    scored = run_jobs(score_video, jobs, workers, total=len(videos), desc=protocol, unit="video")
    annotators = {}
    for k, name in enumerate(folders):
        sequences = {
            video: {**average(by_result[k].values()), "objects": by_result[k]} for video, by_result in scored.items()
        }
        every = [of_object for sequence in sequences.values() for of_object in sequence["objects"].values()]
        annotators[name] = {**average(every), "sequences": sequences}
    objects = sum(len(by_result[0]) for by_result in scored.values())
    return {**average(annotators.values()), "objects": objects, "annotators": annotators}
