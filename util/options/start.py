"""Options of what a new run starts from: its backbone, and the weights of its parts. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from util.options.presets import FROM_REFCOCO
from util.options.saved import KINDS

_FILES = "pretrained_weights/README.md lists files"


def add_backbone_options(group: argparse._ActionsContainer) -> None:
    """Adds the options of the backbone, which belong to the model."""
    group.add_argument(
        "--backbone",
        **KINDS["backbone"].argument(),
        default="video_swin_t",
        help="video_swin_t, resnet50 …; resnet18/34/50/101, video_swin_t/s/b, swin_t/s/b/l_p4w7, tsm_resnet10, "
        "tsm_resnet10_half, or timm:NAME for any timm feature pyramid",
    )
    group.add_argument("--backbone_pretrained", metavar="FILE", help="torchvision, timm or Video-Swin weights")
    group.add_argument(
        "--freeze_stem",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="resnet…: the stem and the first stage of a pretrained one are not trained, as in ReferFormer",
    )
    group.add_argument(
        "--stochastic_depth",
        **KINDS["stochastic_depth"].argument(),
        metavar="P",
        help="video_swin…, swin…: largest chance that a block is skipped in training; default: ReferFormer's, 0.2, and "
        "0.3 for swin_b and swin_l",
    )


def add_start_options(group: argparse._ActionsContainer) -> None:
    """Adds the options of training that say what a run starts from."""
    group.add_argument(
        "--pretrained_weights",
        metavar="CKPT",
        help="start from the weights of this checkpoint; or of owner/name on the Hugging Face hub",
    )
    group.add_argument(
        "--random_backbone",
        action="store_true",
        help="train the backbone from random weights; without --backbone_pretrained and --pretrained_weights a new run "
        "is refused unless this is given",
    )


def start_contradictions(args: argparse.Namespace, given: set[str], settled: bool) -> Iterator[tuple[bool, str]]:
    """Pairs as of ``opts._contradictions``, for the options of this file.

    Args:
        settled: whether the options have all that weights and checkpoints bring.
    """
    yield (
        "pretrained_weights" in given and "backbone_pretrained" in given,
        "--pretrained_weights also holds the weights of the backbone: leave --backbone_pretrained out",
    )
    for name in ("pretrained_weights", "backbone_pretrained"):
        yield (
            {name, "random_backbone"} <= given,
            f"--{name} holds the weights of the backbone: leave --random_backbone out",
        )
    if not settled and "backbone" not in given:
        return  # the weights may bring another one
    yield (
        "freeze_stem" in given and not args.backbone.startswith("resnet"),
        f"--backbone {args.backbone} has no stem that --freeze_stem is about (resnet… have): leave it out",
    )
    yield (
        "stochastic_depth" in given and not args.backbone.startswith(("video_swin", "swin")),
        f"--backbone {args.backbone} skips no blocks (video_swin… and swin… do): leave --stochastic_depth out",
    )


def require_start(args: argparse.Namespace) -> None:
    """Raises ValueError where a new run would start from a random backbone that nobody asked for."""
    if args.backbone_pretrained or args.pretrained_weights or args.random_backbone:
        return
    if args.preset in FROM_REFCOCO:
        raise ValueError(
            f"--preset {args.preset} starts from weights that were pretrained on RefCOCO: give them with "
            f"--pretrained_weights CKPT ({_FILES}), or name another start with --backbone_pretrained FILE or "
            "--random_backbone"
        )
    raise ValueError(
        f"--backbone {args.backbone} would start from random weights: give its weights with "
        f"--backbone_pretrained FILE, or those of a whole model with --pretrained_weights CKPT ({_FILES}), or add "
        "--random_backbone"
    )


def departure(args: argparse.Namespace) -> str | None:
    """A sentence where the preset starts from weights pretrained on RefCOCO and the run does not; else None."""
    if args.preset not in FROM_REFCOCO or args.pretrained_weights:
        return None
    return f"--preset {args.preset} is meant to start from weights pretrained on RefCOCO (--pretrained_weights)"
