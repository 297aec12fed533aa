"""Converts Ref-DAVIS17, DAVIS 2017 and the four annotators' text files, to the layout of Ref-YouTube-VOS.

    python tools/data/convert_davis_to_ytvos.py data/ref-davis

reads DAVIS/ and davis_text_annotations/ in that folder and writes train/, valid/ and meta_expressions/ beside them. The
videos are links to the originals, or copies with ``--copy``. The originals are never moved or changed.

Each object has four expressions: the first annotator's for the first frame and for the full video, then the second's.
The id of an expression is 4 * (index of the object among the video's objects with text) + (number of the file, 0 to 3).
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from davis2017.label_maps import ids_in, read_labels  # noqa: E402
from util.files.folders import new_pieces, require_own  # noqa: E402
from util.files.links import link  # noqa: E402
from util.files.names import inside, name_fault  # noqa: E402
from util.files.origin import CONVERTED as RECORD  # noqa: E402
from util.files.reading import read_json, read_text, shown, whole_number  # noqa: E402
from util.files.writing import named_errors  # noqa: E402
from util.run.cli import (
    run,  # noqa: E402
    summarise,  # noqa: E402
)
from util.run.cores import cores
from util.run.counts import counted
from util.run.parser import CommandParser
from util.samples.text import is_empty  # noqa: E402
from util.video.pictures import MASK_SUFFIXES, PICTURE_SUFFIXES, find_files, list_files  # noqa: E402

# File and encoding of each annotator, in the order of the expression ids.
ANNOTATORS = (
    ("Davis17_annot1.txt", "utf-8"),
    ("Davis17_annot1_full_video.txt", "utf-8"),
    ("Davis17_annot2.txt", "latin-1"),
    ("Davis17_annot2_full_video.txt", "latin-1"),
)
# Misspelt names of videos in the text files, and the right ones.
RENAMED = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
# Where the originals lie.
FRAMES = Path("DAVIS", "JPEGImages", "480p")
MASKS = Path("DAVIS", "Annotations_unsupervised", "480p")
LISTS = {"train": Path("DAVIS/ImageSets/2017/train.txt"), "valid": Path("DAVIS/ImageSets/2017/val.txt")}
SEMANTICS = Path("DAVIS", "davis_semantics.json")
TEXTS = Path("davis_text_annotations")
# The output.
PARTS = ("train", "valid", "meta_expressions")
VOID = 255
SEE = "see docs/data.md, Ref-DAVIS17"

Texts = dict[str, dict[int, str]]  # expression of each object of each video


def _require(path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file does not exist; {SEE}")


def _read(path: Path, encoding: str) -> str:
    _require(path)
    try:
        return read_text(path, encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not {encoding} ({error.reason} at byte {error.start}); {SEE}") from error


def read_split_lists(source: Path) -> dict[str, list[str]]:
    """Names of the videos of ``train`` and ``valid``, in sorted order.

    Raises:
        FileNotFoundError, ValueError: a list is missing or empty, or a video is listed twice.
    """
    out: dict[str, list[str]] = {}
    for split, name in LISTS.items():
        path = source / name
        videos = _read(path, "utf-8").split()
        if not videos:
            raise ValueError(f"{path}: lists no video; {SEE}")
        if fault := next(filter(None, map(name_fault, videos)), None):
            raise ValueError(f"{path}: the video {fault}; {SEE}")
        listed = Counter([*videos, *(video for others in out.values() for video in others)])
        twice = sorted({video for video in videos if listed[video] > 1})
        if twice:
            raise ValueError(f"{path}: {summarise(twice)} listed twice, here or in the other list; {SEE}")
        out[split] = sorted(videos)
    return out


def read_texts(path: Path, encoding: str) -> Texts:
    """The expressions of one annotator's file: lines of ``<video> <object> "<expression>"``.

    Raises:
        FileNotFoundError, ValueError: naming file and line.
    """
    out: Texts = {}
    # split and not splitlines, which would also break lines at some characters of latin-1
    for number, line in enumerate(_read(path, encoding).split("\n"), 1):
        if not line.strip():
            continue
        match = re.fullmatch(r'\s*(\S+)\s+(\d+)\s+"(.*)"\s*', line)
        if not match or is_empty(match[3]):
            form = '<video> <object> "<expression>"'
            raise ValueError(f"{path}, line {number}: {shown(line.strip())} is not {form}; mend it")
        video, identity = RENAMED.get(match[1], match[1]), whole_number(match[2])
        if not 0 < (identity or 0) < VOID:
            raise ValueError(f"{path}, line {number}: {match[2][:18]} is no object number (1 to {VOID - 1}); mend it")
        if identity in out.setdefault(video, {}):
            raise ValueError(f"{path}, line {number}: object {identity} of {video} has an expression already; mend it")
        out[video][identity] = " ".join(match[3].split())
    return out


def _objects(of_videos: Iterable[tuple[str, Iterable[int]]]) -> list[str]:
    """Videos and their objects, for messages."""
    return [f"{video} {', '.join(map(str, sorted(numbers)))}" for video, numbers in sorted(of_videos) if numbers]


def read_annotators(source: Path) -> list[Texts]:
    """The expressions of the four files, one after the other.

    Raises:
        FileNotFoundError, ValueError: a file is missing or malformed, or they do not name the same objects.
    """
    annotators = [read_texts(source / TEXTS / name, encoding) for name, encoding in ANNOTATORS]
    named = {
        video: set().union(*(texts.get(video, {}) for texts in annotators)) for texts in annotators for video in texts
    }
    problems = []
    for (name, _), texts in zip(ANNOTATORS, annotators, strict=True):
        missing = _objects((video, numbers - texts.get(video, {}).keys()) for video, numbers in named.items())
        if missing:
            problems.append(f"{name} has no line for {summarise(missing)}")
    if problems:
        raise ValueError(
            f"{source / TEXTS}: the four files must name the same objects, but {'; '.join(problems)}. Add the lines, "
            "or take them out of the other files"
        )
    return annotators


def read_categories(source: Path) -> dict[str, dict[str, str]]:
    """Category of each object of each video. Raises FileNotFoundError or ValueError for another form."""
    path = source / SEMANTICS
    _require(path)
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: is not a JSON file ({error}); {SEE}") from error
    if not isinstance(content, dict) or not all(isinstance(objects, dict) for objects in content.values()):
        raise ValueError(f'{path}: must hold {{video: {{"1": category}}}}; {SEE}')
    return content


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, str]:
    """The files of a folder, by frame, in their order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: this folder does not exist; {SEE}")
    return dict(sorted(find_files(folder, [Path(name).stem for name in list_files(folder)], suffixes).items()))


