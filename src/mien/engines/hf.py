"""The transformers engine: writes, reads and scores with one loaded model, on any device it runs on.

Writing has its own loop, because the residual means are taken as the tokens appear, prompts that are sampled several
times are prefilled once, each answer draws from its own random stream, and each row has its own interventions.
This file does not know traits, judges or directions.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mien.engines.hf_batch import Batch, Prompted, cache_bytes_per_token, pack, write_batch
from mien.engines.hf_prefill import Prefilled, Prompt, prefill, row_edits
from mien.engines.sampling import check_sampling
from mien.errors import InputError, ModelError
from mien.models import Model
from mien.records import Conversation, Intervention, ModelInfo, Reading, Rollout, Sampling, ScoreRequest, WriteRequest
from mien.residual import SpanMeans, edited, require_finite, require_fit, run_partly, stopping_after, watched


@dataclass(frozen=True)
class HfEngine:
    """`records.Engine` over a transformers model."""

    model: Model
    max_rows: int = 64
    """Most sequences in one batch."""
    cache_bytes: int = 2 << 30
    """Most memory for keys and values of one batch; batches shrink to fit."""
    read_tokens: int = 8192
    """Most tokens, padding included, in one forward pass over given texts."""
    score_tokens: int = 4096
    """Most tokens, padding included, whose logits are taken in one pass."""

    @property
    def info(self) -> ModelInfo:
        return self.model.info

    def write(
        self,
        requests: Sequence[WriteRequest],
        sampling: Sampling,
        *,
        read: bool = True,
        done: Container[str] = frozenset(),
    ) -> Iterator[list[tuple[Rollout, Reading | None]]]:
        check_sampling(sampling)
        require_fit((i for r in requests for i in r.interventions), self.info)
        prompted = [Prompted(r, self.model.chat.prompt_ids(r.conversation)) for r in requests]
        self._check_ids((p.ids for p in prompted), sampling.max_tokens)
        limit = self.cache_bytes // cache_bytes_per_token(self.model)
        for batch in pack(prompted, self.max_rows, limit, sampling.max_tokens):
            if all(p.request.id in done for p in batch):
                continue
            # Not around `yield`: the mode would hold for whoever takes the batches, between one and the next.
            with torch.inference_mode():
                written = write_batch(self.model, Batch(batch), sampling, read)
            yield written

    def read(self, rollouts: Sequence[Rollout], layers: Sequence[int] | None = None) -> Iterator[list[Reading]]:
        """Second-pass reading. `Reading.mean` is `[len(layers), d]`, rows in the order of `layers` (default: all).

        Raises:
            InputError: no layers, one that the model does not have, or one twice.
            ModelError: a text is longer than the model's positions, or its ids are not of this model.
        """
        count = self.model.n_layers
        wanted = list(range(count)) if layers is None else list(layers)
        if not wanted or len(set(wanted)) < len(wanted) or not all(0 <= k < count for k in wanted):
            raise InputError(f"The layers to read must be different ones of 0 to {count - 1}, not {wanted}.")
        self._check_ids(r.prompt_ids + r.response_ids for r in rollouts)
        order = sorted(range(len(rollouts)), key=lambda i: len(rollouts[i].prompt_ids) + len(rollouts[i].response_ids))
        for chunk in self._chunks(order, [len(r.prompt_ids) + len(r.response_ids) for r in rollouts], self.read_tokens):
            yield self._read_chunk([rollouts[i] for i in chunk], wanted)

    def logprobs(
        self, requests: Sequence[ScoreRequest], interventions: Sequence[Intervention] = ()
    ) -> list[np.ndarray]:
        """Every distinct conversation is run once, and its keys and values serve all the answers scored after it. Equal
        requests are scored once: between batches the last digits differ, and the same words must get the same score.
        """
        require_fit(interventions, self.info)
        prompts = {c: self.model.chat.prompt_ids(c) for c in {r.conversation for r in requests} if c}
        asked = [self._pair(request, prompts) for request in requests]
        pairs = list(dict.fromkeys(asked))
        results: dict[tuple[tuple[int, ...], tuple[int, ...]], np.ndarray] = {}
        self._check_ids(prompt + answer for prompt, answer in pairs)
        # Prompts that begin alike side by side, since they share passes; running text, after one token, on its own.
        order = sorted(range(len(pairs)), key=lambda i: (pairs[i][0], len(pairs[i][1]), i))
        # In one measure: as many tokens as reading takes, and no more than so many of them with logits.
        logits_weigh = self.read_tokens / self.score_tokens
        lengths = [max(len(p) + len(a), math.ceil(logits_weigh * len(a))) for p, a in pairs]
        for running in (True, False):
            part = [i for i in order if (len(pairs[i][0]) == 1) is running]
            for chunk in self._chunks(part, lengths, self.read_tokens):
                rows = self._score_chunk([pairs[i] for i in chunk], interventions)
                results |= zip([pairs[i] for i in chunk], rows, strict=True)
        return [results[pair] for pair in asked]

    def _pair(
        self, request: ScoreRequest, prompts: dict[Conversation, tuple[int, ...]]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that are given and ids that are scored."""
        if not request.conversation:
            ids = self.model.chat.plain_ids(request.text) if request.response_ids is None else request.response_ids
            return ids[:1], ids[1:][: request.max_tokens]
        answer = self.model.chat.response_ids(request.text) if request.response_ids is None else request.response_ids
        return prompts[request.conversation], answer[: request.max_tokens]

    def _check_ids(self, rows: Iterable[tuple[int, ...]], more: int = 0) -> None:
        """Raises: ModelError: a row and `more` tokens after it do not fit the model, or an id is not of it."""
        room = self.model.positions
        longest, largest = 0, -1
        for row in rows:
            longest, largest = max(longest, len(row)), max(largest, max(row, default=-1))
        if room is not None and longest + more > room:
            what = f"A prompt of {longest} tokens and an answer of {more}" if more else f"A text of {longest} tokens"
            raise ModelError(f"{what} cannot go into the model's {room} positions; shorten it.")
        if largest >= self.model.n_vocab:
            raise ModelError(f"The token id {largest} is not of {self.info.id}, which has {self.model.n_vocab}.")

    def _chunks(self, order: Sequence[int], lengths: Sequence[int], most: int) -> Iterator[list[int]]:
        """Batches of neighbours in `order` with at most `most` tokens, padding included."""
        chunk: list[int] = []
        longest = 0
        for i in order:
            wide = max(longest, lengths[i])
            if chunk and (len(chunk) == self.max_rows or (len(chunk) + 1) * wide > most):
                yield chunk
                chunk, wide = [], lengths[i]
            chunk.append(i)
            longest = wide
        if chunk:
            yield chunk

    def _read_chunk(self, rollouts: Sequence[Rollout], layers: list[int]) -> list[Reading]:
        # Padding on the right needs no mask: a causal model's real tokens never look at what follows them.
        rows = [r.prompt_ids + r.response_ids for r in rollouts]
        width = max(max((len(r) for r in rows), default=1), 1)
        ids = torch.full((len(rows), width), self.model.pad_id)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        spans = [(len(r.prompt_ids), len(r.prompt_ids) + len(r.response_ids)) for r in rollouts]
        sink = SpanMeans(spans, layers, self.model.blocks.d_model)
        blocks = self.model.blocks
        with torch.inference_mode(), watched(blocks, layers, sink), stopping_after(blocks, max(layers)):
            run_partly(blocks, input_ids=ids.to(self.model.device), use_cache=False)
        require_finite(sink.means, "Activations")
        return [
            Reading(r.id, sink.means[i].numpy(), end - start)
            for i, (r, (start, end)) in enumerate(zip(rollouts, spans, strict=True))
        ]

    def _score_chunk(
        self, pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], interventions: Sequence[Intervention]
    ) -> list[np.ndarray]:
        with torch.inference_mode():
            return _score(self.model, pairs, tuple(interventions))


