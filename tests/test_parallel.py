"""The same work in one process and in several."""

from __future__ import annotations

import os
import subprocess
import sys
import weakref

import pytest

from tests.helpers import ROOT
from util.run.parallel import run_jobs

_prepared = None


def prepare(value: int) -> None:
    global _prepared
    _prepared = value


def divide(a: int, b: int) -> float:
    return a / b


def where_and_what() -> tuple[int, int | None]:
    return os.getpid(), _prepared


JOBS = [(name, (number, 2)) for number, name in enumerate("dbca")]


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_results_are_in_the_order_of_the_jobs(workers):
    done = run_jobs(divide, JOBS, workers, total=4, desc="halve", unit="number")
    assert list(done.items()) == [("d", 0.0), ("b", 0.5), ("c", 1.0), ("a", 1.5)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_ends_all(workers):
    with pytest.raises(ZeroDivisionError):
        run_jobs(divide, [*JOBS, ("e", (1, 0))], workers, total=5, desc="halve", unit="number")


class Large:
    """Stands for what takes much memory."""


def weigh(_: Large) -> int:
    return os.getpid()


@pytest.mark.parametrize(("workers", "most"), [(1, 2), (2, 8)])
def test_few_jobs_are_at_hand_at_a_time(workers, most):
    """Two of each process, and what the pool's threads have not let go of yet."""
    alive, counts = weakref.WeakSet(), []

    def make():
        for number in range(40):
            large = Large()
            alive.add(large)
            counts.append(len(alive))
            yield number, (large,)
            del large

    done = run_jobs(weigh, make(), workers, total=40, desc="weigh", unit="thing")
    assert list(done) == list(range(40)) and (os.getpid() in done.values()) == (workers == 1)
    assert len(counts) == 40 and max(counts) <= most


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_the_making_of_a_job_ends_all(workers):
    def make():
        yield 0, (1, 2)
        raise ValueError("the second is damaged")

    with pytest.raises(ValueError, match="the second is damaged"):
        run_jobs(divide, make(), workers, total=2, desc="halve", unit="number")


def test_only_other_processes_are_prepared():
    options = dict(desc="look", unit="process", prepare=prepare, prepare_with=(7,))
    assert run_jobs(where_and_what, [(0, ())], 4, total=1, **options) == {0: (os.getpid(), None)}
    apart = run_jobs(where_and_what, [(0, ()), (1, ())], 2, total=2, **options)
    assert all(pid != os.getpid() and value == 7 for pid, value in apart.values())


def test_no_jobs():
    assert run_jobs(divide, [], 2, total=0, desc="halve", unit="number") == {}


FORK_AFTER_OPENCV = """
import multiprocessing
import cv2, numpy
import datasets.loader

def work():
    cv2.warpAffine(numpy.zeros((1000, 1000, 3), numpy.uint8), numpy.eye(2, 3), (1000, 1000))

def load(worker):
    datasets.loader.single_threaded(worker)
    work()

work()
process = multiprocessing.get_context("fork").Process(target=load, args=(0,))
process.start()
process.join(20)
process.kill()
raise SystemExit(process.exitcode is None)
"""


def test_a_loader_may_use_opencv_after_the_process_that_forks_it():
    """Setting the number of OpenCV's threads there, once these are running, waits for ever."""
    done = subprocess.run([sys.executable, "-c", FORK_AFTER_OPENCV], cwd=ROOT, timeout=240)
    assert done.returncode == 0
