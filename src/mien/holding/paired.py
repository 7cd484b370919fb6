"""The stream at the same tokens after an attack and without it, and at ordinary tokens: what a hold is made from.

Shapes: n tokens, l layers, d width. This file does not know what is made of the states.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mien.chat import ask
from mien.holding.restoring import LayerStates
from mien.models import Model
from mien.progress import Progress
from mien.records import Conversation, Intervention
from mien.residual import edited, require_finite, run_partly, stopping_after, watched

Ids = tuple[int, ...]
TOKENS = 4096
"""Most tokens, padding included, in one forward pass."""
LONGEST = 48
"""How many tokens of a question and what the template puts after it are taken, from its end."""


@dataclass(frozen=True)
class Pair:
    """A question after an attack (or a role's prompt), and the model's own answer to the question alone."""

    attack: Conversation
    question: str
    answer: Ids
    gating: bool
    """Whether the gates are shown it."""
    apart: bool
    """Whether ways are tried on it, so that it is kept from them until one is chosen."""


@dataclass(frozen=True)
class Span:
    """Ids, and the columns `[start, end)` that are kept."""

    ids: Ids
    start: int
    end: int


Rows = NDArray[np.float32]


class States:
    """Both sides of every pair, and every token of ordinary conversations up to `longest` of each. Pairs that are kept
    apart are seen in `whole()` alone.
    """

    def __init__(
        self, model: Model, pairs: Sequence[Pair], ordinary: Sequence[Conversation], layers: Sequence[int],
        longest: int, show: Progress,
    ) -> None:  # fmt: skip
        self.layers = tuple(layers)
        self._model, self._show, self._pairs = model, show, tuple(pairs)
        spans = [_spans(model, pair) for pair in pairs]
        rows = [model.chat.spanned(c).ids[:longest] for c in ordinary]
        self._sides = ([s[0] for s in spans], [s[1] for s in spans], [Span(r, 0, len(r)) for r in rows])
        self._plain = []
        for what, side in zip(("after attacks", "alone", "ordinary"), self._sides, strict=True):
            show.begin(f"reading tokens: {what}", len(side))
            self._plain.append(token_states(model, side, layers, show))
        self._seen = [i for i, pair in enumerate(pairs) if not pair.apart]

    def whole(self) -> States:
        """The same with all pairs."""
        other = copy.copy(self)
        other._seen = list(range(len(self._pairs)))
        return other

    def at(self, layer: int) -> LayerStates:
        """One layer, with nothing done to the stream."""
        where = self.layers.index(layer)
        rows = self._rows()
        return self._states(self._plain[0][rows, where], self._plain[1][rows, where], self._plain[2][:, where])

    def under(self, layer: int, interventions: Sequence[Intervention]) -> LayerStates:
        """One layer while interventions act below it. What stands without an attack, to which a map has to come back,
        stays as it is without them.
        """
        if not interventions:
            return self.at(layer)
        attacked, ordinary = (
            token_states(self._model, side, [layer], self._show, interventions)[:, 0]
            for side in ([self._sides[0][i] for i in self._seen], self._sides[2])
        )
        return self._states(attacked, self._plain[1][self._rows(), self.layers.index(layer)], ordinary)

    def _rows(self) -> NDArray[np.bool_]:
        """Which tokens are seen, of all."""
        seen = set(self._seen)
        return np.concatenate([np.full(s.end - s.start, i in seen) for i, s in enumerate(self._sides[0])])

    def _states(self, attacked: Rows, alone: Rows, ordinary: Rows) -> LayerStates:
        answer, gating, owner = [], [], []
        for i in self._seen:
            pair, span = self._pairs[i], self._sides[0][i]
            length, said = span.end - span.start, len(pair.answer)
            answer += [False] * (length - said) + [True] * said
            gating += [pair.gating] * length
            owner += [i] * length
        return LayerStates(attacked, alone, np.array(answer), np.array(gating), np.array(owner), ordinary)


def _spans(model: Model, pair: Pair) -> tuple[Span, Span]:
    """The same tokens after the attack and alone: the end of the question, the template after it, and the answer."""
    one, other = model.chat.prompt_ids(pair.attack), model.chat.prompt_ids(ask(pair.question))
    common = min(_common_end(one, other), LONGEST)
    first, second = (
        Span(prompt + pair.answer, len(prompt) - common, len(prompt) + len(pair.answer)) for prompt in (one, other)
    )
    return first, second


def token_states(
    model: Model, spans: Sequence[Span], layers: Sequence[int], show: Progress,
    interventions: Sequence[Intervention] = (),
) -> Rows:  # fmt: skip
    """`[n, l, d]` raw: the stream at the spans' tokens, one span after the other, interventions on all tokens included.

    Raises:
        NonFiniteError: it holds NaN or infinity.
    """
    order = sorted(range(len(spans)), key=lambda i: len(spans[i].ids))
    found: list[Rows | None] = [None] * len(spans)
    done = 0
    while done < len(order):
        batch: list[int] = []
        while done + len(batch) < len(order):
            wide = len(spans[order[done + len(batch)]].ids)
            if batch and (len(batch) + 1) * wide > TOKENS:
                break
            batch.append(order[done + len(batch)])
        _read_batch(model, spans, batch, layers, found, interventions)
        done += len(batch)
        show.advance(done, sum(len(spans[i].ids) for i in batch))
    states = np.concatenate([x for x in found if x is not None])
    require_finite(torch.from_numpy(states), "Activations")
    return states


def _read_batch(
    model: Model, spans: Sequence[Span], batch: Sequence[int], layers: Sequence[int], found: list[Rows | None],
    interventions: Sequence[Intervention],
) -> None:  # fmt: skip
    # Padding on the right needs no mask: a causal model's real tokens never look at what follows them.
    ids = torch.full((len(batch), max(len(spans[i].ids) for i in batch)), model.pad_id)
    for row, i in enumerate(batch):
        ids[row, : len(spans[i].ids)] = torch.tensor(spans[i].ids)
    kept = [np.zeros((spans[i].end - spans[i].start, len(layers), model.blocks.d_model), np.float32) for i in batch]

    def sink(layer: int, h: torch.Tensor) -> None:
        for row, i in enumerate(batch):
            kept[row][:, layers.index(layer)] = h[row, spans[i].start : spans[i].end].float().cpu().numpy()

    blocks = model.blocks
    # Hooks run in the order in which they are put on: what is read has been edited.
    with (
        torch.inference_mode(), edited(blocks, [(i, None) for i in interventions]), watched(blocks, layers, sink),
        stopping_after(blocks, max(layers)),
    ):  # fmt: skip
        run_partly(model.blocks, input_ids=ids.to(model.device), use_cache=False)
    for i, part in zip(batch, kept, strict=True):
        found[i] = part


def _common_end(a: Ids, b: Ids) -> int:
    """How many ids two prompts end in alike."""
    shortest = min(len(a), len(b))
    return next((n for n in range(shortest) if a[-1 - n] != b[-1 - n]), shortest)
