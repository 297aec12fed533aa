"""Rows of the paper's tables that are run, and their scores as tables; programs are stand-ins that write down calls."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from opts import train_parser
from tests.helpers import ROOT
from tools import paper
from tools.paper_tables import scores as scoring
from tools.paper_tables import tables as collecting
from tools.paper_tables.rows import find
from tools.paper_tables.run import RECORD, run_row
from tools.paper_tables.scores import read_runs
from tools.paper_tables.steps import score_file

# ends as the file CODE beside it says, which is read once; waits where it says "wait", and then ends as a stopped run
PROGRAM = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$(dirname "$0")/../calls"
code="$(cat "$0.code" 2>/dev/null)"
rm -f "$0.code"
[[ "$code" != wait ]] || { trap 'exit 75' INT; touch "$0.ready"; while :; do sleep 0.05; done; }
exit "${code:-0}"
"""
PYTHON = """import pathlib, sys
root = pathlib.Path(__file__).parents[{depth}]
with open(root / "calls", "a") as file:
    print("{name}", *sys.argv[1:], file=file)
"""
DATA = ["--ytvos_path", "y", "--davis_path", "d", "--a2d_path", "a", "--jhmdb_path", "j", "--coco_path", "c"]
OTHERS = [*DATA, "--backbone_pretrained", "w.pth"]


@pytest.fixture
def repository(tmp_path, monkeypatch) -> Path:
    """A repository of stand-ins with data beside it, which is the working directory."""
    root = tmp_path / "repository"
    (root / "scripts").mkdir(parents=True)
    names = ["dist_pretrain", "dist_train_test_ytvos", "dist_train_a2d", "dist_test_davis", "dist_test_jhmdb"]
    for name in names:
        (root / "scripts" / f"{name}.sh").write_text(PROGRAM)
        (root / "scripts" / f"{name}.sh").chmod(0o755)
    converters = ["convert_refcoco", "convert_davis_to_ytvos", "make_sentences_annotations"]
    for path in ["eval_ytvos.py", *(f"tools/data/{name}.py" for name in converters)]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(PYTHON.format(depth=path.count("/"), name=Path(path).name))
    for name in ("y", "d", "a", "j", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "w.pth").touch()
    monkeypatch.chdir(tmp_path)
    return root


def called(repository: Path) -> list[str]:
    """The names of the programs that were called since the last look."""
    calls = repository / "calls"
    lines = calls.read_text().splitlines() if calls.exists() else []
    calls.unlink(missing_ok=True)
    return [line.split()[0] for line in lines]


def ends(repository: Path, script: str, code: int | str) -> None:
    """Lets the next call of a script end so."""
    (repository / "scripts" / f"{script}.code").write_text(f"{code}\n")


WHOLE = ["convert_refcoco.py", "dist_pretrain.sh", "dist_train_test_ytvos.sh", "eval_ytvos.py"]
WITH_DAVIS = [*WHOLE, "convert_davis_to_ytvos.py", "dist_test_davis.sh"]


def run(repository: Path, row: str, *further: str) -> int:
    return run_row(find(row), Path("out"), [*OTHERS, *further], root=repository)


def test_all_commands_run_once(repository, capsys):
    assert run(repository, "I.16") == 0 and called(repository) == WITH_DAVIS
    assert run(repository, "I.16") == 0 and called(repository) == []
    out = capsys.readouterr().out
    assert "== 2 of 6, pretraining: ./scripts/dist_pretrain.sh out/pretrain" in out
    assert out.count("done before") == 6 and "I.16 is complete" in out


def test_a_run_goes_on_with_the_command_that_failed_and_passes_its_status_on(repository, capsys):
    ends(repository, "dist_train_test_ytvos.sh", 2)
    assert run(repository, "I.16") == 2 and called(repository) == WHOLE[:3]
    assert "training has failed with exit status 2" in capsys.readouterr().err
    ends(repository, "dist_train_test_ytvos.sh", 75)
    assert run(repository, "I.16") == 75 and called(repository) == WHOLE[2:3]
    assert "training was stopped" in capsys.readouterr().err
    assert run(repository, "I.16") == 0 and called(repository) == WITH_DAVIS[2:]


def test_scores_that_lack_items_are_made_again(repository, capsys):
    ends(repository, "dist_test_davis.sh", 3)
    assert run(repository, "I.16") == 3 and called(repository) == WITH_DAVIS
    assert run(repository, "I.16") == 0 and called(repository) == WITH_DAVIS[-1:]


def test_lists_that_are_there_are_not_converted(repository):
    for name in ("refcoco", "refcoco+", "refcocog"):
        (Path("c") / name).mkdir()
        (Path("c") / name / f"instances_{name}_train.json").touch()
    assert run(repository, "IV.2") == 0 and called(repository) == WHOLE[1:]


