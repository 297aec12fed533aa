"""The readers of data sets: lists, masks, and the originals that are converted."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
from scipy.io import savemat

from datasets import a2d, davis, jhmdb, long_rvos, mevis, refcoco, ytvos
from datasets.scorable import long_rvos_split, mevis_split, scorable_split
from davis2017.truth import LabelMaps, ObjectFolders, RleMasks, Truth
from tools.data import convert_davis_to_ytvos, convert_refcoco, make_sentences_annotations
from tools.data.checks import image_sets, sentence_sets, video_sets
from tools.data.make_synthetic import generate
from tools.data.own.coco import read_coded
from tools.data.own.masks import Findings
from tools.data.own.table import read_table
from tools.data.synthetic_formats import WRITERS
from tools.fuzzing import mutations
from tools.fuzzing.runner import Target
from util.files.reading import read_json
from util.masks import rle
from util.masks.coco import fitted, read_ground_truth
from util.run.cli import USER_ERRORS
from util.run.gaps import Gaps
from util.samples.text import FORMS, in_form

YTVOS = "ytvos"


def write_sets(root: Path) -> None:
    """Writes every data set in miniature, in a folder of its own."""
    generate(root / YTVOS, train_videos=2, valid_videos=1, frames=6, size=(48, 80), workers=1)
    for name, write in WRITERS.items():
        (root / name).mkdir()
        write(root / YTVOS, root / name)
    convert_davis_to_ytvos.convert(root / "davis", workers=1)
    for name in refcoco.SETS:
        splits, shared, _ = convert_refcoco.convert(root / "refcoco", name)
        convert_refcoco.write(root / "refcoco", name, splits, shared)
    make_sentences_annotations.make_a2d(root / "a2d", False)
    make_sentences_annotations.make_jhmdb(root / "jhmdb", False)
    meta = root / YTVOS / "train" / "meta.json"
    known = json.loads(meta.read_text())
    for video in known["videos"].values():
        for of_object in video["objects"].values():
            of_object["category"] = ytvos.CATEGORIES[0]  # the generator's are shapes
    meta.write_text(json.dumps(known))
    with_objects = root / YTVOS / "meta_expressions" / "valid" / "meta_expressions.json"
    videos = json.loads(with_objects.read_text())["videos"]
    older: dict[str, dict] = {}
    for name, video in videos.items():
        objects = older.setdefault(name, {"objects": {}})["objects"]
        for expression in video["expressions"].values():
            objects.setdefault(expression["obj_id"], {"expressions": []})["expressions"].append(expression["exp"])
    (root / YTVOS / "older.json").write_text(json.dumps({"videos": older}))


def each(*calls: Callable[[], object]) -> None:
    """Makes all calls, and raises the first of the errors that users' files may cause."""
    first = None
    for call in calls:
        try:
            call()
        except USER_ERRORS as error:
            first = first or error
    if first:
        raise first


def both(read: Callable[[Gaps], object]) -> Callable[[], None]:
    """Reads as a strict command does, and as one that leaves out what is damaged."""
    return lambda: each(lambda: read(Gaps(strict=True)), lambda: read(Gaps(silent=True)))


def targets(root: Path) -> list[Target]:
    """A target for each kind of file; the sets lie in ``root``."""
    return [*_video_sets(root), *_single_frames(root), *_refcoco(root), *_own(root), *_masks(root)]


def _of(root: Path, name: str, path: str, read: Callable[[], object], mutation=mutations.as_json, **more) -> Target:
    file = root / path
    return Target(name, file, [file.read_bytes(), *more.pop("others", [])], mutation, read, root, **more)


def _scored(root: Path, gaps: Gaps, expressions: str | None = None) -> None:
    annotations, videos = scorable_split(root, "valid", gaps=gaps, expressions=expressions)
    _read_truth(LabelMaps(annotations, may_be_empty=True), videos)


