"""Options of the variants of ProxyFormer in the paper's ablations, and which options another model or loss lacks.

Standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

from util.options.saved import KINDS, VARIANTS

_PARTS = ("token_stride", "mask_decoder", "time_encoding", "cmie", "proxy_to_video", "video_reads")
_HELP = {
    "cmie": "attend to space and time apart, or together: CMIE* (Table IV)",
    "video_reads": "what the video reads in each stage; words: without proxy queries between them (Table VIII)",
    "jsc_video": "video features of the JSC loss: before or after the CMIE",
}


def add_variant_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("variants of the paper's ablations")
    for name, words in _HELP.items():
        group.add_argument(f"--{name}", **KINDS[name].argument(), default=VARIANTS[name], help=words)
    group.add_argument(
        "--proxy_to_video",
        action=argparse.BooleanOptionalAction,
        default=VARIANTS["proxy_to_video"],
        help="the video reads the proxies in each stage; without: CMIE w/o P2V (Table IV)",
    )


def variant_contradictions(options: Mapping[str, object], given: set[str]) -> Iterator[tuple[bool, str]]:
    """Yields pairs: whether options of parts of ProxyFormer have no effect, and the message with the mend.

    Args:
        given: names of the options that were given as flags.
    """
    of_loss = {"jsc_loss_coef", "jsc_temperature", "jsc_video"}
    flags = "--jsc_loss_coef, --jsc_temperature and --jsc_video"
    yield (
        options["model"] == "referformer" and bool(given & {"jsc_target", *of_loss}),
        f"--model referformer has no JSC loss: leave --jsc_target, {flags} out",
    )
    parts = [f"--{name}" for name in _PARTS if name in given]
    yield (
        options["model"] == "referformer" and bool(parts),
        f"--model referformer has no such part: leave {', '.join(parts)} out",
    )
    yield (
        options["jsc_target"] == "none" and bool(given & of_loss),
        f"--jsc_target none has no JSC loss: leave {flags} out, or choose a target",
    )
    yield (
        options["jsc_target"] == "text" and "jsc_video" in given,
        "--jsc_target text compares the proxies to no video: leave --jsc_video out, or choose another target",
    )
