"""Which of its queries a checkpoint trusts, and whether the masks of the queries follow the words.

    python tools/small_job/queries.py output/demo/run/checkpoint.pth --ytvos_path output/demo/data

J&F mixes two questions: does some query cut out the object that the expression means, and does the class head know
which query that is? Held-out videos of the generator are answered, and each query is compared with the truth by itself.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import Tensor

import datasets
import models
from datasets.ytvos import annotations_root, split_videos
from davis2017.metrics import PreparedMask
from models.criterion import subsample
from models.postprocess import query_scores, resize_logits
from models.predictor import Predictor
from util.masks.box_ops import masks_to_boxes
from util.options.places import require_folder
from util.run import cli
from util.run.device import use_device
from util.run.log import progress_bar
from util.run.parser import CommandParser
from util.run.precision import autocast
from util.samples.structures import Targets
from util.video.pictures import read_label_maps


@dataclass
class Answer:
    """One expression, answered by n queries.

    Attributes:
        fit: float ``[n]``, J&F of each query against the object that is meant.
        elsewhere: float ``[n]``, the best J&F of each query against another object of the video.
        scores: float ``[n]``, class probability of each query, averaged over the frames.
        matched: the query that training would supervise.
        kind: of the expression.
    """

    fit: np.ndarray
    elsewhere: np.ndarray
    scores: np.ndarray
    matched: int
    kind: str


def main() -> None:
    parser = CommandParser("queries.py", __doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--ytvos_path", type=Path, required=True, help="a set of make_synthetic.py; valid is answered")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to this file")
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    asked = parser.parse_args()
    figures = measure(asked.checkpoint, asked.ytvos_path, use_device(asked.device))
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=2) + "\n")
    print("\n".join(f"{name:<22}{value:8.3f}" for name, value in figures.items()))


def measure(checkpoint: Path, data: Path, device: torch.device | None = None) -> dict[str, float]:
    """The figures of :func:`summary` for the held-out videos of a generated set."""
    require_folder("--ytvos_path", data)
    predictor, args = models.load_with_options(checkpoint, device)
    if not args.binary:
        raise ValueError(f"{checkpoint} has classes of objects; this tool is for models with one class, --binary")
    args.ytvos_path = data
    matcher = models.build_criterion(args).matcher
    meta = split_videos(data, "valid")
    answers, alike = [], []
    for video in progress_bar(datasets.eval_set(args, "valid").videos(), desc="answer", unit="video"):
        entry, frames = meta[video.video_id]["expressions"], video.read(slice(None))
        paths = [annotations_root(data, "valid") / video.video_id / f"{name}.png" for name in video.frame_names]
        labels = read_label_maps(paths, tuple(frames.shape[-2:]))[:, 0]
        found, masks = answer(predictor, matcher, frames, labels, list(entry.values()))
        answers += found
        alike += [overlap(masks[a], masks[b]) for a, b in pairs(entry)]
    return summary(answers, alike)


def pairs(entry: dict[str, dict]) -> list[tuple[int, int]]:
    """Places of two expressions of a video that mean different objects."""
    meant = [expression["obj_id"] for expression in entry.values()]
    return [(a, b) for a, b in combinations(range(len(meant)), 2) if meant[a] != meant[b]]


@torch.inference_mode()
def answer(
    predictor: Predictor, matcher, frames: Tensor, labels: Tensor, expressions: list[dict]
) -> tuple[list[Answer], Tensor]:
    """Answers the expressions of a video.

    Args:
        matcher: of the losses; frames: uint8 ``[t, 3, H, W]``; labels: ``[t, H, W]``, the object of each pixel;
            expressions: entries of meta_expressions.

    Returns:
        An answer for each expression, and the masks of all queries, bool ``[expressions, n, t, H, W]``.
    """
    encoded = predictor.encode(frames)
    with autocast(predictor.device, predictor.amp):
        text = predictor.model.encode_text([expression["exp"] for expression in expressions])
        clips = torch.zeros(len(expressions), dtype=torch.long, device=predictor.device)
        prediction = predictor.model.decode(encoded.features.of(clips), text).final.to("cpu")
    numbers = [int(number) for number in labels.unique() if number]
    objects = {number: [PreparedMask(label == number) for label in labels.numpy()] for number in numbers}
    meant = [int(expression["obj_id"]) for expression in expressions]
    targets = as_targets(torch.stack([labels == number for number in meant]))
    size = prediction.masks.shape[-2:]
    small = subsample(targets.masks, size).float()
    matched = matcher(prediction, targets, small, torch.ones_like(small)).squeeze(1)
    scores = query_scores(prediction.logits)
    sizes = encoded.input_size, encoded.original_size, predictor.model.mask_stride
    answers, masks = [], []
    for number, expression, logits, score, query in zip(
        meant, expressions, prediction.masks.float(), scores, matched, strict=True
    ):
        masks.append(resize_logits(logits, *sizes).transpose(0, 1) > predictor.threshold)
        prepared = [[PreparedMask(mask) for mask in of_query] for of_query in masks[-1].numpy()]
        fits = {n: np.array([jf(of_query, truth) for of_query in prepared]) for n, truth in objects.items()}
        rest = [fit for n, fit in fits.items() if n != number] or [np.zeros(len(prepared))]
        answers.append(Answer(fits[number], np.max(rest, 0), score.numpy(), int(query), expression["kind"]))
    return answers, torch.stack(masks)


def as_targets(masks: Tensor) -> Targets:
    """Ground truth of the losses from ``masks [b, t, H, W]``, one object for each expression; class 0."""
    b, t = masks.shape[:2]
    return Targets(
        masks=masks[:, :, None],
        boxes=masks_to_boxes(masks)[:, :, None],
        labels=torch.zeros(b, 1, dtype=torch.long),
        present=masks.flatten(2).any(-1)[..., None],
        annotated=torch.ones(b, t, dtype=torch.bool),
        valid=torch.ones(b, 1, dtype=torch.bool),
        identities=torch.arange(b),
        annotated_frames=list(range(t)),
    )


def jf(masks: list[PreparedMask], truth: list[PreparedMask]) -> float:
    """J&F of a trajectory."""
    return float(np.mean([mask.jf(true) for mask, true in zip(masks, truth, strict=True)]))


def overlap(a: Tensor, b: Tensor) -> float:
    """IoU of the masks ``[n, t, H, W]`` of each query for two expressions, averaged over the queries."""
    both, either = (a & b).flatten(1).sum(1), (a | b).flatten(1).sum(1)
    return float((both / either.clamp(min=1)).mean())


def summary(answers: list[Answer], alike: list[float]) -> dict[str, float]:
    """The figures, means over all expressions.

    Returns:
        - ``chosen`` and ``oracle``: J&F of the query of the highest score, and of the query that fits best;
        - ``right object``: how often the chosen query fits the object that is meant better than the others;
        - ``matched is chosen``: how often the query that training would supervise has the highest score;
        - ``entropy``: of which query is matched, in bits;
        - ``same masks``: IoU of a query's masks for two expressions that mean different objects;
        - ``score``: of the chosen query; ``score of matched``;
        - the J&F of the chosen query for each kind of expression.
    """
    chosen = [int(a.scores.argmax()) for a in answers]
    queries = len(answers[0].fit)
    share = np.bincount([a.matched for a in answers], minlength=queries) / len(answers)
    fits = np.array([a.fit[c] for a, c in zip(answers, chosen, strict=True)])
    figures = {
        "chosen": fits.mean(),
        "oracle": np.mean([a.fit.max() for a in answers]),
        "right object": np.mean([a.fit[c] > a.elsewhere[c] for a, c in zip(answers, chosen, strict=True)]),
        "matched is chosen": np.mean([a.matched == c for a, c in zip(answers, chosen, strict=True)]),
        "entropy": sum(s * np.log2(1 / s) for s in share if s),
        "same masks": np.mean(alike),
        "score": np.mean([a.scores.max() for a in answers]),
        "score of matched": np.mean([a.scores[a.matched] for a in answers]),
    }
    kinds = np.array([a.kind for a in answers])
    figures |= {kind: fits[kinds == kind].mean() for kind in sorted(set(kinds))}
    return {name: float(value) for name, value in figures.items()}


if __name__ == "__main__":
    cli.run(main)
