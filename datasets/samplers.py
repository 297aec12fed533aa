"""Which samples make a batch, on which rank: shuffled, grouped by frame shape, a function of (seed, epoch)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.sampling import stream


@dataclass(frozen=True)
class ClipRequest:
    """Names one sample. Together with the seed of the run it determines every random choice for the sample.

    Attributes:
        index: entry of the dataset.
        epoch: counts from 0.
        step: of the epoch; samples of one step share their size and crop shape, so that padding stays small.
    """

    index: int
    epoch: int = 0
    step: int = 0


class ShapeBatchSampler:
    """Yields lists of ``batch_size`` :class:`ClipRequest` whose frames have about the same aspect ratio.

    Every rank gets the same number of batches, and where all ``shares`` are 1 every sample occurs at least once an
    epoch over all ranks: the last incomplete batch is filled up, and the batches are made a multiple of
    ``world_size`` (times ``accumulate``), by repeating samples.

    A step takes ``batch_size * world_size * accumulate`` clips. As long as this product and ``grouped`` stay the same,
    a step has the same clips whatever the factors are, so that a run may go on with others within an epoch.

    Args:
        sizes: height and width of each entry's frames.
        batch_size: clips per rank.
        seed: of the run.
        rank, world_size: place among the processes of a distributed run.
        accumulate: batches that make a step; their number is a multiple of it.
        grouped: clips that are put together by their shape, and then divided into batches; a step takes a multiple of
            it. None: a batch.
        shares: how often each entry occurs in an epoch, on average; None: once. Of entries with 0.3, every epoch draws
            three tenths; entries with 2.3 occur twice, and three tenths of them a third time.
    """

    def __init__(
        self,
        sizes: list[tuple[int, int]],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shares: Sequence[float] | None = None,
        accumulate: int = 1,
        grouped: int | None = None,
    ) -> None:
        self.log_aspects = np.log2([width / height for height, width in sizes])
        # Steps of a quarter of an octave put 16:9 together with 854x480, and separate 4:3, square and portrait.
        self.groups = np.round(self.log_aspects * 4).astype(int)
        self.batch_size = batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.shares = np.ones(len(sizes)) if shares is None else np.asarray(shares, dtype=float)
        self.accumulate = accumulate
        self.grouped = grouped or batch_size
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Selects the order of ``epoch`` (from 0), from its ``step`` on, for the next iteration."""
        self.epoch, self.first = epoch, step * self.accumulate

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """The entries of an epoch, each as often as it occurs. Every epoch has the same number of each shape."""
        if (self.shares == 1).all():
            return np.arange(len(self.shares))
        drawn = []
        for group, share in sorted(set(zip(self.groups.tolist(), self.shares.tolist(), strict=True))):
            members = np.flatnonzero((self.groups == group) & (self.shares == share))
            drawn.append(np.resize(rng.permutation(members), round(share * len(members))))
        return np.concatenate(drawn)

    def _batches(self, rng: np.random.Generator) -> list[np.ndarray]:
        order = rng.permutation(self._draw(rng))
        batches, rest = [], []
        for group in np.unique(self.groups[order]):
            members = order[self.groups[order] == group]
            whole = len(members) - len(members) % self.grouped
            batches += np.split(members[:whole], whole // self.grouped) if whole else []
            rest += members[whole:].tolist()
        rest.sort(key=lambda index: self.log_aspects[index])
        for start in range(0, len(rest), self.grouped):
            batch = rest[start : start + self.grouped]
            batches.append(np.concatenate([batch, np.resize(order, self.grouped - len(batch))]).astype(int))
        batches = [batches[i] for i in rng.permutation(len(batches))]
        clips = len(self) * self.world_size * self.batch_size
        repeated = np.concatenate([batches[i % len(batches)] for i in range(clips // self.grouped)])
        return list(repeated.reshape(-1, self.batch_size))

    def __len__(self) -> int:
        """Batches per epoch, the same in every epoch and on every rank."""
        # the epochs differ in their entries, but not in the number of entries
        drawn = self.groups[self._draw(stream(self.seed))]
        counts = np.unique(drawn, return_counts=True)[1]
        batches = int((counts // self.grouped).sum()) + math.ceil((counts % self.grouped).sum() / self.grouped)
        of_step = self.batch_size * self.world_size * self.accumulate // self.grouped
        return math.ceil(batches / of_step) * self.accumulate

    def __iter__(self) -> Iterator[list[ClipRequest]]:
        batches = self._batches(stream(self.seed, self.epoch))
        mine = batches[self.rank :: self.world_size]
        for number, batch in enumerate(mine[self.first :], start=self.first):
            yield [ClipRequest(int(index), self.epoch, number // self.accumulate) for index in batch]
