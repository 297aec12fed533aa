"""Means over expressions, and the table of them.

Where expressions may mean no object (version 2 of MeViS), J, F and J&F are means over the expressions that mean one.
Beside them stand

    N-acc  share of the expressions without target whose predicted masks are all empty
    T-acc  share of the expressions with a target of which any predicted mask is not empty
    Final  mean of J&F, N-acc and T-acc

N-acc and T-acc are those of generalised referring segmentation (arXiv 2306.00968; T_acc and N_acc in
gres_model/evaluation/refer_evaluation.py of github.com/henghuiding/ReLA). That masks are to be empty in every frame is
said by a report of the challenge (abstract of arXiv 2608.11458). Final is what the challenges rank by: this mean gives
the printed numbers of arXiv 2608.17279 (table 1) and arXiv 2608.23234 (table 1).

The servers' code is not public, and nothing that was found says whether expressions without target count in J and F.
That they do not count is a choice. ``J&F_all`` counts them as the publisher's public scorer would (tools/eval_mevis.py
of github.com/henghuiding/MeViS): in each frame J = F = 1 for an empty mask.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from davis2017 import temporal
from util.run.counts import counted
from util.run.gaps import beside

OTHER = "J&F_other_object"
MEASURES = ("J", "F", "J&F", *temporal.MEASURES)
ACCURACIES = ("N-acc", "T-acc", "Final")


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def average(expressions: Iterable[Mapping], other_objects: bool) -> dict[str, float | int | None]:
    """Means over the expressions, as :func:`ytvos_protocol.score_video` returns them, that mean an object, and their
    number.

    ``J``, ``F`` and ``J&F`` are None where no expression means an object. Temporal measures are there where
    expressions have them. ``J&F_other_object`` is there with ``other_objects``; None where no expression's video has
    another object.
    """
    expressions = list(expressions)
    meant = [e for e in expressions if e.get("target", True)]
    out: dict[str, float | int | None] = {key: _mean([e[key] for e in meant]) for key in _measures(expressions[0])}
    out["expressions"] = len(meant)
    if other_objects:
        out[OTHER] = _mean([e["other"]["J&F"] for e in meant if e["other"]])
    return out


def _measures(scores: Mapping) -> list[str]:
    return [key for key in MEASURES if key in scores]


def accuracies(expressions: Iterable[Mapping]) -> dict[str, float | int | None]:
    """``N-acc``, ``T-acc``, ``Final``, ``J&F_all`` and the number ``without_target`` of expressions some of which may
    mean no object.

    A mean over no expression is None, and so is Final without it.
    """
    expressions = list(expressions)
    without = [e for e in expressions if not e["target"]]
    meant = [e for e in expressions if e["target"]]
    n_acc = _mean([e["J"] == 1 for e in without])  # a missing mask, which scores 0, is not an empty one
    t_acc = _mean([e["found"] for e in meant])
    parts = [_mean([e["J&F"] for e in meant]), n_acc, t_acc]
    return {
        "N-acc": n_acc,
        "T-acc": t_acc,
        "Final": None if None in parts else _mean(parts),
        "J&F_all": _mean([e["J&F"] for e in expressions]),
        "without_target": len(without),
    }


def number(value: float | None) -> str:
    """A score with four decimals, a dash for a mean over nothing."""
    return "     -" if value is None else f"{value:6.4f}"


def table(scores: dict, worst: int) -> str:
    """What :func:`ytvos_protocol.score_results` returns as text: each video, the worst expressions, each kind, the
    headline last."""
    other, measures = OTHER in scores, _measures(scores)
    width = max(len(name) for name in ("video", "mean", *scores["videos"], *scores.get("by_kind", {})))

    def line(name: str, mean: dict) -> str:
        cells = [f"{name:<{width}}", f"{mean['expressions']:>5}"]
        cells += [number(mean[key]) for key in (*measures, *([OTHER] if other else []))]
        return "  ".join(cells)

    header = f"{'video':<{width}}  expr." + "".join(f"  {key:<6}" for key in measures) + ("  other" if other else "")
    lines = [header.rstrip(), *(line(vid, average(video.values(), other)) for vid, video in scores["videos"].items())]
    lines += [line("mean", scores)]
    every = [(vid, eid, e) for vid, video in scores["videos"].items() for eid, e in video.items()]
    every.sort(key=lambda case: case[2]["J&F"])
    if worst:
        lines += ["", "worst expressions (J&F, video, expression)"]
        lines += [f"{e['J&F']:6.4f}  {vid}  {eid}: {e.get('exp', '')}" for vid, eid, e in every[:worst]]
    if "by_kind" in scores:
        lines += ["", header.replace("video", "kind ", 1).rstrip()]
        lines += [line(kind, mean) for kind, mean in scores["by_kind"].items()]
    headline = "   ".join(f"{key} {scores[key]:.4f}" for key in ("J&F", "J", "F", *measures[3:]))
    lines += ["", headline + beside(scores)]
    if "N-acc" in scores:
        lines += ["   ".join(f"{name} {number(scores[name]).strip()}" for name in ACCURACIES)]
        lines += [
            f"{counted(scores['without_target'], 'expressions mean no object and count in N-acc alone')}; "
            f"J&F with them: {scores['J&F_all']:.4f}"
        ]
    if other:
        value = "no video has another object" if scores[OTHER] is None else f"{scores[OTHER]:.4f}"
        lines += [f"J&F against the hardest other object: {value}"]
    return "\n".join(lines)
