"""Draws the network: its modules by their names in the code, with the shapes of their outputs.

    python tools/draw_network.py --output docs/network.png --num_frames 5 --size 360 640

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
from matplotlib.figure import Figure  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from models.proxyformer import ProxyFormer  # noqa: E402
from opts import parse_train_args  # noqa: E402
from tools.profile_model import EXPRESSION, build  # noqa: E402
from util.files.writing import atomic_path  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.parser import CommandParser

VIDEO, PROXIES, TEXT, HEADS = "#dbe9f6", "#fde4cf", "#dff0d8", "#eee3f5"
WIDTH, HEIGHT = 2.6, 1.05
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
)
# around the boxes between: start, end, and how far the arrow bends
BENT = (("backbone", "segmenter.mask_decoder", -0.25),)


def arrows_to_semantics(model: ProxyFormer) -> list[tuple[str, str, float]]:
    """What the JSC loss compares the proxies with; empty without it."""
    video = ("cmie", "semantics", 0.0) if model.jsc_after else ("video_norm", "semantics", 0.3)
    text = ("text_proj", "semantics", 0.0)
    return {"joint": [video, text], "video": [video], "text": [text]}.get(model.jsc_target, [])


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
    modules = [box.name for box in NETWORK if "'" not in box.name and (box.name != "semantics" or model.semantics)]
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
    return found


def draw(model: ProxyFormer, found: dict[str, list[str]]) -> Figure:
    """Boxes with the ``found`` shapes, solid arrows between them, and dashed ones that bend."""
    figure, axis = plt.subplots(figsize=(16, 5.6), layout="constrained")
    axis.set_title("ProxyFormer (models/proxyformer.py)", loc="left", fontsize=12)
    places = {box.name: box for box in NETWORK if box.name in found}
    for start, end, *bend in (*ARROWS, *BENT, *arrows_to_semantics(model)):
        a, b = places[start], places[end]
        style = dict(arrowstyle="->", color="#444444", lw=1.3)
        if bend and bend[0]:
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
    axis.set_xlim(min(b.x for b in NETWORK) - 0.6 * WIDTH, max(b.x for b in NETWORK) + 0.6 * WIDTH)
    axis.set_ylim(min(b.y for b in NETWORK) - 0.7 * HEIGHT, max(b.y for b in NETWORK) + 1.2 * HEIGHT)
    axis.axis("off")
    return figure


def picture_args(program: str, about: str, output: Path) -> tuple[argparse.Namespace, argparse.Namespace]:
    """The options of a program that draws the model, and those of ``main.py``, which it also takes.

    Args:
        about: the docstring of the program; output: default of ``--output``.
    """
    parser = CommandParser(
        program,
        about,
        note="Other options are those of main.py: --backbone, --num_frames …",
    )
    parser.add_argument("--output", type=Path, default=output, help="PNG, PDF or SVG by its ending")
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    own, others = parser.parse_known_args()
    if own.output.suffix not in ENDINGS:
        parser.error(f"--output {own.output}: the ending must be {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    if min(own.size) < 32:
        parser.error(f"--size {own.size[0]} {own.size[1]}: both must be at least 32")
    args = parse_train_args(others)
    if args.model != "proxyformer":
        parser.error(f"--model {args.model}: the picture is one of ProxyFormer; leave it out")
    return own, args


def main() -> None:
    own, args = picture_args("draw_network.py", __doc__, Path("output/network.png"))
    model = build(args, [EXPRESSION])
    figure = draw(model, shapes(model, args.num_frames, tuple(own.size)))
    with atomic_path(own.output) as temporary:
        figure.savefig(temporary, dpi=110)
    print(own.output)


if __name__ == "__main__":
    run(main)
