"""The conversation as HTML: what was said, answers with their tokens tinted, and a line on what was read.

Everything that a model or a person wrote is text here, never markup. Knows no Gradio.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from mien.report.page import clean
from mien.report.scan_embed import tinted_runs
from mien.report.svg import tag
from mien.report.words import percent, signed
from mien.serve.ui.faces import Face
from mien.serve.ui.session import Answer, Exchange, Lane
from mien.serve.ui.talk import Draft

FIRST_STEP = 2.0
"""Sigma of one step of the tints before there is anything to take it from: single tokens stray far."""
NAMES: Mapping[str, str] = {"auto": "Model", "plain": "Model, plain", "held": "Model, held"}


def tint_step(answers: Sequence[Answer], gauge: str | None) -> float:
    """Sigma of one step of the tints: three steps hold all but the outermost 3 % of the tokens."""
    sizes = sorted(abs(v) for a in answers for v in a.tints.get(gauge or "", ()) if v is not None and math.isfinite(v))
    if not sizes:
        return FIRST_STEP
    wanted = min(max(sizes[int(0.97 * (len(sizes) - 1))] / 3, 0.5), 1e6)
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 1.5, 2, 3, 5, 10) if factor * power >= wanted * 0.999)


def tinted(text: str, words: Sequence[str], tints: Sequence[float | None], step: float) -> Markup:
    """Text whose tokens have a tint where they lie a step or more off."""
    whole = clean(text)
    runs = tinted_runs(whole, words, [math.nan if t is None else t for t in tints], step)
    coded, at, parts = whole.encode("utf-16-le"), 0, []
    for length, level in zip(runs[::2], runs[1::2], strict=True):
        piece = coded[2 * at : 2 * (at + length)].decode("utf-16-le", "replace")
        parts.append(tag("mark", piece, class_=_tint(level)) if level else tag("span", piece))
        at += length
    rest = coded[2 * at :].decode("utf-16-le", "replace")
    return Markup("").join([*parts, tag("span", rest)] if rest else parts)


def _tint(level: int) -> str:
    return f"{'h' if level > 0 else 'c'}{abs(level)}t"


def legend(gauge: str | None, step: float) -> Markup:
    """What the tints mean."""
    if gauge is None:
        return Markup("")
    swatches = [tag("mark", _sigma(level * step), class_=_tint(level)) for level in (-3, -2, -1, 1, 2, 3)]
    return tag(
        "p", tag("span", "Words on ", tag("b", gauge), ", in σ: away from its alarm"), *swatches,
        tag("span", "towards it"), class_="legend",
    )  # fmt: skip


def _sigma(value: float) -> str:
    return signed(value, 0 if value == int(value) else 1)


def past(exchanges: Sequence[Exchange], lanes: Sequence[Lane], face: Face | None, step: float) -> Markup:
    """Everything that is over, in the lanes that are shown."""
    if not exchanges:
        return Markup("")
    return Markup("").join(part for e in exchanges for part in _exchange(e, lanes, face, step))


def welcome(model: str) -> Markup:
    """What stands there before anything is said."""
    return tag(
        "div",
        tag("p", "Say something to ", tag("b", model), "."),
        tag("p", "Every answer is read while it is written: the gauges say how far it is from ordinary answers, and "
                 "the words that took it there are tinted."),
        class_="welcome",
    )  # fmt: skip


def _exchange(exchange: Exchange, lanes: Sequence[Lane], face: Face | None, step: float) -> Iterator[Markup]:
    yield said(exchange.said)
    shown = [exchange.answer(lane) for lane in lanes]
    # Lanes that had not parted yet show one answer, not the same one twice.
    distinct = shown if len({id(a) for a in shown}) > 1 else shown[:1]
    yield _side_by_side([_answer(a, exchange.pushes, face, step) for a in distinct])


def said(text: str) -> Markup:
    """A message of the visitor's."""
    return tag("article", tag("h3", "You"), tag("p", text, class_="text"), class_="turn you")


def _side_by_side(answers: Sequence[Markup]) -> Markup:
    return tag("div", *answers, class_=f"answers n{len(answers)}")


def _answer(answer: Answer, pushes: Sequence[str], face: Face | None, step: float) -> Markup:
    name = face.name if face else ""
    return tag(
        "article", tag("h3", NAMES[answer.lane]),
        tag("p", tinted(answer.text, answer.words, answer.tints.get(name, ()), step), class_="text")
        if answer.text.strip() else tag("p", "(an empty answer)", class_="text none"),
        tag("p", *_meta(answer, pushes, face), class_="meta"),
        class_=f"turn model {answer.lane}",
    )  # fmt: skip


def _meta(answer: Answer, pushes: Sequence[str], face: Face | None) -> Iterator[Markup]:
    reading = answer.reading(face.name) if face else None
    if reading is not None and reading.sigma is not None:
        yield tag("span", f"{reading.gauge} {signed(reading.sigma, 1)} σ")
    for kind, word in (("drift", "drifted"), ("turn", "off")):
        if names := [r.gauge for r in answer.readings if r.alarm == kind]:
            yield tag("span", f"{word}: {', '.join(names)}", class_="off")
    if answer.fired is not None:
        yield tag("span", f"cap fired {percent(answer.fired)}")
    if pushes:
        yield tag("span", f"pushed: {', '.join(pushes)}")
    if answer.finish != "stop":
        yield tag("span", "stopped" if answer.finish == "stopped" else "cut at its token limit")


def alarm_words(kind: str | None, since: int | None) -> str:
    """`off`, or `drifted since message 3`; messages are counted from 1."""
    if kind != "drift":
        return "off"
    return "drifted" if since is None else f"drifted since message {since + 1}"


def now(message: str, drafts: Sequence[Draft], tints: Mapping[Lane, Sequence[float | None]], step: float) -> Markup:
    """A message that is being answered."""
    writing = [
        tag(
            "article", tag("h3", NAMES[d.lane]),
            tag("p", tinted(d.text, d.words, tints.get(d.lane, ()), step), tag("span", "", class_="caret"),
                class_="text"),
            tag("p", tag("span", "writing" if d.text else "waiting"), class_="meta"), class_=f"turn model {d.lane}",
        )
        for d in drafts
    ]  # fmt: skip
    return Markup("").join([said(message), _side_by_side(writing)])


def notice(text: str) -> Markup:
    """Why there is no answer."""
    return tag("p", text, class_="notice", role="alert")
