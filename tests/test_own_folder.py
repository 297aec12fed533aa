"""Temporary folders of processes that live, end, or are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers import ROOT
from util.files.own_folder import LOCK, delete_left, own_folder

PREFIX = "kind-"
LIVING = f"""
import time
from util.files.own_folder import own_folder
with own_folder({PREFIX!r}) as folder:
    (folder / "inner").mkdir()
    (folder / "inner" / "film").write_bytes(bytes(99))
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


@pytest.fixture
def another():
    """Another process with a folder of the same kind, and this folder."""
    with subprocess.Popen([sys.executable, "-c", LIVING], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def test_it_is_deleted_at_the_end_also_by_an_error(temporary):
    for error in (None, KeyboardInterrupt):
        with pytest.raises(ZeroDivisionError if error is None else error), own_folder(PREFIX) as folder:
            assert folder.parent == temporary and folder.stat().st_mode & 0o777 == 0o700
            (folder / "file").touch()
            raise error or ZeroDivisionError
        assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_deleted_and_that_of_a_living_one_is_not(another, temporary):
    process, folder = another
    assert delete_left(PREFIX) == [] and (folder / "inner" / "film").is_file()
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert folder.is_dir()
    with own_folder(PREFIX) as own:
        assert list(temporary.iterdir()) == [own]


def test_links_and_folders_of_others_stay(temporary, monkeypatch):
    data = temporary / "data"
    data.mkdir()
    (data / LOCK).touch()
    (temporary / f"{PREFIX}link").symlink_to(data)
    unmarked, linked = temporary / f"{PREFIX}mine", temporary / f"{PREFIX}linked"
    for folder in (unmarked, linked):
        folder.mkdir()
    (linked / LOCK).symlink_to(data / LOCK)
    (temporary / f"{PREFIX}file").touch()
    assert delete_left(PREFIX) == [] and len(list(temporary.iterdir())) == 5
    (unmarked / LOCK).touch()
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert delete_left(PREFIX) == []
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert delete_left(PREFIX) == [unmarked] and (data / LOCK).is_file()
