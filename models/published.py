"""Published checkpoints of ReferFormer, as this program's own: options from their keys and shapes, parameters by name.

Source of names and defaults: models/ and opts.py of github.com/wjn922/ReferFormer; its README lists the files.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from torch import Tensor, nn

from models.backbone import ImageSwin, build_backbone, named_as_ours
from models.referformer_weights import BACKBONE, own_names
from models.text_encoder import TextEncoder
from util.options.saved import OF_MODEL, OF_REFERFORMER
from util.run import dist
from util.weights.checkpoint import FORMAT, is_plain

# Its inference scripts for videos do not limit the long side (Resize in inference_ytvos.py and inference_davis.py); its
# evaluation of single frames does (make_coco_transforms in datasets/a2d.py, jhmdb.py and refexp.py).
NO_LIMIT, LIMIT_OF_FRAMES = 16384, 640
POINTS = 4  # that a head reads in a map, in all published files
# What its scripts set, and what only this program has.
SETTINGS = {
    "amp": "off",
    "text_form": "lower",  # as in its training; its inference scripts give texts as they are (--text_form raw)
    "long_text": "shorten",
    "loader_timeout": 120,
    "eval_size": 360,
    "max_size": NO_LIMIT,
    "num_frames": 5,
    "holdout": 0,
    "dropout": 0.1,
    "freeze_text_encoder": True,
    "no_aux_loss": False,
    "token_stride": 32,
    "mask_decoder": "fpn",
    "time_encoding": True,
    "jsc_target": "none",
    "pretrained_weights": None,
    "ytvos_path": "data/ref-youtube-vos",
    "davis_path": "data/ref-davis",
    "a2d_path": "data/a2d_sentences",
    "jhmdb_path": "data/jhmdb_sentences",
    "mevis_path": "data/mevis",
    "coco_path": "data/coco",
}
# What a ProxyFormer takes of a ReferFormer, by the beginnings of names in ours: backbone, text encoder, and the
# projection of the words.
STARTS = {"backbone.": "backbone.", "text_encoder.": "text_encoder.", "resizer.": "text_proj."}
# of ReferFormer's options, those that are taken from its file
_TAKEN = ("num_frames", "dropout", "dataset_file", "nheads", "controller_layers", "dynamic_mask_channels")


def is_published(content: object) -> bool:
    """Whether this is the content of a file of ReferFormer: its training's state, or the weights alone."""
    state = _weights(content)
    ours = not isinstance(state, dict) or "format" in content
    return not ours and "transformer.level_embed" in state and "query_embed.weight" in state


def _weights(content: object) -> object:
    return content["model"] if isinstance(content, dict) and isinstance(content.get("model"), dict) else content


def as_checkpoint(content: dict, source: object, text_encoder: str, given: Mapping[str, object]) -> dict:
    """The content of a checkpoint of this program with the weights of a published file.

    What was taken from where is printed.

    Args:
        content: of the file, for which :func:`is_published` is true.
        source: its path, for messages.
        text_encoder: hub name or directory of the RoBERTa whose configuration and tokenizer it was trained with.
        given: options of the command line, which win over those of the file and over what its shapes say.

    Raises:
        ValueError: naming ``source``: it is of an architecture that this program does not know, or two of its names
            become one.
    """
    state = _state(content, source)
    said = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
    try:
        seen = seen_in(state)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{source} is no checkpoint of ReferFormer that can be read ({error})") from error
    options = {"model": "referformer", **SETTINGS, **OF_MODEL["referformer"], **OF_REFERFORMER, "dataset_file": "ytvos"}
    options |= {name: said[name] for name in _TAKEN if name in said} | seen
    options |= {"no_rel_coord": not said.get("rel_coord", True), "binary": seen["num_classes"] == 1}
    options |= {name: value for name, value in given.items() if value is not None}
    classes = options.pop("num_classes")
    options["text_encoder"] = text_encoder
    options["backbone_pretrained"] = str(source)  # a ResNet's batch norms are frozen
    if dist.is_main():
        told = {name: options[name] for name in ("backbone", *OF_MODEL["referformer"], *OF_REFERFORMER)}
        named = ", ".join(f"{name} {value}" for name, value in told.items())
        origin = "its options, keys and shapes" if said else "its keys and shapes, as it holds no options"
        print(f"{source}: a ReferFormer, {classes} classes, {named} (by {origin}); text by {text_encoder}", flush=True)
    backbone = build_backbone(options["backbone"], pretrained=True)  # which knows the tables that files may lack
    weights = parameters(content, backbone, source)
    described = TextEncoder.described_by(text_encoder)
    return {"format": FORMAT, "options": options, "num_classes": classes, "text_encoder": described, "model": weights}


