"""Checkpoints of ReferFormer: their parameters under the names of :mod:`models.referformer`.

Source of the names: models/ of github.com/wjn922/ReferFormer, as its published files have them.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from util.weights.names import renamed

BACKBONE = "backbone.0.body."
# what counts operations (thop), and a buffer of older releases of transformers
_LEFTOVERS = re.compile(r".*\.total_(params|ops)|total_(params|ops)|text_encoder\.embeddings\.position_ids")
_LAYER = re.compile(r"(class_embed|bbox_embed)\.(\d+)\.")


def own_names(
    state: dict[str, Tensor], backbone: Callable[[dict[str, Tensor]], dict[str, Tensor]], refine: bool, source: object
) -> dict[str, Tensor]:
    """The parameters of a published file under the names of our model.

    Args:
        state: ``"model"`` of the file.
        backbone: gives the parameters of the backbone, without their prefix, their names in ours.
        refine: boxes are refined from layer to layer. Otherwise the heads of all layers are one, under the name of the
            last.

    Raises:
        ValueError: naming ``source``; two names become one.
    """
    state = {name: value for name, value in state.items() if not _LEFTOVERS.fullmatch(name)}
    last = max((int(found[2]) for name in state if (found := _LAYER.match(name))), default=0)

    def own_name(name: str) -> str | None:
        if name.startswith(("transformer.decoder.bbox_embed.", BACKBONE)):
            return None
        if (head := _LAYER.match(name)) and not refine:
            if int(head[2]) != last:
                return None
            name = f"{head[1]}.0.{name[head.end() :]}"
        name = re.sub(r"^transformer\.(encoder|decoder)\.layers\.", r"transformer.\1.", name)
        name = re.sub(r"^text_encoder\.", "text_encoder.model.", name)
        name = re.sub(r"^resizer\.(fc|layer_norm)\.", lambda m: f"resizer.{int(m[1] != 'fc')}.", name)
        name = re.sub(r"^fusion_module\.multihead_attn\.", "fusion.", name)
        name = re.sub(r"^controller\.", "mask_head.controller.", name)
        name = re.sub(r"^pixel_decoder\.cross_attn_(\d)\.", lambda m: f"pixel_decoder.blocks.{int(m[1]) - 1}.", name)
        name = re.sub(r"^pixel_decoder\.(adapter|layer)_(\d)\.(norm\.)?", _convolution, name)
        # a perceptron is a list of layers there, a sequence with activations between them here
        return re.sub(r"^(bbox_embed\.\d+|mask_head\.controller)\.layers\.(\d)\.", _perceptron, name)

    found = renamed(state, own_name, source)
    body = {name.removeprefix(BACKBONE): value for name, value in state.items() if name.startswith(BACKBONE)}
    norms = {name: value for name, value in body.items() if re.match(r"norm[0-3]\.", name)}
    found |= {f"map_norms.{name.removeprefix('norm')}": value for name, value in norms.items()}
    rest = {name: value for name, value in body.items() if name not in norms}
    return found | {f"backbone.{name}": value for name, value in backbone(rest).items()}


def _convolution(found: re.Match) -> str:
    return f"pixel_decoder.{found[1]}s.{int(found[2]) - 1}.{1 if found[3] else 0}."


def _perceptron(found: re.Match) -> str:
    return f"{found[1]}.{2 * int(found[2])}."
