"""What gauges and directions a served model has, by name, and what a request's interventions mean.

Gauges: those that come with mien, those of gauge files, and kept directions read at their recommended layer. All of
them stand on one `Panel`, so that one projection serves them. This file does not know requests' shapes or engines.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from mien.card import Card
from mien.directions import Direction, load_direction
from mien.errors import InputError, MienError
from mien.gauges import Gauge, GaugeSet, Part, bundled_gauges, load_gauges
from mien.home import folder_for, hold_folder, kept_directions
from mien.jobs.baseline import gauge_of
from mien.models import Model
from mien.records import Intervention, Tokens
from mien.scanning.measure import Panel, panel

_log = logging.getLogger("mien.serve")
COEF_SIGMA = 2.0
"""Of a direction that is known as a gauge's unit vector only, what coef 1 is, in sigma of ordinary answers."""
_PERCENTILE = re.compile(r"p(\d{1,2}|100)")


@dataclass(frozen=True)
class Catalog:
    """By name: what can be read, and what the stream can be pushed along."""

    panel: Panel | None
    """Every gauge there is; None: there are none, so nothing is read."""
    watched: tuple[int, ...]
    """Which of the panel's gauges are read off every answer, and may alarm."""
    directions: dict[str, Direction]

    @property
    def names(self) -> tuple[str, ...]:
        return () if self.panel is None else tuple(g.name for g in self.panel.gauges)

    @property
    def can_alarm(self) -> bool:
        """Whether any of the watched gauges has a baseline, without which nothing is an alarm."""
        return self.panel is not None and any(self.panel.gauges[g].baseline is not None for g in self.watched)

    def chosen(self, names: Sequence[str] | str | None) -> tuple[int, ...]:
        """Places of gauges on the panel: the watched ones for None, `"all"`, or by name.

        Raises:
            InputError: there is no gauge of a name.
        """
        if names is None:
            return self.watched
        if isinstance(names, str):
            return tuple(range(len(self.names)))
        place = {name: i for i, name in enumerate(self.names)}
        for name in names:
            if name not in place:
                raise InputError(f"There is no gauge {name!r} here; there are: {', '.join(place) or 'none'}.")
        return tuple(place[name] for name in dict.fromkeys(names))

    def direction(self, name: str) -> Direction:
        """Raises: InputError: there is none of that name."""
        if name not in self.directions:
            known = ", ".join(sorted(self.directions)) or "none"
            raise InputError(f"There is no direction {name!r} here; there are: {known}.")
        return self.directions[name]


def catalog_of(model: Model, files: Sequence[Path] = (), names: Sequence[str] | None = None) -> Catalog:
    """Everything that can be read and done with a model.

    Args:
        files: gauge files, beside what comes with mien.
        names: gauges to watch; default: all that have a baseline.

    Raises:
        InputError: there is no gauge of a name, or a file is another reader's.
        FormatError: a file that holds no gauges.
    """
    kept = _kept(model)
    gauges: dict[str, Gauge] = {}
    for one in [bundled_gauges(model.info.id), *map(load_gauges, files)]:
        if one is not None:
            panel(one, model)  # refuses another reader's
            gauges |= {g.name: g for g in one.gauges}
    known = dict(gauges)
    for name, direction in kept.items():
        if name not in gauges and direction.card.recommended_layer is not None:
            gauges[name] = replace(gauge_of(direction), name=name)
    for name, gauge in known.items():
        if name not in kept and (made := _direction_of(gauge, model)) is not None:
            kept[name] = made
    if not gauges:
        if names:
            raise InputError(f"There is no gauge {names[0]!r} for {model.info.id}; there are none.")
        return Catalog(None, (), kept)
    info = model.info
    which = panel(GaugeSet(info.id, info.fingerprint, info.d_model, tuple(gauges.values())), model)
    everything = Catalog(which, (), kept)
    by_itself = tuple(i for i, g in enumerate(which.gauges) if g.baseline is not None)
    return Catalog(which, by_itself if names is None else everything.chosen(names), kept)


def _kept(model: Model) -> dict[str, Direction]:
    """Directions kept for a model, by the name they were extracted under; those that cannot be used are left out."""
    found = {}
    for name, folder in kept_directions(model.info.id).items():
        try:
            direction = load_direction(folder)
            direction.check_model(model.info)
            if direction.card.recommended_layer is not None:
                direction.unit()
        except MienError as error:
            _log.warning("The direction %s is left out: %s", name, error)
            continue
        found[name] = direction
    return found


def _is_unit(part: Part) -> bool:
    return part.of == "answer" and abs(float(np.linalg.norm(part.vector)) - 1) < 1e-3


