"""What all commands have in common: a version, and a hint for a wrong option."""

from __future__ import annotations

import re
import subprocess

import pytest

import inference_video
from opts import train_parser
from tests.helpers import ROOT
from tests.tiny_model import checkpoint_of
from util.run.parser import CommandParser
from util.run.version import VERSION
from util.weights import checkpoint


def test_the_version_is_shown_and_kept(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train_parser().parse_args(["--version"])
    assert stop.value.code == 0 and capsys.readouterr().out == f"ProxyFormer {VERSION}\n"
    checkpoint.save(tmp_path / "c.pth", checkpoint_of(version="0.0.1"))  # of a run that goes on
    assert checkpoint.load(tmp_path / "c.pth")["version"] == VERSION
    newest = re.search(r"^## (\S+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert newest[1] == VERSION


def test_every_command_has_it():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    texts = {name: (ROOT / name).read_text() for name in listed if not name.startswith("tests/")}
    # parsers without a name are parts of others
    assert not [name for name, text in texts.items() if re.search(r'argparse\.ArgumentParser\(\s*["\w]+[,)]', text)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--epoch", "3"], "unrecognized arguments: --epoch 3; --epoch: did you mean --epochs?"),
        (["--batchsize=2", "--zzz"], "--batchsize=2 --zzz; --batchsize: did you mean --batch_size?"),
        (["--zzz"], "unrecognized arguments: --zzz\n"),
    ],
)
def test_a_wrong_option_names_the_right_one(words, told, capsys):
    with pytest.raises(SystemExit) as stop:
        train_parser().parse_args(words)
    assert stop.value.code == 2 and told in capsys.readouterr().err


def test_options_are_not_abbreviated(capsys):
    with pytest.raises(SystemExit):
        inference_video.parse_args(["v.mp4", "--text", "a", "--resume", "c.pth", "--output", "x"])
    assert "--output: did you mean --output_dir?" in capsys.readouterr().err


def test_an_example_stands_below_the_options(capsys):
    CommandParser("x.py", "Does x.", example="python x.py a").print_help()
    assert capsys.readouterr().out.rstrip().endswith("example: python x.py a")
