"""Activation checkpointing: a block keeps its inputs only, and computes what is within anew for the gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.fast.forms import Form, take_form


class Recomputed(Form):
    """Put before the class of a block, it calls the block twice: for its output, and again for the gradient.

    It repeats the whole call and not only the forward pass, so that the hooks of FSDP and the compiled form of the
    block take part.
    """

    def __call__(self, *inputs: object) -> Tensor | tuple[Tensor, ...]:
        if not torch.is_grad_enabled():
            return super().__call__(*inputs)
        return checkpoint(super().__call__, *inputs, use_reentrant=False)


def recompute(block: nn.Module) -> None:
    """Has a block, in whatever form it is, recompute its activations."""
    take_form(block, type(f"Recomputed{type(block).__name__}", (Recomputed, type(block)), {}))
