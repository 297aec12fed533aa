"""Ref-DAVIS17 in the layout that tools/data/convert_davis_to_ytvos.py writes: Ref-YouTube-VOS's, with four annotators.

Source of the categories, the 78 of DAVIS 2017's semantics: `davis_category_list` in datasets/categories.py of
github.com/wjn922/ReferFormer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from datasets import ytvos
from datasets.base import LabelMapVideo, VideoEntry
from datasets.ytvos import Layout
from util.files.reading import shown, whole_number
from util.masks.results import ANNOTATOR_ROOTS
from util.run.gaps import Gaps

SPLITS = ("train", "holdout", "valid")
ANNOTATORS = len(ANNOTATOR_ROOTS)

# fmt: off
CATEGORIES = (
    "airplane", "backpack", "ball", "bear", "bicycle", "bird", "boat", "bottle", "box", "bus", "camel", "car",
    "carriage", "cat", "cellphone", "chamaleon", "cow", "deer", "dog", "dolphin", "drone", "elephant", "excavator",
    "fish", "goat", "golf cart", "golf club", "grass", "guitar", "gun", "helicopter", "horse", "hoverboard", "kart",
    "key", "kite", "koala", "leash", "lion", "lock", "mask", "microphone", "monkey", "motorcycle", "oar", "paper",
    "paraglide", "person", "pig", "pole", "potted plant", "puck", "rack", "rhino", "rope", "sail", "scale", "scooter",
    "selfie stick", "sheep", "skateboard", "ski", "ski poles", "snake", "snowboard", "stick", "stroller", "surfboard",
    "swing", "tennis racket", "tractor", "trailer", "train", "truck", "turtle", "varanus", "violin", "wheelchair",
)
# fmt: on

REF_DAVIS = Layout("Ref-DAVIS17", SPLITS, CATEGORIES, with_objects=("train", "valid"))


@dataclass(frozen=True)
class AnnotatedVideo(VideoEntry):
    """A video to segment whole, once for each annotator.

    Attributes:
        annotators: for each annotator the text of every object, by the object's number in the masks.
    """

    annotators: tuple[dict[int, str], ...]


def split_videos(root: Path, split: str, holdout: int = 0, gaps: Gaps | None = None) -> dict[str, dict]:
    """The meta_expressions entries of ``train``, ``holdout`` or ``valid``; see :func:`ytvos.split_videos`."""
    return ytvos.split_videos(root, split, holdout, REF_DAVIS, gaps)


def annotations_root(root: Path, split: str) -> Path:
    """Folder that holds a folder of palette PNGs for each video of the split."""
    return ytvos.annotations_root(root, split, REF_DAVIS)


def train_videos(root: Path, holdout: int, binary: bool, *, absent: bool = False) -> list[LabelMapVideo]:
    """Index of the training videos; see :func:`ytvos.train_videos`."""
    return ytvos.train_videos(root, holdout, binary, REF_DAVIS, absent=absent)


def by_annotator(where: str, expressions: dict[str, dict]) -> tuple[dict[int, str], ...]:
    """Text of each object, for each annotator: expression ids are 4 * (object's place) + annotator.

    Raises ValueError where an id is no number or the annotators do not name the same objects.
    """
    mend = f"write the file with tools/data/convert_davis_to_ytvos.py; {REF_DAVIS.see}"
    annotators: tuple[dict[int, str], ...] = tuple({} for _ in range(ANNOTATORS))
    for exp_id, expression in sorted(expressions.items(), key=lambda item: (len(item[0]), item[0])):
        place, number = whole_number(exp_id), whole_number(expression.get("obj_id"))
        if place is None or number is None:
            problem = "its object is not a number" if number is None else "is not a number"
            raise ValueError(f"{where}: expression id {shown(exp_id)} {problem}; {mend}")
        texts = annotators[place % ANNOTATORS]
        if number in texts:
            raise ValueError(
                f"{where}: annotator {place % ANNOTATORS} names object {number} twice, the second time "
                f"as expression {exp_id}; {mend}"
            )
        texts[number] = expression["exp"]
    for k, texts in enumerate(annotators):
        if texts.keys() != annotators[0].keys():
            raise ValueError(
                f"{where}: by their expression ids annotator 0 names the objects {sorted(annotators[0])}, "
                f"annotator {k} the objects {sorted(texts)}; {mend}"
            )
    return tuple(dict(sorted(texts.items())) for texts in annotators)


def eval_videos(root: Path, split: str, holdout: int, gaps: Gaps | None = None) -> list[AnnotatedVideo]:
    """The videos of a split for inference.

    Raises as :func:`ytvos.eval_videos`, and where the four annotators of a video name different objects; with ``gaps``
    such a video becomes a gap.
    """
    gaps = gaps or Gaps(strict=True)
    entries = split_videos(root, split, holdout, gaps)
    path = root / "meta_expressions" / REF_DAVIS.folder(split) / "meta_expressions.json"
    videos = []
    for video in ytvos.eval_videos(root, split, holdout, REF_DAVIS, gaps):
        try:
            annotators = by_annotator(f"{path}: video {video.video_id}", entries[video.video_id]["expressions"])
        except ValueError as error:
            gaps.add(f"video {video.video_id}", error, on_all_ranks=True)
            problem = error
            continue
        videos.append(
            AnnotatedVideo(
                video_id=video.video_id,
                frame_names=video.frame_names,
                frame_paths=video.frame_paths,
                expressions=video.expressions,
                annotators=annotators,
            )
        )
    if not videos:
        raise problem
    return videos
