"""RefCOCO, RefCOCO+ and RefCOCOg in the form that tools/data/convert_refcoco.py writes. An image is a clip of one
frame, or a pseudo-video of several."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datasets.base import EvalClip, Expression, TrainVideo
from datasets.pseudo_video import pseudo_video
from util.files.names import inside, name_fault
from util.files.reading import read_json, shown
from util.masks.rle import count_unusable, decode, parse, require_size
from util.run import dist
from util.run.counts import counted
from util.run.gaps import Gaps
from util.samples.text import is_empty
from util.video.pictures import read_frames, turned

# The author of each set's division into splits, and these splits.
DIVISIONS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
SPLITS = {"unc": ("train", "val", "testA", "testB"), "umd": ("train", "val", "test")}
SETS = tuple(DIVISIONS)

# COCO's category ids, 1 to 90 with gaps, are the class indices.
CLASSES = 91

_SEE = "see docs/data.md, RefCOCO"
_CONVERT = "make the file anew with tools/data/convert_refcoco.py"


@dataclass(frozen=True)
class Sentence:
    """An entry of a converted file: a sentence, and the object that it means.

    Attributes:
        sentence_id: ``id`` of its image entry.
        text: its ``caption``.
        file_name: of the image in ``train2014/``.
        size: height and width of the image.
        image_id, object_id: numbers of the image and of the object's annotation in COCO.
        category: of the object in COCO.
        segmentation: of the object, one of COCO's three forms.
    """

    sentence_id: int
    text: str
    file_name: str
    size: tuple[int, int]
    image_id: int
    object_id: int
    category: int
    segmentation: list | dict


def _bad(path: Path, problem: str, mend: str = _CONVERT) -> ValueError:
    return ValueError(f"{path}: {problem}; {mend}; {_SEE}")


def annotations_path(root: Path, name: str, split: str) -> Path:
    """The converted file of a split. Raises ValueError for a split that the set lacks."""
    splits = SPLITS[DIVISIONS[name]]
    if split not in splits:
        raise ValueError(f"--split {split} does not exist for {name}; choose one of {', '.join(splits)}")
    return root / name / f"instances_{name}_{split}.json"


def image_path(root: Path, file_name: str) -> Path:
    return inside(root / "train2014", file_name)


def _entries(path: Path) -> tuple[list, dict]:
    """The image entries of a converted file, and the annotation of each image id."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file does not exist; {_CONVERT}; {_SEE}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise _bad(path, f"is not a JSON file ({error})") from error
    lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations")]
    if not all(isinstance(entries, list) and all(isinstance(e, dict) for e in entries) for entries in lists):
        raise _bad(path, 'must hold the lists "images" and "annotations"')
    images, annotations = lists
    if not images:
        raise _bad(path, "holds no sentence")
    odd = next((a.get("image_id") for a in annotations if type(a.get("image_id")) is not int), 0)
    if odd != 0:
        raise _bad(path, f'an annotation has {shown(odd)} as its "image_id", which is no number')
    by_image = {annotation["image_id"]: annotation for annotation in annotations}
    if len(by_image) < len(annotations):
        raise _bad(path, "an image has more than one annotation")
    return images, by_image


