"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from util.run.dist import sharded_like


def parameter_groups(model: nn.Module, *, lr: float, lr_backbone: float, lr_text_encoder: float) -> list[dict]:
    """Trained parameters in three groups by learning rate: backbone, text encoder and everything else.

    Frozen parameters are left out, and so is a group that would be empty.
    """
    rates = {
        "backbone.": ("backbone", lr_backbone),
        "text_encoder.": ("text_encoder", lr_text_encoder),
        "": ("rest", lr),
    }
    groups: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group, rate = next(value for prefix, value in rates.items() if name.startswith(prefix))
            groups.setdefault(group, {"name": group, "lr": rate, "params": []})["params"].append(parameter)
    return list(groups.values())


def lr_factor(
    *, schedule: str, warmup_steps: int, steps_per_epoch: int, epochs: int, lr_drop: list[int]
) -> Callable[[int], float]:
    """A function that gives the factor of the base learning rates at a step.

    Args:
        schedule: "step" divides by 10 after each epoch of ``lr_drop``; "cosine" falls to 0 at the end.
        warmup_steps: the first steps rise linearly from near 0.
    """

    def factor(step: int) -> float:
        warmth = min(1.0, (step + 1) / (warmup_steps + 1))
        if schedule == "cosine":
            progress = max(0, step - warmup_steps) / max(1, epochs * steps_per_epoch - warmup_steps)
            return warmth * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        return warmth * 0.1 ** sum(step >= drop * steps_per_epoch for drop in lr_drop)

    return factor


def build_optimizer(groups: list[dict], weight_decay: float, factor: Callable[[int], float]):
    """AdamW and a scheduler to be stepped after each optimiser step."""
    optimizer = torch.optim.AdamW(groups, weight_decay=weight_decay, fused=True)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def load_state(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Takes over the state of another run, whose tensors are whole; shards them like the parameters."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def placed(value: Tensor, parameter: Tensor) -> Tensor:
        return sharded_like(value, parameter) if value.shape == parameter.shape else value

    of_parameters = {
        i: {name: placed(value, parameters[i]) for name, value in values.items()}
        for i, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": of_parameters})


class Average:
    """An exponential moving average (EMA) of a model's weights, with the latest values of its buffers.

    Args:
        model: the average starts from its weights.
        decay: of the average in a step. In the first steps it is lower: (1 + n) / (10 + n) after n steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.parameters = {name for name, _ in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """Takes in the weights after ``steps`` steps."""
        rate = 1 - min(self.decay, (1 + steps) / (10 + steps))
        for name, value in model.state_dict().items():
            if name in self.parameters:
                self.values[name].lerp_(value, rate)
            else:
                self.values[name].copy_(value)
