"""Checks of the data sets that are videos with lists of expressions: Ref-YouTube-VOS, Ref-DAVIS17, MeViS, Long-RVOS
and one's own.

Each ``check_…`` reads the lists of its data set, then every video of all splits in parallel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import davis, long_rvos, mevis, ytvos
from datasets.ytvos import REF_YOUTUBE_VOS, Layout
from tools.data.checks.one_video import LabelMaps, ObjectFolders, RleMasks, Video, check_video
from tools.data.checks.report import Report, said
from util.files.names import inside
from util.run.counts import counted

# docs/data.md, "Where each fact is from"
PUBLISHED = {
    "ytvos": {
        "train": {"videos": 3471, "expressions": 12913, "objects": 6388},
        "valid": {"videos": 202, "expressions": 834, "frames": 5486},
        "test": {"videos": 305},
    },
    "davis": {"train": {"videos": 60}, "valid": {"videos": 30, "expressions": 244, "objects": 61}},
    "mevis": {
        "train": {"videos": 1662, "expressions": 23051},
        "valid_u": {"videos": 50, "expressions": 793},
        "valid": {"videos": 140, "expressions": 2236},
    },
    "mevis_v2": {
        "train": {"videos": 1662, "expressions": 27502},
        "valid_u": {"videos": 50, "expressions": 907},
        "valid": {"videos": 140, "expressions": 2523},
    },
    "long_rvos": {"train": {"videos": 1855}, "valid": {"videos": 112}, "test": {"videos": 226}},
}


# One's own data is read as Ref-YouTube-VOS. Its two splits are like the training part of that set.
OWN = replace(REF_YOUTUBE_VOS, name="Your own data", splits=("train", "valid"), with_objects=("train", "valid"))

# Known folders of a data set, and known files and folders of a split, converted or original.
_FOLDERS = {"train", "valid", "valid_u", "test", "meta_expressions", "DAVIS", "davis_text_annotations"}
_PARTS = {"JPEGImages", "Annotations", "meta.json", "meta_expressions.json", "mask_dict.json", "frame_types.json"}
_PARTS |= {name.rpartition("/")[2] for name in (mevis.MEVIS_V2.meta, *mevis.MEVIS_V2.also)}
_ARCHIVE = re.compile(r"\.(zip|tgz|tar(\.\w+)?)$")


@dataclass
class Split:
    """A split while it is checked; its findings are added to the report.

    Attributes:
        root: folder of the data set.
        layout: of the data set.
        name: ``train``, ``valid`` …
        report: of the whole data set.
        listed: videos of its list, set by :meth:`entries`.
    """

    root: Path
    layout: Layout
    name: str
    report: Report
    listed: set[str] = field(default_factory=set)

    @property
    def meta(self) -> str:
        """Its list of expressions, in the data set."""
        return self.layout.meta_path(self.root, self.name).relative_to(self.root).as_posix()

    @property
    def frames(self) -> str:
        """The folder of its videos' frames, in the data set."""
        return ytvos.frames_root(self.root, self.name, self.layout).relative_to(self.root).as_posix()

    def note(self, text: str) -> None:
        self.report.notes.append(f"{self.name}: {text}")

    def entries(self) -> dict[str, dict]:
        """The entries of its list that are as documented."""
        path = self.root / self.meta
        try:
            listed = ytvos.read_videos(path, self.layout)
        except FileNotFoundError:
            if (self.root / self.name).is_dir():
                self.report.add("missing", self.meta, "the list of the split's expressions")
            elif self.name != "test":
                self.note("not there")
            return {}
        except ValueError as error:
            self.report.add("damaged", self.meta, said(error, path))
            return {}
        self.listed = set(listed)
        entries = {}
        for vid, entry in sorted(listed.items()):
            try:
                ytvos.check_video(path, vid, entry, False, self.layout)
            except ValueError as error:
                self.report.add("list", self.meta, said(error, path))
            else:
                entries[vid] = entry
                for exp_id, expression in entry["expressions"].items():
                    self.report.check_text(self.meta, f"video {vid}, expression {exp_id}", expression["exp"])
        return entries

    def check_objects(self, entries: Mapping[str, dict]) -> None:
        """Adds a fault for every expression that does not name its objects."""
        for vid, entry in entries.items():
            for exp_id, expression in entry["expressions"].items():
                problem = self.layout.object_problem(expression)
                if problem:
                    self.report.add("no_objects", self.meta, f"video {vid}, expression {exp_id} must name {problem}")

    def count(self, entries: Mapping[str, dict], videos: Iterable[Video]) -> None:
        counts = {
            "videos": len(entries),
            "expressions": sum(len(entry["expressions"]) for entry in entries.values()),
            "frames": sum(len(entry["frames"]) for entry in entries.values()),
        }
        objects = sum(len(video.objects) for video in videos)
        self.report.counts[self.name] = counts | ({"objects": objects} if objects else {})

    def check_folders(self, folder: str, listed_elsewhere: Iterable[str] = ()) -> None:
        """Adds a fault for everything beside the folders of listed videos, if there is a list."""
        known = self.listed.union(listed_elsewhere)
        if self.listed:
            self.report.check_folder(self.root, folder, lambda path: path.name in known)


