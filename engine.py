"""One step of training; predictions for the videos or the clips of a split."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from datasets import EvalClip, VideoSet
from datasets.base import Unreadable, VideoEntry
from datasets.davis import AnnotatedVideo
from models.criterion import Criterion, Normaliser
from models.postprocess import fuse_objects
from models.predictor import ASKED_TOGETHER, FrameAnswer, Predictor
from models.prepare import trained_norms
from models.segmentation import Segmentation
from util.files.names import inside
from util.masks.coco import CATEGORY, encode_masks
from util.masks.results import (
    ANNOTATOR_ROOTS,
    holds_frames,
    is_complete,
    mask_name,
    write_label_png,
    write_mask_png,
    write_scores,
)
from util.run import dist
from util.run.daemon_threads import DaemonThreads, Stalled, take
from util.run.gaps import Gaps
from util.run.log import progress_bar
from util.run.precision import autocast
from util.samples.structures import Batch

WRITERS = 2  # threads; PNGs are compressed outside of Python's lock
FRAMES_AT_ONCE = 8
ENCODING = 4  # cost of encoding a frame; answering one expression in a frame costs 1

Video = TypeVar("Video", bound=VideoEntry)


@dataclass
class Step:
    """The outcome of an optimiser step.

    Attributes:
        taken: False where the loss or the gradient was not finite on some rank; then no rank has changed anything.
        overflow: the step was not taken because float16 could not hold the gradient; the next loss is scaled less.
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
    normalisers = criterion.normalisers([batch.targets for batch in batches])
    sums: Tensor | float = 0.0
    for number, (batch, normaliser) in enumerate(zip(batches, normalisers, strict=True), start=1):
        # the gradients of the ranks are summed once, with the last micro-batch; a divided model (FSDP) sums them with
        # every micro-batch, because no rank has room for all gradients
        alone = model.no_sync() if number < len(batches) and hasattr(model, "no_sync") else nullcontext()
        # on a CPU the backward pass of the fused attention is slower than plain products on short sequences
        attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()
        with alone, attention:
            terms = _backward(model, criterion, batch, normaliser, scaler, amp)
        sums = sums + torch.stack(list(terms.values())).double()
    scaler.unscale_(optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = dist.whole(nn.utils.clip_grad_norm_(parameters, clip_max_norm or math.inf))
    bad_losses = dist.total((~sums[0].isfinite()).double())
    # read together, because each reading waits until a GPU has done the whole step
    *values, bad_loss, norm = torch.cat((sums, torch.stack((bad_losses, norm.double())))).tolist()
    values = dict(zip(terms, values, strict=True))
    if bad_loss or not math.isfinite(norm):  # both are the same on all ranks
        for value, old in zip(statistics, before, strict=True):
            value.copy_(old)
        overflow = scaler.is_enabled() and not bad_loss and scaler.get_scale() > 1
        if scaler.is_enabled():
            scaler.update()  # to a smaller scale
        return Step(False, overflow, values, norm)
    scaler.step(optimizer)
    scaler.update()
    return Step(True, False, values, norm)


def _backward(
    model: nn.Module,
    criterion: Criterion,
    batch: Batch,
    normaliser: Normaliser,
    scaler: torch.amp.GradScaler,
    amp: torch.dtype | None,
) -> dict[str, Tensor]:
    """Adds the gradients of a micro-batch to those of the model, frees its activations, and returns its loss terms."""
    frames = criterion.frames(batch.targets)
    with autocast(batch.video.device, amp):
        output = model(batch.video, batch.expressions, batch.video_valid, batch.clip_index, frames=frames)
    if frames is not None:
        batch = replace(batch, targets=batch.targets.at(frames))
    loss, terms = criterion(output, batch, normaliser)
    scaler.scale(loss).backward()
    return {"loss": loss.detach(), **terms}  # the loss first


def _statistics(model: nn.Module) -> list[Tensor]:
    """The running statistics of trained batch norms, which a forward pass in training changes."""
    return [value for norm in trained_norms(model) for value in norm.buffers()]


class Writer:
    """Writes masks while the network is at work; use it in ``with``."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(WRITERS)
        self._jobs: list[Future] = []

    def submit(self, write: Callable[..., None], *arguments: object) -> None:
        self._jobs.append(self._pool.submit(write, *arguments))

    def wait(self) -> None:
        """Waits until everything is written, and raises the first error."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()  # after an error, too: nothing that was computed is lost


def chunks(length: int) -> Iterator[range]:
    """The frames of a video in groups that are small enough to hold their masks in full size."""
    for start in range(0, length, FRAMES_AT_ONCE):
        yield range(start, min(length, start + FRAMES_AT_ONCE))


def share(videos: Sequence[Video], work: Sequence[float]) -> list[Video]:
    """The videos of this rank. All ranks get about the same work, and every call divides the videos in the same way."""
    loads = [0.0] * dist.world_size()
    mine = set()
    # the longest first, to the rank with the least work
    for number in sorted(range(len(videos)), key=lambda i: -work[i]):
        rank = loads.index(min(loads))
        loads[rank] += work[number]
        if rank == dist.rank():
            mine.add(number)
    return [videos[number] for number in sorted(mine)]


def whole_groups(missing: Sequence[bool]) -> list[int]:
    """Numbers of the expressions to answer, so that ``missing`` ones get the answers of an uninterrupted run.

    Expressions are answered in groups and padded to the longest of the group. In another group their products would be
    rounded in another way, and in half precision a pixel on an edge could flip. So whole groups are answered again.
    """
    groups = (range(start, start + ASKED_TOGETHER) for start in range(0, len(missing), ASKED_TOGETHER))
    return [e for group in groups if any(missing[group.start : group.stop]) for e in group if e < len(missing)]


def predict_split(
    predictor: Predictor, videos: VideoSet, results_dir: Path, desc: str = "inference", gaps: Gaps | None = None
) -> None:
    """Writes the masks of every expression of every video under ``results_dir``, as a submission has them.

    Expressions with complete masks in the folder are skipped. So an interrupted run goes on where it stopped, and
    writes the masks of an uninterrupted run (:func:`whole_groups`). Ranks share the videos.

    Args:
        gaps: takes the videos that cannot be read, on the rank that finds them. Without it the first one is an error.
    """
    gaps = gaps or Gaps(strict=True)
    mine = share(videos, [len(video) * (ENCODING + len(video.expressions)) for video in videos])
    total = sum(len(video.expressions) for video in mine)
    with dist.together(), progress_bar(total=total, desc=desc, unit="expression") as progress, Writer() as writer:
        jobs = []
        for video in mine:
            todo = {e for e in video.expressions if not is_complete(results_dir, video.video_id, e, video.frame_names)}
            progress.update(len(video.expressions) - len(todo))
            jobs += [(video, todo)] * bool(todo)
        for (video, todo), following in zip_longest(jobs, [video for video, _ in jobs[1:]]):
            names, exp_ids = video.frame_names, list(video.expressions)
            asked = [exp_ids[e] for e in whole_groups([exp_id in todo for exp_id in exp_ids])]
            found = _segment(predictor, video, [video.expressions[e] for e in asked], following, gaps)
            if found is not None:
                write_scores(results_dir, video.video_id, asked, found.scores, found.there)
            for frames in chunks(len(names)) if found is not None else ():
                masks = found.masks(frames.start, frames.stop).numpy()
                writer.wait()
                for exp_id, of_expression in zip(asked, masks, strict=True):
                    if exp_id not in todo:
                        continue
                    for name, mask in zip(names[frames.start : frames.stop], of_expression, strict=True):
                        writer.submit(write_mask_png, results_dir / mask_name(video.video_id, exp_id, name), mask)
            progress.update(len(todo))
        writer.wait()


def _segment(
    predictor: Predictor, video: VideoEntry, texts: list[str], following: VideoEntry | None, gaps: Gaps
) -> Segmentation | None:
    """Segments what the texts mean; returns None for a video that cannot be read, and adds it to the gaps.

    Other errors, such as a temporary file that cannot be written, are no fault of the video and end the run.
    """
    try:
        return predictor.segment(video, texts, following=following)
    except Unreadable as error:
        gaps.add(f"video {video.video_id}", error)
        return None


def predict_annotators(
    predictor: Predictor,
    videos: Sequence[AnnotatedVideo],
    results_dir: Path,
    desc: str = "inference",
    gaps: Gaps | None = None,
) -> None:
    """Writes a label map of all objects for each annotator of Ref-DAVIS17, ``anno_<k>/<video>/<frame>.png``.

    The frames of a video are encoded once for all its annotators. Complete results are skipped, ranks share the videos,
    and ``gaps`` is used as in :func:`predict_split`.
    """
    gaps = gaps or Gaps(strict=True)
    mine = share(videos, [len(video) * (ENCODING + sum(map(len, video.annotators))) for video in videos])
    total = len(mine) * len(ANNOTATOR_ROOTS)
    with dist.together(), progress_bar(total=total, desc=desc, unit="annotator") as progress, Writer() as writer:
        jobs = []
        for video in mine:
            todo = {
                root
                for root in ANNOTATOR_ROOTS
                if not holds_frames(inside(results_dir / root, video.video_id), video.frame_names)
            }
            progress.update(len(ANNOTATOR_ROOTS) - len(todo))
            jobs += [(video, todo)] * bool(todo)
        for (video, todo), following in zip_longest(jobs, [video for video, _ in jobs[1:]]):
            objects = [  # of all annotators
                (root, number, text)
                for root, texts in zip(ANNOTATOR_ROOTS, video.annotators, strict=True)
                for number, text in texts.items()
            ]
            asked = [objects[e] for e in whole_groups([root in todo for root, _, _ in objects])]
            found = _segment(predictor, video, [text for _, _, text in asked], following, gaps)
            if found is not None:
                entries = [f"{root}/{number}" for root, number, _ in asked]
                write_scores(results_dir, video.video_id, entries, found.scores, found.there)
            for frames in chunks(len(video.frame_names)) if found is not None else ():
                maps = {}
                for root in sorted(todo):
                    logits = (
                        (number, found.logits(e, frames.start, frames.stop))
                        for e, (of, number, _) in enumerate(asked)
                        if of == root
                    )
                    maps[root] = fuse_objects(logits).cpu().numpy()
                writer.wait()
                for root, labels in maps.items():
                    folder = inside(results_dir / root, video.video_id)
                    for name, frame in zip(video.frame_names[frames.start : frames.stop], labels, strict=True):
                        writer.submit(write_label_png, inside(folder, f"{name}.png"), frame)
            progress.update(len(todo))
        writer.wait()


def read_ahead(
    clips: Sequence[EvalClip], patience: float = 0, ahead: int = 2, gaps: Gaps | None = None
) -> Iterator[tuple[EvalClip, Tensor | None]]:
    """Each clip with its frames; ``ahead`` further clips are decoded while the caller works on one.

    Frames that cannot be read are None, and their clip is added to ``gaps``; without ``gaps`` they are an error.
    Raises Stalled where no clip arrives for ``patience`` seconds, unless ``patience`` is 0.
    """
    gaps = gaps or Gaps(strict=True)
    reader, waiting = DaemonThreads("clips", threads=ahead), deque()
    try:
        for clip in clips:
            waiting.append((clip, reader.submit(clip.read)))
            if len(waiting) > ahead:
                yield _read(*waiting.popleft(), patience, gaps)
        while waiting:
            yield _read(*waiting.popleft(), patience, gaps)
    finally:
        for _, frames in waiting:
            frames.cancel()


def _read(clip: EvalClip, frames: Future, patience: float, gaps: Gaps) -> tuple[EvalClip, Tensor | None]:
    try:
        return clip, take(frames, patience, f"the clip {clip.clip_id}")
    except Stalled:  # nor would the next one come
        raise
    except (ValueError, OSError) as error:
        gaps.add(f"clip {clip.clip_id}", error)
        return clip, None


def coco_results(image_id: str | int, answer: FrameAnswer) -> list[dict]:
    """Every query's answer in COCO's form of results, whose boxes are xywh."""
    x1, y1, x2, y2 = answer.boxes.unbind(-1)
    boxes = torch.stack((x1, y1, x2 - x1, y2 - y1), -1)
    return [
        {"image_id": image_id, "category_id": CATEGORY, "segmentation": code, "score": score, "bbox": box}
        for code, score, box in zip(
            encode_masks(answer.masks.numpy()), answer.scores.tolist(), boxes.tolist(), strict=True
        )
    ]


def predict_clips(
    predictor: Predictor,
    clips: Sequence[EvalClip],
    desc: str = "inference",
    patience: float = 0,
    gaps: Gaps | None = None,
) -> list[dict]:
    """Every query's answer in the scored frame of each clip, for each of its expressions.

    Ranks share the clips; ``patience`` is that of :func:`read_ahead`.

    Args:
        gaps: takes the clips that cannot be read, on the rank that finds them; they have no answer. Without it the
            first one is an error.

    Returns:
        On rank 0 the results of all clips in their order, in COCO's form (:func:`coco_results`); elsewhere none.
    """
    numbers = range(dist.rank(), len(clips), dist.world_size())
    found = []
    clip_frames = read_ahead([clips[i] for i in numbers], patience, gaps=gaps)
    progress = progress_bar(clip_frames, desc=desc, unit="clip", total=len(numbers))
    with dist.together():
        for number, (clip, frames) in zip(numbers, progress, strict=True):
            if frames is None:
                continue
            answers = predictor.answer_frame(frames, list(clip.expressions.values()), clip.scored)
            results = [coco_results(image_id, a) for image_id, a in zip(clip.expressions, answers, strict=True)]
            found.append((number, [result for of_sample in results for result in of_sample]))
    found = sorted(dist.gather_list(found), key=lambda of_clip: of_clip[0])
    return [result for _, results in found for result in results]
