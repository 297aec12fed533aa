"""Short runs of training on the tiny data set, within this process."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor

from main import build_trainer, find_checkpoint
from opts import parse_train_args
from tasks.training import Trainer

CPU = torch.device("cpu")

# dropout, and a batch norm that is trained: both would show a state that was not kept
FLAGS = """
    --binary --backbone tsm_resnet10_half --random_backbone --hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 1
    --num_queries 2 --dropout 0.2 --train_sizes 32 48 --max_size 96 --eval_size 40 --batch_size 2 --num_frames 2
    --seed 3 --expressions_per_clip 2 --num_workers 0 --device cpu --epochs 2 --lr 1e-3 --lr_schedule cosine
"""


def trainer(root: Path, folder: Path, *flags: object, resume: str | Path | None = "auto") -> Trainer:
    """A new run, or one that goes on, as ``main.py`` makes it."""
    words = [*FLAGS.split(), "--ytvos_path", str(root), "--text_encoder", str(root / "text")]
    args = parse_train_args([*words, "--output_dir", str(folder), *map(str, flags)])
    args.resume = resume and str(resume)
    args.resume, saved = find_checkpoint(args)
    torch.manual_seed(args.seed)
    return build_trainer(args, saved, torch.device(args.device))


def log(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def same(first, second) -> bool:
    """Whether two states are equal to the last bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second
