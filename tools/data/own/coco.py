"""Masks in json: COCO's form with an object for each annotation, and YouTube-VIS's.

COCO's "images", "annotations" and the three forms of a segmentation are those of its page "Data format"
(dataset/format-data.htm in github.com/cocodataset/cocodataset.github.io). That page has no videos; the object to which
an annotation belongs stands in one of :data:`FIELDS`. YouTube-VIS has "videos" with "file_names", and annotations with
"segmentations", one for each frame or null (its page on CodaLab, competition 20128, and ``YTVOS`` in
PythonAPI/pycocotools/ytvos.py of the cocoapi of YouTube-VOS, as in github.com/wjf5203/cocoapi). There an annotation is
an object, and its "id" is the object's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from tools.data.own.masks import Code, CodedMasks
from util.files.reading import read_json, shown

# "track_id": TAO (its toolkit, tao/toolkit/tao/tao.py of github.com/TAO-Dataset/tao), and CVAT inside "attributes"
# (issue 3103 of github.com/cvat-ai/cvat); "instance_id": CocoVID of github.com/open-mmlab/mmtracking
FIELDS = ("track_id", "instance_id", "object_id")
FORM = (
    'masks in json are COCO\'s, with "images" whose "file_name" is VIDEO/FRAME.jpg, and "annotations" with "image_id", '
    '"track_id" and "segmentation"; or YouTube-VIS\'s, with "videos" that have "file_names", and "annotations" with '
    '"id", "video_id" and "segmentations"'
)


def read_coded(path: Path, faults: list[str], video: str | None = None) -> dict[str, CodedMasks]:
    """The masks of each video of a file. Entries that cannot be used are added to ``faults``.

    Args:
        video: whose frames are named without a folder.

    Raises:
        FileNotFoundError, ValueError: there is no file, or it has neither form.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: is not a JSON file ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise ValueError(f'{path}: has no list "annotations"; {FORM}')
    for name, read in (("images", _read_images), ("videos", _read_videos)):
        if isinstance(content.get(name), list):
            found: dict[str, CodedMasks] = {}
            for fault in read(path, content, found, video):
                faults.append(f"{path}, {fault}")
            return found
    raise ValueError(f'{path}: has neither a list "images" nor a list "videos"; {FORM}')


def _read_images(path: Path, content: dict, found: dict[str, CodedMasks], video: str | None) -> Iterator[str]:
    """Reads COCO's form; yields what cannot be used."""
    missing = f"names no object as {', '.join(FIELDS)}, by itself or in its attributes"
    frames: dict[object, tuple[CodedMasks, str]] = {}
    for number, image in enumerate(content["images"], 1):
        name = image.get("file_name") if isinstance(image, dict) else None
        if not isinstance(name, str) or not _is_id(image.get("id")):
            yield f'image {number}: must have "id" and "file_name"'
            continue
        place = _frame(name, video)
        if place is None:
            yield f"image {number}: its file name {shown(name)} names no video; write VIDEO/FRAME.jpg"
            continue
        masks = found.setdefault(place[0], CodedMasks(str(path), missing))
        if image["id"] in frames or place[1] in masks.codes:
            yield f"image {number}: the image {shown(image['id'])} or the file {shown(name)} is listed twice"
            continue
        masks.codes[place[1]], masks.sizes[place[1]] = [], _size(image)
        frames[image["id"]] = masks, place[1]
    for number, annotation in enumerate(content["annotations"], 1):
        at = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not _is_id(at) or at not in frames:
            yield f"annotation {number}: its image {shown(at)} is not listed, or cannot be used"
            continue
        masks, stem = frames[at]
        where = f"{path}, annotation {number}"
        masks.codes[stem].append(Code(where, _object(annotation), annotation.get("segmentation")))


def _read_videos(path: Path, content: dict, found: dict[str, CodedMasks], video: str | None) -> Iterator[str]:
    """Reads YouTube-VIS's form; yields what cannot be used."""
    videos: dict[object, tuple[CodedMasks, list[str]]] = {}
    for number, entry in enumerate(content["videos"], 1):
        names = entry.get("file_names") if isinstance(entry, dict) else None
        texts = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        if not texts or not _is_id(entry.get("id")):
            yield f'video {number}: must have "id" and "file_names"'
            continue
        places = [_frame(name, video) for name in names]
        of_video, stems = {place and place[0] for place in places}, [place and place[1] for place in places]
        if None in of_video or len(of_video) > 1 or len(set(stems)) < len(stems):
            yield f"video {number}: its file names must be VIDEO/FRAME.jpg, of one video, and each listed once"
            continue
        name = of_video.pop()
        if name in found or entry["id"] in videos:
            yield f"video {number}: the video {shown(entry['id'])} or {shown(name)} is listed twice"
            continue
        size = _size(entry)
        codes = {stem: [] for stem in stems}
        found[name] = CodedMasks(str(path), 'has no "id"', codes, dict.fromkeys(stems, size))
        videos[entry["id"]] = found[name], stems
    for number, annotation in enumerate(content["annotations"], 1):
        at = annotation.get("video_id") if isinstance(annotation, dict) else None
        if not _is_id(at) or at not in videos:
            yield f"annotation {number}: its video {shown(at)} is not listed, or cannot be used"
            continue
        masks, stems = videos[at]
        codes = annotation.get("segmentations")
        if not isinstance(codes, list) or len(codes) != len(stems):
            count = f"{len(codes)}" if isinstance(codes, list) else "no"
            yield f'annotation {number}: has {count} "segmentations" for {len(stems)} frames of its video'
            continue
        where = f"{path}, annotation {number}"
        for stem, code in zip(stems, codes, strict=True):
            if code is not None:
                masks.codes[stem].append(Code(where, annotation.get("id"), code))


def _frame(name: str, video: str | None) -> tuple[str, str] | None:
    """Video and frame of a file name; None where it names no video. The names are compared, and make no path."""
    place = PurePosixPath(name.replace("\\", "/"))
    folder = place.parent.name or video
    return (folder, place.stem) if folder and place.stem else None


def _is_id(value: object) -> bool:
    return type(value) in (int, str)


def _size(entry: Mapping) -> tuple[int, int] | None:
    size = entry.get("height"), entry.get("width")
    return size if all(type(side) is int for side in size) else None


def _object(annotation: Mapping) -> object:
    attributes = annotation.get("attributes")
    for place in (annotation, attributes if isinstance(attributes, dict) else {}):
        for name in FIELDS:
            if place.get(name) is not None:
                return place[name]
    return None
