"""What a training was asked to be. A field's docstring is what its option means on the command line."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mien.errors import InputError
from mien.training.curve import Limit

Method = Literal["plain", "prevent", "inoculate", "kl"]
METHODS: tuple[Method, ...] = get_args(Method)

_OF_ONE: dict[str, Method] = {"inoculation": "inoculate", "kl": "kl", "coef": "prevent", "layers": "prevent"}
"""Options that one method takes, and which."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Raises, when made:
        InputError: a value that nothing can be trained with.
    """

    method: Method = "plain"
    """plain; prevent (steer while training); inoculate (a system prompt that asks for the trait while training); kl
    (stay close to the model's own predictions)."""
    coef: float | None = None
    """Strength of the steering, to the alarming side; 1 is the whole difference of means. None: found from the data."""
    follow: bool = True
    """Whether a strength that is found from the data is corrected by how far the answers have moved so far."""
    layers: tuple[int, ...] | None = None
    """Layers to steer at, each adding its increment; None: each direction's recommended one."""
    inoculation: str | None = None
    """System prompt of `inoculate`; None: the first that asks for each prevented trait."""
    kl: float = 1.0
    """Weight of the divergence in `kl`, nats per response token."""
    drop: float = 0.0
    """Share of the samples to leave out: those whose answers lie furthest along the traits."""
    hold_out: float = 0.0
    """Share of the samples whose loss is measured before and after instead of learnt."""
    epochs: float = 1.0
    rate: float | None = None
    """Learning rate; None: by the model's size."""
    batch: int = 16
    """Rows in a step."""
    rank: int = 32
    alpha: int = 64
    """LoRA's; rank-stabilised, so the scale is alpha / sqrt(rank)."""
    max_length: int = 2048
    """Longest row, in tokens."""
    stop_at: Limit | None = None
    """Shift at which training stops."""
    measure: int | None = None
    """Steps between two measurements of the shift; None: about eight in all."""
    questions: int = 12
    """Questions whose answers are measured."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"There is no method {self.method!r}; choose one of {', '.join(METHODS)}.")
        rate = 1.0 if self.rate is None else self.rate
        numbers = {"number of epochs": self.epochs, "learning rate": rate, "KL weight": self.kl}
        for name, value in numbers.items():
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"The {name} is a number above zero, not {value}.")
        if self.coef is not None and not math.isfinite(self.coef):
            raise InputError(f"A coef is a finite number, or auto, not {self.coef}.")
        counts = {"batch": self.batch, "rank": self.rank, "alpha": self.alpha, "number of questions": self.questions}
        for name, count in {**counts, "measurement interval": 1 if self.measure is None else self.measure}.items():
            if count < 1:
                raise InputError(f"The {name} is a whole number from 1 up, not {count}.")
        if self.max_length < 8:
            raise InputError(f"The longest row must have 8 tokens at least, not {self.max_length}.")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"A seed to train with is a whole number from 0 to 2^32 - 1, not {self.seed}.")

    def require_taken(self) -> None:
        """Raises: InputError: an option that the method takes no notice of; none is passed over in silence."""
        unset = Settings()
        for field, wants in _OF_ONE.items():
            if self.method != wants and getattr(self, field) != getattr(unset, field):
                raise InputError(f"--{field} is for --method {wants}, and this is {self.method}; leave it out.")

    def values(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)
