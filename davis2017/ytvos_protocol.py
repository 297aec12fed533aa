"""J&F of Ref-YouTube-VOS and MeViS results on a split that has masks.

For each (video, expression): J and F over the frames listed for the video against the binary mask of what is meant, in
MeViS the union of some objects, averaged over frames, then over expressions.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from davis2017.metrics import PreparedMask
from davis2017.truth import LabelMaps, Target, Truth, VideoTruth
from util.parallel import run_jobs
from util.writers import RESULTS_ROOT, Results, mask_name, missing_masks, root_problem, summarise

# What the scores of an expression repeat of its entry in meta_expressions.
KEPT = ("exp", "obj_id", "anno_id", "kind")
OTHER = "J&F_other_object"

_results: Results | None = None


def _predicted(results: Results, name: str, shape: tuple[int, ...]) -> PreparedMask:
    mask = np.asarray(results.image(name))
    if mask.shape != shape:
        raise ValueError(
            f"{results.path}: {name} is {list(mask.shape)}, but the ground truth is {list(shape)} (height, width); "
            "masks are written in the frame's original size, with one channel"
        )
    return PreparedMask(mask)


def score_video(
    results: Results, root: str, truth: VideoTruth, targets: Mapping[str, Target], video: Mapping, other_objects: bool
) -> dict[str, dict]:
    """Scores every expression of one video; its ground truth is read once.

    Args:
        results: the predictions.
        root: folder in them that holds the videos' folders.
        truth: the masks of the video.
        targets: what each expression means.
        video: its ``id``, ``expressions`` and ``frames``.
        other_objects: also compare with what each expression may be mistaken for.

    Returns:
        ``{expression id: {"exp", "obj_id", "anno_id"?, "kind"?, "frames", "J", "F", "J&F", "other"?}}``. ``other`` is
        the ``obj_id`` or ``anno_id``, ``J``, ``F`` and ``J&F`` of the target without any of the expression's objects
        that the predictions fit best, None in a video without one.
    """
    expressions, frames = video["expressions"], video["frames"]
    wanted = set(targets.values())
    totals: dict[str, dict[Target, np.ndarray]] = {eid: {} for eid in targets}
    # Which objects come later is not known yet: until then each would have been scored against an empty mask.
    blank = {eid: np.zeros(2) for eid in targets}
    for t, frame in enumerate(frames):
        size, masks = truth.frame(t, frame, wanted, other_objects)
        shown = {target: PreparedMask(mask) for target, mask in masks.items()}
        absent = PreparedMask(np.zeros(size, bool))
        for eid, target in targets.items():
            predicted = _predicted(results, mask_name(video["id"], eid, frame, root), size)
            against_blank = np.array(predicted.jf(absent))
            sums = totals[eid]
            for new in shown.keys() - sums.keys():
                if new == target or (other_objects and not set(new) & set(target)):
                    sums[new] = blank[eid].copy()
            for candidate in sums:
                sums[candidate] += predicted.jf(shown[candidate]) if candidate in shown else against_blank
            blank[eid] += against_blank

    out = {}
    for eid, target in targets.items():
        if target not in totals[eid]:
            which = f"object {target[0]} is" if len(target) == 1 else f"objects {', '.join(map(str, target))} are"
            raise ValueError(
                f"video {video['id']}, expression {eid}: {which} in none of the masks in {truth.where}, "
                f"which hold {sorted(truth.objects)}; correct its {next(iter(truth.named(target)))}"
            )
        means = {candidate: total / len(frames) for candidate, total in totals[eid].items()}
        out[eid] = {key: expressions[eid][key] for key in KEPT if key in expressions[eid]}
        out[eid] |= {"frames": len(frames), **_named(means[target])}
        if other_objects:
            others = sorted(means.keys() - {target}, key=lambda other: (-means[other].mean(), other))
            out[eid]["other"] = {**truth.named(others[0]), **_named(means[others[0]])} if others else None
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
        out[OTHER] = float(np.mean(others)) if others else None
    return out


def _open_results(path: Path) -> None:
    global _results
    _results = Results(path)


def _score_in_worker(*args) -> dict[str, dict]:
    return score_video(_results, *args)


def score_results(
    results: str | os.PathLike,
    truth: str | os.PathLike | Truth,
    videos: Mapping[str, dict],
    workers: int = 1,
    other_objects: bool = False,
    root: str = RESULTS_ROOT,
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
    truth = truth if isinstance(truth, Truth) else LabelMaps(Path(truth))
    targets = {
        vid: {eid: truth.target(vid, eid, expression) for eid, expression in video["expressions"].items()}
        for vid, video in videos.items()
    }

    with Results(results) as opened:
        wrong_root = root_problem(opened, root)
        if wrong_root:
            raise ValueError(wrong_root)
        missing = missing_masks(opened.names, videos, root)
        if missing:
            raise ValueError(f"{results}: masks are missing: {summarise(missing)}. Run inference again to fill them")
        # The masks of a video are taken out only when it is its turn: all of MeViS's at once are too many.
        jobs = (
            (vid, (root, truth.video(vid, targets[vid].values()), targets[vid], {**video, "id": vid}, other_objects))
            for vid, video in videos.items()
        )
        workers = min(workers, len(videos))
        by_video = run_jobs(
            partial(score_video, opened) if workers == 1 else _score_in_worker,
            jobs,
            workers,
            total=len(videos),
            desc="score",
            unit="video",
            prepare=_open_results,
            prepare_with=(opened.path,),
        )

    every = [expression for video in by_video.values() for expression in video.values()]
    out = average(every, other_objects)
    if all("kind" in expression for expression in every):
        kinds = defaultdict(list)
        for expression in every:
            kinds[expression["kind"]].append(expression)
        out["by_kind"] = {kind: average(kinds[kind], other_objects) for kind in sorted(kinds)}
    return out | {"videos": by_video}


def table(scores: dict, worst: int) -> str:
    """What :func:`score_results` returns as text: each video, the worst expressions, each kind, the headline last."""
    other = OTHER in scores
    width = max(len(name) for name in ("video", "mean", *scores["videos"], *scores.get("by_kind", {})))

    def line(name: str, mean: dict) -> str:
        cells = [f"{name:<{width}}", f"{mean['expressions']:>5}"]
        cells += [f"{mean[key]:6.4f}" for key in ("J", "F", "J&F")]
        if other:
            cells.append("     -" if mean[OTHER] is None else f"{mean[OTHER]:6.4f}")
        return "  ".join(cells)

    header = f"{'video':<{width}}  expr.  J       F       J&F   " + ("  other" if other else "")
    lines = [header.rstrip(), *(line(vid, average(video.values(), other)) for vid, video in scores["videos"].items())]
    lines += [line("mean", scores)]
    every = [(vid, eid, e) for vid, video in scores["videos"].items() for eid, e in video.items()]
    every.sort(key=lambda case: case[2]["J&F"])
    if worst:
        lines += ["", "worst expressions (J&F, video, expression)"]
        lines += [f"{e['J&F']:6.4f}  {vid}  {eid}: {e.get('exp', '')}" for vid, eid, e in every[:worst]]
    if "by_kind" in scores:
        lines += ["", header.replace("video", "kind ", 1).rstrip()]
        lines += [line(kind, mean) for kind, mean in scores["by_kind"].items()]
    lines += ["", f"J&F {scores['J&F']:.4f}   J {scores['J']:.4f}   F {scores['F']:.4f}"]
    if other:
        value = "no video has another object" if scores[OTHER] is None else f"{scores[OTHER]:.4f}"
        lines += [f"J&F against the hardest other object: {value}"]
    return "\n".join(lines)
