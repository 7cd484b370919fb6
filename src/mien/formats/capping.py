"""assistant-axis capping configs: vectors with thresholds, read as caps from below (2601.10387).

`{"vectors": {name: {"vector": [d], "layer": k}}, "experiments": [{"id", "interventions": [{"vector": name, "cap"}]}]}`.
Their vectors point *away* from the Assistant and their code holds `<h, u^> <= cap`, from above. With `v = -u` that is
`<h, v^> >= -cap`: a floor on a direction that points towards the Assistant, which is how the paper puts it and how
mien does. Vector and threshold are both turned; one without the other caps nothing, or everything.
This file does not know interventions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mien.directions import Direction
from mien.errors import FormatError, InputError
from mien.formats.imported import check_width, imported_direction
from mien.formats.torchfile import floats_of, load_pt, save_pt, shown, widened
from mien.records import ModelInfo


@dataclass(frozen=True)
class CapPlan:
    """One cap: keep the projection on `direction` at `layer` from falling below `low`."""

    direction: Direction
    """Points towards the Assistant. Caps of one config share a direction as long as their layers differ."""
    layer: int
    """0-based."""
    low: float
    """Raw units of the projection on the unit direction."""


@dataclass(frozen=True)
class _Entry:
    vector: torch.Tensor
    layer: int
    cap: float


def capping_experiments(path: Path | str) -> list[str]:
    """Ids of the experiments in a capping config, in its order.

    Raises:
        FormatError: corrupt, hostile, or not a capping config.
    """
    return [str(e["id"]) for e in _content(Path(path))["experiments"]]


def import_capping(
    path: Path | str, model: ModelInfo, experiment_id: str | None = None, *, name: str = "assistant-axis"
) -> list[CapPlan]:
    """The caps of one experiment, in the config's order; steering without a `cap` is left out, as its code does.

    Args:
        path: the config.
        model: the model it was made for.
        experiment_id: which one; may be left out if there is only one.
        name: for the cards.

    Raises:
        FormatError: corrupt, hostile, not a capping config, not finite, or the experiment has no caps.
        FingerprintError: the vectors are of another width than the model's.
        InputError: no such experiment.
    """
    path = Path(path)
    content = _content(path)
    experiment = _experiment(content, experiment_id, path)
    entries = [
        _entry(content["vectors"], step, model, path)
        for step in experiment["interventions"]
        if "cap" in _dict(step, path)
    ]
    if not entries:
        raise FormatError(f"{path}: the experiment {experiment['id']} has no caps.")
    groups: list[dict[int, _Entry]] = []
    place: list[int] = []
    for entry in entries:  # each group has at most one entry a layer, and so is one direction
        free = next((i for i, g in enumerate(groups) if entry.layer not in g), len(groups))
        if free == len(groups):
            groups.append({})
        groups[free][entry.layer] = entry
        place.append(free)
    directions = [_direction(g, experiment["id"], path, model, name) for g in groups]
    return [CapPlan(directions[i], e.layer, -e.cap) for i, e in zip(place, entries, strict=True)]


def export_capping(plans: Sequence[CapPlan], path: Path | str, experiment_id: str = "mien") -> Path:
    """Write caps as a config of one experiment in their convention: vectors and thresholds turned.

    Raises:
        InputError: no plans, a zero row, or a threshold that is not finite.
        RunError: the file cannot be written.
    """
    if not plans:
        raise InputError("There are no caps to write.")
    vectors: dict[str, dict[str, Any]] = {}
    steps = []
    for i, plan in enumerate(plans):
        plan.direction.unit(plan.layer)  # refuses a layer that is not there or a zero row
        if not math.isfinite(plan.low):
            raise InputError(f"The cap at layer {plan.layer} has no finite threshold.")
        key = f"layer_{plan.layer}" if f"layer_{plan.layer}" not in vectors else f"layer_{plan.layer}_{i}"
        vectors[key] = {"vector": -plan.direction.vector[plan.layer], "layer": int(plan.layer)}
        steps.append({"vector": key, "cap": -float(plan.low)})
    return save_pt({"vectors": vectors, "experiments": [{"id": experiment_id, "interventions": steps}]}, path)


def _content(path: Path) -> dict[str, Any]:
    content = load_pt(path)
    if not isinstance(content, dict) or not {"vectors", "experiments"} <= content.keys():
        raise FormatError(f"{path} is not a capping config: it has no vectors and experiments.")
    if not isinstance(content["vectors"], dict) or not isinstance(content["experiments"], list):
        raise FormatError(f"{path} is not a capping config: vectors must be a dict, experiments a list.")
    for experiment in content["experiments"]:
        named = isinstance(_dict(experiment, path).get("id"), (str, int))
        if not named or not isinstance(experiment.get("interventions"), list):
            raise FormatError(f"{path}: an experiment lacks its id or its list of interventions.")
    return content


def _dict(value: object, path: Path) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise FormatError(f"{path} is not a capping config: it has a {type(value).__name__} where a dict belongs.")
    return value


def _experiment(content: dict[str, Any], wanted: str | None, path: Path) -> dict[str, Any]:
    experiments: list[dict[str, Any]] = content["experiments"]
    ids = [str(e["id"]) for e in experiments]
    if wanted is None and len(ids) == 1:
        return experiments[0]
    if wanted not in ids:
        some = ", ".join(ids[:20]) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
        problem = "Say which experiment to read" if wanted is None else f"There is no experiment {wanted!r}"
        raise InputError(f"{problem} in {path}; it has {some or 'none'}.")
    return experiments[ids.index(wanted)]


def _entry(vectors: dict[str, Any], step: dict[str, Any], model: ModelInfo, path: Path) -> _Entry:
    name = step.get("vector")
    if not isinstance(name, str) or not isinstance(vectors.get(name), dict):
        raise FormatError(f"{path}: a cap refers to a vector {shown(name)} that is not there.")
    layer, cap = vectors[name].get("layer"), step["cap"]
    if isinstance(layer, bool) or not isinstance(layer, int) or not 0 <= layer < model.n_layers:
        raise FormatError(
            f"{path}: the vector {name} is for layer {shown(layer)}, but {model.id} has {model.n_layers} layers."
        )
    if isinstance(cap, torch.Tensor) and cap.numel() == 1:
        cap = cap.item()
    if isinstance(cap, bool) or not isinstance(cap, (int, float)) or not math.isfinite(cap):
        raise FormatError(f"{path}: the cap on {name} is not a finite number.")
    vector = floats_of(vectors[name].get("vector"), f"the vector {name}", path)
    if vector.ndim != 1:
        raise FormatError(f"{path}: the vector {name} is a tensor {list(vector.shape)}, not [width].")
    check_width(len(vector), model, path)
    vector = widened(vector, f"the vector {name}", path)
    if not vector.any():
        raise FormatError(f"{path}: the vector {name} is zero.")
    return _Entry(vector, layer, float(cap))


def _direction(group: dict[int, _Entry], experiment: object, path: Path, model: ModelInfo, name: str) -> Direction:
    vector = torch.zeros(model.n_layers, model.d_model)
    for layer, entry in group.items():
        vector[layer] = entry.vector
    return imported_direction(
        vector,
        path,
        model=model,
        format="capping",
        name=name,
        description=f"Vectors of the capping experiment {experiment} in {path.name}.",
        sign="larger is further from the Assistant",
        flip=True,
        notes=["only the capped layers have a direction"],
    )
