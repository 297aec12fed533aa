"""Prints the commands of a row, from downloads to scores, and the memory that they take.

python tools/paper.py show IV.1 --backbone_pretrained resnet50.pth
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from tools.paper_tables.memory import measured
from tools.paper_tables.rows import Row, find, source, tables, written
from tools.paper_tables.steps import (
    PRETRAINING,
    TRAINING,
    downloads,
    parsed,
    pretraining_options,
    steps,
    training_options,
)
from util.run.parser import CommandParser


def add_arguments(parser: CommandParser, output_dir: str | None = None) -> None:
    """Adds the options that name the commands of a row; ``output_dir`` is a default, None: it has to be given."""
    parser.add_argument("row", help="such as IV.3; list prints them")
    parser.add_argument("--output_dir", metavar="DIR", help="folder for all results of the row", default=output_dir)
    parser.add_argument(
        "--pretrain_options",
        default="",
        metavar='"OPTIONS"',
        help="options of main.py for the pretraining alone, as one word",
    )
    parser.note = (
        "Further options are those of main.py, for the training. Those of the model, the machine and --coco_path hold "
        "for the pretraining, too; --pretrained_weights FILE takes its place."
    )
    parser.set_defaults(takes_others=True)


def run(args: argparse.Namespace) -> None:
    row = find(args.row)
    folder = Path(args.output_dir or f"output/paper/{row.id}")
    further = shlex.split(args.pretrain_options)
    print("\n".join(described(row, folder, args.others, further)))


def described(row: Row, folder: Path, others: Sequence[str] = (), further: Sequence[str] = ()) -> Iterator[str]:
    """The lines about a row."""
    table = tables()[row.table]
    yield f"{row.id}: {row.title}. Table {row.table}, {table.title}"
    values = zip(table.columns.values(), row.values, strict=True)
    yield f"the paper ({source()}): " + ", ".join(f"{name} {written(value)}" for name, value in values)
    if row.options is None:
        yield f"another system: the number of Table {row.table} is all that is here"
        return
    if row.choice:
        yield row.choice
    commands = steps(row, folder, others, further)
    yield "\nby hand:"
    for download in downloads(row, others):
        yield f"  {download.path}: {download.what} ({download.how})"
    yield "\ncommands, in the folder of the repository (the scripts take all GPUs, or GPUS=N of them):"
    for step in commands:
        yield f"\n# {step.name}" + (" (once for all rows)" if step.makes else "")
        yield str(step)
        if step.name == PRETRAINING:
            options = ["--preset", "pretrain", *pretraining_options(row, others, further)]
            yield f"# memory: {measured(parsed(options))}"
        if step.name == TRAINING:
            yield f"# memory: {measured(parsed(training_options(row, others)))}"
            script, output_dir, weights, *words = step.words
            rehearsal = ["main.py", "--output_dir", output_dir, "--pretrained_weights", weights, *words, "--dry_run"]
            yield f"# measures it on your GPU, and ends: python {shlex.join(rehearsal)}"
            if parsed(training_options(row, others)).jsc_target != "none":
                yield "# JSC compares the clips that are in memory together, GPUs x --batch_size: of one alone it is 0"
    yield f"\nall of them, resumably:\npython {shlex.join(again(row, folder, others, further))}"


def again(row: Row, folder: Path, others: Sequence[str], further: Sequence[str]) -> list[str]:
    """The words that run a row."""
    words = ["tools/paper.py", "run", row.id, "--output_dir", str(folder), *others]
    return [*words, "--pretrain_options", shlex.join(further)] if further else words
