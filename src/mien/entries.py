"""What a text, an entry of a hand-written file, may be; said in sentences. Specs and role files check theirs with it.

This file does not know what the texts are for.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping

from mien.errors import SpecError

MAX_TEXT = 4000
"""Longest text, in characters."""


def checked_text(value: object, what: str) -> str:
    """The text without outer space.

    Raises:
        SpecError: it is not a text, is empty or longer than `MAX_TEXT`, or has control characters.
    """
    if not isinstance(value, str):
        raise SpecError(f"{what} is {kind_of(value)}, not text; in YAML, put it into quotes.")
    text = value.strip()
    if not any(unicodedata.category(char)[0] in "LNPS" for char in text):
        raise SpecError(f"{what} is empty; write it out.")
    if len(text) > MAX_TEXT:
        raise SpecError(f"{what} has {len(text)} characters; {MAX_TEXT} is the most.")
    bad = next((char for char in text if unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"), None)
    if bad is not None:
        raise SpecError(f"{what} has the control character U+{ord(bad):04X} in it; remove it.")
    return text


def kind_of(value: object) -> str:
    """A value's kind in words; never its content, which may be huge."""
    if value is None:
        return "empty"
    names = {str: "a text", bool: "a yes/no value", int: "a number", float: "a number", list: "a list"}
    return "a mapping" if isinstance(value, Mapping) else names.get(type(value), f"a {type(value).__name__}")


def shortened(value: object) -> str:
    """A value in quotes, if it is short enough to be shown; else its kind or its beginning."""
    text = str(value) if isinstance(value, str | int | float) else kind_of(value)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
