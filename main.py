"""Trains ProxyFormer, or scores a checkpoint with ``--eval``.

    python main.py --output_dir output/run --preset scratch --backbone_pretrained FILE
    torchrun --nproc_per_node 8 main.py --output_dir output/run --preset finetune --pretrained_weights CKPT
    python -m torch.distributed.launch --nproc_per_node 8 main.py --output_dir output/run --resume auto ...

The options are in ``opts.py``, the recipes in ``docs/train.md``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import datasets
import models
from datasets.texts import training_texts
from models import PredictorSettings
from opts import (
    OF_TRAINING,
    check_train_options,
    differing,
    given_model_options,
    given_options,
    model_options,
    parse_train_args,
)
from tasks import plan
from tasks.resuming import check_state, clips_grouped, global_batch, micro_batches, promise
from tasks.scoring import score_split, texts_to_score
from tasks.training import Parts, RunSettings, Trainer
from util.options.places import require_data, require_weights
from util.options.presets import recipe
from util.options.start import departure, require_start
from util.run import cli, dist
from util.run.cli import INCOMPLETE
from util.run.gaps import Gaps
from util.run.precision import inference_amp
from util.weights import checkpoint, history
from util.weights.hub import located
from util.weights.saver import newest

# options that may change when a run is resumed
FREE_TO_CHANGE = {
    "output_dir",
    "batch_size",  # the global batch stays
    *(data_set.path for data_set in datasets.DATA_SETS.values()),
    "device",
    "float32",
    "num_workers",
    "loader_timeout",
    "epochs",
    "keep",
    "save_every",
    "max_skipped_steps",
    "bad_sample",
    "long_text",
    "activation_checkpointing",
    "compile",
    "fsdp",
    "dry_run",
    "random_backbone",  # a run that goes on starts from its checkpoint
    "resume",
    "eval",
    "eval_split",
    "eval_every",
    "allow_trained",
    "strict",
    "annotations",
    "expressions",
    "window",
    "overlap",
    "clips",
    "rank_timeout",
    "collective_timeout",
    "local_rank",
}
# options of the model that a run does not take from the weights that it starts from
OF_THE_DATA = {"binary", "backbone_pretrained"}
# options that are never taken from a checkpoint
OF_THIS_CALL = {
    "output_dir",  # a file must not say where to write
    "dry_run",
    "device",
    "resume",
    "eval",
    "eval_split",
    "allow_trained",
    "strict",
    "window",
    "overlap",
    "clips",
    "rank_timeout",
    "collective_timeout",
    "local_rank",
}


def main() -> int | None:
    args = parse_train_args()
    with dist.joined(args.device, args.rank_timeout, args.collective_timeout) as device:
        args, saved = restore_options(args)
        require_data(args)
        if not saved:
            require_weights(args)
        torch.manual_seed(args.seed + dist.rank())
        if args.eval:
            refuse_other_model(args, saved["options"])
            return evaluate(args, saved, device)
        if device.type == "cuda" and not saved and "amp" not in given_options():
            args.amp = "auto"  # on a CPU it is asked for: whether it is faster there depends on the processor
        trainer = build_trainer(args, saved, device)
        del saved  # it is as large as the model and the state of the optimiser
        plan.describe(trainer, departure(args))
        if args.dry_run:
            plan.rehearse(trainer)
        else:
            trainer.run()
    return None


def restore_options(args: argparse.Namespace) -> tuple[argparse.Namespace, dict | None]:
    """The options, and the content of the checkpoint that is resumed; None for a new run.

    Where a run is resumed, its options count as far as no flag replaces them, and it goes on in the folder of the
    checkpoint; of a link to one, in the folder where the file itself is.
    """
    if args.resume not in (None, "auto") and "output_dir" not in given_options():
        args.output_dir = folder_of_run(args.resume) or args.output_dir  # where processes that are restarted look
    path, saved = find_checkpoint(args)
    if saved:
        check_train_options(saved["options"], path)
        ours = OF_THIS_CALL | {"float32"} if args.eval else OF_THIS_CALL - {"eval_split"}
        defaults = {k: v for k, v in saved["options"].items() if k not in ours}
        if folder := folder_of_run(path):
            defaults["output_dir"] = folder
        if args.eval:
            defaults["amp"] = inference_amp(defaults["amp"])
        args = parse_train_args(defaults=defaults)
        if args.amp == "auto" and not args.eval:
            args.amp = saved["options"]["amp"]
    elif args.pretrained_weights:
        args = parse_train_args(defaults=options_of_start(args))
    args.resume = path
    return args, saved


def options_of_start(args: argparse.Namespace) -> dict[str, object]:
    """The options that the weights of ``--pretrained_weights`` bring to a new run, as far as no preset gives them:
    those of their model, and their text encoder. A published file of ReferFormer brings none: the tokenizer of its
    encoder is not in it.

    Raises FileNotFoundError, ValueError: the file is missing, damaged, of another program or model.
    """
    path = args.pretrained_weights
    content = checkpoint.read(path)
    if models.is_published(content):
        return {}
    found = models.upgraded(checkpoint.checked(content, path), path)["options"]
    if found["model"] != args.model:
        raise ValueError(f"--pretrained_weights {path} is a {found['model']}: add --model {found['model']}")
    others = OF_TRAINING | OF_THE_DATA | set(recipe(args.preset, args.model) if args.preset else ())
    options = {name: value for name, value in found.items() if name in model_options() - others}
    check_train_options(options, f"--pretrained_weights {path}")
    return {**options, "text_encoder": str(located(path))}


def folder_of_run(path: str) -> str | None:
    """The folder in which the run of a checkpoint goes on, unless another is given; None for exported weights."""
    file = located(path)
    if file.suffix == checkpoint.EXPORTED:
        return None
    return str((file.resolve() if file.is_symlink() else file).parent)


def find_checkpoint(args: argparse.Namespace) -> tuple[str | None, dict | None]:
    """Path and content of the checkpoint to resume, the same on all ranks; None and None for a new run."""
    path = args.resume
    own = None  # what rank 0 has read already
    # processes that torchrun has restarted go on from the newest checkpoint
    if path == "auto" or (dist.restarts() and not args.eval):
        own = newest(args.output_dir) if dist.is_main() else None
        found = dist.from_main(own and str(own[0]))
        if not found and path == "auto":
            path = None
            if dist.is_main():
                print(f"--resume auto: no checkpoint in {args.output_dir} yet, a new run", flush=True)
        path = found or path
    if not path:
        return None, None
    if own:
        return path, models.upgraded(own[1], path)
    return path, models.load_checkpoint(path, given_model_options())


def build_trainer(args: argparse.Namespace, saved: dict | None, device: torch.device) -> Trainer:
    """A run from the start, or one that goes on where ``saved`` was written."""
    folder = Path(args.output_dir)
    if any(folder.glob("checkpoint*.pth")) and not (saved and Path(args.resume).resolve().parent == folder.resolve()):
        raise ValueError(
            f"--output_dir {folder} already holds a run; go on with it by --resume auto, or choose another folder"
        )
    if saved:
        check_state(saved, f"--resume {args.resume}")
        saved["options"]["global_batch_size"] = global_batch(saved)
        args.global_batch_size = args.global_batch_size or global_batch(saved)
        refuse_other_run(args, saved)
    else:
        require_start(args)
    args.amp = models.settled_amp(args.amp, device)
    accumulate = micro_batches(args.batch_size, args.global_batch_size, dist.world_size(), args.resume)
    args.global_batch_size = args.batch_size * dist.world_size() * accumulate  # any number of ranks goes on with it
    settings = RunSettings(
        output_dir=folder,
        epochs=args.epochs,
        accumulate=accumulate,
        resume=args.resume,
        promise=promise(saved, vars(args), dist.world_size(), device) if saved else "",
        seed=args.seed,
        amp=args.amp,
        float32=args.float32,
        clip_max_norm=args.clip_max_norm,
        ema_decay=args.ema_decay,
        fsdp=divides(args, saved),
        save_every=args.save_every,
        keep=args.keep,
        eval_every=args.eval_every,
        max_skipped_steps=args.max_skipped_steps,
    )
    return Trainer(settings, build_parts(args, saved, accumulate, device), saved, device)


def divides(args: argparse.Namespace, saved: dict | None) -> bool:
    """Whether the model is divided among the ranks: one that was goes on in a single process, too, which holds it
    whole."""
    return args.fsdp and not (saved and dist.world_size() == 1)


def build_parts(args: argparse.Namespace, saved: dict | None, accumulate: int, device: torch.device) -> Parts:
    """The parts of a run; the model has the weights of ``saved`` if there is a checkpoint."""
    grouped = clips_grouped(saved) if saved else args.batch_size
    loader = datasets.build_train_loader(args, dist.rank(), dist.world_size(), accumulate, grouped)
    classes = datasets.num_classes(args)
    if saved:
        model, starts = models.restore_model(saved, args.resume, to_train=True), {}
    else:
        model, starts = models.start_model(args, classes)
    model.text_encoder.announce(training_texts(loader.sets), args.long_text)
    steps = len(loader) // accumulate
    if args.warmup_steps >= steps * args.epochs:
        raise ValueError(
            f"--warmup_steps {args.warmup_steps}: the whole run has {steps * args.epochs} steps; give less"
        )
    to_prepare = argparse.Namespace(**vars(args) | {"fsdp": divides(args, saved)})
    frozen = models.prepare_model(to_prepare, model, device)
    optimizer, scheduler = models.build_optimizer(args, model, steps)
    return Parts(
        loader=loader,
        model=model,
        starts=starts,
        frozen=frozen,
        criterion=models.build_criterion(args),
        optimizer=optimizer,
        scheduler=scheduler,
        description={
            "options": vars(args),
            "num_classes": classes,
            "text_encoder": model.text_encoder.description(),
            # runs of earlier versions have none, and go on so: what they started from may be gone
            checkpoint.TRAINED_ON: saved.get(checkpoint.TRAINED_ON)
            if saved
            else history.record(*loader.trained_on, args.pretrained_weights),
        },
        scored=scored_split(args, model) if args.eval_every else None,
    )


def scored_split(args: argparse.Namespace, model: models.Network) -> tuple[datasets.EvalSet, PredictorSettings]:
    """The split that is scored during training, as ``--eval`` would score it.

    Raises:
        ValueError, FileNotFoundError: there is none, its videos are trained on, or it has no ground truth.
    """
    split = datasets.eval_set(args, datasets.eval_split(args, args.dataset_file))
    datasets.refuse_trained(split.split, args.holdout, args.holdout)
    # errors in the split show now, and not after an epoch
    model.text_encoder.announce(texts_to_score(split), args.long_text)
    return split, models.scoring_settings(args, split.scores_frames, inference_amp(args.amp))


def evaluate(args: argparse.Namespace, saved: dict, device: torch.device) -> int:
    """Prints the scores of the checkpoint on a split; the predictions stay in the output folder.

    Returns:
        The exit code: 0, or 3 where items were left out.
    """
    refuse_lists_of_others(args)
    trained = saved["options"]["dataset_file"]
    split = datasets.eval_set(args, datasets.eval_split(args, trained))
    if not args.allow_trained and datasets.may_be_trained_on(args.dataset_file, trained):
        datasets.refuse_trained(split.split, args.holdout, saved["options"]["holdout"])
    model = models.restore_model(saved, args.resume)
    settings = models.scoring_settings(args, split.scores_frames, models.settled_amp(args.amp, device))
    predictor = models.inference_predictor(model, settings, device)
    gaps = Gaps(args.strict)
    with dist.together():
        score_split(split, predictor, settings, checkpoint.fingerprint(args.resume), Path(args.output_dir), gaps)
    if gaps.items and dist.is_main():
        print(
            f"{split.split} is scored, but {gaps.counted()} named above and in scores.json (exit code {INCOMPLETE}); "
            "--strict makes the first one an error",
            file=sys.stderr,
            flush=True,
        )
    return gaps.code()


def refuse_lists_of_others(args: argparse.Namespace) -> None:
    """Raises ValueError where flags for the split valid of Ref-YouTube-VOS are given for another data set."""
    for flag, value in {"--annotations": args.annotations, "--expressions": args.expressions}.items():
        if value and args.dataset_file not in ("ytvos", "joint"):
            raise ValueError(f"{flag} is for Ref-YouTube-VOS, not for --dataset_file {args.dataset_file}; leave it out")


def refuse_other_run(args: argparse.Namespace, saved: dict) -> None:
    """Raises ValueError where the flags contradict the run of the checkpoint."""
    if args.epochs <= saved["epoch"] and saved["epoch"] < saved["options"]["epochs"]:
        raise ValueError(
            f"--epochs {args.epochs}: {saved['epoch']} epochs of the run of --resume {args.resume} are done; give more"
        )
    changed = differing(vars(args), saved["options"], vars(args).keys() - FREE_TO_CHANGE)
    if changed:
        raise ValueError(
            f"--resume {args.resume} goes on with a run whose options differ: {changed}. Leave these flags out, or "
            "start a new run with --pretrained_weights"
        )


def refuse_other_model(args: argparse.Namespace, saved: dict) -> None:
    """Raises ValueError where flags of ``--eval`` contradict the options of the checkpoint's model."""
    changed = differing(vars(args), saved, (model_options() - OF_TRAINING) | {"pretrained_weights"})
    if changed:
        raise ValueError(
            f"--eval scores the model of --resume {args.resume}, whose options differ: {changed}. Leave these flags out"
        )


if __name__ == "__main__":
    cli.run(main)
