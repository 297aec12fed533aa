"""The rows of Tables IV to VII on generated videos: which are left, their training, their scores as tables.

The network is that of the demo (``tools/small_job/stages.py``), with the paper's numbers of proxies and CMIE modules.
The numbers of images, videos and steps are its own (``BUDGET``). All rows and seeds share the generated videos and the
aligned encoders, as the paper's rows share pretrained ones. A row then trains on images and on videos. Rows that have
the same options are trained once.

Finished rows go to ``--results``, with all that they depend on, and are not trained again. A row that was interrupted
goes on from its newest checkpoint.
"""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from tools.paper_tables import rows
from tools.paper_tables.rows import Row
from tools.small_job import held_out
from tools.small_job import stages as small_job
from util.files.reading import read_json
from util.files.writing import write_json

VERSION = 1  # to be raised when a change of the code makes other scores from the same options
# half of the videos are held out, so that the rows take half of the steps
CLIPS = "--num_frames 4 --batch_size 8 --holdout 1100"
BUDGET = small_job.Recipe(8000, 2200, 1, 1, "--num_frames 4 --steps 1000", CLIPS)
DATA_SEED = 0
TABLES = ("IV", "V", "VI", "VII")
# the rows that say most come first
FIRST = ("IV.1", "IV.2", "IV.5", "IV.4", "VI.1", "IV.3")
OF_THE_PAPER = ("--backbone", "video_swin_t")  # which the small network replaces
PROXYFORMER = "--token_stride 16"
# the baseline refines boxes, as all of ReferFormer's recipes; its feed-forward layers are as many times wider than its
# tokens as there (2048 / 256)
REFERFORMER = "--with_box_refine --dim_feedforward 768"
CONTROLS = ("shuffled", "blank", "first_frame")
SAVE_EVERY = 100
REHEARSAL = 24  # generated images and videos
SHARED_SECONDS = 500  # of generating the sets and aligning the encoders, measured on one of two cores of an AMD EPYC


@dataclass(frozen=True)
class Work:
    """A training: the options of a row beyond those of the small network, and a seed."""

    options: tuple[str, ...]
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return "_".join(word.strip("-") for word in self.options).replace("__", "_") or "default"

    @property
    def network(self) -> list[str]:
        """Options of main.py that describe the network."""
        baseline = "referformer" in self.options
        return [*shlex.split(REFERFORMER if baseline else PROXYFORMER), *self.options]


def run(args: argparse.Namespace) -> None:
    """Trains what is left of the rows and seeds that are asked for; the arguments are those of ``small.py``."""
    asked = rows_asked(args.rows)
    runs = read_runs(args.results)
    plan = [Work(own_options(row), seed) for seed in args.seeds for row in asked]
    plan = [work for work in dict.fromkeys(plan) if work not in finished(runs)]
    claim(args.output_dir)
    if plan:
        announce(plan, asked, args.output_dir)
    if not args.dry_run:
        for number, work in enumerate(plan, start=1):
            print(f"\n[{number}/{len(plan)}] {work.name}, seed {work.seed}", flush=True)
            runs.append(train(work, args.output_dir))
            write_json(args.results, {"runs": runs})
    print(markdown(asked, finished(runs)))


def rows_asked(names: Sequence[str] | None) -> list[Row]:
    """The rows with these names, or all, in the order of training. Raises ValueError for a row of another table."""
    every = [row for table in TABLES for row in rows.tables()[table].rows]
    wanted = [rows.find(name) for name in names] if names else every
    if other := next((row for row in wanted if row.table not in TABLES), None):
        raise ValueError(f"--rows {other.id}: only the rows of Tables {', '.join(TABLES)} are trained in small")
    order = [*FIRST, *(row.id for row in every)]
    return sorted(wanted, key=lambda row: order.index(row.id))


def own_options(row: Row) -> tuple[str, ...]:
    """The options of a row without those that the small network replaces."""
    words = list(rows.made_here(row))
    at = words.index(OF_THE_PAPER[0])
    del words[at : at + len(OF_THE_PAPER)]
    return tuple(words)


