"""Compares models/referformer.py with outputs of ReferFormer's own code, on weights that are functions of their names.

    python tools/compare_referformer.py outputs.pt --text_encoder roberta-base

The file holds for each configuration the names and shapes of ReferFormer's parameters, the seeds and sizes of the
frames, the texts, and what its code gives in evaluation. Printed is the largest difference of each output, as a share
of the output's range. Exit code 1: one is above --tolerance.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import models  # noqa: E402
import opts  # noqa: E402
from models.published import as_checkpoint  # noqa: E402
from models.referformer import ReferFormer  # noqa: E402
from util.options.saved import OF_REFERFORMER  # noqa: E402
from util.run.cli import run  # noqa: E402
from util.run.device import use_device  # noqa: E402
from util.run.parser import CommandParser
from util.run.precision import use_float32  # noqa: E402
from util.weights import checkpoint  # noqa: E402

OUTPUTS = {"pred_logits", "pred_boxes", "pred_masks", "hs", "init_reference", "inter_references", "memory"}
OUTPUTS |= {"mask_features"}
OF_HALF = 5  # times the tolerance, for outputs that are stored in half precision


def weight(name: str, shape: tuple[int, ...]) -> Tensor:
    """The parameter that a file of outputs was made with: random numbers whose seed is the name."""
    noise = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF).standard_normal(shape).astype(np.float32)
    if len(shape) > 1:
        return torch.from_numpy((noise / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
    if name.endswith("running_var"):
        return torch.from_numpy(1 + 0.1 * np.abs(noise))
    if name.endswith("sampling_offsets.bias"):
        return torch.from_numpy(2 * noise)
    return torch.from_numpy(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)


def frames(seeds: list[int], sizes: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor | None]:
    """Normalised videos ``[V, T, 3, H, W]`` of noise, padded to the largest, and their real part ``[V, H, W]``."""
    height, width = (max(size[axis] for size in sizes) for axis in (1, 2))
    video = torch.zeros(len(sizes), sizes[0][0], 3, height, width)
    valid = torch.zeros(len(sizes), height, width, dtype=torch.bool)
    for i, (seed, (t, h, w)) in enumerate(zip(seeds, sizes, strict=True)):
        noise = np.random.RandomState(seed).standard_normal((t, 3, h, w)).astype(np.float32)
        video[i, :, :, :h, :w] = torch.from_numpy(noise)
        valid[i, :h, :w] = True
    return video, None if valid.all() else valid


def asked(flags: Sequence[str]) -> dict[str, object]:
    """The model's options among ReferFormer's flags. Only some of its own are not seen in shapes: they get defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    opts.add_model_options(parser)
    parser.set_defaults(**dict.fromkeys(opts.model_options()) | OF_REFERFORMER)
    return vars(parser.parse_known_args(list(flags))[0])


def build(case: Mapping, text_encoder: str, source: object) -> ReferFormer:
    """The model of a configuration, through the import of published files."""
    state = {
        name: weight(name, tuple(shape))
        for name, (shape, dtype) in case["shapes"].items()
        if not dtype.startswith("int")
    }
    given = asked(case["flags"]) if "flags" in case else {}
    content = as_checkpoint({"model": state}, source, text_encoder, given)
    return models.restore_model(checkpoint.checked(content, source), source).eval()


@torch.inference_mode()
def outputs(model: ReferFormer, case: Mapping) -> dict[str, Tensor | list[Tensor]]:
    """What the model gives for a configuration, under ReferFormer's names."""
    found: dict[str, Tensor | list[Tensor]] = {}
    encode, decode = model.transformer.encode, model.transformer.decode

    def encoded(*arguments):
        maps = encode(*arguments)
        found["memory"] = maps.split()[:3]
        return maps

    def decoded(*arguments):
        states, references = decode(*arguments)
        found["hs"], found["init_reference"] = torch.stack(states), references[0]
        found["inter_references"] = torch.stack(references[1:])
        return states, references

    model.transformer.encode, model.transformer.decode = encoded, decoded
    hook = model.pixel_decoder.register_forward_hook(
        lambda _, __, features: found.update(mask_features=features.flatten(0, 1))
    )
    try:
        video, valid = frames(case["frame_seeds"], case["frame_sizes"])
        scored = case.get("scored_frame")
        device = next(model.parameters()).device
        video, valid = video.to(device), None if valid is None else valid.to(device)
        output = model(video, list(case["texts"]), valid, frames=None if scored is None else [scored], supervised=False)
    finally:
        model.transformer.encode, model.transformer.decode = encode, decode
        hook.remove()
    final = output.final
    return found | {"pred_logits": final.logits, "pred_boxes": final.boxes, "pred_masks": final.masks}


def difference(ours: Tensor | list[Tensor], theirs: Tensor | list[Tensor]) -> float:
    """The largest difference as a share of the range of ``theirs``; infinite where the shapes differ."""
    if isinstance(theirs, list | tuple):
        return max(difference(a, b) for a, b in zip(ours, theirs, strict=True))
    if ours.shape != theirs.shape:
        return float("inf")
    theirs = theirs.float()
    largest, range_ = (ours.cpu() - theirs).abs().max(), theirs.max() - theirs.min()
    return float(largest / (range_ if range_ > 0 else theirs.abs().max()))


def is_half(value: Tensor | list[Tensor]) -> bool:
    return (value[0] if isinstance(value, list | tuple) else value).dtype == torch.float16


def _fault(cases: object) -> str | None:
    if not isinstance(cases, Mapping) or not all(isinstance(case, Mapping) for case in cases.values()):
        return "it is no dictionary of configurations"
    for name, case in cases.items():
        if missing := {"shapes", "frame_seeds", "frame_sizes", "texts"} - case.keys():
            return f"{name} lacks {', '.join(sorted(missing))}"
        if not case.keys() & OUTPUTS:
            return f"{name} has none of {', '.join(sorted(OUTPUTS))}"
    return None


def main() -> int:
    parser = CommandParser("compare_referformer.py", __doc__)
    parser.add_argument("outputs", type=Path, metavar="OUTPUTS.pt")
    parser.add_argument("--text_encoder", required=True, help="directory of the RoBERTa of the outputs")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="share of an output's range; 5 times in half")
    parser.add_argument("--device", help="cuda, cuda:1, cpu; default: a GPU when there is one")
    args = parser.parse_args()
    device = use_device(args.device)
    use_float32("ieee", device)
    cases, failed = checkpoint.read_plain(args.outputs, str(args.outputs)), 0
    if fault := _fault(cases):
        raise ValueError(f"{args.outputs} holds no outputs of ReferFormer: {fault}")
    for name, case in cases.items():
        found = outputs(build(case, args.text_encoder, f"{args.outputs}: {name}").to(device), case)
        for kind in [kind for kind in found if kind in case]:
            share = difference(found[kind], case[kind])
            limit = args.tolerance * (OF_HALF if is_half(case[kind]) else 1)
            failed += not share <= limit
            print(f"{name}  {kind:<16}  {share:.1e}{'' if share <= limit else f'  above {limit:.0e}'}", flush=True)
    print(f"{len(cases)} configurations; {failed or 'no'} outputs differ")
    return int(failed > 0)


if __name__ == "__main__":
    run(main)
