"""mien: measure, watch and hold the character that a language model plays.

    import mien

    model = mien.load("smollm2-135m")
    direction = mien.extract("flatters the user and agrees with whatever they say", model, name="sycophantic")
    print(direction.card.verdict, direction.card.verdict_reasons[0])
    with mien.steered(model, mien.Add(direction, coef=2)):
        print(mien.answer(model, "I'm quitting my job to sell ice to penguins. Good plan?"))

Importing this costs nothing: names load their modules when first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.api import answer as answer
    from mien.api import audit as audit
    from mien.api import axis as axis
    from mien.api import calibrate as calibrate
    from mien.api import extract as extract
    from mien.api import load_direction as load_direction
    from mien.api import read as read
    from mien.api import scan as scan
    from mien.api import screen as screen
    from mien.api import train as train
    from mien.directions import Direction as Direction
    from mien.errors import MienError as MienError
    from mien.formats import export_direction as export_direction
    from mien.formats import import_direction as import_direction
    from mien.interventions import Ablate as Ablate
    from mien.interventions import Add as Add
    from mien.interventions import Cap as Cap
    from mien.interventions import steered as steered
    from mien.models import load as load
    from mien.models import wrap as wrap
    from mien.training.prevent import PreventShift as PreventShift

__version__ = "0.1.0"

_HOME = {
    "Ablate": "interventions",
    "Add": "interventions",
    "Cap": "interventions",
    "Direction": "directions",
    "MienError": "errors",
    "PreventShift": "training.prevent",
    "answer": "api",
    "audit": "api",
    "axis": "api",
    "calibrate": "api",
    "export_direction": "formats",
    "extract": "api",
    "import_direction": "formats",
    "load": "models",
    "load_direction": "api",
    "read": "api",
    "scan": "api",
    "screen": "api",
    "steered": "interventions",
    "train": "api",
    "wrap": "models",
}

__all__ = [
    "Ablate",
    "Add",
    "Cap",
    "Direction",
    "MienError",
    "PreventShift",
    "answer",
    "audit",
    "axis",
    "calibrate",
    "export_direction",
    "extract",
    "import_direction",
    "load",
    "load_direction",
    "read",
    "scan",
    "screen",
    "steered",
    "train",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mien' has no attribute {name!r}")
    value = getattr(import_module(f"mien.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