def scan_video(source: Path, video: str) -> tuple[list[str], set[int]]:
    """Names of the frames of a video, and the objects that its masks show.

    Raises:
        FileNotFoundError, ValueError: there is no frame, a frame or a mask lacks its partner, or a mask is damaged.
    """
    frames = list(_files(inside(source / FRAMES, video), PICTURE_SUFFIXES))
    masks = _files(inside(source / MASKS, video), MASK_SUFFIXES)
    if not frames:
        raise FileNotFoundError(f"{source / FRAMES / video}: holds no .jpg or other picture; {SEE}")
    odd = sorted(set(frames) ^ masks.keys())
    if odd:
        have, lack = (source / FRAMES, source / MASKS) if odd[0] in frames else (source / MASKS, source / FRAMES)
        raise ValueError(
            f"{have / video} and {lack / video} must hold the same frames, but {len(odd)} are only in one of them; the "
            f"first, {odd[0]}, is not in {lack / video}; unpack it again ({SEE})"
        )
    seen = set().union(*(ids_in(read_labels(source / MASKS / video / file)) for file in masks.values()))
    return frames, seen - {VOID}


def scan_videos(source: Path, videos: list[str], workers: int) -> dict[str, tuple[list[str], set[int]]]:
    """:func:`scan_video` of all videos."""
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda video: scan_video(source, video), videos)
        return dict(zip(videos, tqdm(found, "masks", len(videos), unit="video", disable=None), strict=True))


def check_objects(
    annotators: list[Texts],
    shown: dict[str, set[int]],
    categories: dict[str, dict[str, str]],
    semantics: Path,
) -> list[str]:
    """Compares the objects of the texts with those of the masks and of the categories.

    Returns:
        Warnings: objects without text, and text of videos that are in neither list.

    Raises:
        ValueError: an object with text is in no mask, or has no category; or no video has text.
    """
    named = {video: set(numbers) for video, numbers in annotators[0].items() if video in shown}
    if not named:
        raise ValueError(
            f"the text files name no video of the lists; the first they name is {min(annotators[0], default='none')}"
        )
    unseen = _objects((video, numbers - shown[video]) for video, numbers in named.items())
    if unseen:
        raise ValueError(
            f"objects with text that no mask of their video shows: {summarise(unseen)}. Correct the numbers in the "
            "text files, or unpack the masks again"
        )
    unknown = _objects(
        (video, {n for n in numbers if not isinstance(categories.get(video, {}).get(str(n)), str)})
        for video, numbers in named.items()
    )
    if unknown:
        raise ValueError(f"{semantics}: has no category for {summarise(unknown)}; unpack it again ({SEE})")
    warnings = []
    without = _objects((video, numbers - named.get(video, set())) for video, numbers in shown.items())
    if without:
        warnings.append(f"objects without text, which no expression asks for: {'; '.join(without)}")
    silent = sorted(video for video in shown if video not in named)
    if silent:
        warnings.append(f"videos without any text, which meta_expressions leaves out: {', '.join(silent)}")
    elsewhere = sorted(annotators[0].keys() - shown.keys())
    if elsewhere:
        warnings.append(f"text of videos in neither list, which is not used: {', '.join(elsewhere)}")
    return warnings


