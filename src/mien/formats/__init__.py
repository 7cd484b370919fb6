"""Other people's files of directions, in and out. The tensors are theirs; the index, the sign and the card become ours.

| format | what it holds | what becomes of it |
| --- | --- | --- |
| `persona_vectors` | `.pt` `[L+1, d]`: embeddings, blocks 0 to L-2, then after the final norm | row k-1; our L-1 zero |
| `assistant_axis` | `.pt` `[L, d]`, `{"axis"}`, or a role's `{"vector", "type", "role"}` | row k, sign as it is |
| `capping` | `.pt` `{"vectors", "experiments"}`: away from the Assistant, from above | turned, from below |
| `gguf` | `direction.N`, added to the output of block N (0-based), N >= 1 | row N; our layer 0 zero |

Nothing here is ever unpickled by Python's own `pickle`. This package does not know interventions or how to judge.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mien.directions import Direction
from mien.errors import FormatError, InputError
from mien.formats.assistant_axis import export_assistant_axis, import_assistant_axis
from mien.formats.capping import CapPlan, capping_experiments, export_capping, import_capping
from mien.formats.control_vector import export_control_vector, import_control_vector
from mien.formats.persona_vectors import export_persona_vectors, import_persona_vectors
from mien.formats.sniffing import sniff
from mien.records import ModelInfo

__all__ = [
    "FORMATS",
    "CapPlan",
    "capping_experiments",
    "export_assistant_axis",
    "export_capping",
    "export_control_vector",
    "export_direction",
    "export_persona_vectors",
    "import_assistant_axis",
    "import_capping",
    "import_control_vector",
    "import_direction",
    "import_persona_vectors",
    "sniff",
]

_Way = TypeVar("_Way")

_IMPORT: dict[str, Callable[..., Direction]] = {
    "persona_vectors": import_persona_vectors,
    "assistant_axis": import_assistant_axis,
    "gguf": import_control_vector,
}
_EXPORT: dict[str, Callable[[Direction, Path | str], Path]] = {
    "persona_vectors": export_persona_vectors,
    "assistant_axis": export_assistant_axis,
    "gguf": export_control_vector,
}
FORMATS = tuple(_IMPORT)
"""Names that `import_direction` and `export_direction` take."""


def import_direction(
    path: Path | str,
    *,
    model: ModelInfo,
    name: str | None = None,
    format: str | None = None,
    flip: bool | None = None,
    layer: int | None = None,
) -> Direction:
    """A direction from someone else's file, for the model it was made with (the files do not say: you do).

    Args:
        path: the file.
        model: its numbers of layers and widths must fit; the card gets its fingerprint.
        name: for the card; from the file or its name if not given.
        format: one of `FORMATS`; found out from the content if not given.
        flip: whether to turn the sign. None: as the format is known to need.
        layer: recommended layer for the card; the middle one of those the file fills if not given.

    Raises:
        FormatError: the file is corrupt, hostile, or not of the format.
        FingerprintError: it was made for a model with other layers or another width.
        InputError: no such format or layer.
    """
    chosen = format or sniff(path, model)
    if chosen == "capping":
        raise FormatError(f"{path} is a capping config: several vectors with thresholds; read it with import_capping.")
    return _known(_IMPORT, chosen)(path, model=model, name=name, flip=flip, layer=layer)


def export_direction(direction: Direction, path: Path | str, format: str) -> Path:
    """Write a direction as one of `FORMATS`; returns the path. What a format cannot hold is in its own function's doc.

    Raises:
        InputError: no such format, or nothing in the direction that it could hold.
        RunError: the file cannot be written.
    """
    return _known(_EXPORT, format)(direction, path)


def _known(table: dict[str, _Way], format: str) -> _Way:
    if format not in table:
        raise InputError(f"There is no direction format {format!r}; there are {', '.join(table)}.")
    return table[format]
