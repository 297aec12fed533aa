"""Draws the network: its modules by their names in the code, with the shapes of their outputs.

    python tools/draw_network.py --output docs/network.png [--num_frames 5] [--size 360 640] [any option of main.py]

The shapes are those of one pass through the model with random weights: one clip, one expression.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib

matplotlib.use("Agg")
import torch  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from models.proxyformer import ProxyFormer  # noqa: E402
from opts import parse_train_args  # noqa: E402
from tools.profile_model import EXPRESSION, build  # noqa: E402
from util.files.writing import atomic_path  # noqa: E402
from util.run.cli import run  # noqa: E402

VIDEO, PROXIES, TEXT, HEADS = "#dbe9f6", "#fde4cf", "#dff0d8", "#eee3f5"
WIDTH, HEIGHT = 2.6, 1.05
IN_STAGE = "cmie.stages.0."
ENDINGS = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Box:
    """A box of the picture: a module or an input.

    Attributes:
        name: of the module in the model, or of the input, in quotes.
        x, y: centre of the box; colour: of its stream.
        note: the task of the module in a few words.
    """

    name: str
    x: float
    y: float
    colour: str
    note: str = ""


# of the whole network, left to right
NETWORK = (
    Box("'video'", 0, 6, VIDEO),
    Box("backbone", 3, 6, VIDEO, "four maps, finest first"),
    Box("video_norm", 6, 6, VIDEO, "after video_proj: F_v^0"),
    Box("cmie", 9, 4.5, VIDEO, "K stages: F_v^K"),
    Box("segmenter.mask_decoder", 12, 6, VIDEO, "mask features"),
    Box("segmenter.kernel_head", 15, 5.25, HEADS, "mask logits"),
    Box("'expression'", 0, 3, TEXT),
    Box("text_encoder", 3, 3, TEXT, "RoBERTa"),
    Box("text_proj", 6, 3, TEXT, "words F_t"),
    Box("proxies", 6, 4.5, PROXIES, "of every frame"),
    Box("reference_head", 15, 3.75, HEADS, "class logits, boxes"),
    Box("semantics", 12, 2.6, HEADS, "for the JSC loss"),
)
ARROWS = (
    ("'video'", "backbone"),
    ("backbone", "video_norm"),
    ("video_norm", "cmie"),
    ("proxies", "cmie"),
    ("text_proj", "cmie"),
    ("cmie", "segmenter.mask_decoder"),
    ("segmenter.mask_decoder", "segmenter.kernel_head"),
    ("cmie", "segmenter.kernel_head"),
    ("cmie", "reference_head"),
    ("'expression'", "text_encoder"),
    ("text_encoder", "text_proj"),
    ("text_proj", "semantics"),
)
# around the boxes between: start, end, and how far the arrow bends
BENT = (("backbone", "segmenter.mask_decoder", -0.25), ("video_norm", "semantics", 0.3))
# of one stage: what its two blocks do in turn
STAGE = (
    Box("'video'", -3, 3, VIDEO, "F_v^0, or of the stage before"),
    Box("'proxies'", -3, 0, PROXIES, "learned, or of the stage before"),
    Box("'words'", -3, -1.2, TEXT, "F_t"),
    Box("video_in", 0, 3, VIDEO),
    Box("video_space", 3, 3.6, VIDEO, "tokens of a frame"),
    Box("video_time", 3, 2.4, VIDEO, "tokens of a place"),
    Box("video_from_proxies_space", 6.4, 3.6, VIDEO, "read the frame's proxies"),
    Box("video_from_proxies_time", 6.4, 2.4, VIDEO, "read pooled proxies"),
    Box("video_out", 9.8, 3, VIDEO, "next stage's video"),
    Box("proxies_in", 0, 0, PROXIES),
    Box("text_in", 0, -1.2, TEXT),
    Box("proxies_from_text", 3, 0, PROXIES, "read the words"),
    Box("proxies_from_video_space", 6.4, 0.6, PROXIES, "read the frame's tokens"),
    Box("proxies_from_video_time", 6.4, -0.6, PROXIES, "read pooled frames"),
    Box("proxies_out", 9.8, 0, PROXIES, "next stage's proxies"),
)
STAGE_ARROWS = (
    ("'video'", "video_in"),
    ("'proxies'", "proxies_in"),
    ("'words'", "text_in"),
    ("video_in", "video_space"),
    ("video_in", "video_time"),
    ("video_space", "video_from_proxies_space"),
    ("video_time", "video_from_proxies_time"),
    ("video_space", "video_from_proxies_time"),
    ("video_time", "video_from_proxies_space"),
    ("video_from_proxies_space", "video_out"),
    ("video_from_proxies_time", "video_out"),
    ("proxies_in", "proxies_from_text"),
    ("text_in", "proxies_from_text"),
    ("proxies_from_text", "proxies_from_video_space"),
    ("proxies_from_text", "proxies_from_video_time"),
    ("proxies_from_video_space", "proxies_out"),
    ("proxies_from_video_time", "proxies_out"),
)
# keys and values that come from the other stream
STAGE_READ = (
    ("'proxies'", "video_from_proxies_space", 0),
    ("'proxies'", "video_from_proxies_time", 0),
    ("'video'", "proxies_from_video_space", 0),
    ("'video'", "proxies_from_video_time", 0),
)


def _shapes(given: object) -> list[str]:
    """The shapes of all tensors in the output of a module, without bool masks."""
    if isinstance(given, Tensor):
        return [] if given.dtype == torch.bool else [" × ".join(map(str, given.shape))]
    return [shape for part in given for shape in _shapes(part)] if isinstance(given, list | tuple) else []


@torch.no_grad()
def shapes(model: ProxyFormer, frames: int, size: tuple[int, int]) -> dict[str, list[str]]:
    """The output shapes of each input and module of the picture, by its name in the model.

    Raises:
        AttributeError: the model has no module of a name in the picture.
    """
    modules = [box.name for box in NETWORK] + [f"{IN_STAGE}{box.name}" for box in STAGE]
    modules = [name for name in modules if "'" not in name and (name != "semantics" or model.semantics)]
    clip = f"1 × {frames} × 3 × {size[0]} × {size[1]}"
    found: dict[str, list[str]] = {"'video'": [clip], "'expression'": textwrap.wrap(f"“{EXPRESSION}”", 26)}
    hooks = []
    for name in modules:

        def keep(_: nn.Module, inputs: tuple, output: object, name: str = name) -> None:
            found[name] = _shapes(output[0] if name == "cmie" else output)

        hooks.append(model.get_submodule(name).register_forward_hook(keep))
    model.eval()(torch.randn(1, frames, 3, *size), [EXPRESSION])
    for hook in hooks:
        hook.remove()
    found["proxies"] = _shapes(model.proxies.weight)
    for name, projection in (("'video'", "video_in"), ("'proxies'", "proxies_in"), ("'words'", "text_in")):
        found[f"{IN_STAGE}{name}"] = found[f"{IN_STAGE}{projection}"]  # it keeps the shape
    return found


def _panel(
    axis: Axes,
    boxes: tuple[Box, ...],
    arrows: tuple[tuple[str, str], ...],
    bent: tuple[tuple[str, str, float], ...],
    found: dict[str, list[str]],
) -> None:
    """Boxes, solid arrows between them, and dashed ones that bend."""
    places = {box.name: box for box in boxes if box.name in found}
    for start, end, *bend in (*arrows, *bent):
        if start in places and end in places:
            a, b = places[start], places[end]
            style = dict(arrowstyle="->", color="#444444", lw=1.3)
            if bend:
                style |= dict(color="#8a8a8a", linestyle="--", connectionstyle=f"arc3,rad={bend[0]}")
            axis.annotate("", (b.x - WIDTH / 2, b.y), (a.x + WIDTH / 2, a.y), arrowprops=style, zorder=1)
    for box in places.values():
        low = box.x - WIDTH / 2, box.y - HEIGHT / 2
        axis.add_patch(plt.Rectangle(low, WIDTH, HEIGHT, facecolor=box.colour, edgecolor="#444444", zorder=2))
        lines = "\n".join([*([box.note] if box.note else []), *found[box.name]])
        axis.text(
            box.x, box.y + 0.34, box.name.strip("'"), ha="center", va="center", fontsize=9, weight="bold", zorder=3
        )
        axis.text(box.x, box.y + 0.2, lines, ha="center", va="top", fontsize=7.5, linespacing=1.1, zorder=3)
    axis.set_xlim(min(b.x for b in boxes) - 0.6 * WIDTH, max(b.x for b in boxes) + 0.6 * WIDTH)
    axis.set_ylim(min(b.y for b in boxes) - 0.7 * HEIGHT, max(b.y for b in boxes) + 1.2 * HEIGHT)
    axis.axis("off")


def draw(found: dict[str, list[str]]) -> Figure:
    """The whole network above, one of its CMIE stages below."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(16, 12), layout="constrained", height_ratios=(5, 6))
    above.set_title("ProxyFormer (models/proxyformer.py)", loc="left", fontsize=12)
    _panel(above, NETWORK, ARROWS, BENT, found)
    title = "One of the K stages (models/cmie.py). Dashed: both blocks read the inputs of the stage"
    below.set_title(title, loc="left", fontsize=12)
    inside = {name.removeprefix(IN_STAGE): shape for name, shape in found.items() if name.startswith(IN_STAGE)}
    _panel(below, STAGE, STAGE_ARROWS, STAGE_READ, inside)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(
        "draw_network.py",
        description=__doc__.splitlines()[0],
        epilog="Other options are those of main.py: --backbone, --num_frames …",
        allow_abbrev=False,
    )
    parser.add_argument("--output", type=Path, default=Path("network.png"), help="PNG, PDF or SVG by its ending")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    own, others = parser.parse_known_args()
    if own.output.suffix not in ENDINGS:
        parser.error(f"--output {own.output}: the ending must be {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if min(own.size) < 32:
        parser.error(f"--size {own.size[0]} {own.size[1]}: both must be at least 32")
    args = parse_train_args(others)
    figure = draw(shapes(build(args, [EXPRESSION]), args.num_frames, tuple(own.size)))
    with atomic_path(own.output) as temporary:
        figure.savefig(temporary, dpi=110)
    print(own.output)


if __name__ == "__main__":
    run(main)
