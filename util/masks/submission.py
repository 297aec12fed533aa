"""Submissions to the servers of Ref-YouTube-VOS and MeViS, and the checks that they are complete."""

from __future__ import annotations

import os
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from tqdm import tqdm

from util.files.writing import atomic_path
from util.masks.results import RESULTS_ROOT, Results, Size, mask_name, shown, under
from util.run.cli import summarise


def expected_names(videos: Mapping[str, dict], root: str = RESULTS_ROOT) -> dict[str, tuple[str, str]]:
    """The name of every mask of the videos, with its video and expression id."""
    return {
        mask_name(vid, eid, frame, root): (vid, eid)
        for vid, video in videos.items()
        for eid in video["expressions"]
        for frame in video["frames"]
    }


def missing_masks(names: Iterable[str], videos: Mapping[str, dict], root: str = RESULTS_ROOT) -> list[str]:
    """The masks of the videos that are not among ``names``: one line for each expression with missing frames."""
    names = set(names)
    missing = defaultdict(list)
    for name, key in expected_names(videos, root).items():
        if name not in names:
            missing[key].append(name)
    return [
        f"video {vid}, expression {eid}: {len(absent)} of {len(videos[vid]['frames'])} frames are missing, "
        f"the first is {absent[0]}"
        for (vid, eid), absent in missing.items()
    ]


def root_problem(results: Results, root: str = RESULTS_ROOT) -> str | None:
    """The fault of results whose files do not lie in the folder ``root``; None if they do."""
    if not results.names:
        return f"{results.path} has no folder {root}/ at its root: it is empty" if root else f"{results.path} is empty"
    within = any(name.startswith(f"{root or RESULTS_ROOT}/") for name in results.names)
    if root and not within:
        return f"{results.path} has no folder {root}/ at its root: the first file is {shown(results.names[0])}"
    if not root and within:
        return f"{results.path} has a folder {RESULTS_ROOT}/ at its root, where the videos' folders should be"
    return None


def _image_problem(results: Results, name: str, size: Size | None) -> str | None:
    try:
        image = results.image(name, size)
    except ValueError as error:
        return str(error)
    if image.format != "PNG":
        return f"{name} is a {image.format} file, not a PNG"
    if image.mode != "L":
        return f"{name} has mode {image.mode}, not L"
    if sum(image.histogram()[1:255]):
        return f"{name} has values other than 0 and 255"
    return None


def validate_submission(
    zip_or_folder: str | os.PathLike,
    meta_videos: Mapping[str, dict],
    sizes: Callable[[str], Size] | Mapping[str, Size] | None,
    root: str = RESULTS_ROOT,
) -> list[str]:
    """Checks results against the list of videos: structure, completeness and every image.

    Args:
        zip_or_folder: the submission.
        meta_videos: ``{video: {"expressions": {id: …}, "frames": […]}}``, as in meta_expressions.json.
        sizes: height and width of a video's frames, as a function or a mapping; None leaves sizes unchecked.
        root: folder of the submission that holds the videos' folders; empty: they lie at its root.

    Returns:
        The problems, one line each; empty when all is well.

    Raises:
        FileNotFoundError, ValueError: the submission is missing, or is no folder and no readable zip.
    """
    with Results(zip_or_folder) as results:
        wrong_root = root_problem(results, root)
        if wrong_root:
            return [wrong_root]
        expected = expected_names(meta_videos, root)
        problems = missing_masks(results.names, meta_videos, root)
        present = sorted(set(results.names))
        problems += [f"{shown(name)} is not asked for" for name in present if name not in expected]

        known: dict[str, Size | None] = {}
        for name in tqdm([name for name in present if name in expected], "check", unit="mask", disable=None):
            vid = expected[name][0]
            if vid not in known:
                known[vid] = None if sizes is None else sizes(vid) if callable(sizes) else sizes[vid]
            problem = _image_problem(results, name, known[vid])
            if problem:
                problems.append(problem)
    return problems


def write_submission_zip(results_dir: str | os.PathLike, zip_path: str | os.PathLike, root: str = RESULTS_ROOT) -> None:
    """Packs the masks of ``results_dir/Annotations`` into a zip, atomically; equal results make equal bytes.

    Args:
        root: folder of the masks in the zip.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds a link, or what else is no file, or a file that is larger than a mask can be.
    """
    masks = Path(results_dir, RESULTS_ROOT)
    if not masks.is_dir():
        raise FileNotFoundError(f"{masks}: no such folder; inference writes it")
    with Results(masks) as results, atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in tqdm(results.names, "pack", unit="mask", disable=None):
            entry = zipfile.ZipInfo(under(root, name))
            entry.external_attr = 0o644 << 16
            try:
                content = results.read(name)
            except ValueError as error:
                raise ValueError(f"{masks}: {error}") from error
            archive.writestr(entry, content)


def build_submission(
    results_dir: str | os.PathLike,
    zip_path: str | os.PathLike,
    meta_videos: Mapping[str, dict],
    sizes: Callable[[str], Size] | Mapping[str, Size] | None,
    root: str = RESULTS_ROOT,
) -> None:
    """Packs the results and checks the zip; only a zip without problems gets the name ``zip_path``.

    Raises:
        ValueError: the first problems and their number. No zip is written then.
    """
    with atomic_path(zip_path) as temporary:
        write_submission_zip(results_dir, temporary, root)
        problems = validate_submission(temporary, meta_videos, sizes, root)
        if problems:
            count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
            raise ValueError(
                f"{results_dir}: {count}: {summarise(problems)}. Run inference again to fill what is missing, "
                "and remove what is not asked for"
            )
