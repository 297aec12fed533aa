"""The benchmark of windows: which settings there are, what it keeps, and a setting on a video that takes no time."""

from __future__ import annotations

import json

import pytest

from tools import benchmark_windows
from tools.benchmark_windows import settings

VALUES = {"J&F": 0.5, "tIoU": 0.25, "vIoU": 0.125, "static": 1.0, "peak GiB": 2.0, "ms/frame": 30.4}


def test_each_window_has_the_overlaps_that_it_can_have():
    found = list(settings([8, 40, 360], [0, 1, 8, 16], 360))
    assert found == [(8, 0), (8, 1), (40, 0), (40, 1), (40, 8), (40, 16), (360, 16)]
    with pytest.raises(ValueError, match="--windows 8: none of --overlaps is below it"):
        list(settings([40, 8], [8], 360))


def test_results_are_kept_and_those_of_other_videos_refused(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(benchmark_windows, "run", lambda *setting: asked.append(setting) or VALUES)
    monkeypatch.setattr(benchmark_windows, "generate", lambda *_, **__: True)

    def main(*words: str) -> str:
        given = ["x", "--output_dir", tmp_path, "--windows", 8, 40, *words]
        monkeypatch.setattr("sys.argv", [str(word) for word in given])
        benchmark_windows.main()
        return capsys.readouterr().out

    first = main("--overlaps", "0", "8")
    assert asked == [(8, 0), (40, 0), (40, 8)]
    lines = first.splitlines()
    assert lines[1].startswith(
        "| window | overlap | J&F | tIoU | vIoU | static | dynamic | hybrid | peak GiB | ms/frame"
    )
    assert lines[3] == "| 8 | 0 | 0.500 | 0.250 | 0.125 | 1.000 | – | – | 2.00 | 30 |"
    assert main("--overlaps", "0", "8") == first and len(asked) == 3
    main("--overlaps", "0", "1")
    assert asked[3:] == [(8, 1), (40, 1)]
    with pytest.raises(ValueError, match="windows.json: holds results of other videos or weights"):
        main("--frames", "100")
    (tmp_path / "windows.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="windows.json: is no file of this tool; give another --output_dir"):
        main()


def test_a_setting_is_scored_and_measured(tmp_path):
    benchmark_windows.generate(
        tmp_path / "data", train_videos=1, valid_videos=1, frames=12, format="long_rvos", leave=True, workers=1
    )
    args = benchmark_windows.parse_args(["--output_dir", str(tmp_path), "--device", "cpu"])
    followed, alone = (benchmark_windows.cost(args, *setting) for setting in ((8, 2), (8, 0)))
    assert followed["J&F"] > 0.3 and 0 < followed["vIoU"] <= followed["tIoU"] <= 1
    assert followed["J&F"] != alone["J&F"]
    assert followed["peak GiB"] > 0.1 and followed["ms/frame"] > 0
