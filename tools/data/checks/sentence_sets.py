"""Checks of A2D-Sentences and JHMDB-Sentences, whose sentences are about single annotated frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from pathlib import Path

from datasets import a2d, jhmdb
from datasets.sentences import Sentences
from tools.data.checks.report import Found, Report, pixels, said
from util.video.video_io import VideoFile

# docs/data.md, "Where each fact is from"
PUBLISHED = {
    "a2d": {"train": {"videos": 3017}, "test": {"videos": 737}},
    "jhmdb": {"test": {"videos": 928, "samples": 2784}},
}
# number of frames that are decoded together
_TOGETHER = 32


def _check_truth(report: Report, root: Path, data: Sentences, path: Path, image_ids: set[str]) -> set[str]:
    """Checks that the ground truth, if it is there, has only samples of the list; returns the samples that it lacks."""
    relative = path.relative_to(root).as_posix()
    command = f"python tools/data/make_sentences_annotations.py {data.name} {root}"
    if not path.is_file():
        report.notes.append(f"test: there is no {relative}, which {command} makes")
        return set()
    truth = report.read(root, lambda: data.read_truth(root, path))
    if truth is None:
        return set()
    for image_id in sorted(truth.keys() - image_ids, key=str)[:1]:
        report.add("list", relative, f"has ground truth of {image_id}, which the list of samples has not")
    return image_ids - truth.keys()


def _number(stem: str) -> int:
    """The number of a frame of JHMDB from the name of its file; 0 for another name."""
    return int(stem) if len(stem) == 5 and stem.isdecimal() else 0


def _lacks(image_id: str) -> str:
    return f"has no ground truth of {image_id}, which the list of samples has"


# --------------------------------------------------------------------------------------------------------------- A2D


def check_a2d(root: Path, workers: int) -> Report:
    """Checks A2D-Sentences: the original files, and the lists and the ground truth made from them."""
    report = Report(published=PUBLISHED["a2d"])
    if not (root / "text_annotations").is_dir() and not any(a2d.list_path(root, s).is_file() for s in a2d.SPLITS):
        raise FileNotFoundError(f"{root}: there is no list of any split to check by; see docs/data.md")
    clips = report.read(root, lambda: a2d.clips_root(root))
    raw = report.read(root, lambda: a2d.read_raw(root)) or []
    jobs: dict[tuple[str, str], tuple] = {}
    for split in a2d.SPLITS:
        videos = {video.video: {i for i, _ in video.sentences} for video in raw if video.split == split}
        counts = {"videos": len(videos), "sentences": sum(len(v.sentences) for v in raw if v.split == split)}
        samples: list[a2d.Sample] = []
        path = a2d.list_path(root, split)
        if path.is_file():
            samples = report.read(root, lambda split=split: a2d.read_samples(root, split)) or []
            counts |= {"frames": len({(s.video, s.frame) for s in samples}), "samples": len(samples)}
            if split == "test" and samples:
                truth_path = a2d.truth_path(root)
                lacking = _check_truth(report, root, a2d.SET, truth_path, {sample.image_id for sample in samples})
                for image_id in sorted(lacking)[:1]:
                    report.add("list", truth_path.relative_to(root).as_posix(), _lacks(image_id))
            for (video, instance, text), frame in {(s.video, s.instance, s.query): s.frame for s in samples}.items():
                report.check_text(path.name, f"video {video}, frame {frame}, instance {instance}", text)
        else:
            for video in (video for video in raw if video.split == split):
                for instance, text in video.sentences:
                    source = a2d.sentences_path(root).relative_to(root).as_posix()
                    report.check_text(source, f"video {video.video}, instance {instance}", text)
            command = f"python tools/data/make_sentences_annotations.py a2d {root}"
            report.notes.append(f"{split}: there is no {path.name}, which {command} makes")
        report.counts[split] = counts
        listed: dict[str, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for sample in samples:
            listed[sample.video][sample.frame].add(sample.instance)
        for video in sorted(videos.keys() | listed.keys()):
            mp4 = (clips / f"{video}.mp4").relative_to(root).as_posix() if clips else None
            jobs[split, video] = (root, mp4, video, videos.get(video, set()), dict(listed.get(video, {})))
    report.check_all(check_a2d_video, jobs, workers, unit="video")
    if raw:
        # missed videos, which have no annotation, have a clip, too
        known = a2d.read_subsets(root).keys() | {video for _, video in jobs}
        report.check_folder(root, a2d.masks_root(root).relative_to(root).as_posix(), lambda path: path.name in known)
        if clips:
            mp4s = {f"{video}.mp4" for video in known}
            report.check_folder(root, clips.relative_to(root).as_posix(), lambda path: path.name in mp4s)
    return report


def check_a2d_video(
    root: Path, mp4: str | None, video: str, instances: set[int], listed: Mapping[int, set[int]]
) -> Found:
    """Reads all of a video and of its masks.

    Args:
        root: folder of the data set.
        mp4: path of the video within the data set; None: do not check it.
        video: name of the video.
        instances: the instances that its sentences mean.
        listed: the instances that the list of samples names, by frame.
    """
    found = Found()
    size, length = _check_mp4(found, root, mp4) if mp4 else (None, None)
    folder = a2d.mask_path(root, video, 1).parent
    relative_folder = folder.relative_to(root).as_posix()
    if not folder.is_dir():
        if listed:
            found.add("missing", f"{relative_folder}/", "the folder of this video's masks")
        else:
            found.note("videos with sentences have no folder of masks and are not used", f"{relative_folder}/")
        return found
    found.check_folder(root, relative_folder, _is_mask)
    shown: set[int] = set()
    for frame in sorted({int(path.stem) for path in folder.iterdir() if _is_mask(path)} | listed.keys()):
        path = a2d.mask_path(root, video, frame)
        relative = f"{relative_folder}/{path.name}"
        try:
            numbers = a2d.read_instances(path)
            masks = a2d.read_masks(path, numbers)
        except FileNotFoundError:
            found.add("missing", relative)
            continue
        except ValueError as error:
            found.add("damaged", relative, said(error, path))
            continue
        if length and frame > length:
            found.add("list", relative, f"is of frame {frame}, but its video has {length}", (relative, mp4))
        if size and masks.shape[1:] != size:
            text = f"its masks are {pixels(masks.shape[1:])}, its video {pixels(size)}"
            if _same_shape(masks.shape[1:], size):
                found.note("masks are of another size than their video and are resized", f"{relative}: {text}")
            else:
                found.add("size", relative, text, (relative, mp4))
        for number in sorted(listed.get(frame, set()) - set(numbers)):
            found.add("no_objects", relative, f"has no instance {number}, which the list of samples names")
        for number, mask in zip(numbers, masks, strict=True):
            if number in listed.get(frame, ()) and not mask.any():
                found.add("no_pixels", relative, f"instance {number} has no pixels", ())
        shown.update(numbers)
    found.notes["instances of the masks are named by no sentence"] += len(shown - instances)
    found.notes["instances that sentences name are in no annotated frame"] += len(instances - shown)
    return found


def _same_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have almost the same proportions, so that masks can be resized without distortion."""
    return abs(size[1] * other[0] / (size[0] * other[1]) - 1) < 0.05


