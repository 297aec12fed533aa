"""Writes a tiny JHMDB-Sentences in its exact form on disk: PNG frames, .mat puppet masks, the list of samples.

The pictures are those of ``mini_a2d``; the person is the red box.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from tests.mini_a2d import image, mask


@dataclass(frozen=True)
class MiniVideo:
    """A video of which the first ``masks`` frames have masks, and the frames (from 1) that are listed."""

    name: str
    action: str
    length: int
    masks: int
    listed: tuple[int, ...]
    query: str
    size: tuple[int, int] = (40, 64)


VIDEOS = (
    MiniVideo("Climb_climb_f_cm_0", "climb", 6, 6, (1, 3, 6), " man in RED"),
    MiniVideo("wave_and_say_hi_1", "wave", 8, 5, (2, 5, 8), "red man waving"),
)
# the frame of which there is no mask
WITHOUT_MASK = "v_wave_and_say_hi_1_f_8"


def write_mini_jhmdb(root: Path, videos: Sequence[MiniVideo] = VIDEOS) -> Path:
    """Writes the original files, without ground truth, and returns the root; the list's paths name another folder."""
    rows, samples = [], []
    for video in videos:
        frames = root / "Rename_Images" / video.action / video.name
        frames.mkdir(parents=True)
        for frame in range(1, video.length + 1):
            Image.fromarray(image(frame, video.size)).save(frames / f"{frame:05d}.png")
        masks = root / "puppet_mask" / video.action / video.name / "puppet_mask.mat"
        masks.parent.mkdir(parents=True)
        part_mask = np.stack([mask(0, frame, video.size) for frame in range(1, video.masks + 1)], -1).astype(np.uint8)
        savemat(masks, {"part_mask": part_mask})
        rows.append([video.name, video.query])
        where = f"./jhmdb_sentences/%s/{video.action}/{video.name}/%s"
        samples += [
            [
                video.name,
                where % ("Rename_Images", f"{frame:05d}.png"),
                where % ("puppet_mask", "puppet_mask.mat"),
                video.length,
                video.query,
            ]
            for frame in video.listed
        ]
    with (root / "jhmdb_annotation.txt").open("w", newline="") as file:
        csv.writer(file).writerows([["video_id", "query"], *rows])
    (root / "jhmdb_sentences_samples_metadata.json").write_text(json.dumps(samples))
    return root
