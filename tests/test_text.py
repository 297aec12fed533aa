"""The form of expressions, and where one that is too long ends."""

from __future__ import annotations

import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from util.samples.text import FORMS, in_form, is_empty, shortened

DOG = "the man's dog, on the left"
# ways to write the same words
VARIANTS = (
    DOG,
    "The man's dog, on the left.",
    DOG.upper(),
    "  the man's\tdog,\non  the\r\nleft \v\f",
    "the man's\u00a0dog,\u202fon\u2009the\u3000left",
    "the\u2028man's\x85dog,\u1680on\u2800the\u3164left",
    "\ufeffthe m\u200ban\u200d's d\u00adog,\u2060 on\u200e the le\ufe0fft\u034f",
    "the\x00 man's\x07 dog, on the left\x1b\x7f",
    "the man\u2019s dog, on the left",
    "the man\u02bcs dog, on the left",
    "the man\u00b4s dog, on the left",
    "the man`s dog, on the left",
    "\uff34\uff28\uff25\u3000\uff2d\uff21\uff2e\uff07\uff33 dog\uff0c on the left\uff01",
    "\u201cThe man\u2019s dog, on the left.\u201d",
    '"the man\'s dog, on the left".',
    "'the man's dog, on the left'",
    "\u00ab the man's dog, on the left \u00bb",
    "\u300cthe man's dog, on the left\u3002\u300d",
    "\u201e\u201athe man's dog, on the left\u2018\u201c",
    "``the man's dog, on the left''",
    "the man's dog, on the left ?!?! \u2026 ...",
    "the man's dog, on the left\u3002",
    "the man's dog, on the left \u203c\ufe0f",
    "\u00bfthe man's dog, on the left\u061f",
    "\U0001d42d\U0001d421\U0001d41e man's dog, on the left",
)
EMPTY = (
    "",
    " ",
    "\t\n",
    "?",
    " . . . ",
    "!?",
    "\u2026",
    '""',
    "\u201c\u201d",
    "'",
    '"?"',
    "\ufeff",
    "\u200b\u200b",
    "\u3000",
)
EMPTY += ("\u3002", "\ud800", "\u00bf?", "\x00", "\u2800", "\u00ad.")


@pytest.mark.parametrize("text", VARIANTS)
def test_all_ways_to_write_the_same_words_are_one(text):
    assert in_form(text) == DOG


@pytest.mark.parametrize(
    "text",
    [
        '"stop" and "go"',
        "'a' and 'b'",
        'the 5" tv',
        "the dogs' bone",
        "o'clock",
        "u.s. flag",
        "-",
        "\U0001f436",
        "e\u0301le\u0300ve".encode().decode(),
        "\u72d7",
        "a.b",
        '"the dog',
    ],
)
def test_what_says_something_stays(text):
    assert in_form(text) == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Ha\u0308user", "h\xe4user"),
        ("wi\ufb01", "wifi"),
        ("non\u2011breaking \u2013 dash", "non-breaking - dash"),
        ("'the dogs' bone'", "the dogs' bone"),
        ('"the sign "stop" there"', 'the sign "stop" there'),
        ("\ud83dthe dog", "the dog"),
    ],
)
def test_letters_signs_and_quotes_of_parts(text, plain):
    assert in_form(text) == plain


@pytest.mark.parametrize("text", EMPTY)
def test_what_is_left_empty_is_empty(text):
    assert is_empty(text) and in_form(text) == ""
    assert not is_empty(f"{text} a {text}")


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet="ab\"'`\u2019.?! \u00b4\u3164\u200b\u0130\u03a3-\u00bf"))
def test_the_form_of_a_form_is_itself(text):
    for form in FORMS:
        once = in_form(text, form)
        assert in_form(once, form) == once
        once.encode()  # no half of a surrogate pair
    assert in_form(in_form(text, "lower")) == in_form(text)


def test_the_other_forms():
    assert in_form(" The  DOG\u00a0\u201cRex\u201d. ", "lower") == "the dog \u201crex\u201d."
    assert in_form(" The  DOG. ", "raw") == " The  DOG. "
    assert in_form("a\ud800b", "raw") == in_form("a\ud800B", "lower") == "ab"
    with pytest.raises(ValueError, match="--text_form neat does not exist; choose one of clean, lower, raw"):
        in_form("a", "neat")


# Too long -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit", "left"),
    [
        ("aa bb cc dd", 100, "aa bb cc dd"),
        ("aa bb cc dd", 11, "aa bb cc dd"),
        ("aa bb cc dd", 10, "aa bb cc"),
        ("aa bb cc dd", 5, "aa bb"),
        ("aa bb cc dd", 4, "aa"),
        ("aaaaaaaa bb", 5, "aaaaa"),  # never to nothing
        ("\u72d7" * 9, 12, "\u72d7" * 4),
        ("\u72d7" * 9, 14, "\u72d7" * 4),  # never within a code point
        ("the \u72d7\u72d7\u72d7 dog", 10, "the \u72d7\u72d7"),
        ("the dog\u72d7\u72d7", 7, "the dog"),
        (
            "\u0e40\u0e14\u0e47\u0e01" * 3,
            20,
            "\u0e40\u0e14\u0e47\u0e01\u0e40",
        ),  # a sign stays with its letter
        ("x\u0301x\u0301x\u0301", 8, "x\u0301x\u0301"),
        ("x" + "\u0301" * 9, 6, "x\u0301\u0301"),  # but never to nothing
        ("\U0001f436" * 4, 9, "\U0001f436" * 2),
        ("\u72d7", 2, ""),
    ],
)
def test_the_longest_beginning_that_fits(text, limit, left):
    assert shortened(text, lambda part: len(part.encode()) <= limit) == left


@settings(max_examples=200, deadline=None)
@given(
    st.text(alphabet="ab \u72d7\u0301\u0e01\U0001f436", min_size=1, max_size=60).filter(str.strip), st.integers(4, 80)
)
def test_the_beginning_is_the_longest_that_ends_with_a_word_or_a_character_of_a_script_without_spaces(text, limit):
    text = text.strip()
    left = shortened(text, lambda part: len(part.encode()) <= limit)
    assert left and text.startswith(left) and len(left.encode()) <= limit
    pieces = re.finditer("[ab\u0301\U0001f436]+|[\u72d7\u0e01]\u0301*", text)
    fitting = [end for end in (piece.end() for piece in pieces) if len(text[:end].encode()) <= limit]
    assert not fitting or len(left) == max(fitting)


def test_a_text_without_end_takes_no_time_without_end():
    seen = []

    def fits(part: str) -> bool:
        seen.append(len(part))
        return len(part) <= 100

    assert len(shortened("word " * 200_000, fits)) == 99
    assert sum(seen[1:]) < 10_000  # after the first, which is the whole text


def test_thousands_of_quotes_take_no_time():
    for text in ('"' * 4000, "'" * 4000, "“" * 2000 + "a" + "”" * 2000):
        start = time.monotonic()
        assert in_form(text) in ("", "a") and time.monotonic() - start < 2


def test_quotes_of_windows_are_straightened():
    assert in_form("it\x92s a \x93dog\x94") == in_form("it’s a “dog”") == 'it\'s a "dog"'
