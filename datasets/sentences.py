"""The common parts of A2D-Sentences and JHMDB-Sentences: lists in JSON, ground truth in COCO's form, their errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from util.files.reading import read_json, shown
from util.masks.coco import Truth, read_ground_truth
from util.run.gaps import Gaps


@dataclass(frozen=True)
class Sentences:
    """The names of one of the two sets in messages.

    Attributes:
        title: its chapter in docs/data.md.
        flag: the option that holds its folder.
        name: of the set, for the tool that makes its lists and ground truth.
    """

    title: str
    flag: str
    name: str

    @property
    def see(self) -> str:
        return f"see docs/data.md, {self.title}"

    def bad(self, path: Path, problem: str) -> ValueError:
        return ValueError(f"{path}: {problem}; {self.see}")

    def require(self, path: Path, what: str) -> None:
        """Raises FileNotFoundError for a missing part of the data set."""
        if not path.exists():
            raise FileNotFoundError(f"{path}: {what} does not exist; restore it, or mend {self.flag}; {self.see}")

    def require_made(self, root: Path, path: Path, what: str) -> None:
        """Raises FileNotFoundError for a file that the project makes itself."""
        if not path.is_file():
            raise FileNotFoundError(
                f"{path}: {what} does not exist; make it with "
                f"python tools/data/make_sentences_annotations.py {self.name} {root}; {self.see}"
            )

    def read_rows(self, path: Path, width: int, form: str) -> list[list]:
        """The rows of a JSON list, each of ``width`` values; ``form`` is how a message describes a row."""
        try:
            rows = read_json(path)
        except ValueError as error:
            raise self.bad(path, f"is not a JSON file ({error})") from error
        if not isinstance(rows, list) or not rows:
            raise self.bad(path, f"must be a list of {form}, at least one")
        for number, row in enumerate(rows, 1):
            if not isinstance(row, list) or len(row) != width:
                raise self.bad(path, f"row {number} must be {form}, not {shown(row)}")
        return rows

    def require_any(self, paths: Iterable[Path], what: str) -> None:
        """Raises FileNotFoundError where all of these parts of the data set are missing."""
        first = None
        for path in paths:
            if path.exists():
                return
            first = first or path
        if first:
            self.require(first, what)

    def read_truth(self, root: Path, path: Path, gaps: Gaps | None = None) -> dict[str, Truth]:
        """The ground truth, by image id, without samples that become gaps.

        Raises FileNotFoundError or ValueError, naming the file and the mend.
        """
        self.require_made(root, path, "the ground truth")
        try:
            return read_ground_truth(path, gaps)
        except ValueError as error:
            raise ValueError(f"{error}; delete it and make it anew; {self.see}") from error

    def require_new(self, path: Path, image_ids: Iterable[str]) -> None:
        """Raises ValueError where a list names a sample twice, because it can be scored only once."""
        seen = set()
        for image_id in image_ids:
            if image_id in seen:
                raise self.bad(path, f"lists {image_id} twice; delete one of the rows")
            seen.add(image_id)
