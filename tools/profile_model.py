"""Parameters, FLOPs, time and memory of a model with random weights; by default the paper's model.

    python tools/profile_model.py --num_frames 5 --size 360 640 --train

The words go through an encoder of RoBERTa-base's size with a tokenizer made on the spot; nothing is read or downloaded.
FLOPs are those of convolutions and matrix products; a multiplication and an addition count as two. Inference runs in,
and its FLOPs are those of, the form for inference (models/fast/).
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import RobertaConfig

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models  # noqa: E402
from datasets.collate import collate  # noqa: E402
from engine import Step, train_step  # noqa: E402
from models.fast import for_inference, for_training  # noqa: E402
from models.network import Network  # noqa: E402
from models.proxyformer import ProxyFormer  # noqa: E402
from models.referformer import ReferFormer  # noqa: E402
from models.text_encoder import TextEncoder  # noqa: E402
from opts import parse_train_args  # noqa: E402
from tools.make_tiny_text_encoder import train_tokenizer  # noqa: E402
from util.masks.box_ops import masks_to_boxes  # noqa: E402
from util.run import cli  # noqa: E402
from util.run.counts import counted
from util.run.device import use_device  # noqa: E402
from util.run.memory import peak_bytes  # noqa: E402
from util.run.parser import CommandParser
from util.run.precision import amp_dtype, autocast, in_words, use_float32  # noqa: E402
from util.samples.structures import Batch, Clip, Target  # noqa: E402

EXPRESSION = "the person in a red shirt walking behind the dog"
# The modules that make up each line of the table, by name in the form for inference; ? is a number. A line without
# modules is what the network computes outside of them.
SECTIONS = {
    ProxyFormer: {
        "text": ("text_encoder", "text_proj"),
        "backbone": ("backbone",),
        "cmie": ("video_proj.?", "video_norm", "proxies", "cmie"),
        "segmenter": ("segmenter", "segmenter.mask_decoder.lateral.?"),
        "heads": ("reference_head", "semantics"),
    },
    ReferFormer: {
        "text": ("text_encoder.model", "resizer"),
        "backbone": ("backbone", "map_norms"),
        "transformer": (
            *("input_proj.?", "fusion", "query_embed", "transformer.level_embed", "transformer.reference_points"),
            *("transformer.encoder.?", "transformer.decoder.?"),
        ),
        "pixels": (
            *("pixel_decoder.adapters.?", "pixel_decoder.blocks.?", "pixel_decoder.layers.?"),
            "pixel_decoder.blocks.?.self_attn",  # which is called beside its block
        ),
        "words": (),  # are taken into the projections of the tokens
        "heads": ("class_embed.?", "bbox_embed.?", "mask_head", "pixel_decoder.mask_features"),
    },
}


@dataclass
class Cost:
    """Wall time in seconds and peak memory in bytes: of the process on CPU, of the allocator on GPU."""

    seconds: float
    peak: int

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, peak memory {self.peak / 2**30:.2f} GiB"


def sections(model: Network) -> dict[str, tuple[str, ...]]:
    """Of :data:`SECTIONS` those of a model, in whatever form it is."""
    return next(found for kind, found in SECTIONS.items() if isinstance(model, kind))


def build(args: argparse.Namespace, expressions: list[str]) -> Network:
    """The model of the options with random weights, around an encoder of RoBERTa-base's size."""
    base = dict(vocab_size=50265, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5)
    text_encoder = TextEncoder(
        config=RobertaConfig(**base, bos_token_id=0, pad_token_id=1, eos_token_id=2),
        tokenizer=train_tokenizer(expressions, 400).backend_tokenizer,
        frozen=args.freeze_text_encoder,
        pooler=args.model == "referformer",
    )
    return models.assemble(args, 1, text_encoder)


