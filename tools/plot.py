"""Draws the curves of one or several runs, term by term, from the log.jsonl of main.py.

python tools/plot.py output/run output/other

writes curves.png into the folder of the first run. Of a run of one epoch it draws the means of parts of the epoch.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import numpy as np  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # noqa: E402

from util.files.writing import atomic_path  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.log import read_lines  # noqa: E402
from util.run.parser import CommandParser

# values of log.jsonl that are neither losses nor scores
UNDRAWN = {"epoch", "seconds", "skipped_steps", "skipped_clips"}
PARTS = 50  # of one epoch
_EARLIER_STAGE = re.compile(r"loss_.*_\d+")


def curves(folder: Path, *, all_stages: bool) -> dict[str, list[tuple[float, float]]]:
    """(epoch, value) of every loss term and score of a run; terms of earlier CMIE stages only with ``all_stages``.

    Raises:
        ValueError: the folder has no log, or no epoch in it.
    """
    lines = read_lines(folder / "log.jsonl")
    if not lines:
        raise ValueError(f"{folder}/log.jsonl has no line yet; the first epoch has not ended")
    found: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name not in UNDRAWN and (all_stages or not _EARLIER_STAGE.fullmatch(name)):
                found.setdefault(name, []).append((line["epoch"], value))
    if len(lines) == 1:  # a lone dot says nothing
        found |= {name: points for name, points in parts(folder).items() if name in found}
    return found


def parts(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """(share of all steps, mean) of each loss term in equal parts of a run, if it has TensorBoard curves."""
    found = {}
    if not (folder / "tensorboard").is_dir():
        return found
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in events.Tags()["scalars"]:
        if name.startswith("train/loss"):
            points = np.array([(point.step, point.value) for point in events.Scalars(name)])
            points[:, 0] /= max(1, points[:, 0].max())
            pieces = np.array_split(points, min(PARTS, len(points)))
            found[name.removeprefix("train/")] = [tuple(piece.mean(0).tolist()) for piece in pieces]
    return found


def draw(runs: dict[str, dict[str, list[tuple[float, float]]]]) -> Figure:
    """A panel for each term, with a line for each run."""
    names = sorted({name for terms in runs.values() for name in terms}, key=lambda n: (not n.startswith("score"), n))
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 2.8 * rows), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names, strict=False):
        for label, terms in runs.items():
            points = terms.get(name, [])
            axis.plot([x for x, _ in points], [y for _, y in points], marker=".", label=label)
        axis.set_title(name)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(names) :]:
        axis.remove()
    if len(runs) > 1:
        figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    return figure


def main() -> None:
    parser = CommandParser("plot.py", __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="--output_dir of a run")
    parser.add_argument(
        "--output", type=Path, help="picture; PNG, PDF or SVG by its ending; default: curves.png in the first RUN"
    )
    parser.add_argument("--all_stages", action="store_true", help="also the losses of the earlier CMIE stages")
    args = parser.parse_args()
    args.output = args.output or args.runs[0] / "curves.png"
    if args.output.suffix not in (".png", ".pdf", ".svg"):
        parser.error(f"--output {args.output}: the ending must be .png, .pdf or .svg")
    figure = draw({str(folder): curves(folder, all_stages=args.all_stages) for folder in args.runs})
    with atomic_path(args.output) as temporary:
        figure.savefig(temporary, dpi=120)
    print(args.output)


if __name__ == "__main__":
    run(main)
