"""Checks of the data sets that are videos with lists of expressions: Ref-YouTube-VOS, Ref-DAVIS17 and MeViS.

Files are read by the loaders' own functions, so that what is found here is what training and inference would meet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import davis, mevis, single_threaded, ytvos
from datasets.video_io import read_frame, read_labels
from datasets.ytvos import Layout
from tools.data.report import Fault, Report
from util.parallel import run_jobs
from util.rle import Rle, is_blank

PUBLISHED = {
    "ytvos": {
        "train": {"videos": 3471},
        "valid": {"videos": 202, "expressions": 834, "frames": 5486},
        "test": {"videos": 305},
    },
    "davis": {"train": {"videos": 60}, "valid": {"videos": 30, "expressions": 244, "objects": 61}},
    "mevis": {
        "train": {"videos": 1662, "expressions": 23051},
        "valid_u": {"videos": 50, "expressions": 793},
        "valid": {"videos": 140, "expressions": 2236},
    },
}
VOID = 255
Size = tuple[int, int]


@dataclass(frozen=True)
class LabelMaps:
    """Masks of a video in a folder of PNGs, relative to the data set."""

    folder: str


@dataclass(frozen=True)
class RleMasks:
    """Masks of a video in MeViS's file, relative to the data set, by annotation."""

    path: str
    masks: Mapping[int, list[Rle | None]]


@dataclass(frozen=True)
class Video:
    """What there should be of a video: ``objects`` are those that its expressions mean. Paths are in the data set."""

    split: str
    name: str
    folder: str
    frames: tuple[str, ...]
    objects: frozenset[int] = frozenset()
    masks: LabelMaps | RleMasks | None = None


@dataclass
class Found:
    """What was found of a video: faults, and objects that have pixels and no expression."""

    faults: list[Fault] = field(default_factory=list)
    unnamed: int = 0

    def add(self, kind: str, path: str, what: str = "", again: Iterable[str] | None = None) -> None:
        self.faults.append(Fault(kind, path, what, (path,) if again is None else tuple(again)))


def said(error: Exception, path: Path) -> str:
    """A loader's message without the path and the mend."""
    return str(error).removeprefix(f"{path}: ").partition("; ")[0]


def pixels(size: Size) -> str:
    return f"{size[1]}x{size[0]}"


# ------------------------------------------------------------------------------------------------------------ a video


def check_video(root: Path, video: Video) -> Found:
    """Reads every frame and mask of a video."""
    found = Found()
    sizes = _read_all(found, root, video.folder, [f"{name}.jpg" for name in video.frames], _frame_size)
    usual = Counter(sizes.values()).most_common(1)[0][0] if sizes else None
    for path, size in sizes.items():
        if size != usual:
            found.add("size", path, f"is {pixels(size)}, other frames of the video are {pixels(usual)}")
    if isinstance(video.masks, LabelMaps):
        _check_label_maps(found, root, video, video.masks, usual)
    elif video.masks is not None:
        _check_rles(found, video, video.masks, usual)
    return found


def _frame_size(path: Path) -> Size:
    height, width = read_frame(path).shape[1:]
    return height, width


def _read_all(found: Found, root: Path, folder: str, names: list[str], read: Callable[[Path], object]) -> dict:
    """What ``read`` makes of each file of a folder that can be read, by its path in the data set."""
    if not (root / folder).is_dir():
        found.add("missing", f"{folder}/", f"the folder of {len(names)} files")
        return {}
    content = {}
    for name in names:
        path = root / folder / name
        try:
            content[f"{folder}/{name}"] = read(path)
        except FileNotFoundError:
            found.add("missing", f"{folder}/{name}")
        except ValueError as error:
            found.add("damaged", f"{folder}/{name}", said(error, path))
    listed = set(names)
    for path in sorted((root / folder).iterdir()):
        if path.name not in listed and not path.name.startswith("."):
            found.add("unknown", f"{folder}/{path.name}" + "/" * path.is_dir(), again=())
    return content


