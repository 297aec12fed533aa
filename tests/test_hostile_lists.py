"""Lists that were written to break their readers: each is refused with one line, soon, and without much memory."""

from __future__ import annotations

import json
import pickle
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datasets import davis, refcoco
from davis2017.truth import RleMasks
from tests.helpers import ROOT, edit
from tools.data import convert_refcoco
from tools.data.convert_davis_to_ytvos import read_split_lists, read_texts
from tools.fuzzing import mutations
from tools.fuzzing.runner import Target, problem_of
from util.files.reading import DEEPEST, read_json, shown, whole_number
from util.files.writing import open_json
from util.masks.coco import read_ground_truth
from util.masks.rle import LONGEST, MOST_PIXELS, Rle, decode, parse, run_lengths
from util.run import gaps
from util.run.cli import LONGEST_LINE, one_line
from util.samples.text import in_form

HUGE = 10**400

# ----------------------------------------------------------------------------------------------------------- any list

DEEP = (
    "[" * 200_000,
    "[" * 200_000 + "]" * 200_000,
    '{"a":' * 60 + "1" + "}" * 60,
    '{"videos": ' + "[" * 900 + "]" * 900 + "}",
)


@pytest.mark.parametrize("text", DEEP)
def test_every_list_that_is_nested_deep_is_refused_with_one_line(targets, text):
    lists = [target for target in targets.values() if target.mutation is mutations.as_json and target.named]
    lists = [target for target in lists if not target.name.endswith("-check")]  # which go on with what is sound
    assert len(lists) > 12
    for target in lists:
        sound = target.path.read_bytes()
        target.path.write_text(text)
        with pytest.raises((ValueError, OSError), match="more than 50 deep|Expecting value"):
            target.read()
        assert problem_of(target, text.encode()) is None
        target.path.write_bytes(sound)


def test_what_is_nested_less_is_read(tmp_path):
    path = tmp_path / "x.json"
    for depth, fine in ((DEEPEST, True), (DEEPEST + 1, False)):
        path.write_text("[" * depth + "]" * depth)
        if fine:
            read_json(path)
        else:
            with pytest.raises(ValueError, match="more than 50 deep"):
                read_json(path)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        *[("0", 0), ("007", 7), (3, 3), ("9" * 18, 10**18 - 1)],
        *[(text, None) for text in ("", "-1", "1.0", " 1", "٣", "²", "9" * 19, "9" * 5000)],
        *[(other, None) for other in (True, 1.0, -1, 10**18, HUGE, None, [1], {})],
    ],
)
def test_whole_numbers(value, number):
    assert whole_number(value) == number


def test_values_in_messages_are_short():
    nested = 1
    for _ in range(900):
        nested = [nested]
    for value in ("a" * 10**6, [0] * 10**6, HUGE, nested, {"a" * 1000: 1}):
        assert len(shown(value)) < 300


def test_messages_are_one_line_that_steers_no_terminal(capsys):
    said = one_line("video a\nb\x1b[2J\ud800é: \u202e" + "x" * 10**6 + " the end")
    assert said.startswith(r"video a\nb\x1b[2J\ud800é: \u202exxx") and said.endswith("the end")
    assert len(said) < 2 * LONGEST_LINE and said.isprintable()
    gaps.Gaps().add("video a\nb", "file: it is\ndamaged")
    assert capsys.readouterr().err == r"warning: video a\nb: file: it is\ndamaged" + "\n"


def test_a_command_prints_texts_that_are_no_unicode(tmp_path, targets):
    """Half of a surrogate pair, which JSON may hold: as the name of a video, and in the message of an error."""
    path = targets["davis"].path
    sound = path.read_bytes()
    try:
        edit(path, lambda c: c["videos"].update({"\ud800": 1}))
        words = [sys.executable, "tools/data/check.py", "davis", str(targets["davis"].root), "--workers", "1"]
        words += ["--fix-list", str(tmp_path / "again.txt"), "--json", str(tmp_path / "report.json")]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert r"the video '\ud800' cannot be" in done.stdout
        with pytest.raises(ValueError, match="meta_expressions.json: the video"):
            davis.eval_videos(targets["davis"].root, "valid", 0)
    finally:
        path.write_bytes(sound)


