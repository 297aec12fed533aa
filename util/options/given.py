"""Which options a command line names. Standard library only."""

from __future__ import annotations

import argparse


def named_options(parser: argparse.ArgumentParser, argv: list[str]) -> dict[str, object]:
    """The options of the parser that a command line names, and their values; those with defaults alone are left out."""
    unset = object()
    seed = argparse.Namespace(**{action.dest: unset for action in parser._actions if action.dest != "help"})
    return {name: value for name, value in vars(parser.parse_known_args(argv, seed)[0]).items() if value is not unset}
