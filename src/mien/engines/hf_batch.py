"""One batch of answers written with a transformers model, its residual means taken on the way.

Columns of a batch: prompts, padded so that they end in one column, then one column a generated token. The state of a
token exists only once it has been fed forward, so answers cut at the limit get one more pass for their last token.
This file does not know what the answers are for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mien.engines.hf_prefill import Prompt, prefill, row_edits
from mien.engines.sampling import sample, stream
from mien.engines.stops import STOP_MEMORY, before_stop
from mien.models import Model
from mien.records import Intervention, Reading, Rollout, Sampling, WriteRequest
from mien.residual import edited, require_finite, watched


@dataclass(frozen=True)
class Prompted:
    """A request with its prompt's ids."""

    request: WriteRequest
    ids: tuple[int, ...]


def cache_bytes_per_token(model: Model) -> int:
    """Bytes of keys and values that one token of one sequence takes, estimated from the config."""
    config = model.net.config.get_text_config()  # type: ignore[union-attr, operator]
    heads = getattr(config, "num_attention_heads", 1)
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or model.blocks.d_model // heads
    width = next(model.net.parameters()).element_size()
    return max(1, int(2 * len(model.blocks.modules) * kv_heads * head_dim * width))


def pack(prompted: Sequence[Prompted], max_rows: int, max_tokens: int, answer: int) -> Iterator[list[Prompted]]:
    """Batches by length and memory, requests that share a prompt side by side. Depends on nothing but the arguments."""
    order = sorted(range(len(prompted)), key=lambda i: (len(prompted[i].ids), prompted[i].ids, i))
    batch: list[Prompted] = []
    for i in order:
        full = len(batch) == max_rows or (len(batch) + 1) * (len(prompted[i].ids) + answer) > max_tokens
        if batch and full:
            yield batch
            batch = []
        batch.append(prompted[i])
    if batch:
        yield batch


class Batch:
    """Rows being written: what each has so far. Rows leave as they end; `live` maps batch rows to requests."""

    def __init__(self, prompted: Sequence[Prompted]) -> None:
        self.prompted = list(prompted)
        self.live = list(range(len(prompted)))
        self.ids: list[list[int]] = [[] for _ in prompted]
        self.logprobs: list[list[float]] = [[] for _ in prompted]
        self.finish: list[str] = ["length" for _ in prompted]

    def edits(self, device: torch.device) -> list[tuple[Intervention, torch.Tensor | None]]:
        """The live rows' interventions."""
        return row_edits([self.prompted[which].request.interventions for which in self.live], device)


class _Sums:
    """Running sums of the stream over response tokens, `[l, b, d]` float32, with a short memory.

    A base model's stop string is recognised a few tokens late; the memory takes those tokens' states out again.
    """

    def __init__(self, model: Model, rows: int, memory: int) -> None:
        shape = (model.n_layers, rows, model.blocks.d_model)
        self.sums = torch.zeros(shape, dtype=torch.float32, device=model.device)
        self.last = torch.zeros_like(self.sums)
        self._recent: list[torch.Tensor] = []
        self._memory = memory

    def sink(self, layer: int, h: torch.Tensor) -> None:
        self.last[layer, : h.shape[0]].copy_(h[:, -1])

    def commit(self, live: Sequence[int]) -> None:
        """Add the newest states of the live rows."""
        if len(live) == self.sums.shape[1]:
            self.sums += self.last
        else:
            self.sums[:, list(live)] += self.last[:, : len(live)]
        if self._memory:
            kept = torch.zeros_like(self.last)
            kept[:, list(live)] = self.last[:, : len(live)]
            self._recent = [*self._recent[-self._memory + 1 :], kept]

    def forget(self, which: int, tokens: int) -> None:
        """Take the newest `tokens` states of one request out again."""
        for state in self._recent[len(self._recent) - tokens :]:
            self.sums[:, which] -= state[:, which]


def write_batch(model: Model, batch: Batch, sampling: Sampling, read: bool) -> list[tuple[Rollout, Reading | None]]:
    """Write all rows of a batch; gives rollouts in the batch's order."""
    memory = STOP_MEMORY if model.chat.stop_strings else 0
    sums = _Sums(model, len(batch.prompted), memory) if read else None
    randoms = _draws(batch, sampling)
    state = _prefill(model, batch)
    for step in range(sampling.max_tokens):
        tokens, logprobs = sample(state.logits, randoms[batch.live, step], sampling)
        going = _take(model, batch, tokens, logprobs, sums)
        _drop(state, batch, going)
        if not batch.live:
            break
        last = step == sampling.max_tokens - 1
        if not (last and sums is None):
            _feed(model, state, batch, sums, logits=not last)
    return [_finished(model, batch, i, sums) for i in range(len(batch.prompted))]


