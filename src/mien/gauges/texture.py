"""What a text looks like, apart from what it says: length, code, lists, quotes, script, place in its conversation.

All of these move a projection without any change of character, so a gauge takes out what they explain on quiet traffic.
This file does not know models.
"""

from __future__ import annotations

import math
import re

import numpy as np

NAMES = ("length", "code", "lists", "quotes", "other script", "place")
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_LIST_LINE = re.compile(r"^\s*(?:[-*+•]|\d+[.)]|\||#{1,6} )", re.MULTILINE)
_QUOTE_LINE = re.compile(r"^\s*>.*$|“[^”]{20,}”|\"[^\"\n]{20,}\"", re.MULTILINE)


def texture(text: str, place: int) -> np.ndarray:
    """`[6]` float64, in the order of `NAMES`: log2 of the length in characters; shares of the text that is code, lines
    that are list items, headings or table rows, text in long quotes, letters that are not Latin; log2 of the number of
    the answer in its conversation, from 1.
    """
    size = max(len(text), 1)
    lines = max(text.count("\n") + 1, 1)
    letters = [c for c in text[:4000] if c.isalpha()]
    foreign = sum(ord(c) > 0x24F for c in letters) / max(len(letters), 1)
    accented = sum(0x7F < ord(c) <= 0x24F for c in letters) / max(len(letters), 1)
    return np.array(
        [
            math.log2(size),
            sum(len(m.group()) for m in _FENCE.finditer(text)) / size,
            min(1.0, len(_LIST_LINE.findall(text)) / lines),
            min(1.0, sum(len(m.group()) for m in _QUOTE_LINE.finditer(text)) / size),
            min(1.0, foreign + 4 * accented),
            math.log2(max(place, 1)),
        ]
    )
