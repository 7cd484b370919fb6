"""Recent alarms, and one conversation of the history with its readings, as HTML.

Names come from clients, so everything is text here. Knows no Gradio and no database.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from mien.records import Message
from mien.report.svg import tag
from mien.report.words import count, known, number, percent, shorten, signed
from mien.serve.records import Alarm, GaugeReading, Turn
from mien.serve.ui.session import Lane, Session
from mien.serve.ui.view_chat import alarm_words
from mien.serve.ui.view_drift import Line, drift

SHOWN = 12
"""Alarms in the list."""
TURNS = 200
"""Turns of a conversation that are shown: the last ones."""
_ROLES = {"system": "System", "user": "User", "assistant": "Model"}


def alarms(recent: Sequence[Alarm], mine: Mapping[str, str], now: float) -> Markup:
    """The latest alarms, latest first, each a button into its conversation.

    Args:
        recent: latest first.
        mine: what the visitor's own conversation is called, by its names in the history.
        now: seconds since 1970.
    """
    if not recent:
        return tag("p", "None yet.", class_="quiet")
    return tag("ol", *(tag("li", _alarm(a, mine.get(a.conversation), now)) for a in recent[:SHOWN]))


def _alarm(alarm: Alarm, mine: str | None, now: float) -> Markup:
    where = mine or shorten(alarm.conversation, 24)
    what = "drifted" if alarm.kind == "drift" else "off"
    since = "" if alarm.since is None else f", since {alarm.since + 1}"
    size = f"{signed(alarm.sigma, 1)} σ" if known(alarm.sigma) and alarm.kind == "turn" else number(alarm.statistic)
    return tag(
        "button", tag("span", f"{alarm.gauge} {what}", class_="what"), tag("span", size, class_="size"),
        tag("span", f"{where}, message {alarm.index + 1}{since}", class_="where"),
        tag("time", ago(now - alarm.at), datetime=_iso(alarm.at), class_="when"), type="button",
        data_conversation=alarm.conversation, data_gauge=alarm.gauge, class_="mine" if mine else None,
    )  # fmt: skip


def ago(seconds: float) -> str:
    """`now`, `4 min`, `3 h`, `2 d`."""
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} ago"
    return "just now"


def _iso(at: float) -> str:
    try:
        return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):
        return "?"


def conversation(id: str, turns: Sequence[Turn], gauge: str | None, said: Mapping[int, str] | None = None) -> Markup:
    """A conversation's turns with everything that was read.

    Args:
        gauge: the one that is charted; None: the one that came nearest to its alarm.
        said: texts by message index, where the history keeps none and the visitor was there.
    """
    if not turns:
        return tag("p", "The history knows nothing of this conversation; it may be older than what is kept.",
                   class_="quiet")  # fmt: skip
    shown = turns[-TURNS:]
    names = list(dict.fromkeys(r.gauge for t in turns for r in t.readings))
    chosen = gauge if gauge in names else _nearest(turns)
    parts = [tag("p", _facts(id, turns), class_="quiet")]
    if chosen is not None:
        points = tuple((i, r.statistic) for i, t in enumerate(turns, 1) for r in t.readings if r.gauge == chosen)
        parts += [tag("h3", "Drift on ", tag("b", chosen)), drift(chosen, [Line("auto", points)], "past")]
    if len(shown) < len(turns):
        parts.append(tag("p", f"The last {len(shown)} of {count(len(turns), 'answer')}.", class_="quiet"))
    texts = any(t.messages for t in turns) or bool(said)
    if not texts:
        parts.append(tag("p", "The server keeps readings and no texts; start it so that it keeps them to see what was "
                              "said.", class_="quiet"))  # fmt: skip
    parts += _turns(shown, said or {}, chosen)
    return Markup("").join(parts)


def _nearest(turns: Sequence[Turn]) -> str | None:
    every = [r for t in turns for r in t.readings]
    return max(every, key=lambda r: r.statistic).gauge if every else None


def _facts(id: str, turns: Sequence[Turn]) -> str:
    written = "" if turns[-1].source == "served" else ", written elsewhere"
    return f"{shorten(id, 60)} · {shorten(turns[-1].model, 60)}{written} · {count(len(turns), 'answer')} · " \
           f"last {_iso(turns[-1].at)} UTC"  # fmt: skip


def _turns(turns: Sequence[Turn], said: Mapping[int, str], chosen: str | None) -> Iterator[Markup]:
    told = 0  # messages that stand above already
    for turn in turns:
        texts = turn.messages or ()
        for message in texts[told : turn.index]:
            yield _message(message)
        told = max(told, turn.index + 1)
        if not texts and turn.index - 1 in said:
            yield _message(Message("user", said[turn.index - 1]))
        text = texts[turn.index].content if turn.index < len(texts) else said.get(turn.index)
        yield _turn(turn, text, chosen)


def _message(message: Message) -> Markup:
    return tag("article", tag("h3", _ROLES[message.role]), tag("p", message.content, class_="text"), class_="turn you")


def _turn(turn: Turn, text: str | None, chosen: str | None) -> Markup:
    facts = [f"message {turn.index + 1}", f"{_iso(turn.at)} UTC", count(turn.completion_tokens, "token")]
    if turn.fired is not None:
        facts.append(f"held, cap fired {percent(turn.fired)}")
    elif turn.held:
        facts.append("pushed")
    if turn.finish == "length":
        facts.append("cut at its token limit")
    body = tag("p", text, class_="text") if text is not None else Markup("")
    return tag(
        "article", tag("h3", "Model"), body, tag("p", *(tag("span", f) for f in facts), class_="meta"),
        tag("ul", *(_reading(r, r.gauge == chosen) for r in turn.readings), class_="readings"),
        class_="turn model off" if any(r.alarm for r in turn.readings) else "turn model",
    )  # fmt: skip


def _reading(reading: GaugeReading, chosen: bool) -> Markup:
    classes = " ".join(name for name, there in (("over", reading.alarm), ("chosen", chosen)) if there)
    value = f"{signed(reading.sigma, 1)} σ" if known(reading.sigma) else "–"
    parts = [tag("span", reading.gauge, class_="name"), tag("span", value, class_="value")]
    if reading.alarm:
        parts.append(tag("span", alarm_words(reading.alarm, reading.since), class_="state"))
    return tag("li", *parts, class_=classes or None)


def texts_of(session: Session, lane: Lane) -> dict[int, str]:
    """What was said in a conversation that is still open in the page, by message index."""
    found = {}
    for i, exchange in enumerate(session.exchanges):
        found[2 * i + exchange.headed] = exchange.said
        found[2 * i + 1 + exchange.headed] = exchange.answer(lane).text
    return found
