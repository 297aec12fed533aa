"""Writes the weights of a checkpoint for sharing: one safetensors file, whose header says how to build the model.

    python tools/export.py output/run/checkpoint.pth output/mine.safetensors --dtype float16
    python tools/export.py output/run/checkpoint.pth --push owner/name --dtype float16

``mine.safetensors`` serves wherever a checkpoint is used for prediction. Training cannot be resumed from it, but can
start from it with ``--pretrained_weights``. With ``--push`` the weights and a model card go to a repository on the
Hugging Face hub, and ``owner/name`` then serves in the place of a file.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import models  # noqa: E402
from opts import parse_train_args
from tools.model_card import model_card, read_scores
from util.files.writing import atomic_path
from util.run.cli import one_line, run
from util.run.parser import CommandParser
from util.weights import checkpoint, history, hub

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# paths on the machine of the training, which are removed; the folders of data (``…_path``) are added below
PLACES = ("output_dir", "text_encoder", "resume", "annotations", "expressions")
# Of these only the file's name is kept. Whether they were given matters: a ResNet's batch norm is then frozen.
ORIGINS = ("backbone_pretrained", "pretrained_weights")


def parse_args() -> argparse.Namespace:
    parser = CommandParser("export.py", __doc__)
    parser.add_argument("checkpoint", help="of main.py, exported weights, or owner/name on the Hugging Face hub")
    parser.add_argument("output_file", type=Path, nargs="?", help="ends in .safetensors; may be left out with --push")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the stored weights")
    parser.add_argument("--push", metavar="OWNER/NAME", help="repository on the hub that takes weights and model card")
    parser.add_argument("--card", type=Path, metavar="FILE", help="write the model card to this file, to look at it")
    parser.add_argument(
        "--scores", type=Path, metavar="FILE", help="of eval_*.py --json or main.py --eval, for the card"
    )
    parser.add_argument(
        "--scored_on", metavar="WORDS", help='with --scores: what was scored, as "Ref-YouTube-VOS, valid"'
    )
    parser.add_argument("--text_encoder", help="RoBERTa of a published file of ReferFormer")
    parser.add_argument(
        "--trained_on",
        nargs="+",
        metavar="WORDS",
        help='what each training was on, where the checkpoint does not record it, as "9,000 videos of my cats"',
    )
    parser.add_argument("--knows", metavar="WORDS", help='with --trained_on: what the weights know, as "only cats"')
    args = parser.parse_args()
    if not (args.output_file or args.push or args.card):
        parser.error("give a file for the exported weights, or --push")
    if args.knows and not args.trained_on:
        parser.error("--knows is told after --trained_on: add that")
    if bool(args.scores) != bool(args.scored_on):
        parser.error("--scores and --scored_on are given together: the file, and in words what was scored")
    if args.scores and not (args.push or args.card):
        parser.error("--scores go into the model card: give --push or --card, too")
    return args


def main() -> None:
    args = parse_args()
    if args.push:
        hub.check_can_push(args.push)
    scored = (one_line(args.scored_on), read_scores(args.scores)) if args.scores else None
    content = models.load_checkpoint(args.checkpoint, {"text_encoder": args.text_encoder})
    if args.trained_on:
        content[checkpoint.TRAINED_ON] = history.told(args.trained_on, args.knows)
    usual = vars(parse_train_args([]))
    places = {name for name in usual if name in PLACES or name.endswith("_path")}
    options = content["options"] | {name: usual[name] for name in places}
    for name in ORIGINS:
        options[name] = options[name] and Path(options[name]).name
    content["options"] = options
    card = model_card(content, args.push or "owner/name", usual, scored)
    if args.output_file:
        checkpoint.export(args.output_file, content, DTYPES[args.dtype])
        size = args.output_file.stat().st_size
        print(f"{args.output_file}: {len(content['model'])} tensors as {args.dtype}, {size / 2**20:.1f} MiB")
    if args.card:
        with atomic_path(args.card) as temporary:
            temporary.write_text(card, encoding="utf-8")
        print(args.card)
    if args.push:
        with tempfile.TemporaryDirectory(prefix="proxyformer-") as folder:
            checkpoint.export(Path(folder, hub.WEIGHTS), content, DTYPES[args.dtype])
            Path(folder, hub.CARD).write_text(card, encoding="utf-8")
            address = hub.push(Path(folder), args.push)
        print(f"{address}: {hub.WEIGHTS} and {hub.CARD} are uploaded; --resume {args.push}")
        print(f"where older weights of this name were used, this takes the new ones: {hub.newer(args.push)}")


if __name__ == "__main__":
    run(main)
