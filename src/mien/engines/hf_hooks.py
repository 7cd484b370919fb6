"""Hooks that stay on a model: each pass has its own edits for its own rows, its probes, and a count of firing caps.

Put on a block when it is first wanted there, for a hook that has nothing to do takes time at every token, they do
nothing but for passes run through `running`, and nothing in other threads. Edits come before probes, so what is read is
what the next block sees. This file does not know requests, caches or tokens.

Shapes: b rows of a pass, s its columns, d width, p probes of all layers, p_l of one.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from mien.engines.hf_prefill import row_edits
from mien.models import Blocks, stream_of
from mien.records import Intervention, Tokens

FEW = 64
"""Most single tokens of a pass that are projected together."""


@dataclass(frozen=True, slots=True)
class Edit:
    """An intervention with the rows of a pass that it belongs to (None: all)."""

    intervention: Intervention
    rows: torch.Tensor | None
    counted: bool
    """Whether it is counted at how many places it changes the stream."""


Edits = Mapping[int, Sequence[Edit]]
"""By layer, in the order in which they act."""


class EditError(Exception):
    """An intervention failed; the cause is chained."""

    def __init__(self, intervention: Intervention) -> None:
        super().__init__(type(intervention).__name__)
        self.intervention = intervention


def acting(interventions: Sequence[Intervention], phase: Tokens) -> tuple[Intervention, ...]:
    """Those that act on tokens of a `phase`, "prompt" or "response"."""
    return tuple(i for i in interventions if i.tokens in ("all", phase))


def counts(intervention: Intervention) -> bool:
    """Whether it is one (a cap) that changes the stream at some places only, which are to be counted."""
    return bool(getattr(intervention, "counts_firing", False))


def edits_of(rows: Sequence[tuple[Intervention, ...]], device: torch.device) -> Edits:
    """The edits of a pass over rows on which these act. Rows with one intervention object are edited at once."""
    table: dict[int, list[Edit]] = {}
    for intervention, where in row_edits(rows, device):
        for layer in intervention.layers:
            table.setdefault(layer, []).append(Edit(intervention, where, counts(intervention)))
    return table


def edits_by_token(edits: Edits, owner: torch.Tensor) -> Edits:
    """The same where tokens stand for rows; `owner` `[t]` is the row of each."""
    rows = {id(edit.rows): edit.rows for each in edits.values() for edit in each if edit.rows is not None}
    tokens = {key: torch.isin(owner, where).nonzero()[:, 0] for key, where in rows.items()}
    return {
        layer: [edit if edit.rows is None else replace(edit, rows=tokens[id(edit.rows)]) for edit in each]
        for layer, each in edits.items()
    }


@dataclass
class Running:
    """One pass: what is done in it, and what came out. Where tokens of several rows stand one behind another in one,
    each token is taken as a row of its own."""

    edits: Edits
    read: bool
    flat: bool = False
    thread: int = field(default_factory=threading.get_ident)
    parts: dict[int, torch.Tensor] = field(default_factory=dict)
    """By layer that is read: `[b, s, p_l]`, or the stream `[b, 1, d]` of a pass over few single tokens. Float32."""
    fired: torch.Tensor | None = None
    """`[b, s]` float32: at how many layers a counted intervention changed the stream; None: none was there."""


class RowHooks:
    """Hooks on those blocks of a model that are read or edited.

    Args:
        blocks: where they go.
        probes: layer -> `[p_l, d]`.
    """

    def __init__(self, blocks: Blocks, probes: Mapping[int, torch.Tensor]) -> None:
        self._probes = {layer: v.detach().to(torch.float32).T for layer, v in sorted(probes.items()) if len(v)}
        self.n_probes = sum(v.shape[1] for v in self._probes.values())
        self.layers = tuple(self._probes)
        """Layers that are read, ascending."""
        self._running: Running | None = None
        self._together: tuple[torch.Tensor, torch.Tensor] | None = None
        self._blocks = blocks.modules
        self._handles: dict[int, RemovableHandle] = {}
        self._put_on(self.layers)

    def _put_on(self, layers: Iterable[int]) -> None:
        for layer in layers:
            if layer not in self._handles:
                self._handles[layer] = self._blocks[layer].register_forward_hook(partial(self._hook, layer))

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self._handles.values():
            handle.remove()
        self._handles = {}

    @contextlib.contextmanager
    def running(self, running: Running) -> Iterator[Running]:
        """Forward passes inside, of this thread, are run so."""
        self._put_on(running.edits)
        self._running = running
        try:
            yield running
        finally:
            self._running = None

    def projections(self, running: Running, device: torch.device) -> torch.Tensor:
        """`[b, s, p]` float32 of a pass that read, probes of all layers side by side, layers ascending."""
        parts = [running.parts[layer].to(device) for layer in self.layers]
        if not _few(parts[0]):
            return torch.cat(parts, -1)
        if self._together is None:
            self._together = _side_by_side([v.to(device) for v in self._probes.values()])
        probes, columns = self._together
        every = torch.bmm(torch.cat(parts, 1).transpose(0, 1), probes)  # [l, b, most p_l]
        return every.transpose(0, 1).flatten(1).index_select(1, columns)[:, None]

    def _hook(self, layer: int, _module: Any, _args: Any, output: Any) -> Any:
        running = self._running
        if running is None:
            return None
        edits = running.edits.get(layer)
        read = running.read and layer in self._probes
        if not (edits or read) or running.thread != threading.get_ident():
            return None
        h = stream_of(output)
        if running.flat:
            h = h.transpose(0, 1)
        for edit in edits or ():
            h = _edited(layer, h, edit, running)
        if read:
            # Small products take longer than what they compute, so those of few tokens are made together at the end.
            few = _few(h)
            running.parts[layer] = h.to(torch.float32, copy=True) if few else h.float() @ self._probe(layer, h)
        if not edits:
            return None
        if running.flat:
            h = h.transpose(0, 1)
        return h if isinstance(output, torch.Tensor) else (h, *output[1:])

    def _probe(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        probe = self._probes[layer]
        if probe.device != h.device:
            probe = self._probes[layer] = probe.to(h.device)
        return probe


def _few(h: torch.Tensor) -> bool:
    """Whether a pass's `[b, s, .]` is of single tokens, and not many: their streams are held until it ends."""
    return h.shape[1] == 1 and h.shape[0] <= FEW


