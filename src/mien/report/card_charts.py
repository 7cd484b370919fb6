"""A card's charts: which numbers go into which form, and what each says to a reader who cannot see it.

Every chart is drawn twice, wide and for a phone; the stylesheet shows one. A function returns None where the card
has nothing to draw. Knows no HTML around the charts.
"""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from mien.card import Card, Dose, LayerEvidence, Slope
from mien.report.lines import LineChart, Point, Readout, Series, draw_lines
from mien.report.rows import Row, RowChart, draw_bars, draw_dots
from mien.report.svg import domain, ticks
from mien.report.words import count, interval, known, number, short, signed, with_interval

_MAIN, _SIDE, _PHONE = 588.0, 292.0, 358.0
"""Pixels: the two columns of the page, and the phone."""
MOST_COSINES = 24
"""Bars drawn; the rest are in the table."""


def _lines(chart: LineChart, width: float) -> Markup:
    return draw_lines(chart, "wide", width, 312) + draw_lines(chart, "narrow", _PHONE, 280)


def dose_chart(card: Card) -> Markup | None:
    """Trait score and coherence against coef, with intervals, the boundary at 50 and the coherent range."""
    doses = sorted((dose for dose in card.dose_response if known(dose.coef)), key=lambda dose: dose.coef)
    if not doses:
        return None
    score = tuple(Point(d.coef, d.score, d.score_low, d.score_high) for d in doses)
    coherence = tuple(Point(d.coef, d.coherence, d.coherence_low, d.coherence_high) for d in doses)
    low, high = domain(d.coef for d in doses)
    chart = LineChart(
        key="dose",
        title="Trait score and coherence of steered answers, by coef",
        description="; ".join(", ".join(_told(dose)) for dose in doses),
        caption="0 to 100, mean over answers; band: 95% interval",
        x_label="coef",
        series=(
            Series("trait score", "score", score),
            Series("coherence", "coherence", coherence, square=True),
        ),
        x=(low, high),
        y=(0, 100),
        x_ticks=tuple(dict.fromkeys(d.coef for d in doses)) if len(doses) < 12 else tuple(ticks(low, high, 8)),
        levels=((50, "50: boundary"),),
        span=(*card.coef_range, "coherent range") if card.coef_range and all(map(known, card.coef_range)) else None,
        readouts=tuple(Readout(dose.coef, _told(dose)) for dose in doses),
    )
    return _lines(chart, _MAIN)


def _told(dose: Dose) -> tuple[str, ...]:
    return (
        f"coef {short(dose.coef)}",
        f"trait {with_interval(dose.score, dose.score_low, dose.score_high, 0)}",
        f"coherence {with_interval(dose.coherence, dose.coherence_low, dose.coherence_high, 0)}",
        count(dose.n, "answer"),
    )


def slope_chart(card: Card) -> Markup | None:
    """The slope of the direction above that of a random direction, on one axis with zero."""
    slopes: list[tuple[str, str, Slope | None]] = [
        ("this direction", "score", card.dose_slope),
        ("random direction", "random", card.dose_null),
    ]
    rows = tuple(
        Row(label, s.per_coef, f"{signed(s.per_coef, 1)} {interval(s.low, s.high, 1)}".strip(), style, s.low, s.high)
        for label, style, s in slopes
        if s is not None and known(s.per_coef)
    )
    if not rows:
        return None
    axis = domain((v for row in rows for v in (row.value, row.low, row.high) if v is not None), low=0, high=0)
    return _dots(
        RowChart(
            key="slope",
            title="Trait-score points per unit of coef",
            description="; ".join(f"{row.label}: {row.words}" for row in rows),
            rows=rows,
            axis=axis,
            origin=0,
            origin_name="0: no effect",
        )
    )


def _dots(chart: RowChart, width: float = _SIDE) -> Markup:
    return draw_dots(chart, "wide", width) + draw_dots(chart, "narrow", _PHONE)


def _layers(card: Card) -> list[LayerEvidence]:
    return sorted(card.layers, key=lambda layer: layer.layer)


def _layer_chart(
    card: Card,
    title: str,
    caption: str,
    series: tuple[Series, ...],
    read: Callable[[LayerEvidence], tuple[str, ...]],
    least: float,
    levels: tuple[tuple[float, str], ...],
    key: str,
) -> LineChart:
    values = [v for s in series for p in s.points for v in (p.y, p.low, p.high) if v is not None]
    low, _ = domain(values, low=least, high=1.0)
    last = max(card.n_layers - 1, *(layer.layer for layer in card.layers), 1)
    chosen = card.recommended_layer
    return LineChart(
        key=key,
        title=title,
        description="; ".join(", ".join(read(layer)) for layer in _layers(card)),
        caption=caption,
        x_label="layer",
        series=series,
        x=(0, last),
        y=(low, 1.0),
        x_ticks=tuple(value for value in ticks(0, last, 8) if value == int(value)),
        levels=levels,
        mark=(chosen, f"layer {chosen}") if chosen is not None else None,
        readouts=tuple(Readout(layer.layer, read(layer)) for layer in _layers(card)),
    )


