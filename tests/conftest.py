"""Fixtures of several test files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tools.data import check

Faults = list[tuple[str, str, str]]


@pytest.fixture
def checked(monkeypatch, capsys, tmp_path):
    """Runs the command: exit code, faults as (kind, path, what), the list of what to download, the printed text."""

    def command(dataset: str, root: Path, *flags: str) -> tuple[int, Faults, list[str], str]:
        out, again = tmp_path / "report.json", tmp_path / "again.txt"
        words = ["check.py", dataset, root, "--json", out, "--fix-list", again, "--workers", 1, *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        code = check.main()
        report = json.loads(out.read_text())
        assert report["ok"] == (code == 0) == (not report["faults"])
        faults = [(fault["kind"], fault["path"], fault["what"]) for fault in report["faults"]]
        return code, faults, again.read_text().splitlines(), capsys.readouterr().out

    return command
