"""The memory of a step of training, as far as it was measured."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

FILE = Path(__file__).with_name("memory.json")


def measured(args: argparse.Namespace) -> str:
    """The memory of a step with these options of main.py, in words.

    A measurement holds for all options but those that ``memory.json`` names, which must be its own. An option that
    main.py does not have is as it was measured.
    """
    content = json.loads(FILE.read_text())
    given = vars(args)
    for found in content["measured"]:
        asked = content["options"] | found["options"]
        if all(given.get(name, value) == value for name, value in asked.items()):
            return (
                f"no GPU was measured; on a CPU the process took {found['gib']:.1f} GiB at its peak, {content['how']} "
                f"({found['command']})"
            )
    return "not measured"
