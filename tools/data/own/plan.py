"""Whether a user's table, videos and masks fit each other. All mismatches are found before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from tools.data.own.coco import read_coded
from tools.data.own.masks import CodedMasks, Findings, NoObjects, VideoMasks, frame_of, read_folder
from tools.data.own.table import Row, read_table
from tools.data.own.videos import SEE, Folder, Video, read_video, video_name
from util.files.reading import whole_number
from util.run.cli import summarise

MOST_OBJECTS = 255
NO_MASK = "frames have no mask and are not supervised"
LEFT_OUT = "masks belong to frames that --every leaves out"
UNNAMED = "objects of the masks are named by no expression"
ABSENT = "expressions name no object: they mean nothing in their video"

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Part:
    """A video that is ready to be written.

    Attributes:
        video: its frames.
        masks: its masks.
        stems: the name that the mask of a frame has among ``masks``, for each taken frame with a mask.
        numbers: pixel value of each object.
        rows: its expressions.
    """

    video: Video
    masks: VideoMasks
    stems: dict[str, str]
    numbers: dict[str, int]
    rows: tuple[Row, ...]


class Masks:
    """What ``--masks`` names: a folder, or a json file. Entries of a json that cannot be used become ``faults``.

    Raises FileNotFoundError and ValueError where there is nothing of the kind.
    """

    def __init__(self, path: Path, faults: list[str]) -> None:
        self.path = path
        self._coded: dict[str, CodedMasks] | None = None
        if path.is_file():
            self._coded = read_coded(path, faults)
        elif not path.is_dir():
            raise FileNotFoundError(f"--masks {path}: no such folder or file; {SEE}")

    def of(self, video: Video, faults: list[str]) -> VideoMasks:
        """The masks of a video. Raises ValueError where there are none, or some of two kinds."""
        if self._coded is not None:
            found = [self._coded[name] for name in dict.fromkeys((video.name, video.path.name)) if name in self._coded]
            if len(found) != 1:
                raise ValueError(f"{self.path}: {'names no' if not found else 'names twice a'} video {video.name}")
            return found[0]
        folder, file = self.path / video.name, self.path / f"{video.name}.json"
        if folder.is_dir() == file.is_file():
            both = "both" if folder.is_dir() else "neither"
            raise ValueError(f"{self.path}: holds {both} a folder {folder.name} and a file {file.name}; one is needed")
        if folder.is_dir():
            return read_folder(folder)
        coded = read_coded(file, faults, video.name)
        if video.name not in coded:
            raise ValueError(f"{file}: has no frame of the video {video.name}")
        return coded[video.name]


def in_threads(work: Callable[[Item], Result], items: Sequence[Item], workers: int, desc: str) -> list[Result]:
    """The results of ``work`` for each video; the first error ends it."""
    pool = ThreadPoolExecutor(workers)
    try:
        return list(tqdm(pool.map(work, items), desc, len(items), unit="video", disable=None))
    finally:
        pool.shutdown(cancel_futures=True)


def make_plan(
    videos: Path, masks: Path, table: Path, every: int, workers: int
) -> tuple[list[Part], list[str], Counter[str]]:
    """The videos of a table, sorted by name.

    Args:
        videos: holds a folder of frames or a film for each video.
        masks: a folder, or a json file.
        table: the expressions.
        every: take one frame of so many.
        workers: threads.

    Returns:
        The videos without mismatches; all mismatches, each with its file and row; and how often other things were met.

    Raises:
        FileNotFoundError, ValueError: one of the three is missing, or nothing of the kind.
    """
    faults: list[str] = []
    rows, folder, store = read_table(table, faults), Folder(videos), Masks(masks, faults)
    notes: Counter[str] = Counter()
    of_videos = _by_video(rows, folder, faults)

    def scan(path: Path) -> tuple[Part | None, Findings]:
        found = Findings()
        try:
            video = read_video(path, every)
            asked = any(row.object is not None for row in of_videos[path])
            masks_of_video = store.of(video, found.faults) if asked else NoObjects(str(path), video.names)
            return _scan(video, masks_of_video, tuple(of_videos[path]), found), found
        except (ValueError, OSError) as error:
            found.faults.append(f"{error} ({of_videos[path][0].where})")
            return None, found

    parts = []
    for part, found in in_threads(scan, sorted(of_videos, key=video_name), workers, "masks"):
        faults += found.faults
        notes += found.notes
        parts += [part] if part and not found.faults else []
    unnamed = folder.unnamed(set(of_videos))
    if unnamed:
        notes[f"videos are in no row of the table and left out ({summarise(unnamed)})"] = len(unnamed)
    return parts, faults, notes


def _by_video(rows: Sequence[Row], folder: Folder, faults: list[str]) -> dict[Path, list[Row]]:
    """The rows of each video that there is, by its folder or film."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.video, []).append(row)
    of_videos: dict[Path, list[Row]] = {}
    for name, of_name in found.items():
        try:
            of_videos.setdefault(folder.find(name), []).extend(of_name)
        except ValueError as error:
            more = f" and {len(of_name) - 1} more rows" if len(of_name) > 1 else ""
            faults.append(f"{of_name[0].where}{more}: video {name}: {error}")
    same = Counter(map(video_name, of_videos))
    for path in [path for path in of_videos if same[video_name(path)] > 1]:
        where = of_videos[path][0].where
        faults.append(f"{path}: another video is named {video_name(path)}, too; rename one ({where})")
        del of_videos[path]
    return of_videos


