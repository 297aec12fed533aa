"""What several test files share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data of ../shared is not on this machine")


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Writes a JSON file anew after ``change`` has altered its content in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
