"""Draws one stage of the CMIE, and what each variant of the paper's ablations changes in it, with the code's shapes.

    python tools/draw_cmie.py --output docs/cmie.png --num_frames 5 --size 360 640

One clip and one expression go through the model with random weights. Hooks on the stage, and on a stage of each
variant that gets the same inputs, read the shapes. FLOPs are torch's count, two for a multiplication and an addition.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
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
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from models.attention import Attention, FeedForward  # noqa: E402
from models.cmie import CMIE  # noqa: E402
from models.proxyformer import ProxyFormer  # noqa: E402
from tools.cmie_glyphs import DARK, LIGHT, PROXIES, TEXT, VIDEO, glyph  # noqa: E402
from tools.draw_network import picture_args  # noqa: E402
from tools.profile_model import EXPRESSION, build  # noqa: E402
from util.files.writing import atomic_path  # noqa: E402
from util.run.cli import run  # noqa: E402

GREY, PALE = "#5c6670", "#f4f5f7"
# title, flag and arguments of each stage that is drawn; the first is the stage of the paper
VARIANTS = {
    "CMIE": ("the default", {}),
    "CMIE*": ("--cmie full", {"full": True}),
    "CMIE w/o P2V": ("--no-proxy_to_video", {"video_reads": "nothing"}),
    "w/o proxy queries": ("--video_reads words", {"video_reads": "words"}),
}
# the four interactions, by the beginnings of the names of their attentions; the first that fits counts
INTERACTIONS = {
    "video_from_": ("Video reads", "proxies (P2V),\nor the words", VIDEO),
    "video_": ("Video reads itself", "tokens among\neach other", VIDEO),
    "proxies_from_text": ("Proxies read words", "T2P", PROXIES),
    "proxies_from_video": ("Proxies read video", "V2P", PROXIES),
}
ROWS = ("video_", "video_from_", "proxies_from_text", "proxies_from_video")


@dataclass
class Stage:
    """What a pass through a stage shows.

    Attributes:
        read: for each attention by its name, the shapes ``[g, q, c]`` of the queries and ``[g, k, c]`` of what they
            read.
        shapes: of the outputs of its other modules by their names, and of its inputs and outputs, as ``"video"``.
        flops, parameters: their numbers.
    """

    read: dict[str, tuple[torch.Size, torch.Size]] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    flops: int = 0
    parameters: int = 0


def interaction(name: str) -> str:
    """The key in :data:`INTERACTIONS` of an attention."""
    return next(start for start in INTERACTIONS if name.startswith(start))


@torch.no_grad()
def watched(stage: CMIE, inputs: tuple) -> Stage:
    """Runs a stage on ``inputs`` (video, proxies, text, surroundings) and reads its shapes by hooks."""
    found = Stage(parameters=sum(p.numel() for p in stage.parameters()))
    found.shapes.update(zip(("video", "proxies", "words"), (x.shape for x in inputs[:3]), strict=True))

    def keep(name: str, module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, Attention):
            found.read[name] = given[0].shape, given[1].shape
        found.shapes[name] = output.shape

    hooks = [
        module.register_forward_hook(lambda module, given, output, name=name: keep(name, module, given, output))
        for name, module in stage.named_children()
    ]
    stage.eval().requires_grad_(False)  # the counter fails on parameters with requires_grad
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        stage(*inputs)
    for hook in hooks:
        hook.remove()
    found.flops = counter.get_total_flops()
    return found


@torch.no_grad()
def stages(model: ProxyFormer, frames: int, size: tuple[int, int]) -> dict[str, Stage]:
    """The stages of :data:`VARIANTS`, as wide as that of the model and on the same inputs."""
    inputs = []
    hook = model.cmie.register_forward_pre_hook(lambda _, given: inputs.append(given))
    model.eval()(torch.randn(1, frames, 3, *size), [EXPRESSION])
    hook.remove()
    video, proxies, text, around = inputs[0]
    whole = model.cmie.stages[0]
    feed_forward = whole.video_out.layers[0].out_features if isinstance(whole.video_out, FeedForward) else 0
    width = dict(dim=model.dim, heads=whole.proxies_from_text.heads, dropout=0.0, dim_feedforward=feed_forward)
    return {
        title: watched(CMIE(**width, **arguments) if arguments else whole, (video, proxies.detach(), text, around))
        for title, (_, arguments) in VARIANTS.items()
    }


# The stage ---------------------------------------------------------------------------------------------------------

BOX, HIGH = 4.7, 1.5  # of an attention
# of each attention: centre, symbol of its result, title and task
PLACES = {
    "video_space": (8.3, 15.3, "S", "Space", "a token reads the\ntokens of its frame"),
    "video_time": (8.3, 13.6, "M", "Time", "a token reads its\nplace in all frames"),
    "video_from_proxies_space": (16.1, 15.3, "$P_s$", "P2V, space", "a token reads its\nframe's proxies"),
    "video_from_proxies_time": (16.1, 13.6, "$P_t$", "P2V, time", "a token reads the\nproxies of all\nframes, pooled"),
    "proxies_from_text": (8.3, 10.05, "R", "T2P", "a proxy reads\nthe words"),
    "proxies_from_video_space": (16.1, 10.9, "$V_s$", "V2P, space", "a proxy reads the\ntokens of its frame"),
    "proxies_from_video_time": (16.1, 9.2, "$V_t$", "V2P, time", "a proxy reads the\ntokens of all\nframes, pooled"),
}


def _by(shape: torch.Size) -> str:
    return " × ".join(map(str, shape))


def _line(axis: Axes, colour: str, *points: tuple[float, float], level: int = 0) -> None:
    """An arrow with right angles, dashed above ``level`` 0; a white border sets it off from lines of lower levels."""
    xs, ys = zip(*points, strict=True)
    style = dict(solid_joinstyle="round", zorder=3 + 0.2 * level)
    if level:
        axis.plot(xs, ys, color="white", lw=5, **style)
    style["zorder"] += 0.1
    axis.plot(xs, ys, color=colour, lw=1.8, ls=(0, (4, 2)) if level else "-", dash_capstyle="butt", **style)
    (x, y), (before_x, before_y) = points[-1], points[-2]
    length = max(abs(x - before_x), abs(y - before_y))
    start = x - 0.1 * (x - before_x) / length, y - 0.1 * (y - before_y) / length
    arrow = dict(arrowstyle="-|>", color=colour, lw=0, mutation_scale=13, shrinkA=0, shrinkB=0)
    axis.annotate("", (x, y), start, arrowprops=arrow, zorder=4)


def _card(axis: Axes, x: float, y: float, width: float, height: float, face: str, edge: str, **how: object) -> None:
    """A box with round corners around a centre."""
    low, shape = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=0.16"
    how = {"lw": 1.2, "zorder": 5} | how
    axis.add_patch(
        matplotlib.patches.FancyBboxPatch(low, width, height, boxstyle=shape, facecolor=face, edgecolor=edge, **how)
    )


def _small(axis: Axes, x: float, y: float, width: float, stream: str, title: str, *lines: str) -> None:
    """An input, an output or a linear layer."""
    _card(axis, x, y, width, 1.0, LIGHT[stream], DARK[stream])
    axis.text(x, y + 0.24, title, ha="center", va="center", fontsize=10.5, weight="bold", zorder=6)
    axis.text(x, y - 0.2, "\n".join(lines), ha="center", va="center", fontsize=7.2, color=GREY, zorder=6)


def _attention(axis: Axes, name: str, stage: Stage) -> None:
    x, y, symbol, title, task = PLACES[name]
    stream = INTERACTIONS[interaction(name)][2]
    left, right = x - BOX / 2, x + BOX / 2
    _card(axis, x, y, BOX, HIGH, "white", DARK[stream], lw=1.5)
    axis.text(left + 0.42, y + 0.52, title, va="center", fontsize=9.5, weight="bold", zorder=6)
    axis.text(left + 0.42, y + 0.05, task, va="center", fontsize=7.6, linespacing=1.15, zorder=6)
    axis.text(left + 0.42, y - 0.56, name, va="center", fontsize=6.4, family="monospace", color=GREY, zorder=6)
    query, context = stage.read[name]
    for i, words in enumerate((f"q   {_by(query)}", f"kv  {_by(context)}")):
        axis.text(right - 2.05, y + 0.56 - 0.19 * i, words, va="center", fontsize=6.6, family="monospace", zorder=6)
    glyph(axis, right - 1.1, y - 0.22, name, size=1.15)
    axis.text(right + 0.3, y + 0.23, symbol, ha="center", va="center", fontsize=10, color=DARK[stream], zorder=6)


def _ports(axis: Axes, name: str) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where queries, and keys and values, enter: the keys on the side of the other block."""
    x, y = PLACES[name][:2]
    toward = -1 if name.startswith("video_") or name == "proxies_from_text" else 1
    ports = (x - BOX / 2, y - 0.3 * toward), (x - BOX / 2, y + 0.3 * toward)
    for (left, at), word in zip(ports, ("q", "kv"), strict=True):
        axis.text(left + 0.07, at, word, va="center", fontsize=6, color=GREY, zorder=7)
    return ports