def test_texts_that_are_no_unicode_are_written_as_json_and_read_again(tmp_path):
    with open_json(tmp_path / "x.json", {"text": "caf\u00e9 \ud800"}, "items") as add:
        add({"name": "\udcff"})
    assert read_json(tmp_path / "x.json") == {"text": "caf\u00e9 \ud800", "items": [{"name": "\udcff"}]}
    assert "caf\u00e9" in (tmp_path / "x.json").read_text(encoding="utf-8")


SLOW = ("'\"" * 50_000 + "x" + "\"'" * 50_000, "a" + "\u0316\u0301" * 100_000, "\u0f73" * 100_000)


@pytest.mark.parametrize("text", SLOW)
def test_texts_whose_form_took_hours_take_no_time(text):
    start = time.monotonic()
    formed = in_form(text)
    assert in_form(formed) == formed and time.monotonic() - start < 5


# ------------------------------------------------------------------------------------------------------- run lengths


def overflowing() -> bytes:
    """Run lengths whose sum is 12 modulo 2 ** 64, because it grows with the square of their number."""
    return b"oooooo7" * 30_000


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        (Rle((10**9, 10**9), b"1"), "at least 1 and at most 178,956,970 pixels"),
        (Rle((65535, 65535), b"1"), "at most 178,956,970 pixels"),
        (Rle((0, 4), b"0"), "at least 1"),
        (Rle((-1, -1), b"1"), "at least 1"),
        (Rle((2.0, 2), b"4"), "whole numbers as height and width"),
        (Rle((True, 4), b"4"), "whole numbers as height and width"),
        (Rle((HUGE, 1), b"4"), "at most"),
        (Rle((3, 4), overflowing()), "do not fill 4x3"),
        (Rle((3, 4), b"o" * 6 + b"7" + b"o" * 6 + b"G"), "do not fill 4x3"),
    ],
)
def test_run_lengths_of_absurd_sizes_are_refused_before_anything_is_allocated(rle, message):
    for read in (run_lengths, decode):
        with pytest.raises(ValueError, match=message):
            read(rle)


@pytest.mark.parametrize(
    ("segmentation", "size", "message"),
    [
        ({"size": [10**9, 10**9], "counts": [10**18]}, (10**9, 10**9), "at most 178,956,970"),
        ([[0, 0, 9, 0, 9, 9]], (10**9, 10**9), "at most 178,956,970"),
        ([[0, 0, 9, 0, 9, 9]], (-1, 5), "at least 1"),
        ([[0, 0, 9, 0, 9, 9]], None, "at least 1"),
        ({"size": [3, 4], "counts": [HUGE, 12]}, (3, 4), "do not fill"),
        ({"size": [3, 4], "counts": [True] * 12}, (3, 4), "do not fill"),
        ({"size": [3, 4], "counts": "\ud800"}, (3, 4), "no compressed COCO RLE"),
        ({"size": [[[3]], 4], "counts": [12]}, (3, 4), "is of size"),
        ([[True, 0, 9, 0, 9, 9]], (3, 4), "a polygon is a list of numbers"),
        ([[0, 0, float("inf"), 0, 9, 9]], (3, 4), "a polygon is a list of numbers"),
        # 10,000 corners from one side of the world to the other: 50 GB in pycocotools
        ([[-9e4, 0, 9e4, 0] * 5000], (3, 4), f"longer than {LONGEST:,.0f} pixels"),
        ([[-9e4, 0, 9e4, 0, 9e4, 1]] * 5000, (3, 4), "longer than"),
        ([[1, 1, 1, 1, 1, 1]] * 100_000, (3, 4), "more than 10,000 polygons"),
    ],
)
def test_masks_that_would_take_all_memory_or_crash_pycocotools_are_refused(segmentation, size, message):
    with pytest.raises(ValueError, match=message):
        parse(segmentation, size)