def _read_truth(truth: Truth, videos: dict[str, dict]) -> None:
    for vid, video in videos.items():
        targets = [truth.target(vid, eid, expression) for eid, expression in video["expressions"].items()]
        of_video = truth.video(vid, targets)
        of_video.absent(video["frames"])
        for t, name in enumerate(video["frames"][:3]):
            of_video.frame(t, name, targets, others=True)


def _video_sets(root: Path) -> list[Target]:
    yt, da, me, m2, lo = (root / name for name in (YTVOS, "davis", "mevis", "mevis_v2", "long_rvos"))
    meta = "meta_expressions/{}/meta_expressions.json"

    def mevis_masks(gaps: Gaps) -> None:
        store, videos = mevis_split(me, "valid_u", 0, gaps)
        _read_truth(RleMasks(store.path, store), videos)

    def mevis_training(of: Path = me, layout: ytvos.Layout = mevis.MEVIS) -> None:
        for video in mevis.train_videos(of, 0, layout):
            video.masks(range(len(video.frame_ids)), [e.objects for e in video.expressions], video.size())

    def mevis_v2(gaps: Gaps) -> None:
        store, videos = mevis_split(m2, "valid_u", 0, gaps, mevis.MEVIS_V2)
        _read_truth(RleMasks(store.path, store, may_be_empty=True), videos)

    def long_rvos_masks(gaps: Gaps) -> None:
        annotations, videos = long_rvos_split(lo, "valid", 0, gaps)
        _read_truth(ObjectFolders(annotations, long_rvos.frames_root(lo, "valid")), videos)

    def long_rvos_training() -> None:
        for video in long_rvos.train_videos(lo, 0):
            video.masks([0], [e.objects for e in video.expressions], video.size())

    def davis_originals() -> None:
        annotators, categories = (
            convert_davis_to_ytvos.read_annotators(da),
            convert_davis_to_ytvos.read_categories(da),
        )
        lists = convert_davis_to_ytvos.read_split_lists(da)
        shown = {video: {1, 2, 3, 4, 5} for videos in lists.values() for video in videos}
        convert_davis_to_ytvos.check_objects(annotators, shown, categories, da / convert_davis_to_ytvos.SEMANTICS)
        for video in annotators[0]:
            convert_davis_to_ytvos.expressions_of(video, annotators)

    texts, lists, semantics = "davis_text_annotations/", "DAVIS/ImageSets/2017/train.txt", "DAVIS/davis_semantics.json"
    return [
        _of(
            yt,
            "ytvos-train",
            meta.format("train"),
            lambda: each(lambda: ytvos.train_videos(yt, 0, False), lambda: ytvos.train_videos(yt, 1, True)),
        ),
        _of(yt, "ytvos-valid", meta.format("valid"), both(lambda gaps: ytvos.eval_videos(yt, "valid", 0, gaps=gaps))),
        _of(yt, "ytvos-scored", meta.format("valid"), both(lambda gaps: _scored(yt, gaps))),
        _of(yt, "ytvos-objects", "older.json", both(lambda gaps: _scored(yt, gaps, str(yt / "older.json")))),
        _of(yt, "ytvos-meta", "train/meta.json", lambda: ytvos.train_videos(yt, 0, False)),
        _of(yt, "ytvos-check", meta.format("train"), lambda: video_sets.check_ytvos(yt, 1), inputs=20),
        _of(da, "davis", meta.format("valid"), both(lambda gaps: davis.eval_videos(da, "valid", 0, gaps))),
        _of(da, "davis-check", meta.format("valid"), lambda: video_sets.check_davis(da, 1), inputs=20),
        _of(da, "davis-text", f"{texts}Davis17_annot1.txt", davis_originals, mutations.raw),
        _of(da, "davis-list", lists, davis_originals, mutations.raw, inputs=50),
        _of(da, "davis-semantics", semantics, davis_originals),
        _of(me, "mevis", "valid_u/meta_expressions.json", both(mevis_masks)),
        _of(me, "mevis-masks", "valid_u/mask_dict.json", both(mevis_masks)),
        _of(me, "mevis-training", "train/mask_dict.json", mevis_training),
        _of(me, "mevis-check", "valid_u/mask_dict.json", lambda: video_sets.check_mevis(me, 1), inputs=20),
        _of(m2, "mevis-v2", "valid_u/meta_expressions_v2.json", both(mevis_v2)),
        _of(
            m2,
            "mevis-v2-training",
            "train/meta_expressions_v2.json",
            lambda: each(lambda: mevis_training(m2, mevis.MEVIS_V2), lambda: video_sets.check_mevis(m2, 1, "mevis_v2")),
            inputs=50,
        ),
        _of(lo, "long_rvos", "valid/meta_expressions.json", both(long_rvos_masks)),
        _of(lo, "long_rvos-training", "train/meta_expressions.json", long_rvos_training),
        _of(lo, "long_rvos-check", "valid/meta_expressions.json", lambda: video_sets.check_long_rvos(lo, 1), inputs=20),
    ]


