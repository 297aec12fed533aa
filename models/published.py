"""Published checkpoints of ReferFormer, as this program's own: options from their keys and shapes, parameters by name.

Source of names and defaults: models/ and opts.py of github.com/wjn922/ReferFormer; its README lists the files.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Mapping

from torch import Tensor, nn

from models.backbone import ImageSwin, build_backbone, named_as_ours
from models.referformer_weights import BACKBONE, own_names
from models.text_encoder import TextEncoder
from util.options.saved import KINDS, OF_MODEL, OF_REFERFORMER, VARIANTS, shown
from util.run import dist
from util.run.counts import counted
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
    "time_encoding": "absolute",
    "jsc_target": "none",
    **VARIANTS,
    "pretrained_weights": None,
    "ytvos_path": "data/ref-youtube-vos",
    "davis_path": "data/ref-davis",
    "a2d_path": "data/a2d_sentences",
    "jhmdb_path": "data/jhmdb_sentences",
    "mevis_path": "data/mevis",
    "long_rvos_path": "data/long_rvos",
    "coco_path": "data/coco",
}
# What a ProxyFormer takes of a ReferFormer, by the beginnings of names in ours: backbone, text encoder, and the
# projection of the words.
STARTS = {"backbone.": "backbone.", "text_encoder.": "text_encoder.", "resizer.": "text_proj."}
MASK_HEAD = ("controller_layers", "dynamic_mask_channels", "no_rel_coord")
POOLER = "text_encoder.model.pooler."  # ReferFormer's queries are made by it; ProxyFormer has none
# of ReferFormer's options, those that are taken from its file, and those that it must have set so
_TAKEN = ("num_frames", "dropout", "dataset_file", "nheads", "controller_layers", "dynamic_mask_channels")
_WRAPPED = "module."  # of DistributedDataParallel
_FIXED = {"enc_n_points": POINTS, "dec_n_points": POINTS, "two_stage": False, "dilation": False}


def is_published(content: object) -> bool:
    """Whether this is the content of a file of ReferFormer: its training's state, or the weights alone."""
    state = _weights(content)
    ours = not isinstance(state, dict) or "format" in content
    return not ours and "transformer.level_embed" in state and "query_embed.weight" in state


def _weights(content: object) -> object:
    """The parameters in a file, without the prefix that a wrapped model writes."""
    state = content["model"] if isinstance(content, dict) and isinstance(content.get("model"), dict) else content
    if isinstance(state, dict) and state and all(isinstance(x, str) and x.startswith(_WRAPPED) for x in state):
        return {name.removeprefix(_WRAPPED): value for name, value in state.items()}
    return state


