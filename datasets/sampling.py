"""Which frames and which expressions make a sample: pure functions on numbers and a random generator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def stream(*numbers: int) -> np.random.Generator:
    """An independent random generator for each tuple of non-negative numbers, equal on every machine and worker."""
    # With the count, because numpy takes (3,) and (3, 0) for the same seed.
    return np.random.default_rng((len(numbers), *numbers))


def window_starts(num_frames: int, length: int) -> range:
    """Starts of the windows of a video of ``length`` frames: every ``num_frames``-th, ceil(length / num_frames)."""
    return range(0, length, num_frames)


def draw_window(start: int, num_frames: int, length: int, rng: np.random.Generator) -> list[int]:
    """``num_frames`` consecutive frame positions from about ``start``.

    The start is moved by up to half a window either way and kept within the video, so that over the epochs a clip
    may begin anywhere. A video shorter than the window repeats its last frame.
    """
    reach = num_frames // 2
    jittered = start + int(rng.integers(-reach, reach + 1))
    first = min(max(jittered, 0), max(length - num_frames, 0))
    return [min(first + t, length - 1) for t in range(num_frames)]


def moved_onto(positions: list[int], wanted: Sequence[int], length: int) -> list[int]:
    """The positions, moved together by the smallest step that brings one of them onto a ``wanted`` one."""
    if not wanted or not set(positions).isdisjoint(wanted):
        return positions
    move = min((w - p for w in wanted for p in positions), key=lambda by: (abs(by), by))
    return [min(max(p + move, 0), length - 1) for p in positions]


def centred_window(centre: int, num_frames: int, length: int) -> list[int]:
    """``num_frames`` positions around ``centre``, which is at index ``num_frames // 2``; the ends are repeated."""
    first = centre - num_frames // 2
    return [min(max(first + t, 0), length - 1) for t in range(num_frames)]


def place_in_window(centre: int, num_frames: int) -> int:
    """Index of the frame in :func:`centred_window`; of several places of the first frame the first one, as ReferFormer
    takes it (``sample_indx.index(frame_id)`` in datasets/a2d.py and jhmdb.py of github.com/wjn922/ReferFormer)."""
    return num_frames // 2 if centre else 0


def group_count(items: int, most: int) -> int:
    """Number of groups of at most ``most`` that hold ``items`` items."""
    return -(-items // most)


def draw_group(items: int, most: int, group: int, rng: np.random.Generator) -> list[int]:
    """The ``group``-th of the ``group_count(items, most)`` groups, as even as possible, of the shuffled items.

    With equally seeded generators the groups of all numbers hold each item exactly once.
    """
    return np.array_split(rng.permutation(items), group_count(items, most))[group].tolist()