def _sum(axis: Axes, x: float, y: float, stream: str) -> None:
    axis.add_patch(plt.Circle((x, y), 0.2, facecolor="white", edgecolor=DARK[stream], lw=1.5, zorder=5))
    axis.text(x, y - 0.01, "+", ha="center", va="center", fontsize=12, zorder=6)


def _draw_stage(axis: Axes, stage: Stage) -> None:
    """The stage of the paper: two blocks, their streams, and the two buses between them."""
    blue, orange, green = (DARK[stream] for stream in (VIDEO, PROXIES, TEXT))
    for low, high, stream, word in (
        (12.7, 16.25, VIDEO, "Proxy conditioned video encoding block"),
        (8.3, 11.8, PROXIES, "Visual-language conditioned proxy encoding block"),
    ):
        _card(axis, 11.65, (low + high) / 2, 16.9, high - low, LIGHT[stream], "none", alpha=0.45, zorder=1)
        above = low > 12
        at = high + 0.17 if above else low - 0.19
        axis.text(3.3, at, word, va="center", fontsize=9.5, color=DARK[stream], weight="bold")
    _small(axis, 1.4, 14.45, 2.5, VIDEO, "$F_v^{k-1}$", _by(stage.shapes["video"]), "b × t × h × w × c")
    _small(axis, 1.4, 10.7, 2.5, PROXIES, "$Q^{k-1}$", _by(stage.shapes["proxies"]), "b × t × n × c")
    _small(axis, 1.4, 9.1, 2.5, TEXT, "$F_t$", _by(stage.shapes["words"]), "b × l × c")
    for name, y, stream, symbol in (
        ("video_in", 14.45, VIDEO, "X"),
        ("proxies_in", 10.7, PROXIES, "Z"),
        ("text_in", 9.1, TEXT, "U"),
    ):
        _small(axis, 4.2, y, 1.5, stream, f"Linear: {symbol}", name)
        _line(axis, DARK[stream], (2.65, y), (3.45, y))
    for name in PLACES:
        _attention(axis, name, stage)

    # the video block from left to right
    for name in ("video_space", "video_time"):
        for port in _ports(axis, name):
            _line(axis, blue, (4.95, 14.45), (5.45, 14.45), (5.45, port[1]), port)
        y = PLACES[name][1]
        _line(axis, blue, (8.3 + BOX / 2, y), (11.4, y), (11.4, 14.45 + (0.2 if y > 14.45 else -0.2)))
    _sum(axis, 11.4, 14.45, VIDEO)
    axis.text(11.75, 14.66, "Y", ha="center", va="center", fontsize=10, color=blue, zorder=6)
    for name in ("video_from_proxies_space", "video_from_proxies_time"):
        query, keys = _ports(axis, name)
        _line(axis, blue, (11.6, 14.45), (12.15, 14.45), (12.15, query[1]), query)
        y = PLACES[name][1]
        _line(axis, blue, (16.1 + BOX / 2, y), (19.3, y), (19.3, 14.45 + (0.2 if y > 14.45 else -0.2)))
    _sum(axis, 19.3, 14.45, VIDEO)
    # the proxy block
    query, keys = _ports(axis, "proxies_from_text")
    _line(axis, orange, (4.95, 10.7), (5.45, 10.7), (5.45, query[1]), query)
    _line(axis, green, (4.95, 9.1), (5.45, 9.1), (5.45, keys[1]), keys)
    for name in ("proxies_from_video_space", "proxies_from_video_time"):
        query, keys = _ports(axis, name)
        _line(axis, orange, (8.3 + BOX / 2, 10.05), (12.15, 10.05), (12.15, query[1]), query)
        y = PLACES[name][1]
        _line(axis, orange, (16.1 + BOX / 2, y), (19.3, y), (19.3, 10.05 + (0.2 if y > 10.05 else -0.2)))
    _sum(axis, 19.3, 10.05, PROXIES)
    # what each block reads of the other: the inputs of the stage
    for name in ("proxies_from_video_time", "proxies_from_video_space"):
        keys = _ports(axis, name)[1]
        _line(axis, blue, (1.0, 13.95), (1.0, 12.45), (13.1, 12.45), (13.1, keys[1]), keys, level=1)
    for name in ("video_from_proxies_space", "video_from_proxies_time"):
        keys = _ports(axis, name)[1]
        _line(axis, orange, (1.8, 11.2), (1.8, 12.05), (12.65, 12.05), (12.65, keys[1]), keys, level=2)
    lanes = (12.45, "video as it enters the stage", VIDEO), (12.05, "proxies as they enter the stage", PROXIES)
    for y, word, stream in lanes:
        around = dict(facecolor="white", edgecolor="none", pad=1.5)
        axis.text(6.2, y, word, va="center", fontsize=7.8, color=DARK[stream], zorder=6, bbox=around)
    for y, stream, symbol, name, axes in (
        (14.45, VIDEO, "$F_v^k$", "video_out", "next stage; last: masks"),
        (10.05, PROXIES, "$Q^k$", "proxies_out", "next stage; heads"),
    ):
        _line(axis, DARK[stream], (19.5, y), (21.1, y))
        _small(axis, 22.4, y, 2.6, stream, symbol, _by(stage.shapes[name]), axes)


