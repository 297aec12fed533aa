"""The folder of uploads and downloads stays small, and loses the oldest files first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks import room
from tasks.room import COMING, Room

Fill = Callable[..., Path]


@pytest.fixture
def fill(tmp_path, monkeypatch) -> Fill:
    """Makes a file in a folder of its own. Its time of change, which no program can set, is so many seconds ago."""
    ages: dict[Path, float] = {}
    walk = Room._walk

    def aged(self):
        for path, found in walk(self):
            values = list(found)
            values[9] = int(time.time() - ages.get(path, 0))
            yield path, os.stat_result(values)

    def make(name: str, size: int = 1, age: float = 0) -> Path:
        path = tmp_path / name / "file"
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
        ages[path] = age
        return path

    monkeypatch.setattr(Room, "_walk", aged)
    return make


def test_the_oldest_go_first(tmp_path, fill):
    stays = fill("example", 500, age=10**6)
    kept = Room(tmp_path, size=250)
    old, middle, new = (fill(name, 100, age) for name, age in [("b", 30), ("a", 20), ("c", 10)])
    kept.tidy()
    assert not old.exists() and middle.exists() and new.exists() and stays.exists()
    newest = fill("d", 200)
    kept.tidy()
    assert newest.exists() and not middle.exists() and not new.exists() and stays.exists()


def test_no_more_than_so_many_and_no_older_than_so(tmp_path, fill):
    kept = Room(tmp_path, size=10**6, files=3, seconds=60)
    files = [fill(str(age), age=age) for age in (50, 40, 30, 20, 61)]
    kept.tidy()
    assert [path.exists() for path in files] == [False, True, True, True, False]


def test_empty_folders_go_but_for_new_ones(tmp_path, fill, monkeypatch):
    kept = Room(tmp_path, size=0)
    fill("a")
    (tmp_path / "b").mkdir()
    kept.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    monkeypatch.setattr(room, "JUST_MADE", -1)
    kept.tidy()
    assert list(tmp_path.iterdir()) == [] and tmp_path.is_dir()


def test_uploads_come_in_folders_of_their_own_which_go_with_them(tmp_path):
    kept = Room(tmp_path / "page", size=10**6)
    with kept.upload():
        first = COMING.get()
        (first / "part").touch()
        with kept.upload():
            assert COMING.get() != first
        assert COMING.get() == first and (first / "part").exists()
    assert list(tmp_path.iterdir()) == []
