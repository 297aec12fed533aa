"""Files in the folder of a data set by which it is known that it is no published one."""

from __future__ import annotations

from pathlib import Path

from util.files.reading import read_json

GENERATED = "synthetic.json"  # of tools/data/make_synthetic.py
CONVERTED = Path("meta_expressions", "converted_from.json")  # of tools/data/convert_own.py, and of that of Ref-DAVIS17


def generated_content(root: Path) -> str | None:
    """What a generated data set shows, in words; None where the data set is not generated.

    Sets whose record does not tell it, as those of earlier versions, show "scenes of moving shapes".
    """
    if not (root / GENERATED).is_file():
        return None
    try:
        shows = read_json(root / GENERATED)["shows"]
    except (OSError, ValueError, KeyError, TypeError):
        shows = None
    return shows if isinstance(shows, str) else "scenes of moving shapes"
