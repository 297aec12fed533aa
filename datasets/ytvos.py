"""Ref-YouTube-VOS and data sets in its layout: their folders, and the videos of each split.

Decoding and sampling are in base.py.
"""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from datasets.base import Expression, LabelMapVideo, VideoEntry, VideoSet
from util.files.names import inside, name_fault
from util.files.reading import read_json, shown, whole_number
from util.run import dist
from util.run.gaps import Gaps
from util.samples.text import is_empty
from util.video.pictures import MASK_SUFFIXES, PICTURE_SUFFIXES, find_files

SPLITS = ("train", "holdout", "valid", "test")

# YouTube-VOS's 65 categories in alphabetical order; the position is the class index. Source: `ytvos_category_list` in
# datasets/categories.py of github.com/wjn922/ReferFormer, which the published checkpoints were trained with.
# fmt: off
CATEGORIES = (
    "airplane", "ape", "bear", "bike", "bird", "boat", "bucket", "bus", "camel", "cat", "cow", "crocodile", "deer",
    "dog", "dolphin", "duck", "eagle", "earless_seal", "elephant", "fish", "fox", "frisbee", "frog", "giant_panda",
    "giraffe", "hand", "hat", "hedgehog", "horse", "knife", "leopard", "lion", "lizard", "monkey", "motorbike",
    "mouse", "others", "owl", "paddle", "parachute", "parrot", "penguin", "person", "plant", "rabbit", "raccoon",
    "sedan", "shark", "sheep", "sign", "skateboard", "snail", "snake", "snowboard", "squirrel", "surfboard",
    "tennis_racket", "tiger", "toilet", "train", "truck", "turtle", "umbrella", "whale", "zebra",
)
# fmt: on


def is_object_id(value: object) -> bool:
    return 1 <= (whole_number(value) or 0) <= 255


def means_nothing(expression: Mapping) -> bool:
    """Whether an entry means nothing in its video: ``obj_id`` is null. No published list has such entries."""
    return "obj_id" in expression and expression["obj_id"] is None


def _object_problem(expression: Mapping) -> str | None:
    """The fault of the object that an entry of meta_expressions names; None where there is none."""
    if means_nothing(expression) or is_object_id(expression.get("obj_id")):
        return None
    return 'its object as "obj_id", a number from 1 to 255, or null where it means nothing in the video'


@dataclass(frozen=True)
class Layout:
    """The properties in which data sets of this layout differ.

    Attributes:
        name: its chapter in docs/data.md.
        splits: their names.
        categories: the position is the class index.
        with_objects: folders whose meta_expressions file names the object of each expression.
        meta: gives the meta_expressions file of a folder.
        also: gives other names of this file.
        object_problem: gives the fault of an expression that should name its object.
        test_in_valid: whether the list of valid has the videos of test, too, and their frames may lie among its own.
    """

    name: str
    splits: tuple[str, ...]
    categories: tuple[str, ...]
    with_objects: tuple[str, ...]
    meta: str = "meta_expressions/{}/meta_expressions.json"
    also: tuple[str, ...] = ()
    object_problem: Callable[[Mapping], str | None] = _object_problem
    test_in_valid: bool = False

    @property
    def see(self) -> str:
        return f"see docs/data.md, {self.name}"

    def bad(self, path: Path, problem: str) -> ValueError:
        return ValueError(f"{path}: {problem}; {self.see}")

    def folder(self, split: str) -> str:
        """The folder of a split: the hold-out lies among the training videos."""
        if split not in self.splits:
            raise ValueError(f"--split {split} does not exist for {self.name}; choose one of {', '.join(self.splits)}")
        return "train" if split == "holdout" else split

    def meta_path(self, root: Path, folder: str) -> Path:
        """The meta_expressions file of a folder: the first of its names that exists, or the first of all."""
        paths = [root / name.format(folder) for name in (self.meta, *self.also)]
        return next((path for path in paths if path.is_file()), paths[0])


