"""The commands that make a row: from downloads to scores."""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from opts import model_options, parse_train_args
from tools.paper_tables.rows import Row, made_here, tables

ROOT = Path(__file__).resolve().parents[2]
VIDEO_SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.4/"
# published weights of the backbones that the tables name (pretrained_weights/README.md), and where they are
BACKBONES = {
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "video_swin_t": f"{VIDEO_SWIN}swin_tiny_patch244_window877_kinetics400_1k.pth",
    "video_swin_b": f"{VIDEO_SWIN}swin_base_patch244_window877_kinetics400_22k.pth",
}
# The recipe of each model for the training on a benchmark. The paper's numbers of ReferFormer are ReferFormer's own.
PRESETS = {
    ("proxyformer", "ytvos"): "paper",
    ("proxyformer", "a2d"): "paper_a2d",
    ("referformer", "ytvos"): "finetune",
    ("referformer", "a2d"): "a2d_finetune",
}
SCRIPTS = {"ytvos": "scripts/dist_train_test_ytvos.sh", "a2d": "scripts/dist_train_a2d.sh"}
TRAINED_ON = {"ytvos": "ytvos", "davis": "ytvos", "a2d": "a2d", "jhmdb": "a2d"}
# Clips of a step on all GPUs, whose number then changes nothing. Choice: those of ReferFormer's eight GPUs.
CLIPS = {"pretraining": 16, "ytvos": 8, "a2d": 16}
# as ReferFormer made its numbers of Ref-DAVIS17 (docs/inference.md)
WINDOWS_OF_REFERFORMER = ("--clips", "independent", "--window", "36")
# options that say where and how to compute
OF_MACHINE = (
    *("device", "float32", "num_workers", "loader_timeout", "compile", "fsdp", "activation_checkpointing"),
    *(f"{name}_path" for name in ("ytvos", "davis", "a2d", "jhmdb", "coco")),
)
# options that say from which weights a row starts
OF_START = {"pretrained_weights", "backbone_pretrained", "random_backbone"}
PRETRAINING, TRAINING = "pretraining", "training"


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: its task; within a row no other step has it.
        words: program or script, relative to the repository, and its arguments.
        makes: files by which a conversion of data is known to be done; empty for other steps.
    """

    name: str
    words: tuple[str, ...]
    makes: tuple[Path, ...] = ()

    def __str__(self) -> str:
        first, *rest = self.words
        return shlex.join(["./" + first] if first.endswith(".sh") else ["python", first]) + " " + shlex.join(rest)


@dataclass(frozen=True)
class Download:
    """What is downloaded by hand: a file or a folder, what it holds, and how one gets it."""

    path: Path
    what: str
    how: str


def benchmarks(row: Row) -> list[str]:
    """Those on which a row has scores."""
    return [name for name in tables()[row.table].benchmarks if name in TRAINED_ON]


def preset(row: Row, benchmark: str) -> str:
    words = made_here(row)
    return PRESETS["referformer" if "referformer" in words else "proxyformer", benchmark]


def training_options(row: Row, others: Sequence[str] = ()) -> list[str]:
    """The options of main.py in the training on a row's benchmark; ``others`` come last and win."""
    trained_on = TRAINED_ON[benchmarks(row)[0]]
    own = ["--preset", preset(row, trained_on), "--global_batch_size", str(CLIPS[trained_on]), *made_here(row)]
    return [*own, *others]


def pretraining_options(row: Row, others: Sequence[str] = (), further: Sequence[str] = ()) -> list[str]:
    """The options of main.py in the pretraining: the row's, those of ``others`` that hold for it, and ``further``."""
    shared = words_of(others, model_options() | {"seed", "amp", "random_backbone", *OF_MACHINE})
    words = ["--global_batch_size", str(CLIPS["pretraining"]), *made_here(row)]
    if not {"--backbone_pretrained", "--random_backbone"} & {word.partition("=")[0] for word in shared}:
        words += ["--backbone_pretrained", str(backbone_file(parsed([*words, *shared]).backbone))]
    return [*words, *shared, *further]


def backbone_file(backbone: str) -> Path:
    """Raises ValueError for a backbone that no table names."""
    if backbone not in BACKBONES:
        raise ValueError(f"--backbone {backbone} is in no table of the paper: give --backbone_pretrained FILE, too")
    return Path("pretrained_weights", BACKBONES[backbone].rpartition("/")[2])


def words_of(words: Sequence[str], names: Collection[str]) -> list[str]:
    """Of the words of a command line those of some options, with their values."""
    found, taken = [], False
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0]
            taken = name in names or name.removeprefix("no-") in names
        if taken:
            found.append(word)
    return found


def without(words: Sequence[str], names: Collection[str]) -> list[str]:
    """The words of a command line but for some options and their values."""
    every = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    return words_of(words, every - set(names))


