"""Gauges in one file: safetensors, whose metadata says what each tensor is for. Never pickle.

A reader's bundled gauges and a fitted gauge are the same kind of file. This file does not know how gauges are made.
"""

from __future__ import annotations

import dataclasses
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mien.errors import FormatError, InputError
from mien.gauges.baseline import Baseline
from mien.gauges.gauge import Gauge, GaugeSet, Part
from mien.home import model_slug
from mien.store import write_atomic

VERSION = 2
_KEY = "mien_gauges"


def save_gauges(gauges: GaugeSet, path: str | Path, *, half: bool = False) -> Path:
    """Write gauges into one file, whole or not at all; `half` keeps vectors in float16. Same gauges, same bytes.

    Raises:
        InputError: two gauges of one name.
        RunError: the disk refuses.
    """
    from safetensors.numpy import save

    names = [g.name for g in gauges.gauges]
    if len(set(names)) < len(names):
        raise InputError(f"Two gauges are called {max(names, key=names.count)!r}; give them different names.")
    tensors, entries = {}, []
    for i, gauge in enumerate(gauges.gauges):
        for j, part in enumerate(gauge.parts):
            tensors[f"{i}.{j}"] = np.ascontiguousarray(part.vector, np.float16 if half else np.float32)
        entry = {f.name: getattr(gauge, f.name) for f in dataclasses.fields(gauge)}
        entry["parts"] = [{"layer": p.layer, "of": p.of} for p in gauge.parts]
        if gauge.push is not None:
            tensors[f"{i}.push"] = np.ascontiguousarray(gauge.push.vector, np.float16 if half else np.float32)
            entry["push"] = {"layer": gauge.push.layer}
        entry["baseline"] = None if gauge.baseline is None else dataclasses.asdict(gauge.baseline)
        entries.append(entry)
    head = {
        "version": VERSION, "reader": gauges.reader, "fingerprint": gauges.fingerprint, "d_model": gauges.d_model,
        "gauges": entries,
    }  # fmt: skip
    write_atomic(Path(path), save(tensors, metadata={_KEY: json.dumps(head, sort_keys=True, allow_nan=False)}))
    return Path(path)


def load_gauges(path: str | Path) -> GaugeSet:
    """Read a file that `save_gauges` wrote.

    Raises:
        FormatError: missing, not a gauge file, of another version, truncated or corrupt, or not finite.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise FormatError(
            f"The gauge file {path} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    return _parse(data, str(path))


def bundled_gauges(model_id: str) -> GaugeSet | None:
    """The gauges that come with the package for a reader; None if there are none."""
    file = resources.files("mien") / "library" / "gauges" / f"{model_slug(model_id)}.safetensors"
    return _parse(file.read_bytes(), file.name) if file.is_file() else None


def _parse(data: bytes, name: str) -> GaugeSet:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        head: Any = json.loads(header["__metadata__"][_KEY])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, OverflowError) as error:
        raise FormatError(f"{name} is not a gauge file, or is truncated or corrupt.") from error
    if not isinstance(head, dict) or head.get("version") != VERSION:
        raise FormatError(f"{name} is a gauge file of another version; use the version of mien that wrote it.")
    try:
        gauges = tuple(_gauge(entry, i, tensors) for i, entry in enumerate(head["gauges"]))
        found = GaugeSet(str(head["reader"]), str(head["fingerprint"]), int(head["d_model"]), gauges)
    except (KeyError, TypeError, ValueError, ValidationError, AttributeError) as error:
        raise FormatError(f"{name} is a gauge file with parts missing or of the wrong kind.") from error
    for gauge in gauges:
        for part in (*gauge.parts, *([gauge.push] if gauge.push else [])):
            if part.vector.shape != (found.d_model,) or not np.isfinite(part.vector).all() or part.layer < 0:
                raise FormatError(f"The gauge {gauge.name} in {name} has a vector that cannot be used.")
    return found


def _gauge(entry: dict[str, Any], i: int, tensors: dict[str, np.ndarray]) -> Gauge:
    values = dict(entry)
    values["parts"] = tuple(
        Part(int(p["layer"]), tensors[f"{i}.{j}"].astype(np.float32), p["of"]) for j, p in enumerate(entry["parts"])
    )
    if entry["push"] is not None:
        values["push"] = Part(int(entry["push"]["layer"]), tensors[f"{i}.push"].astype(np.float32))
    baseline = entry["baseline"]
    values["baseline"] = None if baseline is None else TypeAdapter(Baseline).validate_python(baseline)
    if entry["side"] not in ("low", "high"):
        raise ValueError(entry["side"])
    values["probability"] = None if entry["probability"] is None else tuple(map(float, entry["probability"]))
    return Gauge(**values)
