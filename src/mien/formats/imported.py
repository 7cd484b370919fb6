"""What every importer does once it has rows: check them against the model, and write the card.

This file does not know any format.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mien.card import Card
from mien.directions import Direction
from mien.errors import FingerprintError, FormatError, InputError
from mien.records import ModelInfo

UNSAID = "not stated by the file"


def check_width(width: int, model: ModelInfo, path: Path) -> None:
    """Refuse vectors of another width than the model's.

    Raises:
        FingerprintError: the widths differ.
    """
    if width != model.d_model:
        raise FingerprintError(
            f"{path} holds vectors of width {width}, but {model.id} has width {model.d_model}; "
            f"it was made for another model."
        )


def imported_direction(
    vector: torch.Tensor,
    path: Path,
    *,
    model: ModelInfo,
    format: str,
    name: str,
    description: str,
    sign: str,
    pooling: str = UNSAID,
    flip: bool = False,
    layer: int | None = None,
    notes: list[str] | None = None,
) -> Direction:
    """A direction with a card that says where it comes from and that nothing of it was validated.

    Args:
        vector: `[l, d]` float32, finite, already in mien's index; zero rows for unknown layers.
        path: the file; only its name goes onto the card.
        model: whose direction it is.
        format: the file's format.
        name: the card's.
        description: the card's.
        sign: what a larger projection means *before* flipping.
        pooling: over which tokens readings were averaged, if the file says so.
        flip: turn the sign.
        layer: recommended layer; the middle of the known ones if not given.
        notes: sentences for the card.

    Raises:
        FormatError: all rows are zero.
        InputError: `layer` is none of the known ones.
    """
    known = torch.nonzero(vector.any(dim=1)).flatten().tolist()
    if not known:
        raise FormatError(f"{path} holds only zeros; there is no direction in it.")
    if layer is not None and layer not in known:
        raise InputError(f"{path} has no direction for layer {layer}; it has layers {known[0]} to {known[-1]}.")
    middle = min(known, key=lambda k: abs(k - model.n_layers // 2))
    if flip:
        vector, sign = -vector, f"the reverse of: {sign}"
    card = Card(
        kind="imported",
        name=name,
        description=description,
        sign=sign,
        model=model.id,
        fingerprint=model.fingerprint,
        n_layers=model.n_layers,
        d_model=model.d_model,
        pooling=pooling,
        verdict_reasons=["imported; not validated here", *(notes or [])],
        recommended_layer=middle if layer is None else int(layer),
        layer_choice="the middle of the layers in the file; not measured" if layer is None else "given at import",
        settings={"file": path.name, "format": format, "sign_turned": flip},
    )
    return Direction(vector, card)
