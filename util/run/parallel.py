"""The same work on many things, in one process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, TypeVar

from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)


def run_jobs(
    work: Callable[..., Any],
    jobs: Iterable[tuple[Key, tuple]],
    workers: int,
    *,
    total: int,
    desc: str,
    unit: str,
    prepare: Callable[..., None] | None = None,
    prepare_with: tuple = (),
) -> dict[Key, Any]:
    """The results of ``work(*arguments)`` for each job, in the order of the jobs; the first error ends all jobs.

    Args:
        work: a function; with several processes one that a module defines, so that they can import it.
        jobs: pairs of any key and the arguments. From a generator, at most two jobs per process are taken ahead.
        workers: number of processes; 1: this process does the work. Above 1 a script needs its ``__main__`` guard.
        total: number of the jobs.
        desc, unit: of the progress bar.
        prepare: called first in each of several processes, with ``prepare_with``.
    """
    done: dict[Key, Any] = {}
    workers = min(workers, total)
    with tqdm(total=total, desc=desc, unit=unit, disable=None) as progress:
        if workers <= 1:
            for key, arguments in jobs:
                done[key] = work(*arguments)
                progress.update()
            return done
        # A process that is forked from one with threads (torch, OpenCV) may find their locks held for ever.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, prepare, prepare_with) as pool:
            pending: dict[Future, Key] = {}

            def collect(most: int) -> None:
                while len(pending) > most:
                    for future in wait(pending, return_when=FIRST_COMPLETED).done:
                        done[pending.pop(future)] = future.result()
                        progress.update()

            try:
                for key, arguments in jobs:
                    done[key] = None  # place of the job in the order
                    pending[pool.submit(work, *arguments)] = key
                    collect(2 * workers - 1)
                collect(0)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return done
