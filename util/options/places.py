"""The folders and files that options of training and scoring name: looked for before anything slow begins.

Standard library only.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path

# the options with the folders of each data set that --dataset_file names
FOLDERS = {
    "ytvos": ("ytvos_path",),
    "davis": ("davis_path",),
    "a2d": ("a2d_path",),
    "jhmdb": ("jhmdb_path",),
    "mevis": ("mevis_path",),
    "mevis_v2": ("mevis_path",),
    "long_rvos": ("long_rvos_path",),
    **dict.fromkeys(("refcoco", "refcoco+", "refcocog", "all"), ("coco_path",)),
    "joint": ("ytvos_path", "coco_path"),
}


def require_folder(flag: str, folder: str | Path) -> None:
    """Raises FileNotFoundError, with the mend, where the folder of a data set is missing; ``flag`` names it."""
    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"{flag} {folder}: there is no such folder; put the data set there, or give its folder (docs/data.md)"
        )


def require_data(args: argparse.Namespace, given: Collection[str] | None = None) -> None:
    """Raises FileNotFoundError where a folder of the data is missing.

    Args:
        given: names of the options that were given as flags, where a checkpoint may still name the others; None: all
            are settled.
    """
    folders = FOLDERS[args.dataset_file]
    for name in folders[:1] if args.eval else folders:
        if given is None or name in given:
            require_folder(f"--{name}", getattr(args, name))


def require_weights(args: argparse.Namespace, *, new: bool = True) -> None:
    """Raises FileNotFoundError where a checkpoint to resume is missing, or a file that a ``new`` run starts from.

    A name without a suffix and without a folder that exists here is looked up elsewhere.
    """
    for name in ("backbone_pretrained", "pretrained_weights", "resume") if new else ("resume",):
        path = Path(getattr(args, name) or "")
        of_folder = path.parent != Path() and path.parent.is_dir()
        if (path.suffix or of_folder) and not path.is_file():
            raise FileNotFoundError(f"--{name} {path}: there is no such file; see pretrained_weights/README.md")
