"""A hold's sentences and cells. Knows no HTML and no chart; every sentence is made of the card's own numbers."""

from __future__ import annotations

from mien.holds import HoldCard, HoldRow, HoldTrial
from mien.report.words import known, listing, number, percent, shorten, signed, with_interval

GOAL = 0.5


def tone(card: HoldCard) -> str:
    """Which look the head of the page has."""
    held, most = card.held, card.max_price
    if held is None or most is None:
        return "none"
    if held.closed_low <= 0 or held.price > most:
        return "weak"
    return "strong" if held.closed >= GOAL else "usable"


def badge(card: HoldCard) -> str:
    """The same in a word."""
    return {"none": "not measured", "weak": "weak", "usable": "partial", "strong": "holds"}[tone(card)]


def headline(card: HoldCard) -> str:
    return card.remarks[0] if card.remarks else "Nothing has been measured."


def rows(card: HoldCard) -> list[HoldRow]:
    """The hold first, then what stands beside it."""
    return ([card.held] if card.held else []) + card.compared


def closed(row: HoldRow) -> str:
    return f"{percent(row.closed)} [{percent(row.closed_low)}, {percent(row.closed_high)}]"


def axis(row: HoldRow) -> str:
    """Change on the axis, in sigma."""
    return f"{signed(row.axis)} [{number(row.axis_low)}, {number(row.axis_high)}]"


def price(row: HoldRow) -> str:
    return with_interval(row.price, row.price_low, row.price_high, 3)


def neutral(row: HoldRow) -> str:
    """Its interval stands in the summary; the table has no room for it."""
    return number(row.neutral, 3) if known(row.neutral) else "-"


def fired(attacked: float | None, ordinary: float | None) -> str:
    if not known(attacked) and not known(ordinary):
        return "-"
    return f"{share(attacked)} / {share(ordinary)}"


def share(value: float | None) -> str:
    """`0.4%`, `12.3%`; a dash where there is none."""
    return f"{number(100 * value, 1)}%" if known(value) else "-"


def gap(card: HoldCard) -> str:
    """What the gap is, in a sentence."""
    if card.gap is None:
        return ""
    return (
        f"An unheld answer to an attack is on average {signed(card.gap[0])} nats a token likelier after the attack "
        f"than after the question alone; an ordinary answer {signed(card.gap[1])}. Between the two lies the gap."
    )


def kinds(card: HoldCard) -> list[str]:
    """Kinds of attack that the hold is reported on."""
    return list(card.held.by_kind) if card.held else []


def halves(card: HoldCard) -> str:
    """Which kinds it was chosen on, and which it is reported on."""
    if not card.chosen_on or not card.reported_on:
        return ""
    said = [listing([k.replace("_", " ") for k in names]) for names in (card.chosen_on, card.reported_on)]
    return f"Chosen on {said[0]}. Reported on {said[1]}, and on ordinary conversations not used before."


def bought(trial: HoldTrial) -> float | None:
    """What a way that was tried buys: closed if answers were written, else estimated."""
    return trial.closed if known(trial.closed) else trial.returned


def by_worth(card: HoldCard) -> list[HoldTrial]:
    """What was tried, within the price first, the best first."""
    most = card.max_price if known(card.max_price) else float("inf")
    return sorted(card.tried, key=lambda t: (t.price > most, -(bought(t) or 0.0)))


def named(name: str) -> str:
    return shorten(name, 120)


def brief(name: str) -> str:
    """What a way is called, without its particulars."""
    return shorten(name.split(": ")[0].split(" (")[0], 40)


def sentence(name: str) -> str:
    """A way's name with its particulars, as the beginning of a sentence."""
    return shorten(name[:1].upper() + name[1:].rstrip("."), 200)


def mark(card: HoldCard) -> str:
    """What the card's percentile is."""
    return "gates open on, of ordinary tokens" if "on alarm" in card.way else "percentile"
