"""What the demo asks for is understood, and what it cannot do is said before anything is written."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from opts import parse_train_args
from tests.helpers import ROOT
from tools import demo


@pytest.mark.parametrize("stage", [demo.IMAGES, demo.VIDEOS])
def test_the_options_are_those_of_main(stage):
    args = parse_train_args(shlex.split(demo.NETWORK + stage))
    assert args.backbone.startswith("tsm_") and args.bbox_loss_coef > 0


def run(*words: object) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "tools" / "demo.py", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    for place in (tmp_path, tmp_path / "thesis.txt"):
        done = run("--output_dir", place)
        assert done.returncode == 2 and "already holds something" in done.stderr and "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
