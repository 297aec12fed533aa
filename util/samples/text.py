"""The text of expressions: the form in which the encoder reads it, and how a text that is too long is cut."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence

FORMS = ("clean", "lower", "raw")

_STOPS = ".!?…‽⸘⸮؟۔।॥։።፧។၊။。❗❕❓❔"
_BEFORE = "¿¡"
# characters that keyboards and word processors write for ' and " and -
_STRAIGHT = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛‹›`´′‵ʹʻʼʽˈˊˋ՚׳᾽᾿´῾΄❛❜❟", "'"),
        **dict.fromkeys("\x91\x92", "'"),  # quotes of Windows-1252 in a text that was read as Latin-1
        **dict.fromkeys("\x93\x94", '"'),
        **dict.fromkeys("“”„‟«»″‶˝ʺˮ״「」『』〝〞〟❝❞❠⹂🙶🙷🙸", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
    }
)
# characters that look blank and are no white space for Unicode: braille's blank, and fillers of Hangul
_SPACES = re.compile("[\\s\u2800\u115f\u1160]+")
_MANY_QUOTES = re.compile(r"(['\"])\1{2,}")
_CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
_CHANGED = re.compile(r"[^a-z0-9 ,-]| $|^ |  ")  # a text without any of these characters is in its clean form
# Characters without width that are not of category Cf: Default_Ignorable_Code_Point in the Unicode character database,
# https://www.unicode.org/Public/UCD/latest/ucd/DerivedCoreProperties.txt
_IGNORED = re.compile("[\u034f\u17b4\u17b5\u180b-\u180f\u2065\ufe00-\ufe0f\ufff0-\ufff8\U000e0000-\U000e0fff]")
# Blocks of scripts that put no space between words: Thai and Lao, Tibetan, Myanmar, Khmer, Tai Le to Khmer symbols, Tai
# Tham, Balinese, kana and Chinese characters, Yi, Javanese, the rest of Myanmar.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u1950-\u19ff\u1a20-\u1aaf\u1b00-\u1b7f\u2e80-\u312f"
    "\u31a0-\u4dbf\u4e00-\ua4cf\ua980-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f"
    "\U00020000-\U0003ffff]"
)
# Bounds on what takes a time that grows with the square of its length. No language has more accents in a row: the
# Stream-Safe Text Format, Unicode Standard Annex #15, section 13.
_MARKS, _LAYERS = 30, 20
_WORD_END = re.compile(r"(?<=\S)(?=\s)")
# A longer prefix can have fewer tokens than a shorter one, if one token replaces several inside a word. So a few more
# prefixes are tried after the first one that is too long.
_FURTHER = 32


def in_form(text: str, form: str = "clean") -> str:
    """A text in the form in which an encoder reads it. Applied to its own result, the function changes nothing.

    Args:
        text: as it was typed.
        form: "clean": all ways to write the same words become one (:func:`_clean`). "lower": lower case and single
            spaces, which is what ReferFormer trains with (``" ".join(exp.lower().split())`` in datasets/ytvos.py,
            davis.py, a2d.py and jhmdb.py of github.com/wjn922/ReferFormer). "raw": as it is.

    Every form drops halves of surrogate pairs, which JSON may hold and no encoder takes.

    Raises:
        ValueError: there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f"--text_form {form} does not exist; choose one of {', '.join(FORMS)}")
    if not text.isascii():
        text = text.encode("utf-8", "ignore").decode("utf-8")
    if form == "raw":
        return text
    return _clean(text) if form == "clean" else " ".join(text.lower().split())


def is_empty(text: str) -> bool:
    """Whether a text has no word: it is empty, white space, or only characters that :func:`in_form` removes."""
    return not in_form(text)


def _clean(text: str) -> str:
    """Unicode NFKC in lower case, with single spaces and straight quotes and hyphens. Invisible characters, quotes
    around the text, and full stops, exclamation and question marks at its end are removed."""
    if not _CHANGED.search(text):
        return text
    if not text.isascii():
        # before control characters are removed: some programs write quotes as control characters
        text = text.translate(_STRAIGHT)
        # twice, because NFKC and lower case may each produce characters that the other one changes
        for _ in range(2):
            text = unicodedata.normalize("NFKC", _visible(text).translate(_STRAIGHT)).translate(_STRAIGHT).lower()
    text = _CONTROLS.sub("", text.lower().replace("`", "'"))
    text = _SPACES.sub(" ", _MANY_QUOTES.sub(r"\1", text.replace("''", '"'))).strip(" ")
    for _ in range(_LAYERS):
        shorter = _unquoted(text.rstrip(_STOPS + " ").lstrip(_BEFORE + " "))
        if shorter == text:
            return "" if not text.strip("'\" ") else text
        text = shorter
    return text.rstrip(_STOPS + "'\" ").lstrip(_BEFORE + "'\" ")


def _visible(text: str) -> str:
    """The text without control, format and other characters that have no width, and with at most :data:`_MARKS` accents
    in a row; white space stays."""
    kept, marks = [], 0
    for c in text:
        category = unicodedata.category(c)
        marks = marks + 1 if category[0] == "M" else 0
        if c.isspace() or (category not in ("Cf", "Cc") and marks <= _MARKS):
            kept.append(c)
    return _IGNORED.sub("", "".join(kept))


def _unquoted(text: str) -> str:
    """Removes quotes around the whole text; in ``"stop" and "go"`` the outer quotes belong to two parts."""
    quote = text[:1]
    if len(text) < 2 or quote not in "'\"" or text[-1] != quote:
        return text
    opening = {i for i, c in enumerate(text[:-1]) if c == quote and (i == 0 or text[i - 1] in " ('\"")}
    if len(opening) > 1:  # otherwise every second one is an apostrophe
        depth = 0
        for i in (i for i, c in enumerate(text[:-1]) if c == quote):
            depth += 1 if i in opening else -1 if not text[i + 1].isalnum() else 0
            if depth == 0:
                return text
    return text[1:-1].strip(" ")


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of a text that ``fits``.

    It ends at the end of a word. In scripts without spaces, and within a first word that is too long, it ends after a
    character with its accents; where even that is too long, after a code point. Empty where no code point fits.
    """
    if fits(text):
        return text
    starts = len(text) - len(text.lstrip())
    characters = [i for i in range(starts + 1, len(text)) if unicodedata.category(text[i])[0] != "M"]
    words = {match.start() for match in _WORD_END.finditer(text)}
    for match in _UNSPACED.finditer(text):
        for end in match.span():
            place = bisect_left(characters, end)
            if place < len(characters) and not text[characters[place] - 1].isspace():
                words.add(characters[place])
    for ends in (sorted(words), characters, range(starts + 1, len(text))):
        found = _longest(text, ends, fits)
        if found:
            return found
    return ""


def _longest(text: str, ends: Sequence[int], fits: Callable[[str], bool]) -> str:
    """The longest ``text[:end]`` that fits. The search doubles its steps, so it tries few prefixes of a long text."""
    best, step = -1, 1
    while best + step < len(ends) and fits(text[: ends[best + step]]):
        best += step
        step *= 2
    while step:
        if best + step < len(ends) and fits(text[: ends[best + step]]):
            best += step
        step //= 2
    further = [i for i in range(best + 1, min(best + _FURTHER, len(ends))) if fits(text[: ends[i]])]
    best = max([best, *further])
    return text[: ends[best]] if best >= 0 else ""
