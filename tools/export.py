"""Writes the weights of a checkpoint for sharing: one safetensors file, whose header says how to build the model.

    python tools/export.py output/run/checkpoint.pth output/mine.safetensors --dtype float16

``mine.safetensors`` serves wherever a checkpoint is used for prediction. Training cannot be resumed from it, but can
start from it with ``--pretrained_weights``.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import models  # noqa: E402
from opts import parse_train_args
from util.run.cli import run
from util.run.parser import CommandParser
from util.weights import checkpoint

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# paths on the machine of the training, which are removed; the folders of data (``…_path``) are added below
PLACES = ("output_dir", "text_encoder", "resume")
# Of these only the file's name is kept. Whether they were given matters: a ResNet's batch norm is then frozen.
ORIGINS = ("backbone_pretrained", "pretrained_weights")


def main() -> None:
    parser = CommandParser("export.py", __doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output_file", type=Path, help="ends in .safetensors")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the stored weights")
    parser.add_argument("--text_encoder", help="RoBERTa of a published file of ReferFormer")
    args = parser.parse_args()
    content = models.load_checkpoint(args.checkpoint, {"text_encoder": args.text_encoder})
    usual = vars(parse_train_args([]))
    places = {name for name in usual if name in PLACES or name.endswith("_path")}
    options = content["options"] | {name: usual[name] for name in places}
    for name in ORIGINS:
        options[name] = options[name] and Path(options[name]).name
    content["options"] = options
    checkpoint.export(args.output_file, content, DTYPES[args.dtype])
    size = args.output_file.stat().st_size
    print(f"{args.output_file}: {len(content['model'])} tensors as {args.dtype}, {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run(main)