def recipe() -> dict[str, object]:
    """All that the scores of a row depend on, besides its options and its seed."""
    words = (small_job.NETWORK, small_job.IMAGES, small_job.VIDEOS, PROXYFORMER, REFERFORMER)
    options = dict(zip(("network", "images", "videos", "proxyformer", "referformer"), words, strict=True))
    options = {name: " ".join(text.split()) for name, text in options.items()}
    budget = {name: value for name, value in asdict(BUDGET).items() if name != "absent"}  # of which there are none
    return {"version": VERSION, "budget": budget, "data_seed": DATA_SEED, **options}


def read_runs(path: Path) -> list[dict]:
    """The finished runs of a results file, also those of other recipes; none where there is no file.

    Raises:
        ValueError: the file is damaged or of another kind.
    """
    if not path.exists():
        return []
    content = read_json(path)
    runs = content.get("runs") if isinstance(content, dict) else None
    needed = {"options", "seed", "recipe", "scores", "seconds"}
    if not isinstance(runs, list) or not all(isinstance(entry, dict) and needed <= entry.keys() for entry in runs):
        raise ValueError(f'{path} is no file of finished rows ("runs"): give another one as --results, or remove it')
    return runs


def finished(runs: Sequence[dict]) -> dict[Work, dict]:
    """The runs of the recipe of today."""
    now = recipe()
    return {Work(tuple(r["options"]), r["seed"]): r for r in runs if r["recipe"] == now}


def claim(folder: Path) -> None:
    """Marks a folder with the recipe whose runs it holds. Raises ValueError for a folder of something else."""
    mark = folder / "recipe.json"
    if mark.exists():
        if read_json(mark) != recipe():
            raise ValueError(f"--output_dir {folder} holds runs of another recipe; give another folder, or remove it")
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--output_dir {folder} already holds something; give another folder")
    else:
        write_json(mark, recipe())


def starts(out: Path) -> small_job.Starts:
    return small_job.Starts(out / "images", out / "data", out / "aligned")


def train(work: Work, out: Path) -> dict:
    """Trains and scores a row, or the rest of it; returns its entry of the results file."""
    prepare(out)
    folder, start = out / work.name / f"seed{work.seed}", time.perf_counter()
    trained = small_job.train_stages(
        BUDGET, starts(out), folder, work.seed, *work.network, "--resume", "auto", "--save_every", str(SAVE_EVERY)
    )
    names = ("asked", *CONTROLS)
    runs = held_out.controls(trained, folder / "masks", starts(out).videos, work.seed, names)
    seconds = time.perf_counter() - start  # of this call: less than all where an interrupted row went on
    return {
        "options": list(work.options),
        "seed": work.seed,
        "recipe": recipe(),
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "scores": rounded(held_out.summary(runs.pop("asked"), runs)),
    }


def rounded(scores: Mapping) -> dict:
    return {k: rounded(v) if isinstance(v, Mapping) else round(v, 4) for k, v in scores.items()}


def prepare(out: Path) -> None:
    """Makes what all rows share, where it is not there yet."""
    small_job.generate_all(BUDGET, starts(out), DATA_SEED)
    if not starts(out).encoders.exists():
        small_job.align(BUDGET, starts(out), out / "text_encoder", DATA_SEED)


