"""Writes a user's videos in the layout of Ref-YouTube-VOS, divided into train and valid."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets import ytvos
from tools.data.own.masks import Composed, LabelMaps
from tools.data.own.plan import Part, in_threads
from tools.data.own.videos import write_frames
from util.files.folders import new_pieces
from util.files.links import link_files
from util.files.origin import CONVERTED as RECORD
from util.files.writing import named_errors
from util.masks.results import write_label_png

PARTS = ("train", "valid", "meta_expressions")
DAMAGED = "frames of films are damaged; the frame before stands in for each"


def divide(names: Sequence[str], share: float, seed: int) -> dict[str, str]:
    """The split of each video: train, or valid for this share of them, at least one and not all.

    A video's place in the drawn order depends on the seed and its name alone.

    Raises ValueError where there are too few videos.
    """
    count = min(max(1, round(share * len(names))), len(names) - 1) if share else 0
    if share and not count:
        raise ValueError(f"--valid {share:g}: the table names one video, which cannot be divided; give --valid 0")
    order = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    valid = set(order[:count])
    return {name: "valid" if name in valid else "train" for name in names}


def entry_of(part: Part) -> dict:
    """The entry of a video in meta_expressions.json."""
    expressions = {
        str(i): {
            "exp": " ".join(row.text.split()),
            "obj_id": None if row.object is None else str(part.numbers[row.object]),
        }
        for i, row in enumerate(part.rows)
    }
    return {"expressions": expressions, "frames": list(part.video.frames)}


def write_set(
    output: Path, parts: Sequence[Part], splits: Mapping[str, str], origin: Mapping[str, object], workers: int
) -> tuple[dict[str, dict[str, int]], Counter[str]]:
    """Writes all, or after an error nothing. A former result is replaced once the new one is complete.

    Args:
        splits: of each video.
        origin: what the set was made of, for the record.

    Returns:
        Counts of each split, and how often other things were met.
    """
    entries = {part.video.name: entry_of(part) for part in parts}
    for name, entry in entries.items():  # which a loader would refuse otherwise
        ytvos.check_video(output / RECORD, name, entry, True, ytvos.REF_YOUTUBE_VOS)
    with named_errors(output), new_pieces(output, PARTS) as made:

        def place(part: Part) -> int:
            folder = Path(splits[part.video.name])
            frames = folder / "JPEGImages" / part.video.name
            masks = folder / "Annotations" / part.video.name
            for path in (frames, masks):
                (made / path).parent.mkdir(parents=True, exist_ok=True)
            _place_masks(part, masks, made, output)
            if part.video.is_film:
                return write_frames(part.video, made / frames)
            files = [part.video.path / part.video.files[frame] for frame in part.video.frames]
            link_files({path.name: path for path in files}, made / frames, output / frames, output)
            return 0

        notes = Counter({DAMAGED: sum(in_threads(place, parts, workers, "videos"))})
        counts = {}
        for split in sorted(set(splits.values())):
            of_split = [part for part in parts if splits[part.video.name] == split]
            listed = {part.video.name: entries[part.video.name] for part in of_split}
            _write_json(made / "meta_expressions" / split / "meta_expressions.json", {"videos": listed})
            counts[split] = {
                "videos": len(of_split),
                "objects": sum(len({row.object for row in part.rows} - {None}) for part in of_split),
                "expressions": sum(len(part.rows) for part in of_split),
                "frames": sum(len(part.video.frames) for part in of_split),
                "masks": sum(len(part.stems) for part in of_split),
            }
        objects = {part.video.name: {str(n): name for name, n in part.numbers.items()} for part in parts}
        _write_json(made / RECORD, {**origin, "splits": counts, "objects": objects})
    return counts, notes


def _place_masks(part: Part, folder: Path, made: Path, output: Path) -> None:
    masks = part.masks
    if isinstance(masks, LabelMaps):
        paths = {frame: masks.files[stem] for frame, stem in part.stems.items()}
        files = {path.name if path.stem == frame else f"{frame}.png": path for frame, path in paths.items()}
        link_files(files, made / folder, output / folder, output)
    elif isinstance(masks, Composed):
        for frame, stem in part.stems.items():
            write_label_png(made / folder / f"{frame}.png", masks.labels(stem, part.video.size, part.numbers))


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
