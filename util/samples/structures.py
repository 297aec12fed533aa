"""Plain containers that travel between the data, the model and the losses.

Shape legend, used across the project:
    V  distinct clips in a batch          B  samples (an expression asked of a clip); V <= B
    T  frames in a clip                   n  target instances of a sample, padded to the most in the batch
    H, W  padded frame size               N  proxy queries per frame
    K  classes                            h, w  mask size inside the network

Masks named ``valid`` are True on data and False on padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Self

import torch
from torch import Tensor


def at_frames(x: Tensor, frames: Sequence[int]) -> Tensor:
    """Some frames of ``x [B, T, …]``. An index would be copied to a GPU first, which waits for it."""
    parts = x.unbind(1)
    return torch.stack([parts[frame] for frame in frames], 1)


class Movable:
    """Moves all tensors of a dataclass together; other values stay as they are."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        return self._each(lambda value: value.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """Called by the data loader; tensors in page-locked memory reach a GPU without blocking."""
        return self._each(lambda value: value.pin_memory())

    def _each(self, move: Callable) -> Self:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: move(v) if isinstance(v, (Tensor, Movable)) else v for k, v in values.items()})


@dataclass
class Target:
    """Ground truth of one expression on one clip.

    A frame is *annotated* when it has ground truth at all; an instance is *present* in it when it has pixels
    there. Frames that are not annotated enter no loss (method: "Losses").

    Attributes:
        masks: bool ``[T, n, H, W]``, one per instance.
        boxes: float ``[T, n, 4]``, cxcywh as a share of the frame's size; zeros where the instance is absent.
        labels: long ``[n]``, class of each instance.
        present: bool ``[T, n]``.
        annotated: bool ``[T]``.
        identity: names the video and the object(s); samples with the same identity are never each other's
            negatives in the JSC loss.
    """

    masks: Tensor
    boxes: Tensor
    labels: Tensor
    present: Tensor
    annotated: Tensor
    identity: str


@dataclass
class Clip:
    """What a dataset returns: some frames of one video and the expressions asked of them.

    Attributes:
        frames: float ``[T, 3, H, W]``, normalised.
        expressions: one or more expressions about this clip.
        targets: one :class:`Target` for each expression; empty at inference.
        video_id: name of the video.
        frame_ids: names of the ``T`` frames.
        original_size: height and width of the frames on disk.
        problems: the faults of damaged clips that this clip replaces, a line each.
    """

    frames: Tensor
    expressions: list[str]
    targets: list[Target]
    video_id: str
    frame_ids: list[str]
    original_size: tuple[int, int]
    problems: list[str] = field(default_factory=list)


@dataclass
class Targets(Movable):
    """The ground truth of a batch, padded to the same number of instances.

    Attributes:
        masks: bool ``[B, T, n, H, W]``.
        boxes: float ``[B, T, n, 4]``, cxcywh as a share of the clip's own (unpadded) size.
        labels: long ``[B, n]``.
        present: bool ``[B, T, n]``.
        annotated: bool ``[B, T]``.
        valid: bool ``[B, n]``, False on padded instances.
        identities: long ``[B]``, a number for the identity of each :class:`Target`, the same on every rank.
        annotated_frames: positions of the frames that are annotated in any sample.
    """

    masks: Tensor
    boxes: Tensor
    labels: Tensor
    present: Tensor
    annotated: Tensor
    valid: Tensor
    identities: Tensor
    annotated_frames: list[int]

    def at(self, frames: Sequence[int]) -> Self:
        """The ground truth of some frames."""
        of_frames = ("masks", "boxes", "present", "annotated")
        annotated = [i for i, frame in enumerate(frames) if frame in self.annotated_frames]
        return replace(
            self, annotated_frames=annotated, **{name: at_frames(getattr(self, name), frames) for name in of_frames}
        )


@dataclass
class Batch(Movable):
    """Input of the model and, in training, its ground truth.

    Attributes:
        video: float ``[V, T, 3, H, W]``, zeros on padding.
        video_valid: bool ``[V, H, W]``, True on real pixels; None when no clip is padded.
        expressions: ``B`` strings.
        clip_index: long ``[B]``, the clip that each expression is asked of.
        targets: ground truth, or None.
        clips: for each of the ``V`` clips its ``video_id``, ``frame_ids``, ``original_size`` and ``size``.
        problems: the faults of damaged clips that others replace, a line each.
    """

    video: Tensor
    video_valid: Tensor | None
    expressions: list[str]
    clip_index: Tensor
    targets: Targets | None
    clips: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass
class Prediction(Movable):
    """The outputs of the heads for the proxies of one CMIE stage.

    Attributes:
        logits: ``[B, T, N, K]`` class logits.
        boxes: ``[B, T, N, 4]`` in [0, 1], cxcywh.
        masks: ``[B, T, N, h, w]`` mask logits.
        proxies: ``[B, T, N, C]`` the proxy queries themselves.
    """

    logits: Tensor
    boxes: Tensor
    masks: Tensor
    proxies: Tensor


@dataclass
class Output:
    """The output of the model.

    Attributes:
        final: prediction of the last stage.
        aux: predictions of the earlier stages, first to last; empty without deep supervision.
        semantics: ``[B, C]`` joint semantic feature of each sample for the JSC loss; None outside training.
    """

    final: Prediction
    aux: list[Prediction]
    semantics: Tensor | None
