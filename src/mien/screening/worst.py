"""The strangest records of a data set: their words, what the model says itself, and what groups they fall into.

This file does not know how records were measured or what a page looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from mien.chat import Chat
from mien.errors import InputError
from mien.logs import Broken, LoggedConversation
from mien.progress import Progress
from mien.screening.answers import AnswerBook, prompt_key
from mien.screening.clusters import Cluster, cluster, pooled
from mien.screening.measure import Bench, answers_of
from mien.screening.sample import taken
from mien.screening.totals import Totals, TraitTotals

GROUPED = 60
"""Most records that are grouped, a watched direction."""
_STRANGE = 1.0
"""Sigma beyond which a record is strange enough to be grouped."""
_FEW = 4


@dataclass(frozen=True)
class WorstRecord:
    """One record."""

    place: int
    """In the data set, from 0."""
    difference: float
    """Raw units."""
    record: LoggedConversation
    own: str | None
    """What the model says to its last prompt; None where that was not written."""


@dataclass(frozen=True)
class Worst:
    """The strangest records on one watched direction."""

    records: tuple[WorstRecord, ...]
    """The worst first."""
    clusters: tuple[Cluster, ...]
    """Groups of those beyond one sigma, members as places among `records`."""


def look_at_worst(
    bench: Bench, totals: Totals, records: Callable[[], Iterable[LoggedConversation | Broken]], sample: Sequence[int],
    seed: int, show: Progress,
) -> list[Worst]:  # fmt: skip
    """The worst on each watched direction, found again in the data and grouped.

    Args:
        records: the data set, from its beginning.
        sample: places of ordinary records, whose words the groups' are compared with.
    """
    ranked = [trait.ranked for trait in totals.traits]
    wanted = {place for one in ranked for place, _ in one} | set(sample)
    there = taken(records(), wanted)
    found = [[(place, value) for place, value in one if place in there] for one in ranked]
    strange = [_strange(trait, one) for trait, one in zip(totals.traits, found, strict=True)]
    every = sorted({place for one in strange for place in one})
    layers = sorted({_layer(trait) for trait in totals.traits})
    show.begin("grouping the worst records", len(every))
    points = pooled(bench.model, [there[p] for p in every], layers) if every else None
    row = {place: i for i, place in enumerate(every)}
    ordinary = [_said(there[place]) for place in sample if place in there]
    worst = []
    for trait, one, odd in zip(totals.traits, found, strange, strict=True):
        groups: list[Cluster] = []
        if points is not None and len(odd) >= _FEW:
            mine = points[[row[p] for p in odd], layers.index(_layer(trait))]
            inside = set(odd)
            rest = [_said(there[p]) for p in sample if p in there and p not in inside]
            groups = cluster(mine, [_said(there[p]) for p in odd], rest or ordinary, seed)
        listed = tuple(
            WorstRecord(place, value, there[place], _own(bench.model.chat, bench.book, there[place]))
            for place, value in one
        )
        worst.append(Worst(listed, tuple(groups)))
    show.advance(len(every))
    return worst


def _layer(trait: TraitTotals) -> int:
    """The middle one of those that it reads."""
    layers = trait.watched.layers
    return layers[len(layers) // 2]


def _strange(trait: TraitTotals, ranked: Sequence[tuple[int, float]]) -> list[int]:
    """Places of the worst beyond one sigma. They are the first of `ranked`, so they have the same numbers there."""
    limit = _STRANGE * trait.centre.sigma
    return [place for place, value in ranked[:GROUPED] if trait.watched.sign * value > limit]


def _said(record: LoggedConversation) -> str:
    return "\n".join(record.messages[i].content for i in answers_of(record))


def _own(chat: Chat, book: AnswerBook, record: LoggedConversation) -> str | None:
    places = answers_of(record)
    try:
        key = prompt_key(chat.prompt_ids(record.messages[: places[-1]]))
    except (InputError, IndexError):
        return None
    return book.get([key]).get(key, (None, 0))[0]
