"""The numbers in the docs against what their commands print."""

from __future__ import annotations

import shlex
import sys

import pytest

from tests.commands import started
from tests.helpers import ROOT
from tools import remeasure
from tools.remeasure import blocks, compare, read_docs

DOC = """Words before, 12.

<!-- measured: {command}
takes: {takes}
{fields} -->
{text}

Words behind, 34.
"""
TABLE = """| held-out (5 kinds) | J&F | seconds |
|---|---|---|
| all (221) | **0.881** | 1,198 s |
| motion, `--window 8` | 0.816 | 60 to 70 s |
"""
PRINTED = "all (221)   0.8812   1198\nmotion   0.8161   65.0\nmean   0.9   12\n"


def block(text: str = TABLE, command: str = "true", takes: str = "1 s", fields: str = "without: none"):
    (found,) = blocks(DOC.format(**locals()), "a.md")
    return found


def test_numbers_that_are_equal_as_they_are_written_agree():
    assert block().place == "a.md:3"
    assert compare(block(), PRINTED) == (5, [])


def test_what_differs_is_named_with_its_row():
    same, differ = compare(block(), PRINTED.replace("0.8161", "0.8166").replace("65.0", "71.0"))
    assert same == 3
    assert [line.partition(": |")[0] for line in differ] == [
        "said 0.816, found 0.8166 (+0.1%)",
        "said 60 to 70 s, found 71.0 (+18.3%)",
    ]


@pytest.mark.parametrize(
    ("fields", "differ"),
    [
        ("within: 0.003", 1),
        ("within: 0.4 %", 1),
        ("within: 0.003, seconds 5 %", 0),
        ("within: 0.003, s 5 %", 0),
        ("within: 0.003, second 5 %", 1),  # the head has no such word
        ("within: 0.003\nwithout: seconds", 0),
        ("within: s 0.1 %", 3),
    ],
)
def test_tolerances(fields, differ):
    printed = "all (221)  0.883  1240\nmotion  0.817  66\n"
    assert len(compare(block(fields=fields), printed)[1]) == differ


def test_rows_find_their_lines_by_words_in_any_order_and_figures_by_their_order():
    lines = PRINTED.splitlines()
    assert compare(block(), "\n".join(["7.0 0.881 1198 221", *reversed(lines)])) == (5, [])
    assert compare(block("all 1198 s and 0.881."), PRINTED)[1]  # the output has them the other way round


def test_lines_without_words_in_common_are_chosen_by_their_figures():
    text = "| | x | y |\n|---|---|---|\n| 5 | 4 | 2.01 |\n| 19 | 1 | 8.77 |\n"
    assert compare(block(text, fields="within: 30 %"), "19 1 8.1\n5 1 1.4\n5 4 2.1\n") == (6, [])


def test_a_line_serves_one_row_so_what_has_changed_does_not_hide_behind_one_that_is_alike():
    text = "| | s |\n|---|---|\n| 4 | 10.3 |\n| 4 | 10.4 |\n"
    assert compare(block(text, fields="within: 30 %"), "4 10.3\n4 10.4\n") == (4, [])
    assert compare(block(text, fields="within: 30 %"), "4 10.3\n4 16.4\n")[1] == [
        "said 10.4, found 16.4 (+57.7%): | 4 | 10.4 |"
    ]


def test_sentences_and_lines_of_code():
    printed = "inference: 2.37 s, peak memory 2.67 GiB\nvideo 7\ntraining step: 9.1 s, peak memory 5.82 GiB, 76.3%\n"
    text = "Inference takes 2.37 s and\n2.67 GiB. A training step has 5.82 GiB, 76.3 %."
    assert compare(block(text), printed) == (4, [])
    assert compare(block(f"```\n{printed}```"), printed) == (6, [])


@pytest.mark.parametrize(("found", "agreed"), [("7.5", 1), ("7.5 s", 1), ("7.5s", 1), ("7.5%", 0), ("7.5 ms", 0)])
def test_another_unit_is_another_figure(found, agreed):
    assert compare(block("A training step takes 7.5 s."), f"training step {found} each\n")[0] == agreed
    assert compare(block("A training step takes 7.5."), f"training step {found} each\n")[0] == ("%" not in found)


@pytest.mark.parametrize("text", ["96×160 and 3x3", "Swin-2 of 2.15.0", "bf16", "`--lr 5`", "[this](page-7.md)"])
def test_numbers_in_names_are_no_figures(text):
    assert compare(block(f"{text}: 4 or −5."), "4 -5\n") == (2, [])


def test_a_row_that_the_output_does_not_have_is_told():
    assert compare(block("Of 3, 4 and 5."), "1 2\n") == (
        0,
        ["the output has no line with 3 figures, as in: Of 3, 4 and 5."],
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"takes": "long"}, 'a.md:3: the comment needs a line such as "takes: 40 s"'),
        ({"command": "as above"}, "a.md:3: the comment needs"),
        ({"fields": "within: a bit"}, 'a.md:3: give "within" as in'),
        ({"fields": "whithin: 3"}, "a.md:3: 'whithin: 3' begins with none of takes, within and without"),
        ({"text": "Nothing."}, "a.md:3: no figures stand behind the comment"),
    ],
)
def test_comments_that_cannot_be_read(changes, message):
    with pytest.raises(ValueError, match=message):
        block(**changes)