# The variants ------------------------------------------------------------------------------------------------------

FIRST, COLUMN, TOP, ROW = 3.3, 5.12, 6.2, 1.32


def _draw_variants(axis: Axes, found: dict[str, Stage]) -> None:
    """A table of what is read, a column for each variant. Bright: what differs from the first column."""
    whole = found["CMIE"]
    for i, start in enumerate(ROWS):
        title, task, stream = INTERACTIONS[start]
        y = TOP - ROW * i - ROW / 2
        axis.text(0.1, y + 0.22, title, va="center", fontsize=9.5, weight="bold", color=DARK[stream])
        axis.text(0.1, y - 0.2, task, va="center", fontsize=7.6, color=GREY)
    most = max(stage.flops for stage in found.values())
    for j, (title, stage) in enumerate(found.items()):
        middle = FIRST + COLUMN * (j + 0.5)
        axis.text(middle, TOP + 0.62, title, ha="center", va="center", fontsize=11.5, weight="bold")
        flag = VARIANTS[title][0]
        axis.text(middle, TOP + 0.24, flag, ha="center", va="center", fontsize=8, family="monospace", color=GREY)
        for i, start in enumerate(ROWS):
            names = [name for name in stage.read if interaction(name) == start]
            same = names == [name for name in whole.read if interaction(name) == start]
            _draw_cell(axis, middle, TOP - ROW * (i + 0.5), names, stage, bright=j == 0 or not same, start=start)
        _draw_cost(axis, middle, TOP - ROW * len(ROWS) - 0.42, stage, whole, stage.flops / most)
    axis.text(0.1, TOP - ROW * len(ROWS) - 0.28, "Cost of a stage", va="center", fontsize=9.5, weight="bold")
    _, t, h, w, _ = whole.shapes["video"]
    clip = f"{t} frames of {h} × {w} tokens,\none expression"
    axis.text(0.1, TOP - ROW * len(ROWS) - 0.68, clip, va="center", fontsize=7.6, color=GREY)


