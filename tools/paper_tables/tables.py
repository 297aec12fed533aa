"""Collects the scores of runs into the paper's tables, ours beside the paper's, as Markdown and as a picture.

python tools/paper.py tables output/paper --output output/paper.md
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tools.paper_tables.rows import Table, Value, source, uneven, written
from tools.paper_tables.rows import tables as paper_tables
from tools.paper_tables.scores import Run, Score, all_scores, beside, read_runs
from util.files.writing import atomic_path

OF_COST = (
    "FLOPs: ours are multiply-adds of Linear and convolution layers alone; tools/paper.py cost prints all operations."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", type=Path, nargs="+", metavar="DIR", help="--output_dir of run or cost, or a folder of such folders"
    )
    parser.add_argument("--output", type=Path, default=Path("output/paper.md"), metavar="FILE.md")


def run(args: argparse.Namespace) -> None:
    """Writes the Markdown and, beside it, the picture."""
    if args.output.suffix != ".md":
        raise ValueError(f"--output {args.output}: the ending must be .md; the picture gets .png")
    runs = read_runs(args.folders)
    scores = all_scores(runs)
    picture = args.output.with_suffix(".png")
    text = "\n".join(markdown(runs, scores, picture.name)) + "\n"
    if scores:
        from tools.paper_tables.picture import draw  # matplotlib, which the other subcommands do without

        figure = draw(scores)
        with atomic_path(picture) as temporary:
            figure.savefig(temporary, dpi=150)
    with atomic_path(args.output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(f"{args.output}{f', {picture}' if scores else ''}: {len(runs)} runs, scores of {len(scores)} rows")


def markdown(runs: Sequence[Run], scores: Mapping[str, Mapping[str, Score]], picture: str) -> Iterator[str]:
    """The lines of the document: tables with scores of ours, the runs, and the tables that have none."""
    yield f"# The tables of {source()}, and ours\n"
    if scores:
        yield f"![Headline scores: the paper's in grey, ours in orange]({picture})\n"
    yield (
        "A cell is the paper's value / **ours** (the difference). ± is the standard deviation over runs; * marks "
        "scores from which damaged items were left out, † those of runs with other options than the row's (see Runs)."
    )
    for table in paper_tables().values():
        if any(row.id in scores for row in table.rows):
            yield from table_lines(table, scores)
    yield "\n## Runs\n\n| folder | row | options beside the row's | scores |\n|---|---|---|---|"
    for run in runs:
        given = f"`{shlex.join(run.options)}`" if run.options else "–"
        benchmarks = sorted({key.partition(".")[0] for key in run.scores})
        name = run.row.id if run.row else "VIII"
        yield f"| {run.folder} | {name} | {given} | {', '.join(benchmarks) or 'none yet'} |"
    if none := [t.number for t in paper_tables().values() if not any(row.id in scores for row in t.rows)]:
        yield f"\nNo row of Table {', '.join(none)} has scores."


def table_lines(table: Table, scores: Mapping[str, Mapping[str, Score]]) -> Iterator[str]:
    yield f"\n## Table {table.number}. {table.title}\n"
    yield "| " + " | ".join(("row", *table.labels, *table.columns.values())) + " |"
    yield "|---" * (1 + len(table.labels) + len(table.columns)) + "|"
    for row in table.rows:
        ours = scores.get(row.id, {})
        cells = [cell(value, ours.get(key)) for key, value in zip(table.columns, row.values, strict=True)]
        yield "| " + " | ".join((row.id, *map(written, row.names), *cells)) + " |"
    if notes := [f"{row.id}: {row.choice}" for row in table.rows if row.choice]:
        yield f"\n{'; '.join(notes)}."
    if odd := [row.id for row in table.rows if uneven(row)]:
        yield f"\nThe paper's J&F of {', '.join(odd)} is not the mean of its J and F."
    if "cost" in table.benchmarks:
        yield f"\n{OF_COST}"


def cell(paper: Value, ours: Score | None) -> str:
    """The paper's value, and ours with the difference."""
    return f"{written(paper)} / {beside(ours, paper, '**')}" if ours else written(paper)
