"""Gives damaged and hostile files to every reader, for as long as you like, and keeps those that are not taken well.

    python tools/fuzz.py --seconds 3600
    python tools/fuzz.py --target submission --target checkpoint --seed 7
    python tools/fuzz.py --target checkpoint --again output/fuzz/checkpoint-7-123

A reader takes a file well if it reads it, or refuses it with one line that names it, in bounded time and memory. The
same seed gives the same files. Exit code 0: all were taken well; 1: some were not.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from itertools import count
from pathlib import Path

# before torch is imported: forked processes cannot use its threads
os.environ.setdefault("OMP_NUM_THREADS", "1")

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm  # noqa: E402

from tools.fuzzing import data_sets, models_and_media  # noqa: E402
from tools.fuzzing.runner import Finding, Target, replay, run  # noqa: E402
from util.run import cli  # noqa: E402
from util.run.parser import CommandParser

TOGETHER = 50  # files of a target before the next one's turn


def all_targets(root: Path) -> dict[str, Target]:
    """Every target by name, with its sound files in ``root``, an empty folder."""
    with redirect_stdout(io.StringIO()):
        data_sets.write_sets(root)
    return {target.name: target for target in (*data_sets.targets(root), *models_and_media.targets(root))}


def search(
    targets: list[Target], seed: int, seconds: float, tell: Callable[[int], None] = lambda _: None
) -> Iterator[tuple[Target, Finding]]:
    """What is found within this time, in turns of some files of each target."""
    end = time.monotonic() + seconds
    for turn in count():
        for target in targets:
            if time.monotonic() >= end:
                return
            for finding in run(target, seed, range(turn * TOGETHER, (turn + 1) * TOGETHER)):
                yield target, finding
            tell(TOGETHER)


def main() -> int:
    parser = CommandParser("fuzz.py", __doc__)
    parser.add_argument("--seconds", type=float, default=600, help="how long")
    parser.add_argument("--target", action="append", metavar="NAME", help="only this one; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("output/fuzz"), metavar="DIR", help="folder of what is found")
    parser.add_argument(
        "--again", type=Path, metavar="FILE", help="give this file to the one --target, and say how it goes"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        targets = all_targets(Path(folder))
        for name in args.target or ():
            if name not in targets:
                raise ValueError(f"--target {name} does not exist; choose one of {', '.join(targets)}")
        chosen = [target for name, target in targets.items() if name in (args.target or targets)]
        if args.again:
            if len(chosen) != 1:
                raise ValueError("--again needs one --target, whose reader gets the file")
            problem = replay(chosen[0], args.again.read_bytes())
            print(problem or "taken well")
            return int(bool(problem))
        found, files = set(), 0

        def tell(tried: int) -> None:
            nonlocal files
            files += tried
            progress.update(tried)

        with tqdm(desc="files", unit="file", disable=None) as progress:
            for target, finding in search(chosen, args.seed, args.seconds, tell):
                if finding.kind in found:
                    continue
                found.add(finding.kind)
                args.keep.mkdir(parents=True, exist_ok=True)
                path = args.keep / f"{finding.target}-{finding.seed}-{finding.number}"
                path.write_bytes(target.make(finding.seed, finding.number))
                tqdm.write(f"{path}: {finding.what}")
            print(f"{files:,} files, {len(found)} findings" + (f" in {args.keep}" if found else ""))
    return int(bool(found))


if __name__ == "__main__":
    cli.run(main)
