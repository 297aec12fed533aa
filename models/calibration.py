"""From the score of an expression to the probability that it means something in the video.

The class probability of the chosen query, averaged over the frames, tells present from absent once a model was trained
with absent expressions, but it is no probability: the focal loss draws it to the middle. A logistic curve makes one of
it (J. Platt, "Probabilistic outputs for support vector machines", 1999), fitted on videos that were not trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import rankdata

_LEAST = 1e-6  # scores nearer to 0 or 1 are taken for this, as their logit would be infinite


@dataclass(frozen=True)
class Calibration:
    """The curve ``p = sigmoid(slope · logit(score) + offset)``.

    ``p`` is the probability that an expression means something where half of the expressions do.
    """

    slope: float
    offset: float

    def __call__(self, score: float) -> float:
        return float(expit(self.slope * logit(min(max(score, _LEAST), 1 - _LEAST)) + self.offset))

    @classmethod
    def of(cls, values: dict[str, float] | None) -> Calibration | None:
        """The curve that a checkpoint holds; None where it holds none."""
        return None if values is None else cls(values["slope"], values["offset"])

    @classmethod
    def fit(cls, present: np.ndarray, absent: np.ndarray) -> Calibration:
        """The curve of the greatest likelihood, with Platt's targets; both kinds of expressions weigh the same.

        Args:
            present, absent: scores of expressions that mean something, and of those that do not.

        Raises:
            ValueError: there are none of one kind, or present ones do not have the higher scores.
        """
        if not len(present) or not len(absent):
            raise ValueError(f"{len(present)} present and {len(absent)} absent expressions: both are needed")
        x = [logit(np.clip(scores, _LEAST, 1 - _LEAST)) for scores in (present, absent)]
        # Platt's targets, which keep the curve finite where no score is on the wrong side
        y = (len(present) + 1) / (len(present) + 2), 1 / (len(absent) + 2)

        def loss(curve: np.ndarray) -> float:
            z = [curve[0] * values + curve[1] for values in x]
            # the mean over each kind of -t·log p - (1 - t)·log(1 - p), where z is the logit of p
            return sum(np.mean(np.logaddexp(0, of) - t * of) for of, t in zip(z, y, strict=True))

        slope, offset = minimize(loss, (1.0, 0.0), method="BFGS").x.tolist()
        if slope <= 0 or not math.isfinite(slope + offset):
            raise ValueError("expressions that mean something do not have higher scores than the others")
        return cls(slope, offset)


def in_words(curve: Calibration | None, not_there: float) -> str:
    """What a score says, in a sentence for whoever reads it; ``not_there``: score below which nothing is there."""
    if curve is None:
        return "these scores are no probabilities: what is not in the video may have a high one, too"
    limit = f"; below {not_there:g} the answer is: not there" if not_there else ""
    return f"a score is the probability that the text means something in the video{limit}"


def auroc(present: np.ndarray, absent: np.ndarray) -> float:
    """Probability that a present expression has a higher score than an absent one; equal scores count half."""
    ranks = rankdata(np.concatenate([present, absent]))[: len(present)]
    return float((ranks.sum() - len(present) * (len(present) + 1) / 2) / (len(present) * len(absent)))


def calibration_error(present: np.ndarray, absent: np.ndarray, bins: int = 10) -> float:
    """Expected calibration error: how far, on average, the scores of a bin are from the share of present expressions
    in it; both kinds weigh the same.
    """
    scores = np.concatenate([present, absent])
    is_present = np.concatenate([np.ones(len(present)), np.zeros(len(absent))])
    weight = np.concatenate([np.full(len(of), 0.5 / len(of)) for of in (present, absent)])
    number = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = np.bincount(number, weight * (scores - is_present), bins)
    return float(np.abs(gaps).sum())
