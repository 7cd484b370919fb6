"""A direction: one row a decoder block, its card, and what can be done with the two.

This file does not know how a direction is measured or judged, nor how it is kept on disk.
Shapes use: n rollouts, l layers, d width, q quantiles. Raw units are those of the residual stream.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from numbers import Real
from typing import SupportsIndex, TypeVar

import torch

from mien.card import Card
from mien.directions.naming import divided, grouped, negated, summed, times
from mien.errors import FingerprintError, InputError, NonFiniteError, NothingKeptError
from mien.records import ModelInfo

_IN_SPAN = 1e-6
"""What is left of a row after projecting others out, relative to the row, below which it is float32 rounding."""

Raw = TypeVar("Raw", float, torch.Tensor)


def difference_of_means(pos: torch.Tensor, neg: torch.Tensor) -> torch.Tensor:
    """`mean(pos) - mean(neg)` (Persona Vectors, 2507.21509), computed in float64.

    Args:
        pos: `[n, l, d]` raw readings of rollouts that show the trait.
        neg: `[m, l, d]` readings of rollouts that do not.

    Returns:
        `[l, d]` float32, raw units.

    Raises:
        NothingKeptError: one side is empty.
        InputError: shapes do not fit.
        NonFiniteError: a reading holds NaN or infinity.
    """
    if pos.ndim != 3 or neg.ndim != 3 or pos.shape[1:] != neg.shape[1:]:
        raise InputError(
            f"Readings must be [n, layers, width] with the same layers and width on both sides, "
            f"not {list(pos.shape)} and {list(neg.shape)}."
        )
    for side, readings in (("positive", pos), ("negative", neg)):
        if not len(readings):
            raise NothingKeptError(f"There are no {side} rollouts, so there is no difference of means to take.")
        if not torch.isfinite(readings).all():
            raise NonFiniteError(f"The readings of the {side} rollouts hold NaN or infinity; drop those rollouts.")
    return (pos.mean(dim=0, dtype=torch.float64) - neg.mean(dim=0, dtype=torch.float64)).float()


@dataclass(frozen=True, eq=False, repr=False)
class Direction:
    """A direction in the residual stream of one model, at every layer.

    Raises, when made:
        InputError: the tensors' shapes do not fit the card.
        NonFiniteError: they hold NaN or infinity.
    """

    vector: torch.Tensor
    """`[l, d]` float32 on the CPU, raw units; row k belongs to the output of decoder block k. A zero row is a layer
    for which nothing is known; using it is an error."""
    card: Card
    baseline: torch.Tensor | None = None
    """`[l, q]` float32, quantiles of the raw projections of the model's own plain answers at each layer."""

    def __post_init__(self) -> None:
        shape = (self.card.n_layers, self.card.d_model)
        if tuple(self.vector.shape) != shape:
            raise InputError(
                f"The card of {self.card.name} says {shape[0]} layers of width {shape[1]}, "
                f"but the tensor is {list(self.vector.shape)}."
            )
        object.__setattr__(self, "vector", _own(self.vector, f"The direction {self.card.name}"))
        if self.baseline is not None:
            if self.baseline.ndim != 2 or len(self.baseline) != shape[0]:
                raise InputError(
                    f"The baseline of {self.card.name} must be [{shape[0]}, quantiles], "
                    f"not {list(self.baseline.shape)}."
                )
            object.__setattr__(self, "baseline", _own(self.baseline, f"The baseline of {self.card.name}"))

    def __repr__(self) -> str:
        layers, width = self.vector.shape
        return f"<Direction {self.card.name}: {layers} layers of width {width}, {self.card.model}>"

    @classmethod
    def from_means(cls, pos: torch.Tensor, neg: torch.Tensor, card: Card) -> Direction:
        """The difference of means of two sets of readings, `[n, l, d]` and `[m, l, d]`; raises what it raises."""
        return cls(difference_of_means(pos, neg), card)

    @property
    def layer(self) -> int:
        """The card's recommended layer.

        Raises:
            InputError: the card recommends none.
        """
        if self.card.recommended_layer is None:
            raise InputError(
                f"The card of {self.card.name} recommends no layer; give one of 0 to {len(self.vector) - 1} "
                f"(the middle, {len(self.vector) // 2}, is a common first try)."
            )
        return self._index(self.card.recommended_layer)

    def _index(self, layer: SupportsIndex | None) -> int:
        if layer is None:
            return self.layer
        if isinstance(layer, bool) or not hasattr(layer, "__index__"):
            raise InputError(f"A layer is a whole number, not {layer!r}.")
        k = operator.index(layer)
        if not 0 <= k < len(self.vector):
            raise InputError(f"The direction {self.card.name} has no layer {k}: it has 0 to {len(self.vector) - 1}.")
        return k

    def unit(self, layer: int | None = None) -> torch.Tensor:
        """`v/|v|` at a layer, `[d]` float32; the recommended layer if none is given.

        Raises:
            InputError: no such layer, or nothing is known of it (a zero row).
        """
        k = self._index(layer)
        row = self.vector[k].double()  # in float32 the squares of very small entries would vanish
        norm = row.norm()
        if not norm > 0:
            known = torch.nonzero(self.vector.any(dim=1)).flatten().tolist()
            instead = f"use one of layers {_ranges(known)}" if known else "no layer of it can be used"
            raise InputError(f"The direction {self.card.name} is zero at layer {k}; {instead}.")
        unit: torch.Tensor = row / norm
        return unit.float()

    def project(self, h: torch.Tensor, layer: int | None = None) -> torch.Tensor:
        """Raw projection `<h, v/|v|>` of `h` `[..., d]` at a layer: `[...]`, float32 (float64 if `h` is).

        Raises:
            InputError: the width does not fit, no such layer, or a zero row.
            NonFiniteError: `h` holds NaN or infinity.
        """
        unit = self.unit(layer)
        h = torch.as_tensor(h)
        if h.ndim == 0 or h.shape[-1] != len(unit):
            raise InputError(f"{self.card.name} has width {len(unit)}, but the activations are {list(h.shape)}.")
        dtype = torch.float64 if h.dtype == torch.float64 else torch.float32
        raw = h.to(dtype) @ unit.to(h.device, dtype)
        if not torch.isfinite(raw).all():
            raise NonFiniteError(f"The projection on {self.card.name} is NaN or infinite; the activations are.")
        return raw

    def sigma(self, raw: Raw, layer: int | None = None) -> Raw:
        """A raw projection in standard deviations from the mean of the reader's own plain answers (`card.baseline`).

        Raises:
            InputError: the card has no baseline, or it was measured at another layer.
        """
        k, base = self._index(layer), self.card.baseline
        if base is None:
            raise InputError(f"The card of {self.card.name} has no baseline, so projections stay in raw units.")
        if k != self.card.recommended_layer:
            raise InputError(
                f"The baseline of {self.card.name} was measured at layer {self.card.recommended_layer}, not at {k}."
            )
        if not base.std > 0:
            raise InputError(f"The baseline of {self.card.name} has no spread, so there is no sigma to measure in.")
        return (raw - base.mean) / base.std

    def norms(self) -> torch.Tensor:
        """`|v|` at each layer, `[l]` float32, raw units."""
        norms: torch.Tensor = self.vector.double().norm(dim=1)
        return norms.float()

    def cosine(self, other: Direction, layer: int | None = None) -> float:
        """Cosine with another direction of the same model at a layer (this one's recommended layer if not given).

        Raises:
            FingerprintError: the other belongs to another model.
            InputError: no such layer, or either has a zero row there.
        """
        self._check_same(other)
        k = self._index(layer)
        return float((self.unit(k).double() @ other.unit(k).double()).clamp(-1, 1))

    def increments(self) -> torch.Tensor:
        """What each layer adds to the one before, `v_k - v_(k-1)`, `[l, d]` float32, for steering on several layers.

        Their sum up to layer k is `v_k`. A zero row, of which nothing is known, has a zero increment, and the next
        known row is taken against the last known one.
        """
        rows, last = torch.zeros_like(self.vector), torch.zeros_like(self.vector[:1]).squeeze(0)
        for k, row in enumerate(self.vector):
            if row.any():
                rows[k], last = row - last, row
        return rows

    def check_model(self, info: ModelInfo) -> None:
        """Refuse a model that this direction was not made for. One that an adapter was put on since is not refused: the
        stream that the direction was taken from is still there.

        Raises:
            FingerprintError: the fingerprints differ.
        """
        if not info.takes(self.card.fingerprint):
            raise FingerprintError(
                f"The direction {self.card.name} was made for {self.card.model} ({self.card.n_layers} layers of width "
                f"{self.card.d_model}, fingerprint {self.card.fingerprint[:12]}) and cannot be used on {info.id} "
                f"({info.n_layers} layers of width {info.d_model}, fingerprint {info.fingerprint[:12]}); "
                f"extract it again for {info.id}."
            )

    def _check_same(self, other: Direction) -> None:
        if other.card.fingerprint != self.card.fingerprint or other.vector.shape != self.vector.shape:
            raise FingerprintError(
                f"{self.card.name} belongs to {self.card.model} (fingerprint {self.card.fingerprint[:12]}) and "
                f"{other.card.name} to {other.card.model} (fingerprint {other.card.fingerprint[:12]}); "
                f"directions of different models cannot be compared or combined."
            )

    def __add__(self, other: Direction) -> Direction:
        if not isinstance(other, Direction):
            return NotImplemented
        self._check_same(other)
        return self._derived(self.vector + other.vector, summed(self.card.name, other.card.name), other=other)

    def __sub__(self, other: Direction) -> Direction:
        if not isinstance(other, Direction):
            return NotImplemented
        self._check_same(other)
        return self._derived(self.vector - other.vector, summed(self.card.name, negated(other.card.name)), other=other)

    def __neg__(self) -> Direction:
        return self._derived(-self.vector, negated(self.card.name))

    def __mul__(self, factor: float) -> Direction:
        if isinstance(factor, bool) or not isinstance(factor, Real):
            return NotImplemented
        c = float(factor)
        if not math.isfinite(c):
            raise InputError(f"A direction can be scaled by a finite number only, not by {c}.")
        return self._derived((self.vector.double() * c).float(), times(c, self.card.name))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Direction:
        if isinstance(divisor, bool) or not isinstance(divisor, Real):
            return NotImplemented
        c = float(divisor)
        if not math.isfinite(c) or c == 0:
            raise InputError(f"A direction can be divided by a finite number other than zero only, not by {c}.")
        return self._derived((self.vector.double() / c).float(), divided(self.card.name, c))

    def orthogonal_to(self, *others: Direction) -> Direction:
        """This direction without its part in the span of the others, at each layer.

        Where nothing but rounding is left the row becomes zero. A zero row of another takes nothing away.

        Raises:
            FingerprintError: one of them belongs to another model.
            InputError: no others were given.
        """
        if not others:
            raise InputError("Give at least one direction to be orthogonal to.")
        for other in others:
            self._check_same(other)
        left = torch.zeros_like(self.vector)
        for k, row in enumerate(self.vector.double()):
            known = [o.unit(k).double() for o in others if o.vector[k].any()]
            rest = row
            if known:
                _, sizes, basis = torch.linalg.svd(torch.stack(known), full_matrices=False)
                # The others are float32: a size below this is their rounding, not a dimension of their span.
                basis = basis[sizes > _IN_SPAN * sizes.max()]
                for _ in range(2):  # the second pass removes what rounding left of the first
                    rest = rest - basis.T @ (basis @ rest)
            if rest.norm() > _IN_SPAN * row.norm():
                left[k] = rest.float()
        names = ", ".join(o.card.name for o in others)
        return self._derived(left, f"{grouped(self.card.name)} orthogonal to ({names})", others=others)

    def _derived(
        self, vector: torch.Tensor, name: str, other: Direction | None = None, others: tuple[Direction, ...] = ()
    ) -> Direction:
        """A direction made by arithmetic: it keeps the model and the layer, and none of the evidence."""
        layer, owner = self.card.recommended_layer, self
        if layer is None and other is not None:
            layer, owner = other.card.recommended_layer, other
        sources = [self, *([other] if other else []), *others]
        signs = "; ".join(dict.fromkeys(f"{s.card.name}: {s.card.sign}" for s in sources if s.card.kind != "derived"))
        card = Card(
            kind="derived",
            name=name,
            description=f"Made by arithmetic from {', '.join(dict.fromkeys(s.card.name for s in sources))}.",
            sign=f"larger is more of {name}" + (f" ({signs})" if signs else ""),
            model=self.card.model,
            fingerprint=self.card.fingerprint,
            n_layers=self.card.n_layers,
            d_model=self.card.d_model,
            pooling=" | ".join(dict.fromkeys(part for s in sources for part in s.card.pooling.split(" | "))),
            verdict_reasons=["derived from other directions; not validated itself"],
            recommended_layer=layer,
            layer_choice="" if layer is None else f"taken over from {owner.card.name}; not chosen for this direction",
        )
        return Direction(vector, card)


def _own(tensor: torch.Tensor, what: str) -> torch.Tensor:
    """A float32 copy on the CPU that nobody else holds."""
    copy = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
    bad = (~torch.isfinite(copy)).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise NonFiniteError(f"{what} holds NaN or infinity at layer {bad[0]}; it cannot be used.")
    return copy


def _ranges(numbers: list[int]) -> str:
    """`[0, 1, 2, 5]` -> `0-2, 5`."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