def _scan(video: Video, masks: VideoMasks, rows: tuple[Row, ...], found: Findings) -> Part:
    """Reads the masks of a video. What cannot be used is added to ``found``."""
    stems: dict[str, str] = {}
    for stem in masks.stems:
        try:
            frame = frame_of(video, stem)
        except ValueError as error:
            found.faults.append(f"{masks.where}: {error}")
            continue
        if frame in stems:
            found.faults.append(f"{masks.where}: {stems[frame]} and {stem} are masks of one frame; take one out")
        stems[frame] = stem
    taken = {frame: stems[frame] for frame in video.frames if frame in stems}
    seen: set[str] = set()
    for stem in taken.values():
        seen |= masks.seen(stem, video.size, found)
    if not taken and not found.faults:
        found.faults.append(f"{masks.where}: has no mask of any frame that is taken of {video.path}")
    found.notes[NO_MASK] += len(video.frames) - len(taken)
    found.notes[LEFT_OUT] += len(stems) - len(taken)
    if len(seen) > MOST_OBJECTS:
        found.faults.append(f"{masks.where}: shows {len(seen)} objects; a video can have {MOST_OBJECTS}")
    numbers = numbered(seen)
    # only where all masks could be read, because one that could not may show the object
    for row in rows if not found.faults else ():
        if row.object is not None and row.object not in numbers:
            there = f"there are {summarise(list(numbers))}" if numbers else "they show nothing"
            found.faults.append(
                f"{row.where}: object {row.object} of video {video.name} is in none of its masks in {masks.where}; "
                f"{there}"
            )
    found.notes[ABSENT] += sum(row.object is None for row in rows)
    found.notes[UNNAMED] += len(numbers.keys() - {row.object for row in rows})
    return Part(video, masks, taken, numbers, rows)


def numbered(names: set[str]) -> dict[str, int]:
    """The pixel value of each object: its own number where all have one from 1 to 255, else its place among them."""
    order = sorted(names, key=lambda name: (whole_number(name) is None, whole_number(name) or 0, name))
    own = [whole_number(name) or 0 for name in order]
    numbers = own if own and min(own) > 0 and max(own) <= MOST_OBJECTS else range(1, len(order) + 1)
    return dict(zip(order, numbers, strict=True))
