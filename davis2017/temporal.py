"""tIoU and vIoU of Long-RVOS: whether an object is found in the frames that show it, and in no others.

With the frames that show the object, those in which something is predicted, and J of each frame:

    tIoU  frames of both, divided by frames of either
    vIoU  the sum of J over the frames of both, divided by frames of either

Both are 1 where there is no frame of either. Source: eval/eval_long_rvos/eval_static.py of
github.com/iSEE-Laboratory/Long_RVOS, which has the same lines for each type of expression.
"""

from __future__ import annotations

from collections.abc import Sequence

MEASURES = ("tIoU", "vIoU")
# what a frame adds whose predicted mask cannot be used: in the authors' script a missing mask is an empty one
UNUSABLE = (0.0, 1.0, 0.0)


def in_frame(shown: bool, predicted: bool, j: float) -> tuple[float, float, float]:
    """What a frame adds to the sums: 1 for a frame of both, 1 for a frame of either, J in a frame of both.

    Args:
        shown: whether the true mask has a pixel; predicted: whether the predicted one has.
        j: J of the two.
    """
    both = shown and predicted
    return float(both), float(shown or predicted), j if both else 0.0


def over_frames(sums: Sequence[float]) -> dict[str, float]:
    """The measures of an expression, from the sums of :func:`in_frame` over its frames."""
    both, either, j = map(float, sums)
    return dict(zip(MEASURES, (both / either, j / either) if either else (1.0, 1.0), strict=True))
