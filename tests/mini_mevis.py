"""Writes a tiny data set in the layout of MeViS: several objects to an expression, run-length encoded masks."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from opts import parse_train_args

COLOURS = ((220, 40, 40), (40, 40, 220), (40, 200, 40))


@dataclass(frozen=True)
class MiniVideo:
    """A video with a red object 0 at the left, a blue object 1 at the right and a green one 2 that covers a part of 1.

    They move down. The masks of 1 and 2 overlap, as those of MeViS may.

    Attributes:
        first: annotation of object 0; those of the others follow.
        hidden: frames in which an object is out of sight.
    """

    name: str
    first: int
    length: int = 6
    height: int = 48
    width: int = 80
    hidden: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @property
    def frames(self) -> list[str]:
        return [f"{t:05d}" for t in range(self.length)]

    def mask(self, number: int, t: int) -> np.ndarray:
        """bool ``[height, width]`` of an object in frame ``t``."""
        mask = np.zeros((self.height, self.width), bool)
        if t not in self.hidden.get(number, ()):
            h, w, top = self.height, self.width, 2 * t
            rows = slice(top + (h // 8 if number == 2 else 0), top + h // 3)
            columns = (slice(w // 16, w // 4), slice(w // 2, 3 * w // 4), slice(5 * w // 8, w - 4))
            mask[rows, columns[number]] = True
        return mask

    def union(self, numbers: list[int], t: int) -> np.ndarray:
        return np.logical_or.reduce([self.mask(number, t) for number in numbers])

    def expressions(self, version: int = 1) -> dict[str, dict]:
        """As in the list of a split with masks; in version 2 the last one means no object."""
        said = {
            "the red box on the left": [0],
            "the two boxes that are to the Right": [1, 2],
            "all boxes": [2, 0, 1],
            "the box behind the green one": [1],
        }
        if version == 2:
            said["the yellow box that stands still"] = []
        return {
            str(i): {"exp": text, "obj_id": numbers, "anno_id": [self.first + number for number in numbers]}
            for i, (text, numbers) in enumerate(said.items())
        }

    def masks(self) -> dict[str, list]:
        """The video's part of mask_dict.json."""
        return {
            str(self.first + number): [rle(mask) for mask in (self.mask(number, t) for t in range(self.length))]
            for number in range(len(COLOURS))
        }

    def image(self, t: int) -> np.ndarray:
        """uint8 RGB ``[height, width, 3]``."""
        image = np.broadcast_to(
            np.linspace(90, 160, self.width, dtype=np.uint8)[None, :, None], (self.height, self.width, 3)
        ).copy()
        for number, colour in enumerate(COLOURS):
            image[self.mask(number, t)] = colour
        return image


def rle(mask: np.ndarray) -> dict | None:
    """A mask as mask_dict.json has it: null where there is nothing."""
    if not mask.any():
        return None
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


TRAIN = (
    MiniVideo("aa_wide", first=0),
    MiniVideo("bb_hidden", first=3, length=5, hidden={1: (0, 1, 2), 2: (1,)}),
    MiniVideo("cc_portrait", first=12, height=80, width=56),
)
VALID_U = (
    MiniVideo("dd_local", first=0, length=4, hidden={0: (2,)}),
    MiniVideo("ee_local", first=7, length=3, hidden={2: (0, 1)}),
)
VALID = (MiniVideo("ff_server", first=0, length=3),)


# names of the lists: those of version 2 as in the Hugging Face set FudanCVL/MeViSv2
LISTS = {
    1: dict.fromkeys(("train", "valid_u", "valid"), "meta_expressions.json"),
    2: {
        "train": "meta_expressions_v2.json",
        "valid_u": "meta_expressions_v2.json",
        "valid": "meta_expressions_v2_release.json",
    },
}


def write_mini_mevis(root: Path, version: int = 1) -> Path:
    """Writes the data set and returns its root; ``valid`` has neither masks nor ids."""
    for split, videos in (("train", TRAIN), ("valid_u", VALID_U), ("valid", VALID)):
        entries, masks = {}, {}
        for video in videos:
            folder = root / split / "JPEGImages" / video.name
            folder.mkdir(parents=True, exist_ok=True)
            for t, name in enumerate(video.frames):
                Image.fromarray(video.image(t)).save(folder / f"{name}.jpg", quality=95)
            expressions = video.expressions(version)
            if split == "valid":
                expressions = {i: {"exp": e["exp"]} for i, e in expressions.items()}
            else:
                masks |= video.masks()
            entries[video.name] = {"vid_id": len(entries), "expressions": expressions, "frames": video.frames}
        (root / split / LISTS[version][split]).write_text(json.dumps({"videos": entries}))
        if masks:
            (root / split / "mask_dict.json").write_text(json.dumps(masks))
    return root


def mini_args(root: Path, *flags: str, version: int = 1) -> argparse.Namespace:
    """Training options for the tiny data: small frames, three-frame clips, no worker processes."""
    small = "--train_sizes 32 48 --max_size 96 --eval_size 40 --num_frames 3 --num_workers 0"
    name = "mevis" if version == 1 else "mevis_v2"
    return parse_train_args(["--dataset_file", name, "--mevis_path", str(root), *small.split(), *flags])
