"""Results of several files: whenever a process is killed, the former result or the new one is there, or the next run
puts the new one there."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from util.files import folders
from util.files.folders import finish, new_folder, new_pieces, new_result, require_new

PIECES = ("film", "masks", "record")


def _write_pieces(folder, *names, replace=False):
    with new_result(folder, PIECES, replace) as work:
        for name in names:
            (work / name).write_text(name)
            assert not (folder / name).exists() or replace


def test_pieces_appear_together_and_replace_a_former_result_alone(tmp_path):
    out = tmp_path / "a" / "out"
    _write_pieces(out, "film", "record")
    assert sorted(os.listdir(out)) == ["film", "record"]
    (out / ".record.unfinished" / "of a process that was killed").mkdir(parents=True)
    (out / "notes").write_text("mine")
    _write_pieces(out, "masks", "record", replace=True)
    assert sorted(os.listdir(out)) == ["masks", "notes", "record"]


def test_pieces_of_an_interrupted_run_are_gone_with_the_folders_made_for_them(tmp_path):
    _write_pieces(tmp_path / "out", "film", "record")
    for folder in (tmp_path / "out", tmp_path / "a" / "b"):
        with pytest.raises(KeyboardInterrupt), new_result(folder, PIECES, replace=True) as work:
            (work / "masks").mkdir()
            raise KeyboardInterrupt
    assert sorted(os.listdir(tmp_path)) == ["out"] and sorted(os.listdir(tmp_path / "out")) == ["film", "record"]


def test_pieces_that_may_not_be_replaced(tmp_path):
    _write_pieces(tmp_path / "out", "film", "record")
    with pytest.raises(
        ValueError, match=r"already holds a result \(film, record\): choose another, or add --overwrite"
    ):
        _write_pieces(tmp_path / "out", "record")
    (tmp_path / "out" / "record").unlink()
    with pytest.raises(ValueError, match="holds film, of unknown origin; choose another folder"):
        _write_pieces(tmp_path / "out", "record", replace=True)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file"):
        _write_pieces(tmp_path / "file", "record")
    with pytest.raises(OSError, match="cannot be written"):
        _write_pieces(tmp_path / "file" / "out", "record")


def killed_at(step: int, work: Callable[[], None]) -> bool:
    """Whether a process that does the work is killed, namely before its step of this number: a rename or a deletion."""
    child = os.fork()
    if child == 0:
        steps = count()

        def dying(function: Callable) -> Callable:
            def called(*args: object, **more: object) -> object:
                if next(steps) == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **more)

            return called

        os.replace, shutil.rmtree = dying(os.replace), dying(shutil.rmtree)
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_kill_at_any_step_of_a_replacement_leaves_one_result_for_the_next_run(tmp_path):
    def written(folder: Path, pieces: dict[str, str]) -> None:
        with new_result(folder, PIECES, replace=True) as work:
            for name, text in pieces.items():
                if name == "masks":
                    (work / name).mkdir()
                    (work / name / text).write_text(text)
                else:
                    (work / name).write_text(text)

    def read(folder: Path) -> dict[str, str]:
        found = {path.relative_to(folder).parts[0]: path.read_text() for path in folder.rglob("*") if path.is_file()}
        return {name: text for name, text in found.items() if not name.startswith(".")}

    old, new = {"film": "old", "masks": "old", "record": "old"}, {"masks": "new", "record": "new"}
    seen = set()
    for step in count():
        folder = tmp_path / str(step)
        written(folder, old)
        (folder / "notes").write_text("mine")
        killed = killed_at(step, lambda folder=folder: written(folder, new))
        # the next run refuses to replace it, but tidies up
        with pytest.raises(ValueError, match="already holds a result"), new_result(folder, PIECES, replace=False):
            pass
        found = read(folder)
        assert found.pop("notes") == "mine" and found in (old, new)
        seen.add("new" if found == new else "old")
        written(folder, old)
        assert read(folder) == old | {"notes": "mine"} and not [p for p in os.listdir(folder) if p.startswith(".")]
        if not killed:
            break
    assert seen == {"old", "new"} and step > 6 and found == new


def test_a_folder_that_a_killed_process_has_made_is_not_taken_for_a_free_one(tmp_path):
    def write(text: str) -> None:
        with new_folder(tmp_path / "set") as made:
            (made / "list").write_text(text)

    write("old")
    for step in count():
        killed = killed_at(step, lambda: write("new"))
        with pytest.raises(ValueError, match="already holds something"):
            require_new(tmp_path / "set")
        assert (tmp_path / "set" / "list").read_text() in ("old", "new")
        if not killed:
            break
        write("old")
    assert step > 3 and os.listdir(tmp_path) == ["set"]


@pytest.mark.parametrize("name", [".", "..", "../here"])
def test_the_folder_that_a_program_runs_in_is_not_replaced(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="runs in it; give another folder"), new_folder(name):
        pass
    assert os.listdir(tmp_path) == ["here"] and os.path.samefile(".", tmp_path / "here")


@pytest.mark.parametrize("stuck", PIECES)
@pytest.mark.parametrize("stage", ["complete", "placing"])
def test_a_piece_that_cannot_be_moved_leaves_the_former_result(stage, stuck, tmp_path, monkeypatch):
    """A folder that is mounted or another user's cannot be moved, neither away nor to its place."""
    _write_pieces(tmp_path, *PIECES)
    replace = os.replace

    def refuse(source: Path, target: Path) -> None:
        away, here = Path(target).parent.name == ".old", Path(source).parent.name == f".record.{stage}"
        if Path(source).name == stuck and (away if stage == "complete" else here):
            raise OSError(16, "Device or resource busy")
        replace(source, target)

    monkeypatch.setattr(folders.os, "replace", refuse)
    with pytest.raises(OSError, match="cannot be written .Device or resource busy."), new_pieces(tmp_path, PIECES) as w:
        for name in PIECES:
            (w / name).write_text("new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: name for name in PIECES}


def test_nothing_to_finish(tmp_path):
    finish(tmp_path / "none", PIECES)
    assert os.listdir(tmp_path) == []
