"""The labelled reference conversations, read once by the embedded reader, and gauges put on them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.evidence import auc
from mien.gauges import Gauge, cusum
from mien.logs import LoggedConversation, read_logs
from mien.models import Model
from mien.probes import interval
from mien.scanning.measure import textures_of, turns_of
from mien.scanning.message_means import message_means, reading_layers

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """Labelled answers of one file."""

    name: str
    means: NDArray[np.float32]
    """`[n, l, d]`, layers as `reading_layers`."""
    layers: tuple[int, ...]
    textures: Floats
    intensity: dict[str, Floats]
    """Label -> `[n]`."""
    group: NDArray[np.int64]
    texts: tuple[str, ...]
    asked: tuple[str, ...]
    """The message that each answers."""
    off_rails: Floats
    """`[conversations]`: how far off the rails each went, 0-10, by the reference's judge."""

    def positive(self, label: str) -> NDArray[np.bool_]:
        """`[n]`: intensity of 2 or more."""
        return np.asarray(self.intensity[label] >= 2)

    def sigma(self, gauge: Gauge) -> Floats:
        """`[n]`: every answer on a gauge."""
        assert gauge.baseline is not None
        raw = sum(self.means[:, self.layers.index(part.layer)].astype(np.float64) @ part.vector for part in gauge.parts)
        return gauge.baseline.sigma(np.asarray(raw), self.textures)

    def drift(self, gauge: Gauge) -> Floats:
        """`[conversations]`: largest CUSUM over its limit."""
        assert gauge.baseline is not None
        z = gauge.sign * self.sigma(gauge)
        found = []
        for g in np.unique(self.group):
            mine = z[self.group == g]
            found.append(cusum(mine).max() / gauge.baseline.limits.for_length(len(mine)))
        return np.array(found)

    def enough(self, label: str, least: int = 10) -> bool:
        """Whether so many answers are on either side, that a gauge can be tested on them."""
        y = self.positive(label)
        return bool(min(y.sum(), (~y).sum()) >= least)

    @property
    def lengths(self) -> Floats:
        """`[n]`: of the answers, in characters."""
        return np.array([float(len(text)) for text in self.texts])


def reference() -> Path:
    """The published conversations."""
    repo = Path(__file__).resolve().parent.parent
    return Path(os.environ.get("MIEN_REFERENCE_DATA") or repo.parent / "shared" / "data")


def read_labels(path: Path, model: Model) -> Labels:
    """Read a file of labelled conversations; the second time from the cache."""
    layers = tuple(reading_layers(model.n_layers))
    scores = [json.loads(line)["conversation_labels"]["off_rails"] for line in path.read_text("utf-8").splitlines()]
    means, textures, group, texts, asked = [], [], [], [], []
    intensity: dict[str, list[float]] = {}
    records = [r for r in read_logs([path]) if isinstance(r, LoggedConversation)]
    for number, record in enumerate(records):
        place = {index: i for i, index in enumerate(record.indices)}
        labelled = {place[at]: labels for at, labels in record.turn_labels if at in place}
        answers, before = turns_of(record.messages)
        own = dict(zip(answers, textures_of(record.messages, answers), strict=True))
        questions = dict(zip(answers, before, strict=True))
        rows, tokens = message_means(model, record, list(labelled), layers)
        print(f"{path.name}: {number + 1}/{len(records)}, {tokens} tokens", flush=True)
        means.append(rows)
        for i, labels in labelled.items():
            textures.append(own[i])
            group.append(number)
            texts.append(record.messages[i].content)
            asked.append("" if questions[i] is None else record.messages[questions[i] or 0].content)
            for label, value in labels.items():
                intensity.setdefault(label, []).append(float(value))
    return Labels(
        path.stem, np.concatenate(means), layers, np.stack(textures),
        {k: np.array(v) for k, v in sorted(intensity.items())}, np.array(group), tuple(texts), tuple(asked),
        np.array(scores, dtype=np.float64),
    )  # fmt: skip


def auc_with_interval(values: Floats, data: Labels, label: str) -> str:
    """`0.71 (0.62 to 0.80)`; a dash where fewer than ten answers are on a side."""
    y = data.positive(label)
    if not data.enough(label):
        return "-"
    low, high = interval(values, y, data.group, 0)
    return f"{auc(values, y):.2f} ({low:.2f} to {high:.2f})"
