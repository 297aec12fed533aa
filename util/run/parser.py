"""The parser of every command: no abbreviations, ``--version``, and for a wrong option the right one."""

from __future__ import annotations

import argparse
from difflib import get_close_matches
from typing import NoReturn

from util.run.version import VERSION

_UNKNOWN = "unrecognized arguments: "  # how argparse begins its message


class CommandParser(argparse.ArgumentParser):
    """argparse's parser with what all commands have in common.

    Args:
        program: name of the command.
        description: what it does, in one line.
        example: a command that runs as it stands; shown under the options.
        others: of argparse.
    """

    def __init__(self, program: str, description: str, example: str | None = None, **others: object) -> None:
        super().__init__(
            program,
            description=description,
            epilog=example and f"example: {example}",
            allow_abbrev=False,
            **others,
        )
        self.add_argument("--version", action="version", version=f"ProxyFormer {VERSION}")

    def error(self, message: str) -> NoReturn:
        """Ends the program with a message; for an option that does not exist it names the most similar one."""
        unknown = message.removeprefix(_UNKNOWN)
        if unknown != message:
            flags = [word.partition("=")[0] for word in unknown.split() if word.startswith("--")]
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            close = {flag: get_close_matches(flag, known, 1, 0.7) for flag in flags}
            found = [f"{flag}: did you mean {names[0]}?" for flag, names in close.items() if names]
            message = "; ".join([message, *found])
        super().error(message)