def _finish(root: Path, videos: list[Video], report: Report, workers: int) -> Report:
    """Checks the videos of all splits in parallel, then looks for unknown files, and completes the report."""
    if not report.counts:
        wrong = "".join(f"; {fault}" for fault in report.faults[:1])
        raise FileNotFoundError(f"{root}: there is no list of any split to check by{wrong}; see docs/data.md")
    report.check_all(check_video, {(video.split, video.name): (root, video) for video in videos}, workers, unit="video")
    # unknown files are allowed here; an unknown folder may be an archive that was unpacked in the wrong place
    report.check_folder(root, ".", lambda path: path.name in _FOLDERS or not path.is_dir())
    for split in ("train", "valid", "valid_u", "test"):
        report.check_folder(root, split, lambda path: path.name in _PARTS or bool(_ARCHIVE.search(path.name)))
    return report


def check_ytvos(root: Path, workers: int) -> Report:
    """Checks Ref-YouTube-VOS."""
    report, videos = Report(published=PUBLISHED["ytvos"]), []
    train, valid, test = (Split(root, ytvos.REF_YOUTUBE_VOS, name, report) for name in ("train", "valid", "test"))
    entries = train.entries()
    videos += _label_map_videos(train, entries)
    train.check_folders(train.frames)
    train.check_folders("train/Annotations")

    listed, tested = valid.entries(), test.entries()
    entries = {vid: entry for vid, entry in listed.items() if vid not in test.listed}
    if listed and not test.listed:
        places = (valid.frames, "valid/Annotations")
        entries = {vid: entry for vid, entry in entries.items() if any((root / p / vid).is_dir() for p in places)}
        if len(entries) < len(listed):
            valid.note(
                f"without {test.meta}, the {len(listed) - len(entries):,} listed videos that have no folder in "
                f"{' or '.join(places)} count as those of the test split"
            )
    videos += _label_map_videos(valid, entries)
    if any((root / test.frames / vid).is_dir() for vid in tested):
        videos += _label_map_videos(test, tested)
    elif tested:
        test.note(f"listed, but none of its frames are in {test.frames}")
    valid.check_folders(valid.frames, test.listed)
    return _finish(root, videos, report, workers)


