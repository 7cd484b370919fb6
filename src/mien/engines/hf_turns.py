"""Whole conversations read once, in context: every token projected, every message pooled, in one forward a segment.

A conversation longer than the window is read in segments, each beginning with the end of the one before as context, so
that the cost stays linear in tokens. A pass stops after the deepest layer that is wanted, and computes no logits.
Padding stands on the right, where a causal model's real tokens never look.

Shapes: b batch, s sequence, l layer, d width, g probes. This file does not know gauges, formats of logs, or the disk.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mien.chat import Spanned
from mien.models import Model
from mien.records import Conversation
from mien.residual import require_finite, run_partly, stopping_after, watched

WINDOW = 2048
"""Longest segment, in tokens: beyond about that, attention costs more than everything else."""
CONTEXT = 512
"""How much of what came before a later segment of a long conversation sees, at most."""


@dataclass(frozen=True)
class Segment:
    """Columns `[start, end)` of one conversation, of which `[new, end)` were not in the segment before."""

    owner: int
    start: int
    new: int
    end: int


def segments(
    owner: int, length: int, boundaries: Sequence[int], window: int = WINDOW, context: int = CONTEXT
) -> list[Segment]:
    """Cover `[0, length)`: each column is new in exactly one segment, none is longer than `window`.

    Segments end, and contexts begin, at `boundaries` (ends of messages) where that wastes no more than half a segment.
    """
    found: list[Segment] = []
    # Looked up, not gone through: a long conversation has thousands of messages and of segments.
    marks = sorted(boundaries)
    start = new = 0
    while new < length:
        end = min(length, start + window)
        if end < length:
            last = bisect_right(marks, end) - 1
            if last >= 0 and marks[last] >= new + (end - new + 1) // 2:
                end = marks[last]
        found.append(Segment(owner, start, new, end))
        new = end
        first = bisect_left(marks, end - context)
        start = marks[first] if first < len(marks) and marks[first] < end else max(0, end - context)
    return found


@dataclass
class TurnReading:
    """One conversation, read."""

    spanned: Spanned
    tokens: np.ndarray
    """`[s, g]` float32: every token's projection on every probe; NaN nowhere. Empty if no probes were given."""
    means: np.ndarray
    """`[m, l, d]` float32, raw: mean of the stream over each message, layers in the order asked; zeros if empty."""

    def pooled(self) -> np.ndarray:
        """`[m, g]`: each message's mean projection; NaN for a message without tokens."""
        rows = np.full((len(self.spanned.spans), self.tokens.shape[1]), np.nan, np.float32)
        for i, (start, end) in enumerate(self.spanned.spans):
            if end > start:
                rows[i] = self.tokens[start:end].mean(0, dtype=np.float64)
        return rows


def read_turns(
    model: Model,
    conversations: Sequence[Conversation],
    probes: Mapping[int, torch.Tensor] | None = None,
    layers: Sequence[int] = (),
    *,
    batch_tokens: int = 4096,
    window: int = WINDOW,
) -> list[TurnReading]:
    """Read conversations, in the order given.

    Args:
        probes: layer -> `[g_k, d]` vectors that every token's stream there is projected on. `TurnReading.tokens` has
            the probes of all layers side by side, layers ascending.
        layers: layers whose pooled stream is wanted as it is.
        batch_tokens: most tokens, padding included, in one forward pass.
        window: longest segment; never more than the model's positions.

    Raises:
        InputError: a conversation that cannot be written in the model's template.
        NonFiniteError: activations hold NaN or infinity.
    """
    probes = dict(sorted((probes or {}).items()))
    spanned = [model.chat.spanned(c) for c in conversations]
    room = model.positions
    window = min(window, room) if room else window
    width = sum(len(p) for p in probes.values())
    done = [
        TurnReading(
            s, np.zeros((len(s.ids), width), np.float32),
            np.zeros((len(s.spans), len(layers), model.blocks.d_model), np.float32),
        )
        for s in spanned
    ]  # fmt: skip
    parts = [
        part for i, s in enumerate(spanned)
        for part in segments(i, len(s.ids), [end for _, end in s.spans], window, min(CONTEXT, window // 4))
    ]  # fmt: skip
    wanted = sorted({*probes, *layers})
    with torch.inference_mode():
        for batch in _batches(parts, batch_tokens):
            sink = _sink(batch, done, probes, list(layers))
            # Watching comes first: hooks run in the order they were put on, and the stopping one ends the pass.
            with watched(model.blocks, wanted, sink), stopping_after(model.blocks, max(wanted)):
                run_partly(model.blocks, input_ids=_padded(model, batch, spanned), use_cache=False)
    for reading in done:
        for i, (start, end) in enumerate(reading.spanned.spans):
            reading.means[i] /= max(end - start, 1)
    require_finite(torch.tensor([float(r.tokens.sum()) + float(r.means.sum()) for r in done]), "Activations")
    return done


def _batches(parts: Sequence[Segment], most: int) -> Iterator[list[Segment]]:
    batch: list[Segment] = []
    longest = 0
    for part in sorted(parts, key=lambda p: (p.end - p.start, p.owner, p.start)):
        longest = part.end - part.start  # ascending
        if batch and (len(batch) + 1) * longest > most:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def _padded(model: Model, batch: Sequence[Segment], spanned: Sequence[Spanned]) -> torch.Tensor:
    ids = torch.full((len(batch), max(p.end - p.start for p in batch)), model.pad_id)
    for row, part in enumerate(batch):
        ids[row, : part.end - part.start] = torch.tensor(spanned[part.owner].ids[part.start : part.end])
    return ids.to(model.device)


def _sink(
    batch: Sequence[Segment], done: Sequence[TurnReading], probes: Mapping[int, torch.Tensor], layers: list[int]
) -> Callable[[int, torch.Tensor], None]:
    columns, first = {}, 0
    for layer, vectors in probes.items():
        columns[layer] = slice(first, first + len(vectors))
        first += len(vectors)

    def sink(layer: int, h: torch.Tensor) -> None:
        if layer in columns:
            vectors = probes[layer].to(h.device, torch.float32)
            found = (h.float() @ vectors.T).cpu().numpy()
            for row, part in enumerate(batch):
                fresh = slice(part.new - part.start, part.end - part.start)
                done[part.owner].tokens[part.new : part.end, columns[layer]] = found[row, fresh]
        if layer in layers:
            slot = layers.index(layer)
            for row, part in enumerate(batch):
                reading = done[part.owner]
                for i, (start, end) in enumerate(reading.spanned.spans):
                    a, b = max(start, part.new), min(end, part.end)
                    if a < b:
                        some = h[row, a - part.start : b - part.start].sum(0, dtype=torch.float32)
                        reading.means[i, slot] += some.cpu().numpy()

    return sink
