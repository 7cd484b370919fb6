"""An audit's sentences: passed or not and why, what has moved beside what moves anyhow. Knows no HTML."""

from __future__ import annotations

from collections.abc import Sequence

from mien.report.audit_data import AuditReport, CheckLine, DirectionLine, LevelLine, NameLine, RiseLine, ShiftLine, Unit
from mien.report.scan_words import share
from mien.report.words import MISSING, interval, known, listing, number, p_value, shorten, signed

TITLES = {
    "shift": "Shift",
    "behaviour": "Behaviour",
    "misaligned": "Misaligned answers",
    "incoherent": "Answers that are no sound text",
    "refuses_harmless": "Harmless requests refused",
    "answers_harmful": "Harmful requests not refused",
    "neutral": "Log-probability of neutral text",
    "tasks": "Exact-answer tasks solved",
}


def title(name: str) -> str:
    """A check's or measure's name as people say it."""
    return TITLES.get(name, name[:1].upper() + name[1:])


def tone(report: AuditReport) -> str:
    """The colour of the verdict, as a class."""
    if not report.checks:
        return "none"
    return "weak" if any(c.failed for c in report.checks) else "strong"


def badge(report: AuditReport) -> str:
    """One word."""
    if not report.checks:
        return "no limits set"
    return "fail" if any(c.failed for c in report.checks) else "pass"


def headline(report: AuditReport) -> str:
    """Why, in a sentence."""
    failed = [c for c in report.checks if c.failed]
    if not report.checks:
        return "No limits were set, so nothing passed and nothing failed; the numbers are below."
    if not failed:
        n = len(report.checks)
        return f"Within all {n} limits." if n > 1 else "Within its one limit."
    said = [f"{c.name} is {value(c.value, c.unit)}{side(c.name)}, and {limit(c)} is the limit" for c in failed[:3]]
    more = f"; {len(failed) - 3} more" if len(failed) > 3 else ""
    return f"Beyond {len(failed)} of {len(report.checks)} limits: {'; '.join(said)}{more}."


def doubts(report: AuditReport) -> str:
    """What a reader should know before believing the verdict."""
    unsure = [c.name for c in report.checks if known(c.low) and known(c.high) and c.low <= c.limit <= c.high]
    if not unsure:
        return ""
    return f"The interval reaches across the limit for {listing(unsure[:6])}: more questions would make it sure."


def moved(report: AuditReport) -> str:
    """Which traits have moved beyond what directions along which answers differ anyhow show."""
    there = [s for s in report.shifts if beyond(s) and known(s.sigma)]
    if not there:
        return "No trait has moved further than the model's answers differ among themselves along chance directions."
    there.sort(key=lambda s: -abs(s.sigma or 0))
    return (
        f"Moved beyond chance: {listing([f'{shorten(s.name, 40)} ({signed(s.sigma, 1)} sigma)' for s in there[:6]])}."
    )


def beyond(shift: ShiftLine) -> bool:
    """Whether it has, interval and all."""
    if not (known(shift.low) and known(shift.high) and known(shift.natural)):
        return False
    return shift.low > shift.natural or shift.high < -shift.natural


def value(number_: float | None, unit: Unit) -> str:
    """A number with its unit."""
    if not known(number_):
        return MISSING
    if unit == "share":
        return share(number_) if number_ >= 0 else f"\N{MINUS SIGN}{share(-number_)}"
    return f"{signed(number_)} sigma" if unit == "sigma" else f"{number(number_, 3)} nats"


def limit(check: CheckLine) -> str:
    """The limit with its unit, without a sign."""
    return share(check.limit) if check.unit == "share" else f"{check.limit:g} {check.unit}"


def side(check: str) -> str:
    """Behind a check's value: shifts are told with their sign, and limits count towards the side that alarms."""
    return " towards its alarming side" if check.startswith("shift of ") else ""


def ends(low: float | None, high: float | None, unit: Unit) -> str:
    """`[0.1, 0.3]`."""
    if unit == "share" and known(low) and known(high):
        return f"[{value(low, unit)}, {value(high, unit)}]"
    return interval(low, high, 3 if unit == "nats" else 2)


def level(line: LevelLine, which: str) -> str:
    """The base's or the tuned model's own number."""
    found = line.base if which == "base" else line.tuned
    if not known(found):
        return MISSING
    return share(found) if line.unit == "share" else number(found, 3)


def shift(line: ShiftLine) -> str:
    """`+1.84 [+1.60, +2.10]`."""
    return f"{signed(line.sigma)} {interval(line.low, line.high)}".strip() if known(line.sigma) else MISSING


def stays_under(sigma: float | None) -> str:
    """What chance directions stay under."""
    return f"±{number(sigma)}" if known(sigma) else MISSING


def rise(line: RiseLine) -> str:
    """`+0.42 [+0.10, +0.71], p = 0.01`."""
    if not known(line.sigma):
        return MISSING
    return f"{signed(line.sigma)} {interval(line.low, line.high)}, {p_value(line.p)}"


def names(lines: Sequence[NameLine]) -> str:
    """`towards evil (0.41), away from teacher (−0.30)`."""
    if not lines:
        return "nothing in the library is nearer than chance"
    return listing(
        [f"{'towards' if n.cosine > 0 else 'away from'} {shorten(n.name, 40)} ({number(n.cosine)})" for n in lines]
    )


def direction(line: DirectionLine) -> str:
    """Its share of the change."""
    return f"{share(line.share)} [{share(line.low)}, {share(line.high)}]"


def diff(report: AuditReport) -> str:
    """What the diff says before any name."""
    here = report.relative[report.layer] if report.layer < len(report.relative) else float("nan")
    if not known(here) or here == 0:
        return "On the same texts the two models have the same activations: nothing has changed."
    return (
        f"On the same texts, activations at layer {report.layer} changed by {share(here)} of how much texts differ. "
        f"The mean change points {names(report.mean_names)}."
    )
