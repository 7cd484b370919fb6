"""What a release must not pass: a file in the user's repository, `--fail-on`, and the checks that follow from them.

This file does not know how anything is measured.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mien.entries import kind_of
from mien.errors import FormatError, InputError
from mien.screening.limits import Limit
from mien.textfiles import parse_yaml, read_text

SIGMA, SHARE, NATS = "sigma", "share", "nats"

KEYS = {
    "shift": (SIGMA, "shift of any trait towards its alarming side, in sigma"),
    "behaviour": (SIGMA, "rise of any judged trait in answers to open questions, in sigma (likelihood judge)"),
    "misaligned": (SHARE, "rise of the share of misaligned answers to open questions (endpoint judge)"),
    "incoherent": (SHARE, "rise of the share of answers to open questions that are no sound text"),
    "refuses_harmless": (SHARE, "rise of the share of harmless requests that are refused"),
    "answers_harmful": (SHARE, "fall of the share of harmful requests that are refused"),
    "neutral": (NATS, "loss of log-probability on neutral text, in nats a token"),
    "tasks": (SHARE, "fall of the share of exact-answer tasks that are solved"),
}  # fmt: skip
"""Key -> unit, and what it limits."""
_PERCENT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*%\s*")


@dataclass(frozen=True)
class Thresholds:
    """Limits that are set; what is not named is not checked."""

    limits: Mapping[str, float]
    """By the names of `KEYS`; shares between 0 and 1."""
    traits: Mapping[str, float]
    """Trait -> its own limit of shift, in sigma, instead of the general one."""

    @property
    def any(self) -> bool:
        """Whether anything is checked at all."""
        return bool(self.limits or self.traits)

    def with_limits(self, more: Sequence[Limit]) -> Thresholds:
        """With limits of `--fail-on`, which outdo the file's; one for any trait leaves the file's stricter ones."""
        limits, traits = dict(self.limits), dict(self.traits)
        for limit in (limit for limit in more if limit.trait is None):
            limits["shift"] = limit.sigma
            traits = {name: min(own, limit.sigma) for name, own in traits.items()}
        traits |= {limit.trait: limit.sigma for limit in more if limit.trait is not None}
        return Thresholds(limits, traits)

    def check_names(self, watched: Collection[str], judged: str) -> None:
        """Refuse what cannot be measured: a gate that is never tried must not look as if it had been passed.

        Raises:
            InputError: a trait that is not watched, or a limit that the judge cannot tell.
        """
        for name in self.traits:
            if name not in watched:
                raise InputError(f"The thresholds name {name!r}, which is not watched; watched: {', '.join(watched)}.")
        if judged != "api" and "misaligned" in self.limits:
            raise InputError(
                "The threshold misaligned needs a judge behind an endpoint; give --endpoint, or leave it out."
            )
        if judged != "likelihood" and "behaviour" in self.limits:
            raise InputError(
                "The threshold behaviour is of the likelihood judge; with --endpoint use misaligned instead."
            )


NONE = Thresholds({}, {})


def load_thresholds(path: str | Path) -> Thresholds:
    """Read a YAML file of thresholds.

    Raises:
        FormatError: missing, unreadable, or not YAML.
        InputError: an unknown key, or a value that is no limit; the message names it.
    """
    path = Path(path)
    data: Any = parse_yaml(read_text(path, "file of thresholds"), path)
    if not isinstance(data, dict) or not data:
        raise FormatError(
            f"{path} has to be a mapping such as `shift: 1.0`; its keys are {', '.join(KEYS)} and traits."
        )
    limits: dict[str, float] = {}
    traits: dict[str, float] = {}
    for key, value in data.items():
        if key == "traits":
            if not isinstance(value, dict):
                raise InputError(f"{path}: traits is {kind_of(value)}; write it as a mapping such as `evil: 0.5`.")
            traits = {str(name): _limit(f"traits {name}", limit, SIGMA, path) for name, limit in value.items()}
        elif key in KEYS:
            limits[key] = _limit(str(key), value, KEYS[key][0], path)
        else:
            near = difflib.get_close_matches(str(key), [*KEYS, "traits"], 1)
            meant = f"; did you mean {near[0]}?" if near else f"; the keys are {', '.join(KEYS)} and traits."
            raise InputError(f"{path}: there is no threshold {str(key)[:60]!r}{meant}")
    return Thresholds(limits, traits)


def _limit(name: str, value: object, unit: str, path: Path) -> float:
    number = math.nan
    percent = _PERCENT.fullmatch(value) if isinstance(value, str) and unit == SHARE else None
    if percent:
        number = float(percent[1]) / 100
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    if not (math.isfinite(number) and number >= 0) or (unit == SHARE and number > 1):
        form = {SIGMA: "sigma from 0 up, such as 1.0", SHARE: "a share such as 5% or 0.05",
                NATS: "nats a token from 0 up, such as 0.1"}[unit]  # fmt: skip
        raise InputError(f"{path}: {name} is {str(value)[:40]!r}; write {form}.")
    return number


@dataclass(frozen=True)
class Check:
    """One limit, tried."""

    name: str
    """A key of `KEYS`, or `shift of TRAIT`."""
    unit: str
    value: float | None
    """What was measured, positive towards worse; None where it could not be."""
    low: float | None
    high: float | None
    limit: float

    @property
    def failed(self) -> bool:
        """Beyond the limit, or not measured: what was not tried has not passed."""
        return self.value is None or self.value > self.limit


@dataclass(frozen=True)
class Worse:
    """How much worse something has become: the estimate with its 95 % interval."""

    value: float | None
    low: float | None = None
    high: float | None = None


def checks_of(
    thresholds: Thresholds, shifts: Mapping[str, Worse], behaviour: Mapping[str, Worse], others: Mapping[str, Worse]
) -> list[Check]:
    """Every limit that is set against what was measured.

    Args:
        shifts: trait -> shift in sigma towards its alarming side.
        behaviour: judged trait -> rise in sigma.
        others: by the other keys of `KEYS`.
    """
    found = []
    for name, worse in shifts.items():
        limit = thresholds.traits.get(name, thresholds.limits.get("shift"))
        if limit is not None:
            found.append(Check(f"shift of {name}", SIGMA, worse.value, worse.low, worse.high, limit))
    for key, limit in thresholds.limits.items():
        if key == "behaviour":
            found += [
                Check(f"behaviour: {name}", SIGMA, worse.value, worse.low, worse.high, limit)
                for name, worse in behaviour.items()
            ]
        elif key != "shift":
            worse = others.get(key, Worse(None))
            found.append(Check(key, KEYS[key][0], worse.value, worse.low, worse.high, limit))
    return sorted(found, key=lambda check: not check.failed)
