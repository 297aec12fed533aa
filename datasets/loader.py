"""The loader of training batches, with clear errors about data and about processes that died."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import multiprocessing.queues
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, wait
from typing import Any

import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from datasets.base import TrainVideo
from datasets.undelivered import SHARED_MEMORY, lacks_means, reasons
from util.run.daemon_threads import DaemonThreads, Stalled
from util.run.interrupt import Interrupted, ignore_in_worker
from util.samples.structures import Batch

# the thread that pins memory raises the second kind
_WORKER_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")
LOOK_SECONDS = 1.0  # seconds between looks at whether a batch has arrived
_END = object()


def single_threaded(_worker: int) -> None:
    # The workers are the parallelism; threads within them would only compete with the training process.
    torch.set_num_threads(1)


def set_up_worker(worker: int) -> None:
    """Sets up a data loading process, and leaves signals to the training process."""
    single_threaded(worker)
    ignore_in_worker()
    # A thread packs the batch. On an error it would print a traceback and drop it, and the trainer would wait for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_error_instead


def _send_error_instead(queue: multiprocessing.queues.Queue, error: Exception, item: tuple[int, Any]) -> None:
    """A queue calls this where an item (number, batch) could not be packed, as when shared memory is full."""
    queue.put((item[0], ExceptionWrapper(where="in DataLoader worker process, sending a batch")))


class WorkerDied(OSError):
    """A data loading process died or was killed, as when the machine runs out of memory."""


class TrainLoader(DataLoader):
    """A DataLoader whose workers' errors about the data are one line with the mend, as in the main process.

    A separate thread waits for batches. So signals reach the main thread whatever hangs, and an exception that a signal
    raises ends the workers.

    Attributes:
        clips: number of clips of each data set in an epoch, over all ranks. The last batches are filled up beyond that.
            Where a weight is no whole number, the numbers of the sets vary around these, and their sum stays the same.
        sets: the training videos of each data set; trained_on: these in words, and whether all of them are generated.
        patience: seconds without any batch from any worker, after which :class:`Stalled` is raised; 0: no limit.
    """

    clips: dict[str, int]
    sets: dict[str, list[TrainVideo]]
    trained_on: tuple[str, bool]
    patience: float = 120.0

    def __iter__(self) -> Iterator[Batch]:
        reader = DaemonThreads("batches")
        batches = self._iterator  # torch keeps persistent workers here
        try:
            if batches is None:
                batches = super().__iter__()  # in this thread, because the thread that pins memory takes its device
                # torch's handler would raise in the middle of the trainer's work; dead workers are noticed without it
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            else:
                self._await(reader.submit(super().__iter__), batches)
            while True:
                found = [self._await(reader.submit(next, batches, _END), batches)]
                if found[0] is _END:
                    return
                yield found.pop()  # no reference here keeps it in memory
        except Interrupted:
            self._end_workers(batches)
            raise
        except (Stalled, WorkerDied):
            raise
        except (RuntimeError, ValueError, OSError, EOFError) as error:
            if lacks_means(error):
                raise self._stalled(batches, "a batch could not be made or handed over", error) from error
            if isinstance(error, RuntimeError) and _WORKER_DIED.match(str(error)):
                raise self._died(batches, str(error)) from error
            of_worker = str(error).startswith("Caught ")
            if isinstance(error, (OSError, EOFError)) and not of_worker and (dead := _dead(batches, LOOK_SECONDS)):
                raise self._died(batches, f"the data loading process {dead} exited unexpectedly") from error
            if isinstance(error, RuntimeError) or not of_worker:
                raise
            # torch's message is the worker's whole traceback, which ends with "ValueError: our message".
            message = str(error).rstrip().rpartition("\n")[2].partition(": ")[2]
            raise type(error)(message) from error

    def _await(self, job: Future, batches: Iterator[Batch]) -> Any:
        """Waits for the job, and returns its result.

        Raises:
            Stalled: for ``patience`` seconds no worker has delivered anything.
        """
        idle, due = 0.0, _due(batches)
        look = min(LOOK_SECONDS, self.patience / 4) if self.patience else LOOK_SECONDS
        while True:
            before = time.monotonic()
            if wait([job], look).done:
                return job.result()
            # the workers could not deliver while this process was stopped
            idle += min(time.monotonic() - before, 2 * look)
            if _due(batches) != due:
                idle, due = 0.0, _due(batches)
            if self.patience and idle >= self.patience:
                if dead := _dead(batches):
                    raise self._died(batches, f"the data loading process {dead} has ended")
                who = f"{len(_workers(batches))} living data loading processes" if _workers(batches) else "the disk"
                raise self._stalled(batches, f"no batch from {who} for {self.patience:g} s (--loader_timeout)")

    def _stalled(self, batches: Iterator[Batch] | None, what: str, error: Exception | None = None) -> Stalled:
        """Ends the workers, also those that hang, and returns the error with the cause."""
        why = reasons([worker.pid for worker in _workers(batches) if worker.is_alive()], error)
        self._end_workers(batches)
        return Stalled(f"{what}: {why}")

    def _died(self, batches: Iterator[Batch], what: str) -> WorkerDied:
        """The error that says ``what`` and what to do. The other workers are ended: the dead one may hold a lock that
        they wait for, and torch would wait five seconds for each of them whenever it frees them."""
        error = WorkerDied(f"{what}; {_last_words(batches)}")
        self._end_workers(batches)
        return error

    def _end_workers(self, batches: Iterator[Batch] | None) -> None:
        """Kills the workers, because those that hang do not react to a request."""
        for worker in _workers(batches):
            worker.kill()
        self.forget_workers()

    def forget_workers(self) -> None:
        """Lets the next iteration start new processes."""
        self._iterator = None


def _workers(batches: Iterator[Batch] | None) -> list[multiprocessing.Process]:
    return getattr(batches, "_workers", [])


def _dead(batches: Iterator[Batch] | None, seconds: float = 0.0) -> str:
    """The numbers of the workers that died, or die within the time: one that is killed while it hands over a batch
    closes the connection shortly before it has ended. Empty where all live."""
    workers = _workers(batches)
    ended = multiprocessing.connection.wait([worker.sentinel for worker in workers], seconds) if workers else []
    for worker in workers:
        if worker.sentinel in ended:
            worker.join()  # its exit code comes a moment later
    return ", ".join(str(worker.pid) for worker in workers if worker.exitcode)


def _last_words(batches: Iterator[Batch]) -> str:
    """The message about a worker, or the thread that pins memory, that has died."""
    if _workers(batches) and all(worker.is_alive() for worker in _workers(batches)):
        return reasons([worker.pid for worker in _workers(batches)])
    # the signal for a page without memory behind it
    if any(worker.exitcode == -signal.SIGBUS for worker in _workers(batches)):
        return f"it was ended by a bus error: {SHARED_MEMORY}"
    return "if it was out of memory, give a lower --num_workers, or 0 to see what it dies of"


def _due(batches: Iterator[Batch]) -> int | None:
    """Number of batches that workers still have to deliver; torch waits for one while others arrive."""
    return getattr(batches, "_tasks_outstanding", None)
