"""Keys and values of the answers that are being written, one slot a row, grown and shrunk with the load.

A row's tokens stand in columns 0, 1, 2 ... of its slot, so nothing moves when rows of other lengths come and go, and a
pass writes only what is new. Columns behind a row's last token hold old numbers, which are finite: a masked column has
weight 0, and 0 times NaN would be NaN. So new memory is zeroed, and `wipe` is called on a row that broke.

This file does not know requests, tokens or masks. Shapes: r slots, h key-value heads, c columns, e head width,
t tokens of a pass, s query columns of a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DummyLayer,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
)

from mien.engines.hf_kept import Tensors
from mien.errors import ModelError

BLOCK = 64
"""Columns are held in multiples of it."""


@dataclass(frozen=True)
class Spread:
    """Where the tokens of a pass over several rows go, as every row has its own length."""

    slots: torch.Tensor
    """`[t]`: slot of each token of the pass."""
    into: torch.Tensor
    """`[t]`: column of each token."""
    rows: torch.Tensor | None
    """`[t]`: row of the pass that each token stands in; None: nothing in the pass is padding."""
    queries: torch.Tensor | None
    """`[t]`: query column of the pass that each token stands in."""

    def picked(self, part: torch.Tensor) -> torch.Tensor:
        """Of what a pass has for each row and column, `[b, s, ...]`, that of its tokens, `[t, ...]`."""
        if self.rows is None or self.queries is None:
            return part.flatten(0, 1)
        return part[self.rows.to(part.device), self.queries.to(part.device)]


@dataclass(frozen=True)
class Places:
    """Where the keys and values of a pass over rows `[first, last)` go, and what they may look at."""

    first: int
    last: int
    columns: int
    """How many columns the pass looks at: those of its longest row, rounded up."""
    start: int
    """Column of the first row's first new token."""
    spread: Spread | None
    """None: there is one row, whose tokens follow one another; a slice is written faster than single places."""

    def put(self, held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Write a pass's `[b, h, s, e]` into what is held, `[r, h, c, e]`; gives a view of all that its rows have."""
        to = self.spread
        if to is None:
            held[self.first, :, self.start : self.start + new.shape[2]] = new[0]
        else:
            # Under a device map the layers lie on several devices.
            held[to.slots.to(held.device), :, to.into.to(held.device)] = to.picked(new.transpose(1, 2))
        return held[self.first : self.last, :, : self.columns]


class SlotLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, `[r, h, c, e]`."""

    is_sliding = False
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, columns = self._cache.rows, self._cache.columns
        self.keys = key_states.new_zeros(rows, key_states.shape[1], columns, key_states.shape[3])
        self.values = value_states.new_zeros(rows, value_states.shape[1], columns, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a pass's new keys and values `[b, h, s, e]`; gives views of all that its rows have."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        places = self._cache.places
        return places.put(self.keys, key_states), places.put(self.values, value_states)

    def resize(self, rows: int, columns: int) -> None:
        """Take on another size; what lies in both is kept."""
        if not self.is_initialized:
            return
        if not rows:
            del self.keys, self.values
            self.is_initialized = False
            return
        self.keys, self.values = (_resized(old, rows, columns) for old in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.places.columns, 0

    def get_seq_length(self) -> int:
        """Nothing may depend on it: every row has its own length, and masks and positions are given."""
        return 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """Slots of all layers. Set `places` before a pass."""

    def __init__(self, n_layers: int) -> None:
        self._slots = [SlotLayer(self) for _ in range(n_layers)]
        super().__init__(layers=list(self._slots))
        self.rows = 0
        self.columns = 0
        self.places: Places

    def resize(self, rows: int, columns: int) -> None:
        """Hold `rows` slots of `columns` columns from now on; layer by layer, so that little is held twice.

        A failure (out of memory) leaves layers of different sizes: call it again with a size that fits.
        """
        for layer in self._slots:
            layer.resize(rows, columns)
        self.rows, self.columns = rows, columns

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row's first `length` columns into another slot."""
        for keys in self._tensors():
            keys[target, :, :length] = keys[source, :, :length]

    def copy(self, row: int, length: int) -> Tensors:
        """A row's first `length` columns, apart from the cache: one block of memory, which is given back whole."""
        parts = [tensor[row, :, :length] for tensor in self._tensors()]
        sizes = [part.numel() for part in parts]
        block = parts[0].new_empty(sum(sizes))
        copies = iter(
            [copy.view_as(part).copy_(part) for copy, part in zip(torch.split(block, sizes), parts, strict=True)]
        )
        return [(next(copies), next(copies)) if layer.is_initialized else None for layer in self._slots]

    def paste(self, row: int, tensors: Tensors, length: int) -> None:
        """Put the first `length` columns of a copy into a row."""
        for layer, pair in zip(self._slots, tensors, strict=True):
            if pair is None:
                continue
            keys, values = pair
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[row, :, :length] = keys[:, :length]
            layer.values[row, :, :length] = values[:, :length]

    def swap(self, one: int, other: int, length: int) -> None:
        """Let two rows of at most `length` columns change slots."""
        for keys in self._tensors():
            kept = keys[one, :, :length].clone()
            keys[one, :, :length] = keys[other, :, :length]
            keys[other, :, :length] = kept

    def wipe(self, row: int) -> None:
        """Zero a slot."""
        for keys in self._tensors():
            keys[row] = 0

    def _tensors(self) -> Sequence[torch.Tensor]:
        return [t for layer in self._slots if layer.is_initialized for t in (layer.keys, layer.values)]


def _resized(old: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    if old.shape[0] == rows and old.shape[2] == columns:
        return old
    new = old.new_zeros(rows, old.shape[1], columns, old.shape[3])
    rows, columns = min(rows, old.shape[0]), min(columns, old.shape[2])
    new[:rows, :, :columns] = old[:rows, :, :columns]
    return new


def windows_of(config: Any, name: str) -> tuple[int | None, ...]:
    """Each layer's attention window in tokens; None: it looks at everything.

    Raises:
        ModelError: a layer keeps something else than keys and values of single tokens.
    """
    found: list[int | None] = []
    types = getattr(config, "layer_types", None) or []
    if "chunked_attention" in types or (not types and getattr(config, "attention_chunk_size", None)):
        raise ModelError(f"{name} cannot be served: its layers attend in chunks; serve one with windows or without.")
    for layer in DynamicCache(config=config).layers:
        if type(layer) in (DynamicLayer, DummyLayer):  # a dummy keeps nothing: it uses another layer's
            found.append(None)
        elif type(layer) is DynamicSlidingWindowLayer:
            found.append(int(layer.sliding_window))
        else:
            raise ModelError(
                f"{name} cannot be served: it has layers that keep a state instead of keys and values "
                f"({type(layer).__name__}); serve a model with attention throughout."
            )
    if len({window for window in found if window is not None}) > 1:
        raise ModelError(f"{name} cannot be served: its layers have attention windows of different lengths.")
    return tuple(found)
