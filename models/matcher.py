"""Trajectory matching: a query with the same index in all frames is one predicted instance.

Shapes: b samples, t frames, q queries, n target instances, k classes, h w mask size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.losses import dice_loss
from util.masks.box_ops import cxcywh_to_xyxy, pairwise_generalised_iou
from util.run.precision import precise
from util.samples.structures import Prediction, Targets


@dataclass(frozen=True)
class LossWeights:
    """Weights of the five terms, of matching costs or of losses (paper: 2, 5, 2, 2, 5 for both)."""

    cls: float = 2.0
    bbox: float = 5.0
    giou: float = 2.0
    mask: float = 2.0
    dice: float = 5.0


class TrajectoryMatcher:
    """Finds the query of least cost for each target instance.

    Class and box costs are means over the frames in which the object is present. Mask costs are taken over all
    annotated frames; in frames without the object the target mask is empty. An instance that is in no frame is matched
    by its masks alone.
    """

    def __init__(self, weights: LossWeights, *, focal_alpha: float = 0.25, focal_gamma: float = 2.0) -> None:
        self.weights, self.alpha, self.gamma = weights, focal_alpha, focal_gamma

    @torch.no_grad()
    def __call__(self, prediction: Prediction, targets: Targets, masks: Tensor, weight: Tensor) -> Tensor:
        """Matches a batch.

        Args:
            prediction: of one stage.
            targets: of ``n`` instances; ``valid`` marks the padded ones.
            masks: float ``[b, t, n, h, w]``, the ground truth at the size of the predicted masks.
            weight: float ``[b, t, 1, h, w]``, 1 where the masks are supervised.

        Returns:
            long ``[b, n]``: the query of each instance. The valid instances of a sample have different queries; padded
            instances have query 0.

        Raises:
            ValueError: a sample has more instances than there are queries.
        """
        queries, instances = prediction.masks.shape[2], masks.shape[2]
        if queries == instances == 1:  # there is only one query to take
            return torch.zeros_like(targets.labels)
        cost = self.cost(prediction, targets, masks, weight)
        if instances == 1:
            return cost[:, :, 0].argmin(1, keepdim=True) * targets.valid
        matched = torch.zeros(cost.shape[0], instances, dtype=torch.long)
        for i, (sample, valid) in enumerate(zip(cost.cpu(), targets.valid.cpu(), strict=True)):
            columns = valid.nonzero()[:, 0]
            if len(columns) > queries:
                raise ValueError(f"a sample has {len(columns)} instances, --num_queries is only {queries}")
            # a diverged network gives NaN, at which scipy raises; training checks the loss and has a better message
            rows, order = linear_sum_assignment(sample[:, columns].nan_to_num().numpy())
            matched[i, columns[order]] = torch.from_numpy(rows)
        return matched.to(cost.device)

    def cost(self, prediction: Prediction, targets: Targets, masks: Tensor, weight: Tensor) -> Tensor:
        """Weighted matching cost ``[b, q, n]``."""
        present = (targets.present & targets.annotated[:, :, None]).float()[:, :, None]  # b t 1 n
        frames = present.sum(1).clamp(min=1)

        def over_present(pairwise: Tensor) -> Tensor:
            return (pairwise * present).sum(1) / frames

        w = self.weights
        logits, boxes = precise(prediction.logits), precise(prediction.boxes)
        distance = torch.cdist(boxes, targets.boxes.to(boxes.dtype), p=1)
        giou = pairwise_generalised_iou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(targets.boxes))
        cost = over_present(w.cls * self._class_cost(logits, targets.labels) + w.bbox * distance - w.giou * giou)
        mask_cost, dice_cost = self._mask_costs(precise(prediction.masks), masks, weight)
        return cost + w.mask * mask_cost + w.dice * dice_cost

    def _class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal cost of calling a query the target's class: ``[b, t, q, n]``."""
        t, q = logits.shape[1:3]
        logits = logits.gather(3, labels[:, None, None, :].expand(-1, t, q, -1))
        positive, negative = self._focal_pair(logits)
        return positive - negative

    def _mask_costs(self, logits: Tensor, masks: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Mean focal cost over the supervised pixels and dice cost over the trajectory: both ``[b, q, n]``."""
        pixels = weight.flatten(1).sum(1).clamp(min=1)[:, None, None]
        positive, negative = self._focal_pair(logits)
        hit = torch.einsum("btqhw,btnhw->bqn", (positive - negative) * weight, masks)
        focal = (hit + (negative * weight).sum((1, 3, 4))[:, :, None]) / pixels
        per_instance = [
            dice_loss(logits.transpose(1, 2), mask[:, None], weight.transpose(1, 2)) for mask in masks.unbind(2)
        ]
        return focal, torch.stack(per_instance, dim=-1)

    def _focal_pair(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Focal loss of each logit for the target 1, and for the target 0."""
        probability = logits.sigmoid()
        positive = self.alpha * (1 - probability) ** self.gamma * F.softplus(-logits)
        negative = (1 - self.alpha) * probability**self.gamma * F.softplus(logits)
        return positive, negative
