"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


def load_state(optimizer: torch.optim.Optimizer, state: object, source: object) -> None:
    """Takes over the state of another run, whose tensors are whole; shards them like the parameters.

    Raises:
        ValueError: naming ``source``; the state is of another optimiser, or damaged.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if not _fits(state, optimizer.state_dict()["param_groups"], parameters):
        raise ValueError(f"{source}: the state of its optimiser is damaged or of another model")

    def placed(value: Tensor, parameter: Tensor) -> Tensor:
        return sharded_like(value, parameter) if value.shape == parameter.shape else value

    of_parameters = {
        i: {name: placed(value, parameters[i]) for name, value in values.items()}
        for i, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": of_parameters})


def _fits(state: object, groups: list[dict], parameters: list[nn.Parameter]) -> bool:
    """Whether a state has the groups of an optimiser, and for its parameters tensors of their shape or numbers."""
    if not (isinstance(state, dict) and _similar(groups, state.get("param_groups"))):
        return False
    of_parameters = state.get("state")
    return isinstance(of_parameters, dict) and all(
        type(i) is int
        and 0 <= i < len(parameters)
        and isinstance(values, dict)
        and all(
            isinstance(value, Tensor)
            and value.layout is torch.strided
            and value.shape in ((), parameters[i].shape)
            and bool(value.isfinite().all())
            for value in values.values()
        )
        for i, values in of_parameters.items()
    )


def load_counters(part: Any, state: object, source: object) -> None:
    """Takes over the state of a learning-rate schedule or of a scaler of the loss.

    Entries that this release of torch does not know are left out: loading would make attributes of them.

    Raises:
        ValueError: naming ``source``; the state is damaged.
    """
    own = part.state_dict()
    public = {name for name in own if not name.startswith("_")}  # releases of torch differ in the others
    if not (isinstance(state, dict) and public <= state.keys() and _similar(own, state)):
        raise ValueError(f"{source} are damaged")
    part.load_state_dict(own | {name: state[name] for name in own.keys() & state.keys()})


def _similar(own: object, saved: object) -> bool:
    """Whether two pieces of plain data have the same form, as far as they have the same entries."""
    if isinstance(own, dict):
        return isinstance(saved, dict) and all(_similar(own[key], saved[key]) for key in own.keys() & saved.keys())
    if isinstance(own, list | tuple):
        same = isinstance(saved, list | tuple) and len(own) == len(saved)
        return same and all(map(_similar, own, saved))
    numbers = (int, float)
    return (isinstance(own, numbers) and isinstance(saved, numbers)) or type(own) is type(saved)


class Average:
    """An exponential moving average (EMA) of a model's weights, with the latest values of its buffers.

    Args:
        model: the average starts from its weights.
        decay: of the average in a step. In the first steps it is lower: (1 + n) / (10 + n) after n steps.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: value.detach().clone() for name, value in model.state_dict().items()}
        parameters = dict(model.named_parameters())
        # the others stay as they are, and so does their average
        self.trained = [name for name, parameter in parameters.items() if parameter.requires_grad]
        self.buffers = [name for name in self.values if name not in parameters]

    @torch.no_grad()
    def update(self, model: nn.Module, steps: int) -> None:
        """Takes in the weights after ``steps`` steps; on a GPU by few kernels for all of them."""
        rate, state = 1 - min(self.decay, (1 + steps) / (10 + steps)), model.state_dict()
        if self.trained:
            own, new = ([values[name] for name in self.trained] for values in (self.values, state))
            torch._foreach_lerp_(own, new, rate)
        if self.buffers:
            own, new = ([values[name] for name in self.buffers] for values in (self.values, state))
            torch._foreach_copy_(own, new)
