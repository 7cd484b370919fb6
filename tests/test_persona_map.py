"""The maths of the Assistant Axis against plain sums, scikit-learn's PCA, and data whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from mien.persona_map import (
    LayerMap,
    RoleMeans,
    axis_of,
    cosine,
    cosine_by_count,
    layer_map,
    split_half_roles,
)

SEEDS = st.integers(0, 2**32 - 1)


def cast(roles: int, strength: float, d: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Default halves `[2, d]`, roles `[r, d]` and the unit direction away from which every role lies `strength` far;
    around that, everything has noise of length 1."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((2 + roles, d)) / math.sqrt(d)
    unit = rng.standard_normal(d)
    unit /= np.linalg.norm(unit)
    return noise[:2] + 7, noise[2:] + 7 - strength * unit, unit


# The axis


@given(SEEDS, st.integers(1, 6), st.integers(1, 3), st.integers(1, 5))
def test_the_axis_is_the_default_less_the_mean_of_the_roles(seed: int, r: int, layers: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    default, roles = rng.standard_normal((layers, d)), rng.standard_normal((r, layers, d))
    found = axis_of(default, roles)
    assert found.shape == (layers, d)
    for k in range(layers):
        for j in range(d):
            expected = default[k, j] - math.fsum(roles[i, k, j] for i in range(r)) / r
            assert math.isclose(found[k, j], expected, abs_tol=1e-12)
    np.testing.assert_array_equal(RoleMeans(default, np.stack([default] * 2), roles).axis, found)
    # What all answers share is not in it, and it points towards the default.
    np.testing.assert_allclose(axis_of(default + 5, roles + 5), found, atol=1e-12)
    np.testing.assert_allclose(axis_of(default + 2 * found, roles), 3 * found, atol=1e-12)


@given(SEEDS, st.floats(0.01, 100), st.floats(0.01, 100))
def test_cosine(seed: int, a: float, b: float) -> None:
    rng = np.random.default_rng(seed)
    u, v = rng.standard_normal((2, 3, 4))
    expected = [float(x @ y / math.sqrt((x @ x) * (y @ y))) for x, y in zip(u, v, strict=True)]
    np.testing.assert_allclose(cosine(a * u, b * v), expected, atol=1e-12)
    np.testing.assert_allclose(cosine(u, -b * u), -1)
    assert cosine(u, np.zeros_like(u)).tolist() == [0, 0, 0]


# The map


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(3, 12), st.integers(2, 20))
def test_the_map_is_scikit_learns_pca_with_the_default_on_the_positive_side(seed: int, r: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    roles, default = rng.standard_normal((r, d)) * np.linspace(1, 4, d), rng.standard_normal(d)
    found = layer_map(default, roles)
    points = np.concatenate([roles, default[None]])
    reference = PCA().fit(points)
    c = min(r, d)
    np.testing.assert_allclose(found.variance, reference.explained_variance_ratio_[:c], atol=1e-9)
    np.testing.assert_allclose(found.centre, reference.mean_, atol=1e-12)
    places = reference.transform(points)[:, :c]
    assert found.places.shape == places.shape
    same = np.sign((found.places * places).sum(0))
    np.testing.assert_allclose(found.places, places * same, atol=1e-6)
    np.testing.assert_allclose(found.components, reference.components_[:c] * same[:, None], atol=1e-6)
    assert (found.places[-1] >= 0).all()
    np.testing.assert_allclose(found.components @ found.components.T, np.eye(c), atol=1e-9)
    np.testing.assert_allclose(found.places @ found.components + found.centre, points, atol=1e-8)


def some_map(variance: list[float]) -> LayerMap:
    return LayerMap(np.array(variance), np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0))


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_the_fewest_components_that_hold_seven_tenths(sizes: list[float]) -> None:
    shares = sorted((s / sum(sizes) for s in sizes), reverse=True)
    n = some_map(shares).components_70
    assert sum(shares[:n]) >= 0.7 - 1e-9
    assert n == 1 or sum(shares[: n - 1]) < 0.7


@pytest.mark.parametrize(
    ("shares", "n"), [([1.0], 1), ([0.7, 0.3], 1), ([0.4, 0.3, 0.3], 2), ([0.1] * 10, 7), ([0.69, 0.31], 2)]
)
def test_seven_tenths_itself_is_enough(shares: list[float], n: int) -> None:
    assert some_map(shares).components_70 == n


def test_points_that_are_all_one_have_a_map_too() -> None:
    found = layer_map(np.ones(5), np.ones((3, 5)))
    assert found.variance.tolist() == [0, 0, 0]
    assert np.abs(found.places).max() == 0
    assert found.components_70 <= 3


# How well it is known


def test_halves_of_the_roles_agree_where_there_is_something_to_agree_on() -> None:
    def agreement(strength: float) -> np.ndarray:
        halves, roles, _ = cast(20, strength)
        return split_half_roles(halves[:, None], roles[:, None], np.random.default_rng(1))

    strong, none = agreement(5.0), agreement(0.0)
    assert strong.shape == (50, 1)
    assert strong.mean() > 0.9
    assert abs(none.mean()) < 0.15
    assert none.mean() < agreement(1.0).mean() < strong.mean()


def test_halves_share_nothing() -> None:
    """One default for both halves, whose noise is then in both axes, would make agreement out of nothing."""
    halves, roles, _ = cast(20, 0.0)
    shared = np.stack([halves[0]] * 2)
    rng = np.random.default_rng
    assert split_half_roles(shared[:, None], roles[:, None], rng(1)).mean() > 0.7
    assert split_half_roles(halves[:, None], roles[:, None], rng(1)).mean() < 0.15


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(3, 9), st.integers(1, 4))
def test_each_half_has_half_the_roles_at_every_layer(seed: int, r: int, layers: int) -> None:
    """Every role has a coordinate of its own, so that the halves' axes are orthogonal if no role is in both."""
    default = np.zeros((2, layers, r))
    roles = np.repeat(np.eye(r)[:, None], layers, 1)
    found = split_half_roles(default, roles, np.random.default_rng(seed), times=5)
    assert found.shape == (5, layers)
    np.testing.assert_array_equal(found, 0)


