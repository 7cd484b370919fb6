"""What a small training step on a text would do to the model's own answers, with no step taken.

A step of gradient ascent on log p(text) moves the mean projection P of given answers by `rate * <grad P, grad log p>`,
to first order (gradient influence, as in TracIn, 2002.08484). grad P is kept for the linear maps of a few blocks.
grad log p is not needed as such: a map y = W a has `grad W = sum_t b_t a_t'`, with b the gradient at its output, so a
text's product with grad P is `sum_t b_t . (grad P) a_t`, and one backward pass gives it for a batch of texts.

A text that the model draws itself pulls by 0 on average, because the expectation of `grad log p` is 0.
Shapes: b batch, s sequence, g watched. This file does not know data sets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers.pytorch_utils import Conv1D

from mien.errors import InputError
from mien.models import Model, stream_of
from mien.records import Rollout
from mien.residual import require_finite, run_partly, stopping_after

Floats = NDArray[np.float64]

SHARE = 0.25
"""Share of the model's blocks, the last up to what is watched, whose weights count. Measured on the embedded model:
fewer see less, and more add what does not last."""
_TOKENS = 2048
"""Tokens in one backward pass."""


@dataclass(frozen=True)
class Text:
    """A text, and what of it would be learnt."""

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    """Columns that carry loss, from 1 on: the first token of a text is predicted by nothing."""


@dataclass
class _Map:
    """A linear map of a block, and the gradient of what is watched along its weight."""

    module: nn.Module
    grads: dict[int, torch.Tensor]
    """By watched one; shaped as the weight."""

    @property
    def weight(self) -> nn.Parameter:
        weight = self.module.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def product(self, g: int, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """`[b]`: inputs and gradients at the output, `[b, s, ·]` each, with the gradient of one watched."""
        grad = self.grads[g]
        across = a @ (grad if isinstance(self.module, Conv1D) else grad.T)
        return (across.float() * b.float()).sum((1, 2))


class Pulls:
    """How texts pull at the projections of the model's own answers.

    Args:
        along: for each of what is watched, its layers and vectors `[d]`; projections are summed over them.
        answers: the model's own answers, whose mean projection is to be moved.

    Raises:
        InputError: nothing to watch, or no answers.
    """

    def __init__(
        self, model: Model, along: Sequence[Sequence[tuple[int, NDArray[np.float32]]]], answers: Sequence[Rollout]
    ) -> None:
        said = [a for a in answers if a.response_ids]
        if not along or not said:
            raise InputError(
                "There is nothing that could be pulled at: directions and answers of the model are needed."
            )
        self._model, self.watched = model, len(along)
        deepest = [max(layer for layer, _ in parts) for parts in along]
        count = max(1, round(SHARE * model.n_layers))
        self._maps = [
            _Map(module, {g: torch.zeros_like(module.weight) for g in at})
            for layer, block in enumerate(model.blocks.modules)
            if (at := [g for g, deep in enumerate(deepest) if deep - count < layer <= deep])
            for module in block.modules()
            if isinstance(module, nn.Linear | Conv1D)
        ]
        ordered = sorted(said, key=lambda a: len(a.prompt_ids) + len(a.response_ids))
        for part in _parts(ordered, [len(a.prompt_ids) + len(a.response_ids) for a in ordered]):
            self._add(along, part, len(said))

    def of(self, texts: Sequence[Text]) -> Floats:
        """`[n, g]`: what a step of ascent on each text's log-probability, its learnt tokens summed, does to each mean
        projection; raw units a unit of the learning rate.

        Raises:
            NonFiniteError: a gradient holds NaN or infinity.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
        found = np.zeros((len(texts), self.watched))
        for part in _parts(order, [len(texts[i].ids) for i in order]):
            values = self._batch([texts[i] for i in part])
            require_finite(values, "Gradients")
            found[part] = values.numpy()
        return found

    def _add(
        self, along: Sequence[Sequence[tuple[int, NDArray[np.float32]]]], answers: Sequence[Rollout], count: int
    ) -> None:
        """Add what some of the answers say of the gradients."""
        rows = [Text(a.prompt_ids + a.response_ids, ((len(a.prompt_ids), len(a.prompt_ids + a.response_ids)),))
                for a in answers]  # fmt: skip
        ids, learnt = _padded(rows, self._model.pad_id)
        share = (learnt / learnt.sum(1, keepdim=True) / count).to(self._model.device)
        layers = sorted({layer for parts in along for layer, _ in parts})
        streams: dict[int, torch.Tensor] = {}
        blocks = self._model.blocks
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_only(self._model.net, [one.weight for one in self._maps]))
            for layer in layers:
                hook = blocks.modules[layer].register_forward_hook(_keep(streams, layer))
                stack.callback(hook.remove)
            with stopping_after(blocks, layers[-1]):
                run_partly(blocks, input_ids=ids.to(self._model.device), use_cache=False)
            for g, parts in enumerate(along):
                value = sum(
                    (share.to(h.device) * (h.float() @ torch.from_numpy(vector).to(h.device).float())).sum()
                    for layer, vector in parts
                    for h in [streams[layer]]
                )
                mine = [one for one in self._maps if g in one.grads]
                assert isinstance(value, torch.Tensor)
                grads = torch.autograd.grad(value, [m.weight for m in mine], retain_graph=True, allow_unused=True)
                for one, grad in zip(mine, grads, strict=True):
                    if grad is not None:
                        one.grads[g] += grad

    def _batch(self, texts: Sequence[Text]) -> torch.Tensor:
        ids, learnt = _padded(texts, self._model.pad_id)
        found = torch.zeros(len(texts), self.watched)
        ids = ids.to(self._model.device)
        with torch.enable_grad(), _only(self._model.net, ()), ExitStack() as stack:
            for one in self._maps:
                hook = one.module.register_forward_hook(_watch(one, len(texts), found))
                stack.callback(hook.remove)
            logits = self._model.net(input_ids=ids, use_cache=False).logits
            there = learnt[:, 1:].bool().to(logits.device)
            rows = logits[:, :-1][there].float()
            chosen = rows.gather(1, ids[:, 1:].to(logits.device)[there][:, None])[:, 0]
            (chosen - rows.logsumexp(-1)).sum().backward()
        return found