def test_the_row_of_jhmdb_goes_on_from_that_of_a2d(repository):
    assert run(repository, "II.7") == 0
    assert called(repository) == [
        *("convert_refcoco.py", "dist_pretrain.sh", "make_sentences_annotations.py", "dist_train_a2d.sh")
    ]
    assert run(repository, "III.5") == 0
    assert called(repository) == ["make_sentences_annotations.py", "dist_test_jhmdb.sh"]


def test_a_folder_with_another_run_is_refused_before_anything_runs(repository):
    assert run(repository, "IV.2") == 0
    called(repository)
    with pytest.raises(ValueError, match="has a run of IV.2 whose pretraining was another command"):
        run(repository, "V.2")
    with pytest.raises(ValueError, match="whose training was another command .*--epochs 9"):
        run(repository, "IV.2", "--epochs", "9", "--lr_drop", "3")
    assert called(repository) == []


def test_a_folder_may_be_moved_and_a_training_that_is_not_done_may_have_other_options(repository):
    ends(repository, "dist_train_test_ytvos.sh", 2)
    assert run(repository, "IV.2") == 2
    Path("out").rename("moved")
    called(repository)
    words = [*OTHERS, "--num_workers", "0"]
    with pytest.raises(ValueError, match="whose pretraining was another command"):
        run_row(find("IV.2"), Path("moved"), words, root=repository)
    words = [*OTHERS, "--train_sizes", "96"]
    assert run_row(find("IV.2"), Path("moved"), words, root=repository) == 0 and called(repository) == WHOLE[2:]
    assert json.loads((Path("moved") / RECORD).read_text())["options"] == words


def test_missing_data_shows_before_days_of_training(repository):
    Path("d").rmdir()
    Path("w.pth").unlink()
    with pytest.raises(ValueError, match=r"^d, w.pth: not there; tools/paper.py show I.16 says where"):
        run(repository, "I.16")
    assert run(repository, "IV.2", "--backbone_pretrained", "c") == 0  # which needs neither


@pytest.mark.parametrize("text", ["", "[]", '{"row": "IV.9"}', '{"row": "IV.2", "options": [], "commands": {"a": 1}}'])
def test_a_damaged_record_is_named(repository, text):
    Path("out").mkdir()
    (Path("out") / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"out/paper.json is damaged"):
        run(repository, "IV.2")
    assert called(repository) == []


def test_options_that_main_refuses_are_refused_first(repository):
    with pytest.raises(ValueError, match="unrecognized arguments: --epoch 3"):
        run(repository, "IV.2", "--epoch", "3")
    assert not Path("out").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_command_which_saves_and_the_run_ends_with_its_status(repository, number):
    ends(repository, "dist_pretrain.sh", "wait")
    program = (
        "import sys; from pathlib import Path; from tools.paper_tables.rows import find; "
        "from tools.paper_tables.run import run_row; "
        f"sys.exit(run_row(find('IV.2'), Path('out'), {OTHERS!r}, root=Path({str(repository)!r})))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen([sys.executable, "-c", program], env=env, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (repository / "scripts/dist_pretrain.sh.ready").exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.02)
    running.send_signal(number)
    assert "pretraining was stopped" in running.communicate(timeout=60)[1]
    assert running.returncode == 75


# Scores ----------------------------------------------------------------------------------------------------------


def wrote(folder: str, row: str, *options: str, **found: dict) -> Path:
    """A folder as a run leaves it, with these contents of the files of scores."""
    path = Path(folder)
    path.mkdir(parents=True)
    (path / RECORD).write_text(json.dumps({"row": row, "options": options, "commands": {}}))
    for benchmark, content in found.items():
        file = score_file(path, benchmark)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return path


def ytvos(j: float, f: float, **more: object) -> dict:
    return {"J": j, "F": f, "J&F": (j + f) / 2, **more}


FRAMES = {
    "precision_at": {f"0.{i}": 0.1 * (10 - i) for i in range(5, 10)},
    **{"overall_iou": 0.7, "mean_iou": 0.6, "all_queries": {"mAP": 0.5}, "best_query": {"mAP": 0.4}},
}
DAVIS = {"unsupervised": {"J&F": 0.6, "J": {"mean": 0.55}, "F": {"mean": 0.65}}, "semi-supervised": {"J&F": 0.1}}
COST = {"frames": 19, "size": [360, 640], "machine": "an abacus", "options": []}


@pytest.fixture
def collected(tmp_path, monkeypatch):
    """Writes the tables of folders; returns lines of the document by the row they begin with."""
    monkeypatch.chdir(tmp_path)

    def collect(*folders: str) -> dict[str, str]:
        collecting.run(paper.parse_args(["tables", *folders, "--output", "t.md"]))
        lines = Path("t.md").read_text().splitlines()
        return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}

    return collect


