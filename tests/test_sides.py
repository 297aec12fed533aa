"""Left and right in words: what is exchanged, what stays, and what keeps a clip from being mirrored."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from datasets.sampling import stream
from datasets.sides import swap_sides
from datasets.transforms import TrainTransform
from tests.helpers import SHARED, needs_shared
from util.samples.text import in_form

SWAPPED = [
    ("the dog on the left of the right cat", "the dog on the right of the left cat"),
    ("Left, RIGHT; left-hand", "Right, LEFT; right-hand"),
    ("leftmost bird moving rightwards", "rightmost bird moving leftwards"),
    ("left's hat, left's", "right's hat, right's"),
    ("lefthand, leftside, left-side", "righthand, rightside, right-side"),
    ("two lefties and a lefty, a leftie", "two righties and a righty, a rightie"),
    (
        "a right-handed batter, a righthanded one, a right-hander",
        "a left-handed batter, a lefthanded one, a left-hander",
    ),
    ("rightward, rightwards, righter, rightermost", "leftward, leftwards, lefter, leftermost"),
    ("upper-left, bottomleft, topright, TopLeft", "upper-right, bottomright, topleft, TopRight"),
    ("down-right, far/left, left2, player_right", "down-left, far/right, right2, player_left"),
    ("toprightcorner of lowright; bottomlefthand", "topleftcorner of lowleft; bottomrighthand"),
    ("(left) [RIGHT] 'left' left\u2019s left\u2014right", "(right) [LEFT] 'right' right\u2019s right\u2014left"),
    ("the caf\u00e9 on the left", "the caf\u00e9 on the right"),
    ("left to right", "right to left"),
    ("the dog on the left behind the cat", "the dog on the right behind the cat"),
]
KEPT = [
    "nothing to exchange",
    "a bright upright leftover of copyright",
    "the brightly brightened playwright with fright, a cleft, outright",
    "a shift, a loft, a lift, a fight, a knight, slight light",
    "the beast at the feast with the least yeast, a vest, the swest",
    "linked rings, prawns, a level, labels",
    "\U0001f436 1.5 x 2 (a) <b>",
]
UNSURE = [
    "turning clockwise",
    "counter-clockwise on the left",
    "anticlockwise",
    "the cat at 3 o'clock",
    "the cat at 3 o\u2019clock",
    "left \u72d7",
    "\u5de6\u8fb9\u7684\u72d7",
    "\u53f3",
    "\u0441\u043e\u0431\u0430\u043a\u0430 \u043b\u0435\u0432\u043e",
    "\uc67c\ucabd",
    "\u0627\u0644\u064a\u0633\u0627\u0631",
    "l\u0435ft",  # a Cyrillic letter
    "el perro a la izquierda",
    "derecho",
    "le chien \u00e0 gauche",
    "\u00e0 droite",
    "der Hund links",
    "Rechts",
    "der linke Hund",
    "a sinistra",
    "a destra",
    "\u00e0 esquerda",
    "direita",
    "po prawej",
    "v\u00e4nster",
    "h\u00f8yre",
    "sa\u011fdaki",
    "pies po nalewo",
    "doprava",
    "ulijevo",
    "pakaliwang kamay",
    "h\u00f8gre",
    "osi",
    "\u00e0 l'ouest",
    "bat\u0131",
    "the l one",
    "R side",
    "lhs",
    "rt guy",
    "rigth",
    "the west end",
    "heading eastward",
    "northwest",
    "starboard",
    "the driver's side",
    "the right now",
    "all right",
    "a right-angled sign",
    "a brightleft",
    "leftright",
    "upleft",
    "downright",
    "rights",
    "leftguy",
    "l\u00e9ft",
    "l\u00adeft",
    "\uff4c\uff45\uff46\uff54",
    "the arrow \u2192",
    "\u2b05\ufe0f",
    "\U0001f448",
    "<- there",
    "turning clock-wise",
    "counter clock wise",
    "spinning CCW",
    "the SW corner",
    "nw",
    "passenger seat",
    "near side",
    "the driver's seat",
    "kerb side",
    "on the port",
    "first base side",
    "dcha",
    "siniestra",
    "zleva",
    "babord",
    "droitier",
    "linksh\u00e4nder",
    "venstreh\u00e5ndet",
    "rigtmost man",
    "the lefft one",
    "riightmost",
    "letfmost",
    "rihgt",
]


@pytest.mark.parametrize(("text", "swapped"), SWAPPED)
def test_every_word_that_names_a_side_is_exchanged(text, swapped):
    assert swap_sides(text) == swapped
    assert swap_sides(swapped) == text


@pytest.mark.parametrize("text", KEPT)
def test_what_names_no_side_stays(text):
    assert swap_sides(text) == text


@pytest.mark.parametrize("text", UNSURE)
def test_what_is_not_sure_is_not_exchanged(text):
    assert swap_sides(text) is None
    assert swap_sides(f"the dog on the left, {text}") is None


@pytest.mark.parametrize("text", ["The Dog on the LEFT.", "\uff4c\uff45\uff46\uff54", "\u201cleft\u201d"])
def test_in_the_clean_form_more_is_sure(text):
    assert "right" in swap_sides(in_form(text))


# The clip -------------------------------------------------------------------------------------------------------------


def outcome(texts: list[str], seed: int, **options) -> tuple[torch.Tensor, torch.Tensor, list[str], float, float]:
    """What becomes of a clip, and the number that each generator gives next."""
    frames = torch.arange(2 * 3 * 8 * 12).remainder(256).to(torch.uint8).view(2, 3, 8, 12)
    masks = torch.zeros(2, len(texts), 8, 12, dtype=torch.uint8)
    masks[..., :4] = 1
    transform = TrainTransform([8], 16, **{"flip": True, "random_crop": False, "photometric": False, **options})
    shared, own = stream(seed, 0), stream(seed, 1)
    return *transform(frames, masks, texts, shared, own), shared.random(), own.random()


@pytest.mark.parametrize("unsure", ["turning clockwise", "\u5de6\u8fb9\u7684\u72d7"])
def test_one_expression_that_is_not_sure_keeps_its_clip_from_being_mirrored(unsure):
    texts, flipped = ["the lefthand dog", unsure], 0
    for seed in range(20):
        sure = outcome([texts[0], "a dog"], seed, random_crop=True, photometric=True)
        got = outcome(texts, seed)
        plain = outcome(texts, seed, flip=False)
        assert torch.equal(got[0], plain[0]) and torch.equal(got[1], plain[1]) and got[2] == texts
        # the same numbers are drawn
        assert outcome(texts, seed, random_crop=True, photometric=True)[3:] == sure[3:]
        flipped += sure[2] == ["the righthand dog", "a dog"]
    assert 4 < flipped < 16


@needs_shared
def test_published_texts_are_mirrored():
    text = SHARED / "data" / "text"
    videos = json.loads((text / "ref_youtube_vos_valid_test_507.json").read_text())["videos"]
    asked = [e["exp"] for video in videos.values() for e in video["expressions"].values()]
    with (text / "a2d_annotation_with_short_query.txt").open(newline="", encoding="utf-8") as file:
        asked += [row["query"] for row in csv.DictReader(file)]
    asked += [row[4] for row in json.loads((text / "jhmdb_sentences_samples_metadata.json").read_text())]
    swapped = {text: swap_sides(in_form(text)) for text in set(asked)}
    assert [text for text, other in swapped.items() if other is None] == [
        "a dolphin swimming right away from two people"
    ]
    assert all(swap_sides(other) == in_form(text) for text, other in swapped.items() if other)
    changed = {text for text, other in swapped.items() if other not in (None, in_form(text))}
    assert changed == {t for t in swapped if "left" in t.lower() or "right" in t.lower().replace("bright", "")} - {
        text for text, other in swapped.items() if other is None
    }


@pytest.mark.parametrize("text", ["a light brown dog at night", "let the man be lifted", "eight loft windows", "port"])
def test_words_that_look_like_sides_do_not(text):
    assert swap_sides(text) == text
