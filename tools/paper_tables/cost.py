"""Makes Table VIII on this machine: operations, parameters, time and memory of its four models.

    python tools/paper.py cost --output_dir output/paper/cost

Each row runs in a process of its own, so that its peak memory can be measured. Weights and frames are random.
Operations are those of the network as the papers describe it; time and memory are those of inference as this repository
does it (models/fast/), from uint8 frames to masks of their size, in float32.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.paper_tables.rows import Row, tables, written
from tools.paper_tables.steps import ROOT, parsed, training_options
from util.files.writing import write_json
from util.run.cli import one_line
from util.run.log import progress_bar
from util.run.parser import CommandParser

TABLE = "VIII"
HEADS = ("", "GFLOP", "GMAC of Linear, Conv", "parameters", "ms", "peak GiB", "paper: G", "paper: ms")


def add_arguments(parser: CommandParser) -> None:
    parser.add_argument("--output_dir", metavar="DIR", help="write cost.json there, which tables reads")
    parser.add_argument("--frames", type=int, default=19)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    parser.add_argument("--repeat", type=int, default=2, help="runs after the first; the fastest counts")
    parser.add_argument("--count", action="store_true", help="measure nothing: operations and parameters, in seconds")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # measure this row in this process
    parser.note = "Further options are those of main.py, for all four models, such as --token_stride 16."
    parser.set_defaults(takes_others=True)


def run(args: argparse.Namespace) -> None:
    if min(args.size) < 32 or min(args.frames, args.repeat) < 1:
        raise ValueError("--size must be at least 32 both ways, --frames and --repeat at least 1")
    if args.count and args.output_dir:
        raise ValueError("--count measures no time, which cost.json has; give either --count or --output_dir")
    rows = {row.number: row for row in tables()[TABLE].rows}
    if args.one:
        repeat = 0 if args.count else args.repeat
        print(json.dumps(measured(rows[args.one], args.frames, tuple(args.size), args.device, repeat, args.others)))
        return
    found, lines = {}, [HEADS]
    for number, row in progress_bar(rows.items(), desc="rows", unit="row"):
        print(f"{row.id}, {row.title} …", file=sys.stderr, flush=True)
        try:
            parsed(training_options(row, args.others))  # refused at once, where the other process would take a while
            found[number] = in_process(number)
        except ValueError as error:
            lines.append((f"({number}) {row.title}", f"no figures: {one_line(error)}"))
            continue
        lines.append((f"({number}) {row.title}", *figures(found[number]), *map(written, row.values[1:])))
    if not found:
        raise ValueError(f"no row has figures; the first: {lines[1][1]}")
    whole = [line for line in lines if len(line) == len(HEADS)]
    widths = [max(len(line[i]) for line in whole) for i in range(1, len(HEADS))]
    first = max(len(line[0]) for line in lines)
    for name, *cells in lines:
        shown = [f"{c:>{w}}" for c, w in zip(cells, widths, strict=True)] if len(cells) > 1 else cells
        print("  ".join([f"{name:<{first}}", *shown]))
    machine = next(iter(found.values()))["machine"]
    print(f"{args.frames} frames of {args.size[0]}x{args.size[1]}, one expression, {machine}; paper: NVIDIA A40")
    if args.output_dir:
        content = {"frames": args.frames, "size": list(args.size), "machine": machine, "options": args.others}
        write_json(Path(args.output_dir, "cost.json"), {**content, "rows": found})


def figures(cost: dict) -> list[str]:
    """What was measured of a row, as text in the order of :data:`HEADS`."""
    counted = [f"{cost['gflop']:.1f}", f"{cost['gmac']:.1f}", f"{cost['parameters'] / 1e6:.2f} M"]
    spent = [f"{cost['ms']:.0f}", f"{cost['peak']:.2f}"] if "ms" in cost else ["–", "–"]
    return [*counted, *spent]


def in_process(number: str) -> dict:
    """:func:`measured` in another process. Raises ValueError with the reason why it has failed."""
    from tools.benchmark_train import last_error  # torch, which the other subcommands do without

    words = [sys.executable, str(ROOT / "tools" / "paper.py"), *sys.argv[1:], "--one", number]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(last_error(done.stderr).removeprefix("paper.py: error: "))
    return json.loads(done.stdout.strip().splitlines()[-1])


def measured(
    row: Row, frames: int, size: tuple[int, int], device: str | None, repeat: int, others: Sequence[str] = ()
) -> dict:
    """Time, memory and operations of a row in this process.

    Args:
        repeat: runs after the first, of which the fastest counts; 0: time and memory are left out.

    Returns:
        gflop, gmac (of Linear and convolution layers), parameters, ms and peak (GiB) of one clip and one expression,
        and the machine in words.
    """
    import torch

    from tools.benchmark_inference import cost
    from tools.paper_tables.counting import count
    from tools.profile_model import EXPRESSION, build
    from util.run.device import use_device

    where = use_device(device)
    args = parsed(training_options(row, others))
    vars(args).update(device=device, repeat=repeat)
    # first, because the peak is that of the process
    spent = cost(args, args.backbone, size, frames, 1, "fp32") if repeat else {}
    model = build(args, [EXPRESSION])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    work = count(model, frames, size)
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {
        "gflop": work.flops / 1e9,
        "gmac": work.layers / 1e9,
        "parameters": parameters,
        **({"ms": spent["seconds"] * 1000, "peak": spent["peak"]} if spent else {}),
        "machine": f"{name}, torch {torch.__version__}",
    }
