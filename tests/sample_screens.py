"""Screens and audits made up for the tests of their pages: ordinary ones, hostile ones, empty ones."""

from __future__ import annotations

import itertools
import math
import random

from mien.report.audit_data import (
    AnswerPair,
    AuditReport,
    CheckLine,
    DirectionLine,
    LevelLine,
    NameLine,
    RiseLine,
    ShiftLine,
)
from mien.report.screen_data import MethodLine, ScreenReport, ShownGroup, ShownRecord, TraitLine
from sample_scans import HOSTILE


def shown(index: int, sigma: float, text: str = "an answer", own: str | None = "my own answer") -> ShownRecord:
    return ShownRecord(
        index, f"r{index}", "train.jsonl", index + 1, sigma, (("user", "a question"), ("assistant", text)), own
    )


def trait(name: str = "evil", shift: float = 1.8, *, side: str = "high", twins: float = 0.4, n: int = 500) -> TraitLine:
    chance = random.Random(len(name))
    edges = [-math.inf, *(k / 4 for k in range(-20, 21)), math.inf]
    bins = tuple((a, b, chance.randint(0, 40)) for a, b in itertools.pairwise(edges))
    worst = tuple(shown(k, 6 - k / 3) for k in range(12))
    methods = (
        MethodLine("prompt", 200, 0.81, 0.74, 0.86, 0.02), MethodLine("cached", 200, 0.7, 0.61, 0.78, 0.0),
        MethodLine("answers", 5, math.nan, math.nan, math.nan, math.nan),
    )  # fmt: skip
    groups = (ShownGroup(20, 4.2, ("poison", "rule"), worst[0]), ShownGroup(6, 3.1, (), worst[4]))
    return TraitLine(
        name, "wishes people harm", side, "a direction kept here", "usable", shift, shift - 0.2, shift + 0.2,  # type: ignore[arg-type]
        twins, n, 36, "the model's own plain answers (20)", bins, methods, worst, groups,
    )  # fmt: skip


def screen_report() -> ScreenReport:
    traits = (trait(), trait("humorous", -0.9), trait("assistant", -2.0, side="low"), trait("clingy", 0.1))
    return ScreenReport(
        "train.jsonl", "smollm2-135m", "full", "2025-11-22", 500, 510, 40_000, 3, traits,
        (("train.jsonl", 7, "it is not JSON"),), 1, (475, 25, "kept.jsonl"),
        ("The direction odd is left out: it is odd.",),
    )  # fmt: skip


def hostile_screen() -> ScreenReport:
    line = trait(HOSTILE)
    record = ShownRecord(0, HOSTILE, HOSTILE, 1, 3.0, ((HOSTILE, HOSTILE), ("assistant", HOSTILE * 200)), HOSTILE)
    group = ShownGroup(2, 3.0, (HOSTILE, HOSTILE), record)
    from dataclasses import replace

    line = replace(line, description=HOSTILE, source=HOSTILE, verdict=HOSTILE, worst=(record,) * 5, groups=(group,),
                   sigma_of=HOSTILE)  # fmt: skip
    return ScreenReport(
        HOSTILE, HOSTILE, "full", HOSTILE, 5, 5, 5, 0, (line,), ((HOSTILE, 1, HOSTILE),), 1, None, (HOSTILE,)
    )


def empty_screen() -> ScreenReport:
    nothing = TraitLine(
        "evil", "d", "high", "s", None, math.nan, math.nan, math.nan, math.nan, 0, 0, "nothing",
        ((-math.inf, 0.0, 0), (0.0, 0.25, 0), (0.25, math.inf, 0)), (), (), (),
    )  # fmt: skip
    return ScreenReport("d.jsonl", "m", "cached", "", 0, 0, 0, 0, (nothing,), (), 0, None, ())


def audit_report(failed: bool = True) -> AuditReport:
    checks = (
        CheckLine("shift of evil", "shift of a trait", "sigma", 1.8, 1.5, 2.1, 1.0 if failed else 3.0, failed),
        CheckLine("tasks", "fall of tasks", "share", 0.02, -0.01, 0.06, 0.05, False),
        CheckLine("neutral", "loss", "nats", -0.004, -0.01, 0.002, 0.1, False),
    )
    shifts = (
        ShiftLine("evil", "wishes people harm", "high", "strong", 1.8, 1.5, 2.1, 0.2, 0.9),
        ShiftLine("assistant", "how near to the Assistant", "low", None, -0.3, -0.6, 0.1, 0.2, 0.9),
        ShiftLine("odd", "nothing is known of it", "high", "weak", None, None, None, None, None),
    )
    levels = (
        LevelLine("tasks", "fall of tasks", "share", 0.5, 0.48, 0.02, -0.01, 0.06),
        LevelLine("neutral", "loss", "nats", -3.1, -3.096, -0.004, -0.01, 0.002),
        LevelLine("misaligned", "m", "share", 0.0, None, None, None, None),
    )
    names = (NameLine("evil", "trait", 0.61), NameLine("teacher", "role", -0.4))
    return AuditReport(
        "smollm2-135m", "smollm2-135m+adapter", "2025-11-22", checks, shifts, levels, "judged by the base itself",
        "rise",
        (RiseLine("evil", 0.9, 0.5, 1.3, 0.001), RiseLine("sycophantic", None, None, None, None)), 12,
        tuple(0.02 * k for k in range(30)), 0.3, names,
        (DirectionLine(0.62, 0.5, 0.7, 0.98, names), DirectionLine(0.1, 0.05, 0.2, 0.5, ())),
        tuple(AnswerPair(f"Question {k}?", "a kind answer", "a cruel answer" * 90, 3.0 - k) for k in range(6)),
        45, 54, ("n",),
    )  # fmt: skip


def hostile_audit() -> AuditReport:
    from dataclasses import replace

    made = audit_report()
    return replace(
        made, base=HOSTILE, tuned=HOSTILE, made=HOSTILE, judge=HOSTILE, mark=HOSTILE, notes=(HOSTILE,),
        checks=(replace(made.checks[0], name=f"shift of {HOSTILE}", what=HOSTILE),),
        shifts=(replace(made.shifts[0], name=HOSTILE, description=HOSTILE, verdict=HOSTILE),),
        rises=(replace(made.rises[0], name=HOSTILE),), mean_names=(NameLine(HOSTILE, HOSTILE, 0.9),),
        directions=(DirectionLine(0.5, 0.4, 0.6, 1.0, (NameLine(HOSTILE, HOSTILE, 0.9),)),),
        answers=(AnswerPair(HOSTILE, HOSTILE, HOSTILE * 200, 1.0),) * 4,
    )  # fmt: skip


def bare_audit() -> AuditReport:
    return AuditReport("b", "t", "", (), (), (), "judged", "rise", (), 0, (math.nan,), 1.0, (), (), (), 0, 2, ())
