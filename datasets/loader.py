"""The loader of training batches, whose errors and lost processes a user can make sense of."""

from __future__ import annotations

import multiprocessing
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
from util.run.aside import Aside, Stalled
from util.run.interrupt import Interrupted, ignore_in_worker
from util.samples.structures import Batch

# the second is what the thread that pins memory makes of it
_WORKER_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")
LOOK_SECONDS = 1.0  # how often it is seen whether anything has arrived
_END = object()


def single_threaded(_worker: int) -> None:
    # The workers are the parallelism; threads within them would only compete with the training process.
    torch.set_num_threads(1)


def set_up_worker(worker: int) -> None:
    """Of a training process, which does something of its own about signals."""
    single_threaded(worker)
    ignore_in_worker()
    # A batch is packed in a thread, which would print a traceback and drop it, and the trainer would wait for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_error_instead


def _send_error_instead(queue: multiprocessing.queues.Queue, error: Exception, item: tuple[int, Any]) -> None:
    """What a queue calls where an item (number, batch) could not be packed, as where shared memory is full."""
    queue.put((item[0], ExceptionWrapper(where="in DataLoader worker process, sending a batch")))


class WorkerDied(OSError):
    """A data loading process has ended by itself, or was ended, as when the machine runs out of memory."""


class TrainLoader(DataLoader):
    """A DataLoader whose workers' errors about the data read as those of the main process: one line, with the mend.

    Batches are waited for in a thread beside: the main thread hears signals whatever hangs, and an exception that one
    of them raises ends the workers.

    Attributes:
        clips: how many clips of each data set an epoch has over all ranks. Batches are filled up beyond that; and of
            sets with one weight that is no whole number, the numbers vary around these, their sum does not.
        sets: the training videos of each data set.
        patience: seconds without any batch from any worker, after which :class:`util.run.aside.Stalled` is raised; 0:
            none.
    """

    clips: dict[str, int]
    sets: dict[str, list[TrainVideo]]
    patience: float = 120.0

    def __iter__(self) -> Iterator[Batch]:
        aside = Aside("batches")
        batches = self._iterator  # where torch keeps the workers that persist
        try:
            if batches is None:
                batches = super().__iter__()  # here: the thread that pins memory asks for the device of this one
                # torch's handler raises out of whatever the trainer is doing; it notices a dead worker without it
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            else:
                self._await(aside.submit(super().__iter__), batches)
            while True:
                found = [self._await(aside.submit(next, batches, _END), batches)]
                if found[0] is _END:
                    return
                yield found.pop()  # nothing here keeps it from being freed
        except Interrupted:
            self._end_workers(batches)
            raise
        except (Stalled, WorkerDied):
            raise
        except (RuntimeError, ValueError, OSError) as error:
            if lacks_means(error):
                raise self._stalled(batches, "a batch could not be made or handed over", error) from error
            if isinstance(error, RuntimeError) and _WORKER_DIED.match(str(error)):
                raise WorkerDied(f"{error}; {_last_words(batches)}") from error
            if isinstance(error, RuntimeError) or not str(error).startswith("Caught "):
                raise
            # torch makes the worker's whole traceback the message; it ends with "ValueError: what we said".
            message = str(error).rstrip().rpartition("\n")[2].partition(": ")[2]
            raise type(error)(message) from error

    def _await(self, job: Future, batches: Iterator[Batch]) -> Any:
        """What the job gives, as soon as it does.

        Raises:
            Stalled: for ``patience`` seconds no worker has delivered anything.
        """
        idle, due = 0.0, _due(batches)
        look = min(LOOK_SECONDS, self.patience / 4) if self.patience else LOOK_SECONDS
        while True:
            before = time.monotonic()
            if wait([job], look).done:
                return job.result()
            idle += min(time.monotonic() - before, 2 * look)  # no longer, where this process itself was stopped
            if _due(batches) != due:
                idle, due = 0.0, _due(batches)
            if self.patience and idle >= self.patience:
                if dead := [str(worker.pid) for worker in _workers(batches) if worker.exitcode]:
                    raise WorkerDied(f"the data loading process {', '.join(dead)} has ended; {_last_words(batches)}")
                who = f"{len(_workers(batches))} living data loading processes" if _workers(batches) else "the disk"
                raise self._stalled(batches, f"no batch from {who} for {self.patience:g} s (--loader_timeout)")

    def _stalled(self, batches: Iterator[Batch] | None, what: str, error: Exception | None = None) -> Stalled:
        """The error that says ``what`` is and why; the workers are ended, those that hang among them."""
        why = reasons([worker.pid for worker in _workers(batches) if worker.is_alive()], error)
        self._end_workers(batches)
        return Stalled(f"{what}: {why}")

    def _end_workers(self, batches: Iterator[Batch] | None) -> None:
        """At once, since those that hang would not hear of the end otherwise."""
        for worker in _workers(batches):
            worker.kill()
        self.forget_workers()

    def forget_workers(self) -> None:
        """Lets the next iteration start new processes."""
        self._iterator = None


def _workers(batches: Iterator[Batch] | None) -> list[multiprocessing.Process]:
    return getattr(batches, "_workers", [])


def _last_words(batches: Iterator[Batch]) -> str:
    """What to do about a worker, or the thread that pins memory, that has ended."""
    if _workers(batches) and all(worker.is_alive() for worker in _workers(batches)):
        return reasons([worker.pid for worker in _workers(batches)])
    if any(worker.exitcode == -signal.SIGBUS for worker in _workers(batches)):  # of a page without memory behind it
        return f"it was ended by a bus error: {SHARED_MEMORY}"
    return "if it was out of memory, give a lower --num_workers, or 0 to see what it dies of"


def _due(batches: Iterator[Batch]) -> int | None:
    """Batches that workers owe; torch may wait for one of them while others arrive."""
    return getattr(batches, "_tasks_outstanding", None)
