"""Every reader takes damaged and hostile files well: it reads them, or refuses them with one line, and no more.

The files are the same in each run. ``tools/fuzz.py`` tries more of them.
"""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tools import fuzz
from tools.fuzzing import mutations, runner
from tools.fuzzing.runner import Target, problem_of, replay, run

SEED = 0
NAMES = (
    *("ytvos-train", "ytvos-valid", "ytvos-scored", "ytvos-objects", "ytvos-meta", "ytvos-check"),
    *("davis", "davis-check", "davis-text", "davis-list", "davis-semantics"),
    *("mevis", "mevis-masks", "mevis-training", "mevis-check", "mevis-v2", "mevis-v2-training"),
    *("long_rvos", "long_rvos-training", "long_rvos-check"),
    *("a2d-list", "a2d-train", "a2d-text", "a2d-videoset", "a2d-h5", "a2d-truth", "a2d-check"),
    *("jhmdb-list", "jhmdb-mat", "jhmdb-check"),
    *("refcoco", "refcoco-scored", "refcoco-check", "refcoco-instances", "refcoco-pickle"),
    *("own-csv", "own-json", "own-coco", "own-youtube-vis"),
    *("run-lengths", "texts", "submission", "checkpoint", "safetensors", "picture", "label-map"),
    *("film-mp4", "film-avi", "film-mkv", "film-webm"),
)


def test_every_target_is_listed_here(targets):
    assert set(targets) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_reader_takes_sound_and_damaged_files_well(targets, name):
    target = targets[name]
    target.path.write_bytes(target.sounds[0])
    target.read()
    found = list(run(target, SEED, range(target.inputs)))
    assert not found, "\n".join(map(str, found[:5]))
    assert target.path.read_bytes() == target.sounds[0]


# ------------------------------------------------------------------------------------------------ what would be found


def reader(path: Path, read) -> Target:
    return Target("made up", path, [b"sound"], lambda random, sounds: b"%d" % random.randrange(4), read, path.parent)


def fails_on_2(path: Path, how):
    """A reader that fails on the file "2" alone."""
    return reader(path, lambda: how() if path.read_bytes() == b"2" else None)


def refuse():
    raise ValueError("it is damaged")


def allocate():
    np.ones(2**28)


def dereference():
    import ctypes
    import faulthandler

    faulthandler.disable()  # pytest's would print the stack of this expected crash
    ctypes.string_at(0)


def sleep():
    time.sleep(60)


def fail_in_a_destructor():
    class Odd:
        def __del__(self):
            raise KeyError("x")

    Odd()


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (refuse, "the message names no file: ValueError: it is damaged"),
        (lambda: {}["x"], "KeyError: 'x'"),
        (lambda: exit(0), "SystemExit: 0"),
        (allocate, "MemoryError: Unable to allocate"),
        (dereference, "ends the process by SIGSEGV"),
        (lambda: os._exit(7), "ends the process by exit code 7"),
        (sleep, "takes more than 1 seconds"),
        (fail_in_a_destructor, "in a destructor: KeyError"),
    ],
)
def test_each_way_to_fail_is_found_with_its_number_and_the_rest_is_tried(tmp_path, monkeypatch, how, what):
    monkeypatch.setattr(runner, "SECONDS", 1)
    target = fails_on_2(tmp_path / "file", how)
    expected = [n for n in range(12) if target.make(SEED, n) == b"2"]
    assert 0 < len(expected) < 6
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside the threads of pytest
        found = list(run(target, SEED, range(12)))
        assert [finding.number for finding in found] == expected
        assert all(what in finding.what for finding in found), found
        assert what in replay(target, b"2") and replay(target, b"1") is None


def test_a_refusal_that_names_the_file_is_taken_well(tmp_path):
    path = tmp_path / "file"
    target = reader(path, lambda: refuse_named(path))
    assert problem_of(target, b"x") is None


def refuse_named(path: Path):
    raise ValueError(f"{path}: it is damaged; download it again")


def test_the_same_seed_makes_the_same_files_and_another_seed_others(targets):
    for name in ("ytvos-valid", "run-lengths", "label-map", "jhmdb-mat", "submission", "safetensors", "refcoco-pickle"):
        made = [[targets[name].make(seed, n) for n in range(30)] for seed in (0, 0, 1)]
        assert made[0] == made[1] != made[2]
        assert len(set(made[0])) > 20


def test_mended_checksums_let_changes_reach_the_pixels(targets):
    """Without them no decoder would look at a changed picture or at the entry of a zip."""
    from PIL import Image

    target, values = targets["label-map"], set()
    for number in range(200):
        target.path.write_bytes(mutations.as_png(Random(number), target.sounds))
        try:
            values.add(np.asarray(Image.open(target.path)).tobytes())
        except Exception:
            continue
    assert len(values) > 10


def test_the_tool_keeps_what_it_finds_and_tries_it_again(tmp_path, targets, monkeypatch, capsys):
    target = fails_on_2(tmp_path / "file", lambda: {}["x"])
    monkeypatch.setattr(fuzz, "all_targets", lambda _: {"made up": target})
    keep = tmp_path / "kept"
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--seconds", "0.5", "--keep", str(keep)])
    assert fuzz.main() == 1
    (kept,) = keep.iterdir()  # findings of one fault are one
    assert kept.read_bytes() == b"2" and "1 findings" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--target", "made up", "--again", str(kept)])
    assert fuzz.main() == 1 and "KeyError" in capsys.readouterr().out
    kept.write_bytes(b"1")
    assert fuzz.main() == 0 and "taken well" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["fuzz.py", "--target", "other"])
    with pytest.raises(ValueError, match="--target other does not exist; choose one of made up"):
        fuzz.main()
