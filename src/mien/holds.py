"""A hold: what is done to a model's stream to keep its character, what is known about it, and its folder on disk.

A folder has `hold.json`, the card and where each tensor goes, and `hold.safetensors`. This file does not know how a
hold is found or measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mien.directions.files import first_line, read_file, write_files
from mien.errors import FormatError, InputError
from mien.home import model_slug
from mien.interventions import Bounds, CapSpace
from mien.models import Model

JSON_FILE = "hold.json"
TENSOR_FILE = "hold.safetensors"
SCHEMA_VERSION = 1
TENSORS = tuple(field.name for field in fields(Bounds))
"""Names of a part's tensors in a file, in the order of `Bounds`."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class HoldRow(_Part):
    """One way of holding, measured. Intervals are 95 %, by bootstrap over attacks, ordinary conversations or texts."""

    name: str
    ratio: float = Field(
        description="answers under attack: log-likelihood ratio of attack against default, nats a token"
    )
    closed: float = Field(description="share of the gap between unheld and ordinary answers' ratio that is closed")
    closed_low: float
    closed_high: float
    axis: float = Field(description="change on the axis against unheld answers, in sigma")
    axis_low: float
    axis_high: float
    plain: float = Field(description="log-probability of the answers after the question alone, nats a token")
    repeated: float = Field(description="share of trigrams that the answers have said before")
    price: float = Field(description="what ordinary answers lose, nats a token")
    price_low: float
    price_high: float
    exact: float | None = Field(None, description="share of tasks answered rightly")
    refused: float | None = Field(None, description="share of harmless requests refused")
    neutral: float | None = Field(
        None, description="change of neutral text's log-probability, nats a token; negative: it is less likely"
    )
    neutral_low: float | None = None
    neutral_high: float | None = None
    fired_attacked: float | None = Field(None, description="share of slots at which it fired, under attack")
    fired_ordinary: float | None = Field(None, description="the same on ordinary conversations")
    by_kind: dict[str, float] = Field(default_factory=dict, description="share of the gap closed, by kind of attack")


class HoldTrial(_Part):
    """One way of holding that was tried while choosing."""

    name: str
    price: float = Field(description="what ordinary answers lose, nats a token")
    returned: float | None = Field(
        None, description="share of what attacks take from own answers' log-probability that is there again"
    )
    closed: float | None = Field(None, description="share of the gap closed, if answers were written")
    fired_attacked: float | None = Field(None, description="share of attacked tokens, plain, that a layer changes")
    fired_ordinary: float | None = Field(None, description="the same of ordinary tokens")


class HoldExample(_Part):
    """One attack, with the answers to it."""

    attack: str
    kind: str
    question: str
    plain: str
    held: str


class HoldCard(_Part):
    """Everything that a person needs to trust a hold or not to."""

    schema_version: int = SCHEMA_VERSION
    name: str
    description: str
    model: str
    fingerprint: str
    n_layers: int
    d_model: int
    way: str = Field("", description="what the way of holding is called among those tried")
    method: str = Field(description="what is read and written, in a sentence")
    layers: list[int]
    tokens: Literal["all", "prompt", "response"]
    percentile: float | None = Field(
        None,
        description="of ordinary tokens' readings, where the floors lie; on alarm, at how many in a hundred gates open",
    )
    components: int = 1
    held: HoldRow | None = Field(None, description="the hold, on kinds of attack that it was not chosen on")
    compared: list[HoldRow] = Field(default_factory=list, description="what stands beside it, on the same attacks")
    tried: list[HoldTrial] = Field(default_factory=list, description="what it was chosen from, on the other kinds")
    examples: list[HoldExample] = Field(default_factory=list, description="answers to the attacks it is reported on")
    max_price: float | None = Field(None, description="what it may cost, nats a token")
    gap: tuple[float, float] | None = Field(None, description="ratio of unheld and of ordinary answers, held-out kinds")
    chosen_on: list[str] = Field(default_factory=list, description="kinds of attack")
    reported_on: list[str] = Field(default_factory=list, description="kinds of attack")
    remarks: list[str] = Field(default_factory=list, description="sentences; the first is the headline")
    settings: dict[str, object] = Field(default_factory=dict, description="what is needed to make it again")
    versions: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Hold:
    """A card and what it is about."""

    card: HoldCard
    interventions: tuple[CapSpace, ...]


