"""Prints the rows of the paper's tables, and whether a command makes each."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", nargs="*", help="numbers of tables, such as IV; default: all")


def run(args: argparse.Namespace) -> None:
    print("no rows yet")
