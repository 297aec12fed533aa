"""A run of training: its steps and epochs, its checkpoints, and what it does when something goes wrong."""

from __future__ import annotations

import argparse
import copy
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path

import torch
from torch import nn

import datasets
import models
from datasets.loader import WorkerDied
from datasets.texts import training_texts
from engine import Step, train_step
from models import ProxyFormer, prepare
from models.fast import for_training
from tasks.scoring import pictures, score_split, texts_to_score
from util.files.writing import atomic_path
from util.run import dist, optim
from util.run.gaps import Gaps
from util.run.interrupt import Interrupted, StopRequest
from util.run.log import RunLog, progress_bar
from util.run.memory import peak_bytes
from util.run.precision import amp_dtype, inference_amp
from util.samples.structures import Batch
from util.weights import checkpoint
from util.weights.saver import BEST, Saver, clear_leftovers

MAX_WORKER_DEATHS = 3  # without a step between them


class Trainer:
    """Trains from the start, or goes on from a checkpoint as if there had been no interruption.

    Args:
        args: of ``opts.parse_train_args``.
        saved: content of the checkpoint to go on from, whose options ``args`` does not contradict.
        device: of this rank.
    """

    def __init__(self, args: argparse.Namespace, saved: dict | None, device: torch.device) -> None:
        self.args, self.device, self.output_dir = args, device, Path(args.output_dir)
        self.accumulate = micro_batches(args, dist.world_size())
        self.loader = datasets.build_train_loader(args, dist.rank(), dist.world_size(), self.accumulate)
        self.steps = len(self.loader) // self.accumulate  # of an epoch
        self.num_classes = datasets.num_classes(args)
        self.model = (
            models.restore_model(saved, args.resume, to_train=True)[0]
            if saved
            else models.build_model(args, self.num_classes)
        )
        self.model.text_encoder.announce(training_texts(self.loader.sets), args.long_text)
        if args.warmup_steps >= self.steps * args.epochs:
            raise ValueError(
                f"--warmup_steps {args.warmup_steps}: the whole run has {self.steps * args.epochs} steps; give less"
            )
        self.frozen = prepare_model(args, self.model, device)
        self.criterion = models.build_criterion(args)
        self.optimizer, self.scheduler = build_optimizer(args, self.model, self.steps)
        self.amp = amp_dtype(args.amp, device)
        # scales the loss so that small gradients do not vanish in float16; else it does nothing
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.average = optim.Average(self.model, args.ema_decay) if args.ema_decay else None
        self.eval_split = self.choose_split() if args.eval_every else None
        self.best: float | None = None  # score
        self.epoch = self.step = 0  # the next step, counted within its epoch
        self.sums: Counter[str] = Counter()  # of this rank's loss terms, over the epoch
        self.taken = self.skipped = 0  # steps of the epoch
        self.replaced = 0  # clips of the epoch on this rank
        self.ending = False  # all ranks are about to leave, together
        if saved:
            self.restore(saved)

    def restore(self, saved: dict) -> None:
        """Everything that the weights do not hold, as it was when ``saved`` was written."""
        optim.load_state(self.optimizer, saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average:
            own = self.average.values
            self.average.values = {name: dist.divided_like(saved["average"][name], own[name]) for name in own}
        # a score whose weights are gone, as those of a folder that is left, is not one to beat
        self.best = saved["best"] if (self.output_dir / BEST).is_file() else None
        mine = saved["ranks"][dist.rank()]
        torch.set_rng_state(mine["rng"])
        if mine["device_rng"] is not None:
            torch.cuda.set_rng_state(mine["device_rng"], self.device)
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.taken, self.skipped = saved["taken"], saved["skipped"]
        self.sums, self.replaced = Counter(mine["sums"]), mine["replaced"]

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.step = self.taken = self.skipped = self.replaced = 0
        self.sums.clear()

    @property
    def steps_done(self) -> int:
        """Of the whole run."""
        return self.epoch * self.steps + self.step

    def run(self) -> None:
        """Trains to the last epoch.

        Raises:
            Interrupted: a signal asked to stop; everything is saved.
            FloatingPointError: too many steps were not finite. The state before them is saved, and their inputs.
            OSError: the last checkpoint could not be written.
        """
        if dist.restarts() and self.skipped > self.args.max_skipped_steps:
            raise FloatingPointError(
                f"{self.args.resume} was left because too many steps were not finite, so the restarted processes do "
                "not go on; its message says what may help"
            )
        if dist.is_main():
            clear_leftovers(self.output_dir, self.steps_done)
        wrapped = self.wrap()
        with closing(StopRequest()) as self.stop:  # to the last, so that no second signal ends the saving
            try:
                with (
                    closing(Saver(self.output_dir, self.args.keep)) as self.saver,
                    closing(RunLog(self.output_dir, self.epoch, self.steps_done)) as self.log,
                ):
                    while self.epoch < self.args.epochs:
                        self.train_epoch(wrapped)
                    self.ending = True
            finally:
                if self.ending:  # torchrun would not leave rank 0 the time to write, once another process has ended
                    dist.barrier()

    def wrap(self) -> nn.Module:
        """The model, so that its gradients are averaged over the ranks."""
        return self.model if self.args.fsdp else prepare.replicate(self.model, self.device)

    def start_training(self, model: nn.Module) -> None:
        """Training mode, of what :meth:`wrap` gave."""
        model.train()
        if self.frozen:
            prepare.train_mode(self.model)

    def train_epoch(self, model: nn.Module) -> None:
        """The rest of the epoch."""
        self.start_training(model)
        start = time.perf_counter()
        progress = progress_bar(desc=f"epoch {self.epoch}", unit="step", initial=self.step, total=self.steps)
        loaded = self.batches()
        with progress:
            while self.step < self.steps:
                self.train_step(model, self.next_batches(loaded))
                loss, peak = self.sums["loss"] / max(1, self.taken), peak_bytes(self.device) / 2**30
                progress.set_postfix(loss=f"{loss:.3f}", peak=f"{peak:.1f}G", refresh=False)
                progress.update()
                if self.args.save_every and self.steps_done % self.args.save_every == 0 and self.step < self.steps:
                    self.save()
        self.finish_epoch(time.perf_counter() - start)

    def next_batches(self, loaded: Iterator[list[Batch]]) -> list[Batch]:
        """What the next step takes. Where some rank cannot have it, or was asked to stop, all of them save and end."""
        batches, error = None, None
        try:
            with self.stop.while_waiting():
                batches = next(loaded)
        except Interrupted:
            pass  # all ranks are told below
        except (ValueError, OSError) as reason:
            error = reason
        failed, stopped = dist.any_rank(error is not None, self.stop.received is not None, device=self.device)
        if failed or stopped:
            self.save()
            self.ending = True
        if error:
            raise error
        if failed:
            raise OSError("another process could not load its clips; its message says why")
        if stopped:
            raise Interrupted(self.goodbye())
        return batches

    def goodbye(self) -> str:
        """What to say of a run that is left where it was saved."""
        return (
            f"stopped after step {self.step} of epoch {self.epoch}; go on with --resume "
            f"{self.output_dir}/checkpoint.pth"
        )

    def finish_epoch(self, seconds: float) -> None:
        """Its line in the log, its score and its checkpoint, from which the next one begins."""
        names = sorted(self.sums)
        done = max(1, self.taken) * dist.world_size()
        means = dist.total(torch.tensor([self.sums[n] for n in names], dtype=torch.float64, device=self.device)) / done
        values = dict(zip(names, means.tolist(), strict=True))
        if dist.is_main():
            # the terms of the last stage; log.jsonl has those of all stages
            shown = ", ".join(f"{k.removeprefix('loss_')} {v:.4g}" for k, v in values.items() if not k[-1].isdigit())
            print(f"epoch {self.epoch}: {seconds:.0f} s, {shown}", flush=True)
        replaced = int(dist.total(torch.tensor(float(self.replaced), device=self.device)))
        counts = {"skipped_steps": self.skipped, "skipped_clips": replaced}
        score, scoring = None, Gaps()
        if self.eval_split and (self.epoch + 1) % self.args.eval_every == 0:
            self.save()  # so that nothing that goes wrong in scoring costs the epoch
            if any(dist.any_rank(self.stop.received is not None, device=self.device)):
                self.ending = True
                raise Interrupted(self.goodbye())
            with self.stop.at_once(self.goodbye()):  # scoring may take longer than who asks to stop will wait
                score = self.evaluate(scoring)
        scored = {} if score is None else {f"score_{self.eval_split}": score}
        if score is not None and scoring.items:
            scored["score_left_out"] = len(scoring.items)
        self.log.line({"epoch": self.epoch, "seconds": round(seconds, 1), **counts, **values, **scored})
        better = score is not None and (self.best is None or score > self.best)
        self.best = score if better else self.best
        self.start_epoch(self.epoch + 1)
        self.save(best=better)

    def choose_split(self) -> str:
        """The split that is scored during training.

        Raises:
            ValueError, FileNotFoundError: there is none, its videos are trained on, or it has no ground truth.
        """
        split = datasets.eval_split(self.args, self.args.dataset_file)
        datasets.refuse_trained(split, self.args.holdout, self.args.holdout)
        # both now rather than after an epoch
        self.model.text_encoder.announce(texts_to_score(self.args, split), self.args.long_text)
        return split

    def evaluate(self, gaps: Gaps) -> float | None:
        """Scores the model, or its average, and draws what it makes of a few videos; returns the score on rank 0.

        None there, too, where it cannot be done, as on a full disk: that is told, and costs no training. ``gaps`` takes
        what is damaged: the score is then of the rest, and it is told that it is.
        """
        score = None
        try:
            with dist.together():
                model = self.model_to_score()
                args = argparse.Namespace(**vars(self.args) | {"amp": inference_amp(self.args.amp)})  # as --eval
                models.settle_amp(args, self.device)
                weights = checkpoint.weights_fingerprint(model.state_dict())
                predictor = models.inference_predictor(model, args, self.device)
                score = score_split(args, self.eval_split, predictor, weights, gaps)
                if gaps.items and dist.is_main():
                    told = f"the score of epoch {self.epoch} is incomplete: {len(gaps.items)} problems, see above"
                    print(f"warning: {told}", file=sys.stderr, flush=True)
                if dist.is_main():
                    last = self.steps_done - 1  # what is of the step that is next is dropped when the run goes on
                    for name, image in pictures(args, self.eval_split, predictor).items():
                        self.log.picture(f"{self.eval_split}/{name}", image, last)
                    self.log.scalars({f"score/{self.eval_split}": score}, last)
        except (OSError, ValueError) as error:
            if dist.is_main():
                print(
                    f"warning: epoch {self.epoch} has no score, training goes on: {error}", file=sys.stderr, flush=True
                )
        except RuntimeError as error:
            if self.stop.received:  # another rank has left already
                raise Interrupted(self.goodbye()) from error
            raise
        return score

    def model_to_score(self) -> ProxyFormer:
        """A copy of the model, or of its average. Every rank has all of it, and uses it by itself."""
        if self.args.fsdp:
            state = dist.whole(self.average.values if self.average else self.model.state_dict())
            with torch.random.fork_rng(devices=[]):  # the weights that it starts with are drawn
                return models.restore_model({"model": state, **self.description()}, "this run")[0]
        model = copy.deepcopy(self.model)
        if self.average:
            model.load_state_dict(self.average.values)
        if dist.active():  # statistics of batch norms; a checkpoint has those of rank 0
            dist.copy_from_main(dict(model.named_buffers()))
        return model

    def batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each step that is left of the epoch; where a worker dies, others take over."""
        deaths, last = 0, None
        while self.step < self.steps:
            self.loader.batch_sampler.set_epoch(self.epoch, self.step)
            try:
                loaded = iter(self.loader)
                while batches := list(islice(loaded, self.accumulate)):
                    yield batches
                return
            except WorkerDied as error:
                deaths = 1 if self.step != last else deaths + 1
                last = self.step
                if deaths == MAX_WORKER_DEATHS:
                    raise
                print(f"warning: {error}; starting new ones", file=sys.stderr, flush=True)
                self.loader.forget_workers()

    def train_step(self, model: nn.Module, batches: list[Batch]) -> None:
        """One step, its curves, and what becomes of one that is not finite."""
        batches = [batch.to(self.device, non_blocking=True) for batch in batches]
        for problem in (problem for batch in batches for problem in batch.problems):
            self.replaced += 1
            print(f"warning: a clip is skipped, number {self.replaced}: {problem}", file=sys.stderr, flush=True)
        result = self.take_step(model, batches)
        if result.taken:
            self.scheduler.step()
            rates = {f"lr/{group['name']}": group["lr"] for group in self.optimizer.param_groups}
            self.taken += 1
            self.sums.update(result.terms)
            if self.average:
                self.average.update(self.model, self.steps_done)
            curves = {f"train/{name}": value for name, value in result.terms.items()}
            self.log.scalars({**curves, **rates, "train/gradient_norm": result.gradient_norm}, self.steps_done)
        self.step += 1
        if not (result.taken or result.overflow):
            self.skip(batches, result.terms, result.gradient_norm)

    def take_step(self, model: nn.Module, batches: list[Batch]) -> Step:
        """An optimiser step on micro-batches that are on the device."""
        return train_step(
            model,
            self.criterion,
            batches,
            self.optimizer,
            device=self.device,
            scaler=self.scaler,
            amp=self.amp,
            clip_max_norm=self.args.clip_max_norm,
        )

    def skip(self, batches: list[Batch], terms: dict[str, float], gradient_norm: float) -> None:
        """Names the inputs of a step that was not finite; too many of them end the run."""
        self.skipped += 1
        clips = ", ".join(clip["video_id"] for batch in batches for clip in batch.clips)
        where = f"step {self.step} of epoch {self.epoch} is not finite (loss {terms['loss']}, gradient {gradient_norm})"
        print(f"warning: {where} and is skipped; rank {dist.rank()} had videos {clips}", file=sys.stderr, flush=True)
        if self.skipped <= self.args.max_skipped_steps:
            return
        path = self.output_dir / f"not_finite_rank{dist.rank()}.pth"
        with atomic_path(path) as temporary:
            torch.save(
                [vars(batch.to("cpu")) | {"targets": vars(batch.targets.to("cpu"))} for batch in batches], temporary
            )
        self.save()
        self.ending = True
        raise FloatingPointError(
            f"{where}, the one too many after {self.skipped - 1} in this epoch (--max_skipped_steps). Its inputs are "
            f"in {path}, the weights from before it in the newest checkpoint; a lower --lr or --amp off may help"
        )

    def save(self, *, best: bool = False) -> None:
        """Starts to write a checkpoint from which this very run can go on; ``best``: of all that were scored."""
        device_rng = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        mine = {"rng": torch.get_rng_state(), "device_rng": device_rng}
        ranks = dist.gather_list([mine | {"sums": dict(self.sums), "replaced": self.replaced}])
        weights = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values if self.average else None,
        }
        weights = dist.whole(weights, everywhere=False)
        if not dist.is_main():
            return
        self.log.flush()
        self.saver.save(
            {
                **weights,
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "best": self.best,
                "ranks": ranks,
                "epoch": self.epoch,
                "step": self.step,
                "taken": self.taken,
                "skipped": self.skipped,
                **self.description(),
                "version": {"torch": str(torch.__version__)},
            },
            self.steps_done,
            best=best,
        )

    def description(self) -> dict:
        """What builds the model that the weights fit."""
        return {
            "options": vars(self.args),
            "num_classes": self.num_classes,
            "text_encoder": self.model.text_encoder.description(),
        }


def micro_batches(args: argparse.Namespace, world_size: int) -> int:
    """How many batches of each rank make a step.

    Raises:
        ValueError: ``--global_batch_size`` is no multiple of what the ranks take at once.
    """
    at_once = args.batch_size * world_size
    if args.global_batch_size is None:
        return 1
    if args.global_batch_size % at_once:
        raise ValueError(
            f"--global_batch_size {args.global_batch_size} is no multiple of {at_once}, which {world_size} ranks with "
            f"--batch_size {args.batch_size} take at once; the next that is one is "
            f"{-(-args.global_batch_size // at_once) * at_once}"
        )
    return args.global_batch_size // at_once


def prepare_model(args: argparse.Namespace, model: ProxyFormer, device: torch.device) -> dict[str, int]:
    """Moves the model and does to it what the options ask for; returns what is frozen (:func:`models.prepare.freeze`).

    Raises:
        ValueError: it cannot be done to this model.
    """
    model.to(device)
    if dist.active():  # now, for what is made from the weights before the first step, as their average
        dist.copy_from_main(model.state_dict())
    for_training(model)
    frozen = prepare.freeze(model, args.freeze)
    if args.activation_checkpointing:
        prepare.recompute_activations(model)
    if args.compile:
        prepare.compile_blocks(model, args.compile)
    if args.fsdp:
        prepare.shard(model, device)
    return frozen


def build_optimizer(args: argparse.Namespace, model: nn.Module, steps_per_epoch: int):
    """AdamW and its schedule as the options have them."""
    groups = optim.parameter_groups(
        model, lr=args.lr, lr_backbone=args.lr_backbone, lr_text_encoder=args.lr_text_encoder
    )
    factor = optim.lr_factor(
        schedule=args.lr_schedule,
        warmup_steps=args.warmup_steps,
        steps_per_epoch=steps_per_epoch,
        epochs=args.epochs,
        lr_drop=args.lr_drop,
    )
    return optim.build_optimizer(groups, args.weight_decay, factor)
