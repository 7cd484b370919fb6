"""One group of records: the data's answers and the model's own, read in one pass, on everything watched.

A record's value is the mean over the tokens of all its answers, each in its own context (a conversation of several
turns is read as it stands). Shapes: g watched, r twins. This file does not know the disk or how values are summed up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.engines.hf import HfEngine
from mien.engines.hf_pulls import Pulls
from mien.engines.hf_turns import TurnReading, read_turns
from mien.errors import InputError
from mien.logs import Broken, LoggedConversation
from mien.models import Model
from mien.records import Conversation, Sampling
from mien.screening.answers import AnswerBook, answered, prompt_key, write_answers
from mien.screening.pulled import room_of, summed, text_of
from mien.screening.watched import TWINS, Bank

_TOGETHER = 24
"""Conversations read at a time; every token's projections are held meanwhile."""

NO_ANSWER = "it has no answer to a user's message"
"""Why a conversation is left out."""
_EMPTY = "its answers have no tokens"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bench:
    """What every record is measured with."""

    engine: HfEngine
    bank: Bank
    book: AnswerBook
    sampling: Sampling
    """How the model's own answers are drawn."""
    seed: int
    read_tokens: int | None
    """Read so many tokens of an answer, from its start; None: all."""
    pulls: Pulls | None = None
    """What a step of training on a record does to answers of the model, which is measured instead if this is given."""

    @property
    def model(self) -> Model:
        return self.engine.model


@dataclass(frozen=True)
class Numbers:
    """One record on everything watched, raw units."""

    answers: int
    """Answers that went into it."""
    tokens: int
    """Tokens of them that were read."""
    answer: Floats
    """`[g]` the data's answers."""
    prompt: Floats
    """`[g]` the last token before them."""
    base: Floats
    """`[g]` the model's own answers; NaN where none was wanted, or it said nothing."""
    twins: Floats
    """`[g, r]` answer minus base along each watched one's random twins; NaN likewise."""
    twins_base: Floats
    """`[g, r]` base along them."""


@dataclass(frozen=True)
class Measured:
    """What came of a group of records."""

    found: list[Numbers | Broken]
    """One a record, in order."""
    tokens: int
    """Read."""
    written: int


@dataclass
class _Turn:
    """One answer of the data: where it stands, and what the model says instead."""

    place: int
    own: str | None = None
    read: TurnReading | None = None


def answers_of(record: LoggedConversation) -> tuple[int, ...]:
    """Places of the answers that follow a user's message."""
    messages = record.messages
    return tuple(
        i for i, m in enumerate(messages) if m.role == "assistant" and i and messages[i - 1].role == "user"
    )  # fmt: skip


def measure(bench: Bench, records: Sequence[LoggedConversation | Broken], with_base: bool, part: int) -> Measured:
    """Measure records, in the order given.

    Args:
        with_base: whether the model's own answers are wanted; without them nothing is written.
        part: number of this group, see `write_answers`.

    Raises:
        NonFiniteError: activations hold NaN or infinity.
    """
    broken: dict[int, Broken] = {i: r for i, r in enumerate(records) if isinstance(r, Broken)}
    good = {i: r for i, r in enumerate(records) if isinstance(r, LoggedConversation)}
    turns = {i: [_Turn(place) for place in answers_of(r)] for i, r in good.items()}
    for i, record in good.items():
        if not turns[i]:
            broken[i] = Broken(record.source, record.line, NO_ANSWER)
    written = 0
    if with_base:
        written = _write(bench, {i: r for i, r in good.items() if i not in broken}, turns, broken, part)
    left = [i for i in good if i not in broken]
    found: dict[int, Numbers | Broken] = dict(broken)
    if bench.pulls is not None:
        pulled, tokens = _pulled(bench, bench.pulls, {i: good[i] for i in left}, turns)
        return Measured([(found | pulled)[i] for i in range(len(records))], tokens, written)
    own = [(i, turn) for i in left for turn in turns[i] if turn.own]
    others = [answered(good[i].messages, turn.place, turn.own or "") for i, turn in own]
    readings = _read(bench, [*(good[i].messages for i in left), *others])
    whole = readings[: len(left)]
    for (_, turn), reading in zip(own, readings[len(left) :], strict=True):
        turn.read = reading
    tokens = sum(len(r.spanned.ids) for r in readings if r is not None)
    for i, reading in zip(left, whole, strict=True):
        record = good[i]
        numbers = None if reading is None else _numbers(bench, turns[i], reading)
        found[i] = numbers or Broken(record.source, record.line, _refused(bench) if reading is None else _EMPTY)
    return Measured([found[i] for i in range(len(records))], tokens, written)


