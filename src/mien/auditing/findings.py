"""Both sides and what lies between them, put together: what an audit found. Does not know how anything was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien import evidence
from mien.auditing.behaviour import Judged, Share
from mien.auditing.change import Change
from mien.auditing.probes import Probe
from mien.auditing.side import Side
from mien.auditing.thresholds import KEYS, Check, Thresholds, Worse, checks_of
from mien.training.shift import Shift

EXAMPLES = 8
"""Pairs of answers that are shown, the worst first."""


@dataclass(frozen=True)
class Pair:
    """What both models say to one open question."""

    probe: Probe
    base: str
    tuned: str
    mark: float | None
    """How bad the tuned answer is, see `Judged.marks`."""


@dataclass(frozen=True)
class Findings:
    """Everything that an audit found."""

    shifts: tuple[Shift, ...]
    judged: Judged
    change: Change
    worse: dict[str, Worse]
    """By the keys of `KEYS` other than shift and behaviour; positive is worse."""
    levels: dict[str, tuple[float, float]]
    """By the same: the base's and the tuned model's own numbers."""
    checks: tuple[Check, ...]
    pairs: tuple[Pair, ...]

    @property
    def passed(self) -> bool | None:
        """None: nothing was checked."""
        return not any(check.failed for check in self.checks) if self.checks else None


def put_together(
    base: Side, tuned: Side, shifts: Sequence[Shift], judged: Judged, change: Change, thresholds: Thresholds,
    probes: Sequence[Probe], seed: int,
) -> Findings:  # fmt: skip
    """Compare two sides."""
    rng = np.random.default_rng(seed)
    worse = {
        "incoherent": _difference(*judged.incoherent),
        "refuses_harmless": _paired(tuned.refused_harmless, base.refused_harmless, rng),
        "answers_harmful": _paired(base.refused_harmful, tuned.refused_harmful, rng),
        "neutral": _paired(base.neutral, tuned.neutral, rng),
        "tasks": _paired(base.tasks, tuned.tasks, rng),
    }
    levels = {
        "incoherent": tuple(s.value or 0.0 for s in judged.incoherent),
        "refuses_harmless": (base.refused_harmless.mean(), tuned.refused_harmless.mean()),
        "answers_harmful": (1 - base.refused_harmful.mean(), 1 - tuned.refused_harmful.mean()),
        "neutral": (base.neutral.mean(), tuned.neutral.mean()),
        "tasks": (base.tasks.mean(), tuned.tasks.mean()),
    }
    if judged.misaligned is not None:
        worse["misaligned"] = _difference(*judged.misaligned)
        levels["misaligned"] = tuple(s.value if s.value is not None else math.nan for s in judged.misaligned)
    towards = {s.name: _towards(s) for s in shifts}
    behaviour = {r.name: Worse(r.value, r.low, r.high) for r in judged.rises}
    pairs = [
        Pair(probe, a.text, b.text, mark)
        for probe, a, b, mark in zip(probes, base.probes, tuned.probes, judged.marks, strict=True)
    ]
    pairs.sort(key=lambda pair: -math.inf if pair.mark is None else pair.mark, reverse=True)
    return Findings(
        tuple(shifts), judged, change, worse, {k: (float(a), float(b)) for k, (a, b) in levels.items()},
        tuple(checks_of(thresholds, towards, behaviour, worse)), tuple(pairs[:EXAMPLES]),
    )  # fmt: skip


def _towards(shift: Shift) -> Worse:
    """In sigma towards the alarming side."""
    if shift.sigma is None or shift.sigma_low is None or shift.sigma_high is None:
        return Worse(None)
    if shift.side == "high":
        return Worse(shift.sigma, shift.sigma_low, shift.sigma_high)
    return Worse(-shift.sigma, -shift.sigma_high, -shift.sigma_low)


def _paired(more: NDArray[Any], less: NDArray[Any], rng: np.random.Generator) -> Worse:
    """Mean of `more - less`, `[n]` each, drawn with replacement."""
    return Worse(*evidence.mean_interval(more.astype(np.float64) - less.astype(np.float64), rng))


def _difference(base: Share, tuned: Share) -> Worse:
    """Rise of a share, with Newcombe's interval (1998, method 10)."""
    if base.value is None or tuned.value is None:
        return Worse(None)
    (b_low, b_high), (t_low, t_high) = base.interval, tuned.interval
    rise = tuned.value - base.value
    down = math.hypot(tuned.value - t_low, b_high - base.value)
    up = math.hypot(t_high - tuned.value, base.value - b_low)
    return Worse(rise, max(rise - down, -1.0), min(rise + up, 1.0))


def as_json(found: Findings) -> dict[str, Any]:
    """What `audit.json` says of them."""
    change = found.change
    return {
        "passed": found.passed,
        "checks": [{"name": c.name, "unit": c.unit, "value": number(c.value), "low": number(c.low),
                    "high": number(c.high), "limit": c.limit, "failed": c.failed} for c in found.checks],
        "shifts": [_shift(s) for s in found.shifts],
        "behaviour": {
            "judge": found.judged.kind, "model": found.judged.model,
            "rises": [{"name": r.name, "sigma": number(r.value), "low": number(r.low), "high": number(r.high),
                       "p": number(r.p)} for r in found.judged.rises],
        },
        "changes": {
            key: {"what": KEYS[key][1], "base": number(found.levels[key][0]), "tuned": number(found.levels[key][1]),
                  "worse_by": number(w.value), "low": number(w.low), "high": number(w.high)}
            for key, w in found.worse.items()
        },
        "model_diff": {
            "layer": change.layer, "chance": number(change.chance), "mean": [vars_of(n) for n in change.mean_names],
            "layers": [{"layer": c.layer, "relative": number(c.relative), "common": number(c.common),
                        "first": number(c.first)} for c in change.layers],
            "directions": [{"share": number(t.share), "low": number(t.low), "high": number(t.high),
                            "same_way": number(t.same_way), "nearest": [vars_of(n) for n in t.names]}
                           for t in change.top],
        },
        "answers": [{"probe": p.probe.text, "base": p.base, "tuned": p.tuned, "mark": number(p.mark)}
                    for p in found.pairs],
    }  # fmt: skip


def _shift(shift: Shift) -> dict[str, Any]:
    return {
        "name": shift.name, "side": shift.side, "layers": list(shift.layers),
        "sigma": number(shift.sigma), "low": number(shift.sigma_low), "high": number(shift.sigma_high),
        "random_95": number(shift.in_sigma(shift.null)), "natural_95": number(shift.in_sigma(shift.natural)),
        "raw": number(shift.raw), "raw_low": number(shift.low), "raw_high": number(shift.high),
        "random_95_raw": number(shift.null), "natural_95_raw": number(shift.natural), "beyond": number(shift.beyond),
        "left_out": shift.left_out,
    }  # fmt: skip


def vars_of(name: Any) -> dict[str, Any]:
    """A name as JSON."""
    return {"name": name.name, "kind": name.kind, "cosine": number(name.cosine)}


def number(value: float | None) -> float | None:
    """Rounded; None for what is not finite."""
    return round(float(value), 5) if value is not None and math.isfinite(value) else None
