"""A run of training: its steps and epochs, its checkpoints, and what it does when something goes wrong."""

from __future__ import annotations

import copy
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import nn

import models
from datasets import EvalSet
from datasets.loader import TrainLoader, WorkerDied
from engine import Step, train_step
from models import Network, PredictorSettings, prepare
from models.criterion import Criterion
from tasks import resuming
from tasks.scoring import pictures, score_split
from util.files.writing import atomic_path
from util.run import dist, optim
from util.run.cli import cause, one_line
from util.run.counts import counted
from util.run.gaps import Gaps
from util.run.interrupt import Interrupted, StopRequest
from util.run.log import RunLog, progress_bar
from util.run.memory import peak_bytes
from util.run.precision import amp_dtype
from util.samples.structures import Batch
from util.weights import checkpoint
from util.weights.saver import BEST, Saver, clear_leftovers

MAX_WORKER_DEATHS = 3  # of data loading processes, without a step in between


@dataclass(frozen=True)
class RunSettings:
    """The settings of a run of training.

    Attributes:
        output_dir: of checkpoints and logs; resume: the checkpoint that it goes on from, for messages; promise: what
            it then has in common with a run that was not stopped, for messages.
        seed: of the random streams of ranks that have none in the checkpoint.
        epochs: of the whole run; accumulate: micro-batches of a rank that make a step.
        amp, float32: what to compute in, as the options have it; clip_max_norm: limit of the gradient norm, 0 for none.
        ema_decay: of the averaged weights, 0 for none; fsdp: the model is divided among the ranks.
        save_every: steps, 0 for none; keep: newest checkpoints; eval_every: epochs, 0 for none.
        max_skipped_steps: how many steps of an epoch may have a loss or gradient that is not finite.
    """

    output_dir: Path
    epochs: int
    accumulate: int
    resume: str | None = None
    promise: str = ""
    seed: int = 0
    amp: str = "off"
    float32: str = "tf32"
    clip_max_norm: float = 0.1
    ema_decay: float = 0.0
    fsdp: bool = False
    save_every: int = 0
    keep: int = 2
    eval_every: int = 0
    max_skipped_steps: int = 10


@dataclass(frozen=True)
class Parts:
    """The parts of a run of training.

    Attributes:
        loader: of the training batches.
        model: on the device, prepared for training; starts: what each part of a new one started from, by the name of
            the part, for messages; frozen: parameters that are not trained, counted by pattern, for
            messages.
        criterion, optimizer, scheduler: of the model.
        description: what builds the model again, as plain data for checkpoints: options, classes and text encoder.
        scored: the split that is scored during training, and how; None: none is.
    """

    loader: TrainLoader
    model: Network
    starts: dict[str, str]
    frozen: dict[str, int]
    criterion: Criterion
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    description: dict[str, object]
    scored: tuple[EvalSet, PredictorSettings] | None = None


