"""Writes a tiny data set in the layout of Ref-YouTube-VOS, with masks known to the pixel."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from opts import parse_train_args

COLOURS = {1: (220, 40, 40), 2: (40, 40, 220)}


@dataclass(frozen=True)
class MiniVideo:
    """A video with a red object 1 at the left and a blue object 2 at the right, both moving down.

    Object 2 is out of sight in the frames of ``absent``.
    """

    name: str
    length: int = 7
    height: int = 48
    width: int = 80
    absent: tuple[int, ...] = ()

    @property
    def frames(self) -> list[str]:
        """YouTube-VOS numbers every fifth frame."""
        return [f"{5 * t:05d}" for t in range(self.length)]

    def labels(self, t: int) -> np.ndarray:
        """uint8 object ids ``[height, width]`` of frame ``t``."""
        ids = np.zeros((self.height, self.width), np.uint8)
        h, w = self.height, self.width
        top = 2 * t
        ids[top : top + h // 3, w // 16 : w // 4] = 1
        if t not in self.absent:
            ids[top : top + h // 4, w // 2 : w - 4] = 2
        return ids

    def objects(self) -> dict[str, dict]:
        """Those of meta.json, with the frames that show each."""
        shown = [name for t, name in enumerate(self.frames) if t not in self.absent]
        return {"1": {"category": "person", "frames": self.frames}, "2": {"category": "zebra", "frames": shown}}

    def expressions(self) -> dict[str, dict]:
        return {
            "0": {"exp": "the red box on the left", "obj_id": "1"},
            "1": {"exp": "the bright blue box to the Right", "obj_id": "2"},
            "2": {"exp": "a box that is not blue", "obj_id": "1"},
        }


VIDEOS = (
    MiniVideo("aa_wide"),
    MiniVideo("bb_absent", length=6, absent=(0, 1, 2, 3)),
    MiniVideo("cc_portrait", height=96, width=56),
    MiniVideo("dd_short", length=3),
)


def write_video(root: Path, split: str, video: MiniVideo) -> None:
    """Writes the frames and masks of one video under ``root/split``."""
    frame_dir, mask_dir = (root / split / kind / video.name for kind in ("JPEGImages", "Annotations"))
    frame_dir.mkdir(parents=True)
    mask_dir.mkdir(parents=True)
    palette = [0, 0, 0, *COLOURS[1], *COLOURS[2]]
    for t, name in enumerate(video.frames):
        ids = video.labels(t)
        mask = Image.fromarray(ids)
        mask.putpalette(palette)
        mask.save(mask_dir / f"{name}.png")
        ramp = np.linspace(90, 160, video.width, dtype=np.uint8)
        image = np.broadcast_to(ramp[None, :, None], (*ids.shape, 3)).copy()
        for number, colour in COLOURS.items():
            image[ids == number] = colour
        Image.fromarray(image).save(frame_dir / f"{name}.jpg", quality=95)


def write_meta(root: Path, split: str, videos: dict[str, dict]) -> Path:
    """Writes a meta_expressions file with these videos."""
    path = root / "meta_expressions" / split / "meta_expressions.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"videos": videos}))
    return path


def meta_entry(video: MiniVideo, objects: bool = True) -> dict:
    """The entry of a video in meta_expressions; ``obj_id`` is in the training file only."""
    expressions = video.expressions()
    if not objects:
        expressions = {key: {"exp": value["exp"]} for key, value in expressions.items()}
    return {"expressions": expressions, "frames": video.frames}


def write_mini_ytvos(
    root: Path, train: tuple[MiniVideo, ...] = VIDEOS, valid: tuple[MiniVideo, ...] = VIDEOS[:2]
) -> Path:
    """Writes the data set and returns its root. ``valid`` has masks too; there is no test file."""
    for split, videos in (("train", train), ("valid", valid)):
        for video in videos:
            write_video(root, split, video)
        write_meta(root, split, {video.name: meta_entry(video, objects=split == "train") for video in videos})
    meta = {"videos": {video.name: {"objects": video.objects()} for video in train}}
    (root / "train" / "meta.json").write_text(json.dumps(meta))
    return root


def mini_args(root: Path, *flags: str) -> argparse.Namespace:
    """Training options for the tiny data: small frames, three-frame clips, no worker processes."""
    small = "--train_sizes 32 48 --max_size 96 --eval_size 40 --num_frames 3 --num_workers 0"
    return parse_train_args(["--ytvos_path", str(root), *small.split(), *flags])
