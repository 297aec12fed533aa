"""Writes DAVIS 2017 and the annotators' text files in miniature, as they are when unzipped, with known masks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {1: (220, 40, 40), 2: (40, 40, 220), 3: (40, 200, 40)}
VOID = 255


@dataclass(frozen=True)
class MiniVideo:
    """A video with objects side by side, all moving down; objects above ``named`` have no text.

    With ``void``, the lower right corner of its unsupervised masks is void in every frame.
    """

    name: str
    categories: tuple[str, ...]
    named: int
    spelt: str | None = None
    void: bool = False
    length: int = 5
    height: int = 48
    width: int = 80

    @property
    def frames(self) -> list[str]:
        return [f"{t:05d}" for t in range(self.length)]

    def labels(self, t: int, void: bool = False) -> np.ndarray:
        """uint8 object ids ``[height, width]`` of frame ``t``."""
        ids = np.zeros((self.height, self.width), np.uint8)
        for number in range(1, len(self.categories) + 1):
            left = 4 + 26 * (number - 1)
            ids[2 * t + 4 : 2 * t + 20, left : left + 18] = number
        if void:
            ids[-8:, -8:] = VOID
        return ids

    def text(self, annotator: int, number: int) -> str:
        """What an annotator, 0 to 3, calls an object; each text has a letter beyond ASCII."""
        colour = ("red", "blue", "green")[number - 1]
        return (f"the {colour} café", f"a {colour} café going down", f"señor {colour}", f"the {colour} señor")[
            annotator
        ]


TRAIN = (
    MiniVideo("classic-car", ("car",), named=1, spelt="clasic-car"),
    MiniVideo("dogs-scale", ("dog", "dog"), named=2, spelt="dog-scale"),
    MiniVideo("motorbike", ("motorcycle", "person"), named=2, spelt="motor-bike"),
)
VALID = (
    MiniVideo("goat", ("goat",), named=1),
    MiniVideo("pigs", ("pig", "pig", "pig"), named=2, void=True),
)
TEXT_FILES = {
    "Davis17_annot1.txt": "utf-8",
    "Davis17_annot1_full_video.txt": "utf-8",
    "Davis17_annot2.txt": "latin-1",
    "Davis17_annot2_full_video.txt": "latin-1",
}


def write_masks(folder: Path, maps: dict[str, np.ndarray]) -> None:
    """Writes label maps as palette PNGs by the name of their frame."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, labels in maps.items():
        image = Image.fromarray(labels)
        # All 256 colours: Pillow packs an image with fewer into fewer bits and so loses 255.
        image.putpalette([0, 0, 0, *(value for colour in COLOURS.values() for value in colour)] + [200] * 252 * 3)
        image.save(folder / f"{name}.png")


def _write_video(davis: Path, video: MiniVideo) -> None:
    frames = davis / "JPEGImages" / "480p" / video.name
    frames.mkdir(parents=True)
    for t, name in enumerate(video.frames):
        labels = video.labels(t)
        image = np.full((*labels.shape, 3), 120, np.uint8)
        for number, colour in COLOURS.items():
            image[labels == number] = colour
        Image.fromarray(image).save(frames / f"{name}.jpg", quality=95)
    for kind, void in (("Annotations_unsupervised", video.void), ("Annotations", False)):
        maps = {name: video.labels(t, void) for t, name in enumerate(video.frames)}
        write_masks(davis / kind / "480p" / video.name, maps)


def write_mini_davis(root: Path, train: tuple[MiniVideo, ...] = TRAIN, valid: tuple[MiniVideo, ...] = VALID) -> Path:
    """Writes ``DAVIS`` and ``davis_text_annotations`` and returns the folder that holds them."""
    davis, everything = root / "DAVIS", (*train, *valid)
    for video in everything:
        _write_video(davis, video)
    lists = davis / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    for name, videos in (("train", train), ("val", valid)):
        (lists / f"{name}.txt").write_text("".join(f"{video.name}\n" for video in videos))
    semantics = {video.name: {str(n): c for n, c in enumerate(video.categories, 1)} for video in everything}
    (davis / "davis_semantics.json").write_text(json.dumps(semantics))
    (root / "davis_text_annotations").mkdir()
    for annotator, (name, encoding) in enumerate(TEXT_FILES.items()):
        lines = [
            f'{video.spelt or video.name} {number} "{video.text(annotator, number)}"\r\n'
            for video in everything
            for number in range(1, video.named + 1)
        ]
        # The annotators' files are not in the same order.
        lines = lines[::-1] if annotator % 2 else lines
        (root / "davis_text_annotations" / name).write_bytes("".join(lines).encode(encoding))
    return root
