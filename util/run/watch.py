"""Notices ranks that have died, whatever this one is blocked in, and ends it.

A rank that waits in a collective for a dead one is blocked in native code, where Python handles no signal. gloo fails
there as soon as the connection is closed, if the system closes it. NCCL's watchdog fails after the timeout of the
collective (``checkTimeout`` in torch's ProcessGroupNCCL.hpp), which cannot tell a dead rank from one that is slow to
load or to save. So a thread of every rank gives signs of life to the others, whatever its main thread does.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from threading import Event, Thread, Timer

from torch.distributed import Store

from util.run.daemon_threads import DaemonThreads

RANK_TIMEOUT = 40  # seconds
SIGNS = 10  # of life, within this time
LAST_SECONDS = 120.0  # the longest wait for a file that is being written when another process has died
END_SECONDS = LAST_SECONDS + 5  # the longest that a process lives on then, whatever blocks it
CODE = 1  # of the process that ends because another one has died; torchrun makes it 1 anyway
FAREWELL = b"left"

# what a process does before it ends because of a dead one, as to finish a file
last_duties: list[Callable[[], object]] = []


class Watch:
    """Signs of life between the ranks, by the store at which they met.

    Make one in every rank before the process groups: then all ranks have given a sign when the groups are there.

    Args:
        store: of this attempt to run; it gets a connection of its own.
        rank, world_size: place among the processes.
        patience: seconds without a sign, after which a rank counts as dead.
    """

    def __init__(self, store: Store, rank: int, world_size: int, patience: float) -> None:
        self._store, self._rank, self._patience = store.clone(), rank, patience
        self._keys = [f"sign of life {number}" for number in range(world_size)]
        self._given = 0
        self._ended = Event()
        self._reader = DaemonThreads("signs of life")  # the store hangs where its machine has gone
        self._thread = Thread(target=self._look, name="watch", daemon=True)
        self._give()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Leaves without the others taking it for a death."""
        self._ended.set()
        self._thread.join()

    def _give(self) -> None:
        self._given += 1
        self._store.set(self._keys[self._rank], str(self._given))

    def _exchange(self) -> list[bytes]:
        """Gives a sign; returns the last ones of all ranks."""
        self._give()
        return self._store.multi_get(self._keys)

    def _look(self) -> None:
        pause = self._patience / SIGNS
        last = [b""] * len(self._keys)
        silent = [0.0] * len(self._keys)  # seconds
        job: Future | None = None
        broken = False  # the connection to the store, which is not made again
        before = time.monotonic()
        while not self._ended.wait(pause):
            # the others may have been stopped with this process, which is no silence
            passed = min(time.monotonic() - before, 2 * pause)
            before = time.monotonic()
            signs = last
            if not broken:
                job = job or self._reader.submit(self._exchange)
                wait([job], pause)
                if job.done():
                    broken = job.exception() is not None
                    signs, job = (last if broken else job.result()), None
            for number, (sign, old) in enumerate(zip(signs, last, strict=True)):
                heard = sign != old or sign == FAREWELL or number == self._rank
                silent[number] = 0.0 if heard else silent[number] + passed
            last = signs
            if dead := [number for number, seconds in enumerate(silent) if seconds >= self._patience]:
                self._end(dead)
                return
        if not broken:
            wait([self._reader.submit(self._store.set, self._keys[self._rank], FAREWELL.decode())], pause)

    def _end(self, dead: list[int]) -> None:
        """Ends the process, whose main thread may be blocked for good; so this must not fail or block either."""
        try:
            # a full pipe that nobody reads blocks the message, a file system that hangs the last duties
            last = Timer(END_SECONDS, os._exit, (CODE,))
            last.daemon = True
            last.start()
            who = f"rank{'s' * (len(dead) > 1)} {', '.join(map(str, dead))}"
            with suppress(Exception):  # a closed pipe
                print(
                    f"no sign of life from {who} for {self._patience:g} s (--rank_timeout), so rank {self._rank} ends, "
                    "too; start the run again to go on",
                    file=sys.stderr,
                    flush=True,
                )
            for duty in list(last_duties):
                with suppress(Exception):
                    duty()
        finally:
            os._exit(CODE)
