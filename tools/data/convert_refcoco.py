"""Converts RefCOCO, RefCOCO+ and RefCOCOg to a COCO file for each split, with an image entry for each sentence.

    python tools/data/convert_refcoco.py data/coco

reads data/coco/refcoco/{instances.json,refs(unc).p}, refcoco+/{instances.json,refs(unc).p} and
refcocog/{instances.json,refs(umd).p}, and writes instances_<set>_<split>.json beside them. The originals are not
changed. Running the script again makes the same files.
"""

from __future__ import annotations

import json
import pickle
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from tqdm import tqdm

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets.refcoco import DIVISIONS, SETS, SPLITS, annotations_path  # noqa: E402
from util.files.folders import new_pieces  # noqa: E402
from util.files.names import name_fault  # noqa: E402
from util.files.reading import read_json, shown  # noqa: E402
from util.files.writing import named_errors  # noqa: E402
from util.masks.rle import count_unusable, is_blank, parse, usable  # noqa: E402
from util.run.cli import (
    run,  # noqa: E402
    summarise,  # noqa: E402
)
from util.run.parser import CommandParser
from util.samples.text import is_empty  # noqa: E402

_SEE = "see docs/data.md, RefCOCO"
_MEND = f"unpack the set's archive again; {_SEE}"


def _bad(path: Path, problem: str) -> ValueError:
    return ValueError(f"{path}: {problem}; {_MEND}")


class PlainUnpickler(pickle._Unpickler):
    """Reads numbers, texts, lists and dicts. A pickle that names a class or function is refused before it runs.

    This is the unpickler in Python, which takes 5 seconds for RefCOCO. The one in C (Modules/_pickle.c of CPython)
    allocates a table up to the largest number that the pickle has for an object: five bytes claim 30 GB. Byte arrays,
    which both fill with as many zeros as the pickle claims, are refused.
    """

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}

    def find_class(self, module: str, name: str) -> None:
        raise pickle.UnpicklingError(f"it names {module}.{name}, and the references need no code")


def read_references(path: Path) -> list:
    """The content of a ``refs(….p)``, which Python 2 wrote. Text that is not UTF-8 is read as Latin-1.

    Raises FileNotFoundError, and ValueError for a file that is damaged or holds more than plain data.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file does not exist; {_MEND}")
    try:
        # from memory, because a file allocates what it is asked for, and the pickle may claim a text of any length
        file = BytesIO(path.read_bytes())
        # Python 2's texts are bytes. Bytes that are not UTF-8 become surrogates, which :func:`_text` decodes.
        references = PlainUnpickler(file, encoding="utf-8", errors="surrogateescape").load()
    # a damaged or hostile pickle may raise any error
    except Exception as error:
        raise _bad(path, f"is not a pickle of plain data ({str(error) or type(error).__name__})") from error
    if type(references) is not list:
        raise _bad(path, "must hold a list of references")
    return references


def _text(text: str) -> str:
    """A text of :func:`read_references`; bytes that are not UTF-8 are read as Latin-1."""
    with suppress(UnicodeEncodeError):  # half of a surrogate pair, which is no byte and stays; encoders drop it
        return text if text.isascii() else _decoded(text.encode("utf-8", "surrogateescape"))
    return text


def _decoded(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def read_instances(path: Path) -> tuple[dict, dict[int, dict], dict[int, dict]]:
    """The content of an ``instances.json``, its images by id and its annotations by id."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this file does not exist; {_MEND}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise _bad(path, f"is not a JSON file ({error})") from error
    found = []
    for kind in ("images", "annotations"):
        entries = content.get(kind) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) and type(e.get("id")) is int for e in entries):
            raise _bad(path, f'must hold the list "{kind}", each with a number as its "id"')
        found.append({entry["id"]: entry for entry in entries})
    return content, *found


IMAGE_KEYS = {"file_name": str, "height": int, "width": int}
ANNOTATION_KEYS = {"image_id": int, "category_id": int, "bbox": list, "segmentation": list | dict}
REFERENCE_KEYS = {"ref_id": int, "ann_id": int, "image_id": int, "split": str, "sentences": list}
SENTENCE_KEYS = {"sent_id": int, "sent": str}


def _require(path: Path, what: str, entry: object, keys: dict) -> None:
    """Raises ValueError unless ``entry`` is a dict whose ``keys`` have values of these types; a bool is no int."""
    for key, kind in keys.items():
        value = entry.get(key) if isinstance(entry, dict) else None
        if not isinstance(value, kind) or (kind is int and type(value) is not int):
            raise _bad(path, f'{what} must hold a proper "{key}"')


@dataclass
class Converted:
    """A converted split.

    Attributes:
        images, annotations: an entry for each sentence, in the order of the references.
    """

    images: list[dict] = field(default_factory=list)
    annotations: list[dict] = field(default_factory=list)

    def add(self, image: dict, annotation: dict, caption: str, name: str) -> None:
        number = len(self.images) + 1
        kept = {key: image[key] for key in IMAGE_KEYS}
        self.images.append({"id": number, "original_id": image["id"], **kept, "caption": caption, "dataset_name": name})
        kept = {key: annotation[key] for key in (*ANNOTATION_KEYS, "area", "iscrowd") if key in annotation}
        self.annotations.append({**kept, "id": number, "image_id": number, "original_id": annotation["id"]})

    def describe(self) -> str:
        objects = len({annotation["original_id"] for annotation in self.annotations})
        images = len({image["original_id"] for image in self.images})
        return f"{len(self.images)} sentences about {objects} objects in {images} images"