def _single_frames(root: Path) -> list[Target]:
    a2, jh = root / "a2d", root / "jhmdb"
    h5 = min((a2d.masks_root(a2)).rglob("*.h5")).relative_to(a2).as_posix()
    mat = min(jh.rglob("*.mat")).relative_to(jh).as_posix()
    compressed, odd = a2 / "compressed.h5", jh / "odd.mat"
    with h5py.File(compressed, "w") as file:
        file["instance"] = np.array([0.0, 1.0])
        file.create_dataset("reMask", data=np.ones((2, 40, 30), np.uint8), compression="gzip", shuffle=True)
        file["other"] = h5py.ExternalLink("/dev/zero", "x")
    savemat(odd, {"part_mask": {"a": 1}, "other": [["x", 2.0]], "more": np.ones((2, 2)) * 1j})

    def raw_a2d() -> None:
        for video in a2d.read_raw(a2):
            video.samples(a2)

    def truth(path: Path) -> Callable[[], None]:
        def read(gaps: Gaps) -> None:
            for of_sample in read_ground_truth(path, gaps).values():
                fitted(of_sample, {"segmentation": {"size": [1, 2], "counts": "2"}})

        return both(read)

    def masks() -> None:
        a2d.read_masks(a2 / h5, a2d.read_instances(a2 / h5))

    annotation = "text_annotations/a2d_annotation.txt"
    return [
        _of(a2, "a2d-list", a2d.list_path(a2, "test").name, both(lambda gaps: a2d.eval_clips(a2, 3, gaps))),
        _of(a2, "a2d-train", a2d.list_path(a2, "train").name, lambda: a2d.train_videos(a2, 3)),
        _of(a2, "a2d-text", annotation, raw_a2d, mutations.raw),
        _of(a2, "a2d-videoset", "Release/videoset.csv", raw_a2d, mutations.raw, inputs=50),
        _of(a2, "a2d-h5", h5, masks, mutations.raw, others=[compressed.read_bytes()], inputs=400),
        _of(a2, "a2d-truth", a2d.truth_path(a2).name, truth(a2d.truth_path(a2))),
        _of(a2, "a2d-check", a2d.list_path(a2, "test").name, lambda: sentence_sets.check_a2d(a2, 1), inputs=10),
        _of(jh, "jhmdb-list", jhmdb.list_path(jh).name, both(lambda gaps: jhmdb.eval_clips(jh, 3, gaps))),
        _of(
            jh,
            "jhmdb-mat",
            mat,
            lambda: jhmdb.read_puppet_masks(jh / mat),
            mutations.as_mat,
            others=[odd.read_bytes()],
            inputs=400,
        ),
        _of(jh, "jhmdb-check", jhmdb.list_path(jh).name, lambda: sentence_sets.check_jhmdb(jh, 1), inputs=10),
    ]


