"""The persona map's charts that no slider moves: stability over layers, and what a number of roles is worth.

What changes with the layer is drawn by axis.js. Each chart here is drawn twice, wide and for a phone.
"""

from __future__ import annotations

from markupsafe import Markup

from mien.report.axis_data import AxisReport
from mien.report.axis_words import at_start, cost_sentence, layer_sentence
from mien.report.lines import LineChart, Point, Readout, Series, draw_lines
from mien.report.svg import domain, ticks
from mien.report.words import known

_WIDE, _PHONE = 560.0, 358.0


def _lines(chart: LineChart) -> Markup:
    return draw_lines(chart, "wide", _WIDE, 300) + draw_lines(chart, "narrow", _PHONE, 270)


def stability_chart(report: AxisReport) -> Markup | None:
    """Split-half cosine over roles and over questions, by layer."""
    layers = sorted(report.layers, key=lambda layer: layer.layer)
    values = [v for e in layers for v in (e.split_half_roles, e.split_half_questions) if known(v)]
    if not values:
        return None
    dots = len(layers) < 14
    halves = (
        ("roles", "score", tuple(Point(e.layer, e.split_half_roles) for e in layers), False),
        ("questions", "coherence", tuple(Point(e.layer, e.split_half_questions) for e in layers), True),
    )
    low, _ = domain(values, low=0.0, high=1.0)
    first, last = layers[0].layer, max(layers[-1].layer, layers[0].layer + 1)
    chosen = at_start(report)
    chart = LineChart(
        key="stability",
        title="Cosine between axes from two halves of the roles and of the questions, by layer",
        description="; ".join(", ".join(layer_sentence(layer)) for layer in layers),
        caption="cosine of the axes from two halves",
        x_label="layer",
        series=tuple(Series(name, style, points, dots, square) for name, style, points, square in halves),
        x=(first, last),
        y=(max(low, -1.0), 1.0),
        x_ticks=tuple(value for value in ticks(first, last, 8) if value == int(value)),
        mark=(chosen.layer, f"layer {chosen.layer}") if chosen else None,
        readouts=tuple(Readout(layer.layer, layer_sentence(layer)) for layer in layers),
    )
    return _lines(chart)


def cost_chart(report: AxisReport) -> Markup | None:
    """Cosine with the axis of the other roles against the number of roles."""
    points = sorted((p for p in report.cost if known(p.cosine)), key=lambda p: p.n_roles)
    if not points:
        return None
    edges = [v for p in points for v in (p.cosine, p.low, p.high) if known(v)]
    low, _ = domain(edges, low=0.5, high=1.0)
    chart = LineChart(
        key="cost",
        title="Cosine with the axis of the other roles, by number of roles",
        description="; ".join(map(cost_sentence, points)),
        caption="cosine with the other roles' axis; band: 5% to 95%",
        x_label="roles",
        series=(Series("", "score", tuple(Point(p.n_roles, p.cosine, p.low, p.high) for p in points)),),
        x=domain((p.n_roles for p in points), low=0),
        y=(max(low, -1.0), 1.0),
        x_ticks=tuple(dict.fromkeys(float(p.n_roles) for p in points)),
        levels=((0.9, "0.9"),),
        readouts=tuple(Readout(p.n_roles, tuple(cost_sentence(p).split(": ", 1))) for p in points),
    )
    return _lines(chart)