def _label_map(path: Path) -> tuple[Size, set[int]]:
    labels = read_labels(path)
    return labels.shape, set(labels.ravel().tolist()) - {0}


def _check_label_maps(found: Found, root: Path, video: Video, masks: LabelMaps, frame_size: Size | None) -> None:
    names = [f"{name}.png" for name in video.frames]
    maps = _read_all(found, root, masks.folder, names, _label_map)
    for path, (size, _) in maps.items():
        if frame_size and size != frame_size:
            frame = f"{video.folder}/{Path(path).stem}.jpg"
            found.add("size", path, f"is {pixels(size)}, its frame {pixels(frame_size)}", (path, frame))
    shown = set().union(*(ids for _, ids in maps.values()))
    # What is missing may show what else would be without pixels.
    if len(maps) == len(names):
        for number in sorted(video.objects - shown):
            found.add("no_pixels", f"{masks.folder}/", f"object {number} is in none of the masks", ())
    found.unnamed = len(shown - video.objects - {VOID})


def _check_rles(found: Found, video: Video, masks: RleMasks, frame_size: Size | None) -> None:
    again = (masks.path,)
    for annotation, frames in masks.masks.items():
        readable, shown = True, False
        for t, rle in enumerate(frames[: len(video.frames)]):
            if rle is None:
                continue
            where = f"annotation {annotation}, frame {video.frames[t]} of {video.name}"
            try:
                shown |= not is_blank(rle)
            except ValueError as error:
                readable = False
                found.add("damaged", masks.path, f"{where}: {error}", again)
            if frame_size and rle.size != frame_size:
                text = f"{where} is {pixels(rle.size)}, its frame {pixels(frame_size)}"
                found.add("size", masks.path, text, (*again, f"{video.folder}/{video.frames[t]}.jpg"))
        if readable and not shown:
            found.add("no_pixels", masks.path, f"annotation {annotation} of {video.name} has no pixels", ())


# ------------------------------------------------------------------------------------------------------------ a split


@dataclass
class Split:
    """A split while it is checked; what it has is added to the report.

    Attributes:
        root: folder of the data set.
        layout: of the data set.
        name: ``train``, ``valid`` …
        report: of the whole data set.
    """

    root: Path
    layout: Layout
    name: str
    report: Report

    @property
    def meta(self) -> str:
        """Its list of expressions, in the data set."""
        return self.layout.meta.format(self.name)

    @property
    def frames(self) -> str:
        """The folder of its videos' frames, in the data set."""
        return ytvos.frames_root(self.root, self.name, self.layout).relative_to(self.root).as_posix()

    def fault(self, kind: str, path: str, what: str = "", again: Iterable[str] | None = None) -> None:
        self.report.faults.append(Fault(kind, path, what, (path,) if again is None else tuple(again)))

    def note(self, text: str) -> None:
        self.report.notes.append(f"{self.name}: {text}")

    def entries(self) -> dict[str, dict]:
        """The entries of its list that are as documented."""
        path = self.root / self.meta
        try:
            listed = ytvos.read_videos(path, self.layout)
        except FileNotFoundError:
            if (self.root / self.name).is_dir():
                self.fault("missing", self.meta, "the list of the split's expressions")
            elif self.name != "test":
                self.note("not there")
            return {}
        except ValueError as error:
            self.fault("damaged", self.meta, said(error, path))
            return {}
        entries = {}
        for vid, entry in sorted(listed.items()):
            try:
                ytvos.check_video(path, vid, entry, False, self.layout)
            except ValueError as error:
                self.fault("list", self.meta, said(error, path))
            else:
                entries[vid] = entry
        return entries

    def check_objects(self, entries: Mapping[str, dict]) -> None:
        """Every expression must name what it means."""
        for vid, entry in entries.items():
            for exp_id, expression in entry["expressions"].items():
                problem = self.layout.object_problem(expression)
                if problem:
                    self.fault("no_objects", self.meta, f"video {vid}, expression {exp_id} must name {problem}")

    def count(self, entries: Mapping[str, dict], videos: Iterable[Video]) -> None:
        counts = {
            "videos": len(entries),
            "expressions": sum(len(entry["expressions"]) for entry in entries.values()),
            "frames": sum(len(entry["frames"]) for entry in entries.values()),
        }
        objects = sum(len(video.objects) for video in videos)
        self.report.counts[self.name] = counts | ({"objects": objects} if objects else {})

    def unknown_videos(self, folder: str, known: Iterable[str]) -> None:
        """Whatever lies among the folders of the videos and is none of them."""
        known = set(known)
        if (self.root / folder).is_dir():
            for path in sorted((self.root / folder).iterdir()):
                if path.name not in known and not path.name.startswith("."):
                    self.fault("unknown", f"{folder}/{path.name}" + "/" * path.is_dir(), again=())


