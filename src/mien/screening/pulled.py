"""Records by what a training step on them would do to the model's own answers; see `mien.engines.hf_pulls`.

A record's value is the sum over the tokens of all its answers, as a training step adds them up. This file does not know
the disk or how values are summed up.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mien.engines.hf_pulls import Pulls, Text
from mien.models import Model
from mien.records import Conversation, Rollout
from mien.screening.watched import Watched

LONGEST = 2048
"""Tokens of a record that are looked at, from its start; the learnt part of longer ones is cut."""

Floats = NDArray[np.float64]


def pulls_of(model: Model, watched: Sequence[Watched], answers: Sequence[Rollout]) -> Pulls:
    """How texts pull at everything watched, on the model's own answers."""
    return Pulls(model, [[(part.layer, part.vector) for part in one.parts] for one in watched], answers)


def room_of(model: Model) -> int:
    """Tokens of a record that are looked at."""
    return min(LONGEST, model.positions or LONGEST)


def text_of(model: Model, messages: Conversation, places: Sequence[int], read: int | None) -> Text | None:
    """A conversation whose answers at some places are learnt, `read` tokens of each; None if none of these has tokens
    that are looked at.

    Raises:
        InputError: the template refuses it.
    """
    spanned = model.chat.spanned(messages)
    room = room_of(model)
    cut = [spanned.spans[place] for place in places]
    ends = [min(end, room) if read is None else min(end, start + read, room) for start, end in cut]
    learnt = tuple((max(start, 1), end) for (start, _), end in zip(cut, ends, strict=True) if end > max(start, 1))
    return Text(spanned.ids[: learnt[-1][1]], learnt) if learnt else None


def summed(pulls: Pulls, texts: Sequence[tuple[int, Text]], n: int) -> tuple[Floats, NDArray[np.int64]]:
    """Pulls `[n, g]` and learnt tokens `[n]` of `n` records, from texts that each say whose they are; NaN for those
    without one."""
    values = pulls.of([text for _, text in texts]) if texts else np.zeros((0, pulls.watched))
    found, tokens = np.zeros((n, pulls.watched)), np.zeros(n, np.int64)
    for (i, text), row in zip(texts, values, strict=True):
        found[i] += row
        tokens[i] += sum(end - start for start, end in text.spans)
    found[tokens == 0] = np.nan
    return found, tokens
