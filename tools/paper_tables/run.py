"""Runs the commands of a row one after the other; given again, the same command goes on.

python tools/paper.py run IV.1 --output_dir output/paper/IV.1 --backbone_pretrained resnet50.pth
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tools.paper_tables import show
from tools.paper_tables.rows import Row, find
from tools.paper_tables.steps import ROOT, Step, downloads, steps
from util.files.writing import write_json
from util.run.cli import INCOMPLETE
from util.run.interrupt import ASKING, REQUEUE
from util.run.parser import CommandParser

RECORD = "paper.json"  # in the folder of a run: which row, with which options, and which of its commands are done


def add_arguments(parser: CommandParser) -> None:
    show.add_arguments(parser)
    parser.note += " Exit status: that of the command that failed; 3 where one left out damaged items."
    next(a for a in parser._actions if a.dest == "output_dir").required = True


def run(args: argparse.Namespace) -> int:
    return run_row(find(args.row), Path(args.output_dir), args.others, shlex.split(args.pretrain_options))


def run_row(row: Row, folder: Path, others: Sequence[str] = (), further: Sequence[str] = (), root: Path = ROOT) -> int:
    """Runs those commands of a row that are not done yet.

    A command is done where it has ended with status 0 before, or where the lists that it converts are there. An
    interrupted training goes on from its newest checkpoint, because its script does so.

    Args:
        folder: of all results and the record.
        others, further: as of :func:`steps`.
        root: of the repository whose programs run.

    Returns:
        The exit status: 0, 3 where a command left out damaged items, else that of the first command that failed; the
        commands after it have not run.

    Raises:
        ValueError: the folder has a run with other commands, or data is missing.
    """
    commands = steps(row, folder, others, further)
    record = _Record(row, folder, others)
    for step in commands:
        record.refuse_other(step)
    refuse_missing([download.path for download in downloads(row, others)], row)
    code = 0
    for number, step in enumerate(commands, 1):
        title = f"{number} of {len(commands)}, {step.name}"
        if record.done(step) or (step.makes and all(path.exists() for path in step.makes)):
            print(f"== {title}: done before", flush=True)
            continue
        print(f"== {title}: {step}", flush=True)
        record.start(step)
        status = call(step, root)
        if status == 0:
            record.finish(step)
        elif status == INCOMPLETE:
            code = INCOMPLETE
            print(f"== {step.name}: items were left out (above); given again, this command is repeated", flush=True)
        else:
            stopped = "was stopped" if status in (REQUEUE, 130) else f"has failed with exit status {status}"
            print(f"== {step.name} {stopped}; the same command goes on from here", file=sys.stderr, flush=True)
            return status
    print(f"== {row.id} is complete; tools/paper.py tables {folder} shows its scores" if not code else "", flush=True)
    return code


class _Record:
    """The commands of a run that have been started, and which are done, in the run's folder."""

    def __init__(self, row: Row, folder: Path, others: Sequence[str]) -> None:
        self.folder, self.content = folder, read_record(folder)
        if self.content is None:
            self.content = {"row": row.id, "options": [], "commands": {}}
        self.options = list(others)

    def _written(self, step: Step) -> str:
        """The command without the name of the folder, which may be another by now."""
        inside = [word.replace(str(self.folder), "DIR") for word in step.words]
        return shlex.join(inside)

    def refuse_other(self, step: Step) -> None:
        before = self.content["commands"].get(step.name)
        if before and before["done"] and before["command"] != self._written(step):
            raise ValueError(
                f"--output_dir {self.folder} has a run of {self.content['row']} whose {step.name} was another command "
                f"({before['command']}, now {self._written(step)}): give the same options, or another folder"
            )

    def done(self, step: Step) -> bool:
        return self.content["commands"].get(step.name, {}).get("done", False)

    def start(self, step: Step) -> None:
        self._note(step, False)

    def finish(self, step: Step) -> None:
        self._note(step, True)

    def _note(self, step: Step, done: bool) -> None:
        self.content["options"] = self.options
        self.content["commands"][step.name] = {"command": self._written(step), "done": done}
        write_json(self.folder / RECORD, self.content)


def read_record(folder: Path) -> dict | None:
    """The record of a run; None where there is none. Raises ValueError, naming the file, where it is no record."""
    path = folder / RECORD
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        find(content["row"])
        if not all(isinstance(c["command"], str) and isinstance(c["done"], bool) for c in content["commands"].values()):
            raise TypeError
        shlex.join(content["options"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: it is no record of a run; delete it to begin anew") from error
    return content


def refuse_missing(paths: Sequence[Path], row: Row) -> None:
    """Raises ValueError where data or weights are missing: it would show after days."""
    if missing := [str(path) for path in paths if not path.exists()]:
        raise ValueError(f"{', '.join(missing)}: not there; tools/paper.py show {row.id} says where to get it")


def call(step: Step, root: Path) -> int:
    """Runs one command and returns its exit status, as a shell would give it.

    Signals that ask this process to stop are passed on as SIGINT to all processes of the command, which save first.
    """
    first, *rest = step.words
    program = str(root / first)
    words = [program, *rest] if first.endswith(".sh") else [sys.executable, program, *rest]
    # the scripts take the interpreter of this process
    environment = {"PYTHON": sys.executable} | os.environ
    with _passing_on() as children:
        children.append(subprocess.Popen(words, env=environment, start_new_session=True))
        status = children[0].wait()
    return status if status >= 0 else 128 - status


@contextmanager
def _passing_on() -> Iterator[list[subprocess.Popen]]:
    """While the block waits for the yielded processes, signals that ask to stop are passed on to them."""
    children: list[subprocess.Popen] = []

    def pass_on(number: int, _: object) -> None:
        for child in children:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGINT)

    # under nohup SIGHUP is ignored, and this stays
    before = {number: signal.getsignal(number) for number in ASKING}
    caught = [number for number in ASKING if before[number] != signal.SIG_IGN or number == signal.SIGINT]
    for number in caught:
        signal.signal(number, pass_on)
    try:
        yield children
    finally:
        for number in caught:
            signal.signal(number, before[number])
