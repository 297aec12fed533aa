"""Turns a generated data set from the layout of Ref-YouTube-VOS into the layouts of the other data sets.

The files have the form of the downloads, before any converter of this project, so that every script can be tried
without the data. Every function takes the folder of the generated set and an empty folder to write to.
"""

from __future__ import annotations

import csv
import json
import pickle
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path

import av
import h5py
import numpy as np
from PIL import Image
from pycocotools import mask as rle
from scipy.io import savemat

from tools.data.synthetic_scene import COLOURS, RADII, SHAPES
from util.files.images import open_image
from util.masks.coco import encode_masks

SPLITS = ("train", "valid")
A2D_ANNOTATED = 3  # frames of each A2D video with masks
VIDEO_FPS = 24
COCO_SPLITS = {"unc": ("train", "val", "testA", "testB"), "umd": ("train", "val", "test")}


@dataclass(frozen=True)
class Video:
    """A generated video. ``expressions`` and ``objects`` as in meta_expressions.json and meta.json."""

    name: str
    split: str
    root: Path
    frames: list[str]
    expressions: dict[str, dict]
    objects: dict[str, dict]

    def image_path(self, t: int) -> Path:
        return self.root / self.split / "JPEGImages" / self.name / f"{self.frames[t]}.jpg"

    def label_path(self, t: int) -> Path:
        return self.root / self.split / "Annotations" / self.name / f"{self.frames[t]}.png"

    def image(self, t: int) -> np.ndarray:
        """uint8 RGB ``[H, W, 3]``."""
        with self.image_path(t).open("rb") as file:
            return np.asarray(open_image(file))

    def labels(self, t: int) -> np.ndarray:
        """uint8 object ids ``[H, W]``."""
        with self.label_path(t).open("rb") as file:
            return np.asarray(open_image(file))

    def one_each(self) -> list[tuple[int, str]]:
        """Each object with an expression, and its first expression."""
        first: dict[int, str] = {}
        for expression in self.expressions.values():
            first.setdefault(int(expression["obj_id"]), expression["exp"])
        return sorted(first.items())


def read_videos(root: Path) -> list[Video]:
    """All videos of a generated set."""
    videos = []
    for split in SPLITS:
        meta = json.loads((root / "meta_expressions" / split / "meta_expressions.json").read_text())["videos"]
        objects = json.loads((root / split / "meta.json").read_text())["videos"]
        videos += [
            Video(name, split, root, entry["frames"], entry["expressions"], objects[name]["objects"])
            for name, entry in meta.items()
        ]
    return videos


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write(path: Path, text: str, encoding: str = "utf-8") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding=encoding)


def write_davis(source: Path, out: Path) -> None:
    """The originals of DAVIS 2017 and the four annotators' expressions."""
    videos = read_videos(source)
    davis = out / "DAVIS"
    texts = defaultdict(list)
    for video in videos:
        for t in range(len(video.frames)):
            _copy(video.image_path(t), davis / "JPEGImages" / "480p" / video.name / f"{t:05d}.jpg")
            for folder in ("Annotations_unsupervised", "Annotations"):
                _copy(video.label_path(t), davis / folder / "480p" / video.name / f"{t:05d}.png")
        for number in sorted(map(int, video.objects)):
            asked = [e["exp"] for e in video.expressions.values() if int(e["obj_id"]) == number]
            for annotator in range(4):
                if asked:
                    line = f'{video.name} {number} "{asked[annotator % len(asked)]}"'
                    texts[annotator].append(line)
    for split, name in (("train", "train"), ("valid", "val")):
        names = [video.name for video in videos if video.split == split]
        _write(davis / "ImageSets" / "2017" / f"{name}.txt", "\n".join(names) + "\n")
    semantics = {v.name: {number: o["category"] for number, o in v.objects.items()} for v in videos}
    _write(davis / "davis_semantics.json", json.dumps(semantics))
    files = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
    for annotator, name in enumerate(files):
        encoding = "latin-1" if "annot2" in name else "utf-8"
        _write(out / "davis_text_annotations" / f"Davis17_{name}.txt", "\n".join(texts[annotator]) + "\n", encoding)


def _write_mp4(path: Path, video: Video) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        height, width = video.labels(0).shape
        stream = container.add_stream("libx264", rate=VIDEO_FPS, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for t in range(len(video.frames)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(video.image(t), format="rgb24")))
        container.mux(stream.encode())


