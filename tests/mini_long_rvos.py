"""Writes a tiny data set in the layout of Long-RVOS: a folder of masks for each object, masks only where it is seen."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from opts import parse_train_args

COLOURS = {1: (220, 40, 40), 2: (40, 40, 220)}


@dataclass(frozen=True)
class MiniVideo:
    """A video with a red object 1 at the left and a blue object 2 at the right, both of 16 x 20 pixels, moving down.

    Attributes:
        away: frames from which an object has left.
        blank: frames without the object that have a mask all the same, without a pixel.
    """

    name: str
    length: int = 6
    away: dict[int, tuple[int, ...]] = field(default_factory=dict)
    blank: dict[int, tuple[int, ...]] = field(default_factory=dict)
    height: int = 48
    width: int = 80

    @property
    def frames(self) -> list[str]:
        return [f"{t:05d}" for t in range(self.length)]

    def mask(self, number: int, t: int) -> np.ndarray:
        """bool ``[height, width]`` of an object in frame ``t``."""
        mask = np.zeros((self.height, self.width), bool)
        if t not in self.away.get(number, ()):
            left = 5 if number == 1 else self.width - 25
            mask[2 * t : 2 * t + 16, left : left + 20] = True
        return mask

    def expressions(self) -> dict[str, dict]:
        """As in meta_expressions.json: the object's number is text for one expression and a number for the others."""
        return {
            "0": {"exp": "the red box on the left", "obj_id": "1", "type": "static"},
            "1": {"exp": "moving down at the Right", "obj_id": 2, "type": "dynamic"},
            "2": {"exp": "the blue box that moves down", "obj_id": 2, "type": "static+dynamic"},
        }

    def object_of(self, exp_id: str) -> int:
        return int(self.expressions()[exp_id]["obj_id"])

    def image(self, t: int) -> np.ndarray:
        """uint8 RGB ``[height, width, 3]``."""
        image = np.full((self.height, self.width, 3), 120, np.uint8)
        for number, colour in COLOURS.items():
            image[self.mask(number, t)] = colour
        return image


TRAIN = (
    MiniVideo("aa_wide"),
    MiniVideo("bb_leaves", length=5, away={2: (0, 1, 2)}, blank={2: (1,)}),
    MiniVideo("cc_portrait", height=80, width=56),
)
VALID = (
    MiniVideo("dd_returns", length=5, away={1: (1, 2)}),
    MiniVideo("ee_short", length=3, away={2: (0,)}, blank={2: (0,)}),
)
TEST = (MiniVideo("ff_test", length=3),)
SPLITS = {"train": TRAIN, "valid": VALID, "test": TEST}


def write_mini_long_rvos(root: Path) -> Path:
    """Writes the data set and returns its root."""
    for split, videos in SPLITS.items():
        for video in videos:
            folder = root / split / "JPEGImages" / video.name
            folder.mkdir(parents=True)
            for t, name in enumerate(video.frames):
                Image.fromarray(video.image(t)).save(folder / f"{name}.jpg", quality=95)
                for number in COLOURS:
                    mask = video.mask(number, t)
                    if mask.any() or t in video.blank.get(number, ()):
                        path = root / split / "Annotations" / video.name / str(number) / f"{name}.png"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        Image.fromarray((mask * 255).astype(np.uint8)).save(path)
        entries = {video.name: {"expressions": video.expressions(), "frames": video.frames} for video in videos}
        (root / split / "meta_expressions.json").write_text(json.dumps({"videos": entries}))
    return root


def mini_args(root: Path, *flags: str) -> argparse.Namespace:
    """Training options for the tiny data: small frames, three-frame clips, no worker processes."""
    small = "--train_sizes 32 48 --max_size 96 --eval_size 40 --num_frames 3 --num_workers 0"
    return parse_train_args(["--dataset_file", "long_rvos", "--long_rvos_path", str(root), *small.split(), *flags])
