"""Checkpoints: plain data only, written whole or not at all, read strictly."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from util.files.writing import atomic_path
from util.run.cli import cause
from util.run.version import VERSION
from util.weights.before_reading import check_before_reading
from util.weights.hub import located, why_not_a_name
from util.weights.names import unwrapped

FORMAT = 1
EXPORTED = ".safetensors"
DESCRIPTION = ("options", "num_classes", "text_encoder")  # the entries from which the model is built
CALIBRATION = "calibration"  # the entry, if there is one, that makes probabilities of scores
BEST = "best"  # the entry, if there is one, with the best score of the run
TRAINED_ON = "trained_on"  # the entry, if there is one, of util/weights/history.py
MOST_CLASSES = 10_000
MOST_TRAININGS, LONGEST_WORDS = 10, 300  # of such an entry; characters
_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.bool}
_HEADER = "proxyformer"
_MOST_VALUES, _DEEPEST = 100_000, 20  # of options and configurations; lists and dictionaries in each other


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Writes a checkpoint beside ``path`` and moves it there once it is on the disk.

    Raises:
        OSError: it cannot be written; names it and the mend.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        output = _Output(file)
        try:
            torch.save({"format": FORMAT, **content, "version": VERSION}, output)
        except RuntimeError:
            raise output.error or sys.exception() from None
        file.flush()
        os.fsync(file.fileno())


class _Output:
    """A file that remembers why writing failed: torch reports a full disk as "unexpected pos 768 vs 662"."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.error = file, None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


def load(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint, or weights that :func:`export` wrote, onto the CPU: tensors and plain data, never code.

    Raises:
        FileNotFoundError, ValueError: it is missing, damaged, or a file of another program.
    """
    return checked(read(path), path)


def read(path: str | Path) -> Any:
    """The content of a checkpoint of this or another program, which is not checked yet.

    Args:
        path: of a file, or the name of weights on the Hugging Face hub (:func:`util.weights.hub.located`).

    Raises:
        FileNotFoundError, ValueError: it is missing, damaged, or holds more than plain data.
    """
    path = located(path)
    if path.is_dir():
        raise FileNotFoundError(f"the checkpoint {path} is a folder; give a file in it, such as checkpoint.pth")
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint {path} does not exist{why_not_a_name(path)}")
    return _read_exported(path) if path.suffix == EXPORTED else read_plain(path, f"the checkpoint {path}")


def checked(content: Any, path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint of this program as it is; raises ValueError, naming the path, for anything else."""
    number = content.get("format") if isinstance(content, dict) else None
    if type(number) is not int or number != FORMAT:
        raise ValueError(f"{path} is not a checkpoint of this program (no format number {FORMAT} in it)")
    if fault := _fault(content):
        raise ValueError(f"the checkpoint {path} is damaged: {fault}")
    return content


def _fault(content: dict) -> str | None:
    """The part of a checkpoint that is missing or has another form; None where all are as :func:`save` gets them.

    The values of the options, and the form of the text encoder, are checked where they are used.
    """
    options, classes, text = (content.get(part) for part in DESCRIPTION)
    if not isinstance(options, dict) or not all(isinstance(name, str) for name in options):
        return "it holds no options"
    if not _is_json(options):
        return "its options are no plain data"
    if type(classes) is not int or not 0 < classes <= MOST_CLASSES:
        return "it holds no number of classes"
    forms = {"config": dict, "tokenizer": str}
    if not isinstance(text, dict) or not all(isinstance(text.get(part), form) for part, form in forms.items()):
        return "it holds no text encoder"
    if not _is_json(text["config"]):
        return "the configuration of its text encoder is no plain data"
    curve = content.get(CALIBRATION)
    if curve is not None and not (isinstance(curve, dict) and curve.keys() == {"slope", "offset"}):
        return "its calibration is no curve"
    if curve is not None and not all(type(value) is float and math.isfinite(value) for value in curve.values()):
        return "its calibration has no finite numbers"
    if content.get(TRAINED_ON) is not None and not _is_history(content[TRAINED_ON]):
        return "what it was trained on is not told in words"
    for part in ("model", "average"):
        weights = content.get(part)
        if part == "average" and weights is None:
            continue
        if not isinstance(weights, dict) or not weights:
            return f"it holds no weights ({part})"
        for name, value in weights.items():
            if not isinstance(name, str) or not is_plain(value):
                return f"{str(name)[:80]!r} of its weights is no plain tensor of numbers"
    return None


def _is_history(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"data", "knows"} or not isinstance(value["data"], list):
        return False
    words = value["data"] + ([] if value["knows"] is None else [value["knows"]])
    return 0 < len(value["data"]) <= MOST_TRAININGS and all(
        isinstance(text, str) and text.isprintable() and 0 < len(text) <= LONGEST_WORDS for text in words
    )


def _is_json(value: object) -> bool:
    """Whether a value can be written as JSON of a moderate size. A list in a pickle may hold another one many times."""
    left, seen = [(value, 0)], 0
    while left:
        (one, depth), seen = left.pop(), seen + 1
        if seen > _MOST_VALUES or depth > _DEEPEST:
            return False
        if isinstance(one, dict):
            if not all(isinstance(key, str | int) for key in one):
                return False
            left += ((inner, depth + 1) for inner in one.values())
        elif isinstance(one, list | tuple):
            left += ((inner, depth + 1) for inner in one)
        elif not (one is None or isinstance(one, str | int) or (isinstance(one, float) and math.isfinite(one))):
            return False
    return True


def _is_finite(value: torch.Tensor) -> bool:
    if not value.is_floating_point() or not value.numel():
        return True
    return all(bool(extreme.isfinite()) for extreme in torch.aminmax(value))  # NaN is among its extremes


def is_plain(value: object) -> bool:
    """Whether this is a dense tensor in memory, of a type that models have."""
    return (
        type(value) in (torch.Tensor, nn.Parameter)
        and value.layout is torch.strided
        and not value.is_nested
        and value.device.type == "cpu"
        and value.dtype in _DTYPES
    )


def export(path: str | Path, content: dict[str, Any], dtype: torch.dtype) -> None:
    """Writes the part of a checkpoint that inference needs to a safetensors file, whose header describes the model.

    Args:
        path: ends in ``.safetensors``.
        content: of a checkpoint.
        dtype: type of the stored floating-point weights.

    Raises:
        ValueError: the path has another ending, or a weight is too large for ``dtype``.
        OSError: the file cannot be written; names it and the mend.
    """
    path = Path(path)
    if path.suffix != EXPORTED:
        raise ValueError(f"{path}: exported weights end in {EXPORTED}")
    state = {k: (v.to(dtype) if v.is_floating_point() else v).contiguous() for k, v in best_weights(content).items()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{name} has values that {dtype} cannot hold; choose another type")
    described = {key: content[key] for key in ("format", *DESCRIPTION, CALIBRATION, TRAINED_ON) if key in content}
    if isinstance(best := content.get(BEST), float) and math.isfinite(best):
        described[BEST] = best
    described["version"] = VERSION
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_bytes(state, metadata={_HEADER: json.dumps(described)}))


def _read_exported(path: Path) -> Any:
    try:
        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get(_HEADER, "null"))
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (ValueError, OSError, RecursionError, SafetensorError) as error:
        raise ValueError(f"the weights {path} cannot be read; the file is cut short or damaged: {error}") from error
    if not isinstance(described, dict) or not described.keys() >= set(DESCRIPTION):
        return None
    return described | {"model": {k: v.float() if v.is_floating_point() else v for k, v in state.items()}}


