"""Segments every expression of a Ref-YouTube-VOS split and packs the masks as a submission.

    python inference_ytvos.py --resume output/run/checkpoint.pth --output_dir output/run/valid

The checkpoint holds the options of the training, so none of them are given here. An interrupted run goes on where it
stopped. Videos that cannot be read are named and left out, and the exit code is 3; once their files are restored, the
same command goes on.
"""

from __future__ import annotations

import torch

from datasets.ytvos import SPLITS
from opts import inference_parser, parse_inference_args
from tasks.inference import run_inference, segment_split
from util.masks.results import RESULTS_ROOT
from util.options.inference import InferenceOptions
from util.run import cli
from util.run.gaps import Gaps


def parse_args(argv: list[str] | None = None) -> InferenceOptions:
    parser = inference_parser("inference_ytvos.py", __doc__, output="output/ytvos", own="ytvos_path")
    parser.add_argument("--split", choices=SPLITS, default="valid")
    parser.add_argument("--ytvos_path", help="default: where it was in training")
    return parse_inference_args(parser, argv)


def infer(asked: InferenceOptions, device: torch.device, gaps: Gaps) -> None:
    """Predicts, packs and checks one split."""
    segment_split(asked, device, gaps, "ytvos", RESULTS_ROOT)


if __name__ == "__main__":
    cli.run(lambda: run_inference(parse_args(), infer))
