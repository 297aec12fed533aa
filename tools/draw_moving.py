"""Draws the moving picture of the README: what the shipped weights find in held-out generated videos.

    python tools/draw_moving.py --output docs/demo.gif

No case is picked by hand. The expressions about objects that move are ordered by J&F, those of each kind apart, and
:data:`PLACES` are shown; where a video is shown already, the next expression of another one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import datasets  # noqa: E402
import models  # noqa: E402
from engine import predict_split  # noqa: E402
from tools.data.make_synthetic import generate  # noqa: E402
from tools.small_job.drawing import by_kind, level, read_cases  # noqa: E402
from tools.small_job.held_out import score  # noqa: E402
from tools.small_job.stages import PRETRAINED  # noqa: E402
from util.files.writing import atomic_path  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.device import use_device  # noqa: E402
from util.run.parser import CommandParser  # noqa: E402
from util.video.visualize import DARK, LIGHT, PREDICTED_COLOUR, painter  # noqa: E402

VIDEOS, FRAMES, SIZE, SEED = 12, 24, (192, 320), 1  # other scenes than those of the training
# a kind, and the share of its expressions whose J&F is higher: medians, and two of motion, which videos are there for
PLACES = (("appearance", 1 / 2), ("motion", 1 / 3), ("motion", 2 / 3), ("relation", 1 / 2))
MOVING = 0.2  # of the width of the picture, that the middle of an object goes at least
TILE, GAP = 416, 8  # pixels; two tiles side by side are as wide as GitHub shows a README
MILLISECONDS, LAST = 100, 1200  # that a frame is shown, and the last one
COLOURS, LINES = 256, 50  # and the weight of the colours of lines among them
STILL = 10  # a pixel that changes by less in every channel stays as it was: grain alone would be most of the file


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = CommandParser("draw_moving.py", __doc__)
    parser.add_argument("--output", type=Path, default=Path("output/demo.gif"), metavar="FILE.gif")
    parser.add_argument("--device", help="default: a GPU where there is one")
    args = parser.parse_args(argv)
    if args.output.suffix != ".gif":
        parser.error(f"--output {args.output}: the ending must be .gif")
    return args


def tiles(scores: dict, results: Path, data: Path) -> list[list[np.ndarray]]:
    """The painted frames of each chosen case, uint8 ``[h, TILE, 3]``, all of one height."""
    films = []
    for case in read_cases(scores, results, data, choose(scores, results, data)):
        print(f"{case.kind}: {case.text} · J&F {case.score:.2f}")
        paint = painter([case.text], [PREDICTED_COLOUR], TILE)
        films.append([paint(frame, mask[None]) for frame, mask in zip(case.frames, case.predicted, strict=True)])
    flat = level([frame for film in films for frame in film])
    return [flat[start : start + FRAMES] for start in range(0, len(flat), FRAMES)]


def choose(scores: dict, results: Path, data: Path) -> list[tuple[str, str]]:
    """The cases at :data:`PLACES`: names of video and expression."""
    kinds = {}
    for kind, ranked in by_kind(scores).items():
        cases = zip(ranked, read_cases(scores, results, data, ranked), strict=True)
        kinds[kind] = [name for name, case in cases if path_length(case.truth) >= MOVING]
    chosen: dict[str, str] = {}
    for kind, share in PLACES:
        first = round(share * (len(kinds[kind]) - 1))
        following = kinds[kind][first:] + kinds[kind][:first]
        vid, exp_id = next(name for name in following if name[0] not in chosen)
        chosen[vid] = exp_id
    return list(chosen.items())


def path_length(truth: np.ndarray) -> float:
    """The way of the middle of an object through a video, bool ``[T, H, W]``, as a share of the width."""
    middles = np.array([np.mean(np.nonzero(mask), axis=1) for mask in truth if mask.any()]).reshape(-1, 2)
    return float(np.linalg.norm(np.diff(middles, axis=0), axis=1).sum()) / truth.shape[2]


def side_by_side(films: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The frames of four films in two rows."""
    space = ((0, GAP), (0, GAP), (0, 0))
    padded = [[np.pad(frame, space, constant_values=255) for frame in film] for film in films]
    return [
        np.concatenate([np.concatenate(shots[:2], axis=1), np.concatenate(shots[2:], axis=1)])[:-GAP, :-GAP]
        for shots in zip(*padded, strict=True)
    ]


def steady(frames: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The frames without grain: a pixel keeps its value until it changes by :data:`STILL` in some channel."""
    shown = [frames[0]]
    for frame in frames[1:]:
        change = np.abs(frame.astype(np.int16) - shown[-1]).max(-1, keepdims=True)
        shown.append(np.where(change < STILL, shown[-1], frame))
    return shown


def write_gif(frames: Sequence[np.ndarray], path: Path) -> None:
    """Writes frames that repeat forever, atomically, in colours that all frames share."""
    pixels = np.concatenate([frame.reshape(-1, 3) for frame in frames[:: max(1, len(frames) // 4)]])
    # each colour once, or the backgrounds would take all places
    found = np.concatenate([np.unique(pixels // 8, axis=0) * 8, [PREDICTED_COLOUR, DARK, LIGHT] * LINES])
    palette = Image.fromarray(found[None].astype(np.uint8)).quantize(COLOURS)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    shown = [MILLISECONDS] * (len(frames) - 1) + [LAST]
    with atomic_path(path) as temporary:
        pictures[0].save(
            temporary, format="GIF", save_all=True, append_images=pictures[1:], duration=shown, loop=0, optimize=True
        )


def main() -> None:
    args = parse_args()
    predictor, options = models.load_with_options(PRETRAINED, use_device(args.device), not_there=0.0)
    with tempfile.TemporaryDirectory() as folder:
        data, results = Path(folder, "data"), Path(folder, "results")
        generate(data, train_videos=1, valid_videos=VIDEOS, frames=FRAMES, size=SIZE, seed=SEED)
        options.ytvos_path = data
        predict_split(predictor, datasets.eval_set(options, "valid").videos(), results)
        scores = score(results, data)
        print(f"J&F {scores['J&F']:.3f} of {scores['expressions']} expressions")
        write_gif(steady(side_by_side(tiles(scores, results, data))), args.output)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    run(main)