def _is_mask(path: Path) -> bool:
    return path.suffix == ".h5" and path.stem.isdecimal() and int(path.stem) > 0


def _check_mp4(found: Found, root: Path, relative: str) -> tuple[tuple[int, int] | None, int | None]:
    """Decodes every frame; returns height and width, and the number of frames, or None for what cannot be read."""
    path = root / relative
    size = length = None
    try:
        with VideoFile(path) as video:
            size, length = video.size, len(video)
            for start in range(0, length, _TOGETHER):
                video.read(range(start, min(start + _TOGETHER, length)))
    except FileNotFoundError:
        found.add("missing", relative)
    except ValueError as error:
        found.add("damaged", relative, said(error, path))
    return size, length


# ------------------------------------------------------------------------------------------------------------- JHMDB


def check_jhmdb(root: Path, workers: int) -> Report:
    """Checks JHMDB-Sentences."""
    report = Report(published=PUBLISHED["jhmdb"])
    if not jhmdb.list_path(root).is_file():
        raise FileNotFoundError(f"{root}: there is no list of any split to check by; see docs/data.md")
    samples = report.read(root, lambda: jhmdb.read_samples(root)) or []
    lacking: set[str] = set()
    if samples:
        image_ids = {sample.image_id for sample in samples}
        lacking = _check_truth(report, root, jhmdb.SET, jhmdb.truth_path(root), image_ids)
    for (video, text), image_id in {(s.video, s.query): s.image_id for s in samples}.items():
        report.check_text(jhmdb.list_path(root).name, f"video {video}, sample {image_id}", text)
    by_video: dict[Path, list[jhmdb.Sample]] = defaultdict(list)
    for sample in samples:
        by_video[sample.frame_path.parent].append(sample)
    report.counts["test"] = {"videos": len(by_video), "samples": len(samples)}
    jobs = {
        ("test", folder): (root, of_video, {s.image_id for s in of_video} & lacking)
        for folder, of_video in by_video.items()
    }
    report.check_all(check_jhmdb_video, jobs, workers, unit="video")
    masks = {sample.mask_path.parent for sample in samples}
    for folders in (by_video.keys(), masks):
        # the folders of the actions, each with a folder for each video
        for action in sorted({folder.parent for folder in folders}):
            report.check_folder(root, action.relative_to(root).as_posix(), folders.__contains__)
    return report


def check_jhmdb_video(root: Path, samples: Sequence[jhmdb.Sample], lacking: Set[str]) -> Found:
    """Reads all frames and masks of a video, of which these are the samples; ``lacking`` have no ground truth."""
    found = Found()
    first = samples[0]
    folder = first.frame_path.parent.relative_to(root).as_posix()
    length = max(s.length for s in samples)
    names = [f"{i:05d}" for i in range(1, length + 1)]
    # the length in the list is the number of frames with a mask; a video may have more frames
    beyond = sorted({path.stem for path in (root / folder).glob("*") if _number(path.stem) > length})
    found.notes["frames lie past the last one with a mask and are not used"] += len(beyond)
    usual = found.read_frames(root, folder, names + beyond, first.frame_path.suffix)
    relative = first.mask_path.relative_to(root).as_posix()
    try:
        masks = jhmdb.read_puppet_masks(first.mask_path)
    except FileNotFoundError:
        found.add("missing", relative)
        return found
    except ValueError as error:
        found.add("damaged", relative, said(error, first.mask_path))
        return found
    if usual and masks.shape[1:] != usual:
        found.add(
            "size",
            relative,
            f"its masks are {pixels(masks.shape[1:])}, its frames {pixels(usual)}",
            (relative, f"{folder}/"),
        )
    shown = masks.any((1, 2))
    for sample in samples:
        if sample.frame <= len(masks) and not shown[sample.frame - 1]:
            found.add("no_pixels", relative, f"the person has no pixels in frame {sample.frame}", ())
        # evaluation leaves out samples without ground truth, which is right only if they have no mask either
        if sample.frame <= len(masks) and sample.image_id in lacking:
            found.add("list", jhmdb.truth_path(root).relative_to(root).as_posix(), _lacks(sample.image_id))
    found.notes["samples lie past the last mask of their video and are not scored"] += sum(
        s.frame > len(masks) for s in samples
    )
    return found
