"""Prints the rows of the paper's tables with the paper's numbers, and whether a command makes each.

python tools/paper.py list IV V
"""

from __future__ import annotations

import argparse

from tools.paper_tables.rows import Row, Table, find_table, source, tables, uneven, written
from tools.paper_tables.steps import problem


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("tables", nargs="*", metavar="TABLE", help="such as IV; default: all")


def run(args: argparse.Namespace) -> None:
    """Prints each table; a row whose command main.py would refuse has none, and its message."""
    chosen = [find_table(number) for number in args.tables] or list(tables().values())
    print("\n\n".join(map(listed, chosen)))
    print(f"\nNumbers: {source()}. python tools/paper.py show ROW prints the commands of a row.")


def listed(table: Table) -> str:
    """A table as text."""
    lines = [("row", *table.labels, *table.columns.values(), "command")]
    for row in table.rows:
        lines.append((row.id, *map(written, row.names), *map(written, row.values), command(row)))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    names = 1 + len(table.labels)
    text = [f"Table {table.number}. {table.title}"]
    for line in lines:
        cells = [
            f"{cell:<{w}}" if i < names else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join([*cells[:-1], line[-1]]))
    if odd := [row.id for row in table.rows if uneven(row)]:
        text.append(f"The printed J&F of {', '.join(odd)} is not the mean of the printed J and F.")
    return "\n".join(text)


def command(row: Row) -> str:
    """Whether the command of a row exists."""
    if row.options is None:
        return "another system"
    if why := problem(row):
        return f"no command: {why}"
    return f"yes; {row.choice}" if row.choice else "yes"
