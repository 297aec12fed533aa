"""Activation checkpointing: a block keeps its inputs only, and computes what is within anew for the gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from models.fast.forms import Form, take_form


class Recomputed(Form):
    """Comes before the class of any block, which is called twice: for its output, and again for the gradient.

    The whole call is repeated rather than the forward pass alone, so that hooks of FSDP and what ``torch.compile`` made
    of the block take part in it.
    """

    def __call__(self, *inputs: object) -> Tensor | tuple[Tensor, ...]:
        if not torch.is_grad_enabled():
            return super().__call__(*inputs)
        return checkpoint(super().__call__, *inputs, use_reentrant=False)


def recompute(block: nn.Module) -> None:
    """Has a block, in whatever form it is, recompute its activations."""
    take_form(block, type(f"Recomputed{type(block).__name__}", (Recomputed, type(block)), {}))
