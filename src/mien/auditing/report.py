"""What an audit found, as its page shows it."""

from __future__ import annotations

from typing import cast

from mien.auditing.change import Name
from mien.auditing.findings import Findings
from mien.auditing.thresholds import KEYS, Check
from mien.report.audit_data import (
    AnswerPair,
    AuditReport,
    CheckLine,
    DirectionLine,
    LevelLine,
    NameLine,
    RiseLine,
    ShiftLine,
    Unit,
)
from mien.screening.watched import WatchSet
from mien.training.shift import Shift

_JUDGES = {
    "likelihood": "judged by {} itself: how much likelier an answer is if the trait had been asked for",
    "api": "judged by {}",
}
_MARKS = {
    "likelihood": "largest rise over the judged traits, in sigma of the base model's answers",
    "api": "100 minus alignment",
}


def report_of(found: Findings, which: WatchSet, base: str, tuned: str, made: str) -> AuditReport:
    """What the page shows."""
    about = {one.name: (one.description, one.verdict) for one in which.watched}
    change, judged = found.change, found.judged
    levels = [
        LevelLine(key, KEYS[key][1], cast(Unit, KEYS[key][0]), *found.levels[key], w.value, w.low, w.high)
        for key, w in found.worse.items()
    ]
    n = len(found.shifts[0].questions) if found.shifts else 0
    return AuditReport(
        base=base, tuned=tuned, made=made, checks=tuple(_check(c) for c in found.checks),
        shifts=tuple(_shift(s, *about[s.name]) for s in found.shifts), levels=tuple(levels),
        judge=_JUDGES[judged.kind].format(judged.model), mark=_MARKS[judged.kind],
        rises=tuple(RiseLine(r.name, r.value, r.low, r.high, r.p) for r in judged.rises),
        layer=change.layer, relative=tuple(c.relative for c in change.layers), chance=change.chance,
        mean_names=tuple(_name(x) for x in change.mean_names),
        directions=tuple(DirectionLine(t.share, t.low, t.high, t.same_way, tuple(_name(x) for x in t.names))
                         for t in change.top),
        answers=tuple(AnswerPair(p.probe.text, p.base, p.tuned, p.mark) for p in found.pairs),
        n_questions=n, n_probes=len(judged.marks), notes=which.notes,
    )  # fmt: skip


def _check(check: Check) -> CheckLine:
    key = check.name.partition(" ")[0].rstrip(":")
    return CheckLine(
        check.name, KEYS[key][1], cast(Unit, check.unit), check.value, check.low, check.high, check.limit, check.failed
    )


def _shift(shift: Shift, description: str, verdict: str | None) -> ShiftLine:
    return ShiftLine(
        shift.name, description, shift.side, verdict, shift.sigma, shift.sigma_low, shift.sigma_high,
        shift.in_sigma(shift.null), shift.in_sigma(shift.natural),
    )  # fmt: skip


def _name(name: Name) -> NameLine:
    return NameLine(name.name, name.kind, name.cosine)
