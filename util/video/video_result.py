"""The files of a segmented video: an overlay with a legend, masks, a contact sheet, and a record of everything.

Frames are handled one by one, so that a long video needs no more memory than a short one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image
from torch import Tensor

from util.files.writing import atomic_path, open_json
from util.masks.coco import encode_masks
from util.masks.results import write_mask_png
from util.run.log import progress_bar
from util.video.sheets import SheetRow, contact_sheet, for_sheet
from util.video.visualize import distinct_colours, open_film, painter

# The files and folders of a result; the record is in every result.
RECORD = "segmentation.json"
PIECES = ("overlay.mp4", "overlay.png", "masks", "sheet.png", RECORD)
MASK_FORMS = ("png", "rle", "none")
SHEET_FRAMES = 5
NOT_THERE = "not there"
# bytes of frames and masks that are read at a time
_BYTES = 1 << 27

# takes the number of a frame, the frame, uint8 [H, W, 3], and its masks, bool [E, H, W]
Add = Callable[[int, np.ndarray, np.ndarray], None]


class Video(Protocol):
    """The part of :class:`util.video.own_video.OwnVideo` that is used here; its docstring describes the attributes."""

    path: Path
    is_image: bool
    size: tuple[int, int]
    names: Sequence[str]
    times: Sequence[float]

    def __len__(self) -> int: ...

    def read(self, positions: Sequence[int]) -> Tensor: ...


class Segmentation(Protocol):
    """The answers to E expressions."""

    scores: Sequence[float]
    there: Sequence[bool]

    def masks(self, start: int, stop: int) -> Tensor:
        """bool ``[E, stop - start, H, W]``, on the CPU, in the size of the frames."""


def where_found(there: bool, seen: int, frames: int) -> str:
    """The answer to an expression in words.

    Args:
        there: whether it means something in the video at all.
        seen: number of frames in which its mask has a pixel; frames: number of all.
    """
    if not there:
        return NOT_THERE
    return f"in {seen} of {frames} frames" if seen else "in no frame"


def caption(text: str, score: float, there: bool) -> str:
    """An expression with its answer, as a legend shows it."""
    return f"{text} · {score:.2f}{'' if there else f' · {NOT_THERE}'}"


def write_result(
    folder: Path, video: Video, expressions: Sequence[str], segmentation: Segmentation, form: str
) -> list[int]:
    """Writes :data:`PIECES`.

    Args:
        folder: exists.
        form: of the masks, one of :data:`MASK_FORMS`: PNGs in a folder for each expression, or COCO's run lengths in
            the record, or no masks.

    Returns:
        For each expression, the number of frames in which its mask has a pixel.
    """
    colours = distinct_colours(len(expressions))
    answers = zip(expressions, segmentation.scores, segmentation.there, strict=True)
    captions = [caption(*answer) for answer in answers]
    seen = np.zeros(len(expressions), int)
    height, width = video.size
    at_once = min(16, max(1, _BYTES // (height * width * (3 + len(expressions)))))
    with ExitStack() as stack, progress_bar(total=len(video), desc="write", unit="frame") as bar:
        paint = _still if video.is_image else _film
        outputs = [
            stack.enter_context(paint(folder, video, captions, colours)),
            stack.enter_context(_sheet(folder / "sheet.png", video, captions, colours)),
            stack.enter_context(_record(folder, video, expressions, segmentation, form)),
        ]
        for start in range(0, len(video), at_once):
            stop = min(start + at_once, len(video))
            frames = video.read(range(start, stop)).permute(0, 2, 3, 1).numpy()
            masks = segmentation.masks(start, stop).numpy()
            seen += masks.any((2, 3)).sum(1)
            for t, frame in enumerate(frames):
                for add in outputs:
                    add(start + t, frame, masks[:, t])
                bar.update()
    return seen.tolist()


@contextmanager
def _film(folder: Path, video: Video, captions: list[str], colours: list) -> Iterator[Add]:
    """The frames with their masks painted over, each shown as long as in the video."""
    painted = painter(captions, colours)
    length = video.times[-1] - video.times[0]
    with open_film(folder / "overlay.mp4", len(video) / length if length else 1) as show:
        yield lambda i, frame, masks: show(painted(frame, masks), video.times[i], video.times[i + 1])


@contextmanager
def _still(folder: Path, video: Video, captions: list[str], colours: list) -> Iterator[Add]:
    painted = painter(captions, colours)

    def add(_: int, frame: np.ndarray, masks: np.ndarray) -> None:
        with atomic_path(folder / "overlay.png") as temporary:
            Image.fromarray(painted(frame, masks)).save(temporary, format="PNG")

    yield add


@contextmanager
def _sheet(path: Path, video: Video, captions: list[str], colours: list) -> Iterator[Add]:
    """A few frames, from the first to the last, with the mask of each expression."""
    count = min(SHEET_FRAMES, len(video))
    chosen = {round(i * (len(video) - 1) / max(1, count - 1)) for i in range(count)}
    frames, names, masks_of = [], [], [[] for _ in captions]

    def add(i: int, frame: np.ndarray, masks: np.ndarray) -> None:
        if i in chosen:
            small, small_masks = for_sheet(frame, masks)
            frames.append(small)
            names.append(video.names[i])
            for found, mask in zip(masks_of, small_masks, strict=True):
                found.append(mask)

    yield add
    rows = [
        SheetRow(caption, "", frames, None, np.stack(masks), names, colour, plain=i == 0)
        for i, (caption, masks, colour) in enumerate(zip(captions, masks_of, colours, strict=True))
    ]
    contact_sheet(rows, path)


@contextmanager
def _record(
    folder: Path, video: Video, expressions: Sequence[str], segmentation: Segmentation, form: str
) -> Iterator[Add]:
    """The record: the expressions with their scores, and the masks."""
    folders = [f"masks/{i}_{_file_name(text)}" for i, text in enumerate(expressions, 1)]
    answers = zip(expressions, segmentation.scores, segmentation.there, strict=True)
    found = [{"text": text, "score": round(score, 4), "there": there} for text, score, there in answers]
    if form == "png":
        found = [{**entry, "masks": name} for entry, name in zip(found, folders, strict=True)]
    head = {"video": str(video.path), "size": list(video.size), "expressions": found}
    with open_json(folder / RECORD, head, "frames") as write:

        def add(i: int, _: np.ndarray, masks: np.ndarray) -> None:
            frame = {"name": video.names[i], "seconds": round(video.times[i], 6)}
            if form == "rle":
                frame["masks"] = encode_masks(masks)
            if form == "png":
                for name, mask in zip(folders, masks, strict=True):
                    write_mask_png(folder / name / f"{video.names[i]}.png", mask)
            write(frame)

        yield add


def _file_name(text: str) -> str:
    """The beginning of a text, in any script, as a file name that every system allows."""
    return re.sub(r"\W+", "_", text)[:40].strip("_")
