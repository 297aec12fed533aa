"""The names of parameters in weights files, and the prefixes that wrappers of the model have added to them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

Value = TypeVar("Value")

# Prefixes of all names. "module." is written by DistributedDataParallel, DataParallel and AveragedModel
# (torch/optim/swa_utils.py); "_orig_mod." by torch.compile (torch/_dynamo/eval_frame.py); "backbone." by models that
# contain a backbone; "backbone.0.body." by the DETR family (ReferFormer, models/backbone.py); "model." by frameworks.
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "0.", "body.")
# Parts inside names, for wrapped submodules: by torch.compile, by FSDP (torch/distributed/fsdp/_common_utils.py) and by
# activation checkpointing (torch/distributed/algorithms/_checkpoint/checkpoint_wrapper.py).
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
COUNTER = "n_averaged"  # an entry that AveragedModel adds, without its prefix


def renamed(state: dict[str, Value], name_of: Callable[[str], str | None], source: object) -> dict[str, Value]:
    """The same values under the names that ``name_of`` gives; values for which it gives None are dropped.

    Raises:
        ValueError: naming ``source`` and two names that become one.
    """
    found: dict[str, Value] = {}
    origin: dict[str, str] = {}
    for old, value in state.items():
        new = name_of(old)
        if new is None:
            continue
        if new in found:
            raise ValueError(f"the weights of {source} do not fit; {new} is doubled: {origin[new]} and {old}")
        found[new], origin[new] = value, old
    return found


def unwrapped(
    state: dict[str, Value], expected: Collection[str], source: object, others: tuple[str, ...] = ()
) -> dict[str, Value]:
    """Removes from the names the prefixes of :data:`PREFIXES` that all of them have, and :data:`WRAPPERS`.

    Args:
        expected: names of the model's own parameters. A prefix that all of these have stays.
        others: beginnings of the names of parts that the model lacks, such as classifiers. These names may lack the
            prefix; if the other names have it, those without it are dropped.

    Raises:
        ValueError: naming ``source``; two names become one.
    """
    own = [wrapper for wrapper in WRAPPERS if not any(wrapper in name for name in expected)]

    def without_wrappers(name: str) -> str:
        for wrapper in own:
            name = name.replace(f".{wrapper}", ".").removeprefix(wrapper)
        return name

    state = renamed(state, without_wrappers, source)
    while prefix := next((p for p in PREFIXES if _carried(p, state, expected, others, source)), None):
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def _carried(
    prefix: str, state: Collection[str], expected: Collection[str], others: tuple[str, ...], source: object
) -> bool:
    """Whether the prefix is to be removed. Raises ValueError where only a few unknown names lack it."""
    rest = [name for name in state if not name.startswith(prefix)]
    own = all(name.startswith(prefix) for name in expected) or any(
        name.startswith(f"{prefix[:-1]}_")  # timm writes such names
        for name in expected
    )
    if own or len(rest) == len(state):
        return False
    strangers = [name for name in rest if name != COUNTER and not name.startswith(others)]
    if strangers and len(strangers) < len(state) / 2 and not any(n in expected for n in state if n not in rest):
        more = f" and {len(strangers) - 6} more" if len(strangers) > 6 else ""
        raise ValueError(
            f"the weights of {source} do not fit; their names begin with {prefix} except for some that are not of "
            f"this model: {', '.join(sorted(strangers)[:6])}{more}"
        )
    return not strangers
