"""A hold's drawing: what every way that was tried buys, against what it costs. Knows no HTML around."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from mien.holds import HoldCard, HoldTrial
from mien.report.hold_words import bought
from mien.report.svg import CHARACTER_WIDTH, Scale, domain, drawing, tag, ticks
from mien.report.words import known, number, percent, short, shorten

_WIDE, _PHONE, _HEIGHT = 912.0, 358.0, 340.0
_LEFT, _FOOT, _TOP = 46.0, 40.0, 26.0


def trade(card: HoldCard) -> Markup | None:
    """Closed against price, every way tried a dot; None where nothing was tried."""
    tried = [t for t in card.tried if known(bought(t)) and known(t.price)]
    return _drawn(card, tried, "wide", _WIDE) + _drawn(card, tried, "narrow", _PHONE) if tried else None


def _drawn(card: HoldCard, tried: list[HoldTrial], variant: str, width: float) -> Markup:
    # Ways that cost far more than is allowed are drawn at the right edge: what matters lies on the left.
    far = 4 * (card.max_price or max(t.price for t in tried))
    x = Scale(*domain([min(t.price, far) for t in tried], low=0.0, high=far), _LEFT, width - 12)
    values = [max(bought(t) or 0.0, -0.3) for t in tried]
    y = Scale(*domain(values, low=-0.05, high=max(0.55, max(values) + 0.12)), _HEIGHT - _FOOT, _TOP)  # room for labels
    told = "; ".join(f"{t.name}: {percent(bought(t))} for {number(t.price, 3)} nat a token" for t in tried)
    parts = [*_frame(card, x, y), *(_dot(t, t.name == card.way, x, y) for t in tried)]
    chosen = next((t for t in tried if t.name == card.way), None)
    if chosen:
        parts.append(_label(chosen, x, y, width))
    return drawing(
        "trade", variant, width, _HEIGHT, "What every way that was tried buys, against its price", told, parts
    )


def _frame(card: HoldCard, x: Scale, y: Scale) -> Iterator[Markup]:
    for value in ticks(y.low, y.high, 6):
        yield tag("line", class_="grid", x1=x.start, x2=x.end, y1=y(value), y2=y(value))
        yield tag("text", percent(value), class_="tick end", x=x.start - 6, y=y(value) + 4)
    for value in ticks(x.low, x.high, 5):
        yield tag("text", short(value), class_="tick middle", x=x(value), y=y.start + 16)
    yield tag("line", class_="axis", x1=x.start, x2=x.end, y1=y(0), y2=y(0))
    yield tag("text", "of the gap closed", class_="faint", x=0, y=12)
    yield tag("text", "price, nats a token", class_="faint end", x=x.end, y=y.start + 34)
    if card.max_price is not None:
        at = x(card.max_price)
        yield tag("line", class_="level", x1=at, x2=at, y1=y.end, y2=y.start)
        yield tag("text", f"allowed: {short(card.max_price)}", class_="faint", x=at + 5, y=y.end + 10)


def _dot(trial: HoldTrial, chosen: bool, x: Scale, y: Scale) -> Markup:
    style = "coherence" if chosen else "score" if known(trial.closed) else "random"
    said = tag("title", f"{trial.name}: {percent(bought(trial))} for {number(trial.price, 3)} nat a token")
    return tag("circle", said, class_=f"dot {style}", cx=x(trial.price), cy=y(bought(trial) or 0.0),
               r=7.0 if chosen else 4.5)  # fmt: skip


def _label(trial: HoldTrial, x: Scale, y: Scale, width: float) -> Markup:
    text = shorten(trial.name, int((width - _LEFT - 40) / CHARACTER_WIDTH))
    left = min(x(trial.price) + 12, width - 12 - len(text) * CHARACTER_WIDTH)
    return tag(
        "text", text, class_="name coherence", x=left, y=y(bought(trial) or 0.0) + (4 if left > x(trial.price) else 22)
    )