REF_YOUTUBE_VOS = Layout("Ref-YouTube-VOS", SPLITS, CATEGORIES, with_objects=("train",), test_in_valid=True)

# Part of the key of the hold-out. With another value the hold-out changes, and scores cannot be compared.
_HOLDOUT_KEY = "proxyformer hold-out 1"


def frames_root(root: Path, split: str, layout: Layout = REF_YOUTUBE_VOS) -> Path:
    """Folder that holds a folder of pictures for each video of the split."""
    folder = layout.folder(split)
    if folder == "test" and layout.test_in_valid and not (root / "test" / "JPEGImages").is_dir():
        folder = "valid"
    return _unpacked(root / folder / "JPEGImages")


def annotations_root(root: Path, split: str, layout: Layout = REF_YOUTUBE_VOS) -> Path:
    """Folder that holds a folder of palette PNGs for each video of the split, where the split has masks."""
    return _unpacked(root / layout.folder(split) / "Annotations")


def _unpacked(folder: Path) -> Path:
    """The folder, or the one of its name in it: Long-RVOS's script unpacks archives that have the folder into it."""
    inner = folder / folder.name
    return inner if inner.is_dir() else folder


def read_videos(path: Path, layout: Layout = REF_YOUTUBE_VOS) -> dict[str, dict]:
    """The ``videos`` of a meta_expressions or meta file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file does not exist; {layout.see}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise layout.bad(path, f"is not a JSON file ({error})") from error
    videos = content.get("videos") if isinstance(content, dict) else None
    if not isinstance(videos, dict):
        raise layout.bad(path, 'must hold {"videos": {name: …}}')
    return videos


def check_video(path: Path, video_id: str, entry: object, with_objects: bool, layout: Layout) -> None:
    """Raises ValueError unless the entry has frames and expressions of the documented form."""
    _check_entry(path, video_id, entry, layout)
    for exp_id, expression in entry["expressions"].items():
        _check_expression(path, video_id, exp_id, expression, with_objects, layout)


def _check_entry(path: Path, video_id: str, entry: object, layout: Layout) -> None:
    where = f"video {video_id}"
    _check_name(path, "the video", video_id, layout)
    if isinstance(entry, dict) and "objects" in entry and "expressions" not in entry:
        raise layout.bad(
            path,
            f"{where} has its expressions under its objects, without ids: this is an older form of the list, which "
            "scoring takes with --expressions; here belongs the one of the challenge",
        )
    if not isinstance(entry, dict) or not {"expressions", "frames"} <= entry.keys():
        raise layout.bad(path, f'{where} must hold "expressions" and "frames"')
    frames, expressions = entry["frames"], entry["expressions"]
    if not isinstance(frames, list) or not frames or not all(isinstance(name, str) and name for name in frames):
        raise layout.bad(path, f"{where} must list at least one frame, by name")
    for name in frames:
        _check_name(path, f"{where}: the frame", name, layout)
    if any(name.lower().endswith(PICTURE_SUFFIXES) for name in frames):
        raise layout.bad(path, f"{where} lists frames with a suffix, as {frames[0]}; frames are listed by name alone")
    if len(set(frames)) < len(frames):
        twice = Counter(frames).most_common(1)[0][0]
        raise layout.bad(path, f"{where} lists frame {twice} twice")
    if not isinstance(expressions, dict) or not expressions:
        raise layout.bad(path, f"{where} must have at least one expression")
    absent = entry.get("absent", [])
    if not isinstance(absent, list) or not all(isinstance(text, str) and not is_empty(text) for text in absent):
        raise layout.bad(path, f'{where}: "absent" must be a list of texts that mean nothing in it')


def _check_name(path: Path, what: str, name: str, layout: Layout) -> None:
    """Raises ValueError for a name from which no path may be made."""
    if fault := name_fault(name):
        raise layout.bad(path, f"{what} {fault}")


def _check_expression(
    path: Path, video_id: str, exp_id: str, expression: object, with_objects: bool, layout: Layout
) -> None:
    here = f"video {video_id}, expression {exp_id}"
    _check_name(path, f"video {video_id}: the expression", exp_id, layout)
    if not isinstance(expression, dict) or not isinstance(expression.get("exp"), str):
        raise layout.bad(path, f'{here} must hold its text as "exp"')
    if is_empty(expression["exp"]):
        raise layout.bad(path, f"{here} is empty; write its text or delete the entry")
    problem = layout.object_problem(expression) if with_objects else None
    if problem:
        raise layout.bad(path, f"{here} must name {problem}")


def _sound_part(
    path: Path, video_id: str, entry: object, with_objects: bool, layout: Layout, gaps: Gaps
) -> dict | None:
    """The entry without expressions of another form than documented, which become gaps; None where none is left."""
    item = f"video {video_id}"
    try:
        _check_entry(path, video_id, entry, layout)
    except ValueError as error:
        gaps.add(item, error, on_all_ranks=True)
        return None
    sound = {}
    for exp_id, expression in entry["expressions"].items():
        here = f"{item}, expression {exp_id}"
        try:
            _check_expression(path, video_id, exp_id, expression, with_objects, layout)
        except ValueError as error:
            gaps.add(here, error, on_all_ranks=True)
        else:
            sound[exp_id] = expression
    return {**entry, "expressions": sound} if sound else None


def _holdout_order(name: str) -> bytes:
    """A fixed shuffle key: a digest of the name, which depends on no library's random numbers."""
    # names that no file can have are refused later, with their place
    return hashlib.sha256(f"{_HOLDOUT_KEY}/{name}".encode("utf-8", "backslashreplace")).digest()


