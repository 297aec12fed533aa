"""The scores that runs of rows have left in their folders."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.paper_tables.rows import Row, Value, every_row, find, tables
from tools.paper_tables.run import read_record
from tools.paper_tables.steps import OF_MACHINE, TRAINED_ON, benchmarks, preset, score_file, without

# options that do not make another experiment
FREE = {"seed", "pretrained_weights", "backbone_pretrained", "text_encoder", "annotations", "expressions", *OF_MACHINE}
PAPERS_CLIP = {"frames": 19, "size": [360, 640]}  # of Table VIII


@dataclass
class Run:
    """What a folder holds.

    Attributes:
        row: that was run; None where the folder holds the measurement of Table VIII alone.
        options: of main.py that were given beside the row's.
        scores: by the key of a column. Those of Table VIII have the row's number in their key: "c.cost.ms".
        incomplete: benchmarks of which items were left out.
        machine: on which cost was measured.
    """

    folder: Path
    row: Row | None
    options: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)
    incomplete: set[str] = field(default_factory=set)
    machine: str = ""

    @property
    def deviates(self) -> bool:
        """Whether its options change more than the seed, the machine and the places of files."""
        return bool(without(self.options, FREE))


@dataclass(frozen=True)
class Score:
    """One value of the runs of a row.

    Attributes:
        mean: over the runs; deviation: their standard deviation, None for one run.
        marks: "*" where items were left out, "†" where a run has other options than the row.
    """

    mean: float
    deviation: float | None
    marks: str

    def __str__(self) -> str:
        return f"{self.mean:.1f}{'' if self.deviation is None else f' ± {self.deviation:.1f}'}{self.marks}"


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in folders, or in the folders in them.

    Raises:
        ValueError, OSError: a folder has no run, or a file of scores cannot be read.
    """
    found = []
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; give the --output_dir of tools/paper.py run")
        places = [p for p in (folder, *sorted(folder.iterdir())) if p.is_dir() and _holds_run(p)]
        if not places:
            raise ValueError(f"{folder} has no run of a row of the paper: tools/paper.py run makes one")
        found += map(read_run, places)
    return found


def _holds_run(folder: Path) -> bool:
    return read_record(folder) is not None or score_file(folder, "cost").exists()


def read_run(folder: Path) -> Run:
    """The run in one folder; scores of benchmarks that are not there yet are missing."""
    record = read_record(folder)
    run = Run(folder, None)
    if record:
        run = Run(folder, find(record["row"]), tuple(record["options"]))
    for benchmark, read in READERS.items():
        path = score_file(folder, benchmark)
        if not path.exists():
            continue
        try:
            content = json.loads(path.read_text())
            run.scores |= {f"{benchmark}.{name}": float(value) for name, value in read(content).items()}
            if benchmark == "cost":
                run.machine = content["machine"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: it has no scores of {benchmark}; score again") from error
        if "incomplete" in (content.get("unsupervised", {}) if benchmark == "davis" else content):
            run.incomplete.add(benchmark)
    return run


def _ytvos(content: dict) -> dict[str, float]:
    return {name: 100 * content[name] for name in ("J&F", "J", "F")}


def _davis(content: dict) -> dict[str, float]:
    scores = content["unsupervised"]  # the protocol that papers report
    return {"J&F": 100 * scores["J&F"], "J": 100 * scores["J"]["mean"], "F": 100 * scores["F"]["mean"]}


def _frames(content: dict) -> dict[str, float]:
    """Of A2D and JHMDB; the mAP of all queries is the published one."""
    precision = {f"P@{threshold}": 100 * value for threshold, value in content["precision_at"].items()}
    means = {"overall": content["overall_iou"], "mean": content["mean_iou"], "mAP": content["all_queries"]["mAP"]}
    return precision | {name: 100 * value for name, value in means.items()}


def _cost(content: dict) -> dict[str, float]:
    """By the number of the row; nothing where another clip was measured than the paper's."""
    if any(content[name] != value for name, value in PAPERS_CLIP.items()) or content["options"]:
        return {}
    return {f"{row}.{name}": found[name] for row, found in content["rows"].items() for name in ("gmac", "ms")}


READERS: dict[str, Callable[[dict], dict[str, float]]] = {
    "ytvos": _ytvos,
    "davis": _davis,
    "a2d": _frames,
    "jhmdb": _frames,
    "cost": _cost,
}


def same_training(one: Row, other: Row) -> bool:
    """Whether two rows are scores of one model: their commands up to the scoring are the same."""
    if one.options is None or other.options is None:
        return False
    first, second = (TRAINED_ON[benchmarks(row)[0]] for row in (one, other))
    return first == second and one.options == other.options and preset(one, first) == preset(other, second)


def of_row(row: Row, runs: Sequence[Run]) -> dict[str, Score]:
    """The scores of a row, by the key of the column: means over all runs of its model."""
    found = {}
    for key in tables()[row.table].columns:
        benchmark, _, name = key.partition(".")
        if benchmark == "cost":
            there = [(run.scores.get(f"cost.{row.number}.{name}"), "") for run in runs]
        else:
            same = [run for run in runs if run.row and same_training(run.row, row)]
            there = [(run.scores.get(key), "*" * (benchmark in run.incomplete) + "†" * run.deviates) for run in same]
        there = [(value, marks) for value, marks in there if value is not None]
        if there:
            numbers, marks = zip(*there, strict=True)
            deviation = statistics.stdev(numbers) if len(numbers) > 1 else None
            found[key] = Score(statistics.fmean(numbers), deviation, "".join(m for m in "*†" if m in "".join(marks)))
    return found


def all_scores(runs: Sequence[Run]) -> dict[str, dict[str, Score]]:
    """The scores of all rows that have some, by the row's id."""
    return {row.id: found for row in every_row() if (found := of_row(row, runs))}


def beside(ours: Score, paper: Value, mark: str = "") -> str:
    """Our score between two ``mark``, and how much it is above the paper's."""
    text = f"{mark}{ours}{mark}"
    if not isinstance(paper, int | float):
        return text
    # without the last term a small difference would print as -0.0
    return f"{text} ({round(ours.mean - paper, 1) + 0.0:+.1f})".replace("-", "−")
