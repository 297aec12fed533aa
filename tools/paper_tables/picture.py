"""The picture of the tables: for each row the paper's headline score and ours, joined by a line."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tools.paper_tables.rows import Table, named, source, written  # noqa: E402
from tools.paper_tables.rows import tables as paper_tables  # noqa: E402
from tools.paper_tables.scores import Score, beside  # noqa: E402

PAPER, OURS, OTHERS, LINE, FAINT = "#3d4a5c", "#e8743b", "#b9c1cc", "#e6e9ee", "#7b8696"
NAMES = {"cost.gmac": "GMAC of Linear and convolution layers (paper: FLOPs)"}
# inches: the page, its margins, the columns of names and of numbers, and a row, a head and a foot of a panel
WIDTH, TOP, BOTTOM, NAME, NUMBERS, ROW, HEAD, FOOT = 12, 0.75, 0.55, 2.7, 2.05, 0.3, 0.75, 0.4


def draw(scores: Mapping[str, Mapping[str, Score]]) -> Figure:
    """A panel for each pictured column of the tables that have scores of ours."""
    shown = []
    for table in paper_tables().values():
        keys = [key for key in table.pictured if any(key in scores.get(row.id, {}) for row in table.rows)]
        if keys:
            shown.append((table, keys))
    height = TOP + BOTTOM + sum(HEAD + FOOT + ROW * len(table.rows) for table, _ in shown)
    figure = plt.figure(figsize=(WIDTH, height), facecolor="white")
    figure.text(0.2 / WIDTH, 1 - 0.4 / height, f"The tables of {source()}, and ours", fontsize=16, fontweight="bold")
    y = height - TOP
    for table, keys in shown:
        figure.text(
            0.2 / WIDTH, (y - 0.3) / height, f"Table {table.number}.  {table.title}", fontsize=11.5, color=PAPER
        )
        tall = ROW * len(table.rows)
        y -= HEAD + tall
        wide = (WIDTH - NAME - NUMBERS * len(keys)) / len(keys)
        for i, key in enumerate(keys):
            left = NAME + i * (wide + NUMBERS)
            axis = figure.add_axes((left / WIDTH, y / height, wide / WIDTH, tall / height))
            axis.set_ylim(len(table.rows) - 0.4, -0.6)
            panel(axis, table, key, scores)
            axis.set_yticks([] if i else range(len(table.rows)), [] if i else list(map(named, table.rows)))
        for label, row in zip(figure.axes[-len(keys)].get_yticklabels(), table.rows, strict=True):
            label.set_color(PAPER if row.options is not None else FAINT)
            label.set_fontweight("bold" if row.id in scores else "normal")
        y -= FOOT
    figure.legend(*_legend(), loc="lower left", ncols=3, frameon=False, fontsize=9)
    return figure


def panel(axis: Axes, table: Table, key: str, scores: Mapping[str, Mapping[str, Score]]) -> None:
    """One column: its rows from the top."""
    place = list(table.columns).index(key)
    for y, row in enumerate(table.rows):
        axis.axhline(y, color=LINE, linewidth=0.8, zorder=0)
        paper, ours = row.values[place], scores.get(row.id, {}).get(key)
        known = isinstance(paper, int | float)
        if known and ours:
            axis.plot([paper, ours.mean], [y, y], color=OURS, linewidth=2, alpha=0.45, zorder=1)
        if known:
            axis.scatter(paper, y, s=42, color=PAPER if row.options is not None else OTHERS, zorder=2)
        right = dict(xycoords=("axes fraction", "data"), textcoords="offset points", va="center", fontsize=8.5)
        axis.annotate(written(paper), (1, y), (36, 0), ha="right", color=PAPER if ours else FAINT, **right)
        if ours:
            axis.errorbar(ours.mean, y, xerr=ours.deviation, fmt="D", color=OURS, markersize=6.5, capsize=3, zorder=3)
            axis.annotate(beside(ours, paper), (1, y), (44, 0), color=OURS, fontweight="bold", **right)
    axis.set_title(NAMES.get(key, table.columns[key]), fontsize=9, loc="left", color=FAINT)
    axis.margins(x=0.06)
    axis.tick_params(length=0, labelsize=8.5, colors=FAINT)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(OTHERS)


def _legend() -> tuple[list, list[str]]:
    """Handles and labels."""
    names = {"the paper": (PAPER, "o"), "ours": (OURS, "D"), "other systems, as the paper prints them": (OTHERS, "o")}
    marks = [plt.Line2D([], [], linestyle="", marker=mark, color=colour) for colour, mark in names.values()]
    return marks, list(names)
