"""The numbers that the map's script draws: oriented the same way at every layer, rounded, and safe to embed.

Knows the report and no HTML.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from mien.report.axis_data import AxisReport
from mien.report.words import known, shorten

EXAMPLE = 300
"""Characters of an answer, a question or a description that reach the page."""
_NAME = 80


def start(report: AxisReport) -> int:
    """Place in `report.layers` of the recommended layer, or of the one nearest to it."""
    return min(
        range(len(report.layers)), key=lambda k: abs(report.layers[k].layer - report.recommended_layer), default=0
    )


def orientations(columns: Sequence[Sequence[float | None]], anchor: int = 0) -> list[int]:
    """A sign for each layer, so that no layer's component points against the one before it.

    `columns[k]` are the coordinates of the same points on one component at layer k, `[l, n]`, with None or NaN where
    there is none. A principal component has no sign of its own, so neighbouring layers may come out mirrored: each is
    turned to correlate with the one before. The sign at layer `anchor` is +1. A layer that says nothing about its
    neighbour (fewer than two common points, or no correlation) keeps the neighbour's sign.
    """
    if not columns:
        return []
    signs = [1]
    for before, after in pairwise(columns):
        signs.append(-signs[-1] if _covariance(before, after) < 0 else signs[-1])
    return [sign * signs[anchor] for sign in signs]


def _covariance(a: Sequence[float | None], b: Sequence[float | None]) -> float:
    """Sum of products of deviations over the points that both have; its sign is the correlation's."""
    pairs = [(p, q) for p, q in zip(a, b, strict=True) if known(p) and known(q)]
    if len(pairs) < 2:
        return 0.0
    # Scaled, so that no product of large numbers overflows.
    most_a, most_b = (max(abs(pair[side]) for pair in pairs) or 1.0 for side in (0, 1))
    scaled = [(p / most_a, q / most_b) for p, q in pairs]
    mean_a, mean_b = (math.fsum(pair[side] for pair in scaled) / len(scaled) for side in (0, 1))
    return math.fsum((p - mean_a) * (q - mean_b) for p, q in scaled)


def _at(values: Sequence[float], k: int) -> float | None:
    """The value at a layer, None where it is missing or no number that could be drawn."""
    value = values[k] if k < len(values) else None
    return value if known(value) and abs(value) < 1e12 else None


def _round(value: float | None) -> float | None:
    """Four significant digits: a ten-thousandth of the map is less than a pixel."""
    return None if not known(value) else float(f"{value:.4g}") + 0.0


def _signs(report: AxisReport) -> tuple[list[int], list[int]]:
    """Signs of both components for each layer. At the recommended layer the Assistant lies to the right."""
    layers, anchor = range(len(report.layers)), start(report)
    xs = [[*(_at(r.x, k) for r in report.roles), _at((report.layers[k].default_x,), 0)] for k in layers]
    ys = [[*(_at(r.y, k) for r in report.roles), _at((report.layers[k].default_y,), 0)] for k in layers]
    x_signs, y_signs = orientations(xs, anchor), orientations(ys, anchor)
    if xs and _leans_left(xs[anchor]):
        x_signs = [-sign for sign in x_signs]
    return x_signs, y_signs


def _leans_left(column: Sequence[float | None]) -> bool:
    """Whether the default, which comes last, lies left of the roles' mean."""
    roles, default = [value for value in column[:-1] if value is not None], column[-1]
    return bool(roles) and default is not None and default < math.fsum(roles) / len(roles)


def map_data(report: AxisReport) -> dict[str, object]:
    """What the script reads, in lists with one entry for each layer; None where there is no number."""
    x_signs, y_signs = _signs(report)
    size = len(report.layers)

    def along(values: Sequence[float], signs: Sequence[int]) -> list[float | None]:
        found = [_at(values, k) for k in range(size)]
        return [None if value is None else _round(value * sign) for value, sign in zip(found, signs, strict=True)]

    plain = [1] * size
    return {
        "start": start(report),
        "layers": [
            {
                "layer": layer.layer,
                "variance": [_round(share) for share in layer.variance],
                "components70": layer.components_70,
                "cosine": _round(layer.cosine_pc1),
                "norm": _round(layer.norm),
                "roles": _round(layer.split_half_roles),
                "questions": _round(layer.split_half_questions),
            }
            for layer in report.layers
        ],
        "x": along([layer.default_x for layer in report.layers], x_signs),
        "y": along([layer.default_y for layer in report.layers], y_signs),
        "roles": [
            {
                "name": shorten(role.name, _NAME),
                "description": shorten(role.description, EXAMPLE),
                "distance": shorten(role.distance or "", _NAME),
                "n": role.n,
                "question": shorten(role.question, EXAMPLE),
                "example": shorten(role.example, EXAMPLE),
                "p": along(role.projection, plain),
                "x": along(role.x, x_signs),
                "y": along(role.y, y_signs),
            }
            for role in report.roles
        ],
        "traits": [
            {
                "name": shorten(trait.name, _NAME),
                "c": along(trait.cosine, plain),
                "x": along(trait.x, x_signs),
                "y": along(trait.y, y_signs),
            }
            for trait in report.traits
        ],
    }
