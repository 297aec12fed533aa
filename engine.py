"""One step of training; predictions for the videos or the clips of a split."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from datasets import EvalClip, VideoSet
from datasets.base import VideoEntry
from datasets.davis import AnnotatedVideo
from models.criterion import Criterion
from models.postprocess import fuse_objects
from models.predictor import FrameAnswer, Predictor
from util import dist
from util.coco import CATEGORY, encode_masks
from util.log import progress_bar
from util.precision import autocast
from util.structures import Batch
from util.writers import ANNOTATOR_ROOTS, holds_frames, is_complete, mask_name, write_label_png, write_mask_png

WRITERS = 2  # threads; PNGs are compressed outside of Python's lock
FRAMES_AT_ONCE = 8
ENCODING = 4  # what it costs to encode a frame, in answers to one expression in a frame

Video = TypeVar("Video", bound=VideoEntry)


@dataclass
class Step:
    """What came of an optimiser step.

    Attributes:
        taken: False where the loss or the gradient was not finite on some rank; then nothing has changed on any.
        overflow: not taken because float16 could not hold the gradient; the next loss is scaled less.
        terms: each loss term on this rank, over all micro-batches, and the weighted sum ``loss``.
        gradient_norm: before clipping, over all ranks.
    """

    taken: bool
    overflow: bool
    terms: dict[str, float]
    gradient_norm: float


def train_step(
    model: nn.Module,
    criterion: Criterion,
    batches: Sequence[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    device: torch.device,
    scaler: torch.amp.GradScaler,
    amp: torch.dtype | None,
    clip_max_norm: float,
) -> Step:
    """One optimiser step on all micro-batches of a rank, as on one batch of all their samples.

    The losses are divided by counts over all micro-batches and ranks. Only the negatives of the JSC loss come from one
    micro-batch of every rank, and its terms are averaged.

    Args:
        model: in training mode; may be wrapped for distributed training.
        batches: on ``device``.
        scaler: of the loss, for float16.
        amp: what to compute in; None: float32.
        clip_max_norm: limit of the gradient norm, 0 for none.
    """
    optimizer.zero_grad(set_to_none=True)
    statistics = _statistics(model)
    before = [value.clone() for value in statistics]
    normaliser = criterion.normaliser([batch.targets for batch in batches])
    sums: Counter[str] = Counter()
    for number, batch in enumerate(batches, start=1):
        # gradients of the ranks are added up once, with those of the last micro-batch
        alone = model.no_sync() if number < len(batches) and hasattr(model, "no_sync") else nullcontext()
        with alone:
            with autocast(device, amp):
                output = model(batch.video, batch.expressions, batch.video_valid, batch.clip_index)
            loss, terms = criterion(output, batch, normaliser)
            scaler.scale(loss).backward()
        named = {"loss": loss.detach(), **terms}
        sums.update(dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True)))
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, clip_max_norm or math.inf)
    norm = dist.whole(norm).item()
    (bad_loss,) = dist.any_rank(not math.isfinite(sums["loss"]), device=device)
    if bad_loss or not math.isfinite(norm):  # which is the same on all ranks
        for value, old in zip(statistics, before, strict=True):
            value.copy_(old)
        overflow = scaler.is_enabled() and not bad_loss and scaler.get_scale() > 1
        if scaler.is_enabled():
            scaler.update()  # to a smaller scale
        return Step(False, overflow, dict(sums), norm)
    scaler.step(optimizer)
    scaler.update()
    return Step(True, False, dict(sums), norm)


def _statistics(model: nn.Module) -> list[Tensor]:
    """What a forward pass in training changes: the running statistics of batch norms that are not frozen."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    return [value for norm in norms for value in norm.buffers()]


class Writer:
    """Writes masks while the network is at work; use it in ``with``."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WRITERS)
        self._jobs: list[Future] = []

    def submit(self, write: Callable[..., None], *arguments: object) -> None:
        self._jobs.append(self._pool.submit(write, *arguments))

    def wait(self) -> None:
        """Until all is written; the first error is raised."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)


def chunks(length: int) -> Iterator[range]:
    """The frames of a video, as many at a time as masks of full size are held in memory."""
    for start in range(0, length, FRAMES_AT_ONCE):
        yield range(start, min(length, start + FRAMES_AT_ONCE))


def share(videos: Sequence[Video], work: Sequence[float]) -> list[Video]:
    """Those that this rank does, so that all ranks have about the same work; the same division in every call."""
    loads = [0.0] * dist.world_size()
    mine = set()
    for number in sorted(range(len(videos)), key=lambda i: -work[i]):  # the longest first, to whoever has least
        rank = loads.index(min(loads))
        loads[rank] += work[number]
        if rank == dist.rank():
            mine.add(number)
    return [videos[number] for number in sorted(mine)]


