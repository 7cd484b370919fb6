"""Chunks on disk to a summary for programs and a report for people. Memory does not grow with the number of chunks."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mien.gauges import GaugeSet
from mien.gauges.alarms import wilson
from mien.gauges.gauge import Gauge
from mien.report.scan_counts import day_of
from mien.report.scan_data import (
    ConversationDetail,
    ConversationLine,
    GaugeLine,
    ScanReport,
    Tallies,
    Tally,
    Together,
    TurnDetail,
)
from mien.scanning.chunks import ChunkFolder

LISTED, SHOWN = 20_000, 120
"""Conversations on the page, and how many of them with their text; the worst first."""
SHOWN_CHARACTERS = 4_000_000
"""Most text, tokens included, on the page."""


@dataclass
class Totals:
    """What is counted over all conversations."""

    conversations: int = 0
    turns: int = 0
    tokens: int = 0
    drifted: int = 0
    skipped: int = 0
    first_skipped: list[tuple[str, int, str]] = field(default_factory=list)
    alarms: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    models: dict[str, list[int]] = field(default_factory=dict)
    """Conversations, how many of them drifted on each gauge, and how many on any."""
    days: dict[int, list[int]] = field(default_factory=dict)
    """The same by day in UTC, of those whose time is known."""
    worst: list[tuple[float, int, int]] = field(default_factory=list)
    """Heap of (score, -chunk, -place): the worst of all, ties going to those that come first."""


def count_up(folder: ChunkFolder, chunks: int, gauges: GaugeSet) -> Totals:
    """Go through all chunks once."""
    n = len(gauges.gauges)
    totals = Totals(alarms=[0] * n, left=[0] * n)
    for number in range(chunks):
        for place, line in enumerate(folder.lines(number)):
            if place == 0:
                totals.tokens += line["tokens"]
            elif "skipped" in line:
                totals.skipped += 1
                if len(totals.first_skipped) < 200:
                    totals.first_skipped.append(tuple(line["skipped"]))
            else:
                _count(totals, line, number, place)
    return totals


def _count(totals: Totals, line: Mapping[str, Any], number: int, place: int) -> None:
    left = [at is not None for at in line["left_at"]]
    drifted = any(left)
    totals.conversations += 1
    totals.turns += line["n_turns"]
    totals.drifted += drifted
    totals.alarms = _added(totals.alarms, line["alarms"])
    totals.left = _added(totals.left, left)
    counted, model, day = [1, *left, drifted], line["model"] or "", day_of(line["time"])
    totals.models[model] = _added(totals.models.get(model), counted)
    if day is not None:
        totals.days[day] = _added(totals.days.get(day), counted)
    entry = (max(line["scores"], default=0.0), -number, -place)
    if len(totals.worst) < LISTED:
        heapq.heappush(totals.worst, entry)
    else:
        heapq.heappushpop(totals.worst, entry)


def _added(before: Sequence[int] | None, more: Sequence[int]) -> list[int]:
    return [int(n) for n in more] if before is None else [a + b for a, b in zip(before, more, strict=True)]


def summary_of(totals: Totals, gauges: GaugeSet, folder: ChunkFolder) -> dict[str, Any]:
    """What `summary.json` says."""
    return {
        "reader": gauges.reader, "fingerprint": gauges.fingerprint, "conversations": totals.conversations,
        "turns": totals.turns, "tokens": totals.tokens, "drifted": totals.drifted,
        "drifted_share": _share(totals.drifted, totals.conversations), "skipped": totals.skipped,
        "skipped_records": [dict(zip(("source", "line", "reason"), s, strict=True)) for s in totals.first_skipped[:50]],
        "gauges": [_gauge_summary(g, i, totals) for i, g in enumerate(gauges.gauges)],
        "models": [{"model": name or None, "conversations": n, "drifted": d} for name, (n, *_, d)
                   in sorted(totals.models.items(), key=lambda item: (-item[1][0], item[0]))],
        "worst": [_worst_summary(line, gauges) for _, line in _worst_lines(totals, folder, 50)],
    }  # fmt: skip


def _share(hits: int, total: int) -> dict[str, float] | None:
    if not total:
        return None
    low, high = wilson(hits, total)
    return {"share": round(hits / total, 5), "low": round(low, 5), "high": round(high, 5)}


def _gauge_summary(gauge: Gauge, i: int, totals: Totals) -> dict[str, Any]:
    base = gauge.baseline
    found: dict[str, Any] = {
        "name": gauge.name, "kind": gauge.kind, "description": gauge.description, "side": gauge.side,
        "layer": gauge.layer, "turns_alarmed": totals.alarms[i], "drifted": totals.left[i],
    }  # fmt: skip
    if base is not None:
        found |= {
            "turn_threshold": round(base.limits.turn, 4), "turn_rate": base.limits.turn_rate,
            "conversation_rate": base.limits.conversation_rate, "rates_shared_by": base.limits.shared_by,
            # What it reached: gauges that share the rates do not alarm equally often.
            "turns_expected": round(base.turn_rate * totals.turns, 2),
            "drifted_expected": round(base.conversation_rate * totals.conversations, 2),
            "reached_on_quiet_traffic": {"turn": round(base.turn_rate, 5),
                                         "conversation": round(base.conversation_rate, 5)},
            "warning": base.warning,
        }  # fmt: skip
    return found


def _worst_lines(totals: Totals, folder: ChunkFolder, most: int) -> list[tuple[tuple[int, int], dict[str, Any]]]:
    """The worst conversations, worst first, each with its (chunk, place)."""
    chosen = [(-chunk, -place) for _, chunk, place in heapq.nlargest(most, totals.worst)]
    wanted: dict[int, dict[int, dict[str, Any]]] = {}
    for chunk, place in chosen:
        wanted.setdefault(chunk, {})[place] = {}
    for chunk, places in wanted.items():
        for place, line in enumerate(folder.lines(chunk)):
            if place in places:
                line.pop("detail", None) if most > SHOWN else None
                places[place] = line
    return [(key, wanted[key[0]][key[1]]) for key in chosen]


def _worst_summary(line: Mapping[str, Any], gauges: GaugeSet) -> dict[str, Any]:
    worst = max(range(len(line["scores"])), key=lambda g: line["scores"][g])
    return {
        "conversation": line["id"], "gauge": gauges.gauges[worst].name, "score": line["scores"][worst],
        "left_at": line["left_at"][worst], "turns": line["n_turns"], "model": line["model"], "time": line["time"],
        "source": line["source"], "line": line["line"],
    }  # fmt: skip


def report_of(totals: Totals, gauges: GaugeSet, folder: ChunkFolder, title: str, made: str) -> ScanReport:
    """What the page shows."""
    lines = _worst_lines(totals, folder, LISTED)
    with_text = dict(_worst_lines(totals, folder, SHOWN))
    details: list[ConversationDetail] = []
    size = 0
    for index, (key, line) in enumerate(lines):
        detail = with_text.get(key, {}).get("detail")
        if detail is None:
            continue
        size += sum(len(t["text"]) + 8 * len(t.get("tokens", ())) for t in detail["turns"])
        if size > SHOWN_CHARACTERS and details:
            break
        details.append(_detail(line["id"], index, detail, len(gauges.gauges)))
    return ScanReport(
        title=title, reader=gauges.reader, made=made, baseline=baseline_sentence(gauges),
        gauges=tuple(_gauge_line(g, i, totals) for i, g in enumerate(gauges.gauges)),
        conversations=tuple(_line(line) for _, line in lines), details=tuple(details), n_turns=totals.turns,
        n_tokens=totals.tokens, skipped=tuple(totals.first_skipped), n_skipped=totals.skipped,
        left_out=totals.conversations - len(lines), notes=(), together=_together(gauges),
        tallies=_tallies(totals),
    )  # fmt: skip


def _tallies(totals: Totals) -> Tallies:
    return Tallies(
        Tally(totals.conversations, (*totals.left, totals.drifted)),
        tuple((name or None, Tally(n, tuple(drifted))) for name, (n, *drifted) in totals.models.items()),
        tuple((day, Tally(n, tuple(drifted))) for day, (n, *drifted) in totals.days.items()),
    )


def baseline_sentence(gauges: GaugeSet) -> str:
    """What sigma is measured against, in words."""
    sources = {g.baseline.source: g.baseline for g in gauges.gauges if g.baseline}
    parts = (f"{name} ({b.n_turns} answers in {b.n_conversations} conversations)" for name, b in sources.items())
    return f"Sigma is counted from {'; '.join(parts)}." if sources else "No gauge here has a baseline."


def _gauge_line(gauge: Gauge, i: int, totals: Totals) -> GaugeLine:
    base = gauge.baseline
    if base is None:
        return GaugeLine(gauge.name, gauge.description, gauge.side, gauge.layer, float("nan"), (0, 0), (0, 0), 0, 0,
                         "it has no baseline, so it raises no alarms")  # fmt: skip
    strong = [f"{name} ({value:+.1f} sigma)" for name, value in base.effects.items() if abs(value) >= 0.5]
    notes = [f"Taken out before sigma is counted: {', '.join(strong)}."] if strong else []
    notes += [base.warning] if base.warning else []
    return GaugeLine(
        gauge.name, gauge.description, gauge.side, gauge.layer, base.limits.turn, (base.turn_hits, base.n_turns),
        (base.conversation_hits, base.n_conversations), totals.alarms[i], totals.left[i], " ".join(notes),
    )  # fmt: skip


def _together(gauges: GaugeSet) -> Together | None:
    """What is known of any of them, if they are all that share limits: their baselines then say the same of it."""
    bases = [g.baseline for g in gauges.gauges]
    said = {
        b and (b.source, b.limits.shared_by, b.limits.conversation_rate, b.n_conversations, b.any_turn_hits,
               b.any_conversation_hits)
        for b in bases
    }  # fmt: skip
    one = bases[0]
    if one is None or len(said) > 1 or one.limits.shared_by != len(bases):
        return None
    return Together(one.limits.conversation_rate, (one.any_conversation_hits, one.n_conversations))


def _line(line: Mapping[str, Any]) -> ConversationLine:
    return ConversationLine(
        line["id"], line["model"], line["time"], line["source"], line["line"], line["n_turns"],
        tuple(line["scores"]), tuple(line["left_at"]),
    )  # fmt: skip


def _detail(name: str, index: int, detail: Mapping[str, Any], n: int) -> ConversationDetail:
    turns = tuple(
        TurnDetail(
            t["message_index"], t["role"], t["text"], tuple(t.get("sigma", [None] * n)),
            tuple(t.get("alarm", [False] * n)), tuple(t.get("cusum", [None] * n)),
            tuple(t.get("tokens", ())), tuple(t.get("tints", ())),
        )
        for t in detail["turns"]
    )  # fmt: skip
    return ConversationDetail(name, index, turns, detail["gauge"])