def make_batch(frames: int, size: tuple[int, int], expressions: list[str], clips: int = 1) -> Batch:
    """Clips of noise, padded as in training, with a different object for each expression."""
    targets = []
    for i in range(len(expressions)):
        masks = torch.zeros(frames, 1, *size, dtype=torch.bool)
        masks[:, :, size[0] // 4 : size[0] // 2, size[1] // (4 + i) : size[1] // 2] = True
        everywhere = torch.ones(frames, 1, dtype=torch.bool)
        label = torch.zeros(1, dtype=torch.long)
        targets.append(Target(masks, masks_to_boxes(masks), label, everywhere, everywhere[:, 0], f"object {i}"))
    names = [str(t) for t in range(frames)]
    return collate(
        [Clip(torch.randn(frames, 3, *size), expressions, targets, f"noise {i}", names, size) for i in range(clips)]
    )


def parameters(model: Network) -> dict[str, int]:
    """Number of parameters of each section."""
    patterns = {section: [p.removesuffix(".?") for p in names] for section, names in sections(model).items()}
    counts = dict.fromkeys(patterns, 0)
    for name, parameter in model.named_parameters():
        section = next(s for s, roots in patterns.items() if any(f"{name}.".startswith(f"{root}.") for root in roots))
        counts[section] += parameter.numel()
    return counts


def flops(model: Network, frames: int, size: tuple[int, int], expressions: list[str]) -> dict[str, int]:
    """FLOPs of each section in one inference without padding."""
    counter = FlopCounterMode(display=False)
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:  # the counter fails on parameters with requires_grad while no gradient is recorded
        parameter.requires_grad_(False)
    # every version of torch counts the products of the plain attention kernel, but not those of the others
    with counter, sdpa_kernel(SDPBackend.MATH):
        infer(model, frames, size, expressions)
    for parameter in trained:
        parameter.requires_grad_(True)
    root = f"{type(model).__name__}."
    by_module = {n.removeprefix(root): sum(ops.values()) for n, ops in counter.get_flop_counts().items()}
    counts = {
        section: sum(n for name, n in by_module.items() if any(fnmatch.fnmatchcase(name, p) for p in patterns))
        for section, patterns in sections(model).items()
    }
    rest = counter.get_total_flops() - sum(counts.values())
    outside = [section for section, patterns in sections(model).items() if not patterns]
    # what is computed outside of modules is little; more is a module in no section, and less one in two
    assert 0 <= rest <= (sum(counts.values()) // 50 if outside else 0), f"{rest} FLOPs are in no section"
    return counts | dict.fromkeys(outside, rest)


@torch.no_grad()
def infer(model: Network, frames: int, size: tuple[int, int], expressions: list[str]) -> torch.Tensor:
    """Mask logits ``[B, T, N, h, w]`` for one clip of noise."""
    device = next(model.parameters()).device
    clip_index = torch.zeros(len(expressions), dtype=torch.long, device=device)
    video = torch.randn(1, frames, 3, *size, device=device)
    return model.eval()(video, expressions, clip_index=clip_index, supervised=False).final.masks


def train(model: Network, args: argparse.Namespace, batch: Batch) -> Step:
    """One step as ``main.py`` takes it."""
    device = next(model.parameters()).device
    amp = amp_dtype(args.amp, device)
    for_training(model)
    return train_step(
        model.train(),
        models.build_criterion(args),
        [batch.to(device)],
        models.build_optimizer(args, model, steps_per_epoch=1)[0],
        device=device,
        scaler=torch.amp.GradScaler(device.type, enabled=amp == torch.float16),
        amp=amp,
        clip_max_norm=args.clip_max_norm,
    )


def measure(run: Callable[[], object], device: torch.device) -> Cost:
    """Time and memory of one call. On a CPU the peak is that of the process so far."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Cost(time.perf_counter() - start, peak_bytes(device))


def table(sizes: dict[str, int], work: dict[str, int]) -> str:
    """Parameters and FLOPs of each section and in total, with shares."""
    lines = [f"{'module':<14}{'parameters':>14}{'share':>8}{'GFLOP':>12}{'share':>8}"]
    for name in (*sizes, "total"):
        p, f = (sum(x.values()) if name == "total" else x[name] for x in (sizes, work))
        p_share, f_share = p / sum(sizes.values()), f / sum(work.values())
        lines.append(f"{name:<14}{p / 1e6:>12.2f} M{p_share:>8.1%}{f / 1e9:>12.1f}{f_share:>8.1%}")
    return "\n".join(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of ``main.py``, such as ``--num_frames``, and three more."""
    parser = CommandParser(
        "profile_model.py",
        __doc__,
        note="Other options are those of main.py: --num_frames, --backbone, --device, --amp …",
    )
    parser.add_argument("--size", type=int, nargs=2, default=(360, 640), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--expressions", nargs="+", default=[EXPRESSION], help="asked of the one clip")
    parser.add_argument("--train", action="store_true", help="also measure one training step")
    own, others = parser.parse_known_args(argv)
    if min(own.size) < 32:
        parser.error(f"--size {own.size[0]} {own.size[1]}: both must be at least 32")
    args = parse_train_args(others)
    vars(args).update(size=tuple(own.size), expressions=own.expressions, train=own.train)
    return args


def main() -> None:
    args = parse_args()
    device = use_device(args.device)
    use_float32(args.float32, device)
    torch.manual_seed(args.seed)
    model = build(args, args.expressions).to(device)
    asked = (args.num_frames, args.size, args.expressions)
    clip = f"{counted(args.num_frames, 'frames')} of {args.size[0]}×{args.size[1]}"
    clip += f", {counted(len(args.expressions), 'expressions')}"
    print(
        f"{args.backbone}, {clip}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}", flush=True
    )
    amp, sizes = amp_dtype(args.amp, device), parameters(model)
    print(f"computed in {in_words(amp, args.float32, device)}", flush=True)
    to_train = copy.deepcopy(model) if args.train else None
    for_inference(model, amp)
    with autocast(device, amp):
        infer(model, *asked)
        inference = measure(lambda: infer(model, *asked), device)
    print(f"inference: {inference}", flush=True)
    with autocast(device, amp):
        print(table(sizes, flops(model, *asked)), flush=True)
    if to_train:
        batch = make_batch(*asked)
        print(f"training step: {measure(lambda: train(to_train, args, batch), device)}")


if __name__ == "__main__":
    cli.run(main)
