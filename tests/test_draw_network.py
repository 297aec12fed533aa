"""The picture of the network shows modules that exist, with the shapes that they give."""

from __future__ import annotations

import pytest

from tests.tiny_model import DIM, QUERIES, tiny_model
from tools import draw_network
from tools.draw_network import NETWORK, STAGE, draw, shapes


def test_every_box_has_a_shape_and_every_arrow_two_boxes():
    found = shapes(tiny_model(), 3, (64, 96))
    assert found.keys() == {box.name for box in NETWORK} | {f"cmie.stages.0.{box.name}" for box in STAGE}
    assert all(found.values())
    assert found["cmie"] == [f"1 × 3 × 2 × 3 × {DIM}"]
    assert found["segmenter.kernel_head"] == [f"1 × 3 × {QUERIES} × 16 × 24"]
    assert len(found["backbone"]) == 4 and found["reference_head"][1].endswith("× 4")
    for boxes, arrows in (
        (NETWORK, (*draw_network.ARROWS, *draw_network.BENT)),
        (STAGE, (*draw_network.STAGE_ARROWS, *draw_network.STAGE_READ)),
    ):
        names = {box.name for box in boxes}
        assert {name for arrow in arrows for name in arrow[:2]} == names
    texts = {text.get_text() for axis in draw(found).axes for text in axis.texts}
    assert {box.name.strip("'") for box in (*NETWORK, *STAGE)} <= texts


def test_a_model_without_semantics_has_no_box_for_them():
    assert "semantics" not in shapes(tiny_model(jsc_target="none"), 2, (64, 96))


def test_another_ending_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["draw_network.py", "--output", "network.jpg"])
    with pytest.raises(SystemExit):
        draw_network.main()
    assert "--output network.jpg: the ending must be .png, .pdf or .svg" in capsys.readouterr().err
