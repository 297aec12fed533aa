"""docs/tutorial.ipynb: it runs from top to bottom, with small numbers, and its stored outputs are whole and clean."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from io import BytesIO

import pytest
from PIL import Image

from tests.helpers import ROOT
from tools.data.synthetic_scene import NEW_SHAPES

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"
MOST_BYTES = 1_500_000
SMALL = {
    "TUTORIAL_VIDEOS": "4",
    "TUTORIAL_WARMUP": "0",
    "TUTORIAL_HELD_OUT": "4",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
}
# where a machine keeps its files, and what a bar of progress leaves
TRACES = re.compile(r"/(home|root|tmp|work|usr|opt|mnt|Users|var)/|[A-Z]:\\|\d+%\||it/s|s/it|\x1b\[")
# what each cell with code shows, by its name
SHOWN = {
    "numbers": r"videos to train on",
    "generate": r"train: \d+ videos",
    "masks": 3,
    "before": r"^J&F of the new things [01]\.\d+, of the known ones",
    "train": r"^\d+ seconds$",
    "after": 2,
    "inside_before": 1,
    "inside_after": 1,
    "shares": r"(?s)^before .*\nafter ",
}


def cells(notebook: dict) -> dict[str, dict]:
    return {cell["id"]: cell for cell in notebook["cells"] if cell["cell_type"] == "code"}


def printed(cell: dict) -> str:
    texts = (output["text"] for output in cell["outputs"] if output["output_type"] == "stream")
    return "".join("".join(text) for text in texts)


def pictures(cell: dict) -> list[Image.Image]:
    data = [output["data"] for output in cell["outputs"] if "data" in output]
    return [Image.open(BytesIO(b64decode(found.get("image/png") or found["image/jpeg"]))) for found in data]


def check_outputs(notebook: dict) -> None:
    """Every cell with code ran, in order, without error, and shows what it should."""
    coded = cells(notebook)
    assert list(coded) == list(SHOWN)
    assert [cell["execution_count"] for cell in coded.values()] == list(range(1, len(coded) + 1))
    for name, cell in coded.items():
        assert not [output for output in cell["outputs"] if output["output_type"] == "error"], name
        if isinstance(SHOWN[name], int):
            found = pictures(cell)
            assert len(found) == SHOWN[name] and all(picture.width >= 600 for picture in found), name
        else:
            assert re.search(SHOWN[name], printed(cell), re.MULTILINE), (name, printed(cell))
    scores = re.findall(r"^(\w+) things +(\S+) +(\S+)$", printed(coded["after"]), re.MULTILINE)
    assert [group for group, *_ in scores] == ["new", "known"]
    assert all(0 <= float(value) <= 1 for _, *values in scores for value in values)


def test_stored_outputs():
    stored = NOTEBOOK.read_text()
    assert len(stored) <= MOST_BYTES
    notebook = json.loads(stored)
    check_outputs(notebook)
    coded = cells(notebook)
    for name, cell in coded.items():
        assert not TRACES.search(printed(cell)), name
    # what the page says: minutes of training, of things that the generator draws today
    assert int(printed(coded["train"]).split()[0]) < 240
    assert set(re.findall(r'"(\w+)"', printed(coded["shares"]))) <= NEW_SHAPES.keys()


def test_links():
    text = "".join("".join(cell["source"]) for cell in json.loads(NOTEBOOK.read_text())["cells"])
    links = re.findall(r"\]\(([^)#]+)", text)
    assert links and not [link for link in links if not (NOTEBOOK.parent / link).is_file()]


def test_it_runs(tmp_path, monkeypatch):
    """In a kernel of its own, as Jupyter runs it: in the folder of the notebook."""
    nbclient = pytest.importorskip("nbclient", reason="the notebook runs with nbclient and ipykernel")
    pytest.importorskip("ipykernel", reason="the notebook runs with nbclient and ipykernel")
    nbformat = pytest.importorskip("nbformat")
    own = {"TUTORIAL_FOLDER": str(tmp_path / "run"), "IPYTHONDIR": str(tmp_path), "JUPYTER_RUNTIME_DIR": str(tmp_path)}
    for name, value in (SMALL | own).items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    for cell in cells(notebook).values():
        cell["outputs"], cell["execution_count"] = [], None
    nbclient.NotebookClient(
        notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    ).execute()
    check_outputs(notebook)
    assert (tmp_path / "run" / "run" / "checkpoint.pth").is_file()
    assert not (NOTEBOOK.parent / "output").exists()
