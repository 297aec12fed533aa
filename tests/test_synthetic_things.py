"""The new colours and shapes of the generator, which the shipped weights never saw."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tools.data.make_synthetic import generate
from tools.data.synthetic_scene import COLOURS, NEW_COLOURS, NEW_SHAPES, SHAPES


def test_new_things_are_new_and_every_second_video_of_both_has_them(tmp_path):
    few = dict(train_videos=4, valid_videos=2, workers=1, seed=5)
    for things in ("known", "new", "both"):
        generate(tmp_path / things, things=things, absent=2, **few)
    shapes = {
        things: [
            {thing["category"] for thing in video["objects"].values()}
            for video in json.loads((tmp_path / things / "train" / "meta.json").read_text())["videos"].values()
        ]
        for things in ("known", "new", "both")
    }
    assert not set.union(*shapes["known"]) - SHAPES.keys() and not set.union(*shapes["new"]) - NEW_SHAPES.keys()
    assert shapes["both"] == [shapes["new" if i % 2 else "known"][i] for i in range(4)]
    assert not (SHAPES.keys() & NEW_SHAPES.keys()) | (COLOURS.keys() & NEW_COLOURS.keys())
    meta = Path("meta_expressions", "train", "meta_expressions.json")
    videos = json.loads((tmp_path / "new" / meta).read_text())["videos"]
    said = " ".join(
        text for v in videos.values() for text in [*v["absent"], *(e["exp"] for e in v["expressions"].values())]
    )
    assert not {*COLOURS, *SHAPES} & set(said.split())


def test_outlines_of_new_shapes_stay_within_the_reach_of_the_others():
    for name, outline in NEW_SHAPES.items():
        assert np.linalg.norm(outline, axis=1).max() < 1.5, name
        (x, y), (next_x, next_y) = outline.T, np.roll(outline, -1, axis=0).T
        cross = x * next_y - next_x * y
        assert abs(((x + next_x) * cross).sum()) + abs(((y + next_y) * cross).sum()) < 1e-9, "centred on its mass"