def _draw_cell(axis: Axes, x: float, y: float, names: list[str], stage: Stage, *, bright: bool, start: str) -> None:
    stream, alpha = INTERACTIONS[start][2], 1.0 if bright else 0.28
    edge = DARK[stream] if bright else "#d5d9de"
    style = dict(linestyle=(0, (4, 3))) if not names else {}
    _card(axis, x, y, COLUMN - 0.22, ROW - 0.16, "white" if names else PALE, edge, **style)
    if not names:
        axis.text(x, y, "nothing: $F_v^k = Y$", ha="center", va="center", fontsize=9, color=GREY, zorder=6)
    for i, name in enumerate(names):
        at = x + COLUMN / 2 * (i - (len(names) - 1) / 2)
        glyph(axis, at, y + 0.15, name, size=1.2, alpha=alpha)
        query, context = stage.read[name]
        words = f"{query[0]} × ({query[1]} ← {context[1]})"
        axis.text(at, y - 0.46, words, ha="center", va="center", fontsize=7.4, alpha=max(alpha, 0.5), zorder=6)
    if len(names) == 2:
        axis.text(x, y + 0.1, "+", ha="center", va="center", fontsize=13, color=GREY, alpha=alpha, zorder=6)


def _draw_cost(axis: Axes, x: float, y: float, stage: Stage, whole: Stage, share: float) -> None:
    width = COLUMN - 0.22
    low = x - width / 2
    axis.add_patch(plt.Rectangle((low, y - 0.06), width, 0.2, facecolor=PALE, zorder=4))
    axis.add_patch(plt.Rectangle((low, y - 0.06), width * share, 0.2, facecolor=GREY, zorder=5))
    change = "" if stage is whole else f" ({stage.flops / whole.flops - 1:+.0%})"
    words = f"{stage.flops / 1e9:.2f} GFLOP{change}, {stage.parameters / 1e6:.2f} M parameters"
    axis.text(low, y - 0.28, words, va="center", fontsize=7.8)


