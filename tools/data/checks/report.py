"""What a check of a data set finds, and how it is told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its heading in the summary, and what to do about it."""

    heading: str
    mend: str


KINDS = {
    "missing": Kind(
        "missing files",
        "unpack them again from the data set's archives, or download what --fix-list FILE lists",
    ),
    "damaged": Kind(
        "files that cannot be read",
        "download what --fix-list FILE lists again; a transfer or a disk has damaged it",
    ),
    "size": Kind(
        "sizes that disagree",
        "the two are of different editions of the data set: download what --fix-list FILE lists again",
    ),
    "list": Kind(
        "entries of the lists that are not as documented",
        "download the list again or write it anew with its converter; correct what you wrote yourself",
    ),
    "no_objects": Kind(
        "expressions without objects",
        "download the list and the masks again, of the same edition; of your own expressions, correct the numbers",
    ),
    "no_pixels": Kind(
        "objects without pixels in any frame",
        "the expressions and the masks are of different editions: download both again, or correct the numbers",
    ),
    "unknown": Kind(
        "files that no list names",
        "remove them, or see whether an archive was unpacked in the wrong place",
    ),
}


@dataclass(frozen=True)
class Fault:
    """Something wrong.

    Attributes:
        kind: one of ``KINDS``.
        path: relative to the data set; ends in ``/`` for a folder.
        what: what is wrong with it, where the kind does not say all.
        again: what to download again, as ``path``.
    """

    kind: str
    path: str
    what: str = ""
    again: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.what else self.path


@dataclass
class Report:
    """All that was found.

    Attributes:
        counts: of each split what there is how often: ``{"train": {"videos": 3471, …}, …}``.
        published: what the data set's authors count, in the same form.
        notes: what is worth knowing and not wrong.
        faults: what is wrong.
    """

    published: Mapping[str, Mapping[str, int]]
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)

    def content(self) -> dict:
        """All of it as plain data."""
        return {
            "ok": not self.faults,
            "counts": self.counts,
            "published": {split: dict(counts) for split, counts in self.published.items()},
            "notes": self.notes,
            "faults": [{"kind": fault.kind, "path": fault.path, "what": fault.what} for fault in self.faults],
        }

    def fix_list(self) -> list[str]:
        """What to download again, sorted."""
        return sorted({path for fault in self.faults for path in fault.again})

    def summary(self, examples: int) -> str:
        """All of it to read: what there is, then each kind of fault with its first examples and what to do."""
        lines = [_counted(split, counts, self.published.get(split, {})) for split, counts in self.counts.items()]
        lines += [f"note: {note}" for note in self.notes]
        by_kind = defaultdict(list)
        for fault in self.faults:
            by_kind[fault.kind].append(fault)
        for name, kind in KINDS.items():
            faults = by_kind[name]
            if not faults:
                continue
            lines += ["", f"{kind.heading}: {len(faults):,}"]
            lines += [f"    {fault}" for fault in faults[:examples]]
            if len(faults) > examples:
                lines.append(f"    and {len(faults) - examples:,} more")
            lines.append(f"  mend: {kind.mend}")
        return "\n".join(lines)


def _counted(split: str, counts: Mapping[str, int], published: Mapping[str, int]) -> str:
    def of_all(name: str, count: int) -> str:
        known = published.get(name)
        return f"{name} {count:,}" + (f" of {known:,} published" if known is not None else "")

    part = ", a part of the published set" if counts.get("videos", 0) < published.get("videos", 0) else ""
    return f"{split}: " + ", ".join(of_all(name, count) for name, count in counts.items()) + part
