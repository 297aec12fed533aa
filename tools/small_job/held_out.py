"""Scores of held-out videos, and whether a model uses language and time.

For the latter the videos are segmented again with the expression of another object, with a text without content, with
every frame replaced by the first, and by a model that was never trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

import datasets
import models
from datasets import VideoSet
from datasets.ytvos import annotations_root, means_nothing, split_videos
from davis2017.averages import ACCURACIES
from davis2017.ytvos_protocol import score_results
from engine import predict_split
from models.predictor import Predictor
from models.text_encoder import TextEncoder
from tools.calibrate import figures, listed
from tools.calibrate import scores as answer_scores
from tools.data.synthetic_text import ABSENT
from util.masks.results import claim_results
from util.run.precision import inference_amp

BLANK = "the object"
CONTROLS = ("shuffled", "blank", "first_frame", "untrained")


def score(results: Path, data: Path, meta: dict[str, dict] | None = None) -> dict:
    """J&F of a results folder on the held-out videos, and against the other object of each video that fits best.

    Args:
        meta: entries of meta_expressions to score; None: all.
    """
    meta = meta or split_videos(data, "valid")
    return score_results(results, annotations_root(data, "valid"), meta, other_objects=True)


def meaningful(data: Path) -> dict[str, dict]:
    """The entries of the held-out videos with the expressions that mean an object."""
    return {
        name: entry | {"expressions": {e: of for e, of in entry["expressions"].items() if not means_nothing(of)}}
        for name, entry in split_videos(data, "valid").items()
    }


def presence(trained: Path, folder: Path, data: Path, device: torch.device) -> dict[str, float | int]:
    """How well the scores tell the expressions that mean something in their video from the others; and J&F, N-acc and
    T-acc where expressions with a low score are answered with "not there". ``folder`` takes the masks.
    """
    predictor, args = models.load_with_options(trained, device)
    args.ytvos_path = data
    split = datasets.eval_set(args, "valid")
    told = figures(*answer_scores(predictor, *listed(split)))
    scores = control(predictor, split.videos(), folder, data, "not there", trained, split_videos(data, "valid"))
    return told | {"not_there": predictor.not_there} | {name: scores[name] for name in ("J&F", *ACCURACIES)}


def shuffled(videos: VideoSet, meta: dict[str, dict]) -> VideoSet:
    """The videos with every expression replaced by one of the same video that means another object, if there is one."""
    swapped = []
    for video in videos:
        asked = meta[video.video_id]["expressions"]
        ids = list(asked)
        texts = {}
        for i, exp_id in enumerate(ids):
            later = ids[i + 1 :] + ids[:i]
            other = next((o for o in later if asked[o]["obj_id"] != asked[exp_id]["obj_id"]), exp_id)
            texts[exp_id] = asked[other]["exp"]
        swapped.append(replace(video, expressions=texts))
    return swapped


def controls(
    trained: Path,
    folder: Path,
    data: Path,
    seed: int,
    names: Sequence[str] = CONTROLS,
    device: torch.device | None = None,
) -> dict[str, dict]:
    """Scores of the held-out videos under other conditions, by name, which are :data:`CONTROLS` or "asked", for none.

    Args:
        trained: the checkpoint; folder: takes the masks; seed: of the weights of the untrained model.
    """
    predictor, args = models.load_with_options(trained, device, not_there=0.0)
    args.ytvos_path = data
    meta = meaningful(data)
    videos = [
        replace(video, expressions={e: video.expressions[e] for e in meta[video.video_id]["expressions"]})
        for video in datasets.eval_set(args, "valid").videos()
    ]

    def untrained() -> Predictor:
        torch.manual_seed(seed)
        text_encoder = TextEncoder.from_description(predictor.model.text_encoder.description(), frozen=False)
        model = models.assemble(args, datasets.num_classes(args), text_encoder).to(predictor.device)
        return models.build_predictor(model, models.predictor_settings(args, amp=inference_amp(args.amp)))

    changed = {
        "shuffled": shuffled(videos, meta),
        "blank": [replace(v, expressions=dict.fromkeys(v.expressions, BLANK)) for v in videos],
        "first_frame": [replace(v, frame_paths=v.frame_paths[:1] * len(v.frame_paths)) for v in videos],
    }
    return {
        name: control(
            untrained() if name == "untrained" else predictor,
            changed.get(name, videos),
            folder / name,
            data,
            name,
            trained,
            meta,
        )
        for name in names
    }


def control(
    predictor: Predictor, videos: VideoSet, folder: Path, data: Path, name: str, trained: Path, meta: dict[str, dict]
) -> dict:
    """Scores of videos under other conditions; ``meta``: the entries to score."""
    claim_results(folder, {"checkpoint": str(trained), "control": name}, replace=True)
    predict_split(predictor, videos, folder, desc=name)
    return score(folder, data, meta)


def summary(scores: dict, controls: dict[str, dict]) -> dict:
    """The content of metrics.json: the scores, those of every control, and both again for each kind of expression."""

    def line(pick) -> dict:
        mean = pick(scores)
        out = {key: mean[key] for key in ("J", "F", "J&F", "J&F_other_object", "expressions")}
        return out | {f"J&F_{name}": pick(run)["J&F"] for name, run in controls.items()}

    kinds = {kind: line(lambda run, kind=kind: run["by_kind"][kind]) for kind in scores["by_kind"] if kind != ABSENT}
    return line(lambda run: run) | {"by_kind": kinds}


def table(metrics: dict) -> str:
    """The scores as a table; all columns after the first three should be low."""
    columns = ["J", "F", "J&F", "J&F_other_object", *(f"J&F_{name}" for name in CONTROLS)]
    heads = ["J", "F", "J&F", "other object", *(name.replace("_", " ") for name in CONTROLS)]
    lines = ["", "held-out videos".ljust(22) + "".join(h.rjust(14) for h in heads)]
    for name, row in [("all", metrics), *metrics["by_kind"].items()]:
        lines.append(f"{name} ({row['expressions']})".ljust(22) + "".join(f"{row[c]:14.3f}" for c in columns))
    if told := metrics.get("presence"):
        lines += ["", f"{told['absent']} further expressions mean nothing in their video. AUROC of the scores"]
        lines[-1] += f' {told["AUROC"]:.3f}. With "not there" below {told["not_there"]:g}: '
        lines[-1] += ", ".join(f"{name} {told[name]:.3f}" for name in ("J&F", *ACCURACIES))
    return "\n".join(lines)
