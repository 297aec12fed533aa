"""The videos of a user: a folder with a folder of frames or a film for each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from util.files.names import name_fault
from util.video.own_video import open_video
from util.video.pictures import PICTURE_SUFFIXES, find_files, list_files

SEE = "see docs/data.md, Your own data"
JPEG_QUALITY = 95
_AT_ONCE = 4  # decoded frames in memory


@dataclass(frozen=True)
class Video:
    """A video, and which of its frames are taken.

    Attributes:
        name: of its folder, or of the film without the suffix.
        path: of the folder or film.
        names: of all its frames in order; those of a film are their numbers from 0.
        files: the pictures of a folder, by frame; empty for a film.
        size: height and width.
        every: one frame of so many is taken.
    """

    name: str
    path: Path
    names: tuple[str, ...]
    files: dict[str, str]
    size: tuple[int, int]
    every: int

    @property
    def frames(self) -> tuple[str, ...]:
        """The frames that are taken."""
        return self.names[:: self.every]

    @property
    def is_film(self) -> bool:
        return not self.files


class Folder:
    """The folder that holds the videos, by the names under which a table may mean them.

    Raises FileNotFoundError where there is no such folder.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise FileNotFoundError(f"{path}: no such folder; give the folder that holds the videos; {SEE}")
        self.path = path
        self._found: dict[str, list[Path]] = {}
        self.pictures = 0
        for name in list_files(path):
            entry = path / name
            if entry.is_dir():
                self._found.setdefault(name, []).append(entry)
            elif entry.suffix.lower() in PICTURE_SUFFIXES:
                self.pictures += 1
            else:
                for key in {entry.stem, name}:  # a table may name a film with its suffix
                    self._found.setdefault(key, []).append(entry)

    def find(self, name: str) -> Path:
        """The folder or film of this name. Raises ValueError where there is none, or more than one."""
        found = self._found.get(name, [])
        if len(found) > 1:
            raise ValueError(f"{self.path} holds {' and '.join(path.name for path in found)}; rename one of them")
        if not found:
            hint = "; it holds frames itself: give the folder above it" if self.pictures else ""
            raise ValueError(f"{self.path} holds no folder or film of this name{hint}")
        return found[0]

    def unnamed(self, taken: set[Path]) -> list[str]:
        """The names of the videos that are not among these."""
        return sorted({path.name for found in self._found.values() for path in found if path not in taken})


def video_name(path: Path) -> str:
    """The name that a video has in the data set."""
    return path.name if path.is_dir() else path.stem


def read_video(path: Path, every: int) -> Video:
    """The frames of a video, one of ``every``; of a folder only the headers are read.

    Raises:
        ValueError, OSError: it cannot be read, its frames have several sizes, or a name cannot be one of the data set.
    """
    with open_video(path) as video:
        names, size = video.names, video.size
    files = find_files(path, names) if path.is_dir() else {}
    faults = [name_fault(video_name(path)), *map(name_fault, names)]
    faults += [f"{name}: has the suffix of a picture in its name" for name in names if _suffixed(name)]
    if fault := next(filter(None, faults), None):
        raise ValueError(f"{path}: {fault}; rename it")
    return Video(video_name(path), path, tuple(names), files, size, every)


def _suffixed(name: str) -> bool:
    return name.lower().endswith(PICTURE_SUFFIXES)


def write_frames(video: Video, folder: Path) -> int:
    """Decodes a film once, into JPEGs; returns how many of its frames are damaged (the frame before stands in).

    Raises ValueError and OSError as :func:`util.video.own_video.open_video`.
    """
    folder.mkdir(parents=True)
    with open_video(video.path) as film:
        for start in range(0, len(video.frames), _AT_ONCE):
            names = video.frames[start : start + _AT_ONCE]
            pictures = film.read([video.every * (start + i) for i in range(len(names))]).permute(0, 2, 3, 1).numpy()
            for name, picture in zip(names, pictures, strict=True):
                Image.fromarray(picture).save(folder / f"{name}.jpg", quality=JPEG_QUALITY)
        return film.damaged