def say(text: str) -> str:
    """A command that prints a text, and leaves a line in $OUT each time."""
    return f'echo ran >> "$OUT/log"; wc -l < "$OUT/log"; python -c "print({text!r})"'


@pytest.fixture
def measured(tmp_path, monkeypatch, capsys):
    """Runs the program on docs that consist of these marks; gives its exit code and what it prints."""

    def run(*marks: str, options: str = "") -> tuple[int, str]:
        (tmp_path / "README.md").write_text("\n\n".join(marks))
        monkeypatch.setattr(remeasure, "ROOT", tmp_path)
        monkeypatch.setattr(sys, "argv", ["remeasure.py", *shlex.split(options)])
        return remeasure.main(), capsys.readouterr().out

    return run


def mark(command: str, text: str, takes: str = "1 s") -> str:
    return DOC.format(command=command, takes=takes, fields="without: none", text=text)


def test_a_command_runs_once_and_its_exit_code_says_whether_all_agree(measured):
    doc = mark(say("score 0.5"), "The score is 0.5.")
    assert measured(doc)[0] == 0
    code, said = measured(doc, DOC.format(command="as above", takes="", fields="", text="It ran 1 time. Score 0.6."))
    assert code == 1
    assert "said 0.6, found 0.5 (-16.7%): Score" in said
    assert said.endswith("2 of 2 places run: 2 figures agree, 1 wrong or missing\n")


def test_a_command_that_fails_is_told_and_the_others_run(measured, tmp_path):
    code, said = measured(mark("python missing.py", "It is 3."), mark("echo 3", "It is 3."))
    assert code == 1 and "1 of 1" not in said
    assert "the command ended with 2: " in said and "missing.py" in said and "1 figure agrees" in said
    fails = 'mkdir "$OUT/new" || exit 3; exit 2'
    said = measured(mark(fails, "It is 3."), DOC.format(command="as above", takes="", fields="", text="It is 4."))[1]
    assert said.count("the command ended with 2: ") == 2  # it ran once
    code, said = measured(mark("echo 4", "It is 5."), options=f"--keep {tmp_path / 'kept'}")
    assert code == 1 and (tmp_path / "kept" / "README.md_3.txt").read_text() == "echo 4\n\n4\n"


def test_what_takes_long_or_an_idle_machine_runs_only_when_asked(measured):
    docs = (
        mark("echo 1", "One: 1."),
        mark("echo 2", "Two: 2.", takes="100 min"),
        mark("echo 3", "Three: 3.", takes="5 s on an idle machine"),
        "<!-- measured once: on a machine\nthat is gone -->\nFour: 4.",
    )
    code, said = measured(*docs)
    assert code == 0 and "1 of 4 places run: 1 figure agrees, 0 wrong or missing" in said
    assert "not run: takes 100 min (--minutes 100)" in said and "(--idle)" in said
    assert "measured once: on a machine that is gone" in said
    assert "3 of 4 places run: 3 figures agree" in measured(*docs, options="--idle --minutes 100")[1]
    code, said = measured(*docs, options="--list")
    assert code == 0 and "100 min" in said and "5 s on an idle machine" in said and "agree" not in said
    assert "1 of 1 place run" in measured(*docs, options="--only 'echo 1'")[1]
    with pytest.raises(ValueError, match="--only rain: no marked numbers"):
        measured(*docs, options="--only rain")


# The docs of this repository -------------------------------------------------------------------------------------


def commands() -> list[list[str]]:
    """The programs of the repository and their options in the marks of the docs."""
    found = {part.strip() for b in read_docs(ROOT) if b.command for part in b.command.split("&&")}
    return [shlex.split(part) for part in sorted(found)]


@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words)[:60])
def test_a_command_in_a_mark_has_a_program_that_knows_its_options(words):
    if words[0] == "python":
        words = words[1:]
    program = {"./scripts/demo.sh": "tools/small_job/run.py"}.get(words[0], words[0])
    assert (ROOT / program).is_file()
    # the parser refuses this option alone, so nothing runs
    done = started(program, *words[1:], "--qqqq")
    refused = ("unrecognized arguments: --qqqq", "has no option --qqqq")  # the latter of paper.py
    assert done.returncode == 2 and done.stderr.strip().endswith(refused), done.stderr


def test_no_comment_in_the_docs_is_a_mark_with_a_slip():
    texts = [path.read_text(encoding="utf-8") for pattern in remeasure.DOCS for path in ROOT.glob(pattern)]
    assert [text.count("<!--") for text in texts] == [len(list(blocks(text, ""))) for text in texts]


@pytest.mark.parametrize("name", ["results.md", "performance.md"])
def test_every_table_of_measured_numbers_has_a_mark(name):
    before = ""
    for line in (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("|") and not before.startswith("|"):
            assert before.endswith("-->"), f"no comment says how this table was measured: {line}"
        before = line
