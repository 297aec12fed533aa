"""Group norm on contiguous maps: on a CPU its gradient takes twice as long for channels-last maps, and more."""

from __future__ import annotations

from torch import Tensor, nn

from models.fast.forms import Form


class ContiguousGroupNorm(Form, nn.GroupNorm):
    """The form of a group norm for training."""

    def forward(self, x: Tensor) -> Tensor:
        """``[g, c, h, w]`` to the same shape."""
        return super().forward(x.contiguous())
