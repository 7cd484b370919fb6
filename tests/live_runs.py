"""Runs of a live batch for tests: requests, the steps they arrive at, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import random_models as tiny
from mien.engines.hf_live import LiveBatch
from mien.live import LiveEnd, LiveEvent, LiveRequest, LiveToken
from mien.models import Model
from mien.records import Intervention, Sampling


def request(id: str, prompt: Sequence[int], most: int = 8, temperature: float = 0, **more: Any) -> LiveRequest:
    return LiveRequest(id, tuple(prompt), Sampling(most, temperature), more.pop("seed", 0), **more)


def probes_of(model: Model, layers: Sequence[int] = (2, 0, 3), each: int = 2) -> dict[int, torch.Tensor]:
    """Random probes, layers in no order."""
    generator = torch.Generator().manual_seed(5)
    return {k: torch.randn(each, model.info.d_model, generator=generator) for k in layers}


@contextmanager
def batch_of(model: Model, probes: Mapping[int, torch.Tensor] | None = None, **limits: Any) -> Iterator[LiveBatch]:
    """A batch whose hooks are gone afterwards."""
    before = tiny.hooks_on(model.net)
    batch = LiveBatch(model, probes, **limits)
    try:
        yield batch
    finally:
        batch.close()
        assert tiny.hooks_on(model.net) == before


def play(
    batch: LiveBatch,
    arrivals: Sequence[tuple[int, LiveRequest]],
    cancels: Mapping[str, int] | None = None,
    most: int = 2000,
) -> dict[str, list[LiveEvent]]:
    """Run a batch until it is idle. Requests arrive, and are given up, before the steps named."""
    events: dict[str, list[LiveEvent]] = {r.id: [] for _, r in arrivals}
    for step in range(most):
        for at, each in arrivals:
            if at == step:
                batch.check(each)
                batch.admit(each)
        gone = [id for id, at in (cancels or {}).items() if at == step]
        for id, event in batch.drop(gone) + batch.step():
            events[id].append(event)
        if batch.idle and all(at <= step for at, _ in arrivals):
            break
    else:
        raise AssertionError("it does not come to an end")
    for id, told in events.items():
        assert isinstance(told[-1], LiveEnd), id
        assert all(isinstance(event, LiveToken) for event in told[:-1]), id
        assert "".join(t.text for t in told[:-1]) + told[-1].rest == told[-1].text, id
    return events


def fed(batch: LiveBatch) -> list[list[int]]:
    """How many tokens each pass feeds to each row; filled as it runs."""
    sizes: list[list[int]] = []
    run = batch._passes.run

    def counted(first: int, chunks: Any, lengths: Any, **more: Any) -> Any:
        sizes.append([len(chunk) for chunk in chunks])
        return run(first, chunks, lengths, **more)

    batch._passes.run = counted  # type: ignore[method-assign]
    return sizes


def ends(events: Mapping[str, Sequence[LiveEvent]]) -> dict[str, LiveEnd]:
    return {id: told[-1] for id, told in events.items() if isinstance(told[-1], LiveEnd)}


def alone(model: Model, each: LiveRequest, probes: Mapping[int, torch.Tensor] | None = None) -> list[LiveEvent]:
    with batch_of(model, probes, max_rows=1) as batch:
        return play(batch, [(0, each)])[each.id]


def naive_read(
    model: Model, ids: Sequence[int], prompt: int, probes: Mapping[int, torch.Tensor], acts: Sequence[Intervention] = ()
) -> np.ndarray:
    """`[s, p]`: projections of every token after edits, from one forward pass without cache, padding or batch."""
    seen: dict[int, torch.Tensor] = {}

    def hook(layer: int) -> Any:
        def act(_module: Any, _args: Any, output: Any) -> Any:
            h = (output if isinstance(output, torch.Tensor) else output[0]).clone()
            for each in acts:
                where = {"all": slice(None), "prompt": slice(0, prompt), "response": slice(prompt, None)}[each.tokens]
                if layer in each.layers:
                    h[0, where] = each.edit(layer, h[0, where])
            seen[layer] = h[0]
            return h if isinstance(output, torch.Tensor) else (h, *output[1:])

        return act

    handles = [block.register_forward_hook(hook(k)) for k, block in enumerate(model.blocks.modules)]
    try:
        with torch.no_grad():
            model.net(input_ids=torch.tensor([list(ids)]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat([seen[k] @ probes[k].T for k in sorted(probes)], 1).numpy()


def renamed(each: LiveRequest, id: str) -> LiveRequest:
    return replace(each, id=id)


class Says:
    """While inside, the net goes on with the given ids after any prompt of the given length."""

    def __init__(self, net: Any, ids: Sequence[int], prompt: int) -> None:
        self._net, self._ids, self._prompt = net, list(ids), prompt

    def __enter__(self) -> None:
        def hook(_module: Any, _args: Any, kwargs: Any, output: Any) -> Any:
            output.logits = output.logits.clone()
            places = kwargs.get("position_ids")
            for row, place in enumerate([] if places is None else places[:, -1].tolist()):
                n = place + 1 - self._prompt
                if 0 <= n < len(self._ids):
                    output.logits[row, -1, self._ids[n]] += 1000
            return output

        self._handle = self._net.register_forward_hook(hook, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()