def _sentence(path: Path, name: str, image: dict, annotation: dict) -> Sentence:
    """An entry as a :class:`Sentence`; raises ValueError unless it has the documented form."""
    here = f"sentence {image['id']}"
    for entry, of, key in (
        (image, "image", "original_id"),
        (image, "image", "height"),
        (image, "image", "width"),
        (annotation, "annotation", "original_id"),
        (annotation, "annotation", "category_id"),
    ):
        if type(entry.get(key)) is not int:
            raise _bad(path, f'{here}: the {of} must have a number as "{key}"')
    for key in ("caption", "file_name"):
        if not isinstance(image.get(key), str):
            raise _bad(path, f'{here}: the image must have a text as "{key}"')
    if fault := name_fault(image["file_name"]):
        raise _bad(path, f"{here}: the image {fault}")
    if is_empty(image["caption"]):
        raise _bad(path, f"{here} is empty", "write its text as its caption, or delete the image and its annotation")
    if image.get("dataset_name", name) != name:
        raise _bad(path, f"{here} is of {shown(image['dataset_name'])}, not of {name}")
    if not 1 <= annotation["category_id"] < CLASSES:
        raise _bad(path, f"{here}: {annotation['category_id']} is no category of COCO, which has 1 to 90")
    if not isinstance(annotation.get("segmentation"), list | dict):
        raise _bad(path, f'{here}: the annotation must have a "segmentation"')
    size = (image["height"], image["width"])
    try:
        require_size(size)
    except ValueError as error:
        raise _bad(path, f"{here}: {error}") from error
    return Sentence(
        sentence_id=image["id"],
        text=image["caption"],
        file_name=image["file_name"],
        size=size,
        image_id=image["original_id"],
        object_id=annotation["original_id"],
        category=annotation["category_id"],
        segmentation=annotation["segmentation"],
    )


def read_sentences(root: Path, name: str, split: str, gaps: Gaps | None = None) -> dict[int, list[Sentence]]:
    """The sentences of a split, by the COCO image they are about, in the file's order.

    Args:
        root: folder of COCO.
        name: one of :data:`SETS`.
        gaps: takes sentences whose entry has another form than documented. Without it the first one is an error.

    Raises:
        FileNotFoundError, ValueError: naming the file, the entry and the mend.
    """
    gaps, path = gaps or Gaps(strict=True), annotations_path(root, name, split)
    images, annotations = _entries(path)
    found: dict[int, list[Sentence]] = {}
    seen = set()
    for image in images:
        if type(image.get("id")) is not int:
            raise _bad(path, f'image {len(seen) + 1} of the list must have a number as "id"')
        if image["id"] in seen:
            raise _bad(path, f"sentence {image['id']} is in it twice")
        seen.add(image["id"])
        if image["id"] not in annotations:
            raise _bad(path, f"sentence {image['id']} has no annotation")
        try:
            sentence = _sentence(path, name, image, annotations[image["id"]])
        except ValueError as error:
            gaps.add(f"sample {image['id']}", error, on_all_ranks=True)
            continue
        same = found.setdefault(sentence.image_id, [])
        if same and (same[0].file_name, same[0].size) != (sentence.file_name, sentence.size):
            raise _bad(
                path,
                f"sentences {same[0].sentence_id} and {sentence.sentence_id} are about COCO's image "
                f"{sentence.image_id}, but with different file names or sizes",
            )
        same.append(sentence)
    return found


def read_image(path: Path, size: tuple[int, int], source: Path) -> Tensor:
    """uint8 RGB ``[1, 3, H, W]``. Raises as :func:`util.video.pictures.read_frames`, and ValueError for another size
    than ``source`` has for it."""
    frames = read_frames([path])
    height, width = frames.shape[-2:]
    if (height, width) != size:
        why = turned(path) if (width, height) == size else ""
        raise ValueError(
            f"{path}: is {width}x{height} pixels, but {source} has {size[1]}x{size[0]} for it{why and f' ({why})'}; "
            f"restore the image from COCO's train2014.zip, or {_CONVERT}; {_SEE}"
        )
    return frames