class Trainer:
    """Trains from the start, or goes on from a checkpoint as if there had been no interruption.

    Args:
        settings: of the run.
        parts: that it is made of.
        saved: content of the checkpoint to go on from, whose weights the model has.
        device: of this rank.
    """

    def __init__(self, settings: RunSettings, parts: Parts, saved: dict | None, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.loader, self.model, self.criterion = parts.loader, parts.model, parts.criterion
        self.optimizer, self.scheduler, self.frozen = parts.optimizer, parts.scheduler, parts.frozen
        self.starts, self.description, self.scored = parts.starts, parts.description, parts.scored
        self.steps = len(self.loader) // settings.accumulate  # of an epoch
        self.amp = amp_dtype(settings.amp, device)
        # scales the loss so that small gradients do not vanish in float16; else it does nothing
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.amp == torch.float16)
        self.average = optim.Average(self.model, settings.ema_decay) if settings.ema_decay else None
        self.best: float | None = None  # score
        self.epoch = self.step = 0  # the next step, counted within its epoch
        self.sums: Counter[str] = Counter()  # of this rank's loss terms, over the epoch
        self.taken = self.skipped = 0  # steps of the epoch
        self.replaced = 0  # clips of the epoch on this rank
        self.ending = False  # all ranks are about to end together
        if saved:
            self.restore(saved)

    def restore(self, saved: dict) -> None:
        """Restores the state beside the weights, as it was when ``saved`` was written, by any number of ranks.

        ``tasks.resuming.check_state`` has checked the form of ``saved``.

        Raises:
            ValueError: a part of the state does not fit this run.
        """
        source = f"--resume {self.settings.resume}"
        optim.load_state(self.optimizer, saved["optimizer"], source)
        optim.load_counters(self.scheduler, saved["scheduler"], f"{source}: its learning rates")
        optim.load_counters(self.scaler, saved["scaler"], f"{source}: its scale of the loss")
        if self.average:
            own = self.average.values
            average = checkpoint.check_weights(own, saved["average"] or {}, source)
            self.average.values = {name: dist.sharded_like(average[name], own[name]) for name in own}
        # a best score counts only while its weights are in the folder
        self.best = saved["best"] if (self.settings.output_dir / BEST).is_file() else None
        mine = resuming.of_rank(saved, dist.rank(), dist.world_size())
        # for the streams that are not in the checkpoint
        torch.manual_seed(resuming.derived_seed(self.settings.seed, saved, dist.rank()))
        try:
            if mine["rng"] is not None:
                torch.set_rng_state(mine["rng"])
            if mine["device_rng"] is not None and self.device.type == "cuda":
                torch.cuda.set_rng_state(mine["device_rng"], self.device)
        except RuntimeError as error:
            raise ValueError(f"{source} is damaged: its random stream cannot be continued ({error})") from error
        self.epoch, self.step = saved["epoch"], saved["step"]
        self.taken, self.skipped = saved["taken"], saved["skipped"]
        self.sums, self.replaced = Counter(mine["sums"]), mine["replaced"]

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.step = self.taken = self.skipped = self.replaced = 0
        self.sums.clear()

    @property
    def steps_done(self) -> int:
        """Steps of the whole run that are done."""
        return self.epoch * self.steps + self.step

    def run(self) -> None:
        """Trains to the last epoch.

        Raises:
            Interrupted: a signal asked to stop; everything is saved.
            FloatingPointError: too many steps were not finite. The state before them is saved, and their inputs.
            OSError: the last checkpoint could not be written.
        """
        if dist.restarts() and self.skipped > self.settings.max_skipped_steps:
            raise FloatingPointError(
                f"{self.settings.resume} was left because too many steps were not finite, so the restarted processes "
                "do not go on; its message says what may help"
            )
        place = (self.epoch, self.step)
        if dist.is_main() and clear_leftovers(self.settings.output_dir, self.steps_done, place):
            self.best = None
        wrapped = self.wrap()
        with closing(StopRequest()) as self.stop:  # until the end, so that a second signal does not interrupt saving
            try:
                with (
                    closing(Saver(self.settings.output_dir, self.settings.keep)) as self.saver,
                    closing(RunLog(self.settings.output_dir, self.epoch, self.steps_done)) as self.log,
                ):
                    while self.epoch < self.settings.epochs:
                        self.train_epoch(wrapped)
                    self.ending = True
            finally:
                # torchrun ends the other processes soon after the first one, and rank 0 still has to write
                if self.ending:
                    dist.barrier()

    def wrap(self) -> nn.Module:
        """The model, wrapped so that its gradients are averaged over the ranks; with FSDP the model itself."""
        return self.model if self.settings.fsdp else prepare.replicate(self.model, self.device)

    def start_training(self, model: nn.Module) -> None:
        """Sets the model that :meth:`wrap` gave to training mode."""
        model.train()
        if self.frozen:
            prepare.train_mode(self.model)

    def train_epoch(self, model: nn.Module) -> None:
        """Trains the rest of the epoch."""
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
                if (
                    self.settings.save_every
                    and self.steps_done % self.settings.save_every == 0
                    and self.step < self.steps
                ):
                    self.save()
        self.finish_epoch(time.perf_counter() - start)

    def next_batches(self, loaded: Iterator[list[Batch]]) -> list[Batch]:
        """The batches of the next step. If a rank cannot load them, or was asked to stop, all ranks save and end."""
        batches, error = None, None
        try:
            with self.stop.while_waiting():
                batches = next(loaded)
        except Interrupted:
            pass  # all ranks learn of it below
        except (ValueError, OSError) as reason:
            error = reason
        failed, stopped = dist.any_rank(error is not None, self.stop.received is not None)
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
        """The message of a run that was saved and stopped."""
        return (
            f"stopped after step {self.step} of epoch {self.epoch}; go on with --resume "
            f"{self.settings.output_dir}/checkpoint.pth"
        )

    def finish_epoch(self, seconds: float) -> None:
        """Writes the log line, the score and the checkpoint of the epoch, and begins the next."""
        names = sorted(self.sums)
        done = max(1, self.taken) * dist.world_size()
        means = dist.total(torch.tensor([self.sums[n] for n in names], dtype=torch.float64, device=self.device)) / done
        values = dict(zip(names, means.tolist(), strict=True))
        if dist.is_main():
            shares = self.criterion.shares({name: value for name, value in values.items() if name != "loss"})
            shown = " + ".join(f"{kind} {share:.4g}" for kind, share in shares.items())
            loss = f"loss {values['loss']:.4g} = {shown}" if shown else "no step was taken"
            print(f"epoch {self.epoch}: {seconds:.0f} s, {loss}", flush=True)
        replaced = int(dist.total(torch.tensor(float(self.replaced), device=self.device)))
        counts = {"skipped_steps": self.skipped, "skipped_clips": replaced}
        score, scoring = None, Gaps()
        if self.scored and (self.epoch + 1) % self.settings.eval_every == 0:
            self.save()  # an error in scoring then costs no training
            if any(dist.any_rank(self.stop.received is not None)):
                self.ending = True
                raise Interrupted(self.goodbye())
            with self.stop.at_once(self.goodbye()):  # scoring may take longer than the sender of a signal waits
                score = self.evaluate(scoring)
        scored = {} if score is None else {f"score_{self.scored[0].split}": score}
        if score is not None and scoring.items:
            scored["score_left_out"] = len(scoring.items)
        self.log.line({"epoch": self.epoch, "seconds": round(seconds, 1), **counts, **values, **scored})
        better = score is not None and (self.best is None or score > self.best)
        self.best = score if better else self.best
        self.start_epoch(self.epoch + 1)
        self.save(best=better)

    def evaluate(self, gaps: Gaps) -> float | None:
        """Scores the model, or its average, and draws its predictions for a few videos.

        Args:
            gaps: takes damaged items; the score is then of the others, which a warning says.

        Returns:
            On rank 0 the score. None on other ranks, and where scoring fails, for example on a full disk or for lack of
            memory: a warning says so, and training goes on.
        """
        score = None
        try:
            with dist.together():
                model = self.model_to_score()
                split, settings = self.scored
                settings = replace(settings, amp=models.settled_amp(settings.amp, self.device))
                weights = checkpoint.weights_fingerprint(model.state_dict())
                predictor = models.inference_predictor(model, settings, self.device)
                score = score_split(split, predictor, settings, weights, self.settings.output_dir, gaps)
                if gaps.items and dist.is_main():
                    problems = counted(len(gaps.items), "problems")
                    told = f"the score of epoch {self.epoch} is incomplete: {problems}, see above"
                    print(f"warning: {told}", file=sys.stderr, flush=True)
                if dist.is_main():
                    last = self.steps_done - 1  # curves of the next step would be dropped when the run is resumed
                    for name, image in pictures(split, predictor).items():
                        self.log.picture(f"{split.split}/{name}", image, last)
                    self.log.scalars({f"score/{split.split}": score}, last)
        except Exception as error:
            if isinstance(error, RuntimeError) and self.stop.received:  # another rank has ended already
                raise Interrupted(self.goodbye()) from error
            if not dist.can_be_shared(error):
                raise
            if dist.is_main():
                told = f"epoch {self.epoch} has no score, training goes on: {one_line(cause(error))}"
                print(f"warning: {told}", file=sys.stderr, flush=True)
        return score

    def model_to_score(self) -> Network:
        """A copy of the model with its weights, or their average. Every rank has a whole copy."""
        if self.settings.fsdp:
            state = dist.unsharded(self.average.values if self.average else self.model.state_dict())
            with torch.random.fork_rng(devices=[]):  # building a model draws random numbers
                return models.restore_model({"model": state, **self.description}, "this run")
        model = copy.deepcopy(self.model)
        if self.average:
            model.load_state_dict(self.average.values)
        if dist.active():  # a checkpoint has the statistics of rank 0's batch norms
            dist.copy_from_main(dict(model.named_buffers()))
        return model

    def batches(self) -> Iterator[list[Batch]]:
        """The micro-batches of each remaining step of the epoch. New data loading processes replace those that die."""
        deaths, last = 0, None
        while self.step < self.steps:
            self.loader.batch_sampler.set_epoch(self.epoch, self.step)
            try:
                loaded = iter(self.loader)
                while batches := list(islice(loaded, self.settings.accumulate)):
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
        """Takes one step and writes its curves; skips it where it is not finite."""
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
            clip_max_norm=self.settings.clip_max_norm,
        )

    def skip(self, batches: list[Batch], terms: dict[str, float], gradient_norm: float) -> None:
        """Names the inputs of a step that was not finite; too many such steps end the run."""
        self.skipped += 1
        clips = ", ".join(clip["video_id"] for batch in batches for clip in batch.clips)
        where = f"step {self.step} of epoch {self.epoch} is not finite (loss {terms['loss']}, gradient {gradient_norm})"
        print(f"warning: {where} and is skipped; rank {dist.rank()} had videos {clips}", file=sys.stderr, flush=True)
        if self.skipped <= self.settings.max_skipped_steps:
            return
        self.save()
        self.ending = True
        path = self.settings.output_dir / f"not_finite_rank{dist.rank()}.pth"
        inputs = [vars(batch.to("cpu")) | {"targets": vars(batch.targets.to("cpu"))} for batch in batches]
        kept = f"are in {path},"
        try:
            with atomic_path(path) as temporary:
                torch.save(inputs, temporary)
        except (OSError, RuntimeError) as error:  # torch's of a full disk is the latter
            kept = f"could not be written to {path} ({one_line(cause(error))}),"
        raise FloatingPointError(
            f"{where}, the one too many after {self.skipped - 1} in this epoch (--max_skipped_steps). "
            f"Its inputs {kept} the weights from before it in the newest checkpoint; a lower --lr or --amp off may help"
        )

    def save(self, *, best: bool = False) -> None:
        """Starts to write a checkpoint from which the run can go on. ``best``: it has the best score so far."""
        if dist.is_main():
            self.saver.settle()  # before the copy, so that there are not two; the others wait below, patiently
        device_rng = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None
        mine = {"rng": torch.get_rng_state(), "device_rng": device_rng}
        ranks = dist.gather_list([mine | {"sums": dict(self.sums), "replaced": self.replaced}])
        version, threads = resuming.made_with()
        content = dist.copied_to_main(
            {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "average": self.average.values if self.average else None,
                "scheduler": self.scheduler.state_dict(),
                "scaler": self.scaler.state_dict(),
                "best": self.best,
                "ranks": ranks,
                "grouped": self.loader.batch_sampler.grouped,
                "epoch": self.epoch,
                "step": self.step,
                "taken": self.taken,
                "skipped": self.skipped,
                **self.description,
                "torch": version,
                "threads": threads,
            }
        )
        if dist.is_main():
            self.log.flush()
            self.saver.save(content, self.steps_done, best=best)
