"""`shift>1s`: what must not be passed, as written after --fail-on. This file does not know how anything is measured."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

from mien.errors import InputError

ANY = "shift"
"""Any of the traits."""
_FORM = re.compile(r"\s*([A-Za-z0-9][A-Za-z0-9_-]*)\s*>\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*s\s*")


@dataclass(frozen=True)
class Limit:
    """No shift towards the alarming side beyond so many sigma."""

    trait: str | None
    """None: of any."""
    sigma: float

    def __str__(self) -> str:
        return f"{self.trait or ANY}>{self.sigma:g}s"


def limits_of(text: str | None, traits: Collection[str] = ()) -> tuple[Limit, ...]:
    """`shift>1s,evil>0.5s` as limits.

    Args:
        traits: names that may stand before the sign; none: nothing is checked.

    Raises:
        InputError: not of that form, or there is no such trait.
    """
    found = []
    for part in (text or "").split(",") if text is not None else ():
        match = _FORM.fullmatch(part)
        if match is None:
            raise InputError(
                f"--fail-on {part.strip()!r} is not understood; write shift>1s (any trait, in sigma) or NAME>0.5s."
            )
        name = match[1]
        if name != ANY and traits and name not in traits:
            raise InputError(f"--fail-on names {name!r}, which is not watched; watched are: {', '.join(traits)}.")
        found.append(Limit(None if name == ANY else name, float(match[2])))
    return tuple(found)
