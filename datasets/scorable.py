"""Splits whose whole videos can be scored: their masks, and what their expressions mean."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from datasets import mevis, ytvos
from datasets.ytvos import REF_YOUTUBE_VOS, Layout
from util.files.names import inside
from util.run.gaps import Gaps
from util.samples.text import in_form
from util.video.pictures import MASK_SUFFIXES, group_files

_LIST = (
    'it must hold {"videos": {name: {"expressions": {id: {"exp": text, "obj_id": number}}}}}, or {"videos": {name: '
    '{"objects": {number: {"expressions": [text]}}}}}, with the names and texts of '
    "meta_expressions/valid/meta_expressions.json"
)


def _why_not(annotations: Path, videos: dict[str, dict], layout: Layout, strict: bool) -> str | None:
    """The reason why videos cannot be scored, or None: a mask or object is missing; if not ``strict``, all are
    missing."""
    if not annotations.is_dir():
        return f"there is no folder {annotations}"
    objects, masks = [], []
    for vid, video in videos.items():
        for eid, expression in video["expressions"].items():
            problem = layout.object_problem(expression)
            objects.append(problem and f"video {vid}, expression {eid} does not name {problem}")
        folder = inside(annotations, vid)
        found = group_files(folder, video["frames"], MASK_SUFFIXES)
        paths = {frame: inside(folder, f"{frame}.png") for frame in video["frames"]}
        masks += [None if frame in found else f"there is no mask {path}" for frame, path in paths.items()]
    for problems in (objects, masks):
        found = [problem for problem in problems if problem]
        if found and (strict or len(found) == len(problems)):
            return found[0]
    return None


def _objects_from(file: Path, videos: dict[str, dict], gaps: Gaps) -> dict[str, dict]:
    """The videos with the objects that another list names for their expressions.

    Raises:
        FileNotFoundError, ValueError: there is no such list, or it has other videos or expressions.
    """
    listed, found = ytvos.read_videos(file), {}
    matching = 0
    for vid, video in videos.items():
        entry = listed.get(vid)
        there = entry.get("expressions") if isinstance(entry, dict) else None
        by_text = _by_text(entry)
        expressions = {}
        for eid, expression in video["expressions"].items():
            named = there.get(eid) if isinstance(there, dict) else by_text.get(in_form(expression["exp"]))
            problem = _other_expression(named, expression["exp"])
            if problem:
                gaps.add(f"video {vid}, expression {eid}", f"{file}: {problem}", on_all_ranks=True)
                continue
            matching += 1
            expressions[eid] = {**expression, "obj_id": named["obj_id"]}
        if expressions:
            found[vid] = {**video, "expressions": expressions}
    if not matching:
        raise ValueError(f"--expressions {file} names the object of none of the split's expressions; {_LIST}")
    return found


def _by_text(entry: object) -> dict[str, dict]:
    """The object of each text, from a list with texts under their objects; texts of two objects are left out.

    This form is read by Baseline/dataset/refer_datasets.py of github.com/skynbe/Refer-Youtube-VOS, by authors of the
    data set.
    """
    objects = entry.get("objects") if isinstance(entry, dict) else None
    meant: dict[str, set[str]] = defaultdict(set)
    for number, named in objects.items() if isinstance(objects, dict) else ():
        texts = named.get("expressions") if isinstance(named, dict) else None
        for text in texts if isinstance(texts, list) else ():
            if isinstance(text, str):
                meant[in_form(text)].add(number)
    return {text: {"obj_id": numbers.pop()} for text, numbers in meant.items() if len(numbers) == 1}


def _other_expression(named: object, text: str) -> str | None:
    """The reason why the entry with the id of an expression is another expression; None where it is the same."""
    if not isinstance(named, dict):
        return "has no such expression, or does not say which object it means"
    said = named.get("exp", text)
    if not isinstance(said, str) or in_form(said) != in_form(text):
        return f"has another expression by this id, {said!r} instead of {text!r}"
    problem = REF_YOUTUBE_VOS.object_problem(named)
    return f"does not name {problem}" if problem else None


def scorable_split(
    root: Path,
    split: str,
    holdout: int = 0,
    layout: Layout = REF_YOUTUBE_VOS,
    gaps: Gaps | None = None,
    annotations: str | None = None,
    expressions: str | None = None,
) -> tuple[Path, dict[str, dict]]:
    """The folder of a split's masks and its videos, as :func:`ytvos.split_videos` has them.

    Args:
        gaps: as in :func:`ytvos.split_videos`. With it, single masks and objects of single expressions may be missing.
        annotations: folder of the masks of Ref-YouTube-VOS's valid; None: the folder of the split.
        expressions: file with the objects of its expressions; None: the list of the split has them.

    Raises:
        FileNotFoundError, ValueError: as :func:`ytvos.split_videos`; or masks or objects are missing. The message says
            what is expected, how to give it, and which split has it.
    """
    gaps = gaps or Gaps(strict=True)
    given = {"--annotations": annotations, "--expressions": expressions}
    published = layout is REF_YOUTUBE_VOS and split == "valid"
    for flag in [flag for flag, value in given.items() if value and not published]:
        raise ValueError(f"{flag} is for the split valid of Ref-YouTube-VOS, not for {split} of {layout.name}")
    folder = Path(annotations) if annotations else ytvos.annotations_root(root, split, layout)
    videos = ytvos.split_videos(root, split, holdout, layout, gaps)
    if expressions:
        videos = _objects_from(Path(expressions), videos, gaps)
    reason = _why_not(folder, videos, layout, gaps.strict)
    if reason is None:
        return folder, videos
    expected = ""
    if published:
        expected = (
            f". Expected are palette PNGs {folder}/<video>/<frame>.png whose pixel values are object numbers "
            f'(elsewhere: --annotations DIR), and the object of each expression as "obj_id" in '
            f"{layout.meta_path(root, 'valid')} (or in a list of its form: --expressions FILE); {layout.see}"
        )
    other = "train" if split == "valid" else "valid"
    try:
        rest = ytvos.split_videos(root, other, 0, layout)
        scorable = _why_not(ytvos.annotations_root(root, other, layout), rest, layout, strict=True) is None
    except (ValueError, FileNotFoundError):
        scorable = False
    name = "train, and a hold-out of it," if other == "train" else other
    hint = f"{name} can be" if scorable else f"nor can {other}"
    raise ValueError(f"split {split} of {root} cannot be scored: {reason}; {hint}{expected}")


def mevis_split(
    root: Path, split: str, holdout: int, gaps: Gaps | None = None, layout: Layout = mevis.MEVIS
) -> tuple[mevis.MaskStore, dict[str, dict]]:
    """The masks of a split and its videos.

    Args:
        gaps: takes expressions of whose objects a mask is missing, as in :func:`mevis.split_videos`.
        layout: that of the version.

    Raises as :func:`mevis.split_videos` and :func:`mevis.read_masks`.
    """
    gaps = gaps or Gaps(strict=True)
    videos = mevis.split_videos(root, split, holdout, gaps, layout)
    if gaps.strict:
        return mevis.read_masks(root, split, videos), videos
    store = mevis.MaskStore(mevis.masks_path(root, split), gaps)
    kept: dict[str, dict] = {}
    for vid, video in videos.items():
        expressions = {}
        for exp_id, expression in video["expressions"].items():
            try:
                mevis.check_annotations(store, vid, exp_id, mevis.annotations_of(expression), len(video["frames"]))
            except ValueError as error:
                gaps.add(f"video {vid}, expression {exp_id}", error)
            else:
                expressions[exp_id] = expression
        if expressions:
            kept[vid] = {**video, "expressions": expressions}
    if not kept:
        mevis.read_masks(root, split, videos)  # raises with the fault
    return store, kept
