"""A ProxyFormer small enough for a test to run in milliseconds, and batches that fit it; nothing is read from disk."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import RobertaTokenizer

from datasets.collate import collate
from models.proxyformer import ProxyFormer
from models.text_encoder import TextEncoder
from opts import parse_train_args
from tools.make_tiny_text_encoder import make_encoder, train_tokenizer
from util.masks.box_ops import masks_to_boxes
from util.samples.structures import Batch, Clip, Target

EXPRESSIONS = (
    "the big red circle",
    "a star",
    "the small square that moves to the left of the blue circle",
    "the zebra standing still",
)
DIM, HEADS, QUERIES = 16, 2, 4
# the same sizes as flags, for what is built from options
TINY_FLAGS = "--hidden_dim 16 --nheads 2 --mask_dim 8 --enc_layers 2 --num_queries 4 --dropout 0 --backbone resnet18"


class FakeBackbone(nn.Module):
    """Averages the pixels of each cell and mixes channels: the interface of a backbone at no cost."""

    strides = (4, 8, 16, 32)
    working = 8.0

    def __init__(self) -> None:
        super().__init__()
        self.channels = [6, 8, 10, 12]
        self.mix = nn.ModuleList(nn.Conv2d(c, d, 1) for c, d in itertools.pairwise([3, *self.channels]))

    def blocks(self) -> list[nn.Module]:
        return list(self.mix)

    def forward(self, video: Tensor) -> list[Tensor]:
        x, maps = video.flatten(0, 1), []
        for mix, stride in zip(self.mix, (4, 2, 2, 2), strict=True):
            x = mix(F.avg_pool2d(x, stride, ceil_mode=True, count_include_pad=False)).tanh()
            maps.append(x.unflatten(0, video.shape[:2]))
        return maps


@functools.cache
def tiny_tokenizer() -> RobertaTokenizer:
    return train_tokenizer(list(EXPRESSIONS) * 5, 320)


def tiny_text_encoder(frozen: bool = False) -> TextEncoder:
    """A one-layer RoBERTa of width 16 with fixed random weights."""
    made = make_encoder(tiny_tokenizer(), hidden_size=16, layers=1, heads=2, seed=0)
    encoder = TextEncoder(config=made.config, tokenizer=tiny_tokenizer().backend_tokenizer, frozen=frozen)
    encoder.model.load_state_dict(made.state_dict())
    return encoder


def tiny_model(*, seed: int = 0, frozen_text: bool = False, **options) -> ProxyFormer:
    """A ProxyFormer without dropout, on the fake backbone; ``options`` are those of its constructor."""
    torch.manual_seed(seed)
    small = dict(dim=DIM, heads=HEADS, mask_dim=8, enc_layers=2, num_queries=QUERIES, dropout=0.0)
    model = ProxyFormer(text_encoder=tiny_text_encoder(frozen_text), **{"backbone": FakeBackbone(), **small, **options})
    for layer in model.text_encoder.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return model


def tiny_args(*flags: str):
    """Options of ``main.py`` for a model of the tiny size on ResNet-18."""
    return parse_train_args([*TINY_FLAGS.split(), *flags])


def random_target(
    seed: int,
    *,
    frames: int = 3,
    instances: int = 1,
    size: tuple[int, int] = (32, 64),
    classes: int = 1,
    absent: Sequence[int] = (),
    unannotated: Sequence[int] = (),
    identity: str | None = None,
) -> Target:
    """Rectangles at random places; in the ``absent`` frames the first instance has no pixel."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    masks = torch.zeros(frames, instances, height, width, dtype=torch.bool)
    for mask in masks.flatten(0, 1):
        top = int(torch.randint(height // 2, (), generator=generator))
        left = int(torch.randint(width // 2, (), generator=generator))
        mask[top : top + height // 2, left : left + width // 3] = True
    masks[list(absent), 0] = False
    annotated = torch.ones(frames, dtype=torch.bool)
    annotated[list(unannotated)] = False
    return Target(
        masks=masks,
        boxes=masks_to_boxes(masks),
        labels=torch.randint(classes, (instances,), generator=generator),
        present=masks.flatten(2).any(2),
        annotated=annotated,
        identity=identity or f"object {seed}",
    )


def random_clip(seed: int, targets: Sequence[Target], frames: int = 3, size: tuple[int, int] = (32, 64)) -> Clip:
    """Noise that shows the first mask of its first target as a bright area."""
    generator = torch.Generator().manual_seed(1000 + seed)
    video = torch.randn(frames, 3, *size, generator=generator)
    if targets:
        video[:, 0] += 3 * targets[0].masks[:, 0]
    return Clip(
        frames=video,
        expressions=[EXPRESSIONS[(seed + i) % len(EXPRESSIONS)] for i in range(len(targets))],
        targets=list(targets),
        video_id=f"video {seed}",
        frame_ids=[str(t) for t in range(frames)],
        original_size=size,
    )


def random_batch(samples: int = 2, *, expressions: int = 1, first_seed: int = 0, frames: int = 3, **target) -> Batch:
    """``samples`` clips with ``expressions`` targets each, through the real collate function."""
    size = target.get("size", (32, 64))
    clips = []
    for seed in range(first_seed, first_seed + samples):
        targets = [random_target(10 * seed + i, frames=frames, **target) for i in range(expressions)]
        clips.append(random_clip(seed, targets, frames, size))
    return collate(clips)


def checkpoint_of(**parts: object) -> dict[str, object]:
    """The parts that every checkpoint has, of no model in particular, and these."""
    text_encoder = {"config": {}, "tokenizer": ""}
    return {"model": {"w": torch.ones(100)}, "options": {}, "num_classes": 1, "text_encoder": text_encoder, **parts}
