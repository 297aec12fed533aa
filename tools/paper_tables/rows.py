"""The rows of the paper's tables, from ``tables.json``: what the paper prints, and the options that make our rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("tables.json")
LOST = "not known"  # a value that the text of the paper lost, in our copy
Value = float | int | str | None


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        table: its number, such as "IV"; number: of the row, from the top.
        names: what stands before the values; None: lost from our copy.
        values: as printed, "-" where the paper has none.
        options: of main.py, for a row that is made here; None for one of another system.
        choice: what of the options is not in the paper.
    """

    table: str
    number: str
    names: tuple[str | None, ...]
    values: tuple[Value, ...]
    options: tuple[str, ...] | None
    choice: str

    @property
    def id(self) -> str:
        return f"{self.table}.{self.number}"

    @property
    def title(self) -> str:
        return ", ".join(map(written, self.names))


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        labels: heads of the names of its rows.
        columns: heads of the values, by the key of the score, such as "ytvos.J&F": a benchmark, and a score there.
        pictured: keys of the columns that a picture shows.
    """

    number: str
    title: str
    labels: tuple[str, ...]
    columns: dict[str, str]
    pictured: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def benchmarks(self) -> list[str]:
        return list(dict.fromkeys(key.partition(".")[0] for key in self.columns))


@cache
def source() -> str:
    """Where all values are from."""
    return json.loads(FILE.read_text())["source"]


@cache
def tables() -> dict[str, Table]:
    """All tables by number, in the order of the paper."""
    found = {}
    for number, table in json.loads(FILE.read_text())["tables"].items():
        rows = tuple(
            Row(
                table=number,
                number=row["row"],
                names=tuple(row["names"]),
                values=tuple(row["values"]),
                options=tuple(shlex.split(row["options"])) if "options" in row else None,
                choice=row.get("choice", ""),
            )
            for row in table["rows"]
        )
        labels, pictured = tuple(table["labels"]), tuple(table["pictured"])
        found[number] = Table(number, table["title"], labels, table["columns"], pictured, rows)
    return found


def every_row() -> Iterator[Row]:
    for table in tables().values():
        yield from table.rows


def find_table(number: str) -> Table:
    """Raises ValueError where the paper has no such table."""
    if number.upper() not in tables():
        raise ValueError(f"the paper has no table {number} of results; its tables are {', '.join(tables())}")
    return tables()[number.upper()]


def find(name: str) -> Row:
    """The row with an id such as "IV.3" or "VIII.c"; raises ValueError where there is none."""
    number, _, row = name.partition(".")
    rows = {r.number: r for r in find_table(number).rows}
    if row.lower() not in rows:
        raise ValueError(f"{name}: Table {number.upper()} has the rows {', '.join(r.id for r in rows.values())}")
    return rows[row.lower()]


def made_here(row: Row) -> tuple[str, ...]:
    """The options of a row; raises ValueError for one of another system."""
    if row.options is None:
        raise ValueError(
            f"{row.id} is {row.title}, another system: the paper's Table {row.table} has its numbers, and there is no "
            "command for it here"
        )
    return row.options


def written(value: Value) -> str:
    """A value or a name as the paper prints it."""
    if value is None:
        return LOST
    return f"{value:.1f}" if isinstance(value, float) else "–" if value == "-" else str(value)


def named(row: Row) -> str:
    """A row's name where there is no room for columns; of our choices the one that makes it."""
    if row.names == (None,):
        return row.choice.partition(",")[0].partition(" is ")[0].partition(" by ")[0]
    if row.table == "V":
        told = [label for label, name in zip(("video", "text"), row.names, strict=True) if name == "yes"]
        return " + ".join(told) or "no JSC"
    return row.title


def uneven(row: Row) -> list[str]:
    """Benchmarks for which the J&F that the paper prints is not the mean of its J and F, but for rounding.

    All three are rounded to 0.1, so an honest mean is at most 0.1 from that of the rounded J and F.
    """
    values = dict(zip(tables()[row.table].columns, row.values, strict=True))
    found = []
    for benchmark in tables()[row.table].benchmarks:
        three = [values.get(f"{benchmark}.{name}") for name in ("J&F", "J", "F")]
        if all(isinstance(v, float) for v in three) and abs(three[0] - (three[1] + three[2]) / 2) > 0.1 + 1e-6:
            found.append(benchmark)
    return found
