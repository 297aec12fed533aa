"""The layers of the source tree, read from its imports; which files read options; file lengths; requirements."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.helpers import ROOT

LINES = 450

# what each package or module may import of this repository, besides itself
LAYERS = {
    "opts": {"util"},
    "util": set(),
    "davis2017": {"util"},
    "models": {"util"},
    "datasets": {"util"},
    "engine": {"util", "davis2017", "models", "datasets"},
    "tasks": {"opts", "util", "davis2017", "models", "datasets", "engine"},
}
# what each room of util may import of the others
ROOMS = {
    "options": set(),
    "files": set(),
    "run": {"files"},
    "weights": {"files", "run"},
    "masks": {"files", "run"},
    "samples": {"run"},
    "video": {"files", "run", "masks"},
}
# everything else at the top is an entry script, which none of these and no other entry script imports
LIBRARY = set(LAYERS)
# the app draws its examples with the generator, and scripts/check_options.py reads the options of the demo
MAY_IMPORT_TOOLS = {"tools", "app", "scripts"}
OPTION_READERS = {
    "models/__init__.py",
    "models/published.py",  # which reads the options that ReferFormer saved
    "datasets/__init__.py",
    "datasets/sets.py",
    "util/options/data.py",
    "util/options/given.py",
    "util/options/inference.py",
    "util/options/losses.py",
    "util/options/places.py",
    "util/options/precision.py",
    "util/options/ranks.py",
    "util/options/saved.py",
    "util/options/start.py",
    "util/options/types.py",
    "util/options/variants.py",
    "util/options/referformer_flags.py",
    "util/run/parser.py",  # of every command
    "util/weights/checkpoint.py",  # which reads the options that other programs saved
}
# what opts.py is made of, which takes no more than the standard library
OPTIONS = ("data", "given", "inference", "losses", "precision", "presets", "ranks", "referformer_flags", "saved")
OPTIONS += ("start", "types", "variants")
OF_OPTS = (
    "opts.py",
    *(f"util/run/{name}.py" for name in ("cores", "parser", "version")),
    *(f"util/options/{name}.py" for name in OPTIONS),
)

# distributions whose module has another name
MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL"}


def _sources() -> dict[str, str]:
    """Path relative to the repository and text of every Python file of it."""
    places = [
        place
        for place in ROOT.iterdir()
        if not place.name.startswith(".")
        and place.name not in ("data", "output", "pretrained_weights")
        and not (place / "pyvenv.cfg").exists()
    ]
    paths = [path for place in places for path in ([place] if place.is_file() else place.rglob("*.py"))]
    return {str(path.relative_to(ROOT)): path.read_text() for path in paths if path.suffix == ".py"}


SOURCES = _sources()
OWN = {Path(path).parts[0].removesuffix(".py") for path in SOURCES} | {"scripts"}


def _imports(source: str) -> set[str]:
    """Top-level names that a file imports, anywhere in it; relative imports are of its own package."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def _forbidden(path: str, source: str, own: set[str] = OWN) -> set[str]:
    """What a file imports of this repository against the layers, or outside of the standard library where it must."""
    home = Path(path).parts[0].removesuffix(".py")
    imported = _imports(source)
    if home == "tests":
        return set()
    allowed = LAYERS.get(home, LIBRARY | ({"tools"} if home in MAY_IMPORT_TOOLS else set()))
    forbidden = (imported & own) - allowed - ({home} if home in own else set())
    if path in OF_OPTS:
        forbidden |= imported - sys.stdlib_module_names - {"util"}
    return forbidden


def _beyond_room(path: str, source: str) -> set[str]:
    """The rooms of util that a file in one of them imports against :data:`ROOMS`."""
    home = Path(path).parts[1]
    if home not in ROOMS:  # util/__init__.py
        return _rooms(source)
    return _rooms(source) - ROOMS[home] - {home}


def _rooms(source: str) -> set[str]:
    return {name.split(".")[1] for name in _modules(source) if name.startswith("util.")}