def _keep(streams: dict[int, torch.Tensor], layer: int) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> None:
        streams[layer] = stream_of(output)

    return hook


def _watch(one: _Map, rows: int, found: torch.Tensor) -> Any:
    def hook(_module: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
        a = args[0].detach()
        if a.ndim != 3 or len(a) != rows:  # experts see tokens of all texts in one row, and cannot say whose
            return
        if not output.requires_grad:
            output.requires_grad_()  # nothing before it is learnt: here the backward pass ends

        def arrived(b: torch.Tensor) -> None:
            for g in one.grads:
                found[:, g] += one.product(g, a, b).cpu()

        output.register_hook(arrived)  # type: ignore[no-untyped-call]

    return hook


@contextmanager
def _only(net: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """These weights are differentiated by, and no others."""
    before = [(weight, weight.requires_grad) for weight in net.parameters()]
    net.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_()
    try:
        yield
    finally:
        for weight, had in before:
            weight.requires_grad_(had)


def _padded(texts: Sequence[Text], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids `[b, s]`, padded on the right, which a causal model's real tokens never look at; and 1 where they are
    learnt."""
    width = max(len(text.ids) for text in texts)
    ids, learnt = torch.full((len(texts), width), pad), torch.zeros(len(texts), width)
    for i, text in enumerate(texts):
        ids[i, : len(text.ids)] = torch.tensor(text.ids, dtype=torch.long)
        for start, end in text.spans:
            learnt[i, start:end] = 1
    return ids, learnt


def _parts(items: Sequence[Any], lengths: Sequence[int]) -> Iterator[list[Any]]:
    """Items of ascending lengths, so many together as a pass holds."""
    part: list[Any] = []
    for item, length in zip(items, lengths, strict=True):
        if part and (len(part) + 1) * length > _TOKENS:
            yield part
            part = []
        part.append(item)
    if part:
        yield part
