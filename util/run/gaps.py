"""Gaps: items that a long piece of work leaves out, so that one damaged item of thousands does not end it.

Each item is named once on stderr, as soon as it is found, and all other items are done. At the end the command prints
the number of gaps and exits with :data:`util.run.cli.INCOMPLETE`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from tqdm import tqdm

from util.run.cli import INCOMPLETE, one_line
from util.run.counts import counted

# util.run.dist is imported within functions, because it imports torch, which scoring processes do not need

TOLD = 100  # items that are named on stderr; nobody reads more


class Gaps:
    """The items that were left out.

    Args:
        strict: the first item is an error.
        known: gaps of an earlier piece of work on the same items. An item of these is not named again.
        silent: name no item.

    Attributes:
        items: name and reason of each item; after :meth:`share` rank 0 has the items of all ranks.
    """

    def __init__(self, strict: bool = False, known: Gaps | None = None, silent: bool = False) -> None:
        self.strict, self.silent, self._before = strict, silent, known
        self.items: list[tuple[str, str]] = []
        self._known: set[tuple[str, str]] = set()
        self._elsewhere: set[tuple[str, str]] = set()  # items that rank 0 names
        self._told = 0

    def add(self, item: str, why: Exception | str, *, on_all_ranks: bool = False) -> None:
        """Notes and names an item.

        Args:
            item: name of the item, such as "video aa" or "video aa, expression 0".
            why: the reason, which names the file.
            on_all_ranks: all ranks find the item, so only rank 0 names it.

        Raises:
            ``why``, with ``strict``.
        """
        from util.run import dist

        if self.strict:
            error = why if isinstance(why, Exception) else ValueError(in_words(item, why))
            if dist.world_size() > 1 and not on_all_ranks:  # other ranks may work for hours before all end together
                _tell(f"error: {in_words(item, str(why))}")
            raise error
        gap = (item, str(why))
        if gap in self._known:
            return
        self._known.add(gap)
        self.items.append(gap)
        if on_all_ranks and not dist.is_main():
            self._elsewhere.add(gap)
        elif not self.silent and not (self._before and self._before.has(item)):
            self._tell(*gap)

    def _tell(self, item: str, why: str) -> None:
        self._told += 1
        if self._told <= TOLD:
            _tell(f"warning: {in_words(item, why)}")
        elif self._told == TOLD + 1:
            _tell("warning: more items are left out, which are not named here")

    def has(self, item: str) -> bool:
        """Whether an item was left out, by itself or together with the whole that it belongs to."""
        return any(item == name or item.startswith(f"{name},") for name, _ in self.items)

    def take(self, others: Gaps) -> None:
        """Takes over the items of another piece of work, except for those that :meth:`has` knows."""
        for item, why in others.items:
            if not self.has(item):
                self._known.add((item, why))
                self.items.append((item, why))

    def share(self) -> None:
        """Gives rank 0 the items of all ranks. All ranks must call it."""
        from util.run import dist

        self.items = dist.gather_list([gap for gap in self.items if gap not in self._elsewhere])

    def counted(self) -> str:
        """The number of items as the beginning of a sentence: "3 problems are"."""
        return counted(len(self.items), "problems are", "problem is")

    def code(self) -> int:
        """The exit code of the command, the same on all ranks. All ranks must call it."""
        from util.run import dist

        return dist.from_main(INCOMPLETE if self.items else 0)


def _tell(line: str) -> None:
    """Prints to stderr, on a line of its own beside a progress bar."""
    tqdm.write(one_line(line), file=sys.stderr)
    sys.stderr.flush()


@dataclass
class Shortfall:
    """Counts of what is missing from scores.

    Attributes:
        predictions: predicted masks that are missing, damaged or of another size; they score 0.
        truth: frames or samples without usable ground truth; they are left out.
        whole: expressions or videos that are left out.
        problems: name and reason of each of these items, or of several items with the same reason.
    """

    predictions: int = 0
    truth: int = 0
    whole: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)

    def note(self, item: str, why: object) -> None:
        self.problems.append((item, str(why)))

    def __iadd__(self, other: Shortfall) -> Self:
        self.predictions += other.predictions
        self.truth += other.truth
        self.whole += other.whole
        self.problems += other.problems
        return self

    def __bool__(self) -> bool:
        return bool(self.predictions or self.truth or self.whole or self.problems)

    def described(self, unit: str, whole: str | None = None) -> dict:
        """The value of ``incomplete`` in scores, where anything is missing.

        Args:
            unit: plural of what ``truth`` counts, such as "frames".
            whole: plural of what ``whole`` counts, such as "expressions".
        """
        counts = {"predictions": self.predictions, f"truth_{unit}": self.truth}
        counts |= {whole: self.whole} if whole else {}
        return {"incomplete": counts | {"problems": [in_words(*problem) for problem in self.problems]}} if self else {}


def beside(scores: Mapping) -> str:
    """The note beside the headline of incomplete scores; empty for complete ones."""
    counts = {key: value for key, value in scores.get("incomplete", {}).items() if key != "problems"}
    if not counts:
        return ""
    said = [f"{counted(counts.pop('predictions'), 'predictions')} missing or damaged and scored as 0"]
    for key, count in counts.items():
        what = key.removeprefix("truth_")
        said.append(f"{counted(count, what)} {'without usable ground truth ' if what != key else ''}left out")
    return f"   INCOMPLETE: {', '.join(said)}"


def in_words(item: str, why: str) -> str:
    """An item and why it was left out, as one line."""
    return why if why.startswith(item) else f"{item}: {why}"


def named(items: Sequence[str], most: int = 5) -> str:
    """The first items of a list, and how many more there are."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")
