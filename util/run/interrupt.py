"""Signals that ask a run to stop: it ends its step, saves, and exits with a code that tells schedulers to requeue."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again later
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop, and everything is saved."""


class StopRequest:
    """Catches the signals of :data:`ASKING` and remembers the last one. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._leave: str | None = None  # message of an interruption at once, while everything is saved
        self._waiting = False
        self._process = os.getpid()
        self._before = {number: signal.getsignal(number) for number in ASKING}
        # under nohup SIGHUP is ignored, so that a run outlives its terminal; this stays
        if self._before[signal.SIGHUP] == signal.SIG_IGN:
            del self._before[signal.SIGHUP]
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == "SIGINT":
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        if self._leave:
            print(f"{self.received}: all is saved", file=sys.stderr, flush=True)
            raise Interrupted(self._leave)
        if self._waiting and os.getpid() == self._process:  # a worker that is just starting must not raise
            self._waiting = False  # only once: the reaction must not be interrupted
            print(f"{self.received}: saving", file=sys.stderr, flush=True)
            raise Interrupted
        print(f"{self.received}: saving after this step", file=sys.stderr, flush=True)

    @contextmanager
    def while_waiting(self) -> Iterator[None]:
        """While the block waits for something that may never come, a signal raises :class:`Interrupted`.

        So does a signal that was received before.
        """
        self._waiting = True
        try:
            if self.received:
                raise Interrupted
            yield
        finally:
            self._waiting = False

    @contextmanager
    def at_once(self, message: str) -> Iterator[None]:
        """In the block everything is saved, and a signal raises :class:`Interrupted` at once.

        So does a signal that was received before.
        """
        self._leave = message
        try:
            if self.received:
                raise Interrupted(message)
            yield
        finally:
            self._leave = None

    def close(self) -> None:
        """Restores the former handling of signals."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def ignore_in_worker() -> None:
    """Sets the signals of a data loading process: SIGTERM ends it; Ctrl-C and SIGUSR1 are left to the trainer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