def _run(root: Path, videos: list[Video], report: Report, workers: int) -> Report:
    """Checks the videos of all splits, in parallel, and completes the report."""
    if not report.counts:
        wrong = "".join(f"; {fault}" for fault in report.faults[:1])
        raise FileNotFoundError(f"{root}: there is no list of any split to check by{wrong}; see docs/data.md")
    jobs = {(video.split, video.name): (root, video) for video in videos}
    found = run_jobs(check_video, jobs, workers, desc="check", unit="video", prepare=single_threaded, prepare_with=(0,))
    unnamed: Counter[str] = Counter()
    for (split, _), of_video in found.items():
        report.faults += of_video.faults
        unnamed[split] += of_video.unnamed
    report.notes += [
        f"{split}: {n:,} objects of the masks are named by no expression" for split, n in unnamed.items() if n
    ]
    return report


# ---------------------------------------------------------------------------------------------------------- data sets


def check_ytvos(root: Path, workers: int) -> Report:
    """Checks Ref-YouTube-VOS."""
    report, videos = Report(PUBLISHED["ytvos"]), []
    train, valid, test = (Split(root, ytvos.REF_YOUTUBE_VOS, name, report) for name in ("train", "valid", "test"))
    entries = train.entries()
    videos += _label_map_videos(train, entries)
    train.unknown_videos(train.frames, entries)
    train.unknown_videos("train/Annotations", entries)

    listed, tested = valid.entries(), test.entries()
    entries = {vid: entry for vid, entry in listed.items() if vid not in tested}
    if listed and not tested:
        entries = {vid: entry for vid, entry in entries.items() if (root / valid.frames / vid).is_dir()}
        if len(entries) < len(listed):
            valid.note(
                f"without {test.meta}, the {len(listed) - len(entries):,} listed videos that have no folder in "
                f"{valid.frames} count as those of the test split"
            )
    videos += _label_map_videos(valid, entries)
    if any((root / test.frames / vid).is_dir() for vid in tested):
        videos += _label_map_videos(test, tested)
    elif tested:
        test.note(f"listed, but none of its frames are in {test.frames}")
    valid.unknown_videos(valid.frames, [*listed, *tested])
    return _run(root, videos, report, workers)


def check_davis(root: Path, workers: int) -> Report:
    """Checks Ref-DAVIS17 as its converter writes it."""
    report, videos = Report(PUBLISHED["davis"]), []
    for name in ("train", "valid"):
        split = Split(root, davis.REF_DAVIS, name, report)
        entries = split.entries()
        videos += _label_map_videos(split, entries)
        for folder in (split.frames, f"{name}/Annotations"):
            split.unknown_videos(folder, entries)
        for vid, entry in entries.items() if name == "valid" else ():
            try:
                davis.by_annotator(vid, entry["expressions"])
            except ValueError as error:
                split.fault("list", split.meta, said(error, root))
            except (KeyError, TypeError):
                continue  # an expression without an object, which check_objects has found
    return _run(root, videos, report, workers)