def _without_unusable(annotation: dict, image: dict) -> dict | str:
    """An annotation without unusable polygons; or, as a text, why training cannot use the annotation."""
    try:
        pieces = usable(annotation["segmentation"])
        if not pieces:
            return "has no polygon of three corners"
        if is_blank(parse(pieces, (image["height"], image["width"]))):
            return "has no pixel within its image"
    except ValueError as error:
        return f"is damaged ({error})"
    return {**annotation, "segmentation": pieces}


def convert(root: Path, name: str) -> tuple[dict[str, Converted], dict, list[str]]:
    """Joins the references and the instances of a set.

    Returns:
        The splits; the entries that all files share (``info``, ``licenses``, ``categories``); and a line for each thing
        that is left out.

    Raises:
        FileNotFoundError, ValueError: naming the file and the entry.
    """
    refs_path = root / name / f"refs({DIVISIONS[name]}).p"
    instances_path = root / name / "instances.json"
    splits = {split: Converted() for split in SPLITS[DIVISIONS[name]]}
    references = read_references(refs_path)
    content, images, annotations = read_instances(instances_path)
    left_out, dropped = [], {}  # dropped: number of unusable polygons, by annotation
    for number, reference in enumerate(tqdm(references, name, unit="object", disable=None)):
        _require(refs_path, f"reference {number} of the list", reference, REFERENCE_KEYS)
        what = f"reference {reference['ref_id']}"
        if reference["split"] not in splits:
            raise _bad(refs_path, f"{what} is of the split {shown(reference['split'])}, not one of {', '.join(splits)}")
        annotation, image = annotations.get(reference["ann_id"]), images.get(reference["image_id"])
        for entry, kind, key, keys in (
            (annotation, "annotation", "ann_id", ANNOTATION_KEYS),
            (image, "image", "image_id", IMAGE_KEYS),
        ):
            if entry is None:
                raise _bad(instances_path, f"has no {kind} {reference[key]}, which {what} of {refs_path.name} means")
            _require(instances_path, f"{kind} {reference[key]}", entry, keys)
        if fault := name_fault(image["file_name"]):
            raise _bad(instances_path, f"image {image['id']}: {fault}")
        if annotation["image_id"] != image["id"]:
            raise _bad(
                instances_path,
                f"annotation {annotation['id']} is of image {annotation['image_id']}, but {what} of {refs_path.name} "
                f"is about image {image['id']}",
            )
        whole, annotation = annotation, _without_unusable(annotation, image)
        if isinstance(annotation, str):
            left_out.append(f"{what}, whose annotation {reference['ann_id']} {annotation}")
            continue
        dropped[annotation["id"]] = count_unusable(whole["segmentation"])
        if not reference["sentences"]:
            left_out.append(f"{what} has no sentence")
        for i, sentence in enumerate(reference["sentences"]):
            _require(refs_path, f"{what}, sentence {i} of its list", sentence, SENTENCE_KEYS)
            caption = _text(sentence["sent"])
            if not is_empty(caption):
                splits[reference["split"]].add(image, annotation, caption, name)
            else:
                left_out.append(f"sentence {sentence['sent_id']} of {what} is empty")
    pieces = ((number, count) for number, count in dropped.items() if count)
    left_out += [f"{n} pieces of annotation {number}, which are no polygons of three corners" for number, n in pieces]
    shared = {key: content[key] for key in ("info", "licenses", "categories") if key in content}
    return splits, shared, left_out


def write(root: Path, name: str, splits: dict[str, Converted], shared: dict) -> None:
    """Writes the files of a set; either all of them take their names or none."""
    names = {split: annotations_path(root, name, split).name for split in splits}
    with named_errors(root / name), new_pieces(root / name, list(names.values())) as made:
        for split, converted in splits.items():
            content = {**shared, "images": converted.images, "annotations": converted.annotations}
            with (made / names[split]).open("w", encoding="utf-8") as file:
                json.dump(content, file)


def main() -> None:
    parser = CommandParser("convert_refcoco.py", __doc__)
    parser.add_argument("coco_path", type=Path, help="folder with refcoco/, refcoco+/ and refcocog/")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS, help="default: all three")
    args = parser.parse_args()
    for name in args.sets:
        splits, shared, left_out = convert(args.coco_path, name)
        write(args.coco_path, name, splits, shared)
        for split, converted in splits.items():
            print(f"{annotations_path(args.coco_path, name, split)}: {converted.describe()}")
            if not converted.images:
                print(f"warning: no reference of {name} belongs to its split {split}")
        if left_out:
            print(f"warning: left out of {name}: {summarise(left_out)} ({len(left_out)} in all)")


if __name__ == "__main__":
    run(main)
