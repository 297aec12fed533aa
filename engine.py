"""One epoch of training; predictions and scores for the videos or the clips of a split."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn

from datasets import EvalClip, VideoSet
from datasets.davis import AnnotatedVideo
from models.criterion import Criterion
from models.postprocess import fuse_objects
from models.predictor import FrameAnswer, Predictor
from util import dist
from util.coco import CATEGORY, encode_masks
from util.log import RunLog, progress_bar
from util.structures import Batch
from util.writers import ANNOTATOR_ROOTS, holds_frames, is_complete, mask_name, write_label_png, write_mask_png


def train_one_epoch(
    model: nn.Module,
    criterion: Criterion,
    loader: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    device: torch.device,
    epoch: int,
    bf16: bool,
    clip_max_norm: float,
    log: RunLog,
) -> dict[str, float]:
    """Trains on every batch of the loader once.

    Returns:
        Mean of each loss term and of the weighted sum ``loss`` over the epoch and all ranks.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    model.train()
    sums: dict[str, float] = defaultdict(float)
    steps = len(loader)
    progress = progress_bar(loader, desc=f"epoch {epoch}", unit="step")
    for i, batch in enumerate(progress):
        batch = batch.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            output = model(batch.video, batch.expressions, batch.video_valid, batch.clip_index)
        loss, terms = criterion(output, batch)
        values = {"loss": loss.item(), **{name: term.item() for name, term in terms.items()}}
        if not math.isfinite(values["loss"]):
            clips = ", ".join(clip["video_id"] for clip in batch.clips)
            raise FloatingPointError(f"loss is {values['loss']} in epoch {epoch}, step {i}, videos {clips}: {values}")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(parameters, clip_max_norm or math.inf)
        optimizer.step()
        scheduler.step()

        for name, value in values.items():
            sums[name] += value
        rates = {f"lr/{group['name']}": group["lr"] for group in optimizer.param_groups}
        curves = {f"train/{name}": value for name, value in values.items()}
        log.scalars({**curves, **rates, "train/gradient_norm": norm.item()}, epoch * steps + i)
        progress.set_postfix(loss=f"{sums['loss'] / (i + 1):.3f}", refresh=False)
    names = sorted(sums)
    means = dist.total(torch.tensor([sums[n] for n in names], device=device)) / (max(steps, 1) * dist.world_size())
    return dict(zip(names, means.tolist(), strict=True))


def predict_split(predictor: Predictor, videos: VideoSet, results_dir: Path, desc: str = "inference") -> None:
    """Writes the masks of every expression of every video under ``results_dir``, as a submission has them.

    Expressions whose masks are all there already are left alone, so an interrupted run goes on where it stopped.
    Ranks share the videos.
    """
    mine = videos[dist.rank() :: dist.world_size()]
    total = sum(len(video.expressions) for video in mine)
    with progress_bar(total=total, desc=desc, unit="expression") as progress:
        for video in mine:
            names = video.frame_names
            todo = {
                e: t for e, t in video.expressions.items() if not is_complete(results_dir, video.video_id, e, names)
            }
            progress.update(len(video.expressions) - len(todo))
            if not todo:
                continue
            encoded = predictor.encode(video.read(slice(None)))
            for exp_id, answer in zip(todo, predictor.answer(encoded, list(todo.values())), strict=True):
                for name, mask in zip(names, answer.masks.numpy(), strict=True):
                    write_mask_png(results_dir / mask_name(video.video_id, exp_id, name), mask)
                progress.update()
    dist.barrier()


def predict_annotators(
    predictor: Predictor, videos: Sequence[AnnotatedVideo], results_dir: Path, desc: str = "inference"
) -> None:
    """Writes a label map of all objects for each annotator of Ref-DAVIS17, ``anno_<k>/<video>/<frame>.png``.

    The frames of a video are encoded once for all its annotators. What is all there already is left alone, so an
    interrupted run goes on where it stopped. Ranks share the videos.
    """
    mine = videos[dist.rank() :: dist.world_size()]
    with progress_bar(total=len(mine) * len(ANNOTATOR_ROOTS), desc=desc, unit="annotator") as progress:
        for video in mine:
            todo = {
                folder: texts
                for root, texts in zip(ANNOTATOR_ROOTS, video.annotators, strict=True)
                if not holds_frames(folder := results_dir / root / video.video_id, video.frame_names)
            }
            progress.update(len(ANNOTATOR_ROOTS) - len(todo))
            if not todo:
                continue
            encoded = predictor.encode(video.read(slice(None)))
            answers = predictor.soft_answer(encoded, [text for texts in todo.values() for text in texts.values()])
            for folder, texts in todo.items():
                logits = (logits for logits, _ in islice(answers, len(texts)))
                labels = fuse_objects(zip(texts, logits, strict=True)).cpu().numpy()
                for name, frame in zip(video.frame_names, labels, strict=True):
                    write_label_png(folder / f"{name}.png", frame)
                progress.update()
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