@dataclass(frozen=True)
class CocoImage(TrainVideo):
    """An image with masks and sentences; a clip of more than one frame is a pseudo-video.

    Attributes:
        path: of the image.
        image_size: height and width from ``source``, so that no image need be opened for them.
        segmentations: of each object, as JSON text, which takes little memory.
        source: the converted file.
    """

    path: Path
    image_size: tuple[int, int]
    segmentations: dict[int, bytes]
    source: Path

    def size(self) -> tuple[int, int]:
        return self.image_size

    def frames(self, positions: Sequence[int]) -> Tensor:
        return read_image(self.path, self.image_size, self.source).expand(len(positions), -1, -1, -1)

    def masks(self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], size: tuple[int, int]) -> Tensor:
        union = [np.maximum.reduce([self._mask(o, size) for o in of_one]) for of_one in objects]
        return torch.from_numpy(np.stack(union)).expand(len(positions), -1, -1, -1)

    def _mask(self, object_id: int, size: tuple[int, int]) -> np.ndarray:
        try:
            return decode(parse(json.loads(self.segmentations[object_id]), size)).astype(np.uint8)
        except ValueError as error:
            problem = f"the segmentation of COCO's annotation {object_id} is damaged ({error})"
            raise _bad(self.source, problem) from error

    def where(self) -> str:
        return str(self.source)

    def clip(
        self, positions: Sequence[int], objects: Sequence[tuple[int, ...]], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        frames, masks = super().clip(positions[:1], objects, rng)
        return pseudo_video(frames[0], masks[0], len(positions), rng) if len(positions) > 1 else (frames, masks)


def _tell_dropped(source: Path, sentences_of: dict[int, list[Sentence]]) -> None:
    """Prints how many pieces of polygons of a list are not used, where there are such."""
    objects = {s.object_id: s.segmentation for sentences in sentences_of.values() for s in sentences}
    dropped = sum(count_unusable(segmentation) for segmentation in objects.values())
    if dropped and dist.is_main():
        what = "pieces of polygons are no area of at least three corners and are not used"
        print(f"{source}: {counted(dropped, what)}")


def train_videos(root: Path, name: str, binary: bool) -> list[CocoImage]:
    """Index of the training images of a set; with ``binary`` every label is 0.

    Images and objects are named by COCO's numbers, so the three sets have the same names for them.
    Raises as :func:`read_sentences`.
    """
    sentences_of = read_sentences(root, name, "train")
    _tell_dropped(annotations_path(root, name, "train"), sentences_of)
    return [
        CocoImage(
            video_id=Path(sentences[0].file_name).stem,
            frame_ids=(sentences[0].file_name,),
            expressions=tuple(
                Expression(
                    exp_id=str(sentence.sentence_id),
                    text=sentence.text,
                    objects=(sentence.object_id,),
                    label=0 if binary else sentence.category,
                )
                for sentence in sentences
            ),
            path=image_path(root, sentences[0].file_name),
            image_size=sentences[0].size,
            segmentations={s.object_id: json.dumps(s.segmentation).encode() for s in sentences},
            source=annotations_path(root, name, "train"),
        )
        for sentences in sentences_of.values()
    ]


@dataclass(frozen=True)
class CocoClip(EvalClip):
    """An image to be scored, a clip of one frame.

    Attributes:
        path, size, source: as in :class:`CocoImage`.
    """

    path: Path
    size: tuple[int, int]
    source: Path

    def read(self) -> Tensor:
        return read_image(self.path, self.size, self.source)


def eval_clips(root: Path, name: str, split: str, gaps: Gaps | None = None) -> list[CocoClip]:
    """The images of a split; the key of a sample is its image id in :func:`annotations_path`.

    Raises as :func:`read_sentences`, also for an image that is missing; with ``gaps`` only where all are.
    """
    gaps, source = gaps or Gaps(strict=True), annotations_path(root, name, split)
    clips = [
        CocoClip(
            clip_id=Path(sentences[0].file_name).stem,
            expressions={sentence.sentence_id: sentence.text for sentence in sentences},
            scored=0,
            path=image_path(root, sentences[0].file_name),
            size=sentences[0].size,
            source=source,
        )
        for sentences in read_sentences(root, name, split, gaps).values()
    ]
    # A missing image shows now, and not in the middle of an evaluation; with gaps, reading the image names it.
    if not gaps.strict and any(clip.path.is_file() for clip in clips):
        return clips
    for clip in clips:
        if not clip.path.is_file():
            raise FileNotFoundError(f"{clip.path}: the image is listed in {source}, but does not exist; {_SEE}")
    return clips
