"""The converter of RefCOCO, RefCOCO+ and RefCOCOg: pickles of every kind, what is written, what is refused."""

from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import pytest

from tests.mini_refcoco import (
    CAPTIONS,
    DIVISION,
    IMAGES,
    PERSON,
    ZEBRA,
    annotation_id,
    instances,
    python2_pickle,
    references,
    segmentation,
    write_mini_refcoco,
    write_originals,
)
from tools.data import convert_refcoco
from tools.data.convert_refcoco import convert, read_references

PLAIN = [{"ref_id": 3, "sent_ids": [1, 2], "sentences": [{"sent": "a box", "tokens": []}], "split": "train"}]


def run(monkeypatch, *words) -> None:
    monkeypatch.setattr(sys, "argv", ["convert_refcoco.py", *map(str, words)])
    convert_refcoco.main()


def load(root: Path, name: str, split: str) -> dict:
    return json.loads((root / name / f"instances_{name}_{split}.json").read_text())


@pytest.fixture
def originals(tmp_path) -> Path:
    return write_mini_refcoco(tmp_path / "coco", converted=False)


# --------------------------------------------------------------------------------------------------------- pickles


@pytest.mark.parametrize(
    "pickled",
    [
        python2_pickle(PLAIN, 0),
        python2_pickle(PLAIN, 2),
        *(pickle.dumps(PLAIN, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)),
    ],
    ids=["python 2, 0", "python 2, 2", *(f"python 3, {p}" for p in range(pickle.HIGHEST_PROTOCOL + 1))],
)
def test_pickles_of_plain_data_are_read(tmp_path, pickled):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickled)
    assert read_references(path) == PLAIN


def test_the_writer_of_python_2_pickles_writes_pickles():
    for protocol in (0, 2):
        assert pickle.loads(python2_pickle(references("refcoco"), protocol), encoding="bytes")[0][b"split"] == b"train"


