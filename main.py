"""Trains ProxyFormer, or scores a checkpoint with ``--eval``.

    python main.py --output_dir output/run --preset scratch
    torchrun --nproc_per_node 8 main.py --output_dir output/run --preset scratch
    python -m torch.distributed.launch --nproc_per_node 8 main.py --output_dir output/run --preset scratch

The options are in ``opts.py``, the recipes in ``docs/train.md``.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

import datasets
import plan
from evaluation import evaluate
from opts import differing, model_options, parse_train_args
from training import Trainer
from util import checkpoint, cli, dist
from util.memory import keep_large_buffers
from util.precision import inference_amp
from util.saver import NEWEST, newest

# what may differ from the checkpoint's options without making it another run
FREE_TO_CHANGE = {
    "output_dir",
    *(data_set.path for data_set in datasets.DATA_SETS.values()),
    "device",
    "num_workers",
    "epochs",
    "keep",
    "save_every",
    "max_skipped_steps",
    "bad_sample",
    "activation_checkpointing",
    "compile",
    "fsdp",
    "dry_run",
    "resume",
    "eval",
    "eval_split",
    "eval_every",
    "allow_trained",
    "local_rank",
}
# what never comes from a checkpoint's options
OF_THIS_CALL = {"dry_run", "device", "resume", "eval", "eval_split", "allow_trained", "local_rank"}


def main() -> None:
    args = parse_train_args()
    saved = None
    if args.resume == "auto":
        args.resume, saved = find_checkpoint(args)
    elif args.resume:
        saved = checkpoint.load(args.resume)
    if saved:
        path = args.resume
        ours = OF_THIS_CALL if args.eval else OF_THIS_CALL - {"eval_split"}
        defaults = {k: v for k, v in saved["options"].items() if k not in ours}
        if args.eval:
            defaults["amp"] = inference_amp(defaults["amp"])
        args = parse_train_args(defaults=defaults)
        args.resume = path
    keep_large_buffers()
    device = dist.init(args.device)
    torch.manual_seed(args.seed + dist.rank())
    if device.type == "cpu":
        # the fused attention's backward pass is slower than plain products on short sequences there
        torch.backends.cuda.enable_flash_sdp(False)
    try:
        if args.eval:
            refuse_other_model(args, saved["options"])
            evaluate(args, saved, device)
        else:
            train(args, saved, device)
    finally:
        dist.shut_down()


def find_checkpoint(args: argparse.Namespace) -> tuple[str | None, dict | None]:
    """The newest checkpoint of the output folder that can be read and its content; None and None to start anew."""
    found = newest(args.output_dir)
    if found is None:
        if int(os.environ.get("RANK", 0)) == 0:
            print(f"--resume auto: no checkpoint in {args.output_dir} yet, a new run", flush=True)
        return None, None
    path, saved = found
    return str(path), saved


def train(args: argparse.Namespace, saved: dict | None, device: torch.device) -> None:
    """Trains from the start, or goes on where ``saved`` was written."""
    if saved:
        if "optimizer" not in saved:
            raise ValueError(
                f"--resume {args.resume} holds exported weights, from which training cannot go on; start a new run "
                "from them with --pretrained_weights"
            )
        refuse_other_run(args, saved)
    elif (Path(args.output_dir) / NEWEST).exists():
        raise ValueError(
            f"--output_dir {args.output_dir} already holds a run; go on with it by --resume auto, or choose another "
            "folder"
        )
    trainer = Trainer(args, saved, device)
    plan.describe(trainer)
    if args.dry_run:
        plan.rehearse(trainer)
    else:
        trainer.run()


def refuse_other_run(args: argparse.Namespace, saved: dict) -> None:
    """Raises ValueError where the flags or the number of processes would make it another run than the checkpoint's."""
    if "ranks" not in saved:
        raise ValueError(
            f"--resume {args.resume} was written by an earlier version of this program, without what it takes to go on "
            "exactly; start a new run from it with --pretrained_weights"
        )
    if len(saved["ranks"]) != dist.world_size():
        raise ValueError(
            f"--resume {args.resume} is of a run of {len(saved['ranks'])} processes, these are {dist.world_size()}: "
            "start as many, or start a new run with --pretrained_weights"
        )
    changed = differing(args, saved["options"], vars(args).keys() - FREE_TO_CHANGE)
    if changed:
        raise ValueError(
            f"--resume {args.resume} goes on with a run whose options differ: {changed}. Leave these flags out, or "
            "start a new run with --pretrained_weights"
        )


def refuse_other_model(args: argparse.Namespace, saved: dict) -> None:
    """Raises ValueError where flags of ``--eval`` contradict the options of the checkpoint's model."""
    changed = differing(args, saved, model_options() | {"pretrained_weights"})
    if changed:
        raise ValueError(
            f"--eval scores the model of --resume {args.resume}, whose options differ: {changed}. Leave these flags out"
        )


if __name__ == "__main__":
    cli.run(main)
