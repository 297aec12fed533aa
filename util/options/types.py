"""Types of option values. Each function is the ``type`` of an argparse option. Standard library only."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable


def positive_int(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def between(lowest: int, highest: int) -> Callable[[str], int]:
    """The type of a whole number between two limits."""

    def whole_number(text: str) -> int:
        value = int(text)
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(f"{text} is not between {lowest} and {highest}")
        return value

    return whole_number


def backbone_name(text: str) -> str:
    """The name of a backbone. timm would take a name with ``:`` or ``/`` for one on a hub."""
    if not re.fullmatch(r"(timm:)?\w[\w.]*", text):
        raise argparse.ArgumentTypeError(f"{text[:60]!r} is no backbone; its name has letters, digits, _ and .")
    return text


def compile_backend(text: str) -> str | None:
    """The name of a backend of torch.compile; None for ``off``."""
    return None if text == "off" else text


def non_negative_int(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def non_negative_float(text: str) -> float:
    """A finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of at least 0")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError("must be above 0")
    return value


def below_one(text: str) -> float:
    """A number from 0 up to, but not including, 1."""
    value = non_negative_float(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"{text} is not below 1")
    return value


def probability(text: str) -> float:
    """A number from 0 to 1."""
    value = non_negative_float(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is above 1")
    return value


def mixing_weight(text: str) -> tuple[str, float]:
    """``NAME=WEIGHT``, a number of at least 0."""
    name, found, weight = text.rpartition("=")
    if not name or not found:
        raise argparse.ArgumentTypeError(f"{text} is not of the form NAME=WEIGHT")
    return name, non_negative_float(weight)