def _refcoco(root: Path) -> list[Target]:
    rc = root / "refcoco"
    train, val = (refcoco.annotations_path(rc, "refcoco", split) for split in ("train", "val"))

    def training() -> None:
        for video in refcoco.train_videos(rc, "refcoco", False):
            video.masks([0], [e.objects for e in video.expressions], (48, 80))

    def scored(gaps: Gaps) -> None:
        refcoco.eval_clips(rc, "refcoco", "val", gaps)
        read_ground_truth(val, gaps)

    def originals() -> None:
        convert_refcoco.write(rc / "made", "refcoco", *convert_refcoco.convert(rc, "refcoco")[:2])

    (rc / "made" / "refcoco").mkdir(parents=True)
    return [
        _of(rc, "refcoco", f"refcoco/{train.name}", training),
        _of(rc, "refcoco-scored", f"refcoco/{val.name}", both(scored)),
        _of(rc, "refcoco-check", f"refcoco/{train.name}", lambda: image_sets.check_refcoco(rc, 1), inputs=20),
        _of(rc, "refcoco-instances", "refcoco/instances.json", originals),
        _of(rc, "refcoco-pickle", "refcoco/refs(unc).p", originals, mutations.as_pickle),
    ]


def _own(root: Path) -> list[Target]:
    own = root / "own"

    def table(path: Path) -> Callable[[], None]:
        def read() -> None:
            faults: list[str] = []
            read_table(path, faults)
            assert all(str(path) in fault for fault in faults)

        return read

    def coded(path: Path) -> Callable[[], None]:
        def read() -> None:
            found = Findings()
            for masks in read_coded(path, found.faults, "video").values():
                for stem in masks.stems:
                    masks.seen(stem, (48, 80), found)
                    masks.labels(stem, (48, 80), {"1": 1})
            assert all(str(path) in fault for fault in found.faults)

        return read

    return [
        _of(own, "own-csv", "expressions.csv", table(own / "expressions.csv"), mutations.raw),
        _of(own, "own-json", "expressions.json", table(own / "expressions.json")),
        _of(own, "own-coco", "coco.json", coded(own / "coco.json"), inputs=60),
        _of(own, "own-youtube-vis", "youtube_vis.json", coded(own / "youtube_vis.json"), inputs=60),
    ]


def _masks(root: Path) -> list[Target]:
    file, text = root / "segmentation.json", root / "text.json"

    def read_rle() -> None:
        content = read_json(file)
        size = content["size"] if isinstance(content, dict) and "size" in content else [48, 80]
        code = content["mask"] if isinstance(content, dict) and "mask" in content else content
        rle.count_unusable(code)
        parsed = rle.parse(code, tuple(size) if isinstance(size, list) else size)
        if parsed.size[0] * parsed.size[1] < 10**7:
            assert rle.decode(parsed).any() != rle.is_blank(parsed)

    def read_text() -> None:
        content = read_json(text)
        for form in FORMS if isinstance(content, str) else ():
            formed = in_form(content, form)
            assert in_form(formed, form) == formed
            formed.encode()

    size = [48, 80]
    sound: Sequence[object] = (
        {"size": size, "mask": [[1, 2, 30, 2, 30, 40.5, 1, 40], [5, 5, 6, 6, 7, 5]]},
        {"size": size, "mask": {"size": size, "counts": [100, 30, 3710]}},
        {"size": size, "mask": {"size": size, "counts": "T3N2000000000000Pm0"}},
        {"size": size, "mask": {"size": size, "counts": "P`30"}},
    )
    said = ("the dog", "“A dog”, left!", "ein Hünd\u0301chen", "'\"stop\" and 'go''", "左边的狗")
    return [
        Target(
            "run-lengths", file, [json.dumps(s).encode() for s in sound], _in_json, read_rle, root, False, inputs=600
        ),
        Target("texts", text, [json.dumps(s).encode() for s in said], mutations.as_json, read_text, root, False, 300),
    ]


def _in_json(random, sounds: Sequence[bytes]) -> bytes:
    """JSON that is sound as JSON: here the values are of interest."""
    return mutations.changed_json(random, json.loads(random.choice(sounds))).encode("utf-8", "surrogatepass")
