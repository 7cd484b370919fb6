"""Add, Ablate, Cap and CapSpace: what can be done to the residual stream, as pure maths, then attached.

This file does not know how text is written or where hooks go; `residual` does.
"""

from __future__ import annotations

import contextlib
import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, get_args

import torch

from mien.directions import Direction
from mien.errors import FingerprintError, InputError
from mien.models import Model
from mien.records import Intervention, ModelInfo, Tokens
from mien.residual import edited, require_fit

Layers = int | Sequence[int] | None


def _chosen(direction: Direction, at: Layers) -> tuple[int, ...]:
    """The layers asked for, each once: acting twice at one layer would be another dose."""
    try:
        each = (direction.layer,) if at is None else at if isinstance(at, Sequence) else (at,)
        wanted = tuple(dict.fromkeys(operator.index(k) for k in each))
    except TypeError as error:
        raise InputError(f"A layer is a whole number, not {at!r}, as in at=14 or at=(14, 15).") from error
    if not wanted:
        raise InputError("An intervention needs at least one layer.")
    bad = [k for k in wanted if not 0 <= k < direction.vector.shape[0]]
    if bad:
        raise InputError(
            f"The direction {direction.card.name} has no layer {bad[0]}: it has 0 to {len(direction.vector) - 1}."
        )
    return wanted


def _require_number(value: float | None, what: str) -> None:
    if value is not None and not math.isfinite(value):
        raise InputError(f"{what} must be a finite number, not {value}.")


