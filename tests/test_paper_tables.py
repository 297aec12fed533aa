"""The paper's tables: what is printed in them, and the commands that make their rows."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import inference_davis
import inference_ytvos
from opts import parse_train_args
from tests.helpers import SHARED, needs_shared
from tests.sandbox import Sandbox
from tools import paper
from tools.paper_tables import listing, rows, show, steps
from tools.paper_tables.rows import Row, every_row, find, tables, uneven, written

OUT = Path("out")


def values(row: str) -> dict[str, rows.Value]:
    return dict(zip(tables()[row.partition(".")[0]].columns, find(row).values, strict=True))


def test_every_table_is_whole():
    counts = {number: len(table.rows) for number, table in tables().items()}
    assert counts == {"I": 23, "II": 10, "III": 8, "IV": 5, "V": 4, "VI": 4, "VII": 4, "VIII": 4}
    for row in every_row():
        table = tables()[row.table]
        assert len(row.values) == len(table.columns) and len(row.names) == len(table.labels), row.id
        assert set(table.pictured) <= set(table.columns)
    assert len({row.id for row in every_row()}) == sum(counts.values())


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("I.7", {"ytvos.J&F": 58.2, "davis.J&F": 59.7}),
        ("I.16", {"ytvos.J&F": 63.0, "davis.J&F": 63.9}),
        ("I.23", {"ytvos.J&F": 66.3, "davis.J&F": 64.6}),
        ("II.9", {"a2d.mAP": 54.3, "a2d.overall": 78.1, "a2d.mean": 70.6}),
        ("II.10", {"a2d.mAP": 57.8, "a2d.overall": 80.1, "a2d.mean": 71.9}),
        ("III.7", {"jhmdb.mAP": 44.1}),
        ("III.8", {"jhmdb.mAP": 45.9}),
        *((f"IV.{i}", {"ytvos.J&F": v}) for i, v in enumerate((59.4, 62.0, 62.3, 60.5, 63.0), 1)),
        *((f"V.{i}", {"ytvos.J&F": v}) for i, v in enumerate((62.0, 60.3, 62.2, 63.0), 1)),
        *((f"VI.{i}", {"ytvos.J&F": v}) for i, v in enumerate((59.2, 61.3, 62.0, 62.1), 1)),
        *((f"VII.{i}", {"ytvos.J&F": v}) for i, v in enumerate((60.5, 61.6, 62.0, 61.8), 1)),
        *((f"VIII.{i}", {"cost.gmac": v}) for i, v in zip("abcd", (1298.8, 1756.0, 1341.6, 1484.6), strict=True)),
    ],
)
def test_the_headlines_are_the_papers(row, expected):
    assert {key: values(row)[key] for key in expected} == expected


@needs_shared
def test_rows_are_the_rows_of_the_papers_text_in_its_order():
    """Names lose their citations, and values the units and differences that stand beside them."""
    text = (SHARED / "paper" / "proxyformer.txt").read_text()
    printed = []
    for line in text.splitlines():
        cells = [re.sub(r"\[.*?\]|\(\+.*?\)|(?<=\d)G(?= *$)", "", cell).strip() for cell in line.strip("| ").split("|")]
        numbers = [cell for cell in cells if re.fullmatch(r"\d+(\.\d)?|-", cell)]
        if len(numbers) > 2 and line.startswith("|"):
            printed.append((cells, numbers))
    ours = []
    for row in every_row():
        # the ticks and dashes of Table V are names
        dashes = ["-"] * row.names.count("-") if row.table == "V" else []
        ours.append(dashes + [str(value) for value in row.values])
    assert [numbers for _, numbers in printed] == ours
    for (cells, _), row in zip(printed, every_row(), strict=True):
        if row.table in ("I", "II", "III"):
            method = row.names[0].partition(" (window")[0]
            assert cells[0].startswith(method) and cells[1] == row.names[1], row.id


def test_lost_values_are_not_known_and_the_command_tells_its_choice():
    for row in (*tables()["VI"].rows, *tables()["VII"].rows):
        assert row.names == (None,) and row.title == "not known" and row.choice
    assert written("-") == "–" and written(62.0) == "62.0" and written(104) == "104"


def test_rows_whose_headline_is_not_the_mean_of_its_parts_are_found():
    assert [row.id for row in every_row() if uneven(row)] == (
        ["I.2", "I.16", "I.23", "IV.4", "V.2", "VI.1", "VI.2", "VI.4", "VII.1", "VII.2", "VII.4"]
    )


@pytest.mark.parametrize("name", ["IX.1", "IV.6", "IV", "", "IV.5.1"])
def test_an_unknown_row_is_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"its tables are I, II|has the rows IV\.1"):
        find(name)


def test_rows_of_other_systems_have_the_published_number_alone(capsys):
    others = [row for row in every_row() if row.options is None]
    assert len(others) == 17 + 6 + 4
    lines = list(show.described(find("I.15"), OUT))
    assert lines[1].startswith("the paper (arXiv 2511.21139): Ref-YouTube-VOS J&F 62.4") and len(lines) == 3
    with pytest.raises(ValueError, match="I.15 is SOC, Video-Swin-T, another system"):
        steps.steps(find("I.15"), OUT)


def test_a_row_whose_flag_does_not_exist_has_no_command(monkeypatch):
    changed = dataclasses.replace(find("IV.3"), options=("--backbone", "video_swin_t", "--no_such_flag"))
    table = tables()["IV"]
    changed_table = dataclasses.replace(table, rows=(table.rows[1], changed))
    lines = listing.listed(changed_table).splitlines()
    assert lines[2].split()[-1] == "yes"
    assert lines[3].endswith("no command: unrecognized arguments: --no_such_flag")
    with pytest.raises(ValueError, match="IV.3 has no command: unrecognized arguments: --no_such_flag"):
        steps.steps(changed, OUT)


def test_list_prints_every_row_once(capsys):
    paper.COMMANDS["list"].run(paper.parse_args(["list"]))
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if re.match(r"[IV]+\.", line)]
    assert first == [row.id for row in every_row()]
    paper.COMMANDS["list"].run(paper.parse_args(["list", "iv"]))
    assert "V.1" not in capsys.readouterr().out.split()


def test_options_of_main_are_passed_on_and_others_refused(capsys):
    args = paper.parse_args(["run", "IV.2", "--output_dir", "x", "--epochs", "3", "--no-flip"])
    assert args.row == "IV.2" and args.others == ["--epochs", "3", "--no-flip"]
    with pytest.raises(SystemExit):
        paper.parse_args(["list", "--no-flip"])
    assert "list has no option --no-flip" in capsys.readouterr().err


def calls(tmp_path: Path, row: Row, *others: str) -> tuple[list[steps.Step], list[list[str]]]:
    """The commands of a row, and how its scripts call Python."""
    sandbox = Sandbox(tmp_path)
    sandbox.run("setup.sh")
    sandbox.calls()
    (sandbox.root / "out/pretrain").mkdir(parents=True)
    for data in ("d", "data/ref-davis"):
        (sandbox.root / data).mkdir(parents=True)
    for name in ("pretrain", "ytvos", "a2d"):
        (sandbox.root / "out" / name).mkdir(exist_ok=True)
        (sandbox.root / "out" / name / "checkpoint.pth").touch()
    made = steps.steps(row, OUT, others)
    for step in made:
        script = Path(step.words[0])
        assert (steps.ROOT / script).is_file()
        if script.suffix == ".sh":
            sandbox.run(script.name, *step.words[1:])
    return made, [[Path(call.args[0]).name, *call.args[1:]] for call in sandbox.calls()]


def test_the_commands_of_a_row_train_and_infer_with_its_options(tmp_path):
    made, called = calls(tmp_path, find("I.16"), "--num_frames", "4", "--hidden_dim", "64", "--davis_path", "d")
    assert [step.name for step in made] == [
        *("lists of RefCOCO", "pretraining", "training", "scores of Ref-YouTube-VOS"),
        *("lists of Ref-DAVIS17", "scores of Ref-DAVIS17"),
    ]
    assert [words[0] for words in called] == [
        *("main.py", "main.py", "inference_ytvos.py", "inference_davis.py", "eval_davis.py")
    ]
    pretraining, training = (parse_train_args(words[1:]) for words in called[:2])
    assert (pretraining.preset, pretraining.num_frames, pretraining.hidden_dim) == ("pretrain", 1, 64)
    assert Path(pretraining.backbone_pretrained).name.startswith("swin_tiny") and pretraining.global_batch_size == 16
    assert (training.preset, training.num_frames, training.hidden_dim) == ("paper", 4, 64)
    assert training.pretrained_weights == "out/pretrain/checkpoint.pth" and training.output_dir == "out/ytvos"
    assert training.epochs == 30 and training.global_batch_size == 8 and training.jsc_target == "joint"
    assert inference_ytvos.parse_args(called[2][1:]).resume == "out/ytvos/checkpoint.pth"
    davis = inference_davis.parse_args(called[3][1:])
    assert davis.data_path == "d" and davis.resume == "out/ytvos/checkpoint.pth" and davis.clips == "followed"


def test_the_baseline_has_referformers_own_recipe_and_windows(tmp_path):
    _, called = calls(tmp_path, find("I.10"))
    training = parse_train_args(called[1][1:])
    assert (training.model, training.preset, training.epochs) == ("referformer", "finetune", 6)
    davis = inference_davis.parse_args(called[3][1:])
    assert (davis.clips, davis.window) == ("independent", 36)


def test_jhmdb_is_scored_with_the_model_of_a2d(tmp_path):
    made, called = calls(tmp_path, find("III.5"))
    assert [step.name for step in made if not step.makes] == ["pretraining", "training", "scores of JHMDB-Sentences"]
    training, test, jhmdb = (parse_train_args(words[1:]) for words in called[1:])
    assert training.dataset_file == "a2d" and training.preset == "a2d_finetune" and training.global_batch_size == 16
    assert test.eval and test.eval_split == "test"
    assert jhmdb.eval and jhmdb.dataset_file == "jhmdb" and jhmdb.resume == "out/a2d/checkpoint.pth"


def test_weights_that_are_given_take_the_place_of_the_pretraining():
    words = ["--pretrained_weights", "w.pth", "--epochs", "2"]
    made = steps.steps(find("V.2"), OUT, words)
    assert [step.name for step in made] == ["training", "scores of Ref-YouTube-VOS"]
    assert made[0].words[2] == "w.pth" and "--pretrained_weights" not in made[0].words
    assert {str(d.path) for d in steps.downloads(find("V.2"), words)} == {"data/ref-youtube-vos", "w.pth"}
    with pytest.raises(ValueError, match="--pretrained_weights replaces the pretraining"):
        steps.steps(find("V.2"), OUT, words, ["--epochs", "1"])


def test_show_prints_commands_that_are_those_of_run():
    row, others = find("VII.1"), ["--amp", "bf16"]
    lines = list(show.described(row, OUT, others, ["--epochs", "1"]))
    for step in steps.steps(row, OUT, others, ["--epochs", "1"]):
        assert str(step) in lines
    assert "K = 2 is a choice" in lines[2]
    words = shlex.split(lines[-1].rpartition("\n")[2])[2:]
    args = paper.parse_args(words)
    assert (args.row, args.others, args.pretrain_options) == ("VII.1", others, "--epochs 1")


def test_memory_that_was_not_measured_is_not_invented():
    lines = list(show.described(find("IV.2"), OUT))
    known = [
        line for line in lines if line.startswith("# memory: no GPU was measured; on a CPU the process took 5.4 GiB")
    ]
    assert len(known) == 1 and lines.count("# memory: not measured") == 1  # training, and pretraining
    for other in (["--hidden_dim", "512"], ["--amp", "bf16"], ["--num_frames", "6"], ["--backbone", "video_swin_b"]):
        assert list(show.described(find("IV.2"), OUT, other)).count("# memory: not measured") == 2, other