def expressions_of(video: str, annotators: list[Texts]) -> dict[str, dict]:
    """The ``expressions`` of a video for meta_expressions.json."""
    return {
        str(len(annotators) * place + k): {"exp": texts[video][number], "obj_id": str(number)}
        for place, number in enumerate(sorted(annotators[0][video]))
        for k, texts in enumerate(annotators)
    }


def _place(source: Path, target: Path, final: Path, copy: bool) -> None:
    """Copies a video's folder to ``target``, or makes a link there that is valid once it is moved to ``final``."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copytree(source, target)
        return
    link(source, target, final, final.parents[2])


def convert(source: Path | str, output: Path | str | None = None, *, copy: bool = False, workers: int = 4) -> dict:
    """Converts. An earlier conversion is replaced when the new one is complete, and stays if the new one fails.

    Args:
        source: folder that holds ``DAVIS`` and ``davis_text_annotations``.
        output: folder for ``train``, ``valid`` and ``meta_expressions``; None: the source.
        copy: copy the videos instead of linking to them.
        workers: threads that read masks.

    Returns:
        ``{"splits": {split: {"videos", "objects", "expressions"}}, "warnings": [str]}``.

    Raises:
        FileNotFoundError, ValueError: naming the file, row or video and the mend; nothing is written then.
    """
    source = Path(source)
    output = source if output is None else Path(output)
    require_own(output, PARTS, RECORD)
    lists = read_split_lists(source)
    annotators, categories = read_annotators(source), read_categories(source)
    scanned = scan_videos(source, [video for videos in lists.values() for video in videos], workers)
    shown = {video: objects for video, (_, objects) in scanned.items()}
    warnings = check_objects(annotators, shown, categories, source / SEMANTICS)

    counts = {}
    with named_errors(output), new_pieces(output, PARTS) as made:
        for split, videos in lists.items():
            for video in tqdm(videos, split, unit="video", disable=None):
                for kind, folder in (("JPEGImages", source / FRAMES), ("Annotations", source / MASKS)):
                    place = inside(Path(split, kind), video)
                    _place(folder / video, made / place, output / place, copy)
            asked = {
                video: {"expressions": expressions_of(video, annotators), "frames": scanned[video][0]}
                for video in videos
                if video in annotators[0]
            }
            meta = {
                video: {"objects": {number: {"category": name} for number, name in categories.get(video, {}).items()}}
                for video in videos
            }
            (made / split / "meta.json").write_text(json.dumps({"videos": meta}))
            (made / "meta_expressions" / split).mkdir(parents=True)
            (made / "meta_expressions" / split / "meta_expressions.json").write_text(json.dumps({"videos": asked}))
            expressions = sum(len(entry["expressions"]) for entry in asked.values())
            counts[split] = {
                "videos": len(asked),
                "objects": expressions // len(annotators),
                "expressions": expressions,
            }
        result = {"splits": counts, "warnings": warnings}
        (made / RECORD).write_text(json.dumps({"copy": copy, **result}, indent=2) + "\n")
    return result


def main() -> None:
    parser = CommandParser("convert_davis_to_ytvos.py", __doc__)
    parser.add_argument("source", nargs="?", default="data/ref-davis", help="holds DAVIS/ and davis_text_annotations/")
    parser.add_argument("--output_dir", help="default: the source folder, beside the originals")
    parser.add_argument("--copy", action="store_true", help="copy frames and masks instead of linking to the originals")
    parser.add_argument("--workers", type=int, default=cores(), help="threads that read masks")
    args = parser.parse_args()
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    result = convert(args.source, args.output_dir, copy=args.copy, workers=args.workers)
    for warning in result["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"{args.output_dir or args.source}: {'copied' if args.copy else 'linked'}")
    for split, numbers in result["splits"].items():
        print(f"  {split}: " + ", ".join(counted(number, name) for name, number in numbers.items()))


if __name__ == "__main__":
    run(main)
