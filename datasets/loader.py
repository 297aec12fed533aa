"""The loader of training batches, whose errors and lost processes a user can make sense of."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from datasets.base import TrainVideo
from util.interrupt import ignore_in_worker
from util.structures import Batch

# the second is what the thread that pins memory makes of it
_WORKER_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")


def single_threaded(_worker: int) -> None:
    # The workers are the parallelism; threads within them would only compete with the training process.
    torch.set_num_threads(1)


def set_up_worker(worker: int) -> None:
    """Of a training process, which does something of its own about signals."""
    single_threaded(worker)
    ignore_in_worker()


class WorkerDied(OSError):
    """A data loading process has ended by itself, or was ended, as when the machine runs out of memory."""


class TrainLoader(DataLoader):
    """A DataLoader whose workers' errors about the data read as those of the main process: one line, with the mend.

    Attributes:
        clips: how many clips of each data set an epoch has over all ranks. Batches are filled up beyond that; and of
            sets with one weight that is no whole number, the numbers vary around these, their sum does not.
        sets: the training videos of each data set.
    """

    clips: dict[str, int]
    sets: dict[str, list[TrainVideo]]

    def __iter__(self) -> Iterator[Batch]:
        try:
            batches = super().__iter__()
            # torch's handler raises out of whatever the trainer is doing; the loader notices a dead worker without it
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            yield from batches
        except RuntimeError as error:
            if not _WORKER_DIED.match(str(error)):
                raise
            raise WorkerDied(
                f"{error}; if it was out of memory, give a lower --num_workers, or 0 to see what it dies of"
            ) from error
        except (ValueError, FileNotFoundError) as error:
            if not str(error).startswith("Caught "):
                raise
            # torch makes the worker's whole traceback the message; it ends with "ValueError: what we said".
            message = str(error).rstrip().rpartition("\n")[2].partition(": ")[2]
            raise type(error)(message) from error

    def forget_workers(self) -> None:
        """Lets the next iteration start new processes."""
        self._iterator = None  # where torch keeps the ones that persist
