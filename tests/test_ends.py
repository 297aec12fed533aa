"""Signals, and how a program tells the shell script that started it how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import closing
from functools import partial

import pytest

from tests.helpers import ROOT
from util.run import cli
from util.run.interrupt import Interrupted, StopRequest


def test_what_nohup_ignores_is_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with closing(StopRequest()) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.received is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_from_the_keyboard_does_not_wait():
    with closing(StopRequest()):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_just_before_everything_is_saved_is_not_lost():
    with closing(StopRequest()) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="go on later"), stop.at_once("go on later"):
            pytest.fail("the block begins")


def test_an_interrupted_program_ends_with_a_code_to_requeue_on(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(cli.STOPPED_MARK, str(tmp_path / "mark"))

    def stopped() -> None:
        raise Interrupted("stopped after step 3")

    with pytest.raises(SystemExit) as ended:
        cli.run(stopped)
    assert ended.value.code == 75 and capsys.readouterr().err == "stopped after step 3\n"
    assert (tmp_path / "mark").read_text() == "stopped 0\n"  # for scripts that see torchrun's code only


@pytest.mark.parametrize("error", [ValueError("bad file"), KeyError("a fault"), MemoryError()])
def test_ranks_that_are_stopped_after_one_has_failed_do_not_say_that_the_run_was_stopped(tmp_path, monkeypatch, error):
    mark = tmp_path / "mark"
    mark.touch()
    monkeypatch.setenv(cli.STOPPED_MARK, str(mark))

    def ends(with_: Exception) -> None:
        raise with_

    for reason, attempt, told in (
        (error, "0", "failed 0\n"),
        (Interrupted("stopped"), "0", "failed 0\n"),
        (Interrupted("stopped"), "1", "stopped 1\n"),  # restarted by torchrun
        (error, "1", "stopped 1\n"),
    ):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        with pytest.raises((SystemExit, KeyError)):
            cli.run(partial(ends, reason))
        assert mark.read_text() == told


def test_a_program_whose_reader_has_ended_ends_without_a_word():
    program = subprocess.Popen([sys.executable, ROOT / "tools" / "paper.py", "list"], stdout=-1, stderr=-1)
    program.stdout.close()  # as ``| head -0`` does
    with program.stderr as said:
        assert said.read() == b""
    assert program.wait() == cli.UNREAD