def test_more_roles_are_worth_more() -> None:
    halves, roles, unit = cast(40, 1.0)
    counts = [0, 1, 3, 10, 20, 21, 40]
    rows = cosine_by_count(halves, roles, counts, np.random.default_rng(0))
    assert [n for n, *_ in rows] == [1, 3, 10, 20]
    assert all(low <= mean <= high for _, mean, low, high in rows)
    means = [mean for _, mean, *_ in rows]
    assert means == sorted(means)
    assert means[0] < means[-1] - 0.05
    assert cosine(axis_of(halves.mean(0), roles), unit) > means[-1]  # it understates the whole
    for n, mean, *_ in cosine_by_count(*cast(40, 8.0)[:2], counts, np.random.default_rng(0)):
        assert mean > 0.9, n
    for n, mean, *_ in cosine_by_count(*cast(40, 0.0)[:2], counts, np.random.default_rng(0)):
        assert abs(mean) < 0.2, n


def test_the_axis_of_some_is_compared_with_that_of_the_others() -> None:
    roles = np.eye(8)
    rows = cosine_by_count(np.zeros((2, 8)), roles, [1, 2, 4], np.random.default_rng(0), times=7)
    assert rows == [(n, 0.0, 0.0, 0.0) for n in (1, 2, 4)]


def test_three_roles_are_enough_for_all_of_it() -> None:
    halves, roles, _ = cast(3, 4.0, d=20)
    found = layer_map(halves.mean(0), roles)
    assert found.places.shape == (4, 3)
    assert found.variance.sum() == pytest.approx(1)
    assert 1 <= found.components_70 <= 3
    agreement = split_half_roles(halves[:, None], roles[:, None], np.random.default_rng(0))
    assert np.isfinite(agreement).all()
    assert agreement.mean() > 0.8
    assert [n for n, *_ in cosine_by_count(halves, roles, [1, 2, 3], np.random.default_rng(0))] == [1]


def test_the_same_seed_gives_the_same_splits() -> None:
    halves, roles, _ = cast(9, 1.0)

    def both(seed: int) -> tuple[list[float], object]:
        rng = np.random.default_rng(seed)
        split = split_half_roles(halves[:, None], roles[:, None], rng, times=4)
        return split[:, 0].tolist(), cosine_by_count(halves, roles, [2], rng, times=4)

    assert both(3) == both(3) != both(4)
