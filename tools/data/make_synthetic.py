"""Generates a referring video segmentation data set in the layout of Ref-YouTube-VOS, or with --format of another.

    python tools/data/make_synthetic.py data/synthetic --train_videos 600 --valid_videos 40
    python tools/data/make_synthetic.py data/a2d_sentences --format a2d

Every video has its own random generator, seeded by (seed, split, number of the video), where train is 0 and valid is 1.
So the splits share no random numbers, the files do not depend on the number of workers, and a larger set begins with
the videos of a smaller one.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tools.data.synthetic_scene import KNOWN, NEW, Scene, cover, draw_scene, frame_scale  # noqa: E402
from tools.data.synthetic_text import ABSENT, KINDS, Expression, draw_expressions, means_nothing  # noqa: E402
from util.files.folders import finish_folder, new_folder  # noqa: E402
from util.files.origin import GENERATED  # noqa: E402
from util.files.reading import read_json  # noqa: E402
from util.masks.results import LABEL_PALETTE  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.cores import cores
from util.run.counts import counted
from util.run.parser import CommandParser

SPLITS = ("train", "valid")
YTVOS = "ytvos"
FORMATS = (YTVOS, "davis", "a2d", "jhmdb", "refcoco", "mevis", "mevis_v2", "long_rvos", "own")
GENERATOR = 1  # to be raised when a change makes other files from the same arguments
THINGS = ("known", "new", "both")
# arguments that earlier sets do not name, with the values that made them
LATER = {"leave": False, "absent": 0, "things": "known"}
MIN_FRAMES = 6
MIN_SCALE = 0.5
JPEG_QUALITY = 92


def make_scene(
    seed: int,
    split: str,
    number: int,
    frames: int,
    size: tuple[int, int],
    leave: bool = False,
    things: str = "known",
) -> tuple[Scene, list[Expression], np.random.Generator]:
    """The scene and the expressions of one video, and the random generator for painting it."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    while True:
        scene = draw_scene(rng, frames, size, leave, NEW if has_new_things(things, number) else KNOWN)
        expressions = draw_expressions(scene, rng) if scene is not None else None
        if expressions is not None:
            return scene, expressions, rng


def has_new_things(things: str, number: int) -> bool:
    """Whether a video has new colours and shapes: with ``both`` every second one has."""
    return things == "new" or (things == "both" and number % 2 == 1)


def shown_things(things: str, frames: int) -> str:
    """What a set of these ``things`` shows, in words, which a training records (util/weights/history.py)."""
    stocks = [stock for stock, name in ((KNOWN, "known"), (NEW, "new")) if things in (name, "both")]
    shapes, colours = (sum(len(getattr(stock, part)) for stock in stocks) for part in ("shapes", "colours"))
    what, moving = ("videos", "moving ") if frames > 1 else ("images", "")
    return f"{what} of {shapes} {moving}shapes in {colours} colours"


