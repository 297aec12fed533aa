"""What inference writes: mask PNGs, the submission of Ref-YouTube-VOS or MeViS, and the checks that it is complete.

Layout of a results folder and of the zip: ``Annotations/<video>/<expression id>/<frame>.png``, mode L, 0 or 255, the
frame's original size, every listed frame; in a zip for MeViS without ``Annotations/`` (``root`` is empty). Ref-DAVIS17
has ``anno_<annotator>/<video>/<frame>.png``, palette PNGs whose pixel value is the object's number. Nothing here leaves
a half-written file behind.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

RESULTS_ROOT = "Annotations"
# First frame and full video of Ref-DAVIS17's first annotator, then of its second.
ANNOTATOR_ROOTS = ("anno_0", "anno_1", "anno_2", "anno_3")
LISTED_PROBLEMS = 5
UNFINISHED = ".*.*.part.*"  # what atomic_path calls a file until it is complete
# The 256 colours of PASCAL VOC and DAVIS: the bits of the index are dealt out to red, green and blue in turn.
LABEL_PALETTE = bytes(
    sum((index >> (3 * place + channel) & 1) << (7 - place) for place in range(3))
    for index in range(256)
    for channel in range(3)
)
Size = tuple[int, int]


@contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path beside ``path``, which takes its place when the block ends well and is removed otherwise.

    Missing folders are made. The temporary name keeps the suffix, from which some writers learn the format.

    Raises:
        OSError: of the original kind, naming ``path`` and the mend.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with _named_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Has an OSError name ``path`` and the mend."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        mend = "free some space or choose a folder that can be written to"
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            mend = "a file and a folder of its path have one name; choose another"
        raise OSError(error.errno, f"cannot be written ({os.strerror(error.errno)}); {mend}", str(path)) from error


@contextmanager
def atomic_pieces(folder: str | os.PathLike, pieces: Sequence[str], replace: bool) -> Iterator[Path]:
    """Yields a hidden folder in ``folder`` to write a result to, whose pieces move into ``folder`` when the block ends
    well; otherwise nothing of it is left.

    Args:
        folder: ``--output_dir``; is made where it does not exist.
        pieces: names of all files and folders that a result may have, the last being one that every result has.
        replace: put it in the place of a former result instead of refusing.

    Raises:
        ValueError: there is a former result, or something of unknown origin by the name of one of the pieces.
        OSError: naming the folder and the mend.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--output_dir {folder} is a file; choose another name")
    former = [piece for piece in pieces if (folder / piece).exists()]
    if former and former[-1] != pieces[-1]:
        raise ValueError(f"--output_dir {folder} holds {former[0]}, of unknown origin; choose another folder")
    if former and not replace:
        raise ValueError(
            f"--output_dir {folder} already holds a result ({', '.join(former)}): choose another, or add --overwrite"
        )
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    work = folder / ".unfinished"
    try:
        # a process that was killed may have left it
        shutil.rmtree(work, ignore_errors=True)
        with _named_errors(folder):
            work.mkdir(parents=True)
        yield work
        with _named_errors(folder):
            for piece in former:
                place = folder / piece
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            for piece in pieces:
                if (work / piece).exists():
                    os.replace(work / piece, folder / piece)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for place in made:
            with suppress(OSError):  # it holds something by now
                place.rmdir()


def write_json(path: str | os.PathLike, content, indent: int | None = 2) -> None:
    """Writes ``content`` as JSON, indented unless ``indent`` is None, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


@contextmanager
def open_json(path: str | os.PathLike, head: Mapping[str, object], name: str) -> Iterator[Callable[[object], None]]:
    """Writes a JSON object whose last value, ``name``, is a list that need never be in memory; atomically.

    Yields a function that adds an item to the list.

    Args:
        head: what comes before it.
    """
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        opening = json.dumps({**head, name: []}, indent=2, ensure_ascii=False)
        file.write(opening.removesuffix("]\n}"))
        separator = "\n"

        def add(item: object) -> None:
            nonlocal separator
            file.write(f"{separator}    {json.dumps(item, ensure_ascii=False)}")
            separator = ",\n"

        yield add
        file.write("\n  ]\n}\n")


def write_mask_png(path: str | os.PathLike, mask: np.ndarray) -> None:
    """Writes a mask, bool ``[H, W]``, as a PNG of mode L with 0 and 255, atomically; makes the folder."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"{path}: a mask is bool [H, W], not {mask.dtype} {list(mask.shape)}")
    with atomic_path(path) as temporary:
        Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")


