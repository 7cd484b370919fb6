"""One group of conversations, read once by the reader, measured on every gauge.

Shapes: t answers of a conversation, g gauges. This file does not know where conversations come from or go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mien.engines.hf_turns import TurnReading, read_turns
from mien.errors import InputError
from mien.gauges import Gauge, GaugeSet, cusum, left_at, texture
from mien.logs import LoggedConversation
from mien.models import Model
from mien.records import Message

_SMOOTH = 5
"""Tokens that a tint is averaged over; one token's projection says little."""


@dataclass(frozen=True)
class Values:
    """A conversation's answers on every gauge. Where a gauge cannot say (an answer without text), values are NaN."""

    answers: tuple[int, ...]
    """Which of the conversation's messages are answers, by their place among them."""
    projection: np.ndarray
    """`[t, g]` raw."""
    sigma: np.ndarray
    """`[t, g]`; NaN for a gauge without baseline."""
    statistic: np.ndarray
    """`[t, g]` CUSUM of the deviations; the limit is 1."""
    left: tuple[int | None, ...]
    """By gauge: the answer (place among `answers`) since which it is off; None if it is not."""

    @property
    def scores(self) -> np.ndarray:
        """`[g]`: the largest CUSUM over its limit; 1 or more is drift."""
        return self.statistic.max(0) if len(self.statistic) else np.zeros(self.statistic.shape[1])


@dataclass(frozen=True)
class Measured(Values):
    """A logged conversation, read and measured."""

    conversation: LoggedConversation
    reading: TurnReading


@dataclass(frozen=True)
class Panel:
    """Gauges of one reader, arranged so that one forward pass serves them all."""

    gauges: tuple[Gauge, ...]
    probes: dict[int, torch.Tensor]
    """Layer -> `[k, d]`, each distinct term of a gauge once."""
    terms: tuple[tuple[tuple[int, str], ...], ...]
    """By gauge: (column among all probes, of the answer or of what it answers)."""


def panel(gauges: GaugeSet, model: Model) -> Panel:
    """Arrange gauges for a reader.

    Raises:
        InputError: they are of another reader, there are none, or the reader has not so many layers.
    """
    if gauges.fingerprint != model.info.fingerprint:
        raise InputError(
            f"These gauges were made for {gauges.reader} (fingerprint {gauges.fingerprint[:12]}) and cannot be read by "
            f"{model.info.id} (fingerprint {model.info.fingerprint[:12]}); give --reader {gauges.reader}, or make "
            f"gauges for this reader with mien axis and mien baseline."
        )
    if not gauges.gauges:
        raise InputError("There are no gauges to read; name at least one.")
    if max(g.layer for g in gauges.gauges) >= model.n_layers:
        raise InputError(f"A gauge needs a layer that {model.info.id} does not have: it has 0 to {model.n_layers - 1}.")
    every = sorted({(part.layer, i, j) for i, g in enumerate(gauges.gauges) for j, part in enumerate(g.parts)})
    column = {(i, j): n for n, (_, i, j) in enumerate(every)}
    probes = {
        layer: torch.from_numpy(np.stack([gauges.gauges[i].parts[j].vector for k, i, j in every if k == layer]))
        for layer in sorted({layer for layer, *_ in every})
    }
    terms = tuple(tuple((column[i, j], part.of) for j, part in enumerate(g.parts)) for i, g in enumerate(gauges.gauges))
    return Panel(gauges.gauges, probes, terms)


def project(which: Panel, pooled: np.ndarray, answers: Sequence[int], asked: Sequence[int | None]) -> np.ndarray:
    """`[t, g]` raw projections of the answers; NaN where an answer, or what a gauge compares it with, has no text.

    Args:
        pooled: `[m, p]` mean projection of each message on each probe, NaN for one without tokens.
    """
    missing = np.full(pooled.shape[1], np.nan)
    result = np.zeros((len(answers), len(which.gauges)))
    for row, (answer, before) in enumerate(zip(answers, asked, strict=True)):
        of = {"answer": pooled[answer], "asked": missing if before is None else pooled[before]}
        for g, terms in enumerate(which.terms):
            result[row, g] = sum(float(of[kind][column]) for column, kind in terms)
    return result


