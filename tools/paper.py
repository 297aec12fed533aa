"""The tables of the paper: which commands make each row, and how our scores compare.

    python tools/paper.py list
    python tools/paper.py show IV.1

Each subcommand is a module of ``tools/paper_tables/`` with two functions: ``add_arguments(parser)`` and ``run(args)``,
which returns an exit code or None.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tools.paper_tables import cost, listing, run, show, small, tables  # noqa: E402
from util.run import cli  # noqa: E402
from util.run.parser import CommandParser

COMMANDS = {"list": listing, "show": show, "run": run, "tables": tables, "cost": cost, "small": small}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The options of a subcommand; ``others`` has the options of main.py, where the subcommand takes them."""
    parser = CommandParser("paper.py", __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=CommandParser)
    for name, module in COMMANDS.items():
        own = commands.add_parser(name, about=module.__doc__, help=module.__doc__.splitlines()[0])
        own.set_defaults(takes_others=False)
        module.add_arguments(own)
    args, args.others = parser.parse_known_args(argv)
    if args.others and not args.takes_others:
        parser.error(f"{args.command} has no option {' '.join(args.others)}")
    return args


def main() -> int | None:
    args = parse_args()
    return COMMANDS[args.command].run(args)


if __name__ == "__main__":
    cli.run(main)