@dataclass
class _State:
    """What the next forward pass needs: keys and values, the mask over all columns, each row's next position."""

    cache: Any
    mask: torch.Tensor
    positions: torch.Tensor
    logits: torch.Tensor
    tokens: torch.Tensor
    """`[b, 1]` newest token of every live row, not yet fed."""


def _draws(batch: Batch, sampling: Sampling) -> torch.Tensor:
    """`[b, max_tokens]` uniform numbers, each row from its own seed."""
    return torch.stack([stream(p.request.seed, sampling.max_tokens) for p in batch.prompted])


def _prefill(model: Model, batch: Batch) -> _State:
    """Run the prompts and give every row its keys and values."""
    done = prefill(model, [Prompt(p.ids, p.request.interventions) for p in batch.prompted], logits=True)
    assert done.logits is not None
    return _State(done.cache, done.mask, done.mask.sum(1, keepdim=True), done.logits, torch.zeros(len(batch.live), 1))


def _take(model: Model, batch: Batch, tokens: list[int], logprobs: list[float], sums: _Sums | None) -> list[bool]:
    """Add a token to each live row; says which rows go on."""
    going = []
    for which, token, logprob in zip(batch.live, tokens, logprobs, strict=True):
        if token in model.chat.stop_ids:
            batch.finish[which] = "stop"
            going.append(False)
            continue
        batch.ids[which].append(token)
        batch.logprobs[which].append(logprob)
        cut = before_stop(model.chat, batch.ids[which], model.chat.stop_strings)
        if cut is not None:
            # The newest token has no state yet, those before it are in the sums already.
            fed = len(batch.ids[which]) - 1
            cut = min(cut, fed)
            if sums is not None and fed > cut:
                sums.forget(which, fed - cut)
            del batch.ids[which][cut:], batch.logprobs[which][cut:]
            batch.finish[which] = "stop"
        going.append(cut is None)
    return going


def _drop(state: _State, batch: Batch, going: list[bool]) -> None:
    """Take ended rows out of the batch, and make room for the newest token of the others."""
    rows = [row for row, on in enumerate(going) if on]
    batch.live = [batch.live[row] for row in rows]
    if not rows:
        return
    if len(rows) < len(going):
        index = torch.tensor(rows)
        state.cache.batch_select_indices(index)  # on the CPU: the layers' caches may lie on several devices
        state.mask, state.positions = state.mask[index], state.positions[index]
    state.mask = torch.cat([state.mask, torch.ones(len(rows), 1, dtype=torch.long)], 1)
    state.tokens = torch.tensor([batch.ids[i][-1] for i in batch.live])[:, None]


def _feed(model: Model, state: _State, batch: Batch, sums: _Sums | None, logits: bool) -> None:
    """Run the newest token of every live row, with each row's interventions."""
    device = model.device
    width = state.mask.shape[1] - len(batch.ids[batch.live[0]])
    watching = watched(model.blocks, range(model.n_layers), sums.sink) if sums is not None else contextlib.nullcontext()
    inputs = {
        "input_ids": state.tokens.to(device),
        "attention_mask": state.mask.to(device),
        "position_ids": state.positions.to(device),
        "past_key_values": state.cache,
        "use_cache": True,
    }
    with edited(model.blocks, batch.edits(device), prompt_length=width), watching:
        if logits:
            state.logits = model.net(**inputs).logits[:, -1]
        else:
            model.blocks.backbone(**inputs)
    state.positions = state.positions + 1
    if sums is not None:
        sums.commit(batch.live)


def _finished(model: Model, batch: Batch, i: int, sums: _Sums | None) -> tuple[Rollout, Reading | None]:
    request, ids, logprobs = batch.prompted[i].request, batch.ids[i], batch.logprobs[i]
    rollout = Rollout(
        id=request.id,
        conversation=request.conversation,
        text=model.chat.text(ids),
        prompt_ids=batch.prompted[i].ids,
        response_ids=tuple(ids),
        logprob=sum(logprobs) / len(logprobs) if logprobs else None,
        finish="stop" if batch.finish[i] == "stop" else "length",
    )
    if sums is None:
        return rollout, None
    mean = (sums.sums[:, i] / max(len(ids), 1)).cpu()
    require_finite(mean, "Activations")
    return rollout, Reading(request.id, mean.numpy().copy(), len(ids))
