"""The benchmark's reference is the toolkit's definition, and its run compares the numbers of both sides."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.mini_davis import write_masks
from tools import benchmark_jf

GOLDEN = json.loads((ROOT / "tests/golden/jf_cases.json").read_text())["cases"]


def test_the_reference_has_the_toolkits_numbers():
    with np.load(ROOT / "tests/golden/jf_cases.npz") as packed:
        for case in GOLDEN:
            size, shape = case["h"] * case["w"], (1, case["h"], case["w"])

            def mask(name: str, case=case, size=size, shape=shape) -> np.ndarray:
                return np.unpackbits(packed[f"{case['name']}/{name}"], count=size).reshape(shape).astype(bool)

            void = mask("void") if case["void"] else np.zeros(shape, bool)
            found = benchmark_jf.reference_jf(mask("gt"), mask("pred"), void)
            assert found[0] == pytest.approx((case["J"], case["F"]), abs=1e-9), case["name"]


def _run(monkeypatch, *words) -> int:
    monkeypatch.setattr(sys, "argv", ["benchmark_jf.py", "--frames", "1", "--repeat", "1", *map(str, words)])
    return benchmark_jf.main()


def test_a_run_prints_both_ratios(monkeypatch, capsys):
    assert _run(monkeypatch, "--objects", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 frame of 480x854 pixels, 2 objects, 2 proposals, one thread"
    assert lines[1].startswith("J and F of a frame and object: reference ") and lines[1].endswith(" times as fast")
    assert lines[2].startswith("unsupervised protocol, a frame: reference ") and lines[2].endswith(" times as fast")
    assert float(lines[3].removeprefix("largest difference of a number: ")) < 1e-9


def test_a_difference_is_no_success(monkeypatch):
    monkeypatch.setattr(benchmark_jf, "prepared_jf", lambda truth, *_: np.ones((len(truth), 2)))
    assert _run(monkeypatch, "--objects", "2") == 1


def test_real_label_maps(tmp_path, monkeypatch, capsys):
    truth, results = np.zeros((2, 40, 60), np.uint8)
    truth[4:20, 4:20], truth[30:, 30:] = 1, 255
    results[6:20, 4:20], results[20:30, 30:] = 3, 1
    for name, labels in (("truth", truth), ("results", results), ("wide", results.T)):
        write_masks(tmp_path / name, {"00000": labels})
    assert _run(monkeypatch, "--truth", tmp_path / "truth", "--results", tmp_path / "results") == 0
    assert "1 frame of 40x60 pixels, 1 object, 3 proposals" in capsys.readouterr().out
    with pytest.raises(ValueError, match="must hold the same frames"):
        _run(monkeypatch, "--truth", tmp_path / "truth", "--results", tmp_path / "wide")
    with pytest.raises(FileNotFoundError, match=r"there is no \.png in this folder"):
        _run(monkeypatch, "--truth", tmp_path, "--results", tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objects", "0"], "at least 1"),
        (["--objects", "21"], "at most 20"),
        (["--truth", "x"], "--truth and --results belong together"),
    ],
)
def test_contradicting_options(monkeypatch, capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        _run(monkeypatch, *words)
    assert ended.value.code == 2 and message in capsys.readouterr().err
