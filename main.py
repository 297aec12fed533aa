"""Trains ProxyFormer, or scores a checkpoint with ``--eval``.

    python main.py --output_dir output/run --preset scratch
    torchrun --nproc_per_node 8 main.py --output_dir output/run --preset scratch
    python -m torch.distributed.launch --nproc_per_node 8 main.py --output_dir output/run --preset scratch

The options are in ``opts.py``, the recipes in ``docs/train.md``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn

import datasets
import models
from engine import train_one_epoch
from evaluation import evaluate
from opts import differing, model_options, parse_train_args
from util import checkpoint, cli, dist, optim
from util.log import RunLog
from util.memory import keep_large_buffers
from util.precision import inference_amp, use_bf16

# what may differ from the checkpoint's options without making it another run
FREE_TO_CHANGE = {
    "output_dir",
    *(data_set.path for data_set in datasets.DATA_SETS.values()),
    "device",
    "num_workers",
    "epochs",
    "resume",
    "eval",
    "eval_split",
    "allow_trained",
    "local_rank",
}
# what never comes from a checkpoint's options
OF_THIS_CALL = {"device", "resume", "eval", "eval_split", "allow_trained", "local_rank"}


def main() -> None:
    args = parse_train_args()
    saved = None
    if args.resume:
        saved = checkpoint.load(args.resume)
        defaults = {k: v for k, v in saved["options"].items() if k not in OF_THIS_CALL}
        if args.eval:
            defaults["amp"] = inference_amp(defaults["amp"])
        args = parse_train_args(defaults=defaults)
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


def train(args: argparse.Namespace, saved: dict | None, device: torch.device) -> None:
    """Trains from the start, or from the end of the epoch in ``saved``."""
    output_dir = Path(args.output_dir)
    if saved:
        if "optimizer" not in saved:
            raise ValueError(
                f"--resume {args.resume} holds exported weights, from which training cannot go on; start a new run "
                "from them with --pretrained_weights"
            )
        refuse_other_run(args, saved["options"])
    elif (output_dir / "checkpoint.pth").exists():
        raise ValueError(
            f"--output_dir {output_dir} already holds a run; go on with it by --resume {output_dir}/checkpoint.pth, "
            "or choose another folder"
        )
    loader = datasets.build_train_loader(args, dist.rank(), dist.world_size())
    num_classes = datasets.num_classes(args)
    model = models.restore_model(saved, args.resume)[0] if saved else models.build_model(args, num_classes)
    model.to(device)
    criterion = models.build_criterion(args)
    optimizer, scheduler = build_optimizer(args, model, len(loader))
    first_epoch = 0
    if saved:
        optimizer.load_state_dict(saved["optimizer"])
        scheduler.load_state_dict(saved["scheduler"])
        torch.set_rng_state(saved["rng"])
        first_epoch = saved["epoch"] + 1
    describe(args, model, loader, device)

    bf16 = use_bf16(args.amp, device)
    log = RunLog(output_dir)
    wrapped = model
    if dist.active():
        wrapped = nn.parallel.DistributedDataParallel(model, device_ids=[device] if device.type == "cuda" else None)
    for epoch in range(first_epoch, args.epochs):
        start = time.perf_counter()
        loader.batch_sampler.set_epoch(epoch)
        means = train_one_epoch(
            wrapped,
            criterion,
            loader,
            optimizer,
            scheduler,
            device=device,
            epoch=epoch,
            bf16=bf16,
            clip_max_norm=args.clip_max_norm,
            log=log,
        )
        seconds = time.perf_counter() - start
        log.line({"epoch": epoch, "seconds": round(seconds, 1), **means})
        if dist.is_main():
            content = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
                "rng": torch.get_rng_state(),
                "epoch": epoch,
                "options": vars(args),
                "num_classes": num_classes,
                "text_encoder": model.text_encoder.description(),
            }
            checkpoint.save(output_dir / "checkpoint.pth", content)
            # the terms of the last stage; log.jsonl has those of all stages
            shown = ", ".join(f"{k.removeprefix('loss_')} {v:.4g}" for k, v in means.items() if not k[-1].isdigit())
            print(f"epoch {epoch}: {seconds:.0f} s, {shown}", flush=True)
    log.close()


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


def refuse_other_run(args: argparse.Namespace, saved: dict) -> None:
    """Raises ValueError where flags contradict the options of the checkpoint, so that it would be another run."""
    changed = differing(args, saved, vars(args).keys() - FREE_TO_CHANGE)
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


def describe(args: argparse.Namespace, model: nn.Module, loader: datasets.TrainLoader, device: torch.device) -> None:
    """Prints what is about to be trained, and on what."""
    if not dist.is_main():
        return
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, grad in sizes if grad)
    global_batch = args.batch_size * dist.world_size()
    print(f"ProxyFormer, {total / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained, on {device}")
    print(
        f"{args.epochs} epochs of {len(loader)} steps; a step takes {global_batch} clips of {args.num_frames} frames "
        f"({args.batch_size} on each of {dist.world_size()} ranks), up to {args.expressions_per_clip} expressions each",
        flush=True,
    )
    print("clips of an epoch: " + ", ".join(f"{name} {count}" for name, count in loader.clips.items()), flush=True)
    if args.jsc_target != "none" and global_batch * args.expressions_per_clip == 1:
        print("the global batch is one sample: the JSC loss has no negatives and is 0", flush=True)


if __name__ == "__main__":
    cli.run(main)
