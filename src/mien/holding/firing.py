"""How often a hold fires: the share of (layer, position) slots at which it changes the stream.

This file does not know what the texts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from mien.engines.hf_hooks import counts
from mien.models import Model
from mien.records import Intervention, Tokens
from mien.residual import edited, run_partly, stopping_after

Ids = tuple[int, ...]


@dataclass
class Counted:
    """An intervention, counted as it goes: for one row at a time, without a cache."""

    inner: Intervention
    prompt: int = 0
    """Where the row's answer begins."""
    slots: int = 0
    fired: int = 0
    _layers: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self._layers = self.inner.layers

    @property
    def layers(self) -> tuple[int, ...]:
        return self._layers

    @property
    def tokens(self) -> Tokens:
        return self.inner.tokens

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        new = self.inner.edit(layer, h)
        if counts(self.inner):
            where = (new != h).any(-1)
            inside = {"all": where, "prompt": where[:, : self.prompt], "response": where[:, self.prompt :]}[self.tokens]
            self.slots += inside.numel()
            self.fired += int(inside.sum())
        return new


def firing(model: Model, texts: Sequence[tuple[Ids, Ids]], interventions: Sequence[Intervention]) -> float | None:
    """Share of the slots that the interventions look at (prompt and answer, or the one they are for) at which they
    change the stream; None if none of them has a range that it could leave.

    Args:
        model: what is held.
        texts: ids of prompts and answers.
        interventions: what is counted.
    """
    counted = [Counted(i) for i in interventions]
    deepest = max(k for i in interventions for k in i.layers)
    for prompt, answer in texts:
        for one in counted:
            one.prompt = len(prompt)
        ids = torch.tensor([prompt + answer], device=model.device)
        rows: list[tuple[Intervention, torch.Tensor | None]] = [(one, None) for one in counted]
        with torch.inference_mode(), edited(model.blocks, rows, len(prompt)), stopping_after(model.blocks, deepest):
            run_partly(model.blocks, input_ids=ids, use_cache=False)
    slots = sum(one.slots for one in counted)
    return sum(one.fired for one in counted) / slots if slots else None
