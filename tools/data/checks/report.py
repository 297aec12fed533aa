"""The findings of a check of a data set, and the report about them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from datasets.loader import single_threaded
from util.run.counts import counted
from util.run.parallel import run_jobs
from util.samples.text import in_form
from util.video.pictures import PICTURE_SUFFIXES, group_files, orientation, read_frame

# Every text of so many bytes fits RoBERTa-base: a byte-level BPE makes at most one token of each byte, and of the
# encoder's 512 positions two are for the start and the end. The 512 are max_position_embeddings (514) in
# https://huggingface.co/FacebookAI/roberta-base/blob/main/config.json, without the positions up to pad_token_id.
FITTING_BYTES = 512 - 2

Size = tuple[int, int]
TURNED = (
    "pictures have an EXIF orientation other than 1 and are read upright, as viewers show them; masks must have been "
    "drawn so"
)
T = TypeVar("T")


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
    "long_text": Kind(
        "texts that may be too long for the text encoder",
        "shorten them in the list, or split what they say; else training and inference read only their beginning, or "
        "end at the start with --long_text refuse",
    ),
    "no_objects": Kind(
        "expressions without objects",
        "download the list and the masks again, of the same edition; of your own expressions, correct the numbers",
    ),
    "no_pixels": Kind(
        "objects without pixels in any frame",
        "the expressions and the masks are of different editions: download both again, or correct the numbers",
    ),
    "twice": Kind(
        "frames with two files",
        "leave the one that belongs to the data set, and take the other out of the folder",
    ),
    "both": Kind(
        "videos that are in both splits",
        "leave each in one of them, by tools/data/convert_own.py or by hand; else the scores say nothing",
    ),
    "unknown": Kind(
        "files that no list names",
        "remove them, or see whether an archive was unpacked in the wrong place",
    ),
}


@dataclass(frozen=True)
class Fault:
    """A fault of a file or folder.

    Attributes:
        kind: one of ``KINDS``.
        path: within the data set; the path of a folder ends in ``/``.
        what: description of the fault; empty if the kind is enough.
        again: paths to download again, in the form of ``path``.
    """

    kind: str
    path: str
    what: str = ""
    again: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.path}: {self.what}" if self.what else self.path


@dataclass
class Faults:
    """A list of faults, and checks that add to it."""

    faults: list[Fault] = field(default_factory=list)

    def add(self, kind: str, path: str, what: str = "", again: Iterable[str] | None = None) -> None:
        self.faults.append(Fault(kind, path, what, (path,) if again is None else tuple(again)))

    def check_text(self, path: str, where: str, text: str) -> None:
        """Adds a fault of the list at ``path`` if a text may be too long for RoBERTa-base."""
        count = len(in_form(text).encode())
        if count > FITTING_BYTES:
            limit = f"more than {FITTING_BYTES}, so it may be shortened when it is read"
            self.add("long_text", path, f"{where}: the text has {count} bytes, {limit}", again=())

    def check_folder(self, root: Path, folder: str, known: Callable[[Path], bool]) -> None:
        """Adds a fault for everything in a folder of ``root`` that is not ``known``, except for hidden files."""
        for path in sorted((root / folder).iterdir()) if (root / folder).is_dir() else ():
            if not known(path) and not path.name.startswith("."):
                self.add("unknown", path.relative_to(root).as_posix() + "/" * path.is_dir(), again=())


@dataclass
class Found(Faults):
    """The findings about a video, or another part of a data set that is checked by itself.

    Attributes:
        notes: observations that are worth knowing but no faults, and how often they were made.
        examples: an example of some of the notes.
    """

    notes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def note(self, text: str, example: str) -> None:
        self.notes[text] += 1
        self.examples.setdefault(text, example)

    def read_all(
        self,
        root: Path,
        folder: str,
        names: Sequence[str],
        read: Callable[[Path], T],
        suffixes: Sequence[str],
        usual: str,
        needed: Callable[[str], bool] = lambda _: True,
    ) -> dict[str, tuple[str, T]]:
        """Reads the files of frames in a folder, which may be of different picture formats.

        Args:
            root: of the data set; folder: within it.
            names: of the frames.
            read: function that reads one file.
            suffixes: possible suffixes of a frame's file.
            usual: the suffix to name for a missing file.
            needed: whether a missing file of this frame is a fault.

        Returns:
            For each frame whose file can be read, the file's path within the data set and the result of ``read``.
        """
        if not (root / folder).is_dir():
            self.add("missing", f"{folder}/", f"the folder of {len(names)} files")
            return {}
        grouped = group_files(root / folder, names, suffixes)
        content = {}
        for name in names:
            files = grouped.get(name, [])
            if not files and needed(name):
                self.add("missing", f"{folder}/{name}{usual}")
            if len(files) > 1:
                self.add("twice", f"{folder}/{files[0]}", f"beside it lies {' and '.join(files[1:])}", ())
            for file in files[:1]:
                path = root / folder / file
                try:
                    content[name] = f"{folder}/{file}", read(path)
                except (ValueError, OSError) as error:
                    self.add("damaged", f"{folder}/{file}", said(error, path))
        listed = {file for files in grouped.values() for file in files}
        self.check_folder(root, folder, lambda path: path.name in listed)
        return content

    def read_frames(self, root: Path, folder: str, names: Sequence[str], usual: str = ".jpg") -> Size | None:
        """Reads the frames of a video; returns the most common height and width, None without frames."""
        read = self.read_all(root, folder, names, frame_size, PICTURE_SUFFIXES, usual)
        size = Counter(size for _, size in read.values()).most_common(1)[0][0] if read else None
        for path, of_frame in read.values():
            self.note_turned(root, path)
            if of_frame != size:
                self.add("size", path, f"is {pixels(of_frame)}, other frames of the video are {pixels(size)}")
        return size

    def note_turned(self, root: Path, path: str) -> None:
        """Notes a picture that its EXIF orientation turns: its masks may not be turned, and sizes may not show it."""
        value = orientation(root / path)
        if value != 1:
            self.note(TURNED, f"{path} ({value})")


@dataclass(kw_only=True)
class Report(Faults):
    """All findings of a check.

    Attributes:
        counts: numbers of videos, objects … in each split: ``{"train": {"videos": 3471, …}, …}``.
        published: the numbers of the data set's authors, in the same form.
        notes: observations that are worth knowing but no faults.
    """

    published: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def read(self, root: Path, loader: Callable[[], T]) -> T | None:
        """The result of a loader of lists; None, and a fault, if a list is missing or not as documented."""
        try:
            return loader()
        except (FileNotFoundError, ValueError) as error:
            # a loader may read several files; its message begins with the wrong one
            path = Path(str(error).partition(": ")[0])
            kind = "missing" if isinstance(error, FileNotFoundError) else "list"
            if path.is_relative_to(root):
                self.add(kind, path.relative_to(root).as_posix(), said(error, path))
            else:
                self.add(kind, "./", said(error, root), again=())
            return None

    def check_all(self, check: Callable[..., Found], jobs: Mapping[tuple, tuple], workers: int, unit: str) -> None:
        """Adds the findings of ``check(*arguments)`` for each job, in parallel. A job's key begins with its split."""
        options = dict(total=len(jobs), desc="check", unit=unit, prepare=single_threaded, prepare_with=(0,))
        found = run_jobs(check, jobs.items(), workers, **options)
        notes: Counter[tuple[str, str]] = Counter()
        examples: dict[tuple[str, str], str] = {}
        for (split, *_), of_job in found.items():
            self.faults += of_job.faults
            notes.update({(split, text): n for text, n in of_job.notes.items()})
            examples = {(split, text): example for text, example in of_job.examples.items()} | examples
        for (split, text), n in notes.items():
            example = f"; for example {examples[split, text]}" if (split, text) in examples else ""
            self.notes += [f"{split}: {counted(n, text)}{example}"] * bool(n)

    def content(self) -> dict:
        """The report as plain data."""
        return {
            "ok": not self.faults,
            "counts": self.counts,
            "published": {split: dict(counts) for split, counts in self.published.items()},
            "notes": self.notes,
            "faults": [{"kind": fault.kind, "path": fault.path, "what": fault.what} for fault in self.faults],
        }

    def fix_list(self) -> list[str]:
        """The paths to download again, sorted."""
        return sorted({path for fault in self.faults for path in fault.again})

    def summary(self, examples: int) -> str:
        """The report as text: the counts, then each kind of fault with its first examples and the mend."""
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

    first = next(iter(published), None)
    part = ", a part of the published set" if first and counts.get(first, 0) < published[first] else ""
    return f"{split}: " + ", ".join(of_all(name, count) for name, count in counts.items()) + part


def said(error: Exception, path: Path) -> str:
    """A loader's message without the path and the mend."""
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def pixels(size: Size) -> str:
    """A size as text: width x height."""
    return f"{size[1]}x{size[0]}"


def frame_size(path: Path) -> Size:
    """Height and width of a frame. The whole frame is decoded, so that damage is found."""
    height, width = read_frame(path).shape[1:]
    return height, width
