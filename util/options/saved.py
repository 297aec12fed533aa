"""The options that a checkpoint brings along: which values they may have, whoever wrote the file.

``opts.py`` takes types and choices of these options from here. Standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from util.options.types import backbone_name, below_one, between, non_negative_int


@dataclass(frozen=True)
class Kind:
    """The values that an option may have.

    Attributes:
        type: makes a value of a text, or raises ValueError, TypeError or ArgumentTypeError.
        choices: all values; None: those that ``type`` makes.
        optional: None is a value, too.
    """

    type: Callable[[str], object] = str
    choices: tuple | None = None
    optional: bool = False

    def argument(self) -> dict[str, object]:
        """Keywords for argparse's ``add_argument``."""
        return {"type": self.type} | ({"choices": self.choices} if self.choices else {})

    def fault(self, value: object) -> str | None:
        """Why an option cannot have this value; None where it can."""
        if value is None and self.optional:
            return None
        if self.choices and not (type(value) is type(self.choices[0]) and value in self.choices):
            return f"is {shown(value)}, not one of {', '.join(map(str, self.choices))}"
        return type_fault(self.type, value)


BOOLEAN = Kind(bool, (False, True))
_TEXT, _PATH = Kind(), Kind(optional=True)
_SIZE = Kind(between(1, 16384))

# every option from which a model, a predictor or the split of a checkpoint is built
KINDS = {
    "model": Kind(str, ("proxyformer", "referformer")),
    "backbone": Kind(backbone_name),
    "backbone_pretrained": _PATH,
    "pretrained_weights": _PATH,
    "freeze_stem": BOOLEAN,
    "stochastic_depth": Kind(below_one, optional=True),
    "freeze_text_encoder": BOOLEAN,
    "token_stride": Kind(int, (32, 16)),
    "hidden_dim": Kind(between(8, 8192)),
    "nheads": Kind(between(1, 1024)),
    "enc_layers": Kind(between(1, 100)),
    "dec_layers": Kind(between(1, 100)),
    "num_queries": Kind(between(1, 1000)),
    "dim_feedforward": Kind(between(0, 65536)),
    "dropout": Kind(below_one),
    "mask_dim": Kind(between(1, 8192)),
    "mask_decoder": Kind(str, ("fpn", "cross_modal")),
    "time_encoding": Kind(str, ("absolute", "random", "relative", "none")),
    "text_form": Kind(str, ("clean", "lower", "raw")),
    "binary": BOOLEAN,
    "no_aux_loss": BOOLEAN,
    "with_box_refine": BOOLEAN,
    "num_feature_levels": Kind(between(3, 8)),
    "controller_layers": Kind(between(2, 8)),
    "dynamic_mask_channels": Kind(between(1, 256)),
    "no_rel_coord": BOOLEAN,
    "jsc_target": Kind(str, ("joint", "video", "text", "none")),
    "jsc_video": Kind(str, ("before", "after")),
    "cmie": Kind(str, ("decoupled", "full")),
    "proxy_to_video": BOOLEAN,
    "video_reads": Kind(str, ("proxies", "words")),
    "amp": Kind(str, ("off", "bf16", "fp16", "auto")),
    "float32": Kind(str, ("tf32", "ieee")),
    "long_text": Kind(str, ("shorten", "refuse")),
    "loader_timeout": Kind(non_negative_int),
    "eval_size": _SIZE,
    "max_size": _SIZE,
    "num_frames": Kind(between(1, 1000)),
    "holdout": Kind(non_negative_int),
    "dataset_file": Kind(
        str,
        (
            *("ytvos", "davis", "a2d", "jhmdb", "refcoco", "refcoco+", "refcocog", "all", "joint"),
            *("mevis", "mevis_v2", "long_rvos"),
        ),
    ),
    **dict.fromkeys(
        ("ytvos_path", "davis_path", "a2d_path", "jhmdb_path", "mevis_path", "long_rvos_path", "coco_path"), _TEXT
    ),
    "annotations": _PATH,
    "expressions": _PATH,
}


