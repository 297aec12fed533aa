"""COCO's form of ground truth and results, where each image is one sample: an expression with one mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pycocotools import mask as coco

from util.files.reading import read_json, shown
from util.masks import rle
from util.masks.rle import FARTHEST
from util.run.gaps import Gaps

CATEGORY = 1
Segmentation = dict  # {"size": [height, width], "counts": str}, COCO's compressed run lengths


@dataclass(frozen=True)
class Truth:
    """Ground truth of one sample.

    Attributes:
        mask: run lengths.
        box: xywh in pixels from the file, or computed from the mask if the file has no boxes.
    """

    mask: Segmentation
    box: tuple[float, ...]


def encode_masks(masks: np.ndarray) -> list[Segmentation]:
    """Run lengths of masks ``[n, H, W]``, whose values other than 0 are the object."""
    columns = np.asfortranarray((np.asarray(masks) != 0).transpose(1, 2, 0).astype(np.uint8))
    return [{"size": list(code["size"]), "counts": code["counts"].decode()} for code in coco.encode(columns)]


def nearest(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks ``[…, h, w]`` resized to ``size`` (height, width) by nearest neighbours: ``[…, H, W]``."""
    rows, columns = (np.arange(new) * old // new for new, old in zip(size, masks.shape[-2:], strict=True))
    return masks[..., rows[:, None], columns]


def fitted(truth: Truth, result: dict) -> dict:
    """A result in COCO's form whose mask is resized to the size of the truth, where the sizes differ."""
    code, size = result["segmentation"], truth.mask["size"]
    if list(code["size"]) == list(size):
        return result
    mask = nearest(rle.decode(rle.parse(code, tuple(code["size"]))), size)
    return {**result, "segmentation": encode_masks(mask[None])[0]}


def ground_truth(samples: Iterable[tuple[str, np.ndarray]]) -> dict:
    """The content of a ground-truth file from image ids and masks ``[H, W]``."""
    images, annotations = [], []
    for number, (image_id, mask) in enumerate(samples, 1):
        code = encode_masks(mask[None])[0]
        height, width = code["size"]
        images.append({"id": image_id, "height": height, "width": width})
        annotations.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": CATEGORY,
                "segmentation": code,
                "area": int(coco.area(code)),
                "bbox": coco.toBbox(code).tolist(),
                "iscrowd": 0,
            }
        )
    categories = [{"id": CATEGORY, "name": "referred"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def read_ground_truth(path: Path, gaps: Gaps | None = None) -> dict[str | int, Truth]:
    """The ground truth of each image id of a file in COCO's form, in the file's order.

    Published files differ: JHMDB-Sentences' file has no ``bbox``, in A2D's ``area`` is a float (both are written by
    create_gt_in_coco_format.py in datasets/{jhmdb,a2d}_sentences of github.com/mttr2021/MTTR). ``area``, category names
    and category ids are not read.

    Args:
        gaps: takes samples whose mask is damaged or of another size than its image. Without ``gaps`` the first such
            sample is an error.

    Raises:
        ValueError: naming the file: it has another form, or an image has no annotation or several.
    """
    gaps = gaps or Gaps(strict=True)
    try:
        content = read_json(path)
        lists = [content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations")]
        if not all(isinstance(entries, list) and all(isinstance(e, dict) for e in entries) for entries in lists):
            raise ValueError('it must hold the lists "images" and "annotations"')
        names = [image.get("id") for image in lists[0]] + [annotation.get("image_id") for annotation in lists[1]]
        odd = [name for name in names if type(name) not in (str, int)]
        if odd:
            raise ValueError(f"{shown(odd[0])} is neither a number nor a text, and so no image id")
        sizes = {image["id"]: (image.get("height"), image.get("width")) for image in content["images"]}
        entries = Counter(image["id"] for image in content["images"])
        annotated = Counter(annotation["image_id"] for annotation in content["annotations"])
        wrong = {name for name in entries | annotated if entries[name] != 1 or annotated[name] != 1}
        for name in sorted(wrong, key=str):
            if gaps.strict:
                raise ValueError(f"image {shown(name)} must be listed once, with one annotation")
            gaps.add(f"sample {name}", f"{path}: it must be listed once, with one annotation", on_all_ranks=True)
        truth = {}
        for annotation in content["annotations"]:
            image_id = annotation["image_id"]
            if image_id in wrong:
                continue
            try:
                truth[image_id] = _truth(annotation, sizes[image_id])
            except ValueError as error:
                problem = f"its mask is damaged ({error})"
                if gaps.strict:
                    raise ValueError(f"sample {shown(image_id)}: {problem}") from error
                gaps.add(f"sample {image_id}", f"{path}: {problem}", on_all_ranks=True)
        if not truth:
            raise ValueError("none of its masks can be read")
    except ValueError as error:
        raise ValueError(f"{path}: is not ground truth in COCO's form ({error})") from error
    return {image_id: truth[image_id] for image_id in sizes if image_id in truth}


def _truth(annotation: dict, size: tuple[int, int]) -> Truth:
    mask = rle.parse(annotation.get("segmentation"), size).as_coco()
    box = annotation["bbox"] if "bbox" in annotation else coco.toBbox(mask).tolist()
    numbers = isinstance(box, list) and all(type(x) in (int, float) and abs(x) <= FARTHEST for x in box)
    if not numbers or len(box) != 4:
        raise ValueError(f"its bbox is {shown(box)}, not four numbers of pixels")
    return Truth(mask, tuple(box))
