"""Gives damaged files to a reader, in a process with limits that it may crash.

A file passes if the reader reads it, or raises one of :data:`util.run.cli.USER_ERRORS` whose message names the file.
"""

from __future__ import annotations

import mmap
import os
import re
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tools.fuzzing.mutations import Mutation
from util.run.cli import USER_ERRORS, one_line

MEMORY = 2**30  # bytes that a reader may allocate beyond what the process has
SECONDS = 20  # for one file
_LACK = re.compile(r"MemoryError|[Cc]an('t|not) allocate memory|Unable to allocate")  # Python, torch, numpy


@dataclass(frozen=True)
class Target:
    """A reader, and how to make files for it.

    Attributes:
        name: of the target.
        path: of the file that is damaged.
        sounds: sound files, of which the damaged ones are made.
        mutation: makes a damaged file.
        read: reads the file at ``path``.
        root: folder of the files that belong to it; messages may name any of them.
        named: whether messages must name a file; not where the reader is given what was in one.
        inputs: number of files in the tests.
    """

    name: str
    path: Path
    sounds: Sequence[bytes]
    mutation: Mutation
    read: Callable[[], object]
    root: Path
    named: bool = True
    inputs: int = 500

    def make(self, seed: int, number: int) -> bytes:
        """A damaged file; the same for the same numbers."""
        return self.mutation(Random(f"{seed} {self.name} {number}"), self.sounds)


@dataclass(frozen=True)
class Finding:
    """A file that the reader does not take well.

    Attributes:
        number: of the file; with the seed it makes the file again.
        what: what happened, and where.
    """

    target: str
    seed: int
    number: int
    what: str

    @property
    def kind(self) -> tuple[str, str]:
        """What findings of one fault have in common: the type of the error, and where it was raised."""
        return self.target, self.what.partition(":")[0] + self.what.rpartition("(")[2]

    def __str__(self) -> str:
        return f"{self.target}, seed {self.seed}, number {self.number}: {self.what}"


def problem_of(target: Target, content: bytes) -> str | None:
    """What is wrong with how the reader takes this file; None where it takes it well."""
    target.path.write_bytes(content)
    unraisable, hook = [], sys.unraisablehook
    sys.unraisablehook = lambda what: unraisable.append(repr(what.exc_value))
    try:
        target.read()
    except USER_ERRORS as error:
        said = one_line(error)
        # FFmpeg says so of some tables that are cut short, without asking for memory
        if _LACK.search(said.replace("the video is damaged (Cannot allocate memory)", "")):
            return f"memory ran out: {_where(error)}"
        if target.named and target.path.name not in said and str(target.root) not in said:
            return f"the message names no file: {_where(error)}"
    except BaseException as error:  # also what Rust raises where it panics
        return _where(error)
    finally:
        sys.unraisablehook = hook
    return f"in a destructor: {unraisable[0]}" if unraisable else None


def _where(error: BaseException) -> str:
    places = [f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in traceback.extract_tb(error.__traceback__)[-4:]]
    return f"{type(error).__name__}: {one_line(error)[:300]} ({' > '.join(places)})"


def run(target: Target, seed: int, numbers: Iterable[int]) -> Iterator[Finding]:
    """Tries these files; a file that ends the process, or takes too long, is a finding, too. A sound file remains."""
    try:
        yield from _in_process(target, seed, list(numbers), lambda number: target.make(seed, number))
    finally:
        target.path.write_bytes(target.sounds[0])


def replay(target: Target, content: bytes) -> str | None:
    """What is wrong with how the reader takes this file."""
    found = list(_in_process(target, 0, [0], lambda _: content))
    return found[0].what if found else None


def _in_process(target: Target, seed: int, numbers: list[int], make: Callable[[int], bytes]) -> Iterator[Finding]:
    place = 0
    while place < len(numbers):
        with mmap.mmap(-1, 8) as shared:
            receiver, sender = os.pipe()
            process = os.fork()
            if not process:
                os.close(receiver)
                _child(target, numbers, place, make, shared, sender)
            os.close(sender)
            with os.fdopen(receiver, "rb") as file:
                told = file.read().decode().splitlines()
            _, status = os.waitpid(process, 0)
            (at,) = struct.unpack("q", shared[:])
        for line in told:
            number, _, what = line.partition(" ")
            yield Finding(target.name, seed, int(number), what)
        if status == 0:
            return
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        name = signal.Signals(ended).name if ended else f"exit code {os.waitstatus_to_exitcode(status)}"
        what = f"takes more than {SECONDS} seconds" if ended == signal.SIGALRM else f"ends the process by {name}"
        yield Finding(target.name, seed, numbers[at], what)
        place = at + 1


def _child(
    target: Target, numbers: list[int], first: int, make: Callable[[int], bytes], shared: mmap.mmap, sender: int
) -> None:
    """Tries the files from the place ``first`` on, and never returns."""
    code = 1
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        taken = int(re.search(r"VmData:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (taken + MEMORY, taken + MEMORY))
        for place in range(first, len(numbers)):
            shared[:] = struct.pack("q", place)
            content = make(numbers[place])
            signal.alarm(SECONDS)
            problem = problem_of(target, content)
            signal.alarm(0)
            if problem:
                os.write(sender, f"{numbers[place]} {one_line(problem)}\n".encode())
        code = 0
    finally:
        os._exit(code)
