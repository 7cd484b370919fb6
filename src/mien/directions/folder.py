"""A direction's own folder: `direction.safetensors` and `card.json`, written whole and read with suspicion.

This file does not know what the numbers mean, nor anybody else's format (`formats` does).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from mien.card import Card
from mien.directions.direction import Direction
from mien.directions.files import first_line, read_file, write_files
from mien.errors import FormatError, InputError, NonFiniteError

VECTOR_FILE = "direction.safetensors"
CARD_FILE = "card.json"
SCHEMA_VERSION = 1


def save_direction(direction: Direction, folder: Path | str) -> Path:
    """Write `direction.safetensors` and `card.json` into `folder`, each whole or not at all; returns the folder.

    The same direction always gives the same bytes.

    Raises:
        NonFiniteError: a number on the card is NaN or infinite, which JSON cannot hold.
        RunError: the folder cannot be written.
    """
    from safetensors.torch import save

    card = direction.card
    tensors = {"vector": direction.vector}
    if direction.baseline is not None:
        tensors["baseline"] = direction.baseline
    try:
        text = json.dumps(card.model_dump(mode="json"), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    except ValueError as error:
        raise NonFiniteError(f"The card of {card.name} holds NaN or infinity and cannot be written as JSON.") from error
    write_files(
        Path(folder),
        {
            # One metadata key only: safetensors writes several in an order that changes from run to run.
            VECTOR_FILE: save(tensors, metadata={"fingerprint": card.fingerprint}),
            CARD_FILE: (text + "\n").encode("utf-8", "backslashreplace"),  # a lone surrogate becomes its JSON escape
        },
    )
    return Path(folder)


def load_direction(folder: Path | str) -> Direction:
    """Read a folder that `save_direction` wrote. Whether it fits a model is `Direction.check_model`'s to say.

    Raises:
        FormatError: a file is missing, truncated, corrupt, of another schema version, not finite, or they do not
            belong together.
    """
    folder = Path(folder)
    if os.path.isfile(folder):  # unlike Path.is_file, quiet about a name that is too long
        raise FormatError(f"{folder} is a file; a direction is a folder with {CARD_FILE} and {VECTOR_FILE}.")
    card = _read_card(folder / CARD_FILE)
    tensors, written_for = _read_tensors(folder / VECTOR_FILE)
    shape = [card.n_layers, card.d_model]
    if list(tensors["vector"].shape) != shape:
        raise FormatError(
            f"{folder} does not hold together: the card says {shape[0]} layers of width {shape[1]}, the tensor is "
            f"{list(tensors['vector'].shape)}."
        )
    if written_for not in (None, card.fingerprint):
        raise FormatError(f"{folder} does not hold together: {CARD_FILE} and {VECTOR_FILE} are of different models.")
    try:
        return Direction(tensors["vector"], card, tensors.get("baseline"))
    except (InputError, NonFiniteError) as error:
        raise FormatError(f"{folder} cannot be used: {error}") from error


def load_card(folder: Path | str) -> Card:
    """The card alone of a folder that `save_direction` wrote.

    Raises:
        FormatError: it is missing, corrupt, or of another schema version.
    """
    return _read_card(Path(folder) / CARD_FILE)


def _read_card(path: Path) -> Card:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        raw: Any = json.loads(read_file(path, "card").decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not a card in JSON: {first_line(error)}.") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise FormatError(
            f"{path} has schema version {version!r}, and this mien reads version {SCHEMA_VERSION}; "
            f"use the version of mien that wrote it."
        )
    try:
        return Card.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the card"
        raise FormatError(f"{path} is not a card that mien wrote: {where}: {first['msg']}.") from error


def _read_tensors(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    """The tensors by name, and the fingerprint they were written for."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_file(path, "direction")
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FormatError(f"{path} is truncated or corrupt: {first_line(error)}.") from error
    if "vector" not in tensors:
        raise FormatError(f"{path} holds no tensor named vector; it is not a direction.")
    for name in ("vector", "baseline"):
        if name in tensors and not tensors[name].is_floating_point():
            raise FormatError(f"{path} holds {name} as {tensors[name].dtype}, not as floating-point numbers.")
    fingerprint = header.get("__metadata__", {}).get("fingerprint")
    return tensors, fingerprint
