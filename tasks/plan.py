"""The plan of a run of training, and what it will cost, printed before the run starts."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

from datasets import refcoco
from datasets.collate import collate
from datasets.samplers import ClipRequest
from tasks.training import Trainer
from util.run import dist
from util.run.counts import counted, in_seconds
from util.run.memory import peak_bytes
from util.run.precision import in_words
from util.samples.structures import Batch


def describe(trainer: Trainer, departure: str | None = None) -> None:
    """Prints what will be trained, what it starts from, and on which data.

    Args:
        departure: how the start departs from that of the recipe.
    """
    if not dist.is_main():
        return
    settings, world, dataset = trainer.settings, dist.world_size(), trainer.loader.dataset
    batch_size, accumulate = trainer.loader.batch_sampler.batch_size, settings.accumulate
    sizes = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
    name = type(trainer.model).__name__
    print(f"{name}, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained, on {trainer.device}")
    for group in trainer.optimizer.param_groups:
        count = sum(p.numel() for p in group["params"])
        print(f"  {group['name']}: {count / 1e6:.1f} M, lr {group['initial_lr']:g}")
    print(f"  computed in {in_words(trainer.amp, settings.float32, trainer.device)}")
    if settings.fsdp:
        print(f"  divided among the {world} ranks")
    elif trainer.description["options"]["fsdp"]:
        print("  whole in this one process, which has nobody to divide it with (--fsdp)")
    for pattern, count in trainer.frozen.items():
        print(f"  frozen by {pattern}: {count / 1e6:.1f} M")
    origins: dict[str, list[str]] = {}
    for part, origin in trainer.starts.items():
        origins.setdefault(origin, []).append(part)
    for origin, parts in origins.items():
        print(f"  starting from {origin}: {', '.join(parts)}")
    if trainer.starts and departure:
        print(departure)
    at_once = batch_size * world
    print(
        f"{counted(settings.epochs, 'epochs')} of {counted(trainer.steps, 'steps')}; a step takes "
        f"{counted(at_once * accumulate, 'clips')} of {counted(dataset.num_frames, 'frames')} ({batch_size} x "
        f"{counted(world, 'ranks')} x {counted(accumulate, 'micro-batches', 'micro-batch')}), up to "
        f"{counted(dataset.expressions_per_clip, 'expressions')} each"
    )
    print("clips of an epoch: " + ", ".join(f"{name} {count:,}" for name, count in trainer.loader.clips.items()))
    if dataset.absent:
        print(
            f"{dataset.absent:.0%} of the expressions are replaced by one that means nothing in the video, where known"
        )
    if trainer.steps_done:
        place = f"after step {trainer.step} of epoch {trainer.epoch}"
        print(f"going on from {settings.resume}, {place}, {settings.promise}")
    if getattr(trainer.model, "semantics", None) and at_once * dataset.expressions_per_clip > 1 and accumulate > 1:
        print(f"the negatives of the JSC loss come from one micro-batch of all ranks, {counted(at_once, 'clips')}")
    for warning in switched_off(trainer):
        print(f"warning: {warning}", file=sys.stderr)
    sys.stdout.flush()


def switched_off(trainer: Trainer) -> Iterator[str]:
    """Named parts of the method that these settings switch off without a word, each with the mend.

    What an option of the ablations leaves out by its name (--jsc_target none, --no-proxy_to_video …) is not among them.
    """
    dataset = trainer.loader.dataset
    at_once = trainer.loader.batch_sampler.batch_size * dist.world_size()
    if getattr(trainer.model, "semantics", None):
        if at_once * dataset.expressions_per_clip == 1:
            yield (
                "a micro-batch is one sample, so the JSC loss, the second of the method, has no negatives and is 0; "
                "give --batch_size 2 or --expressions_per_clip 2"
            )
        elif not trainer.criterion.jsc_weight:
            yield (
                "--jsc_loss_coef 0: the JSC loss, the second of the method, is 0; give a weight above 0, or leave the "
                "loss out by --jsc_target none"
            )
    if dataset.num_frames == 1 and (videos := trainer.loader.clips.keys() - set(refcoco.SETS)):
        yield (
            f"--num_frames 1: a clip of {', '.join(sorted(videos))} is one frame, so the attention along time has "
            "nothing to attend to, and motion is not learned; give --num_frames 5"
        )


def rehearse(trainer: Trainer) -> None:
    """Takes steps on the largest batch of each shape of clips; prints their time and memory, and the time of the run.

    Nothing is written. Afterwards the weights are useless.
    """
    seconds, left = [], trainer.settings.epochs * trainer.steps - trainer.steps_done
    wrapped = trainer.wrap()
    trainer.start_training(wrapped)
    # the measured memory is the peak of the process so far, so the batches grow
    for batch in sorted(largest_batches(trainer), key=lambda batch: batch.video.numel()):
        batches = [batch.to(trainer.device)] * trainer.settings.accumulate
        trainer.take_step(wrapped, batches)  # the first step allocates memory
        _synchronize(trainer.device)
        start = time.perf_counter()
        trainer.take_step(wrapped, batches)
        _synchronize(trainer.device)
        seconds.append(time.perf_counter() - start)
        if dist.is_main():
            shape, peak = " x ".join(map(str, batch.video.shape[-2:])), peak_bytes(trainer.device) / 2**30
            print(f"{shape}: {in_seconds(seconds[-1])} a step, peak memory {peak:.2f} GiB", flush=True)
    if dist.is_main():
        hours = left * max(seconds) / 3600
        print(
            f"{counted(left, 'steps')} left, at most {hours:.1f} hours of them by the slowest; loading of clips not "
            "counted"
        )


def largest_batches(trainer: Trainer) -> Iterator[Batch]:
    """For each shape of this rank's clips, a batch of the largest size and with the most expressions.

    Batches of several clips may also mix shapes at the end of an epoch; one batch mixes the widest with the tallest.
    """
    dataset, count = trainer.loader.dataset, trainer.loader.batch_sampler.batch_size
    transform = dataset.transform
    transform.draw_size = lambda height, width, _: transform.largest_size(height, width)
    dataset.absent_object = "keep"  # a replacement could have another shape
    groups = trainer.loader.batch_sampler.groups
    asked = np.array([min(len(video.expressions), dataset.expressions_per_clip) for video in dataset.videos])
    asked = asked[dataset.entries[:, 0]]
    batches = []
    for group in np.unique(groups):  # from tall to wide
        members = np.flatnonzero(groups == group)
        batches.append(np.resize(members[np.argsort(-asked[members], kind="stable")], count))
    if count > 1 and len(batches) > 1:
        batches.append(np.resize([batches[0][0], batches[-1][0]], count))
    for chosen in batches:
        yield collate([dataset[ClipRequest(int(index))] for index in chosen])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
