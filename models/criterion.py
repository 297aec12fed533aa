"""All loss terms of a training step: five per stage from trajectory matching, and the JSC loss.

Shapes: b samples, t frames, q queries, n target instances, k classes, h w mask size, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.losses import dice_loss, info_nce, sigmoid_focal_loss
from models.matcher import LossWeights, TrajectoryMatcher
from util.masks.box_ops import cxcywh_to_xyxy, generalised_iou
from util.run import dist
from util.run.precision import precise
from util.samples.structures import Batch, Output, Prediction, Targets


@dataclass
class Normaliser:
    """The divisors of the loss terms of a micro-batch.

    ``frames`` and ``instances`` are counted over all micro-batches and ranks, are at least 1, and are divided by the
    number of ranks, because gradients are averaged over the ranks.

    Attributes:
        frames: number of frames in which a target is present.
        instances: number of targets.
        micro_batches: number of micro-batches of the step on each rank.
        samples: number of samples of this micro-batch on each rank.
    """

    frames: Tensor
    instances: Tensor
    micro_batches: int
    samples: list[int]


class Criterion:
    """Matches the predictions of every stage with the targets, and computes their losses.

    Each frame gives a number to the class and box terms. Each trajectory gives one number to the mask term (its focal
    loss, averaged over t·h·w) and one to the dice term. What the sums are divided by is counted over all ranks, so that
    the gradient does not depend on how a global batch is divided among the ranks.

    Args:
        matcher: finds the query of each target.
        weights: of the five terms of a stage; jsc_weight: of the JSC loss.
        focal_alpha, focal_gamma: of the class and mask terms.
        mask_loss_size: "stride4": compare masks at the size of the network's logits, with subsampled ground truth.
            "full": upsample the logits to the size of the frame.
        mask_loss_norm: what divides the mask and dice terms. "frames": the number of frames in which a target is
            present, as for all other terms and as in ReferFormer ("num_boxes" in its models/criterion.py); a trajectory
            then weighs less the longer the clip is. "instances": the number of targets.
        jsc_temperature: of InfoNCE.
        all_frames: the network must answer for all frames of a clip, because the JSC loss takes their mean.
    """

    def __init__(
        self,
        *,
        matcher: TrajectoryMatcher,
        weights: LossWeights,
        focal_alpha: float = 0.25,
        focal_gamma: float = 2.0,
        mask_loss_size: str = "stride4",
        mask_loss_norm: str = "frames",
        jsc_weight: float = 1.0,
        jsc_temperature: float = 0.07,
        all_frames: bool = True,
    ) -> None:
        self.matcher, self.weights = matcher, weights
        self.alpha, self.gamma = focal_alpha, focal_gamma
        self.mask_loss_size, self.mask_loss_norm = mask_loss_size, mask_loss_norm
        self.jsc_weight, self.jsc_temperature = jsc_weight, jsc_temperature
        self.all_frames = all_frames

    def frames(self, targets: Targets) -> list[int] | None:
        """Positions of the frames that the network has to answer for; None: all.

        A frame without ground truth enters no loss. So of a clip of A2D only the annotated frame is decoded, as in
        ReferFormer ("valid_indices" in its models/referformer.py).
        """
        if self.all_frames:
            return None
        wanted = targets.annotated_frames
        return wanted if 0 < len(wanted) < targets.annotated.shape[1] else None

    def __call__(
        self, output: Output, batch: Batch, normaliser: Normaliser | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of all terms, and each term before weighting.

        The terms of the last stage are called ``loss_cls`` …, those of an earlier stage k ``loss_cls_k`` …. Everything
        is computed in float32, or in float64 if the network's output is of that type.

        Args:
            output: of the model.
            batch: the input of the model, with targets.
            normaliser: of this micro-batch, for losses that add up to that of the step; None: this batch is the whole
                step.
        """
        targets, size = batch.targets, output.final.masks.shape[-2:]
        dtype = precise(output.final.masks).dtype
        masks = subsample(targets.masks, size).to(dtype)
        weight = self.supervised(batch, size)
        terms: dict[str, Tensor] = {}
        loss = output.final.masks.new_zeros((), dtype=dtype)
        with torch.autocast(output.final.masks.device.type, enabled=False):
            over = normaliser or self.normalisers([targets])[0]
            stages = [(f"_{k}", aux) for k, aux in enumerate(output.aux, start=1)] + [("", output.final)]
            for suffix, prediction in stages:
                matched = self.matcher(prediction, targets, masks, weight)
                for name, value in self.stage_terms(prediction, batch, matched, masks, weight, over).items():
                    loss = loss + getattr(self.weights, name) * value
                    terms[f"loss_{name}{suffix}"] = value.detach()
            if output.semantics is not None:
                # `matched` is the matching of the last stage, because it comes last
                jsc = self.jsc(output, targets, matched, over.samples) / over.micro_batches
                loss = loss + self.jsc_weight * jsc
                terms["loss_jsc"] = jsc.detach()
        return loss, terms

    def shares(self, terms: Mapping[str, float]) -> dict[str, float]:
        """What each kind of term adds to the loss, weighted and over all stages, from terms as this gives them."""
        shares: dict[str, float] = {}
        for name, value in terms.items():
            kind = name.split("_")[1]
            weight = self.jsc_weight if kind == "jsc" else getattr(self.weights, kind)
            shares[kind] = shares.get(kind, 0.0) + weight * value
        return shares

    def supervised(self, batch: Batch, size: tuple[int, int]) -> Tensor:
        """float ``[b, t, 1, h, w]``: 1 on the real pixels of annotated frames."""
        annotated = batch.targets.annotated.float()[:, :, None, None, None]
        if batch.video_valid is None:
            return annotated.expand(-1, -1, 1, *size).contiguous()
        pixels = subsample(batch.video_valid, size)[batch.clip_index].float()
        return annotated * pixels[:, None, None]

    def normalisers(self, micro_batches: Sequence[Targets]) -> list[Normaliser]:
        """The divisors for each micro-batch of a step. Every rank must have the same number of micro-batches."""
        counted = torch.zeros(2, device=micro_batches[0].present.device)
        for targets in micro_batches:
            frames = (targets.present & targets.annotated[:, :, None] & targets.valid[:, None]).sum()
            counted += torch.stack((frames, targets.valid.sum()))
        frames, instances = dist.total(counted).clamp(min=1) / dist.world_size()
        samples = dist.of_ranks(*(len(targets.valid) for targets in micro_batches))
        return [Normaliser(frames, instances, len(micro_batches), list(of)) for of in zip(*samples, strict=True)]

    def stage_terms(
        self,
        prediction: Prediction,
        batch: Batch,
        matched: Tensor,
        masks: Tensor,
        weight: Tensor,
        over: Normaliser,
    ) -> dict[str, Tensor]:
        """The five terms of one stage, given the matched queries ``[b, n]``."""
        targets, frames = batch.targets, over.frames
        trajectories = frames if self.mask_loss_norm == "frames" else over.instances
        t = targets.present.shape[1]
        picked = matched[:, None, :].expand(-1, t, -1)
        present = (targets.present & targets.annotated[:, :, None] & targets.valid[:, None]).to(masks.dtype)

        boxes = precise(prediction.boxes).gather(2, picked[..., None].expand(-1, -1, -1, 4))
        giou = generalised_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes))
        logits = precise(prediction.masks).gather(2, picked[..., None, None].expand(-1, -1, -1, *masks.shape[-2:]))
        if self.mask_loss_size == "full":
            full = targets.masks.shape[-2:]
            if batch.video_valid is not None:
                logits = continue_edge(logits, subsample(batch.video_valid, masks.shape[-2:])[batch.clip_index])
            logits = F.interpolate(logits.flatten(0, 1), size=full, mode="bilinear").unflatten(0, (-1, t))
            masks, weight = targets.masks.to(logits.dtype), self.supervised(batch, full)
        focal = sigmoid_focal_loss(logits, masks, self.alpha, self.gamma) * weight
        focal = focal.sum((1, 3, 4)) / weight.sum((1, 3, 4)).clamp(min=1)
        dice = dice_loss(logits.transpose(1, 2), masks.transpose(1, 2), weight.transpose(1, 2))
        return {
            "cls": self.class_loss(precise(prediction.logits), targets, matched, present) / frames,
            "bbox": ((boxes - targets.boxes).abs().sum(-1) * present).sum() / frames,
            "giou": ((1 - giou) * present).sum() / frames,
            "mask": (focal * targets.valid).sum() / trajectories,
            "dice": (dice * targets.valid).sum() / trajectories,
        }

    def class_loss(self, logits: Tensor, targets: Targets, matched: Tensor, present: Tensor) -> Tensor:
        """Focal loss, summed: positive for the matched query on present frames, negative elsewhere."""
        wanted = torch.zeros_like(logits)
        for i in range(matched.shape[1]):
            frame_query = wanted.new_zeros(logits.shape[:3])
            frame_query.scatter_(
                2, matched[:, None, i : i + 1].expand(-1, logits.shape[1], -1), present[..., i : i + 1]
            )
            one_hot = F.one_hot(targets.labels[:, i], logits.shape[-1]).to(wanted)
            wanted = torch.maximum(wanted, frame_query[..., None] * one_hot[:, None, None])
        loss = sigmoid_focal_loss(logits, wanted, self.alpha, self.gamma)
        return (loss * targets.annotated[:, :, None, None]).sum()

    def jsc(self, output: Output, targets: Targets, matched: Tensor, samples: Sequence[int]) -> Tensor:
        """Joint Semantic Consistency loss over the global batch; 0 for a single sample.

        A sample whose object is in no annotated frame of the clip is left out. ``samples`` are counted on each rank.
        """
        t = output.final.proxies.shape[1]
        index = matched[:, None, :, None].expand(-1, t, -1, output.final.proxies.shape[-1])
        queries = precise(output.final.proxies).gather(2, index).mean(1)
        share = targets.valid.float()[..., None]
        queries = (queries * share).sum(1) / share.sum(1).clamp(min=1)
        seen = (targets.present & targets.annotated[:, :, None] & targets.valid[:, None]).any((1, 2))
        identities, seen = dist.gather_rows(torch.stack((targets.identities, seen.long()), 1), samples).unbind(1)
        return info_nce(
            dist.gather_rows(queries, samples),
            dist.gather_rows(precise(output.semantics), samples),
            self.jsc_temperature,
            identities,
            seen.bool(),
        )


def subsample(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """The pixel at the centre of each cell: ``[..., H, W]`` to ``[..., h, w]`` (at stride 4: pixels 2, 6, 10 …)."""
    rows, columns = (
        ((torch.arange(small, device=masks.device) + 0.5) * (full / small)).long()
        for full, small in zip(masks.shape[-2:], size, strict=True)
    )
    return masks[..., rows[:, None], columns]


def continue_edge(x: Tensor, valid: Tensor) -> Tensor:
    """``x [b, t, n, h, w]``, whose padding is filled with the last real row and column, so that interpolation at the
    edge reads no padding.

    ``valid [b, h, w]`` is True on real pixels, a rectangle at the top left.
    """
    for axis, real in ((3, valid.any(2)), (4, valid.any(1))):
        last = (real.sum(1, keepdim=True) - 1).clamp(min=0)
        index = torch.minimum(torch.arange(x.shape[axis], device=x.device), last)
        index = index[:, None, None, :, None] if axis == 3 else index[:, None, None, None, :]
        x = x.gather(axis, index.expand_as(x))
    return x
