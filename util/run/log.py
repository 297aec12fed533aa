"""The logs of a run: a progress bar, ``log.jsonl`` with a line per epoch, and TensorBoard curves."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from util.files.writing import atomic_path
from util.run import dist


def progress_bar(iterable=None, **options) -> tqdm:
    """A tqdm bar on rank 0: live on a terminal, a line now and then where the output goes to a file."""
    live = sys.stderr.isatty()
    pace = {} if live else {"mininterval": 15, "maxinterval": 15, "ncols": 100, "ascii": True}
    return tqdm(iterable, disable=not dist.is_main(), dynamic_ncols=live, **pace, **options)


def read_lines(path: Path) -> list[dict]:
    """The lines of a ``log.jsonl``, except for lines that were cut short.

    Raises:
        ValueError: there is no such file.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the --output_dir of a run that has ended an epoch")
    return [json.loads(line) for line in path.read_text().splitlines() if _epoch(line) < math.inf]


def _epoch(line: str) -> float:
    """The epoch of a line of ``log.jsonl``; infinite where the line was cut short."""
    try:
        return json.loads(line)["epoch"]
    except ValueError:
        return math.inf


class RunLog:
    """Writes to ``output_dir`` on rank 0; other ranks write nothing.

    Lines that cannot be written, as on a full disk, are lost; a warning says so once an epoch, and training goes on.

    Args:
        output_dir: of the run.
        epoch, step: where the run goes on. Lines of an earlier attempt from there on are dropped.
    """

    def __init__(self, output_dir: str | Path, epoch: int = 0, step: int = 0) -> None:
        self.folder = Path(output_dir)
        self.writer: SummaryWriter | None = None
        self.told = False
        if not dist.is_main():
            return
        self.writer = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step)
        path = self.folder / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines(keepends=True) if _epoch(line) < epoch]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(lines))

    @contextmanager
    def _or_lost(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not self.told:
                print(f"warning: the log is not written, training goes on: {error}", file=sys.stderr, flush=True)
            self.told = True
            # TensorBoard's thread ends when it cannot write, so a new one is started
            with suppress(OSError):
                self.writer = SummaryWriter(str(self.folder / "tensorboard"))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Points of TensorBoard curves; names may group them, as in ``loss/cls``."""
        if self.writer:
            with self._or_lost():
                for name, value in values.items():
                    self.writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture in TensorBoard, uint8 RGB ``[H, W, 3]``."""
        if self.writer:
            with self._or_lost():
                self.writer.add_image(name, image, step, dataformats="HWC")

    def line(self, values: dict) -> None:
        """Appends one line to ``log.jsonl``."""
        if self.writer:
            self.told = False
            with self._or_lost(), (self.folder / "log.jsonl").open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    file.write(b"" if file.read() == b"\n" else b"\n")  # the last line was cut short
                file.write(json.dumps(values).encode() + b"\n")

    def flush(self) -> None:
        """Writes everything to the disk, because steps before a checkpoint are not logged again."""
        if self.writer:
            with self._or_lost():
                self.writer.flush()

    def close(self) -> None:
        if self.writer:
            with self._or_lost():
                self.writer.close()
