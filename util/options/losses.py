"""Options of the matching and the losses. Standard library only."""

from __future__ import annotations

import argparse

from util.options.types import below_one, non_negative_float, positive_float


def add_loss_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("matching and losses")
    weights = {
        "class": ("cls", 2.0),
        "bbox": ("bbox", 5.0),
        "giou": ("giou", 2.0),
        "mask": ("mask", 2.0),
        "dice": ("dice", 5.0),
    }
    for cost, (loss, default) in weights.items():
        group.add_argument(f"--set_cost_{cost}", type=non_negative_float, default=default)
        group.add_argument(f"--{loss}_loss_coef", type=non_negative_float, default=default)
    group.add_argument("--focal_alpha", type=below_one, default=0.25)
    group.add_argument("--focal_gamma", type=non_negative_float, default=2.0)
    group.add_argument("--mask_loss_size", choices=("stride4", "full"), default="stride4")
    group.add_argument(
        "--mask_loss_norm",
        choices=("frames", "instances"),
        default="frames",
        help="mask and dice terms are divided by the frames with a target, as the other terms are, and as ReferFormer "
        "does; or by the targets: they then weigh as many times more as a clip has frames",
    )
    group.add_argument("--jsc_loss_coef", type=non_negative_float, default=1.0)
    group.add_argument("--jsc_temperature", type=positive_float, default=0.07)
