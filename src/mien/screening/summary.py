"""Totals to a summary for programs and a report for people. This file does not know how anything was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mien.gauges.alarms import wilson
from mien.records import ModelInfo
from mien.report.screen_data import MethodLine, ScreenReport, ShownGroup, ShownRecord, TraitLine
from mien.screening.totals import BIN, EDGE, Totals, TraitTotals
from mien.screening.worst import Worst, WorstRecord

LISTED, SHOWN = 50, 15
"""Worst records a watched direction in the summary, and on the page with their words."""
SHOWN_CHARACTERS = 6000
"""Most of one record's text on the page."""


@dataclass(frozen=True)
class Told:
    """What is said of a screening besides its numbers."""

    title: str
    model: ModelInfo
    method: str
    made: str
    notes: tuple[str, ...]
    kept: dict[str, Any] | None
    settings: Mapping[str, Any]


def summary_of(totals: Totals, worst: Sequence[Worst], told: Told) -> dict[str, Any]:
    """What `summary.json` says."""
    return {
        "model": told.model.id, "fingerprint": told.model.fingerprint, "method": told.method,
        "settings": dict(told.settings), "records": totals.records, "samples": totals.samples,
        "answers": totals.answers, "tokens": totals.tokens, "unmeasured": totals.unmeasured, "skipped": totals.skipped,
        "skipped_records": [dict(zip(("source", "line", "reason"), s, strict=True)) for s in totals.first_skipped[:50]],
        "traits": [_trait(t, w) for t, w in zip(totals.traits, worst, strict=True)],
        "kept": told.kept, "notes": list(told.notes),
    }  # fmt: skip


def _trait(trait: TraitTotals, worst: Worst) -> dict[str, Any]:
    low, high = trait.interval
    sigma = trait.centre.sigma
    share_low, share_high = wilson(trait.beyond, trait.n)
    return {
        "name": trait.watched.name, "description": trait.watched.description, "side": trait.watched.side,
        "source": trait.watched.source, "verdict": trait.watched.verdict, "layers": list(trait.watched.layers),
        "samples": trait.n, "sigma": _number(sigma), "sigma_of": trait.centre.sigma_of,
        "mean_difference": _number(trait.mean), "low": _number(low), "high": _number(high),
        "shift": _number(trait.mean / sigma), "shift_low": _number(low / sigma), "shift_high": _number(high / sigma),
        "random_directions_95": _number(trait.twins),
        "beyond_2_sigma": {"count": trait.beyond, "share": _number(trait.beyond / trait.n if trait.n else math.nan),
                           "low": _number(share_low), "high": _number(share_high)},
        "histogram": [{"from": _edge(a), "to": _edge(b), "records": n} for a, b, n in _bins(trait) if n],
        "agreement": {
            a.method: {"rank_correlation": _number(a.rank_correlation), "low": _number(a.low), "high": _number(a.high),
                       "off_by": _number(a.off_by), "samples": a.n}
            for a in trait.agreement
        },
        "worst": [{"index": w.place, "id": w.record.id, "source": w.record.source, "line": w.record.line,
                   "difference": _number(w.difference), "sigma": _number(w.difference / sigma)}
                  for w in worst.records[:LISTED]],
        "groups": [{"records": [worst.records[i].place for i in c.members], "words": list(c.words)}
                   for c in worst.clusters],
    }  # fmt: skip


def _number(value: float | None) -> float | None:
    return round(float(value), 5) if value is not None and math.isfinite(value) else None


def _bins(trait: TraitTotals) -> list[tuple[float, float, int]]:
    edges = [-EDGE + BIN * k for k in range(len(trait.bins) + 1)]
    edges[0], edges[-1] = -math.inf, math.inf
    return [(a, b, int(n)) for a, b, n in zip(edges, edges[1:], trait.bins.tolist(), strict=False)]


def _edge(value: float) -> float | None:
    return value if math.isfinite(value) else None


def report_of(totals: Totals, worst: Sequence[Worst], told: Told) -> ScreenReport:
    """What the page shows."""
    kept = told.kept
    return ScreenReport(
        title=told.title, model=told.model.id, method=told.method, made=told.made, n_samples=totals.samples,
        n_answers=totals.answers, n_tokens=totals.tokens, n_unmeasured=totals.unmeasured,
        traits=tuple(_line(t, w) for t, w in zip(totals.traits, worst, strict=True)),
        skipped=tuple(totals.first_skipped), n_skipped=totals.skipped,
        kept=None if kept is None else (kept["kept"], kept["dropped"], "kept.jsonl"), notes=told.notes,
    )  # fmt: skip


def _line(trait: TraitTotals, worst: Worst) -> TraitLine:
    low, high = trait.interval
    sigma, one = trait.centre.sigma, trait.watched
    shown = [_shown(w, sigma) for w in worst.records]
    groups = tuple(_group([shown[i] for i in c.members], c.words) for c in worst.clusters)
    methods = tuple(
        MethodLine(a.method, a.n, *map(_or_nan, (a.rank_correlation, a.low, a.high, a.off_by))) for a in trait.agreement
    )
    return TraitLine(
        name=one.name, description=one.description, side=one.side, source=one.source, verdict=one.verdict,
        shift=trait.mean / sigma, low=low / sigma, high=high / sigma, twins=trait.twins, n=trait.n, beyond=trait.beyond,
        sigma_of=trait.centre.sigma_of, bins=tuple(_bins(trait)), methods=methods, worst=tuple(shown[:SHOWN]),
        groups=groups,
    )  # fmt: skip


def _group(members: Sequence[ShownRecord], words: tuple[str, ...]) -> ShownGroup:
    return ShownGroup(len(members), sum(m.sigma for m in members) / len(members), words, members[0])


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _shown(worst: WorstRecord, sigma: float) -> ShownRecord:
    room = SHOWN_CHARACTERS
    turns = []
    for message in reversed(worst.record.messages):  # the last answer is what counts most
        turns.append((message.role, message.content[:room] + ("…" if len(message.content) > room else "")))
        room -= len(message.content)
        if room <= 0:
            break
    return ShownRecord(
        worst.place, worst.record.id, worst.record.source, worst.record.line, worst.difference / sigma,
        tuple(reversed(turns)), worst.own,
    )  # fmt: skip