def draw(found: dict[str, Stage]) -> Figure:
    """The stage above, the variants below."""
    figure = plt.figure(figsize=(15.6, 11.7))
    axis = figure.add_axes((0.012, 0.01, 0.976, 0.98))
    axis.set_xlim(0, 23.85)
    axis.set_ylim(-0.35, 17.2)
    axis.axis("off")
    axis.text(0.1, 16.85, "One stage of the CMIE (models/cmie.py)", fontsize=14, weight="bold", va="center")
    _draw_stage(axis, found["CMIE"])
    axis.text(0.1, 7.55, "What the variants of the ablations change", fontsize=14, weight="bold", va="center")
    key = "Dark: a query. Coloured: what it reads. Numbers: groups × (queries ← keys). Pale: as in the first column"
    axis.text(23.75, 7.55, key, fontsize=8.6, va="center", ha="right", color=GREY)
    _draw_variants(axis, found)
    return figure


def main() -> None:
    own, args = picture_args("draw_cmie.py", __doc__, Path("output/cmie.png"))
    if (args.cmie, args.video_reads, args.proxy_to_video) != ("decoupled", "proxies", True):
        raise ValueError(
            "the picture has the variants beside each other; leave --cmie, --video_reads and --no-proxy_to_video out"
        )
    figure = draw(stages(build(args, [EXPRESSION]), args.num_frames, tuple(own.size)))
    with atomic_path(own.output) as temporary:
        figure.savefig(temporary, dpi=110)
    print(own.output)


if __name__ == "__main__":
    run(main)