def _training_part(path: Path, videos: dict[str, dict], split: str, holdout: int) -> set[str]:
    if holdout >= len(videos):
        raise ValueError(f"--holdout {holdout}: {path} has {len(videos)} videos, at least one must remain to train on")
    if split == "holdout" and holdout == 0:
        raise ValueError("the hold-out is empty: say with --holdout N how many training videos to keep out")
    held_out = set(sorted(videos, key=_holdout_order)[:holdout])
    return held_out if split == "holdout" else videos.keys() - held_out


def _valid_part(root: Path, videos: dict[str, dict], layout: Layout) -> set[str]:
    if not layout.test_in_valid:
        return set(videos)
    test_path = layout.meta_path(root, "test")
    if test_path.is_file():
        return videos.keys() - read_videos(test_path).keys()
    places = (frames_root(root, "valid"), annotations_root(root, "valid"))
    # names that no folder can have stay, so that they are reported
    found = {name for name in videos if name_fault(name) or any((place / name).is_dir() for place in places)}
    if found and len(found) < len(videos) and dist.is_main():
        _say_once(
            f"{layout.meta_path(root, 'valid')}: {len(videos) - len(found)} of {len(videos)} listed videos have no "
            f"frames and are taken for those of the test split; {test_path} would say which are"
        )
    return found


@cache
def _say_once(text: str) -> None:
    print(f"note: {text}", file=sys.stderr, flush=True)


