"""The ordinary conversations that come with mien, read once by a reader and kept in the cache.

This file does not know gauges' baselines, nor what is done with the readings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.logs import LoggedConversation, read_logs
from mien.models import Model
from mien.progress import Progress
from mien.scanning.measure import textures_of, turns_of
from mien.scanning.message_means import message_means

SOURCE = "the ordinary conversations that come with mien"


@dataclass(frozen=True)
class QuietReading:
    """One ordinary conversation, read at every layer."""

    conversation: LoggedConversation
    means: NDArray[np.float32]
    """`[m, l, d]` raw: mean of the stream over each message."""
    answers: tuple[int, ...]
    """Which messages are answers."""
    asked: tuple[int | None, ...]
    """The message that each answers."""
    textures: NDArray[np.float64]
    """`[t, f]` of the answers."""


def ordinary_conversations() -> Iterator[LoggedConversation]:
    """The quiet traffic that comes with the package."""
    return _from_library("part*.jsonl")


def short_conversations() -> Iterator[LoggedConversation]:
    """More of it, in which answers are of a few words: a baseline needs them, to know how far such stray."""
    return _from_library("short.jsonl")


def _from_library(names: str) -> Iterator[LoggedConversation]:
    with resources.as_file(resources.files("mien") / "library" / "ordinary") as folder:
        for record in read_logs(sorted(Path(folder).glob(names))):
            assert isinstance(record, LoggedConversation)
            yield record


def quiet_readings(model: Model, show: Progress, *, short: bool = False) -> list[QuietReading]:
    """The ordinary conversations, and the `short` ones if asked for, read by the model at every layer; the first time
    takes minutes, later it comes from the cache.
    """
    conversations = [*ordinary_conversations(), *(short_conversations() if short else ())]
    show.begin("reading the ordinary conversations that come with mien", len(conversations))
    found = []
    for done, one in enumerate(conversations, 1):
        means, tokens = message_means(model, one, range(len(one.messages)), range(model.n_layers))
        answers, asked = turns_of(one.messages)
        found.append(QuietReading(one, means, answers, asked, textures_of(one.messages, answers)))
        show.advance(done, tokens)
    return found


def answer_means(readings: list[QuietReading]) -> NDArray[np.float32]:
    """`[n, l, d]`: every answer."""
    return np.concatenate([r.means[list(r.answers)] for r in readings])
