"""The scores of a model on a split of any data set, as the papers of that data set report them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from datasets import EvalClip, EvalSet, davis, long_rvos, mevis, refcoco
from datasets.davis import AnnotatedVideo
from datasets.scorable import long_rvos_split, mevis_split, scorable_split
from datasets.texts import asked_texts, digests
from davis2017 import averages, davis_protocol, ytvos_protocol
from davis2017.truth import ObjectFolders, RleMasks
from engine import predict_annotators, predict_clips, predict_split
from models import Predictor, PredictorSettings
from util.files.writing import write_json
from util.masks import box_metrics, metrics
from util.masks.coco import Truth, fitted
from util.masks.results import ANNOTATOR_ROOTS, RESULTS_ROOT, claim_results
from util.run import dist
from util.run.cores import cores
from util.run.counts import counted
from util.run.gaps import Gaps, Shortfall, beside, in_words
from util.video.visualize import PREDICTED_COLOUR, painter

# A scoring process takes seconds to start, as long as scoring a few videos.
VIDEOS_PER_PROCESS, MOST_PROCESSES = 4, 16  # of those that score; each takes memory beside the processes that train
PICTURES = 4
PICTURE_FRAMES = 8


def score_split(
    split: EvalSet,
    predictor: Predictor,
    settings: PredictorSettings,
    weights: str,
    output_dir: Path,
    gaps: Gaps | None = None,
) -> float | None:
    """Prints the scores of a split; the predictions stay in a folder of their own in ``output_dir``.

    Args:
        settings: of the predictor.
        weights: a digest of the weights of the predictor.
        gaps: takes the items of all ranks that cannot be read or scored, on rank 0. Without it the first is an error.

    Returns:
        On rank 0 the score by which a model is chosen: J&F of videos, mAP of single frames; elsewhere None.
    """
    results = output_dir / f"eval_{split.name}_{split.split}"
    run = {"split": split.split, **record(weights, split, settings, predictor.device)}
    if split.scores_frames:
        return score_frames(split, predictor, results, run, gaps, settings.patience)
    return score_videos(split, predictor, results, run, gaps)


def record(weights: str, split: EvalSet, settings: PredictorSettings, device: torch.device) -> dict[str, object]:
    """All that masks depend on."""
    return {"checkpoint": weights, **split.described(), **settings.described(device)}


def pictures(split: EvalSet, predictor: Predictor) -> dict[str, np.ndarray]:
    """The first expression of the first clips of a split, painted over three of their frames: uint8 ``[H, W, 3]``."""
    frames_only, drawn = split.scores_frames, {}
    for clip in (split.clips if frames_only else split.videos)(Gaps(silent=True))[:PICTURES]:
        texts = clip.annotators[0] if isinstance(clip, AnnotatedVideo) else clip.expressions
        text = next(iter(texts.values()))
        try:
            frames = clip.read() if frames_only else clip.read(_spread(len(clip.frame_names), PICTURE_FRAMES))
        except (ValueError, OSError):  # scoring has named it already
            continue
        (masks,), (score,) = predictor(frames, [text])
        shown = _spread(len(frames), min(3, len(frames)))
        side_by_side = np.concatenate([frames[t].permute(1, 2, 0).numpy() for t in shown], axis=1)
        found = np.concatenate([masks[t].numpy() for t in shown], axis=1)
        name = clip.clip_id if frames_only else clip.video_id
        drawn[name] = painter([f"{text} ({score:.2f})"], [PREDICTED_COLOUR])(side_by_side, found[None])
    return drawn


def _spread(length: int, count: int) -> list[int]:
    """``count`` places from the first frame to the last."""
    return np.linspace(0, length - 1, count).round().astype(int).tolist()


def score_videos(
    split: EvalSet, predictor: Predictor, results: Path, run: dict, gaps: Gaps | None = None
) -> float | None:
    """J, F and J&F of whole videos, of MeViS version 2 also N-acc, T-acc and Final; returns J&F on rank 0. ``run`` is
    all that the results depend on.

    A video that cannot be read gets no masks, and its expressions score 0.
    """
    gaps = gaps or Gaps(strict=True)
    predict, score, roots = {
        "ytvos": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "joint": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "davis": (predict_annotators, davis_protocol.score_results, ANNOTATOR_ROOTS),
        "mevis": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "mevis_v2": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
        "long_rvos": (predict_split, ytvos_protocol.score_results, [RESULTS_ROOT]),
    }[split.name]
    with dist.together():
        to_predict = split.videos(gaps)
        if dist.is_main():
            # errors in the ground truth show now, and not after hours of inference
            in_scores = Gaps(gaps.strict, known=gaps)
            truth, videos = video_truth(split, in_scores)
            predictor.announce(asked_texts(split.name, to_predict))
            claim_results(results, run, replace=True, roots=roots, asked=digests(to_predict))
    predict(predictor, to_predict, results, gaps=gaps)
    gaps.share()
    if not dist.is_main():
        return None
    workers = min(cores(), MOST_PROCESSES, max(1, len(videos) // VIDEOS_PER_PROCESS))
    scores = score(results, truth, videos, workers=workers, gaps=in_scores)
    gaps.take(in_scores)
    if "incomplete" in scores:
        scores["incomplete"]["problems"] = [in_words(*problem) for problem in gaps.items]
    write_json(results / "scores.json", scores)
    # DAVIS's protocol has other statistics of J and F besides their means
    means = {m: scores[m]["mean"] if isinstance(scores[m], dict) else scores[m] for m in "JF"}
    further = (*averages.MEASURES[3:], *averages.ACCURACIES)
    headline = {"J&F": scores["J&F"], **means, **{name: scores[name] for name in further if name in scores}}
    said = (f"{name} {averages.number(value).strip()}" for name, value in headline.items())
    print(f"{split.split}: " + ", ".join(said) + beside(scores))
    return scores["J&F"]


def texts_to_score(split: EvalSet) -> Iterator[tuple[str, str]]:
    """Pairs of place and text, of all expressions of a split that is to be scored.

    Raises ValueError and FileNotFoundError where the split cannot be scored, for example without public masks.
    """
    gaps = Gaps(silent=True)  # scoring will name them
    if split.scores_frames:
        asked = split.clips(gaps)
        split.truth(asked, gaps)
    else:
        asked = split.videos(gaps)
        video_truth(split, gaps)
    return asked_texts(split.name, asked)


def video_truth(split: EvalSet, gaps: Gaps) -> tuple:
    """The masks and the videos of a split whose whole videos are scored; damaged items are left out and become gaps."""
    read = {"ytvos": ytvos_truth, "joint": ytvos_truth, "davis": davis_truth, "long_rvos": long_rvos_truth}
    return (mevis_truth if split.name in mevis.LAYOUTS else read[split.name])(split, gaps)


def ytvos_truth(split: EvalSet, gaps: Gaps) -> tuple[Path, dict[str, dict]]:
    """The folder of the masks of a split of Ref-YouTube-VOS, and its videos."""
    given = {"annotations": split.annotations, "expressions": split.expressions}
    return scorable_split(split.root, split.split, split.holdout, gaps=gaps, **given)


def mevis_truth(split: EvalSet, gaps: Gaps) -> tuple[RleMasks, dict[str, dict]]:
    """The masks of a split of MeViS, in either version, and its videos."""
    store, videos = mevis_split(split.root, split.split, split.holdout, gaps, mevis.LAYOUTS[split.name])
    return RleMasks(store.path, store, may_be_empty=split.name == "mevis_v2"), videos


def long_rvos_truth(split: EvalSet, gaps: Gaps) -> tuple[ObjectFolders, dict[str, dict]]:
    """The masks of a split of Long-RVOS, and its videos."""
    annotations, videos = long_rvos_split(split.root, split.split, split.holdout, gaps)
    return ObjectFolders(annotations, long_rvos.frames_root(split.root, split.split)), videos


def davis_truth(split: EvalSet, gaps: Gaps) -> tuple[Path, dict[str, list[str]]]:
    """The folder of the masks of a split of Ref-DAVIS17, and the frames of its videos."""
    annotations, videos = scorable_split(split.root, split.split, split.holdout, davis.REF_DAVIS, gaps)
    return annotations, {vid: video["frames"] for vid, video in videos.items()}


def score_frames(
    split: EvalSet,
    predictor: Predictor,
    results: Path,
    run: dict,
    gaps: Gaps | None = None,
    patience: float = 0,
) -> float | None:
    """Prints precision, IoU and mAP of the masks of single frames, and of RefCOCO's images also scores of the boxes.

    ``run`` is all that the results depend on. Returns the mAP on rank 0, elsewhere None.
    """
    gaps = gaps or Gaps(strict=True)
    with dist.together():
        clips = split.clips(gaps)
        truth = split.truth(clips, gaps)
    predictor.announce(asked_texts(split.name, clips))
    boxes = split.name in refcoco.SETS
    # ReferFormer's A2DSentencesPostProcess (models/postprocessors.py) gives masks of both sets the size of their truth
    fit = split.name in ("a2d", "jhmdb")
    how = dict(boxes=boxes, fit=fit, gaps=gaps, patience=patience)
    scores = score_clips(predictor, clips, truth, results, run, **how)
    if scores is None:
        return None
    seen = f"{counted(scores['samples'], 'samples')} in {counted(len(clips), 'frames')}"
    print(f"{split.name} {split.split}, {seen}:{beside(scores)}")
    print(metrics.table(scores))
    if "boxes" in scores:
        print(box_metrics.table(scores["boxes"]))
    print(f"scores and predictions: {results}")
    return scores["all_queries"]["mAP"]


def score_clips(
    predictor: Predictor,
    clips: Sequence[EvalClip],
    truth: Mapping[str | int, Truth],
    results_dir: Path,
    run: dict,
    *,
    boxes: bool = False,
    fit: bool = False,
    gaps: Gaps | None = None,
    patience: float = 0,
) -> dict | None:
    """Predicts the clips and scores their samples, each once at any number of ranks.

    Args:
        truth: ground truth of the samples of the clips, by image id. Samples that are gaps are missing.
        results_dir: takes ``predictions.json`` (COCO's form, every query) and ``scores.json``.
        run: what the results depend on; written into ``scores.json``.
        boxes: also score the boxes.
        fit: resize masks to the size of their ground truth where it differs from the frame.
        gaps: holds the samples without ground truth, which are left out. It takes samples that cannot be read or whose
            size is wrong, which score 0. Without it the first one is an error.
        patience: seconds to wait for the frames of a clip; 0: no limit.

    Returns:
        On rank 0 the scores of :func:`util.masks.metrics.score_masks`, with those of
        :func:`util.masks.box_metrics.score_boxes` as ``boxes`` and, where something is missing, how much of it as
        ``incomplete``; elsewhere None.
    """
    gaps = gaps or Gaps(strict=True)
    without_truth = sum(item.startswith("sample ") for item, _ in gaps.items)
    predictions = predict_clips(predictor, clips, patience=patience, gaps=gaps)
    gaps.share()
    if not dist.is_main():
        return None
    if fit:
        same = [fitted(truth[p["image_id"]], p) if p["image_id"] in truth else p for p in predictions]
        if resized := len({p["image_id"] for p, f in zip(predictions, same, strict=True) if p is not f}):
            print(f"{resized} samples have truth of another size than their frame; their masks are given that size")
        predictions = same
    write_json(results_dir / "predictions.json", predictions, indent=None)
    scored = predictions
    if not gaps.strict:
        scored = [prediction for prediction in predictions if prediction["image_id"] in truth]
        wrong = metrics.misfits(truth, scored)
        for name, problem in wrong.items():
            gaps.add(f"sample {name}", problem)
        scored = [prediction for prediction in scored if prediction["image_id"] not in wrong]
        if not scored:
            first = in_words(*gaps.items[0]) if gaps.items else "there is not one sample"
            raise ValueError(f"not one sample can be scored; the first problem: {first}")
    scores = metrics.score_masks(truth, scored, partial=not gaps.strict)
    if boxes:
        truth_boxes = {name: sample.box for name, sample in truth.items()}
        scores["boxes"] = box_metrics.score_boxes(truth_boxes, scored, partial=not gaps.strict)
    unanswered = len(truth.keys() - {prediction["image_id"] for prediction in scored})
    scores |= Shortfall(unanswered, without_truth, problems=gaps.items).described("samples")
    write_json(results_dir / "scores.json", {"run": run, **scores})
    return scores
