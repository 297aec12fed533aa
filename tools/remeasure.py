"""Runs the commands that the numbers in the docs came from, and prints which are others today.

    python tools/remeasure.py --list
    python tools/remeasure.py --only results.md --minutes 5 --idle

A comment in the docs stands right before a table, a code block or a paragraph of measured numbers:

    <!-- measured: python tools/profile_model.py --train
    takes: 40 s
    within: GiB 5 %
    without: s -->
    | backbone | 27.84 M | 219.1 |

The command runs in the root of the repository. ``$OUT`` is a folder that is deleted at the end, and lines that begin
with a space go on with the command. ``takes: 20 min on an idle machine`` says that it measures time. ``within`` says
how far a number may be from what is printed (``0.002``, ``30 %``), for a unit or words of the head of a column, or for
all; by default both are equal as they are written. ``without`` names units and columns that are not compared. Numbers
that no command gives again have ``<!-- measured once: reason -->``. ``measured: as above`` is the command before, with
its time.

A row, a line or a sentence needs a line of the output that has its figures in their order, among others. If there is
none, it is compared with the line that has most of its words, and of several with the one whose figures are nearest.
A line serves one row. Text in backticks has no figures, and "3 to 4" is any number between.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from util.files.writing import atomic_path
from util.run import cli
from util.run.counts import counted
from util.run.parser import CommandParser

ROOT = Path(__file__).resolve().parents[1]
DOCS = ("*.md", "docs/*.md", "data/*.md", "pretrained_weights/*.md")
SECONDS = {"s": 1, "min": 60, "h": 3600}
UNITS = {"%", "GiB", "M", "s", "ms"}  # two of these are never the same; other words may be missing in the output
PREPARED = 'python() { "$PYTHON" "$@"; }; set -e -o pipefail; '  # a command's python is that of this program

MARK = re.compile(r"<!-- measured(?P<once> once)?: (?P<text>.+?) *-->", re.DOTALL)
TAKES = re.compile(r"(?P<number>[\d.]+) (?P<unit>s|min|h)(?P<idle> on an idle machine)?")
WITHIN = re.compile(r"(?:(?P<name>.+) )?(?P<size>[\d.]+)(?P<relative> %)?")
NUMBER = r"[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?"
# not a part of a word, a version, or a size such as 96×160
FIGURE = re.compile(rf"(?<![\w.×-])({NUMBER})(?: to ({NUMBER}))?(?![\d×]|\.\d)(?: ?(%|[A-Za-z]+))?(?![\w×])")
HIDDEN = re.compile(r"`[^`]*`|\]\([^)]*\)")


@dataclass(frozen=True)
class Figure:
    """A number of a text, or a range.

    Attributes:
        text: as it is written; low, high: its value; places: digits after the point; unit: what stands behind it;
        head: of its column.
    """

    text: str
    low: float
    high: float
    places: int
    unit: str
    head: str

    def named(self, name: str) -> bool:
        return name == self.unit or bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", self.head))

    def distance(self, other: Figure) -> float:
        return max(self.low - other.high, other.low - self.high, 0.0)


@dataclass(frozen=True)
class Tolerance:
    """How far figures with a name (the empty one: all) may be from what is printed; a share of them, if relative."""

    name: str
    size: float
    relative: bool


@dataclass(frozen=True)
class Block:
    """What a comment marks.

    Attributes:
        place: file and line; command: None where it was measured ``once``, for this reason; idle: it measures time;
        rows: texts with figures, and their figures that are compared.
    """

    place: str
    command: str | None = None
    once: str = ""
    seconds: float = 0.0
    idle: bool = False
    within: tuple[Tolerance, ...] = ()
    rows: tuple[tuple[str, tuple[Figure, ...]], ...] = ()

    @property
    def takes(self) -> str:
        if self.command is None:
            return f"measured once: {self.once}"
        time = f"{self.seconds:.0f} s" if self.seconds < 100 else f"{self.seconds / 60:.0f} min"
        return time + (" on an idle machine" if self.idle else "")

    def agree(self, said: Figure, found: Figure) -> bool:
        """Whether what was found, rounded to the places of what is said, is the same, or within the tolerance."""
        known = sorted((t for t in self.within if not t.name or said.named(t.name)), key=lambda t: not t.name)
        sizes = [t.size * (max(abs(said.low), abs(said.high)) if t.relative else 1) for t in known[:1]]
        as_written = 0.5001 * 10.0**-said.places
        units = {said.unit, found.unit} & UNITS
        if len(units) > 1 or ("%" in units and said.unit != found.unit):
            return False
        return said.distance(found) <= max([as_written, *sizes])


# Reading ---------------------------------------------------------------------------------------------------------


def figures(text: str, head: str = "") -> tuple[Figure, ...]:
    """The figures of a text, without those in backticks and links. ``head``: of the column."""
    found = []
    for match in FIGURE.finditer(HIDDEN.sub(" ", text)):
        low, high = (Decimal(n.replace(",", "").replace("−", "-")) for n in (match[1], match[2] or match[1]))
        places = -low.as_tuple().exponent
        found.append(Figure(match[0], float(low), float(high), places, match[3] or "", head))
    return tuple(found)


def blocks(text: str, name: str) -> Iterator[Block]:
    """The marked blocks of a file. Raises ValueError for a comment that is none of the kinds above."""
    command = takes = None
    for mark in MARK.finditer(text):
        place = f"{name}:{text.count(chr(10), 0, mark.start()) + 1}"
        if mark["once"]:
            yield Block(place, once=" ".join(mark["text"].split()))
            continue
        fields = {}
        first, *rest = re.sub(r"\n +", " ", mark["text"]).splitlines()
        for line in rest:
            key, _, value = line.partition(": ")
            if key not in ("takes", "within", "without"):
                raise ValueError(f"{place}: {line!r} begins with none of takes, within and without")
            fields[key] = value.strip()
        if first != "as above":
            command, takes = first, TAKES.fullmatch(fields.get("takes", ""))
        if not command or not takes:
            raise ValueError(f'{place}: the comment needs a line such as "takes: 40 s"')
        within = [WITHIN.fullmatch(part.strip()) for part in fields.get("within", "0").split(",")]
        if not all(within):
            raise ValueError(f'{place}: give "within" as in "within: 0.002, GiB 5 %"')
        marked = text[mark.end() :].lstrip("\n").partition("\n\n")[0]
        without = [part.strip() for part in fields.get("without", "").split(",") if part.strip()]
        found = tuple(rows(marked, without))
        if not found:
            raise ValueError(f"{place}: no figures stand behind the comment")
        yield Block(
            place,
            command,
            seconds=float(takes["number"]) * SECONDS[takes["unit"]],
            idle=bool(takes["idle"]),
            within=tuple(
                Tolerance(w["name"] or "", float(w["size"]) / (100 if w["relative"] else 1), bool(w["relative"]))
                for w in within
            ),
            rows=found,
        )


def rows(marked: str, without: Sequence[str]) -> Iterator[tuple[str, tuple[Figure, ...]]]:
    """The rows of a table, the lines of a code block or the sentences of a paragraph, where they have figures."""
    lines = marked.splitlines()
    if lines[0].startswith("|"):
        heads = cells(lines[0])
        parts = [
            (line, [f for cell, head in zip(cells(line), heads, strict=False) for f in figures(cell, head)])
            for line in lines[2:]
        ]
    elif lines[0].startswith("```"):
        parts = [(line, figures(line)) for line in lines[1:-1]]
    else:
        parts = [(part, figures(part)) for part in re.split(r"(?<=[.:;])\s+", " ".join(lines))]
    for text, of in parts:
        compared = tuple(figure for figure in of if not any(map(figure.named, without)))
        if compared:
            yield text, compared


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


def read_docs(root: Path) -> list[Block]:
    """All marked blocks of the docs."""
    paths = [path for pattern in DOCS for path in sorted(root.glob(pattern))]
    return [block for path in paths for block in blocks(path.read_text(encoding="utf-8"), str(path.relative_to(root)))]


# Comparing -------------------------------------------------------------------------------------------------------

Pairs = list[tuple[Figure, Figure]]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z][\w.]*", text.lower()))


def paired(block: Block, said: Sequence[Figure], found: Sequence[Figure]) -> tuple[float, Pairs]:
    """Gives each figure one of those that were found, in their order; infinite cost where these are too few.

    A pair costs its distance, as a share below 1, and 1 if it does not agree.
    """
    best: list[tuple[float, Pairs]] = [(0.0, [])] * (len(found) + 1)  # for each number of figures found, so far
    for figure in said:
        new: list[tuple[float, Pairs]] = [(math.inf, [])]
        for (cost, pairs), other in zip(best, found, strict=False):
            apart = figure.distance(other)
            cost += (not block.agree(figure, other)) + apart / (apart + abs(figure.low) + 1e-9)
            new.append(min(new[-1], (cost, [*pairs, (figure, other)]), key=lambda choice: choice[0]))
        best = new
    return best[-1]


def compare(block: Block, output: str) -> tuple[int, list[str]]:
    """How many figures of a block agree with what its command prints, and in words what differs."""
    lines = [(words(line), found) for line in output.splitlines() if (found := figures(line))]
    same, differ = 0, []
    for text, said in block.rows:
        shown = text if len(text) < 60 else f"{text[:57]}…"
        choices = []
        for place, (of, found) in enumerate(lines):
            if len(found) >= len(said):
                cost, pairs = paired(block, said, found)
                others = [(a, b) for a, b in pairs if not block.agree(a, b)]
                choices.append((bool(others), -len(words(text) & of), cost, place, pairs, others))
        if not choices:
            differ.append(f"the output has no line with {len(said)} figures, as in: {shown}")
            continue
        *_, place, pairs, others = min(choices, key=lambda choice: choice[:3])
        del lines[place]
        same += len(pairs) - len(others)
        differ += [f"said {a.text}, found {b.text}{share(a, b)}: {shown}" for a, b in others]
    return same, differ


def share(said: Figure, found: Figure) -> str:
    return f" ({(found.low - said.low) / abs(said.low):+.1%})" if said.low else ""


# Running ---------------------------------------------------------------------------------------------------------


def output_of(command: str, folder: str) -> str:
    """What a command prints. Raises ValueError with its last message where it fails."""
    environment = os.environ | {"PYTHON": sys.executable, "OUT": folder}
    done = subprocess.run(
        ["bash", "-c", PREPARED + command], cwd=ROOT, env=environment, capture_output=True, text=True, errors="replace"
    )
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise ValueError(f"the command ended with {done.returncode}: {cli.one_line(message)}")
    return done.stdout


def keep(folder: Path, block: Block, output: str) -> None:
    """Writes what a command printed into a file that is called after the place of the block."""
    with atomic_path(folder / f"{block.place.replace('/', '_').replace(':', '_')}.txt") as temporary:
        temporary.write_text(f"{block.command}\n\n{output}", encoding="utf-8")


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("remeasure.py", __doc__)
    parser.add_argument("--list", action="store_true", help="run nothing: print what is marked, and how long it takes")
    parser.add_argument("--only", default="", metavar="TEXT", help="those whose place or command has this text")
    parser.add_argument("--minutes", type=float, default=1, help="leave out what takes longer; default: 1")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write what each command prints here")
    parser.add_argument(
        "--idle", action="store_true", help="also what measures time: nothing else runs on this machine"
    )
    return parser.parse_args(argv)


def left_out(block: Block, args: argparse.Namespace) -> str:
    """Why a block does not run; empty if it runs."""
    if block.command is None:
        return block.takes
    if block.idle and not args.idle:
        return "not run: measures time on an idle machine (--idle)"
    if block.seconds > 60 * args.minutes:
        return f"not run: takes {block.takes} (--minutes {math.ceil(block.seconds / 60)})"
    return ""


def main() -> int:
    args = parse_args()
    asked = [block for block in read_docs(ROOT) if args.only in f"{block.place} {block.command}"]
    if not asked:
        raise ValueError(f"--only {args.only}: no marked numbers have this text in their place or command; see --list")
    same, wrong, ran, outputs = 0, 0, 0, {}
    with tempfile.TemporaryDirectory() as folder:
        for block in asked:
            print(block.place, *([block.command] if block.command else []), flush=True)
            if args.list or (why := left_out(block, args)):
                print(f"    {block.takes if args.list else why}")
                continue
            if block.command not in outputs:
                try:
                    outputs[block.command] = output_of(block.command, folder)
                    if args.keep:
                        keep(args.keep, block, outputs[block.command])
                except ValueError as error:
                    outputs[block.command] = error
            found = outputs[block.command]
            agreed, differ = (0, [str(found)]) if isinstance(found, ValueError) else compare(block, found)
            print("\n".join(f"    {line}" for line in [counted(agreed, "figures agree"), *differ]), flush=True)
            same, wrong, ran = same + agreed, wrong + len(differ), ran + 1
    if not args.list:
        print(
            f"{ran} of {counted(len(asked), 'places')} run: {counted(same, 'figures agree')}, {wrong} wrong or missing"
        )
    return int(wrong > 0)


if __name__ == "__main__":
    cli.run(main)
