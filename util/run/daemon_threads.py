"""Reading in separate threads, with a limit on waiting: a read from a file system that hangs never returns."""

from __future__ import annotations

import atexit
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

# seconds that a process waits for reads at its end; a read that is cut off in native code may crash the process
GRACE_SECONDS = 1.0

_threads: weakref.WeakSet[Thread] = weakref.WeakSet()
_jobs: weakref.WeakSet[SimpleQueue] = weakref.WeakSet()


class Stalled(OSError):
    """A read takes too long, as from a file system that hangs."""


class DaemonThreads:
    """Runs jobs in daemon threads, in the order in which they are submitted.

    A process can end while one of these threads hangs; threads of ``concurrent.futures`` would keep it waiting.

    Args:
        name: of the threads.
        threads: their number.
    """

    def __init__(self, name: str, threads: int = 1) -> None:
        self._name, self._idle = name, threads
        self._own: SimpleQueue = SimpleQueue()
        _jobs.add(self._own)
        weakref.finalize(self, self._own.put, None).atexit = False

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future:
        """Starts the work as soon as a thread is free."""
        if self._idle:  # started late, because a forked process has no threads
            self._idle -= 1
            thread = Thread(target=_run, args=(self._own,), name=self._name, daemon=True)
            thread.start()
            _threads.add(thread)
        job: Future = Future()
        self._own.put((job, work, arguments))
        return job


def _run(jobs: SimpleQueue) -> None:
    """The work of a thread: takes jobs until it finds None, and leaves the None for the other threads."""
    while (taken := jobs.get()) is not None:
        _do(*taken)
        del taken  # only the taker keeps the result in memory
    jobs.put(None)


def _do(job: Future, work: Callable[..., Any], arguments: tuple) -> None:
    if not job.set_running_or_notify_cancel():
        return
    try:
        result = work(*arguments)
    except BaseException as error:
        job.set_exception(error)
    else:
        job.set_result(result)


def take(job: Future, seconds: float, what: str) -> Any:
    """Waits for a job; returns its result or raises its error. Signals are handled meanwhile.

    Args:
        seconds: longest wait; 0: no limit.
        what: name of what is read, for the message.

    Raises:
        Stalled: the job takes longer.
    """
    if not wait([job], seconds or None).done:
        raise Stalled(
            f"{what}: nothing was read for {seconds:g} s; the file system seems to hang: check it (dmesg, df), or "
            "give a longer --loader_timeout"
        )
    return job.result()


@atexit.register
def _let_reads_end() -> None:
    for jobs in list(_jobs):
        with suppress(Empty):
            while True:  # drops jobs that have not begun
                jobs.get_nowait()
        jobs.put(None)
    deadline = time.monotonic() + GRACE_SECONDS
    for thread in list(_threads):
        thread.join(max(0.0, deadline - time.monotonic()))
