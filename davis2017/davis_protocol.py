"""J&F of Ref-DAVIS17 results by the two protocols of the DAVIS toolkit.

*Unsupervised*, which the papers report: the objects are 1 to the highest id of the first frame; void pixels (255) do
not count; the proposals, 1 to the highest id in any frame, are assigned to the objects so that the mean of (J+F)/2 is
highest; all frames. *Semi-supervised*: an id means the same object in both, 255 is background, the first and the last
frame are left out.

With ``gaps`` a damaged file does not end the scoring. A predicted label map that is missing, damaged, of another size
or with too high an id scores 0 for all objects of its frame. A frame without usable ground truth is left out. A video
is left out if its first frame, which defines the objects, has no usable ground truth or no object; in the
semi-supervised protocol also if it has at most two frames. The toolkit (davis2017/evaluation.py of
github.com/davisvideochallenge/davis2017-evaluation) gives no score to a video of two frames either: it ends, as
Results.read_masks asks for the first of no frames; one without objects adds nothing to its means.

Each mask is prepared once, and the masks of one frame are held at a time: memory depends neither on the number nor on
the length of the videos. Shapes: T frames, n objects, p proposals; the last axis of scores is J, F.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment

from davis2017.label_maps import ids_in, label_size, mask_path, read_labels
from davis2017.metrics import PreparedMask, db_statistics
from davis2017.truth import Size, mask_size, read_mask_of
from util.files.reading import unfit
from util.masks.results import ANNOTATOR_ROOTS, most_bytes
from util.run.cli import summarise
from util.run.gaps import Gaps, Shortfall, in_words
from util.run.parallel import run_jobs

PROTOCOLS = ("unsupervised", "semi-supervised")
MAX_PROPOSALS = 20
VOID = 255
STATISTICS = ("mean", "recall", "decay")
_LINK = "is in a folder that is a link, which is not followed; put the folder itself there"

# The label map of a frame, uint8 [H, W], and the label map of each of the results; None where it scores 0.
LabelledFrame = tuple[np.ndarray, Sequence[np.ndarray | None]]


class Unscorable(ValueError):
    """There is no object to score in a video, or in all videos."""


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
            if predicted is None:
                here[r] = 0
                continue
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
                [
                    PreparedMask(predicted == i).jf(target) if predicted is not None else (0.0, 0.0)
                    for i, target in enumerate(objects, 1)
                ]
                for predicted in predictions
            ]
        )
    if not scores:
        raise Unscorable("no frame but the first and the last has usable ground truth")
    return list(np.array(scores).transpose(1, 2, 0, 3))


def _read(
    truth: Path,
    results: Mapping[str, Path],
    frames: Iterable[str],
    most: int,
    why: str,
    size: Size | None,
    lost: Shortfall | None,
) -> Iterator[LabelledFrame]:
    """Reads frame by frame. Unusable masks go to ``lost``; without it they raise ValueError or FileNotFoundError.

    Args:
        results: the folders, by name.
        most: highest id that a prediction may have, and ``why``.
        size: of the ground truth; None where it is taken as it comes.
    """
    for frame in frames:
        try:
            labels = read_mask_of(mask_path(truth, frame), size)
        except (ValueError, OSError) as error:
            if lost is None:
                raise
            lost.truth += 1
            lost.note(f"video {truth.name}, frame {frame}", error)
            continue
        predictions: list[np.ndarray | None] = []
        for name, folder in results.items():
            try:
                predictions.append(_predicted(folder / f"{frame}.png", labels.shape, truth, most, why))
            except (ValueError, OSError) as error:
                if lost is None:
                    raise
                predictions.append(None)
                lost.predictions += 1
                # missing masks are named together
                if _there(folder / f"{frame}.png"):
                    lost.note(f"video {truth.name}, {name}, frame {frame}", f"scored as 0: {error}")
        yield labels, predictions


def _there(path: Path) -> bool:
    """Whether a mask of the results is there, be it a link or a pipe, which reading it refuses."""
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir())


def _predicted(path: Path, shape: Size, truth: Path, most: int, why: str) -> np.ndarray:
    """A label map of the results; raises ValueError where its size disagrees or an id is above ``most``."""
    most_read = most_bytes(shape)
    if odd := _LINK if path.parent.is_symlink() else _there(path) and unfit(path, most_read, links=False):
        raise ValueError(f"{path} {odd}")
    # the size first: nothing is decoded that would then be refused
    if (size := label_size(path)) != shape:
        raise ValueError(
            f"{path} is {list(size)}, but the ground truth {truth / path.name} is "
            f"{list(shape)} (height, width); results are written in the frames' original size"
        )
    predicted = read_labels(path, most_read)
    highest = int(predicted.max())
    if highest > most:
        raise ValueError(f"{path} holds object {highest}, but {why}")
    return predicted


def score_video(
    protocol: str,
    truth: Path,
    results: Mapping[str, Path] | Sequence[Path],
    frames: Sequence[str],
    lost: Shortfall | None = None,
) -> list[dict]:
    """Scores one video by one protocol.

    Args:
        protocol: one of :data:`PROTOCOLS`.
        truth: folder of its ground truth, ``<frame>.png``.
        results: folders of its label maps, by the names that messages have for them.
        frames: names of its frames, in order.
        lost: takes unusable masks; without it the first one is an error.

    Returns:
        For each of the results ``{object id: {"J", "F"}}``, each :data:`STATISTICS` by name.

    Raises:
        Unscorable: there is nothing to score.
        FileNotFoundError, ValueError: a mask is missing, damaged, of another size or holds too high an id.
    """
    if not isinstance(results, Mapping):
        results = {str(folder): folder for folder in results}
    size = None if lost is None else mask_size(truth, frames)
    first = mask_path(truth, frames[0])
    try:
        count = count_objects(read_mask_of(first, size))
    except (ValueError, OSError) as error:
        if lost is None:
            raise
        raise Unscorable(f"{error}; the first frame says what the objects are") from error
    if not count:
        raise Unscorable(f"{first}: the first frame shows no object, so there is nothing to score; restore the mask")
    if protocol == "unsupervised":
        why = f"there may be at most {MAX_PROPOSALS} proposals in a video"
        values = unsupervised(_read(truth, results, frames, MAX_PROPOSALS, why, size, lost))
    else:
        if len(frames) < 3:
            raise Unscorable(f"{truth}: {len(frames)} frames are too few; the first and the last are not scored")
        why = f"the ground truth in {truth} has only {count}; leave it out with --protocol unsupervised"
        values = semi_supervised(_read(truth, results, frames[1:-1], count, why, size, lost), count)
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


def require_folder(results: str | os.PathLike) -> None:
    """FileNotFoundError where there is no such folder of results."""
    if not Path(results).is_dir():
        raise FileNotFoundError(f"{results}: no such folder; give the one that inference_davis.py wrote")


def annotator_folders(results: str | os.PathLike, videos: Iterable[str]) -> dict[str, Path]:
    """The folders of results to score, by name: those of the four annotators, or a single one.

    Raises:
        FileNotFoundError, ValueError: there is no such folder, an annotator is missing, or it holds neither.
    """
    results = Path(results)
    require_folder(results)
    present = [root for root in ANNOTATOR_ROOTS if (results / root).is_dir()]
    if present:
        missing = [root for root in ANNOTATOR_ROOTS if root not in present]
        if missing:
            raise FileNotFoundError(
                f"{results}: {', '.join(missing)} is not there; run inference_davis.py again to fill it, or score a "
                f"single annotator with {results / present[0]}"
            )
        linked = [root for root in ANNOTATOR_ROOTS if (results / root).is_symlink()]
        if linked:
            raise ValueError(f"{results / linked[0]} is a link, which is not followed; put the folder itself there")
        return {root: results / root for root in ANNOTATOR_ROOTS}
    if any((results / video).is_dir() for video in videos):
        return {results.resolve().name: results}
    inner = [child.name for child in sorted(results.iterdir()) if (child / ANNOTATOR_ROOTS[0]).is_dir()]
    hint = f"; give {results / inner[0]}" if inner else ""
    raise ValueError(f"{results} holds neither {ANNOTATOR_ROOTS[0]} … nor a folder of any video of the split{hint}")


def missing_frames(folders: Mapping[str, Path], videos: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
    """The missing frames of each result and video."""
    lines = {}
    for name, folder in folders.items():
        for video, frames in videos.items():
            absent = [frame for frame in frames if not _there(folder / video / f"{frame}.png")]
            if absent:
                lines[name, video] = f"{len(absent)} of {len(frames)} frames, the first is {absent[0]}"
    return lines


def _score_leniently(video: str, *arguments) -> tuple[list[dict], Shortfall]:
    """Scores of a video and what they leave out; no scores where there is no object."""
    lost = Shortfall()
    try:
        return score_video(*arguments, lost), lost
    except Unscorable as error:
        lost = Shortfall(whole=1)
        lost.note(f"video {video}", f"not scored: {error}")
        return [], lost


def _score_strictly(video: str, *arguments) -> tuple[list[dict], Shortfall]:
    return score_video(*arguments), Shortfall()


def score_results(
    results: str | os.PathLike,
    truth: str | os.PathLike,
    videos: Mapping[str, Sequence[str]],
    protocol: str = "unsupervised",
    workers: int = 1,
    gaps: Gaps | None = None,
) -> dict:
    """Scores the results of the four annotators, or a single results folder, always from the masks.

    Args:
        results: holds ``anno_0`` to ``anno_3``, or is one folder of ``<video>/<frame>.png``.
        truth: ground truth, ``<video>/<frame>.png``.
        videos: names of the frames of each video.
        protocol: one of :data:`PROTOCOLS`.
        workers: processes; each holds one frame at a time. Above 1, a script needs its ``__main__`` guard.
        gaps: takes unusable masks and videos. Without it the first one is an error.

    Returns:
        ``{"J&F", "J", "F", "objects", "annotators", "incomplete"?}``: the mean over the annotators, and for each of
        them the mean over all objects and ``sequences``, for each video the mean over its objects and ``objects``. J
        and F are :data:`STATISTICS` by name. ``incomplete`` says how much cannot be used (:class:`Shortfall`), where
        something is.

    Raises:
        Unscorable: nothing is left to score.
        FileNotFoundError, ValueError: masks are missing, damaged or do not fit; each is named.
    """
    gaps = gaps or Gaps(strict=True)
    if not videos:
        raise ValueError("there is nothing to score: the list of videos is empty")
    folders = annotator_folders(results, videos)
    inner = slice(None) if gaps.strict or protocol == "unsupervised" else slice(1, -1)
    asked = {video: frames[inner] for video, frames in videos.items()}
    missing = missing_frames(folders, asked)
    if missing and gaps.strict:
        told = summarise([f"{name}, video {video}: {which}" for (name, video), which in missing.items()])
        raise ValueError(f"{results}: masks are missing: {told}. Run inference again to fill them")
    for name, folder in folders.items():
        if not any(_there(folder / v / f"{frame}.png") for v, frames in videos.items() for frame in frames):
            raise ValueError(
                f"{results}: {name} has not one mask of the split's videos; run inference again to fill it"
            )
    jobs = (
        (video, (video, protocol, Path(truth, video), {n: f / video for n, f in folders.items()}, list(frames)))
        for video, frames in videos.items()
    )
    work = _score_strictly if gaps.strict else _score_leniently
    scored = run_jobs(work, jobs, workers, total=len(videos), desc=protocol, unit="video")
    listed = {item.partition(",")[0].removeprefix("video ") for item, _ in gaps.items}
    lost = Shortfall(whole=len(listed - videos.keys()), problems=list(gaps.items))
    for _, of_video in scored.values():
        lost += of_video
    for (name, video), which in missing.items():
        if scored[video][0]:
            lost.note(f"video {video}, {name}", f"masks are missing and scored as 0: {which}")
    for problem in lost.problems:
        gaps.add(*problem)
    usable = sum(len(asked[video]) for video, (by_result, _) in scored.items() if by_result) - lost.truth
    if usable and lost.predictions == usable * len(folders):
        raise ValueError(f"{results}: not one mask can be scored; the first problem: {in_words(*lost.problems[0])}")
    annotators = {}
    for k, name in enumerate(folders):
        sequences = {
            video: {**average(by_result[k].values()), "objects": by_result[k]}
            for video, (by_result, _) in scored.items()
            if by_result
        }
        if not sequences:
            raise Unscorable(f"{truth}: there is nothing to score: {in_words(*lost.problems[0])}")
        every = [of_object for sequence in sequences.values() for of_object in sequence["objects"].values()]
        annotators[name] = {**average(every), "sequences": sequences}
    objects = sum(len(by_result[0]) for by_result, _ in scored.values() if by_result)
    means = {**average(annotators.values()), "objects": objects, "annotators": annotators}
    return means | lost.described("frames", "videos")