def _direction_of(gauge: Gauge, model: Model) -> Direction | None:
    """The direction that a gauge was made of, at its layer; or a gauge that is one unit vector at one layer, as a
    direction there. Others are no directions.

    Coef 1 of a direction is a whole difference of means. Where only a unit vector is known, which would push by one raw
    unit, its length is `COEF_SIGMA` of ordinary answers.
    """
    bare = gauge.parts[0] if len(gauge.parts) == 1 and _is_unit(gauge.parts[0]) else None
    part, length = gauge.push or bare, 1.0
    if part is None or not 0 <= part.layer < model.n_layers:
        return None
    if gauge.push is None and gauge.baseline is not None:
        length = COEF_SIGMA * gauge.baseline.std
    info = model.info
    rows = torch.zeros(info.n_layers, info.d_model)
    rows[part.layer] = length * torch.from_numpy(part.vector)
    card = Card(
        kind="assistant_axis" if gauge.kind == "axis" else "persona_vector", name=gauge.name,
        description=gauge.description, sign=f"larger: {gauge.description}", model=info.id, fingerprint=info.fingerprint,
        n_layers=info.n_layers, d_model=info.d_model, recommended_layer=part.layer,
        layer_choice="the layer that the gauge gives",
    )  # fmt: skip
    if gauge.baseline is None or bare is None or bare.layer != part.layer:
        return Direction(rows, card)
    # Twentieths of a normal distribution: what is known of an ordinary answer's projections is their mean and spread.
    from scipy.stats import norm

    marks = norm.ppf(np.clip(np.linspace(0, 1, 21), 0.001, 0.999))
    quantiles = torch.zeros(info.n_layers, len(marks))
    quantiles[part.layer] = torch.from_numpy(gauge.baseline.expected.mean + gauge.baseline.std * marks).float()
    return Direction(rows, card, quantiles)


def bound(direction: Direction, layer: int, value: float | str | None) -> float | None:
    """A cap's bound in raw units: a number, or `p25`, the percentile of the baseline's projections at that layer.

    Raises:
        InputError: it is neither, or nothing is known of ordinary projections.
    """
    if value is None or not isinstance(value, str):
        return value
    match = _PERCENTILE.fullmatch(value)
    if match is None:
        raise InputError(f"{value!r} is neither a number nor a percentile from p0 to p100, such as p25.")
    if direction.baseline is None:
        raise InputError(f"Nothing is known of ordinary projections on {direction.card.name}; give numbers instead.")
    row = direction.baseline[layer].double().numpy()
    return float(np.interp(int(match[1]) / 100, np.linspace(0, 1, len(row)), row))


def caps(
    direction: Direction, layers: Sequence[int] | None, low: float | str | None, high: float | str | None,
    tokens: Tokens = "all",
) -> tuple[Intervention, ...]:  # fmt: skip
    """A cap at each of the layers (default: the recommended one), each with the bounds of its own layer.

    Raises:
        InputError: no such layer, or bounds that cannot be used.
    """
    from mien.interventions import Cap

    chosen = dict.fromkeys(layers) if layers is not None else [direction.layer]
    found = []
    for k in chosen:
        direction.unit(k)  # a layer that is not there is named, before its baseline is looked for
        found.append(Cap(direction, at=k, tokens=tokens, low=bound(direction, k, low), high=bound(direction, k, high)))
    return tuple(found)


def default_hold(direction: Direction) -> tuple[Intervention, ...]:
    """The paper's recipe (2601.10387), uncalibrated: a floor at the 25th percentile of ordinary projections, in the
    layers between two and four fifths of the depth that the direction has; at its own layer if it has none there.
    For a trait the same from above, a ceiling at the 75th.

    Raises:
        InputError: nothing is known of ordinary projections.
    """
    n = len(direction.vector)
    known = [k for k in range(2 * n // 5, 4 * n // 5 + 1) if k < n and bool(direction.vector[k].any())]
    low, high = ("p25", None) if direction.card.kind == "assistant_axis" else (None, "p75")
    return caps(direction, known or [direction.layer], low, high)


def find_hold(name_or_path: str, catalog: Catalog, model: Model) -> tuple[str, tuple[Intervention, ...]]:
    """What holding a character means: a calibrated hold (a folder, or one kept under that name, or the one that comes
    with mien), or else the paper's recipe on the direction of that name. And what it is called, which clients are
    told: no folder of this machine.

    Raises:
        InputError: there is neither.
        FormatError: a hold that cannot be read.
        FingerprintError: it was made for another model.
    """
    from mien.holds import bundled_hold, load_hold

    folder = _hold_folder(name_or_path, model)
    if folder is not None:
        hold = load_hold(folder, model)
        return hold.card.name, hold.interventions
    bundled = bundled_hold(model.info.id)
    if bundled is not None and bundled.card.name == name_or_path and bundled.card.fingerprint == model.info.fingerprint:
        return name_or_path, bundled.interventions
    return name_or_path, default_hold(catalog.direction(name_or_path))


def _hold_folder(name_or_path: str, model: Model) -> Path | None:
    """Where a calibrated hold lies: given by its folder, or kept as `holds/MODEL/NAME` or beside a direction."""
    kept = (hold_folder(model.info.id, name_or_path), folder_for(model.info.id, name_or_path))
    try:
        places = (Path(name_or_path).expanduser(), *kept)
        return next((folder for folder in places if (folder / "hold.json").is_file()), None)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{name_or_path[:60]!r} can be neither a name nor a folder.") from error