def write_a2d(source: Path, out: Path) -> None:
    """A2D's videos with masks of a few frames, and the sentences of A2D-Sentences, one for each instance."""
    rows, sentences = [], []
    for video in read_videos(source):
        _write_mp4(out / "Release" / "clips320H" / f"{video.name}.mp4", video)
        height, width = video.labels(0).shape
        asked = video.one_each()
        subset = SPLITS.index(video.split)
        rows.append([video.name, 11, "0:00:00", "0:00:01", height, width, len(video.frames), A2D_ANNOTATED, subset])
        sentences += [[video.name, instance, text] for instance, (_, text) in enumerate(asked)]
        for t in np.unique(np.linspace(0, len(video.frames) - 1, A2D_ANNOTATED).round().astype(int)).tolist():
            labels = video.labels(t)
            shown = [(i, labels == number) for i, (number, _) in enumerate(asked) if (labels == number).any()]
            if shown:
                folder = out / "text_annotations" / "a2d_annotation_with_instances" / video.name
                folder.mkdir(parents=True, exist_ok=True)
                _write_h5(folder / f"{t + 1:05d}.h5", shown)
    with (out / "Release" / "videoset.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with (out / "text_annotations" / "a2d_annotation.txt").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["video_id", "instance_id", "query"], *sentences])
    _write(out / "text_annotations" / "a2d_missed_videos.txt", "video_id\n")


def _write_h5(path: Path, shown: list[tuple[int, np.ndarray]]) -> None:
    """Writes masks in MATLAB's order of axes, and a single mask without the first axis, as in the original files."""
    masks = np.stack([mask.T for _, mask in shown]).astype(np.uint8)
    corners = [np.argwhere(mask) for _, mask in shown]
    boxes = np.array([(*p.min(0)[::-1], *p.max(0)[::-1]) for p in corners], float).T
    single = len(shown) == 1
    with h5py.File(path, "w") as file:
        file["instance"] = np.array([[instance] for instance, _ in shown], float)[:, 0]
        file["reMask"] = masks[0] if single else masks
        file["reBBox"] = boxes[:, 0] if single else boxes


def write_jhmdb(source: Path, out: Path) -> None:
    """JHMDB's frames and puppet masks with the sentences. Its videos have one object: the first with an expression."""
    rows, samples = [], []
    for video in read_videos(source):
        if video.split != "valid":
            continue
        number, text = video.one_each()[0]
        action = video.objects[str(number)]["category"]
        frames, masks = (Path(kind, action, video.name) for kind in ("Rename_Images", "puppet_mask"))
        length = len(video.frames)
        (out / frames).mkdir(parents=True)
        for t in range(length):
            Image.fromarray(video.image(t)).save(out / frames / f"{t + 1:05d}.png")
        (out / masks).mkdir(parents=True)
        part_mask = np.stack([video.labels(t) == number for t in range(length)], axis=-1)
        savemat(out / masks / "puppet_mask.mat", {"part_mask": part_mask.astype(np.uint8)}, do_compression=True)
        rows.append([video.name, text])
        chosen = [t for t in np.linspace(0, length - 1, 5).round().astype(int)[1:4].tolist()]
        samples += [
            [
                video.name,
                f"./jhmdb_sentences/{frames.as_posix()}/{t + 1:05d}.png",
                f"./jhmdb_sentences/{masks.as_posix()}/puppet_mask.mat",
                length,
                text,
            ]
            for t in chosen
        ]
    with (out / "jhmdb_annotation.txt").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["video_id", "query"], *rows])
    _write(out / "jhmdb_sentences_samples_metadata.json", json.dumps(samples))


def write_refcoco(source: Path, out: Path) -> None:
    """COCO images and the originals of RefCOCO, RefCOCO+ and RefCOCOg: middle frames and their expressions.

    Expressions of motion are left out. The validation images are divided among all splits except train.
    """
    images, annotations, said = [], [], []
    ids = count(1)
    videos = read_videos(source)
    shapes = sorted({described["category"] for video in videos for described in video.objects.values()})
    categories = {shape: number for number, shape in enumerate(shapes, 1)}
    for number, video in enumerate(videos, 1):
        t = len(video.frames) // 2
        name = f"COCO_train2014_{number:012d}.jpg"
        _copy(video.image_path(t), out / "train2014" / name)
        labels = video.labels(t)
        images.append({"id": number, "file_name": name, "height": labels.shape[0], "width": labels.shape[1]})
        told = defaultdict(list)
        for expression in video.expressions.values():
            if expression["kind"] != "motion" and (labels == int(expression["obj_id"])).any():
                told[int(expression["obj_id"])].append(expression["exp"])
        for object_id, texts in told.items():
            code = encode_masks((labels == object_id)[None])[0]
            annotation = {
                "id": next(ids),
                "image_id": number,
                "category_id": categories[video.objects[str(object_id)]["category"]],
                "segmentation": code,
                "bbox": rle.toBbox(code).tolist(),
                "area": int(rle.area(code)),
                "iscrowd": 0,
            }
            annotations.append(annotation)
            said.append((annotation, video.split, name, texts))
    for name, by in (("refcoco", "unc"), ("refcoco+", "unc"), ("refcocog", "umd")):
        folder = out / name
        folder.mkdir()
        named = [{"id": number, "name": shape} for shape, number in categories.items()]
        content = {"images": images, "annotations": annotations, "categories": named}
        _write(folder / "instances.json", json.dumps(content))
        with (folder / f"refs({by}).p").open("wb") as file:
            pickle.dump(_refs(said, COCO_SPLITS[by]), file, protocol=2)