def absent_texts(scene: Scene, count: int, seed: int, split: str, number: int, things: str = "known") -> list[str]:
    """Expressions of other scenes of the set that mean nothing in the scene of this video."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number, 1])  # so that no other file changes
    frames, *size = scene.labels.shape
    found: dict[str, None] = {}
    while len(found) < count:
        new = has_new_things(things, int(rng.integers(2)) if things == "both" else 0)
        other = draw_scene(rng, frames, tuple(size), stock=NEW if new else KNOWN)
        asked = draw_expressions(other, rng) if other is not None else None
        found |= dict.fromkeys(e.text for e in asked or () if means_nothing(scene, e.query))
    return list(found)[:count]


def _noise(rng: np.random.Generator, cells: int, height: int, width: int) -> np.ndarray:
    """Smooth noise in [-1, 1], float32 ``[height, width]``."""
    grid = rng.uniform(-1, 1, (cells + 1, cells + 1)).astype(np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A muted texture, float32 RGB ``[height, width, 3]``."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(0.1, 0.3) * height
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    stripes, columns = np.sin(2 * np.pi * along / period), np.sin(2 * np.pi * across / period)
    texture = (
        _noise(rng, int(rng.integers(8, 20)), height, width),
        np.tanh(3 * stripes),
        np.tanh(3 * stripes * columns),
        stripes + 0.5 * _noise(rng, 6, height, width),
    )[rng.integers(4)]
    tint = rng.uniform(-18, 18, 3)
    base = rng.uniform(65, 135) + tint
    slow = np.stack([_noise(rng, 3, height, width) for _ in range(3)], axis=-1)
    fine = _noise(rng, height // 3, height, width)
    pattern = rng.uniform(8, 20) * texture + rng.uniform(3, 9) * fine
    return (base + 16 * slow + pattern[..., None] * (1 + tint / 60)).astype(np.float32)


def paint(scene: Scene, rng: np.random.Generator) -> list[np.ndarray]:
    """The frames of a scene, uint8 RGB ``[H, W, 3]`` each."""
    frames, height, width = scene.labels.shape
    pad = 8
    background = _background(rng, height + 2 * pad, width + 2 * pad)
    drift = rng.uniform(-1, 1, 2) * rng.choice([0.0, 0.35]) * min(1.0, 8 / frames)
    exposure, wave, phase = rng.uniform(0.88, 1.08), rng.uniform(0, 0.07), rng.uniform(0, 2 * np.pi)
    grain = rng.uniform(1.5, 5)
    marks = [(rng.uniform(0.04, 0.1), rng.uniform(0, np.pi), rng.uniform(0.5, 1.0)) for _ in scene.things]
    images = []
    for t in range(frames):
        shift = np.float32([[1, 0, drift[0] * t - pad], [0, 1, drift[1] * t - pad]])
        image = cv2.warpAffine(background, shift, (width, height), borderMode=cv2.BORDER_REFLECT)
        for i in scene.depth:
            thing, centre = scene.things[i], scene.paths[i, t]
            patch, core = scene.covers[i][t], cover(thing, centre, rim=False).alpha
            if (places := patch.crop(height, width)) is None:
                continue
            y, x = np.mgrid[: patch.alpha.shape[0], : patch.alpha.shape[1]] + 0.5
            x = (x + patch.corner[0] - centre[0]) / thing.radius
            y = (y + patch.corner[1] - centre[1]) / thing.radius
            strength, angle, period = marks[i]
            stripes = strength * np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period)
            light = 1 + thing.shading[0] * x + thing.shading[1] * y + stripes
            light *= 0.6 + 0.4 * core  # a dark rim keeps two objects of one colour apart
            alpha = patch.alpha[..., None]
            colour = light[..., None] * thing.rgb
            inside = image[places[0]]
            inside += (alpha * colour)[places[1]] - alpha[places[1]] * inside
        image *= exposure + wave * np.sin(phase + 2 * np.pi * t / frames)
        image += rng.normal(0, grain, image.shape)
        images.append(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    return images


def _write_video(
    job: tuple[str, int],
    *,
    root: Path,
    seed: int,
    frames: int,
    size: tuple[int, int],
    leave: bool,
    absent: int,
    things: str,
) -> tuple[str, str, dict, dict]:
    """Writes the frames and masks of a video; returns split, name, and its entries in meta.json and in the list."""
    split, number = job
    name = f"{split}_{number:05d}"
    scene, expressions, rng = make_scene(seed, split, number, frames, size, leave, things)
    names = [f"{5 * t:05d}" for t in range(frames)]
    images, masks = root / split / "JPEGImages" / name, root / split / "Annotations" / name
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for frame, image, labels in zip(names, paint(scene, rng), scene.labels, strict=True):
        _, jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        (images / f"{frame}.jpg").write_bytes(jpeg.tobytes())
        mask = Image.fromarray(labels)
        mask.putpalette(LABEL_PALETTE)
        mask.save(masks / f"{frame}.png")
    objects = {
        str(i + 1): {
            "category": thing.shape,
            "frames": [frame for frame, labels in zip(names, scene.labels, strict=True) if (labels == i + 1).any()],
        }
        for i, thing in enumerate(scene.things)
    }
    asked = {
        str(i): {"exp": expression.text, "obj_id": str(expression.target + 1), "kind": expression.kind}
        for i, expression in enumerate(expressions)
    }
    entry = {"expressions": asked, "frames": names}
    texts = absent_texts(scene, absent, seed, split, number, things)
    if split == "train":  # --absent draws from these
        entry |= {"absent": texts} if texts else {}
    else:  # these are asked and scored
        asked |= {
            str(i): {"exp": text, "obj_id": None, "kind": ABSENT} for i, text in enumerate(texts, start=len(asked))
        }
    return split, name, {"objects": objects}, entry


def _check(arguments: dict, workers: int) -> None:
    for flag in ("train_videos", "valid_videos"):
        if arguments[flag] < 1:
            raise ValueError(f"--{flag} {arguments[flag]}: at least 1 video is needed in each split")
    if arguments["frames"] != 1 and arguments["frames"] < MIN_FRAMES:
        raise ValueError(
            f"--frames {arguments['frames']}: motion needs at least {MIN_FRAMES} frames; 1 makes still images"
        )
    height, width = arguments["size"]
    if frame_scale((height, width)) < MIN_SCALE:
        raise ValueError(f"--size {height} {width}: objects become too small to tell apart; give at least 48 80")
    if arguments["format"] != YTVOS and arguments["frames"] == 1:
        raise ValueError(f"--format {arguments['format']}: needs videos; leave out --frames 1")
    if arguments["leave"] and arguments["frames"] == 1:
        raise ValueError("--leave: objects leave videos; leave out --frames 1")
    if arguments["absent"] < 0:
        raise ValueError(f"--absent {arguments['absent']}: must not be negative")
    if arguments["absent"] and arguments["format"] != YTVOS:
        raise ValueError(f"--absent {arguments['absent']}: has no place in --format {arguments['format']}")
    if arguments["seed"] < 0:
        raise ValueError(f"--seed {arguments['seed']}: must not be negative")
    if workers < 1:
        raise ValueError(f"--workers {workers}: at least 1 is needed")


def _already_there(output: Path, arguments: dict, overwrite: bool) -> bool:
    """Whether ``output`` already holds this set. Raises if it holds something that must not be replaced."""
    finish_folder(output)
    if output.is_dir() and not any(output.iterdir()):
        return False
    if not output.exists():
        return False
    record = output / GENERATED
    try:
        made_with = LATER | dict(read_json(record)["arguments"])
    except (OSError, ValueError, KeyError, TypeError):
        raise FileExistsError(
            f"{output} exists and is not a data set made by this tool (no readable {GENERATED} in it): "
            "give another folder, or remove it yourself"
        ) from None
    if overwrite:
        return False
    if made_with == arguments:
        return True
    other = [f"{key} {made_with.get(key)}" for key in arguments if made_with.get(key) != arguments[key]]
    raise FileExistsError(
        f"{output} holds a data set made with other arguments ({', '.join(other)}): give another folder or --overwrite"
    )


def _write_set(root: Path, arguments: dict, workers: int) -> dict[str, dict]:
    """Writes the whole set under ``root`` in the layout of Ref-YouTube-VOS; returns the counts of each split."""
    jobs = [(split, number) for split in SPLITS for number in range(arguments[f"{split}_videos"])]
    write = partial(
        _write_video,
        root=root,
        seed=arguments["seed"],
        frames=arguments["frames"],
        size=tuple(arguments["size"]),
        leave=arguments["leave"],
        things=arguments["things"],
        absent=arguments["absent"],
    )
    meta: dict[str, dict] = {split: {} for split in SPLITS}
    asked: dict[str, dict] = {split: {} for split in SPLITS}
    with ExitStack() as stack:
        apply = map
        if min(workers, len(jobs)) > 1:
            # spawn, because a process that is forked from one with threads can hang
            pool = ProcessPoolExecutor(min(workers, len(jobs)), multiprocessing.get_context("spawn"))
            apply = partial(stack.enter_context(pool).map, chunksize=4)
        for split, name, objects, expressions in tqdm(apply(write, jobs), "videos", total=len(jobs), disable=None):
            meta[split][name], asked[split][name] = objects, expressions
    counts = {}
    for split in SPLITS:
        (root / "meta_expressions" / split).mkdir(parents=True)
        (root / "meta_expressions" / split / "meta_expressions.json").write_text(json.dumps({"videos": asked[split]}))
        (root / split / "meta.json").write_text(json.dumps({"videos": meta[split]}))
        kinds = Counter(entry["kind"] for video in asked[split].values() for entry in video["expressions"].values())
        kinds[ABSENT] += sum(len(video.get("absent", ())) for video in asked[split].values())
        counted = (*KINDS, ABSENT) if arguments["absent"] else KINDS
        counts[split] = {"videos": len(asked[split]), **{kind: kinds[kind] for kind in counted}}
    return counts


def generate(
    output: Path | str,
    *,
    train_videos: int = 600,
    valid_videos: int = 40,
    frames: int = 8,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    leave: bool = False,
    things: str = "known",
    format: str = YTVOS,
    absent: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> bool:
    """Writes a data set to ``output``, all of it or, after an error, nothing.

    Args:
        frames: frames of each video, named 00000, 00005, ...; 1 makes still images without expressions of motion.
        size: height and width in pixels.
        leave: whether some objects leave the picture and return, as in long videos.
        things: colours and shapes of the objects: the "known" ones, which the shipped weights know, three "new" colours
            and shapes, or "both", in every second video the new ones.
        format: the data set whose layout is written.
        absent: for each video, expressions of other scenes that mean nothing in it: in ``valid`` with ``obj_id`` null,
            in ``train`` as a list ``absent``, from which ``main.py --absent`` draws.
        workers: processes; all cores when None. The files do not depend on it.
        overwrite: replace a data set made by this tool with other arguments.

    Returns:
        False when the same set was already there, True when it was written.

    Raises:
        ValueError: an argument is bad, or the files cannot be written.
        FileExistsError: ``output`` holds something else.
    """
    output = Path(output)
    workers = cores() if workers is None else workers
    arguments = dict(
        generator=GENERATOR,
        train_videos=train_videos,
        valid_videos=valid_videos,
        frames=frames,
        size=list(size),
        seed=seed,
        leave=leave,
        things=things,
        format=format,
        absent=absent,
    )
    _check(arguments, workers)
    if _already_there(output, arguments, overwrite):
        return False
    with new_folder(output) as folder:
        if format == YTVOS:
            counts = _write_set(folder, arguments, workers)
        else:
            first = folder / YTVOS
            counts = _write_set(first, arguments, workers)
            # imported here, because otherwise every process would import its many libraries
            from tools.data.synthetic_formats import WRITERS

            WRITERS[format](first, folder)
            shutil.rmtree(first)
        record = {"arguments": arguments, "counts": counts, "shows": shown_things(things, frames)}
        (folder / GENERATED).write_text(json.dumps(record, indent=2) + "\n")
    return True


def main() -> int:
    parser = CommandParser("make_synthetic.py", __doc__)
    parser.add_argument("output_dir")
    parser.add_argument("--train_videos", type=int, default=600)
    parser.add_argument("--valid_videos", type=int, default=40)
    parser.add_argument("--frames", type=int, default=8, help="frames of a video; 1: still images")
    parser.add_argument("--size", type=int, nargs=2, default=[96, 160], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--things", choices=THINGS, default="known", help="new: other colours and shapes; both: in every second video"
    )
    parser.add_argument("--leave", action="store_true", help="some objects leave the picture and return")
    parser.add_argument("--format", choices=FORMATS, default=YTVOS, help="data set whose layout is written")
    parser.add_argument(
        "--absent", type=int, default=0, metavar="N", help="expressions of each video that mean nothing in it"
    )
    parser.add_argument("--workers", type=int, help="processes; default: one per core")
    parser.add_argument("--overwrite", action="store_true", help="replace a set made with other arguments")
    arguments = vars(parser.parse_args())
    output = Path(arguments.pop("output_dir"))
    arguments["size"] = tuple(arguments["size"])
    written = generate(output, **arguments)
    counts = json.loads((output / GENERATED).read_text())["counts"]
    print(f"{output}: {'written' if written else 'already there'}")
    for split, numbers in counts.items():
        print(f"  {split}: " + ", ".join(counted(number, name) for name, number in numbers.items()))
    return 0


if __name__ == "__main__":
    run(main)
