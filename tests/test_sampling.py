"""Windows, groups and batches."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.samplers import ShapeBatchSampler
from datasets.sampling import draw_group, draw_window, group_count, stream, window_starts

quick = settings(max_examples=100, deadline=None)


@quick
@given(length=st.integers(1, 60), frames=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_windows_are_consecutive_and_inside(length, frames, seed):
    starts = window_starts(frames, length)
    assert len(starts) == -(-length // frames)
    for start in starts:
        window = draw_window(start, frames, length, stream(seed, start))
        assert len(window) == frames and window[0] >= 0 and window[-1] < length
        assert window == [min(window[0] + t, length - 1) for t in range(frames)]
        assert length >= frames or window[0] == 0
        assert length < frames or len(set(window)) == frames


def test_windows_begin_anywhere_over_the_epochs():
    begins = {draw_window(start, 5, 23, stream(epoch))[0] for epoch in range(40) for start in window_starts(5, 23)}
    assert begins == set(range(23 - 5 + 1))


@quick
@given(items=st.integers(1, 30), most=st.integers(1, 10), seed=st.integers(0, 2**32))
def test_groups_partition_the_expressions(items, most, seed):
    groups = [draw_group(items, most, group, stream(seed)) for group in range(group_count(items, most))]
    assert sorted(index for group in groups for index in group) == list(range(items))
    lengths = [len(group) for group in groups]
    assert max(lengths) <= most and max(lengths) - min(lengths) <= 1


def test_streams_are_reproducible_and_apart():
    draws = {key: stream(*key).random() for key in [(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)]}
    assert len(set(draws.values())) == len(draws)
    assert all(stream(*key).random() == value for key, value in draws.items())


SIZES = st.lists(st.sampled_from([(720, 1280), (480, 854), (1280, 720), (64, 64)]), min_size=1, max_size=40)


@quick
@given(sizes=SIZES, batch=st.integers(1, 5), world=st.integers(1, 4), epoch=st.integers(0, 3))
def test_ranks_share_the_epoch_evenly(sizes, batch, world, epoch):
    samplers = [ShapeBatchSampler(sizes, batch, 5, rank, world) for rank in range(world)]
    per_rank = []
    for sampler in samplers:
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == len(samplers[0])
        assert all(len(requests) == batch for requests in batches)
        assert all(request.step == step and request.epoch == epoch for step, b in enumerate(batches) for request in b)
        assert batches == list(sampler)
        per_rank.append(batches)
    seen = Counter(request.index for batches in per_rank for requests in batches for request in requests)
    assert set(seen) == set(range(len(sizes)))
    # Repetitions only fill the last batch and the last step.
    assert sum(seen.values()) - len(sizes) < batch * world


@quick
@given(
    shapes=SIZES,
    share=st.sampled_from([0.5, 1.0, 1.5]),
    # clips that are grouped, and number of ranks, clips of a rank, and micro-batches: a step takes 12 clips
    grouped=st.sampled_from([1, 2, 3, 4]),
    ways=st.sampled_from([(4, 1, 3), (2, 6, 1), (3, 1, 4), (1, 4, 3), (3, 2, 2), (6, 2, 1)]),
    first=st.integers(0, 2),
)
def test_a_step_has_the_same_clips_of_the_same_size_whoever_shares_it(shapes, share, grouped, ways, first):
    """Also where an epoch takes more or less of a part of the clips, as in joint training, and from its middle on."""
    sizes = shapes * 2  # no epoch is empty
    shares = [share] * len(shapes) + [1.0] * len(shapes)

    def steps(world: int, batch: int, accumulate: int) -> Counter:
        samplers = [ShapeBatchSampler(sizes, batch, 5, r, world, shares, accumulate, grouped) for r in range(world)]
        assert len({len(sampler) // accumulate for sampler in samplers}) == 1
        for sampler in samplers:
            sampler.set_epoch(3, first)
        assert all(len(requests) == batch for sampler in samplers for requests in sampler)
        return Counter(request for sampler in samplers for requests in sampler for request in requests)

    whole = ShapeBatchSampler(sizes, grouped, 5, 0, 1, shares, 12 // grouped)  # a run that was never interrupted
    whole.set_epoch(3)
    wanted = Counter(request for requests in whole for request in requests if request.step >= first)
    assert steps(*ways) == wanted


def test_batches_hold_one_shape():
    sizes = [(720, 1280), (1280, 720)] * 16 + [(480, 854)] * 8
    portrait = [height > width for height, width in sizes]
    for requests in ShapeBatchSampler(sizes, 4, 0):
        assert len({portrait[request.index] for request in requests}) == 1


def test_epochs_and_seeds_differ():
    def order(seed: int, epoch: int) -> list[int]:
        sampler = ShapeBatchSampler([(64, 96)] * 30, 3, seed)
        sampler.set_epoch(epoch)
        return [request.index for requests in sampler for request in requests]

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


@quick
@given(
    shares=st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.5]), min_size=1, max_size=60).filter(lambda s: sum(s) >= 4),
    batch=st.integers(1, 4),
)
def test_shares_say_how_often_an_entry_occurs(shares, batch):
    sizes = [(720, 1280) if i % 3 else (64, 64) for i in range(len(shares))]
    sampler = ShapeBatchSampler(sizes, batch, 0, shares=shares)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        seen = Counter(request.index for requests in batches for request in requests)
        for portrait in (False, True):
            for share in set(shares):
                members = [i for i, s in enumerate(shares) if s == share and (i % 3 == 0) == portrait]
                times = [seen[i] for i in members]
                # filling the last batch may add to any of them
                assert round(share * len(members)) <= sum(times) <= round(share * len(members)) + batch
                assert all(math.floor(share) <= t <= math.ceil(share) + batch for t in times)


def test_entries_with_a_small_share_take_turns():
    sampler = ShapeBatchSampler([(64, 64)] * 40, 4, 0, shares=[0.25] * 40)
    seen = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen |= {request.index for requests in sampler for request in requests}
    assert len(sampler) == 3 and seen == set(range(40))