def _refs(said: list[tuple[dict, str, str, list[str]]], splits: tuple[str, ...]) -> list[dict]:
    """The references as the pickles of the ``refer`` toolkit hold them."""
    sentences = count(0)
    return [
        {
            "ref_id": number,
            "ann_id": annotation["id"],
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"],
            "file_name": file_name.replace(".jpg", f"_{annotation['id']}.jpg"),
            "split": "train" if split == "train" else splits[1 + annotation["image_id"] % (len(splits) - 1)],
            "sent_ids": (ids := [next(sentences) for _ in texts]),
            "sentences": [
                {"sent_id": i, "sent": text, "raw": text, "tokens": text.split()}
                for i, text in zip(ids, texts, strict=True)
            ],
        }
        for number, (annotation, split, file_name, texts) in enumerate(said)
    ]


def write_mevis(source: Path, out: Path, version: int = 1) -> None:
    """MeViS: masks as RLE in one file, expressions of one or of several objects, in version 2 also some of none."""
    splits = {"train": ("train",), "valid": ("valid_u", "valid")}
    meta: dict[str, dict] = defaultdict(dict)
    masks: dict[str, dict] = defaultdict(dict)
    ids = count(0)
    generated = read_videos(source)
    for video in generated:
        labels = [video.labels(t) for t in range(len(video.frames))]
        said = [*_sentences(video), *((text, []) for text in _foreign(video, generated) if version == 2)]
        anno = {number: next(ids) for number in sorted(map(int, video.objects))}
        for split in splits[video.split]:
            for t, frame in enumerate(video.frames):
                _copy(video.image_path(t), out / split / "JPEGImages" / video.name / f"{frame}.jpg")
            expressions = {
                str(i): {"exp": text, "obj_id": objects, "anno_id": [anno[o] for o in objects]}
                for i, (text, objects) in enumerate(said)
            }
            if split == "valid":
                expressions = {i: {"exp": e["exp"]} for i, e in expressions.items()}
            meta[split][video.name] = {"expressions": expressions, "frames": video.frames}
            for number, anno_id in anno.items():
                codes = encode_masks(np.stack(labels) == number)
                shown = [(frame == number).any() for frame in labels]
                masks[split][str(anno_id)] = [code if s else None for code, s in zip(codes, shown, strict=True)]
    for split, videos in meta.items():
        suffix = "" if version == 1 else "_v2_release" if split == "valid" else "_v2"
        _write(out / split / f"meta_expressions{suffix}.json", json.dumps({"videos": videos}))
        if split != "valid":
            _write(out / split / "mask_dict.json", json.dumps(masks[split]))


def _sentences(video: Video) -> Iterator[tuple[str, list[int]]]:
    """Expressions of single objects, and an expression for each shape that several objects have."""
    for expression in video.expressions.values():
        yield expression["exp"], [int(expression["obj_id"])]
    by_shape = defaultdict(list)
    for number, described in video.objects.items():
        by_shape[described["category"]].append(int(number))
    for shape, numbers in by_shape.items():
        if len(numbers) > 1:
            yield f"all objects with the shape of a {shape}", sorted(numbers)


def _foreign(video: Video, others: list[Video]) -> Iterator[str]:
    """An expression of another video of the split, if there is one that names a shape that this video lacks."""
    shapes = {described["category"] for other in others for described in other.objects.values()}
    lacking = shapes - {described["category"] for described in video.objects.values()}
    place = others.index(video)
    for other in others[place + 1 :] + others[:place]:
        for expression in other.expressions.values() if other.split == video.split else ():
            if lacking.intersection(expression["exp"].split()):
                yield expression["exp"]
                return


