"""The parser of every command: no abbreviations, a page of help, and the right option named for a wrong one."""

from __future__ import annotations

import argparse
import copy
import re
import sys
import textwrap
from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import NoReturn

from util.run.version import VERSION

# how argparse begins its messages where a flag may be misspelt
_MAY_BE_MISSPELT = ("unrecognized arguments: ", "the following arguments are required: ")
_EXAMPLE = re.compile(r"^ *(?:python|\./scripts/\S+) (?:.*\\\n)*.*", re.MULTILINE)


class _Layout(argparse.HelpFormatter):
    """argparse's layout, in which indented lines of a text stay as they are, and most options take one line."""

    def __init__(self, prog: str, **others: object) -> None:
        super().__init__(prog, **others | {"max_help_position": 32})

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = text.splitlines()
        return "\n".join(line if line.startswith(" ") else textwrap.fill(line, width) for line in lines)


class CommandParser(argparse.ArgumentParser):
    """argparse's parser with what all commands have in common.

    Args:
        prog: name of the command.
        about: what it does, in its first paragraph; lines that begin with ``python`` or ``./scripts/`` are examples for
            its help. Usually the docstring of the command.
        common: names of the most used options, which are all that ``--help`` then shows, in this order and each with
            the first words of its help; ``--help_all`` shows everything. Empty: ``--help`` does.
        note: printed at the end of the help.
        others: of argparse.
    """

    def __init__(self, prog: str, about: str, common: Collection[str] = (), note: str = "", **others: object) -> None:
        description = " ".join(about.split("\n\n")[0].split())
        super().__init__(
            prog, description=description, allow_abbrev=False, formatter_class=_Layout, add_help=False, **others
        )
        self.common, self.note = common, note
        self.examples = [re.sub("^ *", "", line, flags=re.MULTILINE) for line in _EXAMPLE.findall(about)]
        self.add_argument("-h", "--help", action=_Help, help="show this page and exit")
        if common:
            self.add_argument("--help_all", action=_Help, help="show all options, by group, and exit")
        self.add_argument("--version", action="version", version=f"ProxyFormer {VERSION}", help="show it and exit")

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's; remembers the words for :meth:`error`."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def page(self, *, everything: bool) -> str:
        """The text of ``--help``, or with ``everything`` that of ``--help_all``."""
        self._shorten_usage()
        self.epilog = "\n\n".join(part for part in (self._shown_examples(), self.note) if part)
        if everything or not self.common:
            return self.format_help()
        layout = self._get_formatter()
        layout.add_usage(self.usage, (), ())
        layout.add_text(self.description)
        layout.start_section("most used options")
        by_name = {action.dest: action for action in self._actions}
        needed = [name for name, action in by_name.items() if not action.option_strings]
        layout.add_arguments(_in_short(by_name[name]) for name in (*needed, *self.common, "help_all"))
        layout.end_section()
        layout.add_text(self.epilog)
        return layout.format_help()

    def format_usage(self) -> str:
        """What stands above an error: not all options, which would take sixty lines."""
        self._shorten_usage()
        return super().format_usage()

    def _shorten_usage(self) -> None:
        needed = [action for action in self._actions if action.required or not action.option_strings]
        words = [
            f"{a.option_strings[0]} {a.metavar or a.dest.upper()}" if a.option_strings else str(a.metavar or a.dest)
            for a in needed
        ]
        self.usage = " ".join(["%(prog)s", *words, "[options]"])

    def _shown_examples(self) -> str:
        lines = [f"  {line}" for command in self.examples for line in command.replace("\n", "\n    ").splitlines()]
        return "\n".join([f"example{'s' * (len(self.examples) > 1)}:", *lines]) if lines else ""

    def error(self, message: str) -> NoReturn:
        """Ends the program with a message; for an option that does not exist it names the most similar one."""
        if message.startswith(_MAY_BE_MISSPELT):
            flags = [word.partition("=")[0] for word in self._words if word.startswith("--")]
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            close = {flag: get_close_matches(flag, known, 1, 0.7) for flag in flags if flag not in known}
            found = [f"{flag}: did you mean {names[0]}?" for flag, names in close.items() if names]
            message = "; ".join([message, *found])
        super().error(message)


def _in_short(action: argparse.Action) -> argparse.Action:
    short = copy.copy(action)
    short.help = (action.help or "").partition(";")[0]
    return short


class _Help(argparse.Action):
    """``--help`` and ``--help_all``."""

    def __init__(self, option_strings: list[str], dest: str, **others: object) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, **others)

    def __call__(self, parser: CommandParser, namespace: object, values: object, flag: str | None = None) -> None:
        print(parser.page(everything=flag == "--help_all"), end="")
        parser.exit()