def check_own(root: Path, workers: int) -> Report:
    """Checks one's own data as tools/data/convert_own.py writes it: both splits have masks, and share no video."""
    report, videos = Report(), []
    listed: dict[Path, str] = {}
    for name in OWN.splits:
        split = Split(root, OWN, name, report)
        entries = split.entries()
        videos += _label_map_videos(split, entries)
        for folder in (split.frames, f"{name}/Annotations"):
            split.check_folders(folder)
        for vid in entries:
            folder = inside(root / split.frames, vid).resolve()  # a link to the same frames may have another name
            if folder in listed:
                report.add("both", f"{split.frames}/{vid}/", f"has the frames of {listed[folder]}", ())
            listed.setdefault(folder, f"{split.frames}/{vid}")
            if name == "valid" and (root / "train" / "JPEGImages" / vid).exists():
                report.add("both", f"{split.frames}/{vid}/", "is the name of a video of train, too", ())
    return _finish(root, videos, report, workers)


def check_davis(root: Path, workers: int) -> Report:
    """Checks Ref-DAVIS17 as its converter writes it."""
    report, videos = Report(published=PUBLISHED["davis"]), []
    for name in ("train", "valid"):
        split = Split(root, davis.REF_DAVIS, name, report)
        entries = split.entries()
        videos += _label_map_videos(split, entries)
        for folder in (split.frames, f"{name}/Annotations"):
            split.check_folders(folder)
        for vid, entry in entries.items() if name == "valid" else ():
            try:
                davis.by_annotator(f"video {vid}", entry["expressions"])
            except ValueError as error:
                # an expression without an object has been found by check_objects
                if all(ytvos.is_object_id(e.get("obj_id")) for e in entry["expressions"].values()):
                    split.report.add("list", split.meta, said(error, root))
    return _finish(root, videos, report, workers)


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
    listed = None
    if split.name == "train":
        meta = _read_meta(split)
        _check_categories(split, objects, meta)
        # in YouTube-VOS some frames may have no masks, in DAVIS all frames have masks
        listed = None if split.layout is davis.REF_DAVIS else _listed_frames(meta or {}, entries)
    elif split.layout is OWN:
        listed = _listed_frames({}, entries)
    videos = [
        Video(
            split.name,
            vid,
            f"{split.frames}/{vid}",
            tuple(entry["frames"]),
            frozenset(objects[vid]),
            # the masks of valid are on the server only, unless the list names the objects
            LabelMaps(f"{split.name}/Annotations/{vid}", listed and listed[vid])
            if objects[vid] or split.name in split.layout.with_objects
            else None,
        )
        for vid, entry in entries.items()
    ]
    split.count(entries, videos)
    return videos


def _read_meta(split: Split) -> dict[str, dict] | None:
    """The videos of train/meta.json, if it is there and can be read."""
    path = split.root / "train" / "meta.json"
    if not path.is_file():
        split.note("there is no train/meta.json with the categories; train with --binary")
        return None
    try:
        return ytvos.read_videos(path, split.layout)
    except ValueError as error:
        split.report.add("damaged", "train/meta.json", said(error, path))
        return None


def _listed_frames(meta: Mapping[str, object], videos: Iterable[str]) -> dict[str, dict[int, frozenset[str]]]:
    """For each video, the frames that meta.json lists for each object number."""
    listed: dict[str, dict[int, frozenset[str]]] = {}
    for vid in videos:
        listed[vid] = {}
        for number, of_object in _objects_of(meta.get(vid)):
            frames = of_object.get("frames")
            if ytvos.is_object_id(number) and isinstance(frames, list) and frames:
                listed[vid][int(number)] = frozenset(frame for frame in frames if isinstance(frame, str))
    return listed


def _check_categories(split: Split, objects: Mapping[str, set[int]], known: Mapping[str, dict] | None) -> None:
    """Adds a fault for each object without a known category in meta.json, if there is a meta.json."""
    path = split.root / "train" / "meta.json"
    if known is None:
        return
    categories = set(_categories_in(known))
    if categories and categories.isdisjoint(split.layout.categories):
        split.note(f"no category in train/meta.json is one of {split.layout.name}; train with --binary")
        return
    for vid, numbers in objects.items():
        for number in sorted(numbers):
            try:
                ytvos.class_index(path, known, vid, str(number), split.layout)
            except ValueError as error:
                split.report.add("list", "train/meta.json", said(error, path))


