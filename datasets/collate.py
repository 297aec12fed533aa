"""Clips of a batch, padded to one size."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from util.samples.structures import Batch, Clip, Target, Targets

# The coarsest stride of the backbones. The sizes of their maps then need no rounding.
PAD_MULTIPLE = 32


def _padded_size(clips: list[Clip]) -> tuple[int, int]:
    height, width = (max(clip.frames.shape[axis] for clip in clips) for axis in (-2, -1))
    return -(-height // PAD_MULTIPLE) * PAD_MULTIPLE, -(-width // PAD_MULTIPLE) * PAD_MULTIPLE


def _fill(destination: Tensor, source: Tensor) -> None:
    """Copies ``source`` into the low corner of ``destination``, which has the same number of axes."""
    destination[tuple(slice(length) for length in source.shape)] = source


def _stack(parts: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    """Stacks tensors of different sizes, each padded with zeros (False) at the end of its axes up to ``shape``."""
    stacked = parts[0].new_zeros((len(parts), *shape))
    for row, part in zip(stacked, parts, strict=True):
        _fill(row, part)
    return stacked


def identity_numbers(identities: list[str]) -> Tensor:
    """A 64-bit number for each name, the same in every process: long ``[b]``."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in identities]
    return torch.tensor([int.from_bytes(d, "big", signed=True) for d in digests], dtype=torch.long)


def _collate_targets(targets: list[Target], size: tuple[int, int]) -> Targets:
    length = len(targets[0].annotated)
    most = max(len(target.labels) for target in targets)
    annotated = torch.stack([target.annotated for target in targets])
    return Targets(
        masks=_stack([target.masks for target in targets], (length, most, *size)),
        boxes=_stack([target.boxes for target in targets], (length, most, 4)),
        labels=_stack([target.labels for target in targets], (most,)),
        present=_stack([target.present for target in targets], (length, most)),
        annotated=annotated,
        valid=_stack([torch.ones_like(target.labels, dtype=torch.bool) for target in targets], (most,)),
        identities=identity_numbers([target.identity for target in targets]),
        annotated_frames=annotated.any(0).nonzero()[:, 0].tolist(),
    )


def _valid_pixels(clips: list[Clip], size: tuple[int, int]) -> Tensor | None:
    """bool ``[V, H, W]``, True on real pixels; None when no clip is padded, so the model needs no masks."""
    if all(clip.frames.shape[-2:] == size for clip in clips):
        return None
    return _stack([torch.ones(clip.frames.shape[-2:], dtype=torch.bool) for clip in clips], size)


def collate(clips: list[Clip]) -> Batch:
    """Makes a batch of clips with the same number of frames.

    Frames are padded with zeros, and masks with False, at the right and at the bottom to the largest height and width
    of the batch, rounded up to a multiple of 32. Boxes stay shares of their own clip's size.
    """
    size = _padded_size(clips)
    length = len(clips[0].frames)
    assert all(len(clip.frames) == length for clip in clips), "clips of different lengths in one batch"
    targets = [target for clip in clips for target in clip.targets]
    return Batch(
        video=_stack([clip.frames for clip in clips], (length, 3, *size)),
        video_valid=_valid_pixels(clips, size),
        expressions=[text for clip in clips for text in clip.expressions],
        clip_index=torch.tensor([v for v, clip in enumerate(clips) for _ in clip.expressions]),
        targets=_collate_targets(targets, size) if targets else None,
        clips=[
            {
                "video_id": clip.video_id,
                "frame_ids": clip.frame_ids,
                "original_size": clip.original_size,
                "size": (clip.frames.shape[-2], clip.frames.shape[-1]),
            }
            for clip in clips
        ],
        problems=[problem for clip in clips for problem in clip.problems],
    )