class Hostile:
    """Unpickled by an ordinary unpickler it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def hostile_pickles(target: Path) -> list[bytes]:
    made = [pickle.dumps([Hostile(target)], protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    named = b"V" + str(target).encode() + b"\n"
    # what pickle itself no longer writes but still obeys: INST and OBJ
    return [*made, b"(l(" + named + b"ios\nmkdir\na.", b"(l(cos\nmkdir\n" + named + b"oa."]


def test_pickles_that_name_code_are_refused_before_it_runs(tmp_path):
    path, target = tmp_path / "refs(unc).p", tmp_path / "made"
    for number, pickled in enumerate(hostile_pickles(target)):
        path.write_bytes(pickled)
        with pytest.raises(
            ValueError, match=r"refs\(unc\)\.p: is not a pickle of plain data \(it names .*mkdir.*data\.md"
        ):
            read_references(path)
        assert not target.exists(), number
    pickle.loads(pickle.dumps(Hostile(target)))
    assert target.exists(), "the pickle is harmless, so the test shows nothing"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"", "is not a pickle of plain data"),
        (b"no pickle", "is not a pickle of plain data"),
        (python2_pickle(PLAIN, 2)[:-20], "is not a pickle of plain data"),
        (pickle.dumps({"refs": []}), "must hold a list of references"),
        (pickle.dumps([1j]), "it names builtins.complex"),
    ],
    ids=["nothing", "text", "cut short", "dict", "complex"],
)
def test_bad_pickles_are_named(tmp_path, pickled, message):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickled)
    with pytest.raises(ValueError, match=rf"refs\(unc\)\.p: .*{message}.*docs/data\.md, RefCOCO"):
        read_references(path)


# ------------------------------------------------------------------------------------------------------ conversion


@pytest.mark.parametrize("name", DIVISION)
def test_one_image_and_one_annotation_for_each_sentence(originals, monkeypatch, name):
    run(monkeypatch, originals, "--sets", name)
    numbers = {
        split: [image.number for image in IMAGES if image.split in of]
        for split, of in (
            {"train": "train", "val": "val", "testA": "testA", "testB": "testB"}
            if DIVISION[name] == "unc"
            else {"train": ("train",), "val": ("val",), "test": ("testA", "testB")}
        ).items()
    }
    assert sorted(path.name for path in (originals / name).glob("instances_*")) == sorted(
        f"instances_{name}_{split}.json" for split in numbers
    )
    by_number = {image.number: image for image in IMAGES}
    for split, of in numbers.items():
        content = load(originals, name, split)
        expected = [(number, which, text) for number in of for which in (1, 2) for text in CAPTIONS[which]]
        assert [i["id"] for i in content["images"]] == list(range(1, len(expected) + 1))
        for image, annotation, (number, which, text) in zip(
            content["images"], content["annotations"], expected, strict=True
        ):
            mini = by_number[number]
            assert image == {
                "id": image["id"],
                "original_id": number,
                "file_name": mini.file_name,
                "height": mini.height,
                "width": mini.width,
                "caption": text,
                "dataset_name": name,
            }
            assert annotation == {
                "id": image["id"],
                "image_id": image["id"],
                "original_id": annotation_id(mini, which),
                "category_id": PERSON if which == 1 else ZEBRA,
                "bbox": list(mini.box(which)),
                "area": mini.mask(which).sum(),
                "iscrowd": which - 1,
                "segmentation": segmentation(mini, which),
            }
        assert content["categories"] == instances()["categories"] and "info" in content


def test_converting_again_makes_the_same_and_leaves_the_originals(originals, monkeypatch, capsys):
    def state() -> dict:
        return {path: path.read_bytes() for path in originals.rglob("*") if path.is_file()}

    before = state()
    run(monkeypatch, originals)
    first = state()
    assert first.items() >= before.items() and len(first) == len(before) + 4 + 4 + 3
    printed = capsys.readouterr().out
    assert "instances_refcoco_train.json: 12 sentences about 6 objects in 3 images" in printed
    assert "instances_refcocog_test.json: 8 sentences about 4 objects in 2 images" in printed
    assert "warning" not in printed
    run(monkeypatch, originals)
    assert state() == first


def test_what_is_left_out_is_said(originals, monkeypatch, capsys):
    refs = references("refcoco")
    refs[0]["sentences"][0]["sent"] = " "
    refs[1]["sentences"] = []
    write_originals(originals, "refcoco", [ref for ref in refs if ref["split"] != "testB"])
    run(monkeypatch, originals, "--sets", "refcoco")
    printed = capsys.readouterr().out
    assert "left out of refcoco: sentence 0 of reference 0 is empty; reference 1 has no sentence" in printed
    assert "no reference of refcoco belongs to its split testB" in printed
    assert load(originals, "refcoco", "testB")["images"] == []
    assert [image["caption"] for image in load(originals, "refcoco", "train")["images"]][:3] == [
        *CAPTIONS[1][1:],
        CAPTIONS[1][0],
    ]


def _first(ref_change):
    def change(refs: list, content: dict) -> None:
        ref_change(refs[0])

    return change


BAD_ORIGINALS = {
    "unknown split": (
        _first(lambda r: r.update(split="testC")),
        r"reference 0 is of the split 'testC', not one of train",
    ),
    "split of another set": (_first(lambda r: r.update(split="test")), "split 'test'"),
    "no split": (_first(lambda r: r.pop("split")), 'reference 0 of the list must hold a proper "split"'),
    "reference that is a number": (lambda r, c: r.insert(1, 5), 'reference 1 of the list must hold a proper "ref_id"'),
    "sentences in a dict": (_first(lambda r: r.update(sentences={})), 'must hold a proper "sentences"'),
    "sentence that is a text": (
        _first(lambda r: r.update(sentences=["box"])),
        'reference 0, sentence 0 of its list must hold a proper "sent_id"',
    ),
    "sentence without text": (
        _first(lambda r: r["sentences"][1].pop("sent")),
        'reference 0, sentence 1 of its list must hold a proper "sent"',
    ),
    "unknown annotation": (
        _first(lambda r: r.update(ann_id=777)),
        r"has no annotation 777, which reference 0 of refs\(u",
    ),
    "unknown image": (_first(lambda r: r.update(image_id=778)), "has no image 778"),
    "annotation of another image": (
        _first(lambda r: r.update(ann_id=annotation_id(IMAGES[1], 1))),
        "annotation 251 is of image 25, but reference 0",
    ),
    "image without height": (lambda r, c: c["images"][0].pop("height"), 'image 9 must hold a proper "height"'),
    "annotation without mask": (
        lambda r, c: c["annotations"][0].pop("segmentation"),
        'annotation 91 must hold a proper "segmentation"',
    ),
    "no annotations": (lambda r, c: c.pop("annotations"), 'must hold the list "annotations"'),
    "image without id": (
        lambda r, c: c["images"][0].pop("id"),
        'must hold the list "images", each with a number as its "id"',
    ),
}


@pytest.mark.parametrize("case", BAD_ORIGINALS)
def test_bad_originals_are_named(tmp_path, case):
    change, message = BAD_ORIGINALS[case]
    refs, content = references("refcoco"), instances()
    change(refs, content)
    write_originals(tmp_path, "refcoco", refs, content)
    with pytest.raises(ValueError, match=rf"refcoco/.*: .*{message}.*unpack the set's archive again.*docs/data\.md"):
        convert(tmp_path, "refcoco")


def test_missing_and_unparsable_originals(tmp_path):
    write_originals(tmp_path, "refcocog")
    (tmp_path / "refcocog" / "instances.json").write_text("{")
    with pytest.raises(ValueError, match=r"refcocog/instances\.json: is not a JSON file"):
        convert(tmp_path, "refcocog")
    (tmp_path / "refcocog" / "instances.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"refcocog/instances\.json: this file does not exist.*docs/data\.md"):
        convert(tmp_path, "refcocog")
    (tmp_path / "refcocog" / "refs(umd).p").unlink()
    with pytest.raises(FileNotFoundError, match=r"refcocog/refs\(umd\)\.p: this file does not exist"):
        convert(tmp_path, "refcocog")


def test_a_set_is_converted_wholly_or_not_at_all(originals, monkeypatch):
    calls = []

    def dump(content, file) -> None:
        calls.append(file)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        file.write(json.dumps(content))

    monkeypatch.setattr(convert_refcoco.json, "dump", dump)
    before = sorted(originals.rglob("*"))
    with pytest.raises(OSError, match="cannot be written .*refcoco"):
        run(monkeypatch, originals)
    assert sorted(originals.rglob("*")) == before