def _label_map_videos(split: Split, entries: Mapping[str, dict]) -> list[Video]:
    """The videos of a split of Ref-YouTube-VOS or Ref-DAVIS17, after a check of its lists."""
    if not entries:
        return []
    if split.name in split.layout.with_objects:
        split.check_objects(entries)
    objects = {
        vid: {int(e["obj_id"]) for e in entry["expressions"].values() if ytvos.is_object_id(e.get("obj_id"))}
        for vid, entry in entries.items()
    }
    if split.name == "train":
        _check_categories(split, objects)
    videos = [
        Video(
            split.name,
            vid,
            f"{split.frames}/{vid}",
            tuple(entry["frames"]),
            frozenset(objects[vid]),
            # The masks of valid are with the server, unless the list says whose they are.
            LabelMaps(f"{split.name}/Annotations/{vid}")
            if objects[vid] or split.name in split.layout.with_objects
            else None,
        )
        for vid, entry in entries.items()
    ]
    split.count(entries, videos)
    return videos


def _check_categories(split: Split, objects: Mapping[str, set[int]]) -> None:
    """meta.json must have a known category of each object, if it is there at all."""
    path = split.root / "train" / "meta.json"
    if not path.is_file():
        split.note("there is no train/meta.json with the categories; train with --binary")
        return
    try:
        known = ytvos.read_videos(path, split.layout)
    except ValueError as error:
        split.fault("damaged", "train/meta.json", said(error, path))
        return
    for vid, numbers in objects.items():
        for number in sorted(numbers):
            try:
                ytvos.class_index(path, known, vid, str(number), split.layout)
            except ValueError as error:
                split.fault("list", "train/meta.json", said(error, path))


def check_mevis(root: Path, workers: int) -> Report:
    """Checks MeViS."""
    report, videos = Report(PUBLISHED["mevis"]), []
    for name in ("train", "valid_u", "valid"):
        split = Split(root, mevis.MEVIS, name, report)
        entries = split.entries()
        split.unknown_videos(split.frames, entries)
        if not entries:
            continue
        store = None
        if name in split.layout.with_objects:
            split.check_objects(entries)
            store = _read_store(split)
        of_split = [_rle_video(split, vid, entry, store) for vid, entry in entries.items()]
        split.count(entries, of_split)
        videos += of_split
        unnamed = set(store or ()) - {number for video in of_split for number in video.objects}
        if unnamed:
            split.note(f"{len(unnamed):,} annotations are named by no expression")
    return _run(root, videos, report, workers)


def _read_store(split: Split) -> mevis.MaskStore | None:
    path = mevis.masks_path(split.root, split.name)
    relative = path.relative_to(split.root).as_posix()
    try:
        return mevis.MaskStore(path)
    except FileNotFoundError:
        split.fault("missing", relative, "the masks of the split")
    except ValueError as error:
        split.fault("damaged", relative, said(error, path))
    return None


def _rle_video(split: Split, vid: str, entry: dict, store: mevis.MaskStore | None) -> Video:
    """A video of MeViS, after a check that the file of the masks has its annotations."""
    folder, frames = f"{split.frames}/{vid}", tuple(entry["frames"])
    if store is None:
        return Video(split.name, vid, folder, frames)
    relative = store.path.relative_to(split.root).as_posix()
    masks = {}
    for exp_id, expression in entry["expressions"].items():
        if split.layout.object_problem(expression):
            continue
        for number in mevis.annotations_of(expression):
            try:
                mevis.check_annotations(store, vid, exp_id, [number], len(frames))
            except ValueError as error:
                kind = "list" if number in store else "no_objects"
                split.fault(kind, relative, said(error, store.path), (relative, split.meta))
            else:
                masks[number] = store[number]
    return Video(split.name, vid, folder, frames, frozenset(masks), RleMasks(relative, masks))
