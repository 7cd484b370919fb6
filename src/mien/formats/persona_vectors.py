"""persona_vectors `.pt`: one tensor `[L+1, d]` (Persona Vectors, 2507.21509).

Its rows are means over transformers' `hidden_states`: row 0 the embeddings, row k the output of block k-1, and row L
what the last block gave *after* the final norm, a space in which mien has no layer. So the last row is dropped and our
row L-1 is zero, which is to say unknown: copying row L-1 there would be a guess, and a zero row refuses to be used.
This file does not know any other format.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mien.directions import Direction
from mien.errors import FingerprintError, FormatError
from mien.formats.imported import UNSAID, check_width, imported_direction
from mien.formats.torchfile import floats_of, load_pt, save_pt, widened
from mien.records import ModelInfo

_POOLINGS = {
    "_response_avg_diff": "mean over response tokens",
    "_prompt_avg_diff": "mean over prompt tokens",
    "_prompt_last_diff": "last prompt token",
}
"""How the published script ends the names of its three files."""


def import_persona_vectors(
    path: Path | str,
    *,
    model: ModelInfo,
    name: str | None = None,
    flip: bool | None = None,
    layer: int | None = None,
) -> Direction:
    """Read a persona_vectors file: our layers 0 to L-2 from its rows 1 to L-1. `layer` is in mien's count.

    Raises:
        FormatError: corrupt, hostile, not a `[L+1, d]` tensor, or not finite.
        FingerprintError: made for a model of another width or depth.
        InputError: `layer` is not in the file.
    """
    path = Path(path)
    rows = floats_of(load_pt(path), "its content", path)
    if rows.ndim != 2:
        raise FormatError(f"{path} holds a tensor {list(rows.shape)}; a persona vector file holds [layers + 1, width].")
    check_width(rows.shape[1], model, path)
    if rows.shape[0] != model.n_layers + 1:
        raise FingerprintError(
            f"{path} has {rows.shape[0]} rows; a persona vector file for {model.id} has {model.n_layers + 1}: "
            f"the embeddings and {model.n_layers} layers."
        )
    rows = widened(rows, "its tensor", path)
    vector = torch.zeros(model.n_layers, model.d_model)
    vector[:-1] = rows[1:-1]
    ending = next((e for e in _POOLINGS if path.stem.endswith(e)), "")
    name = name or path.stem.removesuffix(ending) or path.stem
    return imported_direction(
        vector,
        path,
        model=model,
        format="persona_vectors",
        name=name,
        description=f"Persona vector read from {path.name}.",
        sign=f"larger is more {name}: the file is positive minus negative",
        pooling=f"{_POOLINGS[ending]} (by the file's name)" if ending else UNSAID,
        flip=bool(flip),
        layer=layer,
        notes=[
            f"the file's last row was taken after the final norm and is left out, so layer {model.n_layers - 1} "
            f"has no direction",
            "the file's first row, of the embeddings, is left out",
        ],
    )


def export_persona_vectors(direction: Direction, path: Path | str) -> Path:
    """Write `[L+1, d]` float32: row 0 zeros (mien does not read the embeddings), row k our layer k-1.

    Its own tools steer block k-1 with row k, for which row L, our layer L-1, is right. As a reading of
    `hidden_states[L]` it is not: that is after the final norm, and ours is before.

    Raises:
        RunError: the file cannot be written.
    """
    rows = torch.zeros(len(direction.vector) + 1, direction.vector.shape[1])
    rows[1:] = direction.vector
    return save_pt(rows, path)