def _modules(source: str) -> set[str]:
    """Full names of what a file imports: of ``from a.b import c`` both ``a.b`` and ``a.b.c``."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def _own_files(path: str, source: str) -> set[str]:
    """The files of the repository that a file imports, but for its own package."""
    places = [name.replace(".", "/") for name in _modules(source)]
    files = {file for place in places for file in (f"{place}.py", f"{place}/__init__.py") if file in SOURCES}
    return files - {str(Path(path).parent / "__init__.py"), path}


def _reads_options(source: str) -> bool:
    """Whether a file parses command lines, takes values from an ``args`` or hands it on, or calls a function of the
    builders that has to do with one, under whatever name."""
    nodes = list(ast.walk(ast.parse(source)))
    used = [node.value for node in nodes if isinstance(node, ast.Attribute)]
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        used += [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg)]
    named = {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute)} | _modules(source)
    return (
        "argparse" in _imports(source)
        or any(isinstance(value, ast.Name) and value.id in ("args", "options") for value in used)
        or bool(named & OF_BUILDERS)
    )


def _with_options() -> set[str]:
    """The functions of the two builders that take or return a Namespace, as ``models.build_model``."""
    found = set()
    for package in ("models", "datasets"):
        for node in ast.walk(ast.parse(SOURCES[f"{package}/__init__.py"])):
            if isinstance(node, ast.FunctionDef) and any(
                "Namespace" in ast.unparse(part) for part in (node.args, node.returns) if part
            ):
                found.add(f"{package}.{node.name}")
    return found


OF_BUILDERS = _with_options()


def _offenders(found: dict[str, object]) -> dict[str, object]:
    """Of what was found about each file, what is not empty."""
    assert found
    return {path: what for path, what in found.items() if what}


def test_layers():
    assert not _offenders({path: _forbidden(path, source) for path, source in SOURCES.items()})


def test_rooms():
    inside = {path: source for path, source in SOURCES.items() if path.startswith("util/")}
    assert not _offenders({path: _beyond_room(path, source) for path, source in inside.items()})


def test_no_circles():
    """Imports within functions count, too: a circle that is closed late is still one."""
    graph = {path: _own_files(path, source) for path, source in SOURCES.items() if not path.startswith("tests/")}
    assert sum(map(len, graph.values())) > len(graph)
    list(TopologicalSorter(graph).static_order())


def test_options_are_read_at_the_door():
    below = ("models/", "datasets/", "util/", "tasks/", "engine")
    inside = {path for path in SOURCES if path.startswith(below)} - OPTION_READERS
    assert not _offenders({path: _reads_options(SOURCES[path]) for path in inside})


def _modules_after(imported: str) -> set[str]:
    """All modules that a new process has once it has imported these."""
    program = f"import sys, {imported}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_scoring_needs_no_torch():
    """Worker processes import the script again, and torch would cost each of them five seconds."""
    assert "torch" not in _modules_after("eval_ytvos, eval_davis, eval_mevis, eval_long_rvos")


def test_options_need_the_standard_library_alone():
    """The files of util, too, that it imports by whatever way; their package imports OpenCV."""
    modules = _modules_after("opts")
    files = {f"{name.replace('.', '/')}.py" for name in modules if name.startswith("util.")} & set(SOURCES)
    assert files and files | {"opts.py"} == set(OF_OPTS)
    assert not {name.partition(".")[0] for name in modules} & ((OWN - {"opts", "util"}) | {"torch", "PIL", "scipy"})


def test_the_network_knows_no_faster_form():
    """The files that are the paper import each other, and no file of models/fast."""
    seen, todo = set(), ["models/proxyformer.py", "models/backbone.py"]
    while todo:
        path = todo.pop()
        seen.add(path)
        todo += [file for file in _own_files(path, SOURCES[path]) - seen if file.startswith("models/")]
    assert {"models/cmie.py", "models/mask_decoder.py", "models/heads.py", "models/video_swin.py"} <= seen
    assert not [path for path in seen if path.startswith("models/fast/")]


def test_no_file_is_long():
    lengths = {path: len(source.splitlines()) for path, source in SOURCES.items()}
    assert not _offenders({path: max(length - LINES, 0) for path, length in lengths.items()})


@pytest.mark.parametrize(
    ("path", "source", "caught"),
    [
        ("models/cmie.py", "def f():\n    from datasets.base import Clip", {"datasets"}),
        ("datasets/base.py", "import models.losses as losses", {"models"}),
        ("util/run/log.py", "import engine", {"engine"}),
        ("util/run/log.py", "from util import dist", set()),
        ("davis2017/metrics.py", "from models import Predictor\nfrom util import dist", {"models"}),
        ("engine.py", "import opts, models, datasets, davis2017, util, main", {"opts", "main"}),
        ("opts.py", "import torch, argparse", {"torch"}),
        ("main.py", "import eval_ytvos, engine, tools.plot, scripts", {"eval_ytvos", "tools", "scripts"}),
        ("engine.py", "from tests import helpers", {"tests"}),
        ("tools/data/new.py", "from tools.plot import new_folder\nimport opts, main", {"main"}),
        ("app.py", "import tasks.page, tools.data.make_synthetic, main", {"main"}),
        ("tasks/page.py", "import models, tools, app", {"tools", "app"}),
        ("models/heads.py", "from . import losses", set()),
    ],
)
def test_the_layer_rule_catches(path, source, caught):
    assert _forbidden(path, source) == caught


@pytest.mark.parametrize(
    ("path", "source", "caught"),
    [
        ("util/files/new.py", "def f():\n    from util.run import dist", {"run"}),
        ("util/run/log.py", "from util.files.writing import atomic_path\nfrom util.run import dist", set()),
        ("util/masks/rle.py", "import util.video.pictures as pictures", {"video"}),
        ("util/__init__.py", "from util.run import dist", {"run"}),
    ],
)
def test_the_room_rule_catches(path, source, caught):
    assert _beyond_room(path, source) == caught


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("import argparse", True),
        ("def f(args):\n    return args.lr", True),
        ("def f(*args):\n    return args[0]", False),
        ("def f(*args, **options):\n    return g(*args, **options)", False),
        ("def f(args):\n    return vars(args)", True),
        ("def f(args):\n    return g(settings=args)", True),
        ("import models\ndef f(trained):\n    return models.predictor_settings(trained)", True),
        ("import models\nmodel, trained = models.load_with_options('c.pth')", True),
        ("from datasets import eval_set", True),
        ("import datasets\ndef f(trained, asked):\n    return datasets.asked_set(trained, asked, 'davis')", False),
    ],
)
def test_the_options_rule_catches(source, reads):
    assert _reads_options(source) is reads


def test_the_tree_is_seen():
    assert {"main", "tests", "tools", "models", "datasets"} <= OWN and len(SOURCES) > 40


def _pins(name: str) -> dict[str, str]:
    """Distribution to version of a requirements file; asserts that every line pins one."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r "))]
    matches = [re.fullmatch(r"([\w-]+)==([\d.]+)", line) for line in lines]
    assert all(matches), lines
    return {match[1]: match[2] for match in matches}


def test_everything_imported_is_required_and_pinned():
    needed = _pins("requirements.txt")
    development = _pins("requirements-dev.txt")
    app = _pins("requirements-app.txt")
    shipped = {name for path in SOURCES if not path.startswith("tests/") for name in _imports(SOURCES[path])}
    tested = {name for path in SOURCES if path.startswith("tests/") for name in _imports(SOURCES[path])}
    known = OWN | sys.stdlib_module_names | {MODULES.get(name, name) for name in needed}
    assert not shipped - known - set(app)
    assert not [path for path in SOURCES if path != "app.py" and "gradio" in _imports(SOURCES[path])]
    assert not tested - known - set(development)
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()
