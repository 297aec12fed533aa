"""Checkpoints of earlier versions of this program, brought to what this version writes."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from util.options.saved import OF_REFERFORMER, VARIANTS, check_saved
from util.weights.names import renamed

# options that such checkpoints lack, with the values they were trained with
OPTIONS = {
    "model": "proxyformer",
    **OF_REFERFORMER,
    **VARIANTS,
    "text_form": "clean",
    "long_text": "shorten",
    "absent_object": "keep",
    "absent": 0.0,
    "mask_loss_norm": "instances",
    "freeze_stem": True,
    "stochastic_depth": None,
    "loader_timeout": 120,
    "float32": "ieee",  # on a GPU; convolutions alone were in TF32
    "a2d_path": "data/a2d_sentences",
    "jhmdb_path": "data/jhmdb_sentences",
    "coco_path": "data/coco",
    "davis_path": "data/ref-davis",
    "mevis_path": "data/mevis",
}
# --time_encoding was a flag before it was a choice
TIME_ENCODINGS = {True: "absolute", False: "none"}
# how the names of parameters began, and how they begin now
PREFIXES = {"mask_decoder.": "segmenter.mask_decoder.", "kernel_head.": "segmenter.kernel_head."}


def current_name(name: str) -> str:
    """The name that a parameter, or a pattern of ``--freeze``, has now."""
    return next((new + name.removeprefix(old) for old, new in PREFIXES.items() if name.startswith(old)), name)


def current_names(state: dict[str, Tensor], source: object) -> dict[str, Tensor]:
    """The same weights under the names that they have now.

    Raises:
        ValueError: naming ``source``; a parameter is there under its earlier and its present name.
    """
    return renamed(state, current_name, source)


def upgraded(content: dict[str, Any], source: object) -> dict[str, Any]:
    """The content of a checkpoint, of whichever version, as this version writes it.

    Raises:
        ValueError: as :func:`current_names`; or an option has no value that it may have.
    """
    trained_with = OPTIONS | content["options"]
    if type(flag := trained_with.get("time_encoding")) is bool:
        trained_with["time_encoding"] = TIME_ENCODINGS[flag]
    check_saved(trained_with, source)
    patterns = trained_with.get("freeze", [])
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise ValueError(f"{source} is damaged: its option --freeze is no list of patterns")
    patterns = {"freeze": [current_name(pattern) for pattern in patterns]}
    weights = {key: current_names(content[key], source) for key in ("model", "average") if content.get(key)}
    return content | weights | {"options": trained_with | patterns}