def _side_by_side(probes: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Probes `[d, p_l]` of all layers as one, `[l, d, most p_l]`, and which of its columns are not padding."""
    widths = [v.shape[1] for v in probes]
    most = max(widths)
    columns = [i * most + k for i, n in enumerate(widths) for k in range(n)]
    padded = [functional.pad(v, (0, most - n)) for v, n in zip(probes, widths, strict=True)]
    return torch.stack(padded), torch.tensor(columns, device=probes[0].device)


def _edited(layer: int, h: torch.Tensor, edit: Edit, running: Running) -> torch.Tensor:
    # Under a device map the blocks lie on several devices.
    rows = edit.rows if edit.rows is None or edit.rows.device == h.device else edit.rows.to(h.device)
    part = h if rows is None else h[rows]
    try:
        new = edit.intervention.edit(layer, part)
    except Exception as error:
        raise EditError(edit.intervention) from error
    if new is part:
        return h
    if edit.counted:
        _count(running, (new != part).any(-1).float(), rows, h)
    return new if rows is None else h.index_copy(0, rows, new)


def _count(running: Running, changed: torch.Tensor, rows: torch.Tensor | None, h: torch.Tensor) -> None:
    if running.fired is None:
        running.fired = torch.zeros(h.shape[:2], device=h.device)
    device = running.fired.device
    if rows is None:
        running.fired += changed.to(device)
    else:
        running.fired.index_add_(0, rows.to(device), changed.to(device))
