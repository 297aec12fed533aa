"""What weights were trained on: recorded in training, carried on by trainings that start from them, told to people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from models import load_predictor
from tests.helpers import ROOT, edit
from tests.runs import trainer
from tests.test_start import begun
from tools.data.make_synthetic import generate
from util.files.origin import CONVERTED
from util.weights import checkpoint, history
from util.weights.history import GENERATED_ONLY, notice, record, told
from util.weights.saver import NEWEST

SHAPES = "2 generated videos of 5 moving shapes in 7 colours"


@pytest.fixture(scope="module")
def shapes(ytvos_root, tmp_path_factory) -> Path:
    """A generated set, with the text encoder of the other."""
    root = tmp_path_factory.mktemp("shapes") / "set"
    generate(root, train_videos=2, valid_videos=1, size=(48, 80), workers=1)
    (root / "text").symlink_to(ytvos_root / "text")
    return root


def recorded(root: Path, folder: Path, *flags: object) -> dict:
    return trainer(root, folder, *flags).description[checkpoint.TRAINED_ON]


def test_a_training_records_its_data(ytvos_root, shapes, tmp_path):
    real = recorded(ytvos_root, tmp_path / "real")
    count = len(json.loads((ytvos_root / "meta_expressions/train/meta_expressions.json").read_text())["videos"])
    assert real == {"data": [f"{count} training videos of Ref-YouTube-VOS"], "knows": None}
    assert recorded(shapes, tmp_path / "shapes") == {"data": [SHAPES], "knows": GENERATED_ONLY}
    held = recorded(ytvos_root, tmp_path / "held", "--holdout", 1)
    assert held["data"] == [f"{count - 1} training videos of Ref-YouTube-VOS"]


def test_what_sets_of_earlier_versions_and_hostile_ones_say(ytvos_root, tmp_path):
    generate(tmp_path / "set", train_videos=1, valid_videos=1, frames=1, size=(48, 80), things="both", workers=1)
    file = tmp_path / "set" / "synthetic.json"
    assert json.loads(file.read_text())["shows"] == "images of 8 shapes in 10 colours"
    (tmp_path / "set" / "text").symlink_to(ytvos_root / "text")
    run = tmp_path / "run"
    edit(file, lambda content: content.update(shows="dots\n\x1b[2J" + "x" * 1000))
    (words,) = recorded(tmp_path / "set", run, "--num_frames", 1)["data"]
    assert words.startswith("1 generated dots\\n\\x1b[2Jxxx") and len(words) == checkpoint.LONGEST_WORDS
    edit(file, lambda content: content.pop("shows"))
    assert recorded(tmp_path / "set", run, "--num_frames", 1)["data"] == ["1 generated scene of moving shapes"]


def test_own_data_is_not_called_a_published_set(ytvos_root, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("train", "valid", "text"):
        (own / name).symlink_to(ytvos_root / name)
    (own / CONVERTED).parent.mkdir()
    for path in (ytvos_root / "meta_expressions").iterdir():
        (own / "meta_expressions" / path.name).symlink_to(path)
    (own / CONVERTED).write_text("{}")
    (words,) = recorded(own, tmp_path / "run")["data"]
    assert words.endswith("videos that are no published data set")


def test_a_run_carries_on_what_it_starts_from(ytvos_root, shapes, tmp_path, monkeypatch, capsys):
    """Also through an export and through a resumption."""
    first = trainer(shapes, tmp_path / "first", "--epochs", 1)
    first.run()
    weights = tmp_path / "w.safetensors"
    checkpoint.export(weights, checkpoint.load(tmp_path / "first" / NEWEST), torch.float32)
    tuned, again = (
        begun(root, tmp_path / root.name, monkeypatch, "--pretrained_weights", weights).description[
            checkpoint.TRAINED_ON
        ]
        for root in (ytvos_root, shapes)
    )
    assert tuned["data"][0] == SHAPES and "Ref-YouTube-VOS" in tuned["data"][1] and tuned["knows"] is None
    assert again == {"data": [SHAPES, SHAPES], "knows": GENERATED_ONLY}
    more = trainer(shapes, tmp_path / "first", "--epochs", 2)
    assert more.epoch == 1 and more.description[checkpoint.TRAINED_ON] == {"data": [SHAPES], "knows": GENERATED_ONLY}
    content = checkpoint.load(tmp_path / "first" / NEWEST)
    del content[checkpoint.TRAINED_ON]  # of an earlier version, and what it started from is gone
    options = content["options"] | {"pretrained_weights": str(tmp_path / "gone.pth"), "random_backbone": False}
    checkpoint.save(tmp_path / "first" / NEWEST, content | {"options": options})
    older = begun(shapes, tmp_path / "first", monkeypatch, "--resume", "auto", "--epochs", 2)
    assert older.description[checkpoint.TRAINED_ON] is None
    capsys.readouterr()
    predictor = load_predictor(weights, "cpu")
    assert predictor.notice == f"These weights were trained on {SHAPES}. They know {GENERATED_ONLY}."
    assert capsys.readouterr().err == f"note: {predictor.notice}\n"


def test_a_start_that_records_nothing_is_named(tmp_path, monkeypatch):
    """Such weights may know real films, so shapes are not all that is known afterwards."""
    for content in ({"transformer.level_embed": torch.ones(1)}, {"format": 1}):
        monkeypatch.setattr(history.checkpoint, "read", lambda path, content=content: content)
        monkeypatch.setattr(history.checkpoint, "checked", lambda content, path: content)
        found = record("9 generated videos of shapes", True, tmp_path / "r50_pretrained.pth")
        assert found["data"] == ["what r50_pretrained.pth does not record", "9 generated videos of shapes"]
        assert found["knows"] is None
    assert notice({}) is None and notice({checkpoint.TRAINED_ON: None}) is None


def test_very_many_trainings():
    data = [f"{i} films" for i in range(30)]
    assert told(data, None) == {"data": data[-checkpoint.MOST_TRAININGS :], "knows": None}


def test_the_shipped_weights_tell_what_they_know():
    found = notice(checkpoint.load(ROOT / "pretrained_weights" / "demo.safetensors"))
    assert "generated videos of 5 moving shapes in 7 colours" in found and found.endswith(
        f"They know {GENERATED_ONLY}."
    )