def test_the_largest_mask_is_read():
    assert decode(parse({"size": [1, MOST_PIXELS], "counts": [MOST_PIXELS - 1, 1]}, (1, MOST_PIXELS))).sum() == 1


# ------------------------------------------------------------------------------------------------------ COCO's form


def coco_truth(path: Path, **changes) -> Path:
    image, annotation = {"id": "a", "height": 3, "width": 4}, {"image_id": "a", "segmentation": [[0, 0, 3, 0, 3, 3]]}
    image |= {key: changes.pop(key) for key in list(changes) if key in image}
    path.write_text(json.dumps({"images": [image], "annotations": [annotation | changes]}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": ["a"]}, r"\['a'\] is neither a number nor a text"),
        ({"image_id": {}}, r"\{\} is neither a number nor a text"),
        ({"id": None}, "None is neither"),
        ({"height": 10**9, "width": 10**9}, "sample 'a': its mask is damaged .*at most 178,956,970"),
        ({"height": "3"}, "sample 'a': its mask is damaged .*whole numbers"),
        ({"bbox": [0, 0, float("nan"), 1]}, "sample 'a': .*its bbox is .*, not four numbers"),
        ({"bbox": ["a"] * 4}, "sample 'a': .*not four numbers"),
        ({"bbox": [0] * 10**5}, "sample 'a': .*not four numbers"),
        ({"segmentation": None}, "sample 'a': .*a mask is a list of polygons"),
    ],
)
def test_ground_truth_names_the_sample(tmp_path, changes, message):
    with pytest.raises(ValueError, match=f"truth.json: is not ground truth in COCO's form .*{message}"):
        read_ground_truth(coco_truth(tmp_path / "truth.json", **changes))


def test_masks_that_claim_a_wall_of_screens_are_not_held_together():
    """A hundred masks of 12 bytes, each of 170 million pixels."""
    claimed = Rle((10_000, 17_000), b"1")
    truth = RleMasks(Path("mask_dict.json"), {number: [claimed] for number in range(100)})
    with pytest.raises(ValueError, match="mask_dict.json: the 100 masks of video v are too large to be held together"):
        truth.video("v", [(number,) for number in range(100)])
    with pytest.raises(ValueError, match="anno_id .* must be a list of annotations"):
        truth.target("v", "0", {"anno_id": [[1]]})


# -------------------------------------------------------------------------------------------------- single data sets


def refused(target: Target, change, message: str) -> None:
    sound = target.path.read_bytes()
    try:
        edit(target.path, change)
        with pytest.raises(ValueError, match=message):
            target.read()
    finally:
        target.path.write_bytes(sound)


def test_numbers_that_python_does_not_read_are_refused_with_the_file(targets):
    digits = "9" * 5000

    def first(key: str):
        return lambda c: next(iter(next(iter(c["videos"].values()))["expressions"].values())).update({key: digits})

    refused(targets["ytvos-train"], first("obj_id"), "meta_expressions.json: .*must name its object")
    refused(targets["mevis"], first("anno_id"), "meta_expressions.json: .*must name its objects")
    refused(targets["mevis-masks"], lambda c: c.update({digits: []}), "mask_dict.json: annotation 9+ is not a number")
    refused(targets["a2d-list"], lambda c: c[0].__setitem__(2, digits), "row 1 must be .* a frame from 1")

    def rename(content: dict) -> None:
        expressions = next(iter(content["videos"].values()))["expressions"]
        expressions[digits] = expressions.pop(next(iter(expressions)))

    refused(targets["davis"], rename, "meta_expressions.json: video .*the expression '9+' cannot be the name")


