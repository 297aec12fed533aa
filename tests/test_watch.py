"""A rank that has died is noticed, whatever the others are blocked in; one that is slow or has left is not taken for
dead."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, suppress
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from opts import parse_train_args
from tests.tiny_model import checkpoint_of
from util.run import dist, watch
from util.run.watch import Watch
from util.weights import checkpoint
from util.weights.saver import NEWEST, Saver

PATIENCE = 0.5  # seconds


class Store:
    """In place of torch's store, which several processes share."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.hangs = self.broken = False

    def clone(self) -> Store:
        return self

    def set(self, key: str, value: str) -> None:
        if self.hangs:
            time.sleep(20 * PATIENCE)
        if self.broken:
            raise RuntimeError("Connection reset by peer")
        self.values[key] = value.encode()

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.values[key] for key in keys]


@pytest.fixture
def ended(monkeypatch) -> list[int]:
    """The codes with which this process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(os, "_exit", codes.append)
    return codes


def ranks(store: Store, count: int = 3) -> list[Watch]:
    return [Watch(store, rank, count, PATIENCE) for rank in range(count)]


def test_ranks_that_live_and_leave_in_turn_are_not_taken_for_dead(ended):
    all_of_them = ranks(Store())
    for one in all_of_them:
        one.start()
    for one in all_of_them:
        time.sleep(1.5 * PATIENCE)
        one.stop()
    time.sleep(1.5 * PATIENCE)
    assert ended == []


def test_a_rank_that_falls_silent_ends_the_others(ended, capsys):
    first, _dead, third = ranks(Store())
    for one in (first, third):
        one.start()
    for one in (first, third):
        one._thread.join()
    assert ended == [1, 1]
    said = capsys.readouterr().err
    # the second one to notice may find both of the others silent
    assert "no sign of life from rank 1 for 0.5 s (--rank_timeout)" in said and "rank 0 ends, too" in said


@pytest.mark.parametrize("how", ["hangs", "breaks"])
def test_ranks_whose_meeting_point_has_gone_end(ended, how):
    store = Store()
    all_of_them = ranks(store)
    for one in all_of_them:
        one.start()
    time.sleep(PATIENCE / 2)
    store.broken, store.hangs = how == "breaks", how == "hangs"
    for one in all_of_them:
        one._thread.join()
    assert ended == [1, 1, 1]


def test_time_in_which_the_process_itself_was_stopped_is_no_silence(ended, monkeypatch):
    """As with Ctrl-Z, and on clusters that stop a job for another one."""
    one = Watch(Store(), 0, 2, PATIENCE)
    one._store.set(one._keys[1], "1")
    real, ahead = time.monotonic, [0.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: real() + ahead[0])
    one.start()
    time.sleep(PATIENCE / 4)
    ahead[0] = 1000.0
    time.sleep(PATIENCE / 4)
    assert ended == []
    one.stop()


def test_the_options_have_the_limits_of_the_library():
    """Which may not import each other: options take the standard library alone."""
    args = parse_train_args([])
    assert (args.rank_timeout, args.collective_timeout) == (watch.RANK_TIMEOUT, dist.COLLECTIVE_TIMEOUT)


def test_a_checkpoint_that_is_being_written_is_finished_first(ended, monkeypatch, tmp_path):
    begun, save = Event(), checkpoint.save

    def slow(path: Path, content: dict) -> None:
        begun.set()
        time.sleep(2 * PATIENCE)
        save(path, content)

    monkeypatch.setattr(checkpoint, "save", slow)
    monkeypatch.setattr(os, "_exit", lambda code: ended.append((tmp_path / NEWEST).is_file()))
    one = Watch(Store(), 0, 2, PATIENCE)
    with closing(Saver(tmp_path, keep=1)) as saver:
        saver.save(checkpoint_of(), 1)
        begun.wait()
        ending = Thread(target=one._end, args=([1],))
        ending.start()
        ending.join()
        assert ended == [True]
    assert torch.load(tmp_path / NEWEST, weights_only=True)["format"] == checkpoint.FORMAT
    one._end([1])
    assert watch.last_duties == []


@pytest.mark.parametrize("pipe", ["closed", "full"])
def test_a_rank_ends_though_its_message_cannot_be_written_and_a_duty_fails(ended, monkeypatch, pipe):
    """As where the program that took its messages has gone, or has stopped reading."""
    done: list[str] = []
    monkeypatch.setattr(watch, "last_duties", [lambda: 1 / 0, lambda: done.append("the next one")])
    monkeypatch.setattr(watch, "END_SECONDS", PATIENCE)
    reading, writing = os.pipe()
    if pipe == "closed":
        os.close(reading)
    else:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        os.set_blocking(writing, True)
    one = Watch(Store(), 0, 2, PATIENCE)
    # the error is of the message, which is still there when the file is closed
    with suppress(BrokenPipeError), open(writing, "w") as message, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", message)
        one.start()
        one._thread.join(4 * PATIENCE)
        assert ended[:1] == [1] and done == ["the next one"] * (pipe == "closed")
        if pipe == "full":
            os.close(reading)  # ends the message
            one._thread.join()
