"""The state of a run in a checkpoint, beside its model: what it must hold so that the run can go on."""

from __future__ import annotations

import torch
from torch import Tensor

NUMBERS = ("epoch", "step", "taken", "skipped")


def check_state(saved: dict, source: object) -> None:
    """Checks the form of what ``Trainer.save`` writes beside weights, optimiser and schedule.

    Raises:
        ValueError: naming ``source``, and what cannot be used or is missing.
    """
    if "optimizer" not in saved:
        raise ValueError(
            f"{source} holds exported weights, from which training cannot go on; start a new run from them with "
            "--pretrained_weights"
        )
    if "ranks" not in saved:
        raise ValueError(
            f"{source} was written by an earlier version of this program, without what it takes to go on exactly; "
            "start a new run from it with --pretrained_weights"
        )
    best, ranks = saved.get("best"), saved["ranks"]
    sound = (
        all(_is_count(saved.get(name)) for name in NUMBERS)
        and (best is None or isinstance(best, int | float))
        and {"scheduler", "scaler"} <= saved.keys()
        and isinstance(ranks, list)
        and bool(ranks)
        and all(map(_is_of_rank, ranks))
    )
    if not sound:
        raise ValueError(
            f"{source} is damaged: it does not say how far the run is; take an earlier checkpoint, or start a new run "
            "from its weights with --pretrained_weights"
        )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_of_rank(state: object) -> bool:
    """Whether this is the state of one process: its random stream, its sums, and how many clips it replaced."""
    if not isinstance(state, dict):
        return False
    sums, device_rng = state.get("sums"), state.get("device_rng")
    return (
        _is_stream(state.get("rng"))
        and len(state["rng"]) == len(torch.get_rng_state())
        and (device_rng is None or _is_stream(device_rng))
        and isinstance(sums, dict)
        and all(isinstance(k, str) and isinstance(v, int | float) for k, v in sums.items())
        and _is_count(state.get("replaced"))
    )


def _is_stream(value: object) -> bool:
    """Whether this has the form of a random stream's state, uint8 ``[n]``."""
    return type(value) is Tensor and value.layout is torch.strided and value.dtype == torch.uint8 and value.ndim == 1
