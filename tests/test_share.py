"""How ranks share videos."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import engine
from util.run import dist


def shares(work: list[float], world_size: int, monkeypatch) -> list[list[int]]:
    monkeypatch.setattr(dist, "world_size", lambda: world_size)
    found = []
    for rank in range(world_size):
        monkeypatch.setattr(dist, "rank", lambda rank=rank: rank)
        found.append(engine.share(list(range(len(work))), work))
    return found


@given(st.lists(st.integers(1, 200), max_size=40), st.integers(1, 8))
def test_each_video_is_done_once_and_no_rank_has_much_more(work, world_size):
    with pytest.MonkeyPatch.context() as monkeypatch:
        found = shares(work, world_size, monkeypatch)
    assert sorted(sum(found, [])) == list(range(len(work))) and all(mine == sorted(mine) for mine in found)
    loads = [sum(work[i] for i in mine) for mine in found]
    assert max(loads) - min(loads) <= max(work, default=0)


def test_a_long_video_leaves_the_short_ones_to_the_others(monkeypatch):
    assert shares([1, 1, 9, 1, 1], 2, monkeypatch) == [[2], [0, 1, 3, 4]]
