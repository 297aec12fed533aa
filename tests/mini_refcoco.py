"""Writes tiny originals of RefCOCO, RefCOCO+ and RefCOCOg as they are downloaded, with masks known to the pixel."""

from __future__ import annotations

import argparse
import json
import struct
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from opts import parse_train_args
from tests.mini_ytvos import COLOURS
from tools.data.convert_refcoco import convert, write

DIVISION = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
PERSON, ZEBRA = 1, 24
# What is said of the objects 1 and 2 of every image. Python 2 kept some of it as bytes that are no ASCII.
SENTENCES = {
    1: ["red box on the left", "caf\xe9 table".encode("latin-1"), "cr\xe8me box".encode()],
    2: ["blue box on right"],
}
CAPTIONS = {1: ["red box on the left", "caf\xe9 table", "cr\xe8me box"], 2: ["blue box on right"]}


@dataclass(frozen=True)
class MiniImage:
    """An image with a red box at the left, which has a polygon, and a blue one at the right, which has run lengths."""

    number: int
    split: str
    height: int = 48
    width: int = 64
    grey: bool = False

    @property
    def file_name(self) -> str:
        return f"COCO_train2014_{self.number:012d}.jpg"

    def box(self, which: int) -> tuple[int, int, int, int]:
        """Left, top, width and height in pixels."""
        h, w = self.height, self.width
        return (w // 8, h // 4, w // 4, h // 2) if which == 1 else (w // 2, h // 3, w // 3, h // 4)

    def mask(self, which: int) -> np.ndarray:
        """bool ``[height, width]``."""
        left, top, width, height = self.box(which)
        mask = np.zeros((self.height, self.width), bool)
        mask[top : top + height, left : left + width] = True
        return mask

    def pixels(self) -> np.ndarray:
        """uint8 RGB ``[height, width, 3]``."""
        ramp = np.linspace(90, 160, self.width, dtype=np.uint8)
        image = np.broadcast_to(ramp[None, :, None], (self.height, self.width, 3)).copy()
        for which, colour in COLOURS.items():
            image[self.mask(which)] = colour
        return image


# The test images of the sets by UNC are of testA and testB, those of the set by UMD of test.
IMAGES = (
    MiniImage(9, "train"),
    MiniImage(25, "train", grey=True),
    MiniImage(30, "train", height=64, width=48),
    MiniImage(36, "val"),
    MiniImage(49, "testA"),
    MiniImage(61, "testB"),
)


def annotation_id(image: MiniImage, which: int) -> int:
    return 10 * image.number + which


def run_lengths(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of 0 and 1 in turn, columns first, as COCO's crowds have them."""
    flat = np.concatenate([[False], mask.flatten(order="F"), [False]])
    ends = np.flatnonzero(np.diff(flat.astype(int)))
    return np.diff([0, *ends, mask.size]).tolist()


def segmentation(image: MiniImage, which: int) -> list | dict:
    if which == 2:
        return {"size": [image.height, image.width], "counts": run_lengths(image.mask(2))}
    left, top, width, height = image.box(1)
    right, bottom = left + width, top + height
    return [[left, top, right, top, right, bottom, left, bottom]]


def instances(images: tuple[MiniImage, ...] = IMAGES) -> dict:
    """The content of instances.json."""
    return {
        "info": {"description": "a miniature"},
        "licenses": [],
        "categories": [{"id": PERSON, "name": "person"}, {"id": ZEBRA, "name": "zebra"}],
        "images": [
            {"id": i.number, "file_name": i.file_name, "height": i.height, "width": i.width, "license": 1}
            for i in images
        ],
        "annotations": [
            {
                "id": annotation_id(i, which),
                "image_id": i.number,
                "category_id": PERSON if which == 1 else ZEBRA,
                "bbox": [float(v) for v in i.box(which)],
                "area": float(i.mask(which).sum()),
                "iscrowd": which - 1,
                "segmentation": segmentation(i, which),
            }
            for i in images
            for which in (1, 2)
        ],
    }


def references(name: str, images: tuple[MiniImage, ...] = IMAGES) -> list[dict]:
    """The content of the pickle."""
    sentences, refs = count(), count()
    merged = {"testA": "test", "testB": "test"} if DIVISION[name] == "umd" else {}
    found = []
    for image in images:
        for which, texts in SENTENCES.items():
            said = [{"sent_id": next(sentences), "sent": text, "raw": text, "tokens": text.split()} for text in texts]
            found.append(
                {
                    "ref_id": next(refs),
                    "ann_id": annotation_id(image, which),
                    "image_id": image.number,
                    "category_id": PERSON if which == 1 else ZEBRA,
                    "file_name": image.file_name.replace(".jpg", f"_{which}.jpg"),
                    "split": merged.get(image.split, image.split),
                    "sent_ids": [sentence["sent_id"] for sentence in said],
                    "sentences": said,
                }
            )
    return found


def python2_pickle(value: object, protocol: int) -> bytes:
    """Plain data as Python 2 pickled it with protocol 0 or 2, its texts being bytes."""

    def text(part: bytes) -> bytes:
        return b"S" + repr(part)[1:].encode() + b"\n" if protocol == 0 else b"U" + bytes([len(part)]) + part

    def encode(part: object) -> bytes:
        if isinstance(part, str | bytes):
            return text(part.encode("ascii") if isinstance(part, str) else part)
        if isinstance(part, int):
            return b"I%d\n" % part if protocol == 0 else b"J" + struct.pack("<i", part)
        if isinstance(part, list):
            if protocol == 0:
                return b"(l" + b"".join(encode(item) + b"a" for item in part)
            return b"](" + b"".join(map(encode, part)) + b"e"
        if protocol == 0:
            return b"(d" + b"".join(encode(key) + encode(item) + b"s" for key, item in part.items())
        return b"}(" + b"".join(encode(key) + encode(item) for key, item in part.items()) + b"u"

    return (b"\x80\x02" if protocol == 2 else b"") + encode(value) + b"."


def write_images(root: Path, images: tuple[MiniImage, ...] = IMAGES) -> None:
    folder = root / "train2014"
    folder.mkdir(parents=True, exist_ok=True)
    for image in images:
        picture = Image.fromarray(image.pixels())
        (picture.convert("L") if image.grey else picture).save(folder / image.file_name, quality=95)


def write_originals(root: Path, name: str, refs: list | None = None, content: dict | None = None) -> None:
    """Writes instances.json and the pickle of one set."""
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "instances.json").write_text(json.dumps(content or instances()))
    pickled = python2_pickle(references(name) if refs is None else refs, 2)
    (folder / f"refs({DIVISION[name]}).p").write_bytes(pickled)


def write_mini_refcoco(root: Path, converted: bool = True) -> Path:
    """Writes images and all three sets, and unless told otherwise converts them; returns the root."""
    write_images(root)
    for name in DIVISION:
        write_originals(root, name)
        if converted:
            splits, shared, _ = convert(root, name)
            write(root, name, splits, shared)
    return root


def mini_args(root: Path, *flags: str) -> argparse.Namespace:
    """Training options for the tiny data: small frames, no worker processes."""
    small = "--train_sizes 48 --max_size 64 --eval_size 40 --num_frames 1 --num_workers 0 --dataset_file refcoco"
    return parse_train_args(["--coco_path", str(root), *small.split(), *flags])