def split_videos(
    root: Path, split: str, holdout: int = 0, layout: Layout = REF_YOUTUBE_VOS, gaps: Gaps | None = None
) -> dict[str, dict]:
    """The meta_expressions entries of a split, by video name in sorted order.

    Args:
        root: folder of the data set.
        split: ``train`` (the training videos without the hold-out), ``holdout`` (exactly ``holdout`` of the training
            videos, always the same ones, a larger hold-out containing the smaller), ``valid`` (the valid file without
            the videos of the test file, or, where there is no test file, those that have frames or masks) or ``test``.
        holdout: number of training videos kept out of training.
        layout: of the data set; without ``test_in_valid`` all videos of the valid file are in ``valid``.
        gaps: takes videos and expressions of another form than documented. Without it the first one is an error.

    Raises:
        FileNotFoundError, ValueError: naming the file, what was expected and the chapter of docs/data.md.
    """
    folder = layout.folder(split)
    path = layout.meta_path(root, folder)
    videos = read_videos(path, layout)
    if folder == "train":
        names = _training_part(path, videos, split, holdout)
    else:
        names = _valid_part(root, videos, layout) if split == "valid" else videos.keys()
    if not names:
        frames = frames_root(root, split, layout)
        raise layout.bad(path, f"no video of it belongs to the split {split} and has a folder in {frames}")
    gaps, with_objects = gaps or Gaps(strict=True), folder in layout.with_objects
    parts = {name: _sound_part(path, name, videos[name], with_objects, layout, gaps) for name in sorted(names)}
    sound = {name: part for name, part in parts.items() if part}
    if not sound:
        check_video(path, min(names), videos[min(names)], with_objects, layout)  # which says what is wrong
    return sound


def _category(path: Path, objects: dict[str, dict], video_id: str, object_id: str, layout: Layout) -> str:
    """The category of an object in meta.json."""
    try:
        category = objects[video_id]["objects"][object_id]["category"]
    except (KeyError, TypeError):
        category = None
    if not isinstance(category, str):
        raise layout.bad(
            path,
            f'video {video_id} has no object {object_id} with a "category"; mend it, or train without categories '
            "(with --binary and without --absent)",
        )
    return category


def _categories(path: Path, objects: dict[str, dict], video_id: str, layout: Layout) -> frozenset[str]:
    """The categories of all objects of a video in meta.json."""
    with suppress(KeyError, TypeError):
        return frozenset(_category(path, objects, video_id, n, layout) for n in objects[video_id]["objects"])
    return frozenset()


def class_index(path: Path, objects: dict[str, dict], video_id: str, object_id: str, layout: Layout) -> int:
    category = _category(path, objects, video_id, object_id, layout)
    if category not in layout.categories:
        raise layout.bad(
            path,
            f"video {video_id}, object {object_id}: {shown(category)} is none of the {len(layout.categories)} "
            f"categories of {layout.name}; mend it, or add --binary to train without categories",
        )
    return layout.categories.index(category)


def train_videos(
    root: Path, holdout: int, binary: bool, layout: Layout = REF_YOUTUBE_VOS, *, absent: bool = False
) -> list[LabelMapVideo]:
    """Index of the training videos; with ``binary`` every label is 0.

    Args:
        absent: texts that mean nothing in a video are wanted. Where the list of the videos has none, they are found by
            the categories in meta.json, which otherwise is not needed with ``binary``.

    Raises as :func:`split_videos`, also for an expression whose object or category meta.json does not know.
    """
    path = root / "train" / "meta.json"
    videos = split_videos(root, "train", holdout, layout)
    listed = (v.get("absent") or any(map(means_nothing, v["expressions"].values())) for v in videos.values())
    by_category = absent and not any(listed)
    if (by_category or not binary) and not path.is_file():
        mend = 'leave out --absent, or set "obj_id": null' if binary else "add --binary to train without"
        raise FileNotFoundError(f"{path}: the categories' file does not exist; {mend}; {layout.see}")
    objects = read_videos(path, layout) if by_category or not binary else {}
    frames = frame_files(frames_root(root, "train", layout), videos)
    masks = mask_files(annotations_root(root, "train", layout), videos, layout)

    def training_expression(name: str, exp_id: str, entry: Mapping) -> Expression:
        if means_nothing(entry):
            return Expression(exp_id, entry["exp"], objects=(), label=0)
        number = int(entry["obj_id"])
        known = (path, objects, name, str(number), layout)
        label = 0 if binary else class_index(*known)
        return Expression(exp_id, entry["exp"], (number,), label, _category(*known) if by_category else None)

    return [
        LabelMapVideo(
            video_id=name,
            frame_ids=tuple(entry["frames"]),
            frame_dir=inside(frames_root(root, "train", layout), name),
            frame_files=frames[name],
            mask_dir=inside(annotations_root(root, "train", layout), name),
            mask_files=masks[name],
            expressions=tuple(
                training_expression(name, exp_id, expression) for exp_id, expression in entry["expressions"].items()
            ),
            absent=tuple(entry.get("absent", ())),
            categories=_categories(path, objects, name, layout) if by_category else frozenset(),
        )
        for name, entry in videos.items()
    ]


