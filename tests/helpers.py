"""What several test files share."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # processes that a test starts may import this file without torch
    from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the reference data of ../shared is not on this machine")


class Painted:
    """In place of a predictor's segmentation: these masks, bool ``[E, T, H, W]``, each of score 1."""

    def __init__(self, masks: Tensor) -> None:
        self._masks, self.scores, self.there = masks, [1.0] * len(masks), [True] * len(masks)

    def masks(self, start: int, stop: int) -> Tensor:
        return self._masks[:, start:stop]

    def logits(self, expression: int, start: int, stop: int) -> Tensor:
        return self._masks[expression, start:stop].float() * 20 - 10


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file of the process grows beyond ``size`` bytes, as on a full disk; not even pytest's own log, after this."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Writes a JSON file anew after ``change`` has altered its content in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