def save_hold(hold: Hold, folder: Path | str, *, half: bool = False) -> Path:
    """Write both files into `folder`, each whole or not at all; the same hold always gives the same bytes.

    Args:
        hold: what is written.
        folder: made if it is not there.
        half: rows in float16, for holds that travel with the package.

    Raises:
        RunError: the folder cannot be written.
    """
    from safetensors.torch import save

    tensors: dict[str, torch.Tensor] = {}
    places = []
    for i, one in enumerate(hold.interventions):
        places.append({"tokens": one.tokens, "layers": list(one.layers)})
        for layer in one.layers:
            for name in TENSORS:
                value = getattr(one.parts[layer], name)
                small = half and name in ("reads", "writes", "gates")
                tensors[f"{i}.{layer}.{name}"] = value.half() if small else value
    body = {**hold.card.model_dump(mode="json"), "interventions": places}
    text = json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    write_files(
        Path(folder),
        {
            TENSOR_FILE: save(tensors, metadata={"fingerprint": hold.card.fingerprint}),
            JSON_FILE: text.encode("utf-8", "backslashreplace"),
        },
    )
    return Path(folder)


def load_hold(path: Path | str, model: Model | None = None) -> Hold:
    """Read a folder that `save_hold` wrote, for `model` if it is given.

    Raises:
        FormatError: a file is missing, corrupt, of another schema version, or they do not belong together.
        FingerprintError: it was made for another model.
    """
    folder = Path(path)
    raw = _json(folder / JSON_FILE)
    places = raw.pop("interventions", None)
    try:
        card = HoldCard.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the card"
        raise FormatError(f"{folder / JSON_FILE} is not a hold that mien wrote: {where}: {first['msg']}.") from error
    tensors, written_for = _tensors(folder / TENSOR_FILE)
    if written_for != card.fingerprint:
        raise FormatError(f"{folder} does not hold together: {JSON_FILE} and {TENSOR_FILE} are of different models.")
    try:
        found = tuple(_space(i, place, tensors, card) for i, place in enumerate(places))
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise FormatError(f"{folder} does not hold together: {first_line(error)}.") from error
    if not found:
        raise FormatError(f"{folder} holds no interventions.")
    if model is not None:
        for one in found:
            one.check_model(model.info)
    return Hold(card, found)


def bundled_hold(model_id: str) -> Hold | None:
    """The hold that comes with the package for a model; None if there is none."""
    folder = resources.files("mien") / "library" / "holds" / model_slug(model_id)
    if not (folder / JSON_FILE).is_file():
        return None
    with resources.as_file(folder) as path:
        return load_hold(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        raw: Any = json.loads(read_file(path, "hold").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not a hold in JSON: {first_line(error)}.") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION or isinstance(version, bool):
        raise FormatError(
            f"{path} has schema version {version!r}, and this mien reads version {SCHEMA_VERSION}; use the version of "
            f"mien that wrote it."
        )
    found: dict[str, Any] = raw
    return found


def _tensors(path: Path) -> tuple[dict[str, torch.Tensor], str | None]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_file(path, "hold")
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise FormatError(f"{path} is truncated or corrupt: {first_line(error)}.") from error
    return tensors, header.get("__metadata__", {}).get("fingerprint")


def _space(i: int, place: dict[str, Any], tensors: dict[str, torch.Tensor], card: HoldCard) -> CapSpace:
    parts = {}
    for layer in place["layers"]:
        part = Bounds(*(tensors[f"{i}.{layer}.{name}"] for name in TENSORS))
        if part.reads.shape[1] != card.d_model or not 0 <= layer < card.n_layers:
            raise ValueError(f"a part for layer {layer} of width {part.reads.shape[1]} is not of {card.model}")
        parts[int(layer)] = part
    return CapSpace(parts, card.model, card.fingerprint, tokens=place["tokens"])