def as_checkpoint(content: dict, source: object, text_encoder: str, given: Mapping[str, object]) -> dict:
    """The content of a checkpoint of this program with the weights of a published file.

    What was taken from where is printed.

    Args:
        content: of the file, for which :func:`is_published` is true.
        source: its path, for messages.
        text_encoder: hub name or directory of the RoBERTa whose configuration and tokenizer it was trained with.
        given: options of the command line, which win over those of the file, but not over what its shapes say.

    Raises:
        ValueError: naming ``source``: it is of an architecture that this program does not know, or two of its names
            become one.
    """
    state = _state(content, source)
    said = _said(content, source)
    given = {name: value for name, value in given.items() if value is not None}
    try:
        seen = seen_in(state)
        masks = mask_head_of(state, {name: x for name, x in (said | given).items() if name in MASK_HEAD})
    except (KeyError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{source} is no checkpoint of ReferFormer that can be read ({error})") from error
    if said.get("nheads", seen["nheads"]) != seen["nheads"]:
        raise ValueError(
            f"{source} is damaged: by its options it has {said['nheads']} heads, by its shapes {seen['nheads']}"
        )
    options = {"model": "referformer", **SETTINGS, **OF_MODEL["referformer"], **OF_REFERFORMER, "dataset_file": "ytvos"}
    options |= said | given | seen | masks | {"binary": seen["num_classes"] == 1, "model": "referformer"}
    classes = options.pop("num_classes")
    options["text_encoder"] = text_encoder
    options["backbone_pretrained"] = str(source)  # a ResNet's batch norms are frozen
    if dist.is_main():
        told = {name: options[name] for name in ("backbone", *OF_MODEL["referformer"], *OF_REFERFORMER)}
        named = ", ".join(f"{name} {value}" for name, value in told.items())
        origin = "its options, keys and shapes" if said else "its keys and shapes, as it holds no options"
        of = counted(classes, "classes", "class")
        print(f"{source}: a ReferFormer, {of}, {named} (by {origin}); text by {text_encoder}", flush=True)
    backbone = build_backbone(options["backbone"], pretrained=True)  # which knows the tables that files may lack
    weights = parameters(content, backbone, source)
    described = TextEncoder.described_by(text_encoder)
    return {"format": FORMAT, "options": options, "num_classes": classes, "text_encoder": described, "model": weights}


def _said(content: Mapping, source: object) -> dict[str, object]:
    """What the options in a file say, as far as it is taken, by our names. Older files may lack any of them.

    Raises ValueError, naming ``source``, for a value that such an option cannot have, or that no network here has.
    """
    said = vars(content["args"]) if isinstance(content.get("args"), argparse.Namespace) else {}
    for name, value in _FIXED.items():
        if (other := said.get(name, value)) is not value and (type(other) is not type(value) or other != value):
            raise ValueError(f"{source}: its option --{name} is {shown(other)}; only {value} is known here")
    taken = {name: said[name] for name in _TAKEN if name in said}
    if "rel_coord" in said:
        taken["no_rel_coord"] = not said["rel_coord"] if isinstance(said["rel_coord"], bool) else said["rel_coord"]
    for name, value in taken.items():
        if fault := KINDS[name].fault(value):
            raise ValueError(f"{source} is damaged: its option --{name} {fault}")
    return taken


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

    A table of what is taken, what starts anew and what the file holds besides is printed.

    Args:
        fresh: the parameters of the new model; backbone: of it.
    """
    published = parameters(content, backbone, source)
    taken, rows = {}, []
    for theirs, ours in STARTS.items():
        names = [name for name in published if name.startswith(theirs) and not name.startswith(POOLER)]
        part = {ours + name.removeprefix(theirs): published.pop(name) for name in names}
        taken |= part
        rows += [(f"{theirs}*", f"{ours}*", part)]
    anew = {name: x for name, x in fresh.items() if name not in taken}
    rows += [("-", f"{part}.*, anew", values) for part, values in _by_part(anew).items()]
    rows += [(f"{part}.*", "-, not taken", values) for part, values in _by_part(published).items()]
    if dist.is_main():
        print(f"{source}: what ProxyFormer takes of this ReferFormer")
        print(f"  {'in the file':<20}{'in ProxyFormer':<24}{'parameters':>12}")
        for theirs, ours, values in rows:
            print(f"  {theirs:<20}{ours:<24}{sum(x.numel() for x in values.values()):>12,}")
        sys.stdout.flush()
    return anew | taken


def _by_part(parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Parameters by the part of the network that their names begin with."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in parameters.items():
        parts.setdefault(name.partition(".")[0], {})[name] = value
    return parts


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


def mask_head_of(state: Mapping[str, Tensor], known: Mapping[str, object]) -> dict[str, object]:
    """The options of the mask head (:data:`MASK_HEAD`), of which some may be known, from what its controller makes.

    They are ReferFormer's defaults where these fit, or nothing does, which loading the weights tells by name.
    Raises ValueError where several others fit.
    """
    usual = {name: OF_REFERFORMER[name] for name in MASK_HEAD} | known
    made, width = len(state["controller.layers.2.bias"]), len(state["pixel_decoder.mask_features.bias"])

    def numbers(layers: int, channels: int, unplaced: bool) -> int:
        first = (width + (0 if unplaced else 2)) * channels
        return first + (layers - 2) * channels**2 + channels + (layers - 1) * channels + 1

    every = itertools.product(range(2, 9), range(1, min(257, made)), (False, True))  # as KINDS bounds them
    fitting = [dict(zip(MASK_HEAD, found, strict=True)) for found in every if numbers(*found) == made]
    fitting = [found for found in fitting if found | known == found]
    if not fitting or usual in fitting:
        return usual
    if len(fitting) > 1:
        raise ValueError(f"its masks may be of several kinds; give --{', --'.join(MASK_HEAD)}")
    return fitting[0]


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
