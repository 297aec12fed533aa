"""Writes a tiny A2D-Sentences in its exact form on disk: mp4, transposed h5 masks, CSV files with their odd rows.

Every frame tells its number by its brightness and has two instances, which move down: 0 red at the left, 1 blue at the
right. Where they are is a function of instance, frame and size alone.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import h5py
import numpy as np

from opts import parse_train_args

DARKEST, STEP = 40, 4
COLOURS = {0: (220, 30, 30), 1: (30, 30, 220)}
QUERIES = {0: "the RED box  on the left", 1: "Blue box, moving down"}


def mask(instance: int, frame: int, size: tuple[int, int]) -> np.ndarray:
    """bool ``[H, W]``, where an instance is in a frame, numbered from 1: 12 rows that begin at row ``frame``."""
    height, width = size
    found = np.zeros(size, bool)
    left, right = ((4, width // 4), (width // 2, width - 6))[instance]
    found[frame : frame + 12, left:right] = True
    assert frame + 12 <= height
    return found


def image(frame: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 RGB ``[H, W, 3]``; the last rows and the last column are background in every frame."""
    found = np.full((*size, 3), DARKEST + STEP * frame, np.uint8)
    for instance, colour in COLOURS.items():
        found[mask(instance, frame, size)] = colour
    return found


def frame_number(frame: np.ndarray) -> int:
    """The number, from 1, that a decoded frame ``[H, W, 3]`` shows."""
    return round((float(frame[-4:, -4:].mean()) - DARKEST) / STEP)


@dataclass(frozen=True)
class MiniVideo:
    """A video, and which instances each annotated frame (from 1) has."""

    name: str
    split: str
    length: int
    annotated: dict[int, tuple[int, ...]]
    size: tuple[int, int] = (48, 80)


VIDEOS = (
    MiniVideo("-aa_long", "train", 30, {1: (0, 1), 15: (1,), 30: (0, 1)}),
    MiniVideo("bb_tall", "train", 9, {5: (0,)}, size=(80, 48)),
    MiniVideo("cc_test", "test", 12, {4: (1, 0), 10: (1,)}),
    MiniVideo("T6bNPuKV-wY", "test", 5, {2: (0, 1)}),
)
MISSED = "dd_missed"


def write_video(path: Path, length: int, size: tuple[int, int], gop: int = 8) -> None:
    """An H.264 file with a key frame every ``gop`` frames and B-frames in between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.gop_size = gop
        stream.options = {"crf": "12", "bf": "2"}
        for frame in range(1, length + 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image(frame, size), format="rgb24")))
        container.mux(stream.encode())


def write_masks(path: Path, frame: int, instances: Sequence[int], size: tuple[int, int]) -> None:
    """The h5 file of a frame, with the arrays' axes in MATLAB's order and no leading axis for a single instance."""
    path.parent.mkdir(parents=True, exist_ok=True)
    masks = np.stack([mask(i, frame, size).T for i in instances]).astype(np.uint8)
    corners = [np.argwhere(mask(i, frame, size)) for i in instances]
    boxes = np.array([(*c.min(0)[::-1], *c.max(0)[::-1]) for c in corners], float).T
    with h5py.File(path, "w") as file:
        file["instance"] = np.array(instances, float)
        file["reMask"] = masks[0] if len(instances) == 1 else masks
        file["reBBox"] = boxes[:, 0] if len(instances) == 1 else boxes


def write_mini_a2d(root: Path, videos: Sequence[MiniVideo] = VIDEOS, clips: str = "clips320H") -> Path:
    """Writes the original files, without lists and ground truth, and returns the root."""
    texts = root / "text_annotations"
    rows = []
    for video in videos:
        write_video(root / "Release" / clips / f"{video.name}.mp4", video.length, video.size)
        for frame, instances in video.annotated.items():
            path = texts / "a2d_annotation_with_instances" / video.name / f"{frame:05d}.h5"
            write_masks(path, frame, instances, video.size)
        spoken = sorted({i for instances in video.annotated.values() for i in instances})
        rows += [[video.name, i, QUERIES[i]] for i in spoken]
    rows += [["T6bNPuKV-wY", "1 (copy)", "bird standing in the beach"], ["bb_tall", 7, "it is never annotated"]]
    with (texts / "a2d_annotation.txt").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["video_id", "instance_id", "query"], *rows])
    (texts / "a2d_missed_videos.txt").write_text(f"{MISSED}\n")
    with (root / "Release" / "videoset.csv").open("w", newline="") as file:
        for video in (*videos, MiniVideo(MISSED, "train", 9, {})):
            columns = [video.name, 35, "0:00:01", "0:00:02", *video.size, video.length, len(video.annotated)]
            csv.writer(file).writerow([*columns, int(video.split == "test")])
    return root


def mini_args(root: Path, *flags: str) -> argparse.Namespace:
    """Options for the tiny data: small frames, no worker processes."""
    small = "--dataset_file a2d --train_sizes 32 48 --max_size 96 --eval_size 48 --num_frames 4 --num_workers 0"
    return parse_train_args(["--a2d_path", str(root), *small.split(), *flags])