def _found(
    root: Path, videos: Mapping[str, dict], suffixes: Sequence[str], gaps: Gaps | None = None
) -> dict[str, dict[str, str]]:
    """The files of each video's frames in its folder under ``root``, by frame; a folder is listed once.

    A frame with two files raises ValueError. With gaps its video is left out, unless no video is left.
    """

    def files(name: str) -> dict[str, str] | ValueError:
        try:
            return find_files(inside(root, name), videos[name]["frames"], suffixes)
        except ValueError as error:
            return error

    with ThreadPoolExecutor(8) as pool:  # a network drive takes time for each listing
        found = dict(zip(videos, pool.map(files, videos), strict=True))
    errors = {name: error for name, error in found.items() if isinstance(error, ValueError)}
    for name, error in errors.items():
        if len(errors) == len(found):
            raise error
        (gaps or Gaps(strict=True)).add(f"video {name}", error, on_all_ranks=True)
    return {name: of_video for name, of_video in found.items() if name not in errors}


def frame_files(root: Path, videos: Mapping[str, dict]) -> dict[str, tuple[str, ...]]:
    """The file names of each video's frames in its folder under ``root``; for a missing frame the usual name.

    Raises ValueError where a frame has two files.
    """
    found = _found(root, videos, PICTURE_SUFFIXES)
    return {
        name: tuple(found[name].get(frame, f"{frame}.jpg") for frame in video["frames"])
        for name, video in videos.items()
    }


def mask_files(root: Path, videos: Mapping[str, dict], layout: Layout) -> dict[str, tuple[str | None, ...]]:
    """The file names of the masks, as :func:`frame_files`; None for a frame without one: YouTube-VOS masks every fifth.

    Raises FileNotFoundError for a video without any mask.
    """
    found = _found(root, videos, MASK_SUFFIXES)
    for name in videos:
        if not found[name]:
            raise FileNotFoundError(
                f"{root / name}: holds no mask of any frame of the video; unpack the masks again, or take the video "
                f"out of the list; {layout.see}"
            )
    return {name: tuple(found[name].get(frame) for frame in video["frames"]) for name, video in videos.items()}


def eval_videos(
    root: Path, split: str, holdout: int, layout: Layout = REF_YOUTUBE_VOS, gaps: Gaps | None = None
) -> VideoSet:
    """The videos of a split for inference.

    Raises as :func:`split_videos`, also for a listed frame that is missing; with ``gaps`` only where all are.
    """
    gaps = gaps or Gaps(strict=True)
    frames = frames_root(root, split, layout)
    entries = split_videos(root, split, holdout, layout, gaps)
    found = _found(frames, entries, PICTURE_SUFFIXES, gaps)
    # Missing frames show now, and not after hours of inference; with gaps, reading the video names them.
    for name, files in found.items() if gaps.strict or not any(found.values()) else ():
        missing = next((frame for frame in entries[name]["frames"] if frame not in files), None)
        if missing is not None:
            raise FileNotFoundError(
                f"{frames / name / missing}.jpg: the frame is listed in "
                f"{layout.meta_path(root, layout.folder(split))}, but does not exist; {layout.see}"
            )
    return [
        VideoEntry(
            video_id=name,
            frame_names=tuple(entries[name]["frames"]),
            frame_paths=tuple(
                inside(frames, name, files.get(frame, f"{frame}.jpg")) for frame in entries[name]["frames"]
            ),
            expressions={exp_id: expression["exp"] for exp_id, expression in entries[name]["expressions"].items()},
        )
        for name, files in found.items()
    ]