def predict_split(predictor: Predictor, videos: VideoSet, results_dir: Path, desc: str = "inference") -> None:
    """Writes the masks of every expression of every video under ``results_dir``, as a submission has them.

    Expressions whose masks are all there already are left alone, so an interrupted run goes on where it stopped.
    Ranks share the videos.
    """
    mine = share(videos, [len(video) * (ENCODING + len(video.expressions)) for video in videos])
    total = sum(len(video.expressions) for video in mine)
    with progress_bar(total=total, desc=desc, unit="expression") as progress, Writer() as writer:
        jobs = []
        for video in mine:
            todo = {
                e: t
                for e, t in video.expressions.items()
                if not is_complete(results_dir, video.video_id, e, video.frame_names)
            }
            progress.update(len(video.expressions) - len(todo))
            jobs += [(video, todo)] * bool(todo)
        for (video, todo), following in zip_longest(jobs, [video for video, _ in jobs[1:]]):
            names = video.frame_names
            found = predictor.segment(video, list(todo.values()), following=following)
            for frames in chunks(len(names)):
                masks = found.masks(frames.start, frames.stop).numpy()
                writer.wait()
                for exp_id, of_expression in zip(todo, masks, strict=True):
                    for name, mask in zip(names[frames.start : frames.stop], of_expression, strict=True):
                        writer.submit(write_mask_png, results_dir / mask_name(video.video_id, exp_id, name), mask)
            progress.update(len(todo))
        writer.wait()
    dist.barrier()


def predict_annotators(
    predictor: Predictor, videos: Sequence[AnnotatedVideo], results_dir: Path, desc: str = "inference"
) -> None:
    """Writes a label map of all objects for each annotator of Ref-DAVIS17, ``anno_<k>/<video>/<frame>.png``.

    The frames of a video are encoded once for all its annotators. What is all there already is left alone, so an
    interrupted run goes on where it stopped. Ranks share the videos.
    """
    mine = share(videos, [len(video) * (ENCODING + sum(map(len, video.annotators))) for video in videos])
    total = len(mine) * len(ANNOTATOR_ROOTS)
    with progress_bar(total=total, desc=desc, unit="annotator") as progress, Writer() as writer:
        jobs = []
        for video in mine:
            todo = {
                folder: texts
                for root, texts in zip(ANNOTATOR_ROOTS, video.annotators, strict=True)
                if not holds_frames(folder := results_dir / root / video.video_id, video.frame_names)
            }
            progress.update(len(ANNOTATOR_ROOTS) - len(todo))
            jobs += [(video, todo)] * bool(todo)
        for (video, todo), following in zip_longest(jobs, [video for video, _ in jobs[1:]]):
            asked = [text for texts in todo.values() for text in texts.values()]
            found = predictor.segment(video, asked, following=following)
            for frames in chunks(len(video.frame_names)):
                logits = (found.logits(e, frames.start, frames.stop) for e in range(len(found.scores)))
                maps = {
                    folder: fuse_objects(zip(texts, islice(logits, len(texts)), strict=True)).cpu().numpy()
                    for folder, texts in todo.items()
                }
                writer.wait()
                for folder, labels in maps.items():
                    for name, frame in zip(video.frame_names[frames.start : frames.stop], labels, strict=True):
                        writer.submit(write_label_png, folder / f"{name}.png", frame)
            progress.update(len(todo))
        writer.wait()
    dist.barrier()


def read_ahead(clips: Sequence[EvalClip], ahead: int = 2) -> Iterator[tuple[EvalClip, Tensor]]:
    """Each clip with its frames; ``ahead`` clips are decoded while others are worked on."""
    with ThreadPoolExecutor(ahead) as pool:
        waiting: deque = deque()
        try:
            for clip in clips:
                waiting.append((clip, pool.submit(clip.read)))
                if len(waiting) > ahead:
                    first, frames = waiting.popleft()
                    yield first, frames.result()
            for clip, frames in waiting:
                yield clip, frames.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def coco_results(image_id: str | int, answer: FrameAnswer) -> list[dict]:
    """Every query's answer as COCO has results; boxes are xywh, as there."""
    x1, y1, x2, y2 = answer.boxes.unbind(-1)
    boxes = torch.stack((x1, y1, x2 - x1, y2 - y1), -1)
    return [
        {"image_id": image_id, "category_id": CATEGORY, "segmentation": code, "score": score, "bbox": box}
        for code, score, box in zip(
            encode_masks(answer.masks.numpy()), answer.scores.tolist(), boxes.tolist(), strict=True
        )
    ]


def predict_clips(predictor: Predictor, clips: Sequence[EvalClip], desc: str = "inference") -> list[dict]:
    """Every query's answer in the scored frame of each clip, for each of its expressions.

    Ranks share the clips, each being one rank's.

    Returns:
        On rank 0 the results of all clips in their order, in COCO's form (:func:`coco_results`); elsewhere none.
    """
    numbers = range(dist.rank(), len(clips), dist.world_size())
    found = []
    clip_frames = read_ahead([clips[i] for i in numbers])
    progress = progress_bar(clip_frames, desc=desc, unit="clip", total=len(numbers))
    for number, (clip, frames) in zip(numbers, progress, strict=True):
        encoded = predictor.encode(frames)
        answers = predictor.answer_frame(encoded, list(clip.expressions.values()), clip.scored)
        results = [coco_results(image_id, a) for image_id, a in zip(clip.expressions, answers, strict=True)]
        found.append((number, [result for of_sample in results for result in of_sample]))
    found = sorted(dist.gather_list(found), key=lambda of_clip: of_clip[0])
    return [result for _, results in found for result in results]
