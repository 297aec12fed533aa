"""Times J and F against full-image dilation, and the unsupervised protocol against one evaluation for each pair.

    python tools/benchmark_jf.py
    python tools/benchmark_jf.py --truth data/ref-davis/valid/Annotations/pigs \\
        --results output/davis/anno_0/pigs

Both sides start from label maps in memory and compute on one thread. The time is in CPU seconds, of the fastest of some
repetitions. Their scores are compared, too. The reference below works like the DAVIS toolkit: masks of all objects as
whole images, dilation of whole images, and a full comparison of every proposal with every object.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from davis2017.davis_protocol import VOID, count_objects, unsupervised  # noqa: E402
from davis2017.label_maps import read_labels  # noqa: E402
from davis2017.metrics import PreparedMask  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.counts import counted
from util.run.parser import CommandParser

SIZE = (480, 854)


def reference_j(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray) -> np.ndarray:
    """J of each frame; all bool ``[T, H, W]``."""
    shared = np.sum(np.logical_and(np.logical_and(truth, predicted), np.logical_not(void)), axis=(1, 2))
    union = np.sum(np.logical_and(np.logical_or(truth, predicted), np.logical_not(void)), axis=(1, 2))
    return np.where(union == 0, 1.0, shared / np.where(union == 0, 1, union))


def reference_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask, bool ``[H, W]``, that differ from their right, lower or lower-right neighbour."""
    right, below, diagonal = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], below[:-1], diagonal[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    boundary = (mask ^ right) | (mask ^ below) | (mask ^ diagonal)
    boundary[-1] = mask[-1] ^ right[-1]
    boundary[:, -1] = mask[:, -1] ^ below[:, -1]
    boundary[-1, -1] = False
    return boundary


def reference_f(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray) -> float:
    """F of a frame; all bool ``[H, W]``."""
    radius = math.ceil(0.008 * np.linalg.norm(truth.shape))
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = (x**2 + y**2 <= radius**2).astype(np.uint8)
    boundaries = [reference_boundary(np.logical_and(mask, np.logical_not(void))) for mask in (predicted, truth)]
    near = [cv2.dilate(boundary.astype(np.uint8), disk) for boundary in boundaries]
    lengths = [np.sum(boundary) for boundary in boundaries]
    if not all(lengths):
        return float(lengths[0] == lengths[1])
    precision = np.sum(boundaries[0] * near[1]) / lengths[0]
    recall = np.sum(boundaries[1] * near[0]) / lengths[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def reference_jf(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray) -> np.ndarray:
    """J and F of each frame, ``[T, 2]``; all bool ``[T, H, W]``."""
    f = [reference_f(*frame) for frame in zip(truth, predicted, void, strict=True)]
    return np.stack([reference_j(truth, predicted, void), f], axis=1)


def one_hot(labels: np.ndarray, count: int) -> np.ndarray:
    """Label maps ``[T, H, W]`` as masks of the objects 1 to ``count``, bool ``[n, T, H, W]``."""
    return labels.astype(np.float64)[None] == np.arange(1, count + 1)[:, None, None, None]


def reference_protocol(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """The unsupervised protocol, ``[n, T, 2]``, from label maps ``[T, H, W]``, pair by pair."""
    count = count_objects(truth[0])
    objects = one_hot(truth, count)
    proposals = one_hot(predicted, max(count, int(predicted.max())))
    void = truth == VOID
    scores = np.array([[reference_jf(target, proposal, void) for target in objects] for proposal in proposals])
    chosen, assigned = linear_sum_assignment(scores.mean(axis=(2, 3)), maximize=True)
    return scores[chosen[np.argsort(assigned)], np.sort(assigned)]


def prepared_jf(truth: np.ndarray, predicted: np.ndarray, void: np.ndarray) -> np.ndarray:
    """As :func:`reference_jf`, by this project's measures."""
    out = []
    for a, b, v in zip(truth, predicted, void, strict=True):
        v = v if v.any() else None
        out.append(PreparedMask(a, v).jf(PreparedMask(b, v)))
    return np.array(out)


def draw_scene(frames: int, objects: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Label maps of moving blobs, which cover 0.5 to 10 % of the image, and label maps of imperfect predictions."""
    rng = np.random.default_rng(seed)
    truth, predicted = np.zeros((2, frames, *SIZE), np.uint8)
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    for number in range(1, objects + 1):
        radius = np.interp(number, [1, max(objects, 2)], [28, 115])
        waves = sum(rng.normal(0, 0.08) * np.sin(k * angles + rng.uniform(0, 6)) for k in range(2, 7))
        start, step = rng.uniform((80, 80), (SIZE[1] - 80, SIZE[0] - 80)), rng.uniform(-6, 6, 2)
        for t in range(frames):
            for maps, error in ((truth, 0.0), (predicted, 0.03)):
                outline = radius * (1 + waves + rng.normal(0, error) * np.sin(3 * angles + t))
                points = start + t * step + outline[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
                cv2.fillPoly(maps[t], [np.round(points).astype(np.int32)], number)
    return truth, predicted


def read_maps(folder: str, frames: int) -> np.ndarray:
    """The first label maps of a folder, uint8 ``[T, H, W]``. Raises FileNotFoundError where there are none."""
    paths = sorted(Path(folder).glob("*.png"))[:frames]
    if not paths:
        raise FileNotFoundError(f"{folder}: there is no .png in this folder; give one of a video's label maps")
    return np.stack([read_labels(path) for path in paths])


def fastest(work: Callable[[], object], repeat: int) -> float:
    """CPU seconds of the fastest of ``repeat`` runs."""
    seconds = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def compare(name: str, reference: Callable, ours: Callable, arguments: tuple, units: int, repeat: int) -> float:
    """Prints the times of both per unit and their ratio; returns the largest difference between their results."""
    slow, quick = (fastest(lambda work=work: work(*arguments), repeat) for work in (reference, ours))
    print(
        f"{name}: reference {1000 * slow / units:.2f} ms, here {1000 * quick / units:.2f} ms, "
        f"{slow / quick:.1f} times as fast"
    )
    return float(np.abs(reference(*arguments) - ours(*arguments)).max())


def main() -> int:
    parser = CommandParser("benchmark_jf.py", __doc__)
    parser.add_argument("--frames", type=int, default=5, help="frames of the video")
    parser.add_argument("--objects", type=int, default=6, help="objects of the drawn video")
    parser.add_argument("--repeat", type=int, default=3, help="runs; the fastest counts")
    parser.add_argument("--seed", type=int, default=0, help="of the drawn video")
    parser.add_argument("--truth", metavar="DIR", help="label maps of a real video instead of a drawn one")
    parser.add_argument("--results", metavar="DIR", help="label maps of its results")
    args = parser.parse_args()
    if min(args.frames, args.objects, args.repeat) < 1 or args.objects > 20:
        parser.error("--frames, --objects and --repeat must be at least 1, --objects at most 20")
    if (args.truth is None) != (args.results is None):
        parser.error("--truth and --results belong together")
    if args.truth:
        truth, predicted = (read_maps(folder, args.frames) for folder in (args.truth, args.results))
        if truth.shape != predicted.shape or not count_objects(truth[0]):
            raise ValueError(f"{args.truth} and {args.results} must hold the same frames, and objects in the first")
    else:
        truth, predicted = draw_scene(args.frames, args.objects, args.seed)
    frames, height, width = truth.shape
    count = count_objects(truth[0])
    seen = f"{counted(frames, 'frames')} of {height}x{width} pixels, {counted(count, 'objects')}"
    print(f"{seen}, {counted(int(predicted.max()), 'proposals')}, one thread")

    # all frames of the first object, then of the second …, as one list of frames
    masks = [one_hot(maps, count).reshape(-1, height, width) for maps in (truth, predicted)]
    void = np.tile(truth == VOID, (count, 1, 1))
    differences = [
        compare("J and F of a frame and object", reference_jf, prepared_jf, (*masks, void), len(void), args.repeat),
        compare(
            "unsupervised protocol, a frame",
            reference_protocol,
            lambda truth, predicted: unsupervised((a, [b]) for a, b in zip(truth, predicted, strict=True))[0],
            (truth, predicted),
            frames,
            args.repeat,
        ),
    ]
    print(f"largest difference of a number: {max(differences):.1e}")
    return int(max(differences) > 1e-9)


if __name__ == "__main__":
    run(main)
