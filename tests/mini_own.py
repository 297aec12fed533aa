"""Writes a tiny set of a user's own data: a folder of frames, a film, masks in any form, and a table."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.mini_films import write_film
from tests.mini_ytvos import COLOURS, MiniVideo
from tools.data import convert_own

FOLDER = MiniVideo("at_home", length=4, absent=(1,))
FILM = MiniVideo("clip", length=5, height=32, width=48)
VIDEOS = (FOLDER, FILM)
ROWS = (
    ("at_home", 1, "the red box on the left"),
    ("at_home", 2, "the Blue box,  to the right"),
    ("clip.mp4", 2, "a box that is blue"),
    ("clip", 1, "the red one"),
)
# an object of each video has an "id" of its own
TRACKS = {("at_home", 1): 11, ("at_home", 2): 12, ("clip", 1): 301, ("clip", 2): 302}


@dataclass(frozen=True)
class Mine:
    """The paths of a user's files."""

    root: Path

    @property
    def videos(self) -> Path:
        return self.root / "videos"

    def masks(self, form: str) -> Path:
        return self.root / (f"{form}.json" if "coco" in form or form == "youtube_vis" else form)

    def table(self, form: str = "csv") -> Path:
        return self.root / f"table.{form}"


def names(video: MiniVideo) -> list[str]:
    """The names of the frames: pictures are numbered as in YouTube-VOS, frames of a film from 0."""
    return [f"{t:05d}" for t in range(video.length)] if video is FILM else video.frames


def picture(video: MiniVideo, t: int) -> np.ndarray:
    """uint8 RGB ``[height, width, 3]``."""
    image = np.full((video.height, video.width, 3), 120, np.uint8)
    for number, colour in COLOURS.items():
        image[video.labels(t) == number] = colour
    return image


def rle(mask: np.ndarray) -> dict:
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def runs(mask: np.ndarray) -> dict:
    """The uncompressed form."""
    flat = np.concatenate(([0], mask.T.ravel().astype(int), [2]))
    changes = np.flatnonzero(np.diff(flat)).tolist()
    return {"size": list(mask.shape), "counts": np.diff([0, *changes]).tolist()}


def box(mask: np.ndarray) -> list[list[float]]:
    """A polygon of a mask that is a rectangle."""
    y, x = np.nonzero(mask)
    left, right, top, bottom = int(x.min()), int(x.max()) + 1, int(y.min()), int(y.max()) + 1
    return [[left, top, right, top, right, bottom, left, bottom]]


def write_videos(mine: Mine) -> None:
    folder = mine.videos / FOLDER.name
    folder.mkdir(parents=True)
    for t, name in enumerate(names(FOLDER)):
        Image.fromarray(picture(FOLDER, t)).save(folder / f"{name}.jpg", quality=95)
    write_film(mine.videos / f"{FILM.name}.mp4", [picture(FILM, t) for t in range(FILM.length)])


def write_label_maps(mine: Mine) -> None:
    for video in VIDEOS:
        folder = mine.masks("label_maps") / video.name
        folder.mkdir(parents=True)
        for t, name in enumerate(names(video)):
            Image.fromarray(video.labels(t)).save(folder / f"{name}.png")


def write_objects(mine: Mine) -> None:
    for video in VIDEOS:
        for t, name in enumerate(names(video)):
            for number in COLOURS:
                path = mine.masks("objects") / video.name / f"{number:02d}" / f"{name}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((video.labels(t) == number).astype(np.uint8) * 255).save(path)


def coco_of(video: MiniVideo, first: int, prefix: str) -> tuple[list[dict], list[dict]]:
    """Images and annotations of a video; ids count from ``first``. All three forms of a segmentation are among them."""
    images, annotations = [], []
    for t, name in enumerate(names(video)):
        size = {"height": video.height, "width": video.width}
        images.append({"id": first + t, "file_name": f"{prefix}{name}.jpg", **size})
        for number, of_form in ((1, box), (2, (rle, runs)[t % 2])):
            mask = video.labels(t) == number
            if mask.any():
                annotations.append({"image_id": first + t, "category_id": 1, "segmentation": of_form(mask)})
                key = {"track_id": number} if number == 1 else {"attributes": {"track_id": number, "occluded": False}}
                annotations[-1] |= key
    return images, annotations


def write_coco(mine: Mine) -> None:
    images, annotations = [], []
    for place, video in enumerate(VIDEOS):
        of_video = coco_of(video, 100 * place, f"any/folder/{video.name}/")
        images += of_video[0]
        annotations += of_video[1]
    mine.masks("coco").write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))


def write_coco_each(mine: Mine) -> None:
    """A file for each video, as annotation tools export them: the names of its frames have no folder."""
    folder = mine.root / "each"
    folder.mkdir()
    for video in VIDEOS:
        images, annotations = coco_of(video, 0, "frame_" if video is FILM else "")
        (folder / f"{video.name}.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def write_youtube_vis(mine: Mine) -> None:
    videos, annotations = [], []
    for place, video in enumerate(VIDEOS):
        files = [f"{video.name}/{name}.jpg" for name in names(video)]
        size = {"height": video.height, "width": video.width, "length": video.length}
        videos.append({"id": place, "file_names": files, **size})
        for number in COLOURS:
            masks = [video.labels(t) == number for t in range(video.length)]
            codes = [runs(mask) if mask.any() else None for mask in masks]
            annotations.append({"id": TRACKS[video.name, number], "video_id": place, "segmentations": codes})
    mine.masks("youtube_vis").write_text(json.dumps({"videos": videos, "annotations": annotations}))


def write_table(mine: Mine, rows: Sequence[Sequence[object]] = ROWS) -> None:
    with mine.table().open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("video", "object", "expression"), *rows])


def write_json_table(mine: Mine, objects: Mapping[tuple[str, int], int]) -> None:
    rows = [
        {"video": video, "object": objects[video.removesuffix(".mp4"), number], "expression": text}
        for video, number, text in ROWS
    ]
    mine.table("json").write_text(json.dumps(rows))


FORMS = {
    "label_maps": write_label_maps,
    "objects": write_objects,
    "coco": write_coco,
    "each": write_coco_each,
    "youtube_vis": write_youtube_vis,
}


def write_own(root: Path, *forms: str) -> Mine:
    """Writes the videos, the table and masks of these forms."""
    mine = Mine(root)
    write_videos(mine)
    write_table(mine)
    for form in forms:
        FORMS[form](mine)
    return mine


def convert(mine: Mine, form: str, *flags: object, table: str = "csv") -> tuple[Path, dict, list[str]]:
    """The folder of the converted set, its counts and the notes."""
    out = mine.root / "own"
    words = [mine.videos, "--masks", mine.masks(form), "--table", mine.table(table), "--output_dir", out]
    args = convert_own.parse_args([str(word) for word in (*words, "--workers", 1, "--valid", 0, *flags)])
    return (out, *convert_own.convert(args))


def listed(out: Path, split: str = "train") -> dict[str, dict]:
    """The videos of a split in the converted set."""
    return json.loads((out / "meta_expressions" / split / "meta_expressions.json").read_text())["videos"]
