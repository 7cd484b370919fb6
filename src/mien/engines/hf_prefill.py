"""Run prompts once: equal ones share a row, and ones that begin alike share the pass over their beginning.

Rollouts of a trait ask many questions under few system prompts, so most of a batch's prompt tokens are repeats. This
file does not know what comes after the prompts.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mien.models import Model
from mien.records import Intervention
from mien.residual import edited

Ids = tuple[int, ...]
WORTH = 0.25
"""Share of the prompt tokens that must be saved for a pass of its own over the beginnings."""


@dataclass(frozen=True)
class Prompt:
    """A prompt's ids, and what is done to the stream while it is read."""

    ids: Ids
    interventions: tuple[Intervention, ...] = ()

    @property
    def acts(self) -> tuple[int, ...]:
        """Which interventions, by identity: prompts share passes only under the same ones."""
        return tuple(id(i) for i in self.interventions)


@dataclass
class Prefilled:
    """Keys and values of every row's prompt."""

    cache: Any
    mask: torch.Tensor
    """`[b, w]` long, on the CPU: which columns are real."""
    logits: torch.Tensor | None
    """`[b, v]` after the last prompt token, if asked for."""

    def rows(self, which: Sequence[int], *, copied: bool) -> Prefilled:
        """Some of the rows; `copied` leaves this one as it is, which is of no more use otherwise."""
        where = torch.tensor(which)
        cache = copy.deepcopy(self.cache) if copied else self.cache
        cache.batch_select_indices(where)
        logits = None if self.logits is None else self.logits[where.to(self.logits.device)]
        return Prefilled(cache, self.mask[where], logits)


def left_padded(rows: Sequence[Ids], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`[b, s]` ids and mask, real tokens on the right."""
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        if row:
            ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
            mask[i, width - len(row) :] = 1
    return ids, mask


def row_edits(
    acts: Sequence[tuple[Intervention, ...]], device: torch.device
) -> list[tuple[Intervention, torch.Tensor | None]]:
    """Each distinct intervention with the rows it belongs to (None: all), so that every row gets its own interventions
    in its own order.
    """
    rows: dict[tuple[int, int], list[int]] = {}
    objects: dict[int, Intervention] = {}
    for row, interventions in enumerate(acts):
        for place, intervention in enumerate(interventions):
            rows.setdefault((place, id(intervention)), []).append(row)
            objects[id(intervention)] = intervention
    ordered = sorted(rows.items(), key=lambda item: item[0][0])
    return [
        (objects[key], None if len(where) == len(acts) else torch.tensor(where, device=device))
        for (_, key), where in ordered
    ]


def stems(prompts: Sequence[Prompt]) -> list[int]:
    """For each of distinct `prompts`, how much of its beginning to share with others; all 0 if that saves little.

    Candidates are the common beginnings of neighbours in sorted order; the ones that save most are taken first. The
    last token always stays outside. Where anything is shared every prompt gives at least its first token: a row without
    a real column would have nothing to attend to.
    """
    if any(len(p.ids) < 2 for p in prompts):
        return [0] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: (prompts[i].acts, prompts[i].ids))
    candidates: Counter[tuple[tuple[int, ...], Ids]] = Counter()
    for i, j in itertools.pairwise(order):
        if prompts[i].acts == prompts[j].acts:
            common = _common(prompts[i].ids[:-1], prompts[j].ids[:-1])
            if common:
                candidates[prompts[i].acts, prompts[i].ids[:common]] += 1
    counts = {c: sum(p.acts == c[0] and p.ids[: len(c[1])] == c[1] for p in prompts) for c in candidates}
    chosen = [0] * len(prompts)
    saved = 0
    for acts, ids in sorted(counts, key=lambda c: (-(counts[c] - 1) * len(c[1]), c[1])):
        members = [i for i, p in enumerate(prompts) if not chosen[i] and p.acts == acts and _begins(p.ids[:-1], ids)]
        if len(members) > 1:
            saved += (len(members) - 1) * len(ids)
            for i in members:
                chosen[i] = len(ids)
    worth = saved >= WORTH * sum(len(p.ids) for p in prompts)
    return [max(n, 1) for n in chosen] if worth else [0] * len(prompts)


def _begins(ids: Ids, beginning: Ids) -> bool:
    return ids[: len(beginning)] == beginning


def _common(a: Ids, b: Ids) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def prefill(model: Model, prompts: Sequence[Prompt], *, logits: bool) -> Prefilled:
    """Run all prompts; one row a prompt, in order. Columns: shared beginnings, then the rest, each left-padded."""
    from transformers import DynamicCache

    cache: Any = DynamicCache(config=model.net.config.get_text_config())  # type: ignore[union-attr, operator]
    keyed = {(p.ids, p.acts): p for p in prompts}
    distinct = list(keyed.values())
    place = {key: i for i, key in enumerate(keyed)}
    # A sliding window is counted in columns, and so are distances in a model that takes no positions: padding between
    # a beginning and its rest would change them.
    takes_positions = "position_ids" in inspect.signature(model.blocks.backbone.forward).parameters
    cut = stems(distinct) if takes_positions and not any(cache.is_sliding) else [0] * len(distinct)
    mask = torch.zeros(len(distinct), 0, dtype=torch.long)
    if any(cut):
        heads = {(p.ids[:n], p.acts): Prompt(p.ids[:n], p.interventions) for p, n in zip(distinct, cut, strict=True)}
        unique = list(heads)
        head_mask = torch.zeros(len(unique), 0, dtype=torch.long)
        head_mask, _ = _run(model, cache, list(heads.values()), head_mask, logits=False)
        where = torch.tensor([unique.index((p.ids[:n], p.acts)) for p, n in zip(distinct, cut, strict=True)])
        cache.batch_select_indices(where)  # on the CPU: the layers' caches may lie on several devices
        mask = head_mask[where]
    rest = [Prompt(p.ids[n:], p.interventions) for p, n in zip(distinct, cut, strict=True)]
    mask, found = _run(model, cache, rest, mask, logits=logits)
    if not mask.shape[1]:
        return Prefilled(cache, torch.zeros(len(prompts), 0, dtype=torch.long), None)
    where = torch.tensor([place[p.ids, p.acts] for p in prompts])
    if where.tolist() != list(range(len(distinct))):
        cache.batch_select_indices(where)
        mask = mask[where]
        found = found[where.to(found.device)] if found is not None else None
    return Prefilled(cache, mask, found)


def _run(
    model: Model, cache: Any, parts: Sequence[Prompt], mask: torch.Tensor, *, logits: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One pass over `parts`, after what the cache holds already; gives the longer mask, and logits if asked for."""
    ids, new = left_padded([p.ids for p in parts], model.pad_id)
    if not ids.shape[1]:
        return mask, None
    positions = (mask.sum(1, keepdim=True) + new.cumsum(1) - 1).clamp(min=0)
    mask = torch.cat([mask, new], 1)
    device = model.device
    inputs = {
        "input_ids": ids.to(device), "attention_mask": mask.to(device), "position_ids": positions.to(device),
        "past_key_values": cache, "use_cache": True,
    }  # fmt: skip
    # All of it is prompt, so nothing that waits for the response may act.
    with edited(model.blocks, row_edits([p.interventions for p in parts], device), prompt_length=mask.shape[1]):
        if logits:
            return mask, model.net(**inputs, logits_to_keep=1).logits[:, -1]
        model.blocks.backbone(**inputs)
        return mask, None