def _objects_of(entry: object) -> Iterator[tuple[str, dict]]:
    """The objects of an entry of meta.json, as far as the entry has the documented form."""
    objects = entry.get("objects") if isinstance(entry, dict) else None
    for number, of_object in objects.items() if isinstance(objects, dict) else ():
        if isinstance(of_object, dict):
            yield number, of_object


def _categories_in(videos: Mapping[str, object]) -> Iterator[str]:
    """The categories in meta.json, of all entries that have the documented form."""
    for entry in videos.values():
        for _, of_object in _objects_of(entry):
            if isinstance(of_object.get("category"), str):
                yield of_object["category"]


def check_mevis(root: Path, workers: int, version: str = "mevis") -> Report:
    """Checks MeViS, or ``mevis_v2``, its version 2."""
    report, videos = Report(published=PUBLISHED[version]), []
    for name in ("train", "valid_u", "valid"):
        split = Split(root, mevis.LAYOUTS[version], name, report)
        entries = split.entries()
        split.check_folders(split.frames)
        if not entries:
            continue
        store = None
        if name in split.layout.with_objects:
            split.check_objects(entries)
            store = _read_store(split)
            if empty := _without_object(split, entries):
                split.note(counted(empty, "expressions mean no object"))
        of_split = [_rle_video(split, vid, entry, store) for vid, entry in entries.items()]
        split.count(entries, of_split)
        videos += of_split
        unnamed = set(store or ()) - {number for video in of_split for number in video.objects}
        if unnamed:
            split.note(counted(len(unnamed), "annotations are named by no expression"))
    return _finish(root, videos, report, workers)


def _without_object(split: Split, entries: Mapping[str, dict]) -> int:
    """The number of expressions that mean no object, as they may in version 2."""
    every = [expression for entry in entries.values() for expression in entry["expressions"].values()]
    return sum(not split.layout.object_problem(e) and not mevis.annotations_of(e) for e in every)


def _read_store(split: Split) -> mevis.MaskStore | None:
    path = mevis.masks_path(split.root, split.name)
    relative = path.relative_to(split.root).as_posix()
    try:
        return mevis.MaskStore(path)
    except FileNotFoundError:
        split.report.add("missing", relative, "the masks of the split")
    except ValueError as error:
        split.report.add("damaged", relative, said(error, path))
    return None


def _rle_video(split: Split, vid: str, entry: dict, store: mevis.MaskStore | None) -> Video:
    """A video of MeViS, after a check that the file of masks has the video's annotations."""
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
                split.report.add(kind, relative, said(error, store.path), (relative, split.meta))
            else:
                masks[number] = store[number]
    return Video(split.name, vid, folder, frames, frozenset(masks), RleMasks(relative, masks))


def check_long_rvos(root: Path, workers: int) -> Report:
    """Checks Long-RVOS."""
    report, videos = Report(published=PUBLISHED["long_rvos"]), []
    for name in ("train", "valid", "test"):
        split = Split(root, long_rvos.LONG_RVOS, name, report)
        entries = split.entries()
        masks = long_rvos.annotations_root(root, name).relative_to(root).as_posix()
        for folder in (split.frames, masks):
            split.check_folders(folder)
        if not entries:
            continue
        split.check_objects(entries)
        of_split = []
        for vid, entry in entries.items():
            objects = set()
            for exp_id, expression in entry["expressions"].items():
                if problem := long_rvos.type_problem(expression):
                    report.add("list", split.meta, f"video {vid}, expression {exp_id} {problem}")
                if not split.layout.object_problem(expression):
                    objects.add(long_rvos.object_of(expression))
            folders = (f"{split.frames}/{vid}", tuple(entry["frames"]))
            of_split.append(Video(name, vid, *folders, frozenset(objects), ObjectFolders(f"{masks}/{vid}")))
        split.count(entries, of_split)
        videos += of_split
    return _finish(root, videos, report, workers)