def write_label_png(path: str | os.PathLike, labels: np.ndarray) -> None:
    """Writes object numbers, uint8 ``[H, W]``, as a PNG with DAVIS's palette, atomically; makes the folder."""
    labels = np.asarray(labels)
    if labels.dtype != np.uint8 or labels.ndim != 2 or labels.size == 0:
        raise ValueError(f"{path}: object numbers are uint8 [H, W], not {labels.dtype} {list(labels.shape)}")
    image = Image.fromarray(labels)
    image.putpalette(LABEL_PALETTE)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def mask_name(vid: str, eid: str, frame: str, root: str = RESULTS_ROOT) -> str:
    """Name of a mask, relative to the results folder or inside the zip."""
    return _under(root, f"{vid}/{eid}/{frame}.png")


def _under(root: str, name: str) -> str:
    return f"{root}/{name}" if root else name


def _decoded(content: bytes, name: str) -> Image.Image:
    try:
        # Decoding alone is content with a file whose end is missing.
        Image.open(BytesIO(content)).verify()
        image = Image.open(BytesIO(content))
        image.load()
    # Damaged bytes make decoders raise far more than OSError.
    except Exception as error:
        raise ValueError(f"{name} cannot be decoded ({error})") from error
    return image


class Results:
    """Read access to results, whether in a folder or in a zip; close it, or use it in a ``with`` block.

    Attributes:
        path: what was opened.
        names: every file, sorted, as a path relative to the root. Hidden files of a folder are left out: an
            interrupted run may have left some. A zip may hold a name more than once.

    Raises:
        FileNotFoundError: there is nothing at this path.
        ValueError: it is neither a folder nor a zip.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._zip = None
        if self.path.is_dir():
            files = (Path(folder, name) for folder, _, names in os.walk(self.path) for name in names)
            self.names = sorted(f.relative_to(self.path).as_posix() for f in files if not f.name.startswith("."))
            return
        if not self.path.exists():
            raise FileNotFoundError(f"{self.path}: no such results; give the folder or the zip that inference wrote")
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ValueError(f"{self.path}: not a folder and not a readable zip ({error})") from error
        self.names = sorted(name for name in self._zip.namelist() if not name.endswith("/"))

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return (self.path / name).read_bytes() if self._zip is None else self._zip.read(name)

    def image(self, name: str) -> Image.Image:
        """A decoded image; ValueError when the file is damaged or is no image."""
        try:
            content = self.read(name)
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:  # encrypted, unknown method
            raise ValueError(f"{name} cannot be read ({error})") from error
        return _decoded(content, name)

    def close(self) -> None:
        if self._zip is not None:
            self._zip.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def claim_results(
    results_dir: str | os.PathLike,
    run: Mapping[str, object],
    replace: bool,
    roots: Sequence[str] = (RESULTS_ROOT,),
    asked: Mapping[str, str] | None = None,
) -> None:
    """Makes ``results_dir`` the folder of this run's masks; masks that the same run left there stay.

    Half-written files of a process that was killed are removed, so nobody may be writing there yet.

    Args:
        results_dir: is made where it does not exist.
        run: all that the masks depend on, plain data; kept in ``inference.json``.
        replace: delete the masks of another run instead of refusing; never those of unknown origin.
        roots: its folders that hold masks.
        asked: what is asked of each video, as a digest; masks of one that was asked something else are deleted.

    Raises:
        ValueError: it holds masks of another run, or masks of unknown origin.
    """
    record = Path(results_dir, "inference.json")
    masks = [folder for root in roots if (folder := Path(results_dir, root)).is_dir()]
    made_by = None
    if record.is_file():
        try:
            made_by = json.loads(record.read_text(encoding="utf-8"))
        except ValueError:
            made_by = None
    before = made_by.pop("asked", {}) if isinstance(made_by, dict) else {}
    if masks and made_by is None:
        raise ValueError(f"--output_dir {results_dir} holds masks of unknown origin; choose another folder")
    if masks and made_by != dict(run):
        if not replace:
            differs = [f"{k} {made_by.get(k)} there, {v} now" for k, v in run.items() if made_by.get(k) != v]
            raise ValueError(
                f"--output_dir {results_dir} holds the masks of another run ({'; '.join(differs)}): choose another "
                "folder, or add --overwrite"
            )
        for folder in masks:
            shutil.rmtree(folder)
    asked = dict(asked or {})
    for vid in (vid for vid, digest in asked.items() if before.get(vid, digest) != digest):
        for folder in (root / vid for root in masks if (root / vid).resolve().parent == root.resolve()):
            shutil.rmtree(folder, ignore_errors=True)
    for unfinished in chain(Path(results_dir).glob(UNFINISHED), *(root.rglob(UNFINISHED) for root in masks)):
        unfinished.unlink(missing_ok=True)
    write_json(record, {**run, "asked": before | asked} if asked else dict(run))


def is_complete(results_dir: str | os.PathLike, vid: str, eid: str, frames: Iterable[str]) -> bool:
    """Whether every frame of one expression is on disk and can be decoded, so that it need not be made again."""
    return holds_frames(Path(results_dir, RESULTS_ROOT, vid, eid), frames)


def holds_frames(folder: Path, frames: Iterable[str]) -> bool:
    """Whether the folder has a mask of every frame and all can be decoded."""
    try:
        for frame in frames:
            name = f"{frame}.png"
            _decoded((folder / name).read_bytes(), name)
    except (OSError, ValueError):
        return False
    return True


def expected_names(videos: Mapping[str, dict], root: str = RESULTS_ROOT) -> dict[str, tuple[str, str]]:
    """Every mask that the videos ask for, by name, with its video and expression id."""
    return {
        mask_name(vid, eid, frame, root): (vid, eid)
        for vid, video in videos.items()
        for eid in video["expressions"]
        for frame in video["frames"]
    }


def missing_masks(names: Iterable[str], videos: Mapping[str, dict], root: str = RESULTS_ROOT) -> list[str]:
    """What of the videos is not among ``names``: one line for each expression with missing frames."""
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
    """What is wrong when no file lies under ``root``, or, where that is empty, all files under ``Annotations/``."""
    if not results.names:
        return f"{results.path} has no folder {root}/ at its root: it is empty" if root else f"{results.path} is empty"
    within = any(name.startswith(f"{root or RESULTS_ROOT}/") for name in results.names)
    if root and not within:
        return f"{results.path} has no folder {root}/ at its root: the first file is {results.names[0]}"
    if not root and within:
        return f"{results.path} has a folder {RESULTS_ROOT}/ at its root, where the videos' folders should be"
    return None


def summarise(problems: list[str]) -> str:
    """The first problems and how many there are, as one line."""
    more = len(problems) - LISTED_PROBLEMS
    return "; ".join(problems[:LISTED_PROBLEMS]) + (f"; and {more} more" if more > 0 else "")


def _image_problem(results: Results, name: str, size: Size | None) -> str | None:
    try:
        image = results.image(name)
    except ValueError as error:
        return str(error)
    if image.format != "PNG":
        return f"{name} is a {image.format} file, not a PNG"
    if image.mode != "L":
        return f"{name} has mode {image.mode}, not L"
    if sum(image.histogram()[1:255]):
        return f"{name} has values other than 0 and 255"
    if size is not None and (image.height, image.width) != tuple(size):
        return f"{name} is {image.width}x{image.height}, but the video's frames are {size[1]}x{size[0]}"
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
        root: folder in it that holds the videos' folders; empty where they lie at its root.

    Returns:
        The problems, one line each; empty when all is well.

    Raises:
        FileNotFoundError, ValueError: there is no readable zip or folder at all.
    """
    with Results(zip_or_folder) as results:
        wrong_root = root_problem(results, root)
        if wrong_root:
            return [wrong_root]
        expected = expected_names(meta_videos, root)
        problems = missing_masks(results.names, meta_videos, root)
        problems += [f"{name} is in it {n} times" for name, n in Counter(results.names).items() if n > 1]
        present = sorted(set(results.names))
        problems += [f"{name} is not asked for" for name in present if name not in expected]

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
        root: folder in the zip that takes them.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    masks = Path(results_dir, RESULTS_ROOT)
    if not masks.is_dir():
        raise FileNotFoundError(f"{masks}: no such folder; inference writes it")
    with Results(masks) as results, atomic_path(zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in results.names:
            entry = zipfile.ZipInfo(_under(root, name))
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, results.read(name))


def build_submission(
    results_dir: str | os.PathLike,
    zip_path: str | os.PathLike,
    meta_videos: Mapping[str, dict],
    sizes: Callable[[str], Size] | Mapping[str, Size] | None,
    root: str = RESULTS_ROOT,
) -> None:
    """Packs the results and checks the packed zip; only one without problems gets its name.

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
