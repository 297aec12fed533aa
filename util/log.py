"""What a run tells its reader: a progress bar, ``log.jsonl`` with a line per epoch, and TensorBoard curves."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from util import dist
from util.writers import atomic_path


def progress_bar(iterable=None, **options) -> tqdm:
    """A tqdm bar on rank 0: live on a terminal, a line now and then where the output goes to a file."""
    live = sys.stderr.isatty()
    pace = {} if live else {"mininterval": 15, "maxinterval": 15, "ncols": 100, "ascii": True}
    return tqdm(iterable, disable=not dist.is_main(), dynamic_ncols=live, **pace, **options)


def read_lines(path: Path) -> list[dict]:
    """The lines of a ``log.jsonl``, without one that was cut short.

    Raises:
        ValueError: there is none.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the --output_dir of a run that has ended an epoch")
    return [json.loads(line) for line in path.read_text().splitlines() if _epoch(line) < math.inf]


def _epoch(line: str) -> float:
    """Of a line of ``log.jsonl``; infinite where the line was cut short."""
    try:
        return json.loads(line)["epoch"]
    except ValueError:
        return math.inf


class RunLog:
    """Writes to ``output_dir``; on other ranks than 0 it takes everything and writes nothing.

    Args:
        output_dir: of the run.
        epoch, step: that the run goes on from. What an earlier attempt logged of these and of later ones is dropped.
    """

    def __init__(self, output_dir: str | Path, epoch: int = 0, step: int = 0) -> None:
        self.output_dir = Path(output_dir)
        self.writer = None
        if not dist.is_main():
            return
        self.writer = SummaryWriter(str(self.output_dir / "tensorboard"), purge_step=step)
        path = self.output_dir / "log.jsonl"
        if path.exists():
            lines = [line for line in path.read_text().splitlines(keepends=True) if _epoch(line) < epoch]
            with atomic_path(path) as temporary:
                temporary.write_text("".join(lines))

    def scalars(self, values: dict[str, float], step: int) -> None:
        """Points of TensorBoard curves; names may group them, as in ``loss/cls``."""
        if self.writer:
            for name, value in values.items():
                self.writer.add_scalar(name, value, step)

    def picture(self, name: str, image: np.ndarray, step: int) -> None:
        """A picture in TensorBoard, uint8 RGB ``[H, W, 3]``."""
        if self.writer:
            self.writer.add_image(name, image, step, dataformats="HWC")

    def line(self, values: dict) -> None:
        """Appends one line to ``log.jsonl``."""
        if self.writer:
            with (self.output_dir / "log.jsonl").open("a") as file:
                file.write(json.dumps(values) + "\n")

    def close(self) -> None:
        if self.writer:
            self.writer.close()
