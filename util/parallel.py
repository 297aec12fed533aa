"""The same work on many things, in one process or in several."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

from tqdm import tqdm

Key = TypeVar("Key", bound=Hashable)


def run_jobs(
    work: Callable[..., Any],
    jobs: Mapping[Key, tuple],
    workers: int,
    *,
    desc: str,
    unit: str,
    prepare: Callable[..., None] | None = None,
    prepare_with: tuple = (),
) -> dict[Key, Any]:
    """What ``work(*arguments)`` returns for each job, in the order of the jobs; the first error ends all.

    Args:
        work: a function of a module, if there are several processes.
        jobs: the arguments, by any key.
        workers: processes; with 1 the work is done in this one. Above 1, a script needs its ``__main__`` guard.
        desc, unit: of the progress bar.
        prepare: is called with ``prepare_with`` in each of several processes first.
    """
    done: dict[Key, Any] = {}
    workers = min(workers, len(jobs))
    with tqdm(total=len(jobs), desc=desc, unit=unit, disable=None) as progress:
        if workers <= 1:
            for key, arguments in jobs.items():
                done[key] = work(*arguments)
                progress.update()
            return done
        # Forking a process that runs threads (torch, OpenCV) can leave the child with their locks held for good.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, prepare, prepare_with) as pool:
            pending = {pool.submit(work, *arguments): key for key, arguments in jobs.items()}
            try:
                for future in as_completed(pending):
                    done[pending[future]] = future.result()
                    progress.update()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return {key: done[key] for key in jobs}
