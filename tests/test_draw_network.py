"""The picture of the network shows modules that exist, with the shapes that they give."""

from __future__ import annotations

import pytest

from tests.tiny_model import DIM, QUERIES, tiny_model
from tools import draw_network
from tools.draw_network import NETWORK, draw, shapes


def test_every_box_has_a_shape_and_every_arrow_two_boxes():
    model = tiny_model()
    found = shapes(model, 3, (64, 96))
    assert found.keys() == {box.name for box in NETWORK}
    assert all(found.values())
    assert found["cmie"] == [f"1 × 3 × 2 × 3 × {DIM}"]
    assert found["segmenter.kernel_head"] == [f"1 × 3 × {QUERIES} × 16 × 24"]
    assert len(found["backbone"]) == 4 and found["reference_head"][1].endswith("× 4")
    arrows = (*draw_network.ARROWS, *draw_network.BENT, *draw_network.arrows_to_semantics(model))
    assert {name for arrow in arrows for name in arrow[:2]} == found.keys()
    texts = {text.get_text() for axis in draw(model, found).axes for text in axis.texts}
    assert {box.name.strip("'") for box in NETWORK} <= texts


@pytest.mark.parametrize(
    ("choice", "sources"),
    [
        ({}, {"video_norm", "text_proj"}),
        ({"jsc_after": True}, {"cmie", "text_proj"}),
        ({"jsc_after": True, "jsc_target": "video"}, {"cmie"}),
        ({"jsc_target": "text"}, {"text_proj"}),
        ({"jsc_target": "none"}, set()),
    ],
    ids=["joint", "joint after", "video after", "text", "none"],
)
def test_the_semantics_have_the_arrows_of_what_they_are_made_of(choice, sources):
    arrows = draw_network.arrows_to_semantics(tiny_model(**choice))
    assert {start for start, *_ in arrows} == sources and all(end == "semantics" for _, end, _ in arrows)


def test_a_model_without_semantics_has_no_box_for_them():
    model = tiny_model(jsc_target="none")
    found = shapes(model, 2, (64, 96))
    assert "semantics" not in found and draw(model, found)


def test_another_ending_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["draw_network.py", "--output", "network.jpg"])
    with pytest.raises(SystemExit):
        draw_network.main()
    assert "--output network.jpg: the ending must be .png, .pdf or .svg" in capsys.readouterr().err