def _write(
    bench: Bench, good: dict[int, LoggedConversation], turns: dict[int, list[_Turn]], broken: dict[int, Broken],
    part: int,
) -> int:  # fmt: skip
    """Have the model answer every prompt; records whose prompts it cannot take go to `broken`."""
    prompts: dict[str, Conversation] = {}
    keys: dict[tuple[int, int], str] = {}
    room = bench.model.positions
    for i, record in good.items():
        for turn in turns[i]:
            before = record.messages[: turn.place]
            try:
                ids = bench.model.chat.prompt_ids(before)
            except InputError:
                broken[i] = Broken(record.source, record.line, _refused(bench))
                break
            if room is not None and len(ids) + bench.sampling.max_tokens > room:
                broken[i] = Broken(
                    record.source, record.line, f"its prompt is longer than the model's {room} positions"
                )
                break
            keys[i, turn.place] = prompt_key(ids)
            prompts[keys[i, turn.place]] = before
    texts, tokens = write_answers(bench.engine, prompts, bench.sampling, bench.seed, part, bench.book)
    for i in good:
        for turn in turns[i] if i not in broken else ():
            turn.own = texts[keys[i, turn.place]].strip() or None
    return tokens


def _refused(bench: Bench) -> str:
    return f"{bench.model.info.id}'s chat template refuses it"


def _pulled(
    bench: Bench, pulls: Pulls, good: dict[int, LoggedConversation], turns: dict[int, list[_Turn]]
) -> tuple[dict[int, Numbers | Broken], int]:
    """Records by their pulls, own answers in their places by theirs; and how many tokens that took."""
    texts, others = [], []
    why = dict.fromkeys(good, f"its answers have no tokens among its first {room_of(bench.model)}")
    for n, (i, record) in enumerate(good.items()):
        try:
            text = text_of(bench.model, record.messages, [turn.place for turn in turns[i]], bench.read_tokens)
        except InputError:
            text, why[i] = None, _refused(bench)
        texts += [] if text is None else [(n, text)]
        for turn in turns[i]:
            if text is not None and turn.own:
                other = answered(record.messages, turn.place, turn.own)
                own = text_of(bench.model, other, [turn.place], bench.read_tokens)
                others += [] if own is None else [(n, own)]
    values, counts = summed(pulls, texts, len(good))
    base, _ = summed(pulls, others, len(good))
    none = np.zeros((pulls.watched, TWINS))
    found: dict[int, Numbers | Broken] = {}
    for n, (i, record) in enumerate(good.items()):
        if counts[n]:
            found[i] = Numbers(
                len(turns[i]), int(counts[n]), values[n], np.zeros(pulls.watched), base[n], none, none
            )  # fmt: skip
        else:
            found[i] = Broken(record.source, record.line, why[i])
    return found, sum(len(text.ids) for _, text in [*texts, *others])


def _read(bench: Bench, conversations: Sequence[Conversation]) -> list[TurnReading | None]:
    """Every token on every probe; None for a conversation that the template refuses. Alike in length side by side."""
    order = sorted(range(len(conversations)), key=lambda i: (sum(len(m.content) for m in conversations[i]), i))
    found: list[TurnReading | None] = [None] * len(conversations)
    for start in range(0, len(order), _TOGETHER):
        some = order[start : start + _TOGETHER]
        for i, reading in zip(some, _read_some(bench, [conversations[i] for i in some]), strict=True):
            found[i] = reading
    return found


def _read_some(bench: Bench, conversations: list[Conversation]) -> list[TurnReading | None]:
    try:
        return list(read_turns(bench.model, conversations, bench.bank.probes))
    except InputError:
        if len(conversations) == 1:
            return [None]
        return [reading for one in conversations for reading in _read_some(bench, [one])]


def _numbers(bench: Bench, turns: Sequence[_Turn], reading: TurnReading) -> Numbers | None:
    """A record's values; None if no answer of it has tokens. Where some have own answers, only they count."""
    n = len(bench.bank.watched)
    spans = {turn.place: _cut(bench, reading, turn.place) for turn in turns}
    used = [t for t in turns if spans[t.place][1] > spans[t.place][0]]
    both = [t for t in used if t.read is not None and len(t.read.tokens[slice(*_cut(bench, t.read, t.place))])]
    used = both or used
    if not used:
        return None
    sizes = np.array([spans[t.place][1] - spans[t.place][0] for t in used], np.float64)
    share = sizes / sizes.sum()
    project = bench.bank.project
    answer = share @ np.stack([project(reading.tokens[slice(*spans[t.place])]) for t in used])
    before = [max(spans[t.place][0] - 1, 0) for t in used]
    prompt = share @ np.stack([project(reading.tokens[at : at + 1]) for at in before])
    base = np.full_like(answer, math.nan)
    if both:
        pairs = [(t.read, t.place) for t in both if t.read is not None]
        base = share @ np.stack([project(read.tokens[slice(*_cut(bench, read, place))]) for read, place in pairs])
    return Numbers(
        len(used), int(sizes.sum()), answer[:n], prompt[:n], base[:n],
        (answer - base)[n:].reshape(n, TWINS), base[n:].reshape(n, TWINS),
    )  # fmt: skip


def _cut(bench: Bench, reading: TurnReading, place: int) -> tuple[int, int]:
    """Columns of the answer that count."""
    start, end = reading.spanned.spans[place]
    return start, end if bench.read_tokens is None else min(end, start + bench.read_tokens)
