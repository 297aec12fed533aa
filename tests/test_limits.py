"""What a request to the page may ask for: texts, numbers and sizes."""

from __future__ import annotations

import pytest

from tasks.limits import Limits, part_of


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("the dog", ["the dog"]),
        ("\n the  dog\t\n\n a cat \r\n the dog\n", ["the dog", "a cat"]),
        ("狗\nأحمر", ["狗", "أحمر"]),
    ],
)
def test_one_expression_per_line(text, expressions):
    assert Limits().expressions_of(text) == expressions


@pytest.mark.parametrize("text", [None, "", " \n\t\n"])
def test_nothing_to_look_for(text):
    with pytest.raises(ValueError, match="one expression per line, as in: the dog"):
        Limits().expressions_of(text)


def test_too_many_expressions():
    with pytest.raises(ValueError, match="these are 4 expressions; at most 3 are taken"):
        Limits(expressions=3).expressions_of("a\nb\nc\nd")


def test_long_expressions():
    assert Limits().expressions_of("a" * 1000) == ["a" * 1000]
    with pytest.raises(ValueError, match="^expression 2 has 1001 characters; at most 1000 are taken$"):
        Limits().expressions_of("the dog\n" + "a" * 1001)
    for text in ("a" * 10**6, "a\n" * 10**6):
        with pytest.raises(ValueError, match="^the expressions have [12]000000 characters together; at most 20000"):
            Limits().expressions_of(text)


def test_what_is_no_text():
    assert Limits().expressions_of("می\u200cخواهم\n👩\u200d🚒") == ["می\u200cخواهم", "👩\u200d🚒"]
    for text in ("a\nb\0", "a\n\ud800", "a\n\x1b[31m"):
        with pytest.raises(ValueError, match="^expression 2 has a character that is no text"):
            Limits().expressions_of(text)
    for text in (7, ["the dog"], {"a": 1}, True):
        with pytest.raises(ValueError, match="the expressions are a text"):
            Limits().expressions_of(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1, 1e300, 10**400, "1", [1], {}, True])
def test_parts_that_are_no_numbers(value):
    for field, label in {"start": "From second", "end": "To second", "every": "Every Nth frame"}.items():
        with pytest.raises(ValueError, match=f"^'{label}' is a "):
            part_of(**{"start": None, "end": None, "every": None} | {field: value})


def test_they_are_told():
    told = "5 MB, 2.5 seconds and 3 expressions, and 99 masks (frames times expressions)"
    assert str(Limits(5, 2.5, 3, masks=99)) == told