def cpu_name() -> str:
    """The processor's name, and how many cores there are."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{name}, {os.cpu_count()} cores"


# Time ------------------------------------------------------------------------------------------------------------


def announce(plan: Sequence[Work], asked: Sequence[Row], out: Path) -> None:
    """Prints what is left to train, and how long it takes by a rehearsal of a minute or two."""
    many = "1 training is" if len(plan) == 1 else f"{len(plan)} trainings are"
    print(f"{many} left; a rehearsal measures their time", flush=True)
    ids: dict[tuple[str, ...], list[str]] = {}
    for row in asked:
        ids.setdefault(own_options(row), []).append(row.id)
    each = rehearse({work.options: work for work in plan}, out)
    once = 0 if starts(out).encoders.exists() else SHARED_SECONDS
    for work in plan:
        print(f"  {'/'.join(ids[work.options])}, seed {work.seed}: {each[work.options] / 60:.0f} minutes")
    total = once + sum(each[work.options] for work in plan)
    print(f"about {total / 3600:.1f} hours in all, {once / 60:.0f} minutes of them for what the rows share", flush=True)


def rehearse(works: Mapping[tuple[str, ...], Work], out: Path) -> dict[tuple[str, ...], float]:
    """Seconds of each row, without its scoring.

    The baseline is measured, and the first ProxyFormer for all others: their parts that differ take little time.
    """
    tiny = small_job.Recipe(REHEARSAL, REHEARSAL, 1, 1, "", "")
    kinds = {"referformer" in options: work for options, work in reversed(works.items())}
    seconds, folder = {}, out / "rehearsal"
    own = small_job.Starts(folder / "images", folder / "data", folder)
    small_job.generate_all(tiny, own, DATA_SEED)
    if not (own.encoders / "text_encoder").exists():
        small_job.make_text_encoder(own, own.encoders / "text_encoder")
    of_images, of_videos = step_counts()
    for baseline, work in kinds.items():
        images, videos = small_job.stages(BUDGET, own, work.seed, *work.network)
        seconds[baseline] = of_images * step_seconds(images, folder) + of_videos * step_seconds(videos, folder)
    return {options: seconds["referformer" in options] for options in works}


def step_seconds(options: Sequence[object], folder: Path) -> float:
    """Seconds of a step of main.py with these options, by its rehearsal, which leaves nothing in ``folder``."""
    own = ["--random_backbone", "--warmup_steps", "0", "--holdout", "0", "--output_dir", folder / "run", "--dry_run"]
    said = small_job.command("main.py", *options, *own, quiet=True)
    return max(float(line.partition(": ")[2].split()[0]) for line in said.splitlines() if " s a step" in line)


def step_counts() -> tuple[int, int]:
    """Steps of a row on images, and on clips of the videos, each of which gives as many as fit into it."""

    def number(text: str, name: str) -> int:
        words = shlex.split(text)
        return int(words[words.index(name) + 1]) if name in words else 0

    clips = (BUDGET.videos - number(BUDGET.clips, "--holdout")) * (
        small_job.FRAMES // number(BUDGET.clips, "--num_frames")
    )
    images = BUDGET.images // number(small_job.IMAGES, "--batch_size") * BUDGET.image_epochs
    return images, clips // number(BUDGET.clips, "--batch_size") * BUDGET.video_epochs


# Tables ----------------------------------------------------------------------------------------------------------


def markdown(asked: Sequence[Row], done: Mapping[Work, dict]) -> str:
    """The tables: ours in J&F of the generated held-out videos, 0 to 1, beside the paper's in percent."""
    lines = []
    for table in TABLES:
        of_table = [row for row in rows.tables()[table].rows if row in asked]
        if of_table:
            lines += ["", f"Table {table}. {rows.tables()[table].title}", "", *table_lines(of_table, done)]
    return "\n".join(lines)


def table_lines(of_table: Sequence[Row], done: Mapping[Work, dict]) -> Iterator[str]:
    heads = ["row", "options", "seeds", "J&F", "to the row above", "paper", "to the row above"]
    low = ["other object", "shuffled", "blank", "first frame"]
    yield "| " + " | ".join([*heads, "appearance", "motion", "relation", *low]) + " |"
    yield "|" + "---|" * (len(heads) + 3 + len(low))
    before: tuple[Row, dict[int, dict]] | None = None
    for row in of_table:
        options = own_options(row)
        scores = {work.seed: run["scores"] for work, run in done.items() if work.options == options}
        cells = [f"{row.id} {row.title}", f"`{' '.join(options)}`" if options else "", str(len(scores))]
        cells += [mean_of([s["J&F"] for s in scores.values()]), "", rows.written(row.values[0]), ""]
        if before:
            both = sorted(scores.keys() & before[1].keys())
            cells[4] = mean_of([scores[seed]["J&F"] - before[1][seed]["J&F"] for seed in both], sign="+")
            cells[6] = f"{row.values[0] - before[0].values[0]:+.1f}"
        kinds = [[s["by_kind"][kind]["J&F"] for s in scores.values()] for kind in ("appearance", "motion", "relation")]
        names = ("J&F_other_object", *(f"J&F_{name}" for name in CONTROLS))
        kinds += [[s[name] for s in scores.values()] for name in names]
        yield "| " + " | ".join(cells + [mean_of(values) for values in kinds]) + " |"
        before = row, scores


def mean_of(values: Sequence[float], sign: str = "") -> str:
    """Mean and, of several values, their standard deviation (of a sample)."""
    if not values:
        return "–"
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.3f}{spread}"