def auc_chart(card: Card) -> Markup | None:
    """Held-out AUC by layer with its interval, above both nulls."""
    layers = _layers(card)
    if not layers:
        return None

    def read(layer: LayerEvidence) -> tuple[str, ...]:
        return (
            f"layer {layer.layer}",
            f"AUC {with_interval(layer.auc, layer.auc_low, layer.auc_high)}",
            f"random {number(layer.auc_random)}",
            f"shuffled {number(layer.auc_null)}",
        )

    series = (
        Series("random", "random", tuple(Point(e.layer, e.auc_random) for e in layers), dots=False),
        Series("shuffled", "shuffled", tuple(Point(e.layer, e.auc_null) for e in layers), dots=False),
        Series("this direction", "score", tuple(Point(e.layer, e.auc, e.auc_low, e.auc_high) for e in layers)),
    )
    title = "Held-out AUC by layer, with shuffled labels and random directions"
    caption = "AUC; band: 95% interval"
    return _lines(_layer_chart(card, title, caption, series, read, 0.45, ((0.5, "0.5: chance"),), "auc"), _MAIN)


def split_half_chart(card: Card) -> Markup | None:
    """Cosine between directions from two halves of the questions, above its null."""
    layers = _layers(card)
    if not layers:
        return None

    def read(layer: LayerEvidence) -> tuple[str, ...]:
        cosine = with_interval(layer.split_half_cosine, layer.split_half_low, layer.split_half_high)
        return f"layer {layer.layer}", cosine, f"shuffled {number(layer.split_half_null)}"

    points = tuple(Point(e.layer, e.split_half_cosine, e.split_half_low, e.split_half_high) for e in layers)
    series = (
        Series("shuffled", "shuffled", tuple(Point(e.layer, e.split_half_null) for e in layers), dots=False),
        Series("halves", "score", points, dots=len(layers) < 14),
    )
    title = "Cosine between directions from two halves of the questions, by layer"
    return _lines(_layer_chart(card, title, "cosine", series, read, 0.0, (), "halves"), _SIDE)


def rival_chart(card: Card, best: LayerEvidence | None) -> Markup | None:
    """AUC of the direction at the recommended layer beside the judge's and every confound's."""
    rows = []
    if best is not None and known(best.auc):
        words = with_interval(best.auc, best.auc_low, best.auc_high)
        rows.append(Row(f"this direction, layer {best.layer}", best.auc, words, "score", best.auc_low, best.auc_high))
    judge = card.judge
    if judge is not None and judge.auc is not None and known(judge.auc):
        words = with_interval(judge.auc, judge.auc_low, judge.auc_high)
        rows.append(Row("the judge", judge.auc, words, "judge", judge.auc_low, judge.auc_high))
    for confound in card.confounds:
        if known(confound.auc):
            rows.append(Row(f"{confound.name} alone", confound.auc, number(confound.auc), "random"))
    if not rows:
        return None
    low = 0.4 if all((row.low if row.low is not None else row.value) >= 0.4 for row in rows) else 0.0
    return _dots(
        RowChart(
            key="rivals",
            title="AUC between positive and negative rollouts: the direction, the judge, and confounds alone",
            description="; ".join(f"{row.label}: {row.words}" for row in rows),
            rows=tuple(rows),
            axis=(low, 1.0),
            origin=0.5,
            origin_name="0.5: chance",
        ),
        432.0,
    )


def rollout_chart(card: Card) -> Markup | None:
    """How many of the rollouts asked for were kept, and how many each reason took."""
    part = card.rollouts
    if part is None or part.asked <= 0:
        return None
    reasons = sorted(part.dropped.items(), key=lambda item: -item[1])
    rows = [Row("kept", part.kept, f"{part.kept:,}", "score")]
    rows += [Row(reason, n, f"{n:,}", "random") for reason, n in reasons]
    chart = RowChart(
        key="rollouts",
        title=f"Of {count(part.asked, 'rollout')}: kept, and dropped by reason",
        description="; ".join(f"{row.label}: {row.words}" for row in rows),
        rows=tuple(rows),
        axis=(0, max(part.asked, *(row.value for row in rows))),
        origin=0,
    )
    return draw_bars(chart, "wide", 432.0, numbered=False) + draw_bars(chart, "narrow", _PHONE, numbered=False)


def cosine_chart(card: Card) -> Markup | None:
    """Cosines with other directions, the largest first; of many, those furthest from zero."""
    finite = [(name, value) for name, value in card.cosines.items() if known(value)]
    furthest = sorted(finite, key=lambda item: -abs(item[1]))[:MOST_COSINES]
    rows = tuple(
        Row(name, value, signed(value), "score" if value >= 0 else "coherence")
        for name, value in sorted(furthest, key=lambda item: -item[1])
    )
    if not rows:
        return None
    chart = RowChart(
        key="cosines",
        title="Cosine with other directions",
        description="; ".join(f"{row.label}: {row.words}" for row in rows),
        rows=rows,
        axis=(-1, 1),
        origin=0,
    )
    return draw_bars(chart, "wide", _MAIN) + draw_bars(chart, "narrow", _PHONE)
