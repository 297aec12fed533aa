"""Makes the lists and the ground truth of A2D-Sentences or JHMDB-Sentences from the original files.

    python tools/data/make_sentences_annotations.py a2d data/a2d_sentences
    python tools/data/make_sentences_annotations.py jhmdb data/jhmdb_sentences

For a2d it makes a2d_sentences_single_frame_{train,test}_annotations.json and
a2d_sentences_test_annotations_in_coco_format.json, for jhmdb jhmdb_sentences_gt_annotations_in_coco_format.json.
Existing files, downloaded or made, are kept unless --overwrite is given. The ground truth has the samples of the list.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from datasets import a2d, jhmdb  # noqa: E402
from util.files.writing import write_json  # noqa: E402
from util.masks.coco import ground_truth  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.counts import counted
from util.run.parser import CommandParser
from util.video.pictures import image_size, turned  # noqa: E402


def is_wanted(path: Path, overwrite: bool) -> bool:
    """Whether a file is to be made; prints a line if it is kept."""
    if path.is_file() and not overwrite:
        print(f"{path.name}: kept as it is (--overwrite makes it anew)")
        return False
    return True


def make_a2d_lists(root: Path, splits: list[str]) -> None:
    """Writes the lists of samples of these splits."""
    videos = [video for video in a2d.read_raw(root) if video.split in splits]
    rows: dict[str, list[list]] = {split: [] for split in splits}
    counts = dict.fromkeys(splits, 0)
    nowhere = []
    without = [video.video for video in videos if not (a2d.masks_root(root) / video.video).is_dir()]
    for video in tqdm(videos, "annotated frames", unit="video", disable=None):
        samples = video.samples(root)
        rows[video.split] += [[s.query.lower(), s.video, s.frame, s.instance] for s in samples]
        counts[video.split] += bool(samples)
        shown = {sample.instance for sample in samples}
        nowhere += [f"{video.video}, instance {i}" for i, _ in video.sentences if i not in shown]
    for split in splits:
        path = a2d.list_path(root, split)
        if not rows[split]:
            raise a2d.SET.bad(path, f"there is not one sample of the split {split}: see Release/videoset.csv")
        write_json(path, rows[split], indent=None)
        frames = len({(row[1], row[2]) for row in rows[split]})
        seen = f"{counted(counts[split], 'videos')}, {counted(frames, 'frames')}"
        print(f"{path.name}: {seen}, {counted(len(rows[split]), 'samples')}")
    if without:
        few = counted(len(without), "videos with sentences have no folder of masks and are left out")
        print(f"warning: {few}, the first {without[0]}")
    if nowhere:
        few = counted(len(nowhere), "sentences are about an instance that no annotated frame has")
        print(f"{few}, the first {nowhere[0]}")


def a2d_masks(root: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Image id and mask of each sample of the list of the test split."""
    samples = a2d.read_samples(root, "test")
    clips = a2d.clips_root(root)
    with tqdm(total=len(samples), desc="masks", unit="sample", disable=None) as progress:
        for video, grouped in groupby(samples, lambda sample: sample.video):
            of_video = list(grouped)
            # The list names a frame once for each instance. Here each frame's file is read once.
            masks: dict[a2d.Sample, np.ndarray] = {}
            for frame in sorted({sample.frame for sample in of_video}):
                of_frame = [sample for sample in of_video if sample.frame == frame]
                path = a2d.mask_path(root, video, frame)
                read = a2d.read_masks(path, [sample.instance for sample in of_frame])
                read = a2d.fitted(path, read, a2d.video_size(clips / f"{video}.mp4"))
                masks.update(zip(of_frame, read, strict=True))
            for sample in of_video:
                yield sample.image_id, masks[sample]
            progress.update(len(of_video))


def make_a2d(root: Path, overwrite: bool) -> None:
    """The lists of both splits, and the ground truth of the test list."""
    wanted = [split for split in a2d.SPLITS if is_wanted(a2d.list_path(root, split), overwrite)]
    if wanted:
        make_a2d_lists(root, wanted)
    path = a2d.truth_path(root)
    if is_wanted(path, overwrite):
        content = ground_truth(a2d_masks(root))
        write_json(path, content, indent=None)
        print(f"{path.name}: {len(content['images'])} samples")


def make_jhmdb(root: Path, overwrite: bool) -> None:
    """The ground truth of the downloaded list, without samples whose frame comes after the last mask of the video."""
    path = jhmdb.truth_path(root)
    if not is_wanted(path, overwrite):
        return
    samples = jhmdb.read_samples(root)
    files = jhmdb.frame_files(samples)
    without = []

    def masks() -> Iterator[tuple[str, np.ndarray]]:
        for sample, mask in tqdm(jhmdb.sample_masks(samples), "masks", len(samples), unit="sample", disable=None):
            if mask is None:
                without.append(sample)
                continue
            frame_path = files.get(sample.frame_path, sample.frame_path)
            height, width = image_size(frame_path)
            if mask.shape != (height, width):
                why = turned(frame_path) if mask.shape == (width, height) else ""
                raise jhmdb.SET.bad(
                    sample.mask_path,
                    f"its mask is {mask.shape[1]}x{mask.shape[0]} pixels, but the frame is {width}x{height}"
                    f"{why and f', as {why}'}",
                )
            yield sample.image_id, mask

    content = ground_truth(masks())
    if not content["images"]:
        raise jhmdb.SET.bad(jhmdb.list_path(root), "not one of its samples has a mask")
    write_json(path, content, indent=None)
    print(f"{path.name}: {len(content['images'])} samples of {len({s.video for s in samples})} videos")
    if without:
        few = counted(len(without), "samples are left out, because the masks of their video end before their frame")
        print(f"{few}, the first {without[0].image_id} ({without[0].mask_path})")


def main() -> None:
    parser = CommandParser("make_sentences_annotations.py", __doc__)
    parser.add_argument("dataset", choices=("a2d", "jhmdb"))
    parser.add_argument("path", type=Path, metavar="PATH", help="folder of the data set")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    args = parser.parse_args()
    if not args.path.is_dir():
        raise FileNotFoundError(f"{args.path}: there is no such folder; give that of the data set (docs/data.md)")
    {"a2d": make_a2d, "jhmdb": make_jhmdb}[args.dataset](args.path, args.overwrite)


if __name__ == "__main__":
    run(main)
