"""What a text looks like, apart from what it says: length, code, lists, quotes, verse, script, language, place.

All of these move a projection without any change of character, so a gauge takes out what they explain on quiet traffic.
This file does not know models.
"""

from __future__ import annotations

import math
import re

import numpy as np

NAMES = ("length", "code", "lists", "quotes", "other script", "place", "verse", "other language")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
# Nothing here may look ahead over more than a line or up to the next mark: texts come from strangers.
_LIST_MARK = r"(?:[-*+•]|\d+[.)]|\||#{1,6} )"
_LIST_LINE = re.compile(rf"^[^\S\n]*{_LIST_MARK}", re.MULTILINE)
_QUOTE_LINE = re.compile(r"^[^\S\n]*>.*$|“[^“”]{20,}”|\"[^\"\n]{20,}\"", re.MULTILINE)
_VERSE_LINE = re.compile(rf"[\s>]*(?!\s|>|{_LIST_MARK}).{{1,70}}")
_WORD = re.compile(r"[a-z\u00df-\u024f]+")
_ENGLISH = frozenset(re.findall(r"\w+", """
    the of and to in a is that it for you on with as are be this or by not from at have an was your but if which
    can what when how there will one all they we has more about up so out into do no than its i my me he she his
    her their our who would could then just also some any
"""))  # fmt: skip
_BEGINNING = 6000
"""Characters after which script and language are known."""


def texture(text: str, place: int) -> np.ndarray:
    """`[8]` float64, in the order of `NAMES`: log2 of the length in characters; shares of the text that is code, lines
    that are list items, headings or table rows, text in long quotes, letters that are not Latin; log2 of the number of
    the answer in its conversation, from 1; share of lines that stand together, two or more and all short; how far words
    in Latin letters are from English, 0 to 1.
    """
    size = max(len(text), 1)
    lines = max(text.count("\n") + 1, 1)
    prose = _FENCE.sub("\n\n", text)
    return np.array(
        [
            math.log2(size),
            sum(len(m.group()) for m in _FENCE.finditer(text)) / size,
            min(1.0, len(_LIST_LINE.findall(text)) / lines),
            min(1.0, sum(len(m.group()) for m in _QUOTE_LINE.finditer(text)) / size),
            _other_script(text[:_BEGINNING]),
            math.log2(max(place, 1)),
            _verse(prose),
            _other_language(prose[:_BEGINNING]),
        ]
    )


def _other_script(text: str) -> float:
    letters = [c for c in text if c.isalpha()]
    foreign = sum(ord(c) > 0x24F for c in letters)
    accented = sum(0x7F < ord(c) <= 0x24F for c in letters)
    return min(1.0, (foreign + 4 * accented) / max(len(letters), 1))


def _verse(prose: str) -> float:
    """Poems, lyrics, chants: lines that break before the margin does, and are no list."""
    inside, run, full = 0, 0, 0
    for line in (*prose.split("\n"), ""):
        if _VERSE_LINE.fullmatch(line):
            run += 1
        else:
            inside, run = inside + (run if run > 1 else 0), 0
        full += bool(line.strip())
    return inside / max(full, 1)


def _other_language(prose: str) -> float:
    """Three words in ten of English are among its commonest; of a text of a few words, that is not known."""
    words = _WORD.findall(prose.lower())
    if not words:
        return 0.0
    usual, unsure = 0.3, 8
    common = sum(word in _ENGLISH for word in words)
    return max(0.0, 1 - (common + usual * unsure) / (usual * (len(words) + unsure)))
