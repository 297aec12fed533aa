"""What a step of training takes, as far as it was measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

FILE = Path(__file__).with_name("memory.json")
# the options of the model on which the memory of a step hardly depends
_SLIGHT = ("jsc_target", "num_queries")


def measured(args: argparse.Namespace, step: str) -> str:
    """The memory of a step of a training, in words.

    Args:
        args: options of the training.
        step: "pretraining" or "training".
    """
    content = json.loads(FILE.read_text())
    usual = all(vars(args).get(name, value) == value for name, value in content["options"][args.model].items())
    gib = content[step].get(f"{args.model} {args.backbone}") if usual else None
    if gib is None or args.amp != "off":
        return "not measured"
    return f"no GPU was measured; {gib:.1f} GiB is the peak of a process on a CPU, {content['how'][step]}"