def test_ours_stands_beside_the_papers(collected):
    wrote("runs/one", "I.16", ytvos=ytvos(0.6, 0.62), davis=DAVIS)
    rows = collected("runs")
    assert "63.0 / **61.0** (−2.0) | 61.9 / **60.0** (−1.9) | 64.1 / **62.0** (−2.1)" in rows["I.16"]
    assert rows["I.16"].endswith("| 63.9 / **60.0** (−3.9) | 60.5 / **55.0** (−5.5) | 66.8 / **65.0** (−1.8) |")
    assert rows["I.15"] == "| I.15 | SOC | Video-Swin-T | 62.4 | 61.1 | 63.7 | 63.5 | 60.2 | 66.7 |"
    # the same model is a row of other tables, too, and no other row is
    for row in ("IV.5", "V.4", "VIII.c"):
        assert "63.0 / **61.0** (−2.0)" in rows[row]
    assert [row for row, line in rows.items() if "**" in line and "." in row] == ["I.16", "IV.5", "V.4", "VIII.c"]
    assert Image.open("t.png").size[0] == 1800


def test_a2d_and_jhmdb_are_scores_of_one_model(collected):
    wrote("run", "II.9", a2d=FRAMES, jhmdb=FRAMES)
    rows = collected("run")
    assert "83.0 / **50.0** (−33.0)" in rows["II.9"] and rows["II.9"].endswith("54.3 / **50.0** (−4.3) |")
    assert rows["III.7"].endswith("72.9 / **70.0** (−2.9) | 71.7 / **60.0** (−11.7) | 44.1 / **50.0** (+5.9) |")


def test_runs_of_one_row_are_averaged_and_marked(collected):
    wrote("runs/a", "VI.1", "--seed", "1", ytvos=ytvos(0.58, 0.6))
    wrote("runs/b", "VI.1", "--seed", "2", ytvos=ytvos(0.59, 0.61))
    wrote("runs/c", "IV.1", "--epochs", "1", ytvos=ytvos(0.594, 0.594, incomplete={"problems": []}))
    wrote("runs/d", "IV.3")
    rows = collected("runs")
    assert "not known | 59.2 / **59.5 ± 0.7** (+0.3)" in rows["VI.1"]
    assert "59.4 / **59.4*†** (+0.0)" in rows["IV.1"]
    assert rows["runs/c"] == "| runs/c | IV.1 | `--epochs 1` | ytvos |"
    assert rows["runs/d"].endswith("| none yet |") and "**" not in rows["IV.3"]


def test_the_measured_cost_is_table_viii(collected):
    rows = {"a": {"gmac": 1700.0, "ms": 90.0}, "c": {"gmac": 700.0, "ms": 80.0}}
    wrote("run", "VIII.c", ytvos=ytvos(0.63, 0.63), cost=COST | {"rows": rows})
    found = collected("run")
    assert found["VIII.a"].endswith("| 59.4 | 1298.8 / **1700.0** (+401.2) | 104 / **90.0** (−14.0) |")
    assert found["VIII.c"].endswith("| 63.0 / **63.0** (+0.0) | 1341.6 / **700.0** (−641.6) | 109 / **80.0** (−29.0) |")
    assert found["VIII.b"].endswith("| 61.0 | 1756.0 | 134 |")


@pytest.mark.parametrize("other", [{"frames": 2}, {"size": [96, 160]}, {"options": ["--token_stride", "16"]}])
def test_the_cost_of_another_clip_is_not_in_the_table(collected, other):
    wrote("run", "VIII.c", cost=COST | {"rows": {"a": {"gmac": 1.0, "ms": 1.0}}} | other)
    collected("run")
    assert "No row of Table I, II, III, IV, V, VI, VII, VIII has scores." in Path("t.md").read_text()
    assert not Path("t.png").exists()


def test_folders_without_runs_and_damaged_scores_are_named(collected):
    Path("empty/within").mkdir(parents=True)
    with pytest.raises(ValueError, match="empty has no run of a row"):
        read_runs([Path("empty")])
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        read_runs([Path("none")])
    wrote("run", "IV.2", ytvos={"J": 0.5})
    with pytest.raises(ValueError, match=r"run/ytvos/valid/scores.json is damaged: it has no scores of ytvos"):
        read_runs([Path("run")])
    with pytest.raises(ValueError, match=r"t.txt: the ending must be .md"):
        collecting.run(paper.parse_args(["tables", "run", "--output", "t.txt"]))


def test_every_option_that_is_free_exists():
    """A run that sets one of them is no other experiment; a name that is misspelt would make it one."""
    known = {action.dest for action in train_parser()._actions}
    assert known >= scoring.FREE
