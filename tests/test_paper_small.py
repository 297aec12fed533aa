"""Rows of the paper's tables in small: trained once, gone on with, and compared with the row above."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from opts import parse_train_args
from tests.commands import run as ran
from tools.paper_tables import rows, small_rows
from tools.small_job import stages as small_job

TINY = small_job.Recipe(8, 8, 1, 1, "--num_frames 2 --batch_size 2 --steps 20", "--num_frames 2 --batch_size 4")


def asked(tmp_path: Path, *names: str, seeds: tuple[int, ...] = (0,), dry_run: bool = False) -> argparse.Namespace:
    results = tmp_path / "results.json"
    return argparse.Namespace(
        output_dir=tmp_path / "out", seeds=list(seeds), rows=list(names) or None, results=results, dry_run=dry_run
    )


def scored(options: tuple[str, ...], seed: int, value: float) -> dict:
    names = ("J&F", "J&F_other_object", "J&F_shuffled", "J&F_blank", "J&F_first_frame")
    line = dict.fromkeys(names, value)
    kinds = {kind: line for kind in ("appearance", "motion", "relation")}
    return {
        "options": list(options),
        "seed": seed,
        "recipe": small_rows.recipe(),
        "seconds": 1,
        "scores": line | {"by_kind": kinds},
    }


def forked(script: str, *options: object, quiet: bool = False) -> str:
    """:func:`small_job.command` without the time of imports."""
    return ran(script, *options).stdout


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(small_rows, "BUDGET", TINY)
    monkeypatch.setattr(small_rows, "REHEARSAL", 8)
    monkeypatch.setattr(small_job, "VALID_VIDEOS", 2)
    monkeypatch.setattr(small_job, "NETWORK", small_job.NETWORK.replace("--warmup_steps 50", ""))
    monkeypatch.setattr(small_job, "command", forked)


def test_a_row_is_trained_once_and_its_entry_says_what_it_depends_on(tiny, tmp_path, monkeypatch, capsys):
    small_rows.run(asked(tmp_path, "IV.2"))
    said = capsys.readouterr().out
    assert "1 training is left" in said and "IV.2, seed 0:" in said and "hours in all" in said
    (entry,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert entry["options"] == ["--jsc_target", "none"] and entry["recipe"]["budget"]["videos"] == 8
    assert 0 <= entry["scores"]["J&F_first_frame"] <= 1 and "motion" in entry["scores"]["by_kind"]

    # killed after its training: the checkpoints are there, and no step is taken again
    (tmp_path / "results.json").unlink()
    monkeypatch.setattr(small_rows, "announce", lambda *_: None)
    small_rows.run(asked(tmp_path, "IV.2"))
    (again,) = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert again["scores"] == entry["scores"]
    logs = list((tmp_path / "out").glob("jsc_target_none/seed0/run*/log.jsonl"))
    epochs = [sum("seconds" in json.loads(line) for line in log.read_text().splitlines()) for log in logs]
    assert epochs == [1, 1]

    def unwanted(*words: object, **_: object) -> str:
        raise AssertionError(f"nothing is left to run: {words}")

    monkeypatch.setattr(small_job, "command", unwanted)
    small_rows.run(asked(tmp_path, "VI.3", "VII.3"))  # the same options
    assert "| VI.3" in capsys.readouterr().out
    monkeypatch.setattr(small_rows, "VERSION", small_rows.VERSION + 1)
    with pytest.raises(ValueError, match="another recipe"):
        small_rows.run(asked(tmp_path, "IV.2"))


def test_every_row_has_options_that_main_takes():
    for row in small_rows.rows_asked(None):
        network = small_rows.Work(small_rows.own_options(row), 0).network
        for stage in small_job.stages(small_rows.BUDGET, small_rows.starts(Path("out")), 0, *network):
            args = parse_train_args([str(word) for word in stage])
            assert (args.num_queries == 5) == ("--num_queries" not in row.options)
            assert (args.enc_layers == 4) == ("--enc_layers" not in row.options)
            assert args.model == ("referformer" if row.id == "IV.1" else "proxyformer")


def test_the_rows_that_say_most_come_first_and_others_are_refused():
    order = [row.id for row in small_rows.rows_asked(None)]
    assert order[:5] == ["IV.1", "IV.2", "IV.5", "IV.4", "VI.1"] and len(order) == 17 == len(set(order))
    with pytest.raises(ValueError, match="--rows VIII.c: only the rows of Tables IV, V, VI, VII"):
        small_rows.rows_asked(["VIII.c"])


def test_the_table_has_means_and_signed_differences_of_common_seeds(tmp_path, capsys):
    baseline, cmie = (small_rows.own_options(rows.find(name)) for name in ("IV.1", "IV.2"))
    runs = [scored(baseline, 0, 0.50), scored(baseline, 1, 0.60), scored(cmie, 0, 0.45), scored(cmie, 1, 0.57)]
    old = scored(cmie, 0, 0.99) | {"recipe": {"version": 0}}
    lines = small_rows.markdown([rows.find("IV.1"), rows.find("IV.2")], small_rows.finished([old, *runs])).splitlines()
    first, second = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[-2:])
    assert first[2:7] == ["2", "0.550 ± 0.071", "", "59.4", ""]
    assert second[2:7] == ["2", "0.510 ± 0.085", "-0.040 ± 0.014", "62.0", "+2.6"]


def test_a_results_file_of_something_else_is_named(tmp_path):
    (tmp_path / "results.json").write_text('{"runs": [1]}')
    with pytest.raises(ValueError, match="results.json is no file of finished rows"):
        small_rows.run(asked(tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    (tmp_path / "results.json").unlink()
    with pytest.raises(ValueError, match="already holds something"):
        small_rows.run(asked(tmp_path))