def write_long_rvos(source: Path, out: Path) -> None:
    """Long-RVOS: a folder of masks for each object, without the frames that do not show it; types of expressions."""
    splits = {"train": ("train",), "valid": ("valid", "test")}
    meta: dict[str, dict] = defaultdict(dict)
    for video in read_videos(source):
        for split in splits[video.split]:
            for t, frame in enumerate(video.frames):
                _copy(video.image_path(t), out / split / "JPEGImages" / video.name / f"{frame}.jpg")
                labels = video.labels(t)
                for number in map(int, video.objects):
                    if (labels == number).any():
                        path = out / split / "Annotations" / video.name / str(number) / f"{frame}.png"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        Image.fromarray(((labels == number) * 255).astype(np.uint8)).save(path)
            expressions = {
                eid: {"exp": e["exp"], "obj_id": e["obj_id"], "type": _type(e)} for eid, e in video.expressions.items()
            }
            meta[split][video.name] = {"expressions": expressions, "frames": video.frames}
    for split, videos in meta.items():
        _write(out / split / "meta_expressions.json", json.dumps({"videos": videos}))


def _type(expression: dict) -> str:
    """The type that Long-RVOS gives an expression: of a motion, with or without looks; or of looks and places."""
    if expression["kind"] != "motion":
        return "static"
    looks = {*COLOURS, *RADII, *SHAPES}.intersection(expression["exp"].split())
    return "static+dynamic" if looks else "dynamic"


def write_own(source: Path, out: Path) -> None:
    """A user's own data: every second video as a film, the others as folders; the masks in each form; and a table.

    The objects of expressions.csv have the numbers of all forms but YouTube-VIS's, whose numbers expressions.json has.
    """
    rows, of_vis = [["video", "object", "expression"]], []
    images, annotations, videos, tracks = [], [], [], []
    image_ids, track_ids = count(1), count(1)
    for place, video in enumerate(read_videos(source)):
        labels = np.stack([video.labels(t) for t in range(len(video.frames))])
        size = {"height": labels.shape[1], "width": labels.shape[2]}
        names = [f"{t:05d}" for t in range(len(labels))]
        if place % 2:
            _write_mp4(out / "videos" / f"{video.name}.mp4", video)
        codes: dict[int, list[dict]] = {}
        for number in sorted(map(int, video.objects)):
            codes[number] = encode_masks(labels == number)
        listed = []
        for t, name in enumerate(names):
            if not place % 2:
                _copy(video.image_path(t), out / "videos" / video.name / f"{name}.jpg")
            _copy(video.label_path(t), out / "label_maps" / video.name / f"{name}.png")
            listed.append({"id": next(image_ids), "file_name": f"{video.name}/{name}.jpg", **size})
        images += listed
        ids = dict(zip(codes, track_ids, strict=False))
        for number, of_object in codes.items():
            shown = [code if rle.area(code) else None for code in of_object]
            tracks.append({"id": ids[number], "video_id": place + 1, "category_id": 1, "segmentations": shown})
            for t, code in enumerate(shown):
                mask = Image.fromarray((labels[t] == number).astype(np.uint8) * 255)
                path = out / "objects" / video.name / str(number) / f"{names[t]}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                mask.save(path)
                if code:
                    annotation = {"id": len(annotations) + 1, "image_id": listed[t]["id"], "category_id": 1}
                    annotations.append(annotation | {"track_id": number, "segmentation": code})
        files = [image["file_name"] for image in listed]
        videos.append({"id": place + 1, "length": len(files), "file_names": files, **size})
        for expression in video.expressions.values():
            number, text = int(expression["obj_id"]), expression["exp"]
            rows.append([video.name, number, text])
            of_vis.append({"video": video.name, "object": ids[number], "expression": text})
    categories = [{"id": 1, "name": "object"}]
    of_coco = {"images": images, "annotations": annotations, "categories": categories}
    _write(out / "coco.json", json.dumps(of_coco))
    _write(out / "youtube_vis.json", json.dumps({"videos": videos, "annotations": tracks, "categories": categories}))
    _write(out / "expressions.json", json.dumps(of_vis, indent=1))
    with (out / "expressions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


WRITERS: dict[str, Callable[[Path, Path], None]] = {
    "davis": write_davis,
    "a2d": write_a2d,
    "jhmdb": write_jhmdb,
    "refcoco": write_refcoco,
    "mevis": write_mevis,
    "mevis_v2": partial(write_mevis, version=2),
    "long_rvos": write_long_rvos,
    "own": write_own,
}
