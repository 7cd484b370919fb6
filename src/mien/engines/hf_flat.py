"""Tokens of several texts one behind another in one row of a pass, so that nothing in it is padding: one token of each
answer that is being written, and beside them the prompts of those that come.

Everything in a model but attention looks at one token at a time, and does not know whose it is. Attention is
transformers' own over scaled dot products, called once for the texts that have one token there and once for the others;
a text much longer than these has a call of its own, or all would pay for its length.
This file does not know caches, requests or hooks. Shapes: t tokens of a pass, b its texts, h heads, c key columns,
e head width.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "mien_flat"
_BASE = "sdpa"
Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of queries `[n, h, s, e]` over keys and values `[n, ., c, e]` of as many texts, and what is added to their scores
`[n, 1, s, c]`: `[n, s, h, e]`."""
PADDED = 2
"""Up to so many times their own size, texts are padded for attention; else each has a call of its own."""
_here = threading.local()
"""`flat`: how the pass that this thread runs is laid out; nothing in other threads, which may use the model too."""
_running: Counter[int] = Counter()
"""By a config's id, how many threads run such a pass."""
_lock = threading.Lock()


def uneven(sizes: Sequence[int]) -> bool:
    """Whether to pad all to the longest would more than double them."""
    return len(sizes) * max(sizes, default=0) > PADDED * sum(sizes)


class Flat:
    """How a pass over several texts is laid out.

    Args:
        sizes: how many tokens of each text there are.
        reach: how many key columns each text's tokens look at, at most.
        device: where the pass runs.
    """

    def __init__(self, sizes: Sequence[int], reach: Sequence[int], device: torch.device) -> None:
        counts = torch.tensor(sizes)
        self.owner = torch.arange(len(sizes)).repeat_interleave(counts).to(device)
        """`[t]`: the text that each token is of."""
        self.last = (counts.cumsum(0) - 1).to(device)
        """`[b]`: each text's last token."""
        n = self._singles = sum(1 for _ in takewhile(lambda size: size == 1, sizes))
        self._wide, self._reach = sizes[n:], reach
        self._row = self.owner[n:] - n
        self._column = torch.cat([torch.arange(0), *map(torch.arange, self._wide)]).to(device)
        # Half at least are near, and share a call.
        most = PADDED * sorted(reach[:n])[n // 2] if uneven(reach[:n]) else max(reach)
        near, self._far = [i for i in range(n) if reach[i] <= most], [i for i in range(n) if reach[i] > most]
        self._near, self._limit = torch.tensor(near, device=device), max((reach[i] for i in near), default=0)

    def attend(
        self, attention: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attention of every token over its own text: `[1, t, h, e]`.

        Args:
            attention: the model's own.
            query: `[1, h, t, e]`.
            key, value: `[b, ., c, e]`.
            mask: `[1, 1, t, c]`: what is added to scores.
        """
        n, texts = self._singles, len(self._reach)
        found = []
        if n:
            found.append(self._attend_singles(attention, query[:, :, :n], key[:n], value[:n], mask[:, :, :n]))
        if n < texts:
            found.append(self._attend_wide(attention, query[:, :, n:], key[n:], value[n:], mask[:, :, n:]))
        return torch.cat(found, 1)

    def _attend_singles(
        self, attention: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        each, masks, c = query[0].transpose(0, 1)[:, :, None], mask[0, 0, :, None, None], self._limit
        if not self._far:
            return attention(each, key[:, :, :c], value[:, :, :c], masks[..., :c]).transpose(0, 1)
        found = each.new_empty(len(each), 1, each.shape[1], value.shape[3])
        near = self._near.to(query.device)  # under a device map the layers lie on several devices
        found[near] = attention(each[near], key[near, :, :c], value[near, :, :c], masks[near, :, :, :c])
        for i in self._far:
            of, c = slice(i, i + 1), self._reach[i]
            found[of] = attention(each[of], key[of, :, :c], value[of, :, :c], masks[of, :, :, :c])
        return found.transpose(0, 1)

    def _attend_wide(
        self, attention: Attention, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        reach, texts, width = self._reach[self._singles :], len(self._wide), max(self._wide)
        if texts == 1 or uneven(self._wide) or uneven(reach):
            found, end = [], 0
            for i, (n, c) in enumerate(zip(self._wide, reach, strict=True)):
                of, end = slice(end, end + n), end + n
                one = (query[:, :, of], key[i : i + 1, :, :c], value[i : i + 1, :, :c], mask[:, :, of, :c])
                found.append(attention(*one))
            return torch.cat(found, 1)
        row, column, c = self._row.to(query.device), self._column.to(query.device), max(reach)
        apart = query.new_zeros(texts, query.shape[1], width, query.shape[3])
        apart[row, :, column] = query[0].transpose(0, 1)
        masks = mask.new_zeros(texts, 1, width, c)
        masks[row, 0, column] = mask[0, 0, :, :c]
        return attention(apart, key[:, :, :c], value[:, :, :c], masks)[row, column][None]


def _attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attention_mask: Any, **how: Any
) -> tuple[torch.Tensor, None]:
    flat: Flat | None = getattr(_here, "flat", None)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: Any) -> torch.Tensor:
        return sdpa_attention_forward(module, q, k, v, mask, **how)[0]

    if flat is None:
        return plain(query, key, value, attention_mask), None
    return flat.attend(plain, query, key, value, attention_mask), None


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)


class FlatAttention:
    """A model whose passes may be laid out so."""

    def __init__(self, net: nn.Module) -> None:
        found: dict[int, Any] = {id(m.config): m.config for m in net.modules() if hasattr(m, "config")}
        self._configs = [c for c in found.values() if getattr(c, "_attn_implementation", None) == _BASE]

    @property
    def known(self) -> bool:
        """Whether its attention can be put in place of."""
        return bool(self._configs)

    @contextmanager
    def laid(self, flat: Flat) -> Iterator[None]:
        """Passes inside, of this thread, are laid out so."""
        _here.flat = flat
        self._use(1)
        try:
            yield
        finally:
            self._use(-1)
            _here.flat = None

    def _use(self, more: int) -> None:
        """One more thread that runs such a pass, or one less."""
        with _lock:
            for config in self._configs:
                _running[id(config)] += more
                # The setter would set those of its parts too.
                config._attn_implementation_internal = _NAME if _running[id(config)] else _BASE
