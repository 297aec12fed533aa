"""The answer to expressions in a video: scores, and masks that are cut out when they are asked for.

Shapes: E expressions, H W size of the frames on disk.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.calibration import Calibration
from models.windows import Waiting

AT_ONCE = 8  # frames in the size of the video that are read, or cut out, together


def finite(scores: Tensor) -> Tensor:
    """The scores as they are. Raises FloatingPointError for some that are not finite: no order can be made of them."""
    if not scores.isfinite().all():
        raise FloatingPointError("the network's scores are not finite; compute with --amp bf16 or off")
    return scores


class Segmentation:
    """The objects that expressions refer to in a video; their masks are computed by :meth:`masks` on demand.

    Args:
        waiting: the mask logits of the network.
        scores: of each expression's queries, ``[E, n]``; None: there are no expressions.
        size: height and width of the frames.
        enlarge: brings mask logits ``[1, t, h, w]`` to this size.
        threshold: logit above which a pixel belongs to the object.
        device: where to compute.
        calibration: of the scores; None: they stay as they are.
        not_there: score below which an expression means nothing in the video.

    Attributes:
        scores: of each expression, the class probability of the chosen query, averaged over the frames. With a
            calibration: the probability that it means something in the video.
        there: of each expression, whether its score reaches ``not_there``. Where it does not, its masks are empty.
        size: height and width of the frames.
    """

    def __init__(
        self,
        waiting: Waiting,
        scores: Tensor | None,
        size: tuple[int, int],
        *,
        enlarge: Callable[[Tensor], Tensor],
        threshold: float,
        device: torch.device,
        calibration: Calibration | None = None,
        not_there: float = 0.0,
    ) -> None:
        self.size = size
        self._waiting, self._enlarge, self._threshold, self._device = waiting, enlarge, threshold, device
        best = [] if scores is None else [row.max(0) for row in finite(scores.cpu())]
        scores = (score.item() for score, _ in best)
        self.scores = [calibration(score) if calibration else score for score in scores]
        self.there = [score >= not_there for score in self.scores]
        self._queries = [int(query) for _, query in best]

    @torch.inference_mode()
    def logits(self, expression: int, start: int, stop: int) -> Tensor:
        """Mask logits ``[stop - start, H, W]`` of the frames from ``start`` on, on the predictor's device."""
        if not self.there[expression]:
            return torch.full((stop - start, *self.size), -torch.inf, device=self._device)
        small = self._waiting.get(expression, self._queries[expression], start, stop, self._device)
        return self._enlarge(small[None])[0]

    def masks(self, start: int, stop: int) -> Tensor:
        """bool ``[E, stop - start, H, W]`` on the CPU, of the frames from ``start`` on."""
        found = torch.empty(len(self.scores), stop - start, *self.size, dtype=torch.bool)
        for e in range(len(found)):
            for first in range(start, stop, AT_ONCE):  # logits are four times as large as masks
                last = min(first + AT_ONCE, stop)
                found[e, first - start : last - start] = self.logits(e, first, last) > self._threshold
        return found
