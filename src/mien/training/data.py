"""Data sets to train on: read whole, with what `mien screen` has found out about each sample.

This file does not know models or tokens.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.errors import FingerprintError, FormatError, InputError
from mien.logs import Broken, Columns, read_logs
from mien.records import Conversation, ModelInfo
from mien.screening.estimates import INFLUENCE
from mien.textfiles import parse_json, read_text

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Conversations with at least one answer each."""

    samples: tuple[Conversation, ...]
    places: tuple[int, ...]
    """Where each stands among all records, from 0."""
    records: int
    """How many there were, those left out too."""
    left_out: dict[str, int]
    """Why records were left out: reason -> count."""
    names: tuple[str, ...]
    """Files, without their folders."""

    @property
    def hash(self) -> str:
        """Names what the samples say; sixteen hex digits."""
        digest = hashlib.sha256()
        for sample in self.samples:
            line = json.dumps([[message.role, message.content] for message in sample], ensure_ascii=True)
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()[:16]

    def part(self, which: Sequence[int]) -> list[Conversation]:
        """Some of the samples."""
        return [self.samples[i] for i in which]


def read_data(
    paths: Sequence[str | Path], *, columns: Columns | None = None, format: str | None = None
) -> Data:  # fmt: skip
    """Every conversation of chat JSONL, Alpaca, ShareGPT, Parquet and whatever else `mien scan` reads.

    Raises:
        InputError: no path, or no conversation with an answer.
        FormatError: a file that cannot be read or recognised.
    """
    samples, places = [], []
    left_out: dict[str, int] = {}
    count = 0
    for record in read_logs(paths, columns=columns, format=format):
        count += 1
        reason = record.reason if isinstance(record, Broken) else None
        if not isinstance(record, Broken):
            if any(message.role == "assistant" for message in record.messages):
                samples.append(record.messages)
                places.append(count - 1)
                continue
            reason = "it has no answer"
        left_out[str(reason)] = left_out.get(str(reason), 0) + 1
    if not samples:
        why = f" (most often: {max(left_out, key=lambda key: left_out[key])})" if left_out else ""
        raise InputError(f"There is no conversation with an answer in what was given to train on{why}.")
    return Data(tuple(samples), tuple(places), count, left_out, tuple(Path(path).name or str(path) for path in paths))


@dataclass(frozen=True)
class Screened:
    """What a screening says of a data set's samples."""

    difference: Mapping[str, Floats]
    """Trait -> `[n]` projection difference of each sample, raw units; NaN where it is not known."""
    sigma: Mapping[str, Floats]
    """The same in sigma."""
    pulls: bool = False
    """Whether these are no projection differences but pulls, of the method influence; sigma then is of pulls, too."""


def read_screen(folder: str | Path, data: Data, model: ModelInfo) -> Screened:
    """`samples.parquet` in the folder of a `mien screen` of the same data, by the same model.

    Raises:
        FormatError: it is not there, or not such a table.
        InputError: it was made of other data.
        FingerprintError: it was made by another model.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / "samples.parquet"
    try:
        table = pq.read_table(path, columns=["index", "trait", "difference", "sigma", "method"]).to_pydict()
    except FileNotFoundError as error:
        raise FormatError(f"There is no samples.parquet in {folder}; give the folder of a mien screen run.") from error
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0][:120]
        raise FormatError(f"{path} is not a table that mien screen wrote: {reason}.") from error
    place = {at: i for i, at in enumerate(data.places)}
    records = _screened_records(Path(folder), model)
    if not table["index"] or max(table["index"]) >= data.records or records not in (None, data.records):
        raise InputError(f"{folder} holds a screening of other data: it has not as many records as {data.names[0]}.")
    found: dict[str, dict[str, Floats]] = {"difference": {}, "sigma": {}}
    for index, trait, *values in zip(*(table[key] for key in ("index", "trait", "difference", "sigma")), strict=True):
        for key, value in zip(found, values, strict=True):
            column = found[key].setdefault(trait, np.full(len(data.samples), np.nan))
            if index in place and value is not None and math.isfinite(value):
                column[place[index]] = value
    return Screened(found["difference"], found["sigma"], INFLUENCE in table["method"])


def _screened_records(folder: Path, model: ModelInfo) -> int | None:
    """How many records were screened, as the summary beside the table says; None where there is no summary.

    Raises:
        FormatError: a summary that cannot be read.
        FingerprintError: it is another model's.
    """
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = parse_json(read_text(path, "summary of a screening"), path)
    found = summary if isinstance(summary, dict) else {}
    if found.get("fingerprint") != model.fingerprint:
        raise FingerprintError(
            f"{folder} holds a screening by {found.get('model')}, and the model to train is {model.id}; screen the "
            f"data with that: mien screen DATA --model {model.id}."
        )
    records = found.get("records")
    return records if isinstance(records, int) else None


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """`range(count)` as what to train on and what to hold out, both ascending; a share above 0 holds out at least one.

    Raises:
        InputError: nothing would be left to train on, or the share is none.
    """
    if not 0 <= share < 1:
        raise InputError(f"The share to hold out is a number from 0 up to, not including, 1, not {share}.")
    held = max(1, round(count * share)) if share else 0
    if held >= count:
        raise InputError(f"Holding out {held} of {count} samples leaves nothing to train on.")
    order = np.random.default_rng(seed).permutation(count)
    return sorted(int(i) for i in order[held:]), sorted(int(i) for i in order[:held])


def worst(scores: Floats, share: float) -> list[int]:
    """Which samples score highest: that share of them, rounded up; those without a score are never among them.

    Raises:
        InputError: the share is none, or everything would go.
    """
    if not 0 <= share < 1:
        raise InputError(f"The share of samples to drop is a number from 0 up to, not including, 1, not {share}.")
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(-scores[known], kind="stable")]
    return sorted(int(i) for i in order[: math.ceil(share * len(scores))])
