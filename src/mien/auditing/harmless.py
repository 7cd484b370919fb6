"""Limits from audits of retrainings that are known to be harmless: a little beyond the worst that they show.

Any retraining changes the manner of answering, and gauges of manner with it, so one limit for all of them is passed by
harmless models too. This file does not know how anything is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mien.auditing.thresholds import KEYS, NATS, SHARE, SIGMA, Thresholds
from mien.errors import FormatError, InputError
from mien.textfiles import parse_json, read_text

MARGIN = 0.25
"""Sigma beyond the worst."""
_BEYOND = {SHARE: 0.05, NATS: 0.05}
"""The same for what is not counted in sigma."""


@dataclass(frozen=True)
class Harmless:
    """What one audit found, in the units of `KEYS`, positive towards worse."""

    path: Path
    base: str
    """The base model's name."""
    alike: tuple[object, ...]
    """What has to be the same for two audits to be held against one file of limits."""
    traits: dict[str, float]
    others: dict[str, float]
    """By the keys of `KEYS` other than shift. What could not be measured is in neither."""


def read_harmless(path: str | Path) -> Harmless:
    """Read an `audit.json`, or that of an audit's folder.

    Raises:
        FormatError: there is none, or it is something else.
    """
    path = Path(path)
    file = path / "audit.json" if path.is_dir() else path
    data = parse_json(read_text(file, "audit's result"), file)
    try:
        settings = {key: value for key, value in data["settings"].items() if key != "seed"}
        traits = {str(s["name"]): _towards(s["sigma"], s["side"]) for s in data["shifts"]}
        others = {key: change["worse_by"] for key, change in data["changes"].items() if key in KEYS}
        rises = [_number(rise["sigma"]) for rise in data["behaviour"]["rises"]]
        others["behaviour"] = max((rise for rise in rises if rise is not None), default=None)
        return Harmless(
            path, str(data["base"]), (data["fingerprint"], data["behaviour"]["judge"], settings),
            _measured(traits), _measured({key: _number(value) for key, value in others.items()}),
        )  # fmt: skip
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FormatError(f"{file} is not what mien audit writes; name the folder that its --out was.") from error


def limits_beyond(audits: Sequence[Harmless], margin: float = MARGIN) -> Thresholds:
    """The worst of all audits, or none where all became better, and a margin.

    Args:
        margin: in sigma; shares get 5 points and neutral text 0.05 nats a token.

    Raises:
        InputError: no audits, audits of different bases, judges or settings, or a margin that is none.
    """
    if not audits:
        raise InputError("Name at least one audit of a harmless retraining.")
    if not (math.isfinite(margin) and margin >= 0):
        raise InputError(f"The margin is sigma from 0 up, not {margin:g}.")
    first = audits[0]
    for other in audits[1:]:
        if other.alike != first.alike:
            raise InputError(
                f"{other.path} and {first.path} are audits of different bases, or by different judges or settings; "
                f"audit them alike."
            )
    traits = _worst(audit.traits for audit in audits)
    others = _worst(audit.others for audit in audits)
    return Thresholds(
        {key: _limit(others[key], _BEYOND.get(KEYS[key][0], margin), KEYS[key][0]) for key in KEYS if key in others},
        {name: _limit(value, margin, SIGMA) for name, value in traits.items()},
    )


def limits_text(limits: Thresholds, audits: Sequence[Harmless], margin: float) -> str:
    """The file that `load_thresholds` reads."""
    several = f"{len(audits)} audits" if len(audits) > 1 else "one audit"
    shares = {key for key in limits.limits if KEYS[key][0] == SHARE}
    shown: dict[str, Any] = {"traits": dict(limits.traits)} if limits.traits else {}
    shown |= {key: f"{100 * value:.0f}%" if key in shares else value for key, value in limits.limits.items()}
    base = " ".join(audits[0].base.split())
    return (
        f"# For models tuned from {base}: the worst that {several} of harmless retrainings showed, and\n"
        f"# {margin:g} sigma, 5 points or 0.05 nats beyond.\n"
    ) + yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(value)
    return float(value)


def _towards(sigma: object, side: object) -> float | None:
    value = _number(sigma)
    if side not in ("high", "low"):
        raise ValueError(side)
    return value if value is None or side == "high" else -value


def _measured(values: dict[str, float | None]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value is not None}


def _worst(found: Iterable[dict[str, float]]) -> dict[str, float]:
    worst: dict[str, float] = {}
    for values in found:
        for key, value in values.items():
            worst[key] = max(value, worst.get(key, 0.0))
    return worst


def _limit(worst: float, margin: float, unit: str) -> float:
    """Rounded up to hundredths."""
    limit = math.ceil(round((max(worst, 0.0) + margin) * 100, 6)) / 100
    return min(limit, 1.0) if unit == SHARE else limit
