"""The help of every command: one page, with examples that its own parser takes."""

from __future__ import annotations

import math
import runpy
import shlex
import subprocess

import pytest

from opts import parse_train_args
from tests.helpers import ROOT
from util.run.parser import CommandParser

LINES, COLUMNS = 30, 100  # of a terminal
DEMO = "tools/small_job/run.py"
# shell scripts that hand all their arguments to a command
STARTS = {"./scripts/app.sh": "app.py", "./scripts/demo.sh": DEMO}


def _commands() -> list[str]:
    """The files that make a parser when they are run; scripts/check_options.py reads the options of main.py."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    makers = (
        "CommandParser(",
        "parse_train_args()",
        "inference_parser(",
        "scoring_parser(",
        "picture_args(",
        "demo_args()",
    )
    texts = {name: (ROOT / name).read_text() for name in listed if not name.startswith(("tests/", "scripts/"))}
    return [
        name for name, text in texts.items() if any(maker in text for maker in makers) and "\nif __name__ ==" in text
    ]


COMMANDS = [(name,) for name in _commands()]
COMMANDS += [("tools/paper.py", name) for name in ("list", "show", "run", "tables", "cost", "small")]


def _run(words: list[str], monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", words)
    runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def _help(command: tuple[str, ...], monkeypatch, capsys) -> str:
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    with pytest.raises(SystemExit) as stop:
        _run([*command, "--help"], monkeypatch)
    assert not stop.value.code
    return capsys.readouterr().out


def _examples(page: str) -> list[str]:
    shown = page.partition("\nexample")[2].partition(":\n")[2].partition("\n\n")[0]
    return shown.replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_help_is_one_page_with_an_example(command, monkeypatch, capsys):
    page = _help(command, monkeypatch, capsys)
    assert sum(max(1, math.ceil(len(line) / COLUMNS)) for line in page.splitlines()) <= LINES, page
    files = [STARTS.get(shlex.split(line)[0], shlex.split(line)[1]) for line in _examples(page)]
    assert command[0] in files, page


class _Parsed(Exception):  # noqa: N818 (no error)
    """Carries the parser that has read a command line, and the words that it did not know."""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_examples_are_taken(command, monkeypatch, capsys):
    examples = _examples(_help(command, monkeypatch, capsys))
    parse = CommandParser.parse_known_args

    def parse_and_end(parser, *words):
        raise _Parsed(parser, parse(parser, *words)[1])

    monkeypatch.setattr(CommandParser, "parse_known_args", parse_and_end)
    for example in examples:
        program, *words = shlex.split(example)
        words = [STARTS[program], *words] if program in STARTS else words
        with pytest.raises(_Parsed) as ended:
            _run(words, monkeypatch)
        parser, unknown = ended.value.args
        if unknown:
            assert "those of main.py" in parser.note, f"{example}: {unknown}"
            with monkeypatch.context() as undone:
                undone.setattr(CommandParser, "parse_known_args", parse)
                parse_train_args(unknown)
