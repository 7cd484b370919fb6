"""Add, Ablate and Cap: what can be done to the residual stream with a direction, as pure maths, then attached.

This file does not know how text is written or where hooks go; `residual` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mien.directions import Direction
from mien.errors import InputError
from mien.models import Model
from mien.records import Intervention, Tokens
from mien.residual import edited

Layers = int | Sequence[int] | None


def _chosen(direction: Direction, layers: Layers) -> tuple[int, ...]:
    wanted = (direction.layer,) if layers is None else (layers,) if isinstance(layers, int) else tuple(layers)
    if not wanted:
        raise InputError("An intervention needs at least one layer.")
    bad = [k for k in wanted if not 0 <= k < direction.vector.shape[0]]
    if bad:
        raise InputError(
            f"The direction {direction.card.name} has no layer {bad[0]}: it has 0 to {len(direction.vector) - 1}."
        )
    return wanted


@dataclass(frozen=True, eq=False)
class _OnDirection:
    direction: Direction
    at: Layers = None
    """Layers to act on; None is the card's recommended layer."""
    tokens: Tokens = "all"
    _cast: dict[tuple[int, torch.device, torch.dtype], torch.Tensor] = field(default_factory=dict, repr=False)

    @property
    def layers(self) -> tuple[int, ...]:
        return _chosen(self.direction, self.at)

    def _row(self, layer: int, like: torch.Tensor) -> torch.Tensor:
        """The row this intervention uses at `layer`, on the device and in the dtype of `like`, made once."""
        key = (layer, like.device, like.dtype)
        if key not in self._cast:
            self._cast[key] = self._make_row(layer).to(like.device, like.dtype)
        return self._cast[key]

    def _make_row(self, layer: int) -> torch.Tensor:
        return self.direction.unit(layer)


@dataclass(frozen=True, eq=False)
class Add(_OnDirection):
    """`h <- h + coef * v_k`. Coef 1.0 is the whole positive-minus-negative difference of means at that layer.

    On several layers each adds only what the stream has gained since the one before, `v_k - v_j`, so that the sum
    stays one difference of means (Persona Vectors, 2507.21509).
    """

    coef: float = 1.0

    def __post_init__(self) -> None:
        if not torch.isfinite(torch.tensor(float(self.coef))):
            raise InputError("A coef must be a finite number.")

    def _make_row(self, layer: int) -> torch.Tensor:
        rows = self.direction.vector
        # A zero row is a layer of which nothing is known, not a stream that has lost everything.
        below = [k for k in self.layers if k < layer and bool(rows[k].any())]
        return self.coef * (rows[layer] - rows[max(below)] if below else rows[layer])

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        return h + self._row(layer, h)


@dataclass(frozen=True, eq=False)
class Ablate(_OnDirection):
    """`h <- h - <h, v^> v^`: the stream keeps nothing along the direction."""

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        unit = self._row(layer, h)
        return h - (h @ unit)[..., None] * unit


@dataclass(frozen=True, eq=False)
class Cap(_OnDirection):
    """Hold the projection between `low` and `high` (raw units); inside the range nothing changes.

    Floor: `h <- h + max(low - <h, v^>, 0) v^` (The Assistant Axis, 2601.10387); the ceiling is the same, mirrored.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise InputError("A cap needs a low or a high bound, in raw units of the projection.")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"The cap's low bound {self.low} lies above its high bound {self.high}.")

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        unit = self._row(layer, h)
        # In bfloat16 the projection's rounding is larger than many caps' reach, so the scalar part is float32.
        at = (h.float() @ unit.float()) if h.dtype != torch.float32 else h @ unit
        move = at.clamp(min=self.low, max=self.high) - at
        return h + move.to(h.dtype)[..., None] * unit


@contextlib.contextmanager
def steered(
    model: Model, *interventions: Intervention, prompt_length: int | torch.Tensor | None = None
) -> Iterator[Model]:
    """While inside, whatever runs `model` (its `generate` too) has the interventions applied, in the order given.

    Args:
        model: what is run.
        interventions: composed left to right.
        prompt_length: where responses begin, for interventions on prompt or response tokens outside of generation.

    Raises:
        FingerprintError: a direction was made for another model.
    """
    for intervention in interventions:
        direction = getattr(intervention, "direction", None)
        if isinstance(direction, Direction):
            direction.check_model(model.info)
    with edited(model.blocks, [(i, None) for i in interventions], prompt_length):
        yield model