PASS = 128
"""Tokens of padding that must be saved for a pass of their own over the shorter answers of a batch."""


def _score(
    model: Model,
    pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    interventions: tuple[Intervention, ...],
) -> list[np.ndarray]:
    """Log-probabilities of each pair's second part after its first. Prompts are run together, because they share their
    beginnings, and answers with others of about their length.
    """
    before = prefill(model, [Prompt(prompt[:-1], interventions) for prompt, _ in pairs], logits=False)
    found = [np.zeros(0, np.float32) for _ in pairs]
    groups = sorted(alike([len(answer) for _, answer in pairs]), key=len)
    for group in groups:  # the largest goes last, and needs no copy of the keys and values
        part = before if len(groups) == 1 else before.rows(group, copied=group is not groups[-1])
        for i, scores in zip(group, _score_answers(model, [pairs[i] for i in group], part, interventions), strict=True):
            found[i] = scores
    return found


def alike(lengths: Sequence[int]) -> list[list[int]]:
    """Rows in groups of about the same length, in order: each cut saves at least `PASS` tokens of padding."""

    def cut(part: list[int]) -> list[list[int]]:
        longest = lengths[part[-1]]
        saved = [i * (longest - lengths[part[i - 1]]) for i in range(len(part))]
        best = max(range(len(part)), key=saved.__getitem__)
        return [sorted(part)] if saved[best] < PASS else cut(part[:best]) + cut(part[best:])

    return cut(sorted(range(len(lengths)), key=lengths.__getitem__))


def _score_answers(
    model: Model,
    pairs: Sequence[tuple[tuple[int, ...], tuple[int, ...]]],
    before: Prefilled,
    interventions: tuple[Intervention, ...],
) -> list[np.ndarray]:
    """The prompt's last token begins this pass, because its logits are the ones that predict the answer's first."""
    device, pad, mask = model.device, model.pad_id, before.mask
    longest = max(len(answer) for _, answer in pairs)
    if not longest:
        return [np.zeros(0, np.float32) for _ in pairs]
    fed = torch.full((len(pairs), longest), pad)
    target = torch.zeros(len(pairs), longest, dtype=torch.long)
    for i, (prompt, answer) in enumerate(pairs):
        fed[i, : len(answer)] = torch.tensor((prompt[-1:] + answer)[: len(answer)], dtype=torch.long)
        target[i, : len(answer)] = torch.tensor(answer, dtype=torch.long)
    real = torch.arange(longest)[None] < torch.tensor([len(answer) for _, answer in pairs])[:, None]
    positions = mask.sum(1, keepdim=True) + torch.arange(longest)[None]
    edits = row_edits([interventions] * len(pairs), device)
    with edited(model.blocks, edits, prompt_length=mask.shape[1] + 1):
        logits = model.net(
            input_ids=fed.to(device), attention_mask=torch.cat([mask, real.long()], 1).to(device),
            position_ids=positions.to(device), past_key_values=before.cache, use_cache=True,
        ).logits  # fmt: skip
    chosen = logits.gather(2, target.to(logits.device)[..., None])[..., 0].float()
    scores = torch.stack([chosen[i] - logits[i].float().logsumexp(-1) for i in range(len(pairs))]).cpu()
    require_finite(scores[real], "Log-probabilities")
    return [scores[i, : len(answer)].numpy() for i, (_, answer) in enumerate(pairs)]