@dataclass(frozen=True, eq=False)
class _OnDirection:
    """What the three have in common.

    Raises, when made:
        InputError: the direction has no such layer, or nothing is known of it there.
    """

    direction: Direction
    at: Layers = field(default=None, kw_only=True)
    """Layers to act on; None is the card's recommended layer."""
    tokens: Tokens = field(default="all", kw_only=True)
    _layers: tuple[int, ...] = field(init=False, repr=False)
    _cast: dict[tuple[int, torch.device, torch.dtype], torch.Tensor] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.tokens not in get_args(Tokens):
            raise InputError(f"Tokens are one of {', '.join(get_args(Tokens))}, not {self.tokens!r}.")
        object.__setattr__(self, "_layers", _chosen(self.direction, self.at))
        self._check_rows()

    def _check_rows(self) -> None:
        for k in self._layers:
            self.direction.unit(k)

    @property
    def layers(self) -> tuple[int, ...]:
        return self._layers

    def _row(self, layer: int, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """The row this intervention uses at `layer`, made once for a device and dtype."""
        key = (layer, device, dtype)
        if key not in self._cast:
            with torch.inference_mode(False):  # it may be made while text is written, and used again in training
                self._cast[key] = self._make_row(layer).to(device, dtype)
        return self._cast[key]

    def _make_row(self, layer: int) -> torch.Tensor:
        return self.direction.unit(layer)

    def _split(self, layer: int, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`h`, the unit row and `<h, v^>` `[..., 1]`, in float32 at least.

        In bfloat16 a projection's rounding is larger than many caps' reach. A product and a sum, because a matrix
        product would be taken in bfloat16 under autocast and in TF32 where that is on.
        """
        wide = h.to(torch.promote_types(h.dtype, torch.float32))
        unit = self._row(layer, wide.device, wide.dtype)
        return wide, unit, (wide * unit).sum(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class Add(_OnDirection):
    """`h <- h + coef * v_k`. Coef 1.0 is the whole positive-minus-negative difference of means at that layer.

    On several layers each adds only what the stream has gained since the one before, `v_k - v_j`, so that the sum
    stays one difference of means (Persona Vectors, 2507.21509).
    """

    coef: float = 1.0

    def __post_init__(self) -> None:
        _require_number(self.coef, "A coef")
        super().__post_init__()

    def _check_rows(self) -> None:
        if not any(bool(self.direction.vector[k].any()) for k in self._layers):
            super()._check_rows()

    def _make_row(self, layer: int) -> torch.Tensor:
        rows = self.direction.vector
        # A zero row is a layer of which nothing is known, not a stream that has lost everything.
        below = [k for k in self._layers if k < layer and bool(rows[k].any())]
        if not below or not rows[layer].any():
            return self.coef * rows[layer]
        return self.coef * (rows[layer] - rows[max(below)])

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        return h + self._row(layer, h.device, h.dtype)


@dataclass(frozen=True, eq=False)
class Ablate(_OnDirection):
    """`h <- h - <h, v^> v^`: the stream keeps nothing along the direction."""

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        wide, unit, along = self._split(layer, h)
        return (wide - along * unit).to(h.dtype)


@dataclass(frozen=True, eq=False)
class Cap(_OnDirection):
    """Hold the projection between `low` and `high` (raw units); inside the range nothing changes.

    Floor: `h <- h + max(low - <h, v^>, 0) v^` (The Assistant Axis, 2601.10387); the ceiling is the same, mirrored.
    """

    counts_firing: ClassVar[bool] = True
    """Engines count at how many places it changes the stream, which an edit that acts everywhere makes no sense of."""

    low: float | None = field(default=None, kw_only=True)
    high: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise InputError("A cap needs a low or a high bound, in raw units of the projection.")
        _require_number(self.low, "The cap's low bound")
        _require_number(self.high, "The cap's high bound")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InputError(f"The cap's low bound {self.low} lies above its high bound {self.high}.")
        super().__post_init__()

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        wide, unit, along = self._split(layer, h)
        return (wide + (along.clamp(min=self.low, max=self.high) - along) * unit).to(h.dtype)

    def fires(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        """`[...]` bool: the positions of `h` `[..., d]` that lie outside the range."""
        along = self._split(layer, h)[2][..., 0]
        return along != along.clamp(min=self.low, max=self.high)


@dataclass(frozen=True, eq=False)
class Bounds:
    """What a `CapSpace` does at one layer: k numbers are read off the stream, each with a range of its own; what is
    missing to the range is added along another vector, if every gate is open.

    Raises, when made:
        InputError: shapes do not fit, or a number is NaN or infinite where it may not be.
    """

    reads: torch.Tensor
    """`[k, d]` float32: the numbers are `<h, reads_i>`."""
    writes: torch.Tensor
    """`[k, d]` float32: what is added per unit that is missing. For one unit row equal to `reads` this is a `Cap`."""
    low: torch.Tensor
    """`[k]` float32; -inf: no floor."""
    high: torch.Tensor
    """`[k]` float32; inf: no ceiling."""
    gates: torch.Tensor | None = None
    """`[m, d]` float32: a gate is open where `<h, gates_j>` is below its limit; None: there are none."""
    below: torch.Tensor | None = None
    """`[m]` float32: the limits."""

    def __post_init__(self) -> None:
        width = self.reads.shape[-1] if self.reads.ndim else 0
        for name, absent in (("gates", torch.zeros(0, width)), ("below", torch.zeros(0))):
            if getattr(self, name) is None:
                object.__setattr__(self, name, absent)
        for name in ("reads", "writes", "low", "high", "gates", "below"):
            value = getattr(self, name).detach().to("cpu", torch.float32, copy=True).contiguous()
            object.__setattr__(self, name, value)
        if self.reads.ndim != 2 or not len(self.reads) or self.reads.shape != self.writes.shape:
            raise InputError(
                f"A space is read and written by [k, width] rows, not {list(self.reads.shape)} and "
                f"{list(self.writes.shape)}."
            )
        if self.low.shape != self.reads.shape[:1] or self.high.shape != self.reads.shape[:1]:
            raise InputError(f"{len(self.reads)} rows need as many low and high bounds.")
        self._check_gates()
        if not (torch.isfinite(self.reads).all() and torch.isfinite(self.writes).all()):
            raise InputError("The rows of a space must be finite.")
        if not (self.low <= self.high).all():  # NaN too
            raise InputError("A low bound of a space lies above its high bound, or is not a number.")

    def _check_gates(self) -> None:
        assert self.gates is not None
        assert self.below is not None
        if self.below.ndim != 1 or self.gates.shape != (len(self.below), self.reads.shape[1]):
            raise InputError(
                f"Gates are [m, {self.reads.shape[1]}] rows with m limits, not {list(self.gates.shape)} with "
                f"{list(self.below.shape)}."
            )
        if not (torch.isfinite(self.gates).all() and torch.isfinite(self.below).all()):
            raise InputError("The gates of a space and their limits must be finite.")


@dataclass(frozen=True, eq=False)
class CapSpace:
    """Hold several readings of the stream, at each layer, in their ranges: `h <- h + sum_i (clamp(p_i) - p_i) w_i` with
    `p_i = <h, r_i>`, where all gates are open; elsewhere, and inside all ranges, no bit changes.

    What reads and what writes may differ: a reading that tells attacked answers from ordinary ones seldom fires on the
    ordinary ones, and need not be the direction that brings the stream back. With low equal to high this is an affine
    map of low rank (as in ReFT, 2404.03592) where the gates are open (as in conditional steering, 2409.05907).

    Raises, when made:
        InputError: no layers, or unknown tokens.
    """

    counts_firing: ClassVar[bool] = True

    parts: Mapping[int, Bounds]
    """By layer."""
    model: str
    """What it was made for, in words, and by fingerprint."""
    fingerprint: str
    tokens: Tokens = field(default="all", kw_only=True)
    _cast: dict[tuple[int, torch.device], tuple[torch.Tensor, ...]] = field(
        default_factory=dict, init=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.tokens not in get_args(Tokens):
            raise InputError(f"Tokens are one of {', '.join(get_args(Tokens))}, not {self.tokens!r}.")
        if not self.parts:
            raise InputError("An intervention needs at least one layer.")

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(sorted(self.parts))

    def check_model(self, info: ModelInfo) -> None:
        """Raises: FingerprintError: it was made for another model."""
        if not info.takes(self.fingerprint):
            raise FingerprintError(
                f"The hold was made for {self.model} (fingerprint {self.fingerprint[:12]}) and cannot be used on "
                f"{info.id} (fingerprint {info.fingerprint[:12]}); make one for it with mien calibrate {info.id}."
            )

    def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        wide, missing, writes = self._missing(layer, h)
        if h.device.type == "cpu" and not missing.any():  # elsewhere, asking would wait for the device
            return h
        new = (wide + missing @ writes).to(h.dtype)
        return torch.where((missing != 0).any(-1, keepdim=True), new, h)

    def fires(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        """`[...]` bool: the positions of `h` `[..., d]` that are changed."""
        return (self._missing(layer, h)[1] != 0).any(-1)

    def _missing(self, layer: int, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`h` wide, what each reading lacks to its range `[..., k]` (0 where a gate is closed), what is added for it.

        In float64, which neither autocast nor TF32 touches, and in which a position's numbers do not depend on how many
        others are multiplied beside it: a gate must not open for a rounding. MPS has no float64, and no TF32.
        """
        wide = h.to(_exact(h.device))
        reads, writes, low, high, gates, below = self._on(layer, h.device)
        with torch.autocast(h.device.type, enabled=False):
            p = wide @ reads.T
            missing = p.clamp(low, high) - p
            if len(below):
                missing = torch.where((wide @ gates.T < below).all(-1, keepdim=True), missing, 0.0)
        return wide, missing, writes

    def _on(self, layer: int, device: torch.device) -> tuple[torch.Tensor, ...]:
        """This layer's tensors on a device, moved once."""
        key = (layer, device)
        if key not in self._cast:
            part = self.parts[layer]
            every = (part.reads, part.writes, part.low, part.high, part.gates, part.below)
            with torch.inference_mode(False):
                self._cast[key] = tuple(t.to(device, _exact(device)) for t in every if t is not None)
        return self._cast[key]


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


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
    require_fit(interventions, model.info)
    with edited(model.blocks, [(i, None) for i in interventions], prompt_length):
        yield model
