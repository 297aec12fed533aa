"""JHMDB-Sentences: its folders, its list, the masks of a video. It is only evaluated.

Frames are numbered from 1; the masks of frame n are at index n - 1. Always binary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

import numpy as np
from torch import Tensor

from datasets.base import EvalClip
from datasets.sampling import centred_window, place_in_window
from datasets.sentences import Sentences
from util.files.matlab import read_mat
from util.files.names import inside, name_fault
from util.files.reading import shown, whole_number
from util.masks.coco import Truth
from util.run import dist
from util.run.gaps import Gaps
from util.samples.text import in_form, is_empty
from util.video.pictures import find_files, list_files, read_frames

SET = Sentences(title="JHMDB-Sentences", flag="--jhmdb_path", name="jhmdb")
_FORM = "[video, frame path, mask path, number of frames with a mask, query]"
_LONGEST = 10_000  # frames; the videos of JHMDB have 40 at most


@dataclass(frozen=True)
class Sample:
    """A sentence about the person in one frame.

    Attributes:
        video: its name.
        frame_path: the file of the frame, named by its number from 1.
        mask_path: the puppet masks of the video.
        length: number of frames with a mask, from the first on; the video may have more frames (get_samples_metadata in
            MTTR's datasets/jhmdb_sentences/jhmdb_sentences_dataset.py).
        query: the sentence.
    """

    video: str
    frame_path: Path
    mask_path: Path
    length: int
    query: str

    @property
    def frame(self) -> int:
        """Number of the frame, from 1."""
        return int(self.frame_path.stem)

    @property
    def image_id(self) -> str:
        return f"v_{self.video}_f_{self.frame}"


def list_path(root: Path) -> Path:
    """The samples, as JSON rows ``[video, frame path, mask path, number of frames with a mask, query]``."""
    return root / "jhmdb_sentences_samples_metadata.json"


def truth_path(root: Path) -> Path:
    """The ground truth, in COCO's form."""
    return root / "jhmdb_sentences_gt_annotations_in_coco_format.json"


def _rerooted(root: Path, listed: object, folder: str) -> Path | None:
    """A listed path under ``root`` instead of the folder of the list's author; None if it has another form.

    The path never leaves ``root``: one with ``..`` behind the folder has another form, too.
    """
    parts = PureWindowsPath(listed).parts if isinstance(listed, str) else ()
    within = parts[parts.index(folder) :] if folder in parts[:-1] else ()
    return inside(root, *within) if within and not any(map(name_fault, within)) else None


def read_samples(root: Path, gaps: Gaps | None = None) -> list[Sample]:
    """The samples of the list.

    Args:
        gaps: takes samples without a sentence. Without it the first one is an error.

    Raises:
        FileNotFoundError, ValueError: naming the file, the row and the mend.
    """
    path = list_path(root)
    SET.require(path, "the list of samples")
    gaps, samples = gaps or Gaps(strict=True), []
    for number, (video, frame, mask, length, query) in enumerate(SET.read_rows(path, 5, _FORM), 1):
        frame_path, mask_path = _rerooted(root, frame, "Rename_Images"), _rerooted(root, mask, "puppet_mask")
        if frame_path is None or mask_path is None:
            raise SET.bad(path, f"row {number} must name a frame in Rename_Images/ and a file in puppet_mask/")
        wrong = SET.bad(path, f"row {number} must be {_FORM}, with a video and a sentence")
        if not isinstance(video, str) or not isinstance(query, str):
            raise wrong
        frame = whole_number(frame_path.stem)
        if type(length) is not int or not 1 <= (frame or 0) <= length:
            raise SET.bad(path, f"row {number}: {frame_path.name} is not one of the {shown(length)} frames with a mask")
        if length > _LONGEST:
            raise SET.bad(path, f"row {number}: {shown(length)} frames are too many, the most are {_LONGEST:,}")
        sample = Sample(video, frame_path, mask_path, length, query)
        if is_empty(query):
            gaps.add(f"sample {sample.image_id}", wrong, on_all_ranks=True)
            continue
        samples.append(sample)
    SET.require_new(path, (sample.image_id for sample in samples))
    return samples


def read_puppet_masks(path: Path) -> np.ndarray:
    """bool ``[T, H, W]``, the pixels of the person; the video may have more frames.

    Raises FileNotFoundError or ValueError.
    """
    SET.require(path, "the file of masks")
    try:
        masks = read_mat(path, "part_mask")
    except (ValueError, OSError) as error:
        raise SET.bad(path, f'cannot be read as a MATLAB file with "part_mask" ({error})') from error
    if masks.ndim == 2:  # MATLAB drops the last axis where it has one entry
        masks = masks[..., None]
    if masks.ndim != 3:
        raise SET.bad(path, f'"part_mask" must be height x width x frames, not {list(masks.shape)}')
    return masks.transpose(2, 0, 1) > 0


def sample_masks(samples: list[Sample]) -> Iterator[tuple[Sample, np.ndarray | None]]:
    """The mask, bool ``[H, W]``, of each sample; None where the masks end before its frame."""
    path, masks = None, None
    for sample in samples:
        if sample.mask_path != path:
            path, masks = sample.mask_path, read_puppet_masks(sample.mask_path)
        yield sample, masks[sample.frame - 1] if sample.frame <= len(masks) else None


@dataclass(frozen=True)
class WindowClip(EvalClip):
    """A clip of some frames of a video; a frame may be repeated."""

    frame_paths: tuple[Path, ...]

    def read(self) -> Tensor:
        return read_frames(self.frame_paths)


def frame_files(samples: Iterable[Sample]) -> dict[Path, Path]:
    """The files of all frames of the samples' videos, by their paths in the form of the list.

    Frames may be stored as another kind of picture than listed. Of a missing frame there is no entry.

    Raises ValueError where a frame has two files.
    """
    lengths: dict[tuple[Path, str], int] = {}
    for sample in samples:
        key = (sample.frame_path.parent, sample.frame_path.suffix)
        lengths[key] = max(sample.length, lengths.get(key, 0))
    files = {}
    for (folder, suffix), length in lengths.items():
        stems = {Path(name).stem for name in list_files(folder)}
        found = find_files(folder, [s for s in stems if len(s) >= 5 and 1 <= (whole_number(s) or 0) <= length])
        files |= {folder / f"{name}{suffix}": folder / file for name, file in found.items()}
    return files


def eval_clips(root: Path, num_frames: int, gaps: Gaps | None = None) -> list[WindowClip]:
    """A clip of ``num_frames`` frames for each sample that has ground truth.

    Raises as :func:`read_samples`, also for a frame of a clip that is missing; with ``gaps`` only where all are.
    """
    gaps = gaps or Gaps(strict=True)
    with_truth = truth(root, gaps).keys()
    samples = read_samples(root, gaps)
    scored = [sample for sample in samples if sample.image_id in with_truth]
    if len(scored) < len(samples) and dist.is_main():
        without = len(samples) - len(scored)
        print(f"JHMDB-Sentences: {without} of {len(samples)} samples have no ground truth and are not scored")
    clips, files = [], frame_files(scored)
    for sample in scored:
        window = centred_window(sample.frame - 1, num_frames, sample.length)
        listed = (sample.frame_path.with_name(f"{i + 1:05d}{sample.frame_path.suffix}") for i in window)
        paths = tuple(files.get(path, path) for path in listed)
        for path in paths if gaps.strict else ():
            SET.require(path, f"the frame, one of {sample.length} with a mask,")
        clips.append(
            WindowClip(
                clip_id=f"{sample.video}, frame {sample.frame}",
                expressions={sample.image_id: in_form(sample.query, "lower")},
                scored=place_in_window(sample.frame - 1, num_frames),
                frame_paths=paths,
            )
        )
    if not gaps.strict:  # reading names missing files
        SET.require_any((path for clip in clips for path in clip.frame_paths), "the frame")
    return clips


def truth(root: Path, gaps: Gaps | None = None) -> dict[str, Truth]:
    """Ground truth of each sample whose frame has a mask, by image id; ``gaps`` as in
    :func:`util.masks.coco.read_ground_truth`."""
    return SET.read_truth(root, truth_path(root), gaps)
