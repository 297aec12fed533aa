"""Links to the files of others, instead of copies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def link(source: Path, target: Path, final: Path, root: Path) -> None:
    """Makes a link to a file or folder at ``target``, which is valid once it is moved to ``final``.

    Args:
        root: of the data. If the source lies in it, too, the link is relative, so that the root can be moved.
    """
    source, beside = source.resolve(), final.parent.resolve()
    inside = source.is_relative_to(root.resolve())
    target.symlink_to(os.path.relpath(source, beside) if inside else source, target_is_directory=source.is_dir())


def link_files(files: Mapping[str, Path], target: Path, final: Path, root: Path) -> None:
    """Makes a folder with these files, by the names that they get, as :func:`link`.

    It is a link itself where one folder holds these files under these names, and nothing else but hidden files.
    """
    folders = {path.parent for path in files.values()}
    if len(folders) == 1 and all(path.name == name for name, path in files.items()):
        (folder,) = folders
        if {name for name in os.listdir(folder) if not name.startswith(".")} == files.keys():
            link(folder, target, final, root)
            return
    target.mkdir(parents=True)
    for name, path in files.items():
        link(path, target / name, final / name, root)
