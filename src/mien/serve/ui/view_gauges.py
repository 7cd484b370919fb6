"""The gauges of an answer, and what the cap did, as HTML. Knows no Gradio and no conversation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from mien.report.svg import Scale, tag
from mien.report.words import count, known, percent, shorten, signed
from mien.serve.records import AlarmKind
from mien.serve.ui.faces import Face
from mien.serve.ui.session import Answer, Lane
from mien.serve.ui.talk import Draft

REACH = 6.0
"""Sigma at the ends of a track; limits of single answers lie between 2 and 6."""
WIDTH, HEIGHT = 150.0, 22.0


@dataclass(frozen=True, slots=True)
class Needle:
    """One lane's answer on every gauge."""

    lane: Lane
    sigma: Mapping[str, float | None]
    alarms: Mapping[str, AlarmKind] = field(default_factory=dict)
    live: bool = False
    """It is still being written, so nothing is an alarm yet."""


def needle_of(answer: Answer | Draft) -> Needle:
    """Where an answer stands, or the draft of one."""
    if isinstance(answer, Draft):
        return Needle(answer.lane, answer.sigma, live=True)
    read = answer.readings
    return Needle(answer.lane, {r.gauge: r.sigma for r in read}, {r.gauge: r.alarm for r in read if r.alarm})


def gauges(faces: Sequence[Face], needles: Sequence[Needle], chosen: str | None) -> Markup:
    """All gauges, each a button that puts it into the chart and the tints."""
    if not faces:
        return tag("p", "Nothing is read: there are no gauges for this model. mien axis and mien baseline make them.",
                   class_="quiet")  # fmt: skip
    two = len(needles) > 1
    rows = [tag("li", _row(face, needles, face.name == chosen, two)) for face in faces]
    heads = (
        [tag("span", n.lane, class_=f"head {n.lane}") for n in needles] if two else [tag("span", "σ", class_="head")]
    )
    head = tag("div", tag("span", "ordinary is 0; red is the alarm", class_="quiet"), *heads, class_="heads")
    return Markup("").join([head, tag("ul", *rows, class_="two" if two else None)])


def _row(face: Face, needles: Sequence[Needle], chosen: bool, two: bool) -> Markup:
    off = [n for n in needles if face.name in n.alarms]
    values = [_value(face, n) for n in needles] or [tag("span", "–", class_="value")]
    state = _state(face, off)
    return tag(
        "button", tag("span", tag("span", face.name), *([tag("span", state, class_="state")] if state else []),
                      class_="name"),
        _track(face, needles), *values, type="button", class_="gauge off" if off else "gauge",
        aria_pressed="true" if chosen else "false",
        data_gauge=face.name, title=f"{face.name}: {shorten(face.description, 160)}. {_limit_words(face)}",
        aria_label=_aria(face, needles, state),
    )  # fmt: skip


def _value(face: Face, needle: Needle) -> Markup:
    value = needle.sigma.get(face.name)
    classes = ["value", needle.lane, *(["over"] if face.name in needle.alarms else [])]
    return tag("span", signed(value, 1) if known(value) else "–", class_=" ".join(classes))


def _state(face: Face, off: Sequence[Needle]) -> str:
    if not off:
        return ""
    return f"drifted {face.side}" if any(n.alarms[face.name] == "drift" for n in off) else f"too {face.side}"


def _limit_words(face: Face) -> str:
    if face.limit is None:
        return "It has no baseline, so it never alarms."
    return f"A single answer alarms {'above' if face.sign > 0 else 'below'} {signed(face.sign * face.limit, 1)} σ."


def _aria(face: Face, needles: Sequence[Needle], state: str) -> str:
    told = [f"{n.lane + ': ' if len(needles) > 1 else ''}{signed(v, 1)} sigma" for n in needles
            if known(v := n.sigma.get(face.name))]  # fmt: skip
    return f"{face.name}: {', '.join(told) or 'not read yet'}. {state + '. ' if state else ''}{_limit_words(face)}"


def _track(face: Face, needles: Sequence[Needle]) -> Markup:
    """A line from -6 to 6 sigma, the alarming stretch in red, a mark where each lane's answer stands."""
    x, middle = Scale(-REACH, REACH, 4, WIDTH - 4), HEIGHT / 2
    parts = [tag("line", class_="rail", x1=4, x2=WIDTH - 4, y1=middle, y2=middle)]
    if face.limit is not None:
        edge, end = x(face.sign * face.limit), x(face.sign * REACH)
        left, right = min(edge, end), max(edge, end)
        # A limit beyond the track's end leaves a stub, so that the side can be told.
        left, right = (left, max(right, left + 6)) if face.sign < 0 else (min(left, right - 6), right)
        parts.append(tag("rect", class_="alarm", x=left, y=middle - 4, width=right - left, height=8, rx=2))
    parts.append(tag("line", class_="zero", x1=x(0), x2=x(0), y1=middle - 5, y2=middle + 5))
    parts += [mark for n in needles for mark in _mark(face, n, x, middle)]
    return tag("svg", *parts, class_="track", viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}", preserveAspectRatio="none",
               aria_hidden="true", focusable="false")  # fmt: skip


def _mark(face: Face, needle: Needle, x: Scale, middle: float) -> Iterator[Markup]:
    value = needle.sigma.get(face.name)
    if value is None or not math.isfinite(value):
        return
    classes = f"needle {needle.lane}{' live' if needle.live else ''}"
    yield tag("line", class_=classes, x1=x(value), x2=x(value), y1=middle - 8, y2=middle + 8)


def hold(can_hold: bool, name: str, firing: tuple[float | None, float | None, int]) -> Markup:
    """What the cap did, and how often it fired."""
    if not can_hold:
        return tag("p", "Answers are not held here: the server was started without --hold.", class_="quiet")
    last, mean, answers = firing
    if last is None or mean is None:
        ready = f"Ready to hold to {name}: no" if name else "No"
        return tag("p", f"{ready} answer has been held yet.", class_="quiet")
    return Markup("").join([
        tag("p", tag("b", percent(last)), " of the places it watches, the cap changed in the last held answer",
            f"; {percent(mean)} over {count(answers, 'held answer')}." if answers > 1 else "."),
        _bar(last, mean if answers > 1 else None),
        tag("p", _told(last), class_="quiet"),
    ])  # fmt: skip


def _bar(last: float, mean: float | None) -> Markup:
    parts = [
        tag("rect", class_="all", x=0, y=3, width=100, height=6, rx=1.5),
        tag("rect", class_="fired", x=0, y=3, width=100 * min(max(last, 0.0), 1.0), height=6, rx=1.5),
    ]
    if mean is not None:
        at = 100 * min(max(mean, 0.0), 1.0)
        parts.append(tag("line", class_="mean", x1=at, x2=at, y1=0, y2=12))
    return tag("svg", *parts, class_="share", viewBox="0 0 100 12", preserveAspectRatio="none", aria_hidden="true",
               focusable="false")  # fmt: skip


def _told(fired: float) -> str:
    if fired == 0:
        return "It never had to act: the answer stayed in range by itself."
    if fired > 0.95:
        return "It acted nearly everywhere, which is pushing rather than holding."
    return "Where it did not act, the stream was in range by itself."
