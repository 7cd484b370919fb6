"""Gauges from directions, and their baselines from quiet traffic. Does not know how a conversation is read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.directions import Direction
from mien.errors import InputError
from mien.gauges import Gauge, GaugeSet, Part, Quiet, fit_baselines
from mien.gauges.baseline import CONVERSATION_RATE, TURN_RATE
from mien.gauges.gauge import Side
from mien.logs import Broken, Columns, LoggedConversation, Skipped, read_logs
from mien.models import Model
from mien.progress import Progress, Silent
from mien.scanning import quiet
from mien.scanning.chunks import chunked
from mien.scanning.measure import Panel, measure, panel, textures_of


def gauge_of(direction: Direction, side: Side | str | None = None, layer: int | None = None) -> Gauge:
    """A gauge of one direction at one layer (default: the recommended one), without baseline yet.

    Raises:
        InputError: no layer is recommended and none given, or the direction is zero there.
    """
    card = direction.card
    at = direction.layer if layer is None else layer
    axis = card.kind == "assistant_axis"
    found: Side = "low" if side == "low" or (side is None and axis) else "high"
    return Gauge(
        name=card.name, description=card.description, side=found,
        parts=(Part(at, direction.unit(at).numpy().astype(np.float32)),),
        kind="axis" if axis else "persona_vector", push=Part(at, direction.vector[at].numpy().astype(np.float32)),
        evidence={"verdict": card.verdict, "reasons": card.verdict_reasons, "model": card.model},
    )  # fmt: skip


def set_baseline(
    gauges: GaugeSet, model: Model, paths: Sequence[str | Path] | None = None, *, columns: Columns | None = None,
    format: str | None = None, turn_rate: float = TURN_RATE, conversation_rate: float = CONVERSATION_RATE,
    progress: Progress | None = None,
) -> GaugeSet:  # fmt: skip
    """The gauges with baselines from quiet traffic: files of logs, or the bundled conversations if None.

    The rates are those at which any of the gauges alarms. A gauge keeps nothing of a baseline it had, but for a fitted
    one's probability, which moves to the new sigma.

    Raises:
        InputError: gauges of another reader, or too little traffic.
        FormatError: a file in which nothing can be recognised.
    """
    traffic = read_quiet(gauges, model, paths, columns=columns, format=format, progress=progress)
    return with_baselines(gauges, traffic, turn_rate, conversation_rate)


@dataclass(frozen=True)
class Traffic:
    """Quiet traffic, read."""

    quiet: tuple[Quiet, ...]
    """By gauge."""
    source: str
    """What it was."""


def read_quiet(
    gauges: GaugeSet, model: Model, paths: Sequence[str | Path] | None = None, *, columns: Columns | None = None,
    format: str | None = None, progress: Progress | None = None,
) -> Traffic:  # fmt: skip
    """Files of logs on every gauge, or the bundled conversations if there are none: see `set_baseline`.

    Raises:
        InputError: gauges of another reader, or no answers.
        FormatError: a file in which nothing can be recognised.
    """
    show = progress or Silent()
    which = panel(gauges, model)
    if paths is None:
        read, source = _bundled(gauges, model, show), quiet.SOURCE
    else:
        records = read_logs(paths, columns=columns, format=format)
        read, source = _measured(model, which, records, show), ", ".join(Path(p).name or str(p) for p in paths)
    if not read:
        raise InputError("There are no conversations with answers in what was given as quiet traffic.")
    textures = tuple(t for _, t in read)
    found = [Quiet(tuple(p[:, g].astype(np.float64) for p, _ in read), textures) for g in range(len(gauges.gauges))]
    return Traffic(tuple(found), source)


def with_baselines(
    gauges: GaugeSet, traffic: Traffic, turn_rate: float = TURN_RATE, conversation_rate: float = CONVERSATION_RATE
) -> GaugeSet:
    """The gauges with baselines from traffic that was read on them, in their order: see `set_baseline`.

    Raises:
        InputError: too little traffic.
    """
    sides = [gauge.sign for gauge in gauges.gauges]
    bases = fit_baselines(traffic.quiet, sides, traffic.source, turn_rate, conversation_rate)
    found = [
        replace(gauge, baseline=base, probability=_moved(gauge, base.expected.mean, base.std))
        for gauge, base in zip(gauges.gauges, bases, strict=True)
    ]
    return replace(gauges, gauges=tuple(found))


_Read = list[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""One a conversation: projections `[t, g]` and textures `[t, f]` of its answers."""


def _bundled(gauges: GaugeSet, model: Model, show: Progress) -> _Read:
    found: _Read = []
    for one in quiet.quiet_readings(model, show, short=True):
        rows = np.zeros((len(one.answers), len(gauges.gauges)))
        for g, gauge in enumerate(gauges.gauges):
            for part in gauge.parts:
                places = one.answers if part.of == "answer" else one.asked
                for t, place in enumerate(places):
                    rows[t, g] += np.nan if place is None else float(one.means[place, part.layer] @ part.vector)
        found.append((rows, one.textures))
    return found


def _measured(model: Model, which: Panel, records: Iterable[LoggedConversation | Broken], show: Progress) -> _Read:
    found: _Read = []
    skipped = Skipped()
    show.begin("reading quiet traffic", 0)
    for chunk in chunked(records):
        good: list[LoggedConversation] = []
        for record in chunk.records:
            if isinstance(record, Broken):
                skipped.add(record)
            elif record.unanswered is None:
                good.append(record)
            else:
                skipped.add(Broken(record.source, record.line, record.unanswered))
        for one in measure(model, which, good) if good else ():
            found.append((one.projection, textures_of(one.conversation.messages, one.answers)))
        show.advance(len(found), sum(len(m.content) for c in good for m in c.messages) // 4)
    skipped.tell(show)
    return found


def _moved(gauge: Gauge, mean: float, std: float) -> tuple[float, float] | None:
    """The logistic curve of an old sigma in a new one: the same projection keeps its probability."""
    if gauge.probability is None or gauge.baseline is None:
        return gauge.probability
    slope, intercept = gauge.probability
    old = gauge.baseline
    return slope * std / old.std, intercept + slope * (mean - old.expected.mean) / old.std
