"""Used from other programs, from any folder, beside packages that have the names of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import models
from tests.commands import ENVIRONMENT
from tests.helpers import ROOT
from tests.tiny_model import EXPRESSIONS, tiny_args, tiny_text_encoder
from util.weights import checkpoint

VIDEO = "torch.arange(3 * 2 * 32 * 48, dtype=torch.uint8).reshape(2, 3, 32, 48)"
PREDICT = f"""
import torch
predictor = load_predictor("weights.pth", "cpu")
masks, scores = predictor({VIDEO}, [{EXPRESSIONS[0]!r}])
torch.save((masks, scores), "answer.pth")
"""
# Hugging Face's, and what a project of one's own may have
STUBS = {
    "datasets": "load_dataset = 'theirs'",
    "models": "net = 'theirs'",
    "util": "",
    "util.dist": "rank = 'theirs'",
}


@pytest.fixture
def elsewhere(tmp_path) -> Path:
    """A folder with weights, and packages of others in ``theirs``."""
    torch.manual_seed(0)
    args = tiny_args("--binary", "--eval_size", "32", "--train_sizes", "32", "--max_size", "64")
    model = models.assemble(args, 1, tiny_text_encoder())
    described = {"options": vars(args), "num_classes": 1, "text_encoder": model.text_encoder.description()}
    checkpoint.save(tmp_path / "weights.pth", {"model": model.state_dict(), **described})
    for name, text in STUBS.items():
        path = tmp_path / "theirs" / name.replace(".", "/")
        path = path / "__init__.py" if "." not in name else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


def run_there(folder: Path, program: str, *path: Path) -> None:
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    masks, scores = torch.load(folder / "answer.pth", weights_only=True)
    here = models.load_predictor(folder / "weights.pth", "cpu")
    wanted, expected = here(eval(VIDEO), [EXPRESSIONS[0]])
    assert torch.equal(masks, wanted) and scores == pytest.approx(expected, abs=1e-5)


def test_beside_packages_of_the_same_names(elsewhere):
    """All of theirs are theirs before and after, also those that are imported only then."""
    program = f"""
import sys, util.dist
sys.path.append({str(ROOT / "tools" / "library")!r})
from proxyformer import load_predictor, look_inside
{PREDICT}
assert look_inside(predictor, {VIDEO}, {EXPRESSIONS[0]!r}).score == scores[0]
import datasets, models, util
assert (datasets.load_dataset, models.net, util.dist.rank) == ("theirs", "theirs", "theirs")
assert "theirs" in models.__file__
"""
    run_there(elsewhere, program, elsewhere / "theirs")


@pytest.mark.parametrize("first", [True, False])
def test_with_the_repository_on_the_path(elsewhere, first):
    """Nothing of ``datasets`` is needed, be it ours or another's."""
    theirs = elsewhere / "hf"
    theirs.mkdir()
    (elsewhere / "theirs" / "datasets").rename(theirs / "datasets")
    program = f"""
import sys
from models import load_predictor
{PREDICT}
ours = {[str(ROOT / name) for name in ("datasets", "engine.py")]}
assert not [m for m in sys.modules.values() if str(getattr(m, "__file__", None)).startswith(tuple(ours))]
"""
    run_there(elsewhere, program, *((theirs, ROOT) if first else (ROOT, theirs)))