def turns_of(messages: Sequence[Message]) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """Places of the answers, and of the user's message that each answers (None if there is none before it)."""
    answers, asked = [], []
    last: int | None = None
    for i, message in enumerate(messages):
        if message.role == "user":
            last = i
        elif message.role == "assistant":
            answers.append(i)
            asked.append(last)
    return tuple(answers), tuple(asked)


def textures_of(messages: Sequence[Message], answers: Sequence[int]) -> np.ndarray:
    """`[t, f]`."""
    rows = [texture(messages[i].content, place) for place, i in enumerate(answers, 1)]
    return np.stack(rows) if rows else np.zeros((0, 6))


def measure(model: Model, which: Panel, conversations: Sequence[LoggedConversation]) -> list[Measured]:
    """Every conversation on every gauge, in the order given.

    Raises:
        InputError: the model's template refuses one of them.
        NonFiniteError: activations hold NaN or infinity.
    """
    readings = read_turns(model, [c.messages for c in conversations], which.probes)
    return [_measured(which, c, r) for c, r in zip(conversations, readings, strict=True)]


def _measured(which: Panel, conversation: LoggedConversation, reading: TurnReading) -> Measured:
    found = values_of(which, conversation.messages, reading.pooled())
    return Measured(found.answers, found.projection, found.sigma, found.statistic, found.left, conversation, reading)


def values_of(which: Panel, messages: Sequence[Message], pooled: np.ndarray) -> Values:
    """A conversation's answers on every gauge, from the mean projection `[m, p]` of each of its messages."""
    answers, asked = turns_of(messages)
    projection = project(which, pooled, answers, asked)
    textures = textures_of(messages, answers)
    sigma = np.full_like(projection, np.nan)
    statistic = np.zeros_like(projection)
    left: list[int | None] = []
    for g, gauge in enumerate(which.gauges):
        since = None
        if gauge.baseline is not None and len(answers):
            sigma[:, g] = gauge.baseline.sigma(projection[:, g], textures)
            limit = gauge.baseline.limits.for_length(len(answers))
            statistic[:, g] = cusum(gauge.sign * sigma[:, g]) / limit
            since = left_at(gauge.sign * sigma[:, g], limit)
        left.append(since)
    return Values(answers, projection, sigma, statistic, tuple(left))


def tints(which: Panel, measured: Measured, g: int, place: int) -> np.ndarray:
    """`[n_tokens]`: an answer's tokens on one gauge, smoothed, in sigma towards the alarming side."""
    start, end = measured.reading.spanned.spans[measured.answers[place]]
    here = textures_of(measured.conversation.messages, measured.answers)[place]
    return tinted(which, g, measured.reading.tokens[start:end], float(measured.projection[place, g]), here)


def tinted(which: Panel, g: int, tokens: np.ndarray, projection: float, here: np.ndarray) -> np.ndarray:
    """`[n_tokens]`: tokens of an answer on one gauge, smoothed, in sigma towards the alarming side.

    Args:
        tokens: `[n_tokens, p]` each token on every probe.
        projection: of the whole answer, raw.
        here: `[f]` the answer's texture.
    """
    gauge = which.gauges[g]
    columns = [column for column, of in which.terms[g] if of == "answer"]
    raw = tokens[:, columns].sum(1, dtype=np.float64)
    if gauge.baseline is None or not len(raw):
        return np.zeros(len(raw))
    # Terms that compare with the question move all of an answer's tokens alike.
    shift = projection - raw.mean()
    kernel = np.ones(min(_SMOOTH, len(raw)))
    smooth = np.convolve(raw, kernel, "same") / np.convolve(np.ones(len(raw)), kernel, "same")
    expected = gauge.baseline.expected(here[None])[0]
    return np.asarray(gauge.sign * (smooth + shift - expected) / gauge.baseline.std)
