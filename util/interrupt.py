"""Signals that ask a run to stop: it ends its step, saves and leaves with a code that a scheduler can requeue on."""

from __future__ import annotations

import signal
import sys
from types import FrameType

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: try again later
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop, and everything is saved."""


class StopRequest:
    """Notices the signals of :data:`ASKING` instead of dying of them. A second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.received: str | None = None
        self._before = {number: signal.signal(number, self._note) for number in ASKING}

    def _note(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == "SIGINT":
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name
        print(f"{self.received}: saving after this step", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Lets signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)


def ignore_in_worker() -> None:
    """For data loading processes: Ctrl-C is the trainer's business, and to terminate them ends them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
