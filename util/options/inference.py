"""What inference scripts are asked: options of windows, and the values of a command line. Standard library only."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import dataclass

from util.options.types import positive_int, probability

CLIPS = ("followed", "independent")  # how the windows of a long video are answered


@dataclass(frozen=True)
class InferenceOptions:
    """The options given on the command line of an inference script; None: the checkpoint's value, or the usual one.

    Attributes:
        resume: the checkpoint; split: of the data set; data_path: its folder.
        output_dir: of the masks; overwrite: delete those of another run; visualize: also write videos.
        device: where to compute; strict: the first video that cannot be read is an error.
        holdout: how many training videos make the split ``holdout``; allow_trained: take videos that were trained on.
        eval_size, max_size, amp, float32, window, overlap, clips, long_text, not_there: of the predictor.
        loader_timeout: seconds to wait for a frame; rank_timeout: for a sign of life of another process.
        model: options of the model, by name; the checkpoint must agree.
        mevis_version: 1 or 2, which of MeViS's lists.
    """

    resume: str
    split: str
    data_path: str | None
    output_dir: str
    overwrite: bool
    visualize: bool
    device: str | None
    strict: bool
    holdout: int | None
    allow_trained: bool
    eval_size: int | None
    max_size: int | None
    amp: str | None
    float32: str
    window: int | None
    overlap: int | None
    clips: str
    long_text: str | None
    not_there: float
    loader_timeout: int | None
    rank_timeout: int
    model: dict[str, object]
    mevis_version: int = 1


def add_window_options(parser: argparse._ActionsContainer) -> None:
    """Adds the options for videos that are longer than the network sees at once."""
    parser.add_argument("--window", type=positive_int, metavar="FRAMES", help="frames seen together; default: 40")
    parser.add_argument(
        "--overlap",
        type=positive_int,
        metavar="FRAMES",
        help="shared by two windows; default: 8, or half of one",
    )
    parser.add_argument(
        "--clips",
        choices=CLIPS,
        default="followed",
        help="windows of a long video: objects are followed from one to the next, or each is answered by itself",
    )


def add_not_there(parser: argparse._ActionsContainer, default: float | None) -> None:
    """Adds the threshold below which an expression means nothing in a video.

    The default is 0 where a benchmark asks for a mask of every expression.
    """
    usual = "0, every expression gets masks" if default == 0 else "0.5 with calibrated weights, else 0"
    parser.add_argument(
        "--not_there",
        type=probability,
        default=default,
        metavar="SCORE",
        help=f"expressions with a lower score mean nothing in the video, and get empty masks; default: {usual}",
    )


def inference_options(parsed: argparse.Namespace, of_model: Collection[str]) -> InferenceOptions:
    """The options that a parser has read.

    Args:
        parsed: by a parser with one option that ends in ``_path``.
        of_model: names of the options of the model.
    """
    values = vars(parsed)
    (path,) = (name for name in values if name.endswith("_path") and name not in of_model)
    own = {
        name: values[name] for name in InferenceOptions.__dataclass_fields__ if name in values and name not in of_model
    }
    given = {name: values[name] for name in of_model if values[name] is not None}
    return InferenceOptions(**own, data_path=values[path], model=given)
