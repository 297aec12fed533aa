"""The table of a user's expressions: rows of video, object and expression, in csv or json."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from util.files.reading import read_json, read_text, shown, whole_number
from util.samples.text import in_form, is_empty

COLUMNS = ("video", "object", "expression")
# of a csv: spreadsheets write semicolons where the comma is the sign for decimals
_SEPARATORS = ",;\t"
FORM = f"a table has the columns {', '.join(COLUMNS)}, in a csv with these names in its first row, or in a json as a "
FORM += "list of entries with these keys"


@dataclass(frozen=True)
class Row:
    """An expression.

    Attributes:
        where: its file and row, for messages. The first row of a csv, with the names of the columns, is row 1.
        video: as the table names it.
        object: as :func:`object_name` has it; None where the expression means nothing in the video.
        text: the expression.
    """

    where: str
    video: str
    object: str | None
    text: str


def object_name(value: object) -> str | None:
    """An object as all files are taken to mean it: 1, "1" and "01" are one object; None where nothing is named."""
    number = whole_number(value.strip() if isinstance(value, str) else value)
    if number is not None:
        return str(number)
    return (value.strip() or None) if isinstance(value, str) else None


def read_table(path: Path, faults: list[str]) -> list[Row]:
    """The sound rows of a table; each of the others is added to ``faults``, with file and row.

    Raises:
        FileNotFoundError, ValueError: the file is missing, or no table.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--table {path}: this file does not exist; {FORM}")
    try:
        entries = list(_from_json(path) if path.suffix.lower() == ".json" else _from_csv(path, faults))
    except (ValueError, csv.Error) as error:  # also text that is not UTF-8
        raise ValueError(f"{path}: is no table ({error}); {FORM}") from error
    if not entries and not faults:
        raise ValueError(f"{path}: has no rows; {FORM}")
    rows, first = [], {}
    for where, entry in entries:
        row = _row(where, entry, faults)
        if row is None:
            continue
        before = first.setdefault((row.video, in_form(row.text)), row)
        if before is not row:
            faults.append(
                f"{where}: {shown(row.text)} of video {row.video} stands in {before.where} already; an expression "
                "means one object or nothing: delete one of the rows, or say in the texts which object is meant"
            )
            continue
        rows.append(row)
    return rows


def _row(where: str, entry: object, faults: list[str]) -> Row | None:
    if not isinstance(entry, dict) or not entry.keys() >= set(COLUMNS):
        faults.append(f"{where}: must have {', '.join(COLUMNS)}")
        return None
    video, text = entry["video"], entry["expression"]
    video = str(video) if whole_number(video) is not None else video
    object_ = object_name(entry["object"])
    problems = []
    if not isinstance(video, str) or not video.strip():
        problems.append("names no video")
    if not isinstance(text, str) or is_empty(text):
        problems.append("has no expression")
    if object_ is None and not (entry["object"] is None or isinstance(entry["object"], str)):
        problems.append(f"has {shown(entry['object'])} as its object, not a number, a name or nothing")
    faults += [f"{where}: {problem}" for problem in problems]
    return None if problems else Row(where, video.strip(), object_, text)


def _from_json(path: Path) -> Iterator[tuple[str, object]]:
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError("it holds no list")
    for number, entry in enumerate(content, 1):
        yield f"{path}, entry {number}", entry


def _from_csv(path: Path, faults: list[str]) -> Iterator[tuple[str, object]]:
    text = read_text(path)
    first = text.lstrip("\r\n").partition("\n")[0]
    separator = max(_SEPARATORS, key=first.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    rows = ((number, fields) for number, fields in enumerate(lines, 1) if any(field.strip() for field in fields))
    _, head = next(rows, (0, ()))
    names = [name.strip().lower() for name in head]
    missing = [column for column in COLUMNS if names.count(column) != 1]
    if missing:
        raise ValueError(f"its first row does not name {', '.join(missing)} once")
    for number, fields in rows:
        where = f"{path}, row {number}"
        if len(fields) == len(names):
            yield where, dict(zip(names, fields, strict=True))
        else:
            faults.append(
                f"{where}: has {len(fields)} fields, the first row {len(names)}; put texts that hold {separator!r} "
                "between quotes"
            )