def _state(content: object, source: object) -> dict[str, Tensor]:
    state = _weights(content)
    if odd := [name for name, value in state.items() if not isinstance(name, str) or not is_plain(value)]:
        raise ValueError(f"{source} is damaged: {str(odd[0])[:80]!r} of its weights is no plain tensor of numbers")
    return state


def parameters(content: object, backbone: nn.Module, source: object) -> dict[str, Tensor]:
    """The parameters of a published file under the names of our ReferFormer with this backbone.

    Raises ValueError, naming ``source``, where one is no plain tensor, or two names become one.
    """
    state = _state(content, source)
    weights = own_names(state, lambda body: named_as_ours(backbone, body, str(source)), _refines(state), source)
    if isinstance(backbone, ImageSwin):
        return weights
    return {name: value for name, value in weights.items() if not name.startswith("map_norms.")}


def starting_weights(
    content: object, fresh: Mapping[str, Tensor], backbone: nn.Module, source: object
) -> dict[str, Tensor]:
    """The parameters of a ProxyFormer that starts from a published file of ReferFormer; :data:`STARTS` are taken.

    What is taken and what starts anew is printed.

    Args:
        fresh: the parameters of the new model; backbone: of it.
    """
    published = parameters(content, backbone, source)
    taken = {}
    for theirs, ours in STARTS.items():
        part = {ours + name.removeprefix(theirs): x for name, x in published.items() if name.startswith(theirs)}
        taken |= {name: x for name, x in part.items() if not name.startswith("text_encoder.model.pooler.")}
    if dist.is_main():
        anew = sorted({name.partition(".")[0] for name in fresh.keys() - taken.keys()})
        print(f"{source}: taken from ReferFormer: {', '.join(STARTS.values())}; these start anew: {', '.join(anew)}")
    return {**{name: x for name, x in fresh.items() if name not in taken}, **taken}


def _refines(state: Mapping[str, Tensor]) -> bool:
    return any(name.startswith("transformer.decoder.bbox_embed.") for name in state)


def seen_in(state: Mapping[str, Tensor]) -> dict[str, object]:
    """The options that keys and shapes say, and ``num_classes``."""

    def count(pattern: str) -> int:
        numbers = {int(found[1]) for name in state if (found := re.match(pattern, name))}
        return max(numbers) + 1

    queries, dim = state["query_embed.weight"].shape
    body = {name.removeprefix(BACKBONE): x for name, x in state.items() if name.startswith(BACKBONE)}
    levels = count(r"input_proj\.(\d+)\.")
    offsets = state["transformer.encoder.layers.0.self_attn.sampling_offsets.bias"].numel()
    return {
        "backbone": backbone_of(body),
        "hidden_dim": dim,
        "num_queries": queries,
        "nheads": offsets // (levels * POINTS * 2),
        "num_feature_levels": levels,
        "enc_layers": count(r"transformer\.encoder\.layers\.(\d+)\."),
        "dec_layers": count(r"transformer\.decoder\.layers\.(\d+)\."),
        "dim_feedforward": len(state["transformer.encoder.layers.0.linear1.bias"]),
        "mask_dim": len(state["pixel_decoder.mask_features.bias"]),
        "with_box_refine": _refines(state),
        "num_classes": len(state["class_embed.0.bias"]),
    }


def backbone_of(body: Mapping[str, Tensor]) -> str:
    """The name of a backbone, from the keys and shapes of its parameters.

    Raises ValueError for another one than those of ReferFormer.
    """
    if "conv1.weight" in body:
        depth = sum(bool(re.fullmatch(r"layer3\.\d+\.conv1\.weight", name)) for name in body)
        if "layer1.0.conv3.weight" in body and depth in (6, 23):
            return {6: "resnet50", 23: "resnet101"}[depth]
    elif "patch_embed.proj.weight" in body:
        patch = body["patch_embed.proj.weight"]
        depth = sum(bool(re.fullmatch(r"layers\.2\.blocks\.\d+\.norm1\.weight", name)) for name in body)
        size = {(96, 6): "t", (96, 18): "s", (128, 18): "b", (192, 18): "l"}.get((len(patch), depth))
        if size and not (patch.ndim == 5 and size == "l"):
            return f"{'video_' if patch.ndim == 5 else ''}swin_{size}_p4w7"
    raise ValueError("its backbone is none of ReferFormer's")
