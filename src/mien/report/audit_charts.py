"""An audit's drawings: shifts as dots with intervals, and how much has changed by layer. Knows no HTML around."""

from __future__ import annotations

from markupsafe import Markup

from mien.report import audit_words
from mien.report.audit_data import AuditReport
from mien.report.lines import LineChart, Point, Series, draw_lines
from mien.report.rows import Row, RowChart, draw_dots
from mien.report.svg import domain, ticks
from mien.report.words import known, number

_WIDE, _PHONE = 912.0, 358.0


def shift_chart(report: AuditReport) -> Markup | None:
    """Every trait's shift in sigma, with its interval; None where there is none."""
    rows = tuple(
        Row(
            line.name, line.sigma, audit_words.shift(line), "coherence" if audit_words.beyond(line) else "random",
            line.low if known(line.low) else None, line.high if known(line.high) else None,
        )
        for line in report.shifts if known(line.sigma)
    )  # fmt: skip
    if not rows:
        return None
    every = [v for row in rows for v in (row.value, row.low, row.high) if known(v)]
    told = "; ".join(f"{row.label}: {row.words} sigma" for row in rows)
    ends = domain(every, low=-0.5, high=0.5)
    chart = RowChart("shifts", "Shift of each trait, in sigma", told, rows, ends, 0.0, "no shift")
    return draw_dots(chart, "wide", _WIDE) + draw_dots(chart, "narrow", _PHONE)


def layer_chart(report: AuditReport) -> Markup | None:
    """Change by layer; None where there is one layer only."""
    if len(report.relative) < 2:
        return None
    last = len(report.relative) - 1
    points = tuple(Point(k, v) for k, v in enumerate(report.relative))
    chart = LineChart(
        key="layers",
        title="Change by layer",
        description="; ".join(f"layer {k}: {number(v)}" for k, v in enumerate(report.relative)),
        caption="change, as a share of how much texts differ",
        x_label="layer",
        series=(Series("", "score", points, len(points) < 14),),
        x=(0, last),
        y=domain([v for v in report.relative if known(v)], low=0.0, high=0.05),
        x_ticks=tuple(value for value in ticks(0, last, 8) if value == int(value)),
        mark=(report.layer, f"layer {report.layer}"),
    )  # fmt: skip
    return draw_lines(chart, "wide", _WIDE, 240) + draw_lines(chart, "narrow", _PHONE, 240)