def parsed(words: Iterable[str]) -> argparse.Namespace:
    """Options as main.py parses them; raises ValueError with its message where it refuses them."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse_train_args(list(words))
    except SystemExit:
        raise ValueError(said.getvalue().strip().splitlines()[-1].partition("error: ")[2]) from None


def problem(row: Row) -> str | None:
    """Why main.py does not take the options of a row; None where it does."""
    try:
        parsed(training_options(row))
        parsed(["--preset", "pretrain", *pretraining_options(row)])
    except ValueError as error:
        return str(error)
    return None


def steps(row: Row, folder: Path, others: Sequence[str] = (), further: Sequence[str] = ()) -> list[Step]:
    """All commands of a row, in their order.

    Args:
        folder: takes all results.
        others: options of main.py for the training. Those of the model, of the machine and of folders hold for the
            pretraining, too. With ``--pretrained_weights`` there is no pretraining.
        further: options of main.py for the pretraining alone.

    Raises:
        ValueError: main.py refuses the options, or the row is of another system.
    """
    made_here(row)
    if why := problem(row):
        raise ValueError(f"{row.id} has no command: {why}")
    args = parsed(training_options(row, others))
    on = TRAINED_ON[benchmarks(row)[0]]
    weights, run = args.pretrained_weights, folder / on
    found = []
    if not weights:
        weights = str(folder / "pretrain" / "checkpoint.pth")
        words = pretraining_options(row, others, further)
        parsed(["--preset", "pretrain", *words])
        made = tuple(Path(args.coco_path, name, f"instances_{name}_train.json") for name in _REFCOCO)
        found.append(Step("lists of RefCOCO", ("tools/data/convert_refcoco.py", args.coco_path), made))
        found.append(Step(PRETRAINING, ("scripts/dist_pretrain.sh", str(folder / "pretrain"), *words)))
    elif further or args.backbone_pretrained:
        raise ValueError("--pretrained_weights replaces the pretraining: leave its options out")
    if on == "a2d":
        found.append(_sentences("a2d", args.a2d_path, "a2d_sentences_test_annotations_in_coco_format.json"))
    training = training_options(row, without(others, OF_START))
    found.append(Step(TRAINING, (SCRIPTS[on], str(run), weights, *training)))
    for benchmark in benchmarks(row):
        found += _scoring(benchmark, folder, args)
    if "cost" in tables()[row.table].benchmarks:
        found.append(Step("cost", ("tools/paper.py", "cost", "--output_dir", str(folder))))
    return found


_REFCOCO = ("refcoco", "refcoco+", "refcocog")


def _sentences(name: str, path: str, truth: str) -> Step:
    words = ("tools/data/make_sentences_annotations.py", name, path)
    return Step(f"lists of {name.upper()}-Sentences", words, (Path(path, truth),))


def _scoring(benchmark: str, folder: Path, args: argparse.Namespace) -> list[Step]:
    """The steps between a trained model and the scores of a benchmark; the script of A2D has scored it already."""
    if benchmark == "ytvos":
        masks = folder / "ytvos" / "valid"
        words = ["eval_ytvos.py", str(masks / "submission.zip"), "--ytvos_path", args.ytvos_path]
        for name in ("annotations", "expressions"):
            words += [f"--{name}", getattr(args, name)] if getattr(args, name) else []
        return [Step("scores of Ref-YouTube-VOS", (*words, "--json", str(score_file(folder, "ytvos"))))]
    device = ("--device", args.device) if args.device else ()
    if benchmark == "davis":
        made = Path(args.davis_path, "meta_expressions", "valid", "meta_expressions.json")
        convert = Step("lists of Ref-DAVIS17", ("tools/data/convert_davis_to_ytvos.py", args.davis_path), (made,))
        words = ("scripts/dist_test_davis.sh", str(folder / "davis"), str(folder / "ytvos" / "checkpoint.pth"))
        windows = WINDOWS_OF_REFERFORMER if args.model == "referformer" else ()
        words = (*words, "--davis_path", args.davis_path, *windows, *device)
        return [convert, Step("scores of Ref-DAVIS17", words)]
    if benchmark == "jhmdb":
        convert = _sentences("jhmdb", args.jhmdb_path, "jhmdb_sentences_gt_annotations_in_coco_format.json")
        words = ("scripts/dist_test_jhmdb.sh", str(folder / "jhmdb"), str(folder / "a2d" / "checkpoint.pth"))
        return [convert, Step("scores of JHMDB-Sentences", (*words, "--jhmdb_path", args.jhmdb_path, *device))]
    return []


def score_file(folder: Path, benchmark: str) -> Path:
    """Where the commands of a row leave the scores of a benchmark."""
    return (
        folder
        / {
            "ytvos": "ytvos/valid/scores.json",
            "davis": "davis/valid/scores.json",
            "a2d": "a2d/eval_a2d_test/scores.json",
            "jhmdb": "jhmdb/eval_jhmdb_test/scores.json",
            "cost": "cost.json",
        }[benchmark]
    )


def downloads(row: Row, others: Sequence[str] = ()) -> list[Download]:
    """What has to be there before the first command."""
    args = parsed(training_options(row, others))
    folders = {
        "ytvos": (args.ytvos_path, "Ref-YouTube-VOS"),
        "davis": (args.davis_path, "Ref-DAVIS17"),
        "a2d": (args.a2d_path, "A2D-Sentences"),
        "jhmdb": (args.jhmdb_path, "JHMDB-Sentences"),
    }
    names = dict.fromkeys(each for name in benchmarks(row) for each in (TRAINED_ON[name], name))
    found = [Download(Path(path), what, f"docs/data.md, {what}") for path, what in map(folders.get, names)]
    if args.pretrained_weights:
        how = "docs/train.md, Starting from published weights"
        return [*found, Download(Path(args.pretrained_weights), "pretrained weights", how)]
    found.append(Download(Path(args.coco_path), "RefCOCO, RefCOCO+ and RefCOCOg", "docs/data.md, RefCOCO"))
    if vars(args).get("random_backbone"):
        return found
    given = args.backbone_pretrained
    path = Path(given) if given else backbone_file(args.backbone)
    how = "as you gave it" if given else f"wget {BACKBONES[args.backbone]}"
    return [*found, Download(path, f"weights of {args.backbone}", how)]
