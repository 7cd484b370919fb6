"""Names of directions made by arithmetic, such as `evil + 0.5*sycophantic`.

This file does not know what a direction is.
"""

from __future__ import annotations


def summed(left: str, right: str) -> str:
    """`left + right`, written as a difference where `right` is negative."""
    if right.startswith("-") and not _is_compound(right):
        return f"{left} - {right[1:]}"
    return f"{left} + {right}"


def negated(name: str) -> str:
    """`-name`; twice gives the name back."""
    if name.startswith("-") and not _is_compound(name):
        return _unwrapped(name[1:])
    return f"-({name})" if _is_compound(name) else f"-{name}"


def times(factor: float, name: str) -> str:
    """`factor*name`."""
    return f"{_number(factor)}*{grouped(name)}"


def divided(name: str, divisor: float) -> str:
    """`name/divisor`."""
    return f"{grouped(name)}/{_number(divisor)}"


def grouped(name: str) -> str:
    """The name, in brackets if it could be misread as part of a longer one."""
    return f"({name})" if _is_compound(name) or name.startswith("-") else name


def _number(value: float) -> str:
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _is_compound(name: str) -> bool:
    """Whether a space stands outside of brackets: a sum, or a name of several words."""
    depth = 0
    for char in name:
        depth += (char == "(") - (char == ")")
        if depth == 0 and char == " ":
            return True
    return False


def _unwrapped(name: str) -> str:
    """`(a + b)` -> `a + b`; `(a + b)/2` stays."""
    depth = 0
    for i, char in enumerate(name):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return name[1:-1] if i > 0 and i == len(name) - 1 else name
    return name
