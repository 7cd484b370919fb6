"""assistant-axis `.pt`: `[L, d]`, `{"axis": [L, d], ...}` or a role's `{"vector", "type", "role"}` (2601.10387).

Row k is the output of block k, as in mien. The axis is default minus roles: it points *towards* the Assistant, as in
mien. Only the capping configs point away (see `capping`). This file does not know any other format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mien.directions import Direction
from mien.errors import FingerprintError, FormatError
from mien.formats.imported import check_width, imported_direction
from mien.formats.torchfile import floats_of, load_pt, save_pt, widened
from mien.records import ModelInfo


def import_assistant_axis(
    path: Path | str,
    *,
    model: ModelInfo,
    name: str | None = None,
    flip: bool | None = None,
    layer: int | None = None,
) -> Direction:
    """Read an axis or a role's file, row for row.

    A file that carries the means it was made of shows its own sign: with `flip=None`, one that points away from the
    Assistant is turned.

    Raises:
        FormatError: corrupt, hostile, not of this format, or not finite.
        FingerprintError: made for a model of another width or depth.
        InputError: `layer` is not in the file.
    """
    path = Path(path)
    content = load_pt(path)
    if isinstance(content, dict) and "vector" in content and "axis" not in content:
        return _import_role(content, path, model, name, bool(flip), layer)
    inside = content
    if isinstance(content, dict):
        if "axis" not in content:
            keys = ", ".join(sorted(str(k)[:40] for k in content)[:8])
            raise FormatError(f"{path} has neither an axis nor a vector in it (its keys: {keys or 'none'}).")
        inside = content["axis"]
    vector = _rows(inside, "the axis", model, path)
    notes = []
    away = _points_away(vector, content, model, path)
    if away is not None:
        way = "away from" if away else "towards"
        notes.append(f"by the means in the file, it pointed {way} the Assistant")
    return imported_direction(
        vector,
        path,
        model=model,
        format="assistant_axis",
        name=name or "assistant-axis",
        description=f"Assistant Axis read from {path.name}: default answers minus played roles.",
        sign="larger is further from the Assistant" if away else "larger is closer to the Assistant",
        flip=bool(away) if flip is None else flip,
        layer=layer,
        notes=notes,
    )


def _import_role(
    content: dict[Any, Any], path: Path, model: ModelInfo, name: str | None, flip: bool, layer: int | None
) -> Direction:
    role = content.get("role")
    name = name or (role if isinstance(role, str) and role else path.stem)
    return imported_direction(
        _rows(content["vector"], "the role's vector", model, path),
        path,
        model=model,
        format="assistant_axis",
        name=name,
        description=f"Mean activation of answers in the role {name}, read from {path.name}.",
        sign=f"larger is closer to the mean activation of {name}",
        flip=flip,
        layer=layer,
        notes=["a mean activation, not a difference: subtract the default's to get what the role changes"],
    )


def export_assistant_axis(direction: Direction, path: Path | str) -> Path:
    """Write the bare tensor `[L, d]` float32, row for row, sign as it is: an axis points towards the Assistant.

    Raises:
        RunError: the file cannot be written.
    """
    return save_pt(direction.vector.clone(), path)


def _rows(value: object, what: str, model: ModelInfo, path: Path) -> torch.Tensor:
    tensor = floats_of(value, what, path)
    if tensor.ndim != 2:
        raise FormatError(f"{path}: {what} is a tensor {list(tensor.shape)}, not [layers, width].")
    check_width(tensor.shape[1], model, path)
    if tensor.shape[0] != model.n_layers:
        raise FingerprintError(
            f"{path}: {what} has {tensor.shape[0]} layers, but {model.id} has {model.n_layers}; "
            f"it was made for another model."
        )
    return widened(tensor, what, path)


def _points_away(axis: torch.Tensor, content: object, model: ModelInfo, path: Path) -> bool | None:
    """Whether the axis opposes `default_mean - role_mean`; None if the file has not both."""
    if not isinstance(content, dict) or not {"default_mean", "role_mean"} <= content.keys():
        return None
    default, roles = (_rows(content[k], k, model, path) for k in ("default_mean", "role_mean"))
    return bool(((default - roles).double() * axis.double()).sum() < 0)
