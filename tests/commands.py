"""The repository's programs as a user runs them."""

from __future__ import annotations

import gc
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from subprocess import CompletedProcess
from typing import TextIO

import torch
import torch.multiprocessing as mp

from tests.helpers import ROOT

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
FORKS_TRAIN = not torch.cuda.is_available()  # CUDA and autograd's threads for it do not survive a fork


def run(*words: object, ok: bool = True) -> CompletedProcess:
    """Runs a program in a process of its own; checks that it ended as expected and without a traceback.

    The process is a fork of this one, if it can be, which torch and transformers are imported in: a new one takes ten
    seconds of CPU for that. What is run by ``-m``, as launchers are, is a new one.
    """
    done = started(*words)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done


def started(*words: object) -> CompletedProcess:
    """How it ended, and what it printed."""
    command = [str(word) for word in words]
    if command[0] == "-m" or not FORKS_TRAIN:
        environment = os.environ | ENVIRONMENT
        return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=environment)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = os.fork()
        if child == 0:
            become(command, out, err)
        _, status = os.waitpid(child, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return CompletedProcess(command, os.waitstatus_to_exitcode(status), *texts)


def run_ranks(work: Callable[..., None], count: int, *arguments: object) -> None:
    """Calls ``work(rank, *arguments)`` in so many processes at once; an error of one is raised here."""
    mp.spawn(work, arguments, nprocs=count)


def become(command: list[str], out: TextIO, err: TextIO) -> None:
    """Of a fork: runs the program and ends."""
    gc.freeze()  # garbage of the parent is left alone: a film's decoder would wait for threads that are not here
    code = 1
    try:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
        os.chdir(ROOT)
        os.environ.update(ENVIRONMENT)
        torch.set_num_threads(1)  # those that this process knew of are gone
        sys.argv = command
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
