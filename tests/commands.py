"""The repository's programs as a user runs them, and the ranks of a process group."""

from __future__ import annotations

import functools
import gc
import importlib
import os
import runpy
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from subprocess import CompletedProcess
from typing import Self

import torch
import torch.multiprocessing as mp

from tests.helpers import ROOT
from util.run import dist

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
FORKS_TRAIN = not torch.cuda.is_available()  # CUDA and autograd's threads for it do not survive a fork
SECONDS = 300  # a program that takes longer is killed


class Program:
    """A program that runs beside the test. At the end of a ``with`` block it is killed with all that it started.

    Its process is a fork of the test's process where that is possible. A fork has torch and transformers imported
    already; a new process takes eight seconds of CPU to import them. The ranks of torch's launchers are forks as well.

    Args:
        words: a file of the repository and its arguments; or ``-m``, one of torch's launchers and its arguments.
        anew: starts a new process, as a user does. A launcher then starts new processes, too.
    """

    def __init__(self, *words: object, anew: bool = False) -> None:
        self._files = [os.memfd_create(name) for name in ("stdout", "stderr")]
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become([str(word) for word in words], *self._files, anew or not FORKS_TRAIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()
        for file in self._files:
            os.close(file)

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, seconds: float = SECONDS) -> int | None:
        """The exit code; None where the process has not ended within so many seconds."""
        deadline = time.monotonic() + seconds
        while self.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.returncode

    def until(self, condition: Callable[[], object]) -> None:
        """Waits until something holds; the program must not end before."""
        deadline = time.monotonic() + SECONDS
        while not condition():
            assert self.poll() is None and time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def printed(self) -> tuple[str, str]:
        """What it has printed on stdout and on stderr. Reading moves no offset, which the process shares."""
        out, err = (os.pread(file, os.fstat(file).st_size, 0).decode() for file in self._files)
        return out, err

    def said(self) -> str:
        return "".join(self.printed())


def run(*words: object, ok: bool = True) -> CompletedProcess:
    """Runs a program; checks that it ended as expected and without a traceback."""
    done = started(*words)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def started(*words: object) -> CompletedProcess:
    """How a program ended, and what it printed."""
    with Program(*words) as program:
        code = program.wait()
        assert code is not None, program.said()
        return CompletedProcess(words, code, *program.printed())


def run_ranks(work: Callable[..., None], count: int, *arguments: object) -> None:
    """Calls ``work(rank, *arguments)`` in each rank of a process group; an error of one is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        method = "fork" if FORKS_TRAIN else "spawn"
        mp.start_processes(_rank, (work, count, f"{folder}/meeting", arguments), count, start_method=method)


def _rank(rank: int, work: Callable[..., None], count: int, meeting: str, arguments: tuple) -> None:
    _after_fork()
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    work(rank, *arguments)
    dist.shut_down()


def in_own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test in a fork of this process. What it changes, also in torch itself, ends with the fork."""

    @functools.wraps(test)
    def forked(**fixtures: object) -> None:
        mp.start_processes(_test, (test, fixtures), start_method="fork")

    return forked


def _test(_: int, test: Callable[..., None], fixtures: dict[str, object]) -> None:
    _after_fork()
    signal.alarm(SECONDS)
    test(**fixtures)


def _after_fork() -> None:
    gc.freeze()  # garbage of the parent is left alone: a film's decoder would wait for threads that are not here
    torch.set_num_threads(1)  # those that the parent knew of are gone


def _become(command: list[str], out: int, err: int, anew: bool) -> None:
    """In a fork: runs the program, whose output goes into the files of these numbers, and ends the process."""
    code = 1
    try:
        _after_fork()
        os.setsid()
        signal.alarm(SECONDS)  # whatever becomes of the test
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.chdir(ROOT)
        os.environ.update(ENVIRONMENT)
        if anew:
            os.execv(sys.executable, [sys.executable, *command])
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        sys.argv = command
        if command[0] == "-m":
            launcher = importlib.import_module(command[1])
            launcher.main(["--run_path", "--start_method", "fork", *command[2:]])
        else:
            runpy.run_path(str(ROOT / command[0]), run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
