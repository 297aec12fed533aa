"""Numbers of things in messages are grammatical."""

from __future__ import annotations

import pytest

from util.run.counts import counted, in_seconds


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (1, ["videos"], "1 video"),
        (0, ["videos"], "0 videos"),
        (1234, ["videos"], "1,234 videos"),
        (1, ["processes", "process"], "1 process"),
        (2, ["processes", "process"], "2 processes"),
        (1, ["masks are of another size than their video"], "1 mask is of another size than its video"),
        (1, ["frames lie behind and have no mask"], "1 frame lies behind and has no mask"),
        (1, ["expressions mean no object and count alone"], "1 expression means no object and counts alone"),
        (2, ["frames lie behind and have no mask"], "2 frames lie behind and have no mask"),
    ],
)
def test_one_and_many(number, words, said):
    assert counted(number, *words) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(12.345, "12.35 s"), (0.1, "0.10 s"), (0.0996, "0.100 s"), (0.004, "0.004 s")]
)
def test_seconds(seconds, said):
    assert in_seconds(seconds) == said
