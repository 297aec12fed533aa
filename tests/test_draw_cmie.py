"""The picture of the CMIE shows every attention of each variant, with the shapes that it really has."""

from __future__ import annotations

import pytest

from tests.tiny_model import DIM, QUERIES, tiny_model
from tools import draw_cmie
from tools.draw_cmie import PLACES, VARIANTS, draw, stages


@pytest.fixture(scope="module")
def found() -> dict[str, draw_cmie.Stage]:
    return stages(tiny_model(), 3, (64, 96))


def test_the_shapes_are_those_of_the_attentions(found):
    """A clip of 3 frames of 2 × 3 tokens."""
    whole, full = found["CMIE"].read, found["CMIE*"].read
    assert whole["video_space"] == ((3, 6, DIM), (3, 6, DIM)) and whole["video_time"] == ((6, 3, DIM), (6, 3, DIM))
    assert whole["video_from_proxies_time"] == ((1, 18, DIM), (1, 3, DIM))
    assert full["proxies_from_video_space_time"] == ((1, 3 * QUERIES, DIM), (1, 18, DIM))
    assert found["CMIE"].shapes["proxies_out"] == (1, 3, QUERIES, DIM)
    assert not [name for name in found["CMIE w/o P2V"].read if name.startswith("video_from")]
    assert found["CMIE"].parameters > found["w/o proxy queries"].parameters > found["CMIE w/o P2V"].parameters
    assert found["CMIE"].flops > found["CMIE w/o P2V"].flops


def test_every_attention_is_drawn_with_its_numbers(found):
    """Of the stage at its place, of each variant in its column."""
    assert found["CMIE"].read.keys() == PLACES.keys()
    texts = [text.get_text() for text in draw(found).axes[0].texts]
    for name, shapes in found["CMIE"].read.items():
        query, context = (" × ".join(map(str, shape)) for shape in shapes)
        assert {name, f"q   {query}", f"kv  {context}"} <= set(texts)
    cells = [f"{q[0]} × ({q[1]} ← {c[1]})" for stage in found.values() for q, c in stage.read.values()]
    assert sorted(text for text in texts if "←" in text and "queries" not in text) == sorted(cells)
    assert {flag for flag, _ in VARIANTS.values()} <= set(texts)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--cmie full", "the picture has the variants beside each other; leave --cmie, --video_reads"),
        ("--model referformer", "--model referformer: the picture is one of ProxyFormer"),
        ("--output cmie.jpg", "--output cmie.jpg: the ending must be .png, .pdf or .svg"),
    ],
)
def test_what_has_no_picture_is_refused(flags, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["draw_cmie.py", *flags.split()])
    with pytest.raises((SystemExit, ValueError)) as stop:
        draw_cmie.main()
    assert message in capsys.readouterr().err + str(stop.value)
