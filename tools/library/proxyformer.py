"""ProxyFormer as a library, beside other packages that are called ``datasets``, ``models`` or ``util``.

    sys.path.append("/path/to/ProxyFormer/tools/library")
    from proxyformer import load_predictor

Other packages have the same names as those of this repository. This module imports the repository's packages without
occupying their names: afterwards ``import models`` gives what it gave before.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

_ROOT = str(Path(__file__).resolve().parents[2])
_OWN = ("models", "util")  # these two import no other package of the repository


class _Finder(MetaPathFinder):
    """Finds the repository's own packages, whatever comes first in ``sys.path``."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [_ROOT]) if name in _OWN else None


def _taken_out() -> dict[str, ModuleType]:
    """Removes all modules of these package names from ``sys.modules``, and returns them."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in _OWN}


def _import_models() -> ModuleType:
    theirs, finder = _taken_out(), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("models")
    finally:
        sys.meta_path.remove(finder)
        _taken_out()
        sys.modules.update(theirs)


_models = _import_models()
Predictor = _models.Predictor
load_predictor = _models.load_predictor
look_inside = _models.look_inside

__all__ = ["Predictor", "load_predictor", "look_inside"]
