"""Check of RefCOCO, RefCOCO+ and RefCOCOg as tools/data/convert_refcoco.py writes them."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from datasets import refcoco
from datasets.refcoco import Sentence
from tools.data.checks.report import Found, Report, frame_size, pixels, said
from util.masks.rle import count_unusable, is_blank, parse
from util.video.pictures import turned

# docs/data.md, "Where each fact is from". No source has the sentences of refcoco+ and refcocog by split.
PUBLISHED = {
    "refcoco train": {"images": 16994, "objects": 42404, "sentences": 120624},
    "refcoco val": {"images": 1500, "objects": 3811, "sentences": 10834},
    "refcoco testA": {"images": 750, "objects": 1975, "sentences": 5657},
    "refcoco testB": {"images": 750, "objects": 1810, "sentences": 5095},
    "refcoco+ train": {"images": 16992, "objects": 42278},
    "refcoco+ val": {"images": 1500, "objects": 3805},
    "refcoco+ testA": {"images": 750, "objects": 1975},
    "refcoco+ testB": {"images": 750, "objects": 1798},
    "refcocog train": {"images": 21899, "objects": 42226},
    "refcocog val": {"images": 1300, "objects": 2573},
    "refcocog test": {"images": 2600, "objects": 5023},
}
PIECES = "pieces of polygons are no area of at least three corners and are not used"
# number of images in a job
_TOGETHER = 32


def check_refcoco(root: Path, workers: int) -> Report:
    """Checks the sets of RefCOCO, RefCOCO+ and RefCOCOg that a folder of COCO holds."""
    report = Report(published=PUBLISHED)
    found: dict[str, list[Sentence]] = {}
    for name in refcoco.SETS:
        paths = {
            split: refcoco.annotations_path(root, name, split) for split in refcoco.SPLITS[refcoco.DIVISIONS[name]]
        }
        if not (root / name).is_dir():
            report.notes.append(f"{name}: not there")
        elif not any(path.is_file() for path in paths.values()):
            report.notes.append(f"{name}: not converted; python tools/data/convert_refcoco.py {root} --sets {name}")
        else:
            for split, path in paths.items():
                images = report.read(root, lambda name=name, split=split: refcoco.read_sentences(root, name, split))
                if images:
                    source = path.relative_to(root).as_posix()
                    found[source] = [sentence for of_image in images.values() for sentence in of_image]
                    for sentence in found[source]:
                        where = f"image {sentence.file_name}, sentence {sentence.sentence_id}"
                        report.check_text(source, where, sentence.text)
                    report.counts[f"{name} {split}"] = {
                        "images": len(images),
                        "objects": len({sentence.object_id for sentence in found[source]}),
                        "sentences": len(found[source]),
                    }
    if not found:
        wrong = "".join(f"; {fault}" for fault in report.faults[:1])
        raise FileNotFoundError(f"{root}: there is no list of any split to check by{wrong}; see docs/data.md")
    # the sets share images, and each image is read once
    images: dict[str, dict[tuple[str, int], Sentence]] = defaultdict(dict)
    for source, sentences in found.items():
        for sentence in sentences:
            images[sentence.file_name][source, sentence.object_id] = sentence
    every = list(images.items())
    jobs = {("images", start): (root, every[start : start + _TOGETHER]) for start in range(0, len(every), _TOGETHER)}
    report.check_all(check_images, jobs, workers, unit=f"{_TOGETHER} images")
    return report


def check_images(root: Path, images: list[tuple[str, dict[tuple[str, int], Sentence]]]) -> Found:
    """Reads images and the masks of their objects. ``images``: file names, with objects by list and number."""
    found = Found()
    for name, objects in images:
        path = refcoco.image_path(root, name)
        relative = path.relative_to(root).as_posix()
        size = None
        try:
            size = frame_size(path)
            found.note_turned(root, relative)
        except FileNotFoundError:
            found.add("missing", relative)
        except (ValueError, OSError) as error:
            found.add("damaged", relative, said(error, path))
        expected = {sentence.size: source for (source, _), sentence in objects.items()}
        for of_list, source in expected.items():
            if size and of_list != size:
                why = turned(path) if size == of_list[::-1] else ""
                text = f"is {pixels(size)}, {source} has {pixels(of_list)} for it{why and f': {why}'}"
                found.add("size", relative, text)
        for (source, number), sentence in objects.items():
            original = (f"{Path(source).parent}/instances.json",)
            found.notes[PIECES] += count_unusable(sentence.segmentation)
            try:
                blank = is_blank(parse(sentence.segmentation, sentence.size))
            except ValueError as error:
                found.add("damaged", source, f"the mask of COCO's annotation {number}: {error}", original)
            else:
                if blank:
                    found.add("no_pixels", source, f"COCO's annotation {number}", ())
    return found