# defaults that go by the model: the paper's, and ReferFormer's (opts.py of github.com/wjn922/ReferFormer)
OF_MODEL = {
    "proxyformer": {"enc_layers": 4, "dec_layers": 3, "dim_feedforward": 0},
    "referformer": {"enc_layers": 4, "dec_layers": 4, "dim_feedforward": 2048},
}
# options of ReferFormer alone, with its defaults
OF_REFERFORMER = {
    "with_box_refine": False,
    "num_feature_levels": 4,
    "controller_layers": 3,
    "dynamic_mask_channels": 8,
    "no_rel_coord": False,
}
# the variants of ProxyFormer's ablations, with the values of the whole model
VARIANTS = {"cmie": "decoupled", "proxy_to_video": True, "video_reads": "proxies", "jsc_video": "before"}
LATER = {"annotations", "expressions"}  # which checkpoints of earlier versions lack


def shown(value: object) -> str:
    """A value for a message, however large or deep it is."""
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**18):
        return repr(value)
    return f"a very large {type(value).__name__}" if isinstance(value, int) else f"a {type(value).__name__}"


def type_fault(of: Callable[[str], object], value: object) -> str | None:
    """Why a value is none that ``of`` makes of a text; None where it is one."""
    try:
        if isinstance(value, bool) != (of is bool):
            raise TypeError("it has another type")
        same = value if of is bool else of(written(value))
    except (argparse.ArgumentTypeError, ValueError, TypeError) as error:
        return f"is {shown(value)} ({error})"
    numbers, pairs = (float, int), (list, tuple)  # JSON has one type for both of each
    if not any(isinstance(same, kinds) and isinstance(value, kinds) for kinds in (type(same), numbers, pairs)):
        return f"is {shown(value)}, a {type(value).__name__}"
    return None


def written(value: object) -> str:
    """The word of a command line that has this value; that of ``--mix`` is a pair."""
    return "=".join(map(str, value)) if isinstance(value, list | tuple) and len(value) == 2 else str(value)


def misfits(options: Mapping[str, object]) -> Iterator[str]:
    """How options of a model contradict each other."""
    width, heads, mask_width = (options[name] for name in ("hidden_dim", "nheads", "mask_dim"))
    if options["model"] == "proxyformer" and options["dec_layers"] > 3:
        yield f"--dec_layers {options['dec_layers']}: ProxyFormer's mask decoder has 1, 2 or 3 steps"
    if options["model"] == "referformer" and width % 32:
        yield f"--hidden_dim {width} is not a multiple of 32, as ReferFormer's group norms need"
    of_heads = f"is not a multiple of --nheads {heads}"
    if width % heads:
        yield f"--hidden_dim {width} {of_heads}"
    if options["video_reads"] == "words" and not options["proxy_to_video"]:
        yield "--video_reads words replaces the proxies that --no-proxy_to_video takes away; leave one out"
    if options["time_encoding"] == "relative" and options["cmie"] == "full":
        yield "--time_encoding relative has biases between frames, and --cmie full attends to no frames; change one"
    if options["mask_decoder"] == "cross_modal" and mask_width % heads:
        yield f"--mask_decoder cross_modal: --mask_dim {mask_width} {of_heads}"
    if width % 8:
        yield f"--hidden_dim {width} is not a multiple of 8, as the sine encodings need"


def check_saved(options: Mapping[str, object], source: object) -> None:
    """Checks the options of a checkpoint before anything is built from them.

    Raises:
        ValueError: naming ``source`` and an option that is missing, has another type or is out of its range; or two
            that contradict each other.
    """
    for name, kind in KINDS.items():
        if name not in options and name not in LATER:
            raise ValueError(f"{source} is damaged: its options lack --{name}")
        if fault := kind.fault(options.get(name)):
            raise ValueError(f"{source} is damaged: its option --{name} {fault}")
    for misfit in misfits(options):
        raise ValueError(f"{source} is damaged: {misfit}")


def check_values(actions: Sequence[argparse.Action], values: Mapping[str, object], source: object) -> None:
    """Checks values of options against the actions of a parser; names without an action are left alone.

    Raises:
        ValueError: naming ``source`` and the option.
    """
    for action in actions:
        if action.dest not in values:
            continue
        value = values[action.dest]
        if value is None and action.default is None:
            continue
        several = action.nargs == "+"
        if several and not isinstance(value, list | tuple):
            raise ValueError(f"{source} is damaged: its option --{action.dest} is {shown(value)}, not a list")
        for each in value if several else [value]:
            kind = BOOLEAN if action.nargs == 0 else Kind(action.type or str, action.choices and tuple(action.choices))
            if fault := kind.fault(each):
                raise ValueError(f"{source} is damaged: its option --{action.dest} {fault}")