def test_ids_that_are_lists_are_refused_with_the_file(targets):
    refused(targets["refcoco"], lambda c: c["annotations"][0].update(image_id=[1]), r"an annotation has \[1\] as its")
    refused(targets["refcoco"], lambda c: c["images"][0].update(id={}), "must have a number as")
    refused(targets["refcoco"], lambda c: c["images"][0].update(height=10**9, width=10**9), "sentence 1: .*at most 178")
    refused(targets["refcoco-instances"], lambda c: c["images"][0].update(id=[]), "each with a number as its")
    refused(targets["refcoco-instances"], lambda c: c["images"][0].update(height=True), "hold a proper .height")


def test_a_list_of_jhmdb_that_claims_a_video_of_a_billion_frames(targets):
    target = targets["jhmdb-list"]
    refused(target, lambda c: c[0].__setitem__(3, 10**9), "row 1: 1000000000 frames are too many")
    refused(target, lambda c: c[0].__setitem__(3, HUGE), "row 1: 1000.*frames are too many")
    refused(target, lambda c: c[0].__setitem__(3, True), "is not one of the True frames")


def test_long_lists_of_davis_take_no_time(tmp_path):
    lists = tmp_path / "DAVIS" / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("goat\n")
    (lists / "train.txt").write_text("".join(f"video{i}\n" for i in range(100_000)) + "video7\n")
    start = time.monotonic()
    with pytest.raises(ValueError, match="train.txt: video7 listed twice"):
        read_split_lists(tmp_path)
    text = tmp_path / "texts.txt"
    for line in ('goat 1 "' + '" ' * 100_000 + "x", "goat " + "9" * 100_000 + ' "x"', " " * 10**6 + "x", "x" * 10**6):
        text.write_text(line)
        with pytest.raises(ValueError, match="texts.txt, line 1: "):
            read_texts(text, "utf-8")
    assert time.monotonic() - start < 5


# ------------------------------------------------------------------------------------------------------------ pickles


@pytest.mark.parametrize(
    "pickled",
    [
        b"]r\xff\xff\xff\x7f.",  # the unpickler in C makes a table of 2 ** 31 entries for it
        b"]p999999999999\n.",
    ],
)
def test_a_pickle_that_counts_to_billions_takes_no_memory(tmp_path, pickled):
    (tmp_path / "refs.p").write_bytes(pickled)
    assert convert_refcoco.read_references(tmp_path / "refs.p") == []


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x05\x96" + struct.pack("<Q", 2**36) + b".",  # as many zeros
        b"\x80\x05\x8e" + struct.pack("<Q", 2**62) + b".",
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b".",
        b"(" * 10**5,
        b"]" * 10**5 + b".",
        b"\x80\x04\x82\x01.",  # an extension
        b"\x80\x02K\x01P1\n.",
        pickle.dumps([[1]]) + b"",
        b"}](h\x00e.",
    ],
)
def test_other_pickles_are_refused_or_plain(tmp_path, pickled):
    path = tmp_path / "refs.p"
    path.write_bytes(pickled)
    try:
        assert type(convert_refcoco.read_references(path)) is list
    except ValueError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)


def test_half_of_a_surrogate_pair_in_a_sentence_is_kept_and_dropped_by_the_encoder(targets, tmp_path):
    target = targets["refcoco-pickle"]
    references = pickle.loads(target.sounds[0])
    references[0]["sentences"][0]["sent"] = "the \ud800 dog \u00e9"
    try:
        target.path.write_bytes(pickle.dumps(references, 4))
        splits, shared, _ = convert_refcoco.convert(target.root, "refcoco")
        convert_refcoco.write(target.root / "made", "refcoco", splits, shared)
        path = refcoco.annotations_path(target.root / "made", "refcoco", references[0]["split"])
        said = read_json(path)["images"][0]["caption"]
        assert said == "the \ud800 dog \u00e9" and in_form(said) == "the dog \u00e9"
    finally:
        target.path.write_bytes(target.sounds[0])