def read_plain(path: Path, what: str) -> Any:
    """Tensors and plain data that ``torch.save`` wrote, onto the CPU; never code.

    An ``argparse.Namespace`` is plain data, too: ReferFormer's checkpoints hold their options as one (``"args"`` in its
    main.py).

    Raises:
        ValueError: naming ``what``: the file is damaged, of another kind, or holds code.
    """
    try:
        check_before_reading(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise almost any exception, IndexError and struct.error among them
        why = cause(error)
        if why.startswith("Weights only load failed"):
            why = "it holds more than tensors and plain data"
        raise ValueError(f"{what} cannot be read; it is cut short or not a file of plain weights: {why}") from error


def best_weights(content: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights to use: the averaged ones if the checkpoint has some, else those of the last step."""
    return content.get("average") or content["model"]


def fingerprint(path: str | Path) -> str:
    """Digest of a file's content, which tells two checkpoints apart even if their names are the same."""
    with located(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_fingerprint(state: dict[str, torch.Tensor]) -> str:
    """Digest of weights in memory, by which masks of other weights are told apart."""
    digest = hashlib.sha256()
    for name, value in state.items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_weights(model: nn.Module, state: dict[str, torch.Tensor], source: str | Path) -> None:
    """Loads all parameters or none; their names may have the prefixes of wrappers (:mod:`util.weights.names`).

    Raises:
        ValueError: as :func:`check_weights`.
    """
    model.load_state_dict(check_weights(model.state_dict(), state, source))


def check_weights(
    expected: dict[str, torch.Tensor], state: dict[str, torch.Tensor], source: str | Path
) -> dict[str, torch.Tensor]:
    """The weights under the names that a model has for them; ``expected`` may be without memory (device "meta").

    Raises:
        ValueError: naming ``source`` and the parameters that are missing, unknown, doubled, of another shape, no dense
            tensors, or have values that are not finite.
    """
    if odd := [name for name, value in state.items() if not is_plain(value)]:
        raise ValueError(f"the weights of {source} do not fit; {str(odd[0])[:80]!r} is no plain tensor of numbers")
    state = unwrapped(state, expected, source)
    problems = {
        "missing": sorted(expected.keys() - state.keys()),
        "not of this model": sorted(state.keys() - expected.keys()),
        "of another shape": [
            f"{name} {tuple(state[name].shape)}, not {tuple(expected[name].shape)}"
            for name in sorted(expected.keys() & state.keys())
            if state[name].shape != expected[name].shape
        ],
    }
    listed = [
        f"{what}: {', '.join(names[:6])}{f' and {len(names) - 6} more' if len(names) > 6 else ''}"
        for what, names in problems.items()
        if names
    ]
    if listed:
        raise ValueError(f"the weights of {source} do not fit; {'; '.join(listed)}")
    broken = [name for name, value in state.items() if not _is_finite(value)]
    if broken:
        raise ValueError(
            f"the weights of {source} are broken: {len(broken)} tensors hold values that are not finite, the first "
            f"{broken[0]}; take another file"
        )
    return state
