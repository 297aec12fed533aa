"""Segments every expression of a MeViS split and packs the masks as a submission.

    python inference_mevis.py --resume output/run/checkpoint.pth --output_dir output/run/valid
    python inference_mevis.py --resume output/run/checkpoint.pth --split valid_u --output_dir output/u
    python eval_mevis.py output/u

With --mevis_version 2 the lists of version 2 are read; eval_mevis.py has the same option.

The checkpoint holds the options of the training, so none of them are given here. An interrupted run goes on where it
stopped. Videos that cannot be read are named and left out, and the exit code is 3; once their files are restored, the
same command goes on.
"""

from __future__ import annotations

import torch

from datasets.mevis import SPLITS
from opts import inference_parser, parse_inference_args
from tasks.inference import run_inference, segment_split
from util.options.inference import InferenceOptions
from util.run import cli
from util.run.gaps import Gaps


def parse_args(argv: list[str] | None = None) -> InferenceOptions:
    parser = inference_parser("inference_mevis.py", __doc__, output="output/mevis", own="mevis_path")
    parser.add_argument("--split", choices=SPLITS, default="valid", help="valid is for the server, valid_u has masks")
    parser.add_argument("--mevis_path", help="default: where it was in training")
    parser.add_argument("--mevis_version", type=int, choices=(1, 2), default=1, help="whose lists are read; default: 1")
    return parse_inference_args(parser, argv)


def infer(asked: InferenceOptions, device: torch.device, gaps: Gaps) -> None:
    """Predicts, packs and checks one split."""
    segment_split(asked, device, gaps, "mevis" if asked.mevis_version == 1 else "mevis_v2", zip_root="")


if __name__ == "__main__":
    cli.run(lambda: run_inference(parse_args(), infer))
