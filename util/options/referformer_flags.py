"""Flags of ReferFormer's command lines that this program does not have. Standard library only.

Source: ``get_args_parser`` in opts.py of github.com/wjn922/ReferFormer.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence

from util.options.saved import OF_REFERFORMER

# flags that ReferFormer never reads, that its scripts always set, or that concern parts which this program lacks
_WITHOUT_VALUE = ("masks", "remove_difficult", "cache_mode", "visualize")
_WITH_ANY_VALUE = ("ngpu", "split", "eos_coef", "max_skip", "world_size", "dist_url")
_WITH_ANY_VALUES = ("lr_linear_proj_names",)
# ReferFormer's defaults, which change nothing here; any other value is refused, because the result would differ
_ONLY_DEFAULT = {
    "position_embedding": "sine",
    "dec_n_points": "4",
    "enc_n_points": "4",
    "start_epoch": "0",
    "threshold": "0.5",
    "lr_linear_proj_mult": "1",
}
_ONLY_DEFAULTS = {"lr_backbone_names": ["backbone.0"], "lr_text_encoder_names": ["text_encoder"]}
_REFUSED = ("two_stage", "dilation", "pre_norm")
_INSTEAD = {
    "start_epoch": "--resume continues at the step of the checkpoint",
    "lr_linear_proj_mult": "reference_points and sampling_offsets have the learning rate of --lr here",
    "lr_backbone_names": "--lr_backbone holds for the whole backbone",
    "lr_text_encoder_names": "--lr_text_encoder holds for the whole text encoder",
}

_told: set[str] = set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for name in (*_WITHOUT_VALUE, *_REFUSED):
        parser.add_argument(f"--{name}", action="store_true")
    for name in (*_WITH_ANY_VALUE, *_ONLY_DEFAULT):
        parser.add_argument(f"--{name}")
    for name in (*_WITH_ANY_VALUES, *_ONLY_DEFAULTS):
        parser.add_argument(f"--{name}", nargs="+")
    return parser


def _changes_results(name: str, value: object) -> bool:
    if name in _REFUSED:
        return True
    if name in _ONLY_DEFAULT:
        try:
            return float(value) != float(_ONLY_DEFAULT[name])
        except ValueError:
            return value != _ONLY_DEFAULT[name]
    return name in _ONLY_DEFAULTS and value != _ONLY_DEFAULTS[name]


def without_referformer_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> list[str]:
    """Removes ReferFormer's flags without meaning here from the words of a command line, and names them on stderr.

    Args:
        parser: of the program; flags that it knows stay.
        argv: the words; None: those of this process.

    Exits with a message, as argparse does, where such a flag would change the result.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    flags = _parser()
    flags.prog = parser.prog
    flags.format_usage = parser.format_usage
    own = set(parser._option_string_actions)
    foreign = [action for action in flags._actions if not own & set(action.option_strings)]
    names = {f"--{action.dest}" for action in foreign}
    if not names & {word.partition("=")[0] for word in words}:
        return words
    for action in [action for action in flags._actions if action not in foreign]:
        flags._remove_action(action)
        del flags._option_string_actions[action.option_strings[0]]
    given, rest = flags.parse_known_args(words)
    for name, value in vars(given).items():
        if _changes_results(name, value):
            shown = "" if value is True else f" {' '.join(value) if isinstance(value, list) else value}"
            why = _INSTEAD.get(name, "no model here has such a part, so its results would differ")
            parser.error(f"--{name}{shown} is an option of ReferFormer: {why}; leave it out")
    _say_ignored(parser, vars(given))
    return rest


def _say_ignored(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Names flags on stderr that are ignored, each once in a process."""
    new = [f"--{name}" for name in names if name not in _told]
    _told.update(names)
    if new and int(os.environ.get("RANK", 0)) == 0:
        verb = "are flags of ReferFormer that have" if len(new) > 1 else "is a flag of ReferFormer that has"
        print(f"{parser.prog}: {', '.join(new)} {verb} no meaning here: ignored", file=sys.stderr, flush=True)


def settle_for_proxyformer(parser: argparse.ArgumentParser, values: dict[str, object]) -> None:
    """Sets ReferFormer's own options, which its scripts give to every model, to their defaults.

    Exits with a message, as argparse does, where one of them would change ReferFormer's answers.

    Args:
        values: of the options, changed in place; None where one is not given.
    """
    for name, default in OF_REFERFORMER.items():
        if values.get(name) not in (None, default) and name != "with_box_refine":
            parser.error(
                f"--{name} is an option of ReferFormer: ProxyFormer has no such part; leave it out, or add "
                "--model referformer"
            )
    if values.get("with_box_refine"):
        _say_ignored(parser, ["with_box_refine"])
    values.update({name: default for name, default in OF_REFERFORMER.items() if values.get(name) is not None})
