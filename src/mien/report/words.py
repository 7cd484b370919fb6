"""Numbers into words, the same way on every page. Knows no card and no HTML."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TypeGuard

MISSING = "not measured"
_JOIN = "\N{NO-BREAK SPACE}"
_MINUS = "\N{MINUS SIGN}"


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 2) -> str:
    """`-0.5` as `−0.50`, with a true minus sign and no negative zero; `MISSING` if it is not a number."""
    if not known(value):
        return MISSING
    if abs(value) >= 1e7:
        return f"{value:.2e}".replace("-", _MINUS)
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", _MINUS)


def signed(value: float | None, digits: int = 2) -> str:
    """Like `number`, with a plus sign in front of what is above zero."""
    text = number(value, digits)
    return f"+{text}" if known(value) and value > 0 and any(digit in "123456789" for digit in text) else text


def short(value: float | None) -> str:
    """Up to four significant digits and nothing superfluous: coefs, ticks, norms."""
    if not known(value):
        return MISSING
    return f"{value + 0.0:.4g}".replace("-", _MINUS)


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    """`[0.82, 0.91]`, never broken over two lines; nothing where an end is missing."""
    return f"[{number(low, digits)},{_JOIN}{number(high, digits)}]" if known(low) and known(high) else ""


def with_interval(value: float | None, low: float | None, high: float | None, digits: int = 2) -> str:
    """`0.87 [0.82, 0.91]`."""
    return f"{number(value, digits)} {interval(low, high, digits)}".strip()


def p_value(p: float | None) -> str:
    """`p = 0.03`, `p < 0.001`; a permutation test cannot prove zero, so zero is never printed."""
    if not known(p):
        return f"p {MISSING}"
    text = "< 0.001" if p < 0.001 else f"= {p:.3f}" if p < 0.01 else f"= {p:.2f}"
    return f"p {text}".replace(" ", _JOIN)


def percent(share: float | None) -> str:
    """A share between 0 and 1 as `12%`."""
    return f"{number(100 * share, 0)}%" if known(share) else MISSING


def count(n: int, noun: str) -> str:
    """`1 rollout`, `1,200 rollouts`."""
    return f"{n:,} {noun}" + ("" if n == 1 else "s")


def listing(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return ", ".join(words[:-1]) + " and " + words[-1] if len(words) > 1 else "".join(words)


def by_number(named: Mapping[str, float]) -> list[tuple[str, float]]:
    """Entries in the order of the numbers their names are; others last. JSON sorts "25" before "5"."""
    return sorted(named.items(), key=lambda item: (not item[0].isdigit(), int(item[0]) if item[0].isdigit() else 0))


def ordinal(name: str) -> str:
    """`25th` of `25`; what is no whole number is left as it is."""
    if not (name.isascii() and name.isdigit()):
        return name
    teens = name[-2:] in ("11", "12", "13")
    return name + ("th" if teens else {"1": "st", "2": "nd", "3": "rd"}.get(name[-1], "th"))


def shorten(text: str, length: int) -> str:
    """At most `length` characters on one line, cut with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: max(length - 1, 1)].rstrip() + "…"


def plain(value: object) -> str:
    """A setting as a reader would write it; nested ones as JSON."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
