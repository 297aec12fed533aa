"""J&F of Ref-YouTube-VOS results on a split that has masks.

For each (video, expression): J and F over the frames listed for the video against that object's binary mask, averaged
over frames, then over expressions.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from davis2017.label_maps import LABELS, ids_in, read_labels
from davis2017.metrics import PreparedMask
from util.parallel import run_jobs
from util.writers import Results, mask_name, missing_masks, root_problem, summarise

_results: Results | None = None


def _target_of(vid: str, eid: str, expression: Mapping) -> int:
    try:
        target = int(expression["obj_id"])
    except KeyError:
        raise ValueError(
            f"video {vid}, expression {eid} has no obj_id: a split without them cannot be scored"
        ) from None
    except (TypeError, ValueError):
        target = 0
    if not 0 < target < LABELS:
        raise ValueError(f"video {vid}, expression {eid}: obj_id {expression['obj_id']!r} is no object id (1 to 255)")
    return target


def _predicted(results: Results, vid: str, eid: str, frame: str, shape: tuple[int, ...]) -> PreparedMask:
    name = mask_name(vid, eid, frame)
    mask = np.asarray(results.image(name))
    if mask.shape != shape:
        raise ValueError(
            f"{results.path}: {name} is {list(mask.shape)}, but the ground truth is {list(shape)} (height, width); "
            "masks are written in the frame's original size, with one channel"
        )
    return PreparedMask(mask)


def score_video(results: Results, annotations: Path, vid: str, video: Mapping, other_objects: bool) -> dict[str, dict]:
    """Scores every expression of one video; each label map is read once.

    Args:
        results: the predictions.
        annotations: folder of the video's mask PNGs.
        vid: name of the video.
        video: its ``expressions`` and ``frames``.
        other_objects: also compare with the other objects of the video.

    Returns:
        ``{expression id: {"exp", "obj_id", "kind"?, "frames", "J", "F", "J&F", "other"?}}``. ``other`` is the
        ``obj_id``, ``J``, ``F`` and ``J&F`` of the other object that the predictions fit best, None in a video
        without one.
    """
    expressions = video["expressions"]
    frames = video["frames"]
    targets = {eid: _target_of(vid, eid, expression) for eid, expression in expressions.items()}
    wanted = set(targets.values())
    totals = {eid: np.zeros((LABELS, 2)) for eid in targets}
    seen: set[int] = set()
    for frame in frames:
        labels = read_labels(annotations / f"{frame}.png")
        ids = ids_in(labels)
        seen |= ids
        objects = {i: PreparedMask(labels == i) for i in (ids if other_objects else ids & wanted)}
        absent = PreparedMask(np.zeros_like(labels))
        for eid in targets:
            predicted = _predicted(results, vid, eid, frame, labels.shape)
            # Which objects come later is not known yet: every id that is not here counts as an empty mask.
            scores = np.full((LABELS, 2), predicted.jf(absent))
            for i, mask in objects.items():
                scores[i] = predicted.jf(mask)
            totals[eid] += scores

    out = {}
    for eid, target in targets.items():
        if target not in seen:
            raise ValueError(
                f"video {vid}, expression {eid}: object {target} is in none of the masks in {annotations}, "
                f"which hold {sorted(seen)}; correct its obj_id"
            )
        means = totals[eid] / len(frames)
        out[eid] = {key: expressions[eid][key] for key in ("exp", "obj_id", "kind") if key in expressions[eid]}
        out[eid] |= {"frames": len(frames), **_named(means[target])}
        if other_objects:
            others = sorted(seen - {target}, key=lambda i: -means[i].mean())
            out[eid]["other"] = {"obj_id": str(others[0]), **_named(means[others[0]])} if others else None
    return out


def _named(jf: np.ndarray) -> dict[str, float]:
    return {"J": float(jf[0]), "F": float(jf[1]), "J&F": float(jf.mean())}


def average(expressions: Iterable[Mapping], other_objects: bool) -> dict[str, float | int | None]:
    """Means over expressions as :func:`score_video` returns them, and how many there are.

    ``J&F_other_object`` is there with ``other_objects``; None where no expression's video has another object.
    """
    expressions = list(expressions)
    out = {key: float(np.mean([e[key] for e in expressions])) for key in ("J", "F", "J&F")}
    out["expressions"] = len(expressions)
    if other_objects:
        others = [e["other"]["J&F"] for e in expressions if e["other"]]
        out["J&F_other_object"] = float(np.mean(others)) if others else None
    return out


def _open_results(path: Path) -> None:
    global _results
    cv2.setNumThreads(1)
    _results = Results(path)


def _score_in_worker(*args) -> dict[str, dict]:
    return score_video(_results, *args)


def score_results(
    results: str | os.PathLike,
    annotations_root: str | os.PathLike,
    videos: Mapping[str, dict],
    workers: int = 1,
    other_objects: bool = False,
) -> dict:
    """Scores a results folder or zip; the zip is not unpacked.

    Args:
        results: the predictions, ``Annotations/<video>/<expression id>/<frame>.png``.
        annotations_root: folder of ``<video>/<frame>.png``, pixel values being object ids.
        videos: ``{video: {"expressions": {id: {"exp", "obj_id", "kind"?}}, "frames": […]}}``; results of other videos
            are not looked at.
        workers: processes; each holds one video at a time. Above 1, a script needs its ``__main__`` guard.
        other_objects: also score the same masks against the *hardest other object*: for each expression, the other
            object of the video with the highest J&F. Videos with a single object stay out of this mean.

    Returns:
        ``{"J", "F", "J&F", "expressions", "J&F_other_object"?, "by_kind"?, "videos"}``: means over the expressions,
        each kind's in the same form (only where all expressions have the key ``kind``), and for each video what
        :func:`score_video` returns.

    Raises:
        FileNotFoundError, ValueError: masks are missing, damaged or of another size, or ids are wrong; each is named.
    """
    if not any(video["expressions"] for video in videos.values()):
        raise ValueError("there is nothing to score: the list of videos has no expressions")
    empty = [vid for vid, video in videos.items() if not video["frames"]]
    if empty:
        raise ValueError(f"video {empty[0]} lists no frames; mend its entry in meta_expressions.json")
    for vid, video in videos.items():
        for eid, expression in video["expressions"].items():
            _target_of(vid, eid, expression)

    annotations_root = Path(annotations_root)
    with Results(results) as opened:
        wrong_root = root_problem(opened)
        if wrong_root:
            raise ValueError(wrong_root)
        missing = missing_masks(opened.names, videos)
        if missing:
            raise ValueError(f"{results}: masks are missing: {summarise(missing)}. Run inference again to fill them")
        jobs = {vid: (annotations_root / vid, vid, video, other_objects) for vid, video in videos.items()}
        workers = min(workers, len(jobs))
        work = partial(score_video, opened) if workers == 1 else _score_in_worker
        by_video = run_jobs(
            work, jobs, workers, desc="score", unit="video", prepare=_open_results, prepare_with=(opened.path,)
        )

    every = [expression for video in by_video.values() for expression in video.values()]
    out = average(every, other_objects)
    if all("kind" in expression for expression in every):
        kinds = defaultdict(list)
        for expression in every:
            kinds[expression["kind"]].append(expression)
        out["by_kind"] = {kind: average(kinds[kind], other_objects) for kind in sorted(kinds)}
    return out | {"videos": by_video}
