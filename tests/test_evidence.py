"""The statistics, each against another implementation, a case with a known answer, or data with nothing to find."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from mien import evidence
from mien.evidence import Readings


def made(
    questions: int = 8, pairs: int = 3, layers: int = 2, width: int = 12, strength: float = 2.0, seed: int = 0
) -> Readings:
    """Rollouts with a true direction along the first axis, and a part of its own for each question."""
    rng = np.random.default_rng(seed)
    question = np.repeat(np.arange(questions) * 7 + 3, 2 * pairs)
    positive = np.tile([True, False], questions * pairs)
    mean = (
        rng.standard_normal((len(question), layers, width))
        + 3 * rng.standard_normal((questions, layers, width))[np.repeat(np.arange(questions), 2 * pairs)]
    )
    mean[:, :, 0] += strength * np.where(positive, 0.5, -0.5)[:, None]
    return Readings(mean.astype(np.float32), positive, question)


# AUC


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40).filter(
        lambda rows: {True, False} <= {side for _, side, weight in rows if weight}
    )
)
def test_auc_is_sklearns_with_ties_and_weights(rows: list[tuple[int, bool, int]]) -> None:
    scores, sides, weights = (np.array(column) for column in zip(*rows, strict=True))
    expected = roc_auc_score(sides, scores, sample_weight=weights)
    assert evidence.auc(scores.astype(float), sides, weights.astype(float)) == pytest.approx(expected, abs=1e-12)


def test_auc_without_weights() -> None:
    rng = np.random.default_rng(0)
    scores, sides = rng.standard_normal(500), rng.random(500) < 0.3
    assert evidence.auc(scores, sides) == pytest.approx(roc_auc_score(sides, scores))
    assert evidence.auc(np.zeros(4), np.array([True, False, True, False])) == 0.5


@pytest.mark.parametrize("sides", [[True, True], [False, False], []])
def test_auc_of_one_side_is_not_known(sides: list[bool]) -> None:
    assert np.isnan(evidence.auc(np.zeros(len(sides)), np.array(sides, dtype=bool)))


def test_bootstrap_auc_draws_whole_questions() -> None:
    data = made(strength=0)
    # One question is all right, the others all wrong, in both pairs alike: rollouts alone would give a narrow interval.
    scores = np.where(data.question == 3, 1.0, -1.0) * np.where(data.positive, 1, -1)
    low, high = evidence.bootstrap_auc(scores, data, np.random.default_rng(0))
    assert low == 0.0
    assert 0.2 < high < 0.9
    perfect = data.positive.astype(float)
    assert evidence.bootstrap_auc(perfect, data, np.random.default_rng(0)) == (1.0, 1.0)


def test_the_auc_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth = float(stats.norm.cdf(1 / np.sqrt(2)))  # scores N(1, 1) against N(0, 1)
    inside = 0
    for seed in range(100):
        data = made(20, 2, 1, 1, seed=seed)
        scores = np.random.default_rng(1000 + seed).standard_normal(len(data.positive)) + data.positive
        low, high = evidence.bootstrap_auc(scores, data, np.random.default_rng(seed), times=200)
        inside += low <= truth <= high
    assert 84 <= inside <= 100


# Means


def test_class_means_and_difference_are_those_of_plain_python() -> None:
    data = made()
    chosen = data.question != 10
    plus, minus = evidence.class_means(data, chosen)
    for layer in range(2):
        for d in range(12):
            sides: dict[bool, list[float]] = {True: [], False: []}
            for i in range(len(data.positive)):
                if data.question[i] != 10:
                    sides[bool(data.positive[i])].append(float(data.mean[i, layer, d]))
            assert plus[layer, d] == pytest.approx(sum(sides[True]) / len(sides[True]), abs=1e-5)
            assert minus[layer, d] == pytest.approx(sum(sides[False]) / len(sides[False]), abs=1e-5)
    assert np.array_equal(evidence.difference(data, chosen), plus - minus)
    flipped = evidence.difference(data, chosen, ~data.positive)
    assert flipped == pytest.approx(minus - plus)
    assert not np.array_equal(evidence.difference(data), plus - minus)


@pytest.mark.parametrize(("count", "sizes"), [(5, [2, 2, 2, 1, 1]), (8, [1] * 8), (20, [1] * 8), (1, [8])])
def test_folds_deal_every_question_once(count: int, sizes: list[int]) -> None:
    data = made()
    parts = evidence.folds(data.questions, count, np.random.default_rng(0))
    assert [len(p) for p in parts] == sizes
    assert sorted(np.concatenate(parts)) == sorted(data.questions)


# Held-out projections


def test_held_out_projections_are_those_of_plain_numpy() -> None:
    data = made()
    parts = evidence.folds(data.questions, 3, np.random.default_rng(1))
    found = evidence.held_out_projections(data, parts)
    for i in range(len(data.positive)):
        part = next(p for p in parts if data.question[i] in p)
        rest = [j for j in range(len(data.positive)) if data.question[j] not in part]
        for layer in range(2):
            plus = np.mean([data.mean[j, layer] for j in rest if data.positive[j]], axis=0, dtype=np.float64)
            minus = np.mean([data.mean[j, layer] for j in rest if not data.positive[j]], axis=0, dtype=np.float64)
            v, middle = plus - minus, (plus + minus) / 2
            assert found[i, layer] == pytest.approx((data.mean[i, layer] - middle) @ v / (v @ v), abs=1e-4)


def test_the_held_out_fold_has_no_part_in_its_own_direction() -> None:
    data = made()
    parts = evidence.folds(data.questions, 4, np.random.default_rng(0))
    clean = evidence.held_out_projections(data, parts)
    for part in parts:
        inside = np.isin(data.question, part)
        # One rollout of the fold, and all its labels, are poisoned: its other rollouts must not notice, the rest must.
        poisoned, labels = data.mean.copy(), data.positive.copy()
        first = np.flatnonzero(inside)[0]
        poisoned[first] += 1000
        labels[inside] = ~labels[inside]
        found = evidence.held_out_projections(Readings(poisoned, labels, data.question), parts)
        others = inside.copy()
        others[first] = False
        assert np.array_equal(found[others], clean[others])
        assert (np.abs(found[~inside] - clean[~inside]) > 1e-3).any(axis=1).all()


def test_noise_is_not_told_apart_on_held_out_questions_but_would_be_on_its_own() -> None:
    held_out, own = [], []
    for seed in range(20):
        data = made(6, 2, 1, 400, strength=0, seed=seed)
        parts = evidence.folds(data.questions, 5, np.random.default_rng(seed))
        held_out.append(evidence.auc(evidence.held_out_projections(data, parts)[:, 0], data.positive))
        v = evidence.difference(data)[0]
        own.append(evidence.auc(data.mean[:, 0].astype(float) @ v, data.positive))
    assert abs(np.mean(held_out) - 0.5) < 0.08
    assert np.mean(own) > 0.8


def test_a_true_direction_is_found_and_stands_above_its_nulls() -> None:
    data = made(12, 5, strength=6)
    parts = evidence.folds(data.questions, 5, np.random.default_rng(0))
    scores = evidence.held_out_projections(data, parts)
    rng = np.random.default_rng(0)
    null, random = evidence.null_aucs(data, parts, rng), evidence.random_aucs(data, rng)
    assert null.shape == random.shape == (40, 2)
    assert (random >= 0.5).all()
    for layer in range(2):
        reached = evidence.auc(scores[:, layer], data.positive)
        assert reached > 0.9
        assert np.quantile(null[:, layer], 0.95) < reached
        assert np.quantile(random[:, layer], 0.95) < reached


def test_the_null_of_an_overwhelming_trait_stays_low() -> None:
    """With a trait that is all the variance, chance points a shuffled direction along it, one way or the other."""
    data = made(16, 3, 1, 4, strength=200)
    parts = evidence.folds(data.questions, 5, np.random.default_rng(0))
    null = evidence.null_aucs(data, parts, np.random.default_rng(0))
    assert np.quantile(null, 0.95) < 0.8
    assert 0.4 < np.mean(null) < 0.6


def test_shuffling_keeps_every_questions_counts() -> None:
    data = made(9, 2)
    positive = data.positive.copy()
    positive[data.question == 3] = [True, True, True, False]
    data = Readings(data.mean, positive, data.question)
    seen = []
    for seed in range(20):
        labels = evidence.shuffled(data, np.random.default_rng(seed))
        assert labels.dtype == bool
        for question in data.questions:
            inside = data.question == question
            assert labels[inside].sum() == positive[inside].sum()
        seen.append(labels.tobytes())
    assert len(set(seen)) > 15
    assert np.array_equal(data.positive, positive)


# Split halves


def test_split_half_is_the_cosine_of_two_halves() -> None:
    data = made(4, 2, strength=1)
    found = evidence.split_half(data, np.random.default_rng(5), times=30)
    assert found.shape == (30, 2)
    possible = []
    from itertools import combinations

    for half in combinations(sorted(set(data.question.tolist())), 2):
        halves: list[list[Any]] = [[], []]
        for side, inside in enumerate((True, False)):
            rows = [i for i in range(len(data.question)) if (data.question[i] in half) == inside]
            plus = np.mean([data.mean[i] for i in rows if data.positive[i]], axis=0, dtype=np.float64)
            minus = np.mean([data.mean[i] for i in rows if not data.positive[i]], axis=0, dtype=np.float64)
            halves[side] = list(plus - minus)
        a, b = halves
        possible.append([float(a[k] @ b[k] / np.linalg.norm(a[k]) / np.linalg.norm(b[k])) for k in range(2)])
    for row in found:
        assert np.abs(np.array(possible) - row).max(axis=1).min() < 1e-5
    assert len({tuple(np.round(row, 6)) for row in found}) == 3  # four questions have three ways to be halved


def test_split_half_is_near_one_for_a_strong_trait_and_near_zero_for_noise() -> None:
    strong = evidence.split_half(made(20, 5, strength=30), np.random.default_rng(0))
    noise = evidence.split_half(made(20, 5, width=200, strength=0), np.random.default_rng(0))
    assert strong.min() > 0.95
    assert abs(noise.mean()) < 0.2


# Few or lopsided data


def test_a_single_question_knows_nothing_and_breaks_nothing() -> None:
    data = made(1, 3)
    parts = evidence.folds(data.questions, 5, np.random.default_rng(0))
    assert len(parts) == 1
    scores = evidence.held_out_projections(data, parts)
    assert not scores.any()
    assert evidence.auc(scores[:, 0], data.positive) == 0.5
    assert not evidence.split_half(data, np.random.default_rng(0)).any()
    assert evidence.bootstrap_auc(scores[:, 0], data, np.random.default_rng(0)) == (0.5, 0.5)


def test_two_questions_are_tested_on_each_other() -> None:
    data = made(2, 4, strength=20)
    parts = evidence.folds(data.questions, 5, np.random.default_rng(0))
    scores = evidence.held_out_projections(data, parts)
    assert np.isfinite(scores).all()
    assert scores.any(axis=1).all()
    assert evidence.split_half(data, np.random.default_rng(0)).shape == (60, 2)


@pytest.mark.parametrize("side", [True, False])
def test_one_side_alone_gives_nan_and_no_crash(side: bool) -> None:
    data = made(4, 2)
    data = Readings(data.mean, np.full(len(data.positive), side), data.question)
    rng = np.random.default_rng(0)
    parts = evidence.folds(data.questions, 2, rng)
    assert np.isfinite(evidence.held_out_projections(data, parts)).all()
    assert np.isnan(evidence.null_aucs(data, parts, rng)).all()
    assert np.isnan(evidence.random_aucs(data, rng)).all()
    assert np.isnan(evidence.bootstrap_auc(np.zeros(len(data.positive)), data, rng)).all()


def test_nothing_at_all_gives_nan_and_no_crash() -> None:
    none = Readings(np.zeros((0, 1, 1), np.float32), np.zeros(0, bool), np.zeros(0, np.int64))
    rng = np.random.default_rng(0)
    assert np.isnan(evidence.bootstrap_auc(np.zeros(0), none, rng)).all()
    assert np.isnan(evidence.mean_interval(np.zeros(0), rng)).all()
    assert np.isnan(evidence.slope(np.zeros(0), np.zeros(0), np.zeros(0, np.int64), rng)).all()


# Slopes and means with intervals


def dosed(seed: int, per_coef: float, noise: float = 8.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of 20 questions at five coefs, each question with a height of its own."""
    rng = np.random.default_rng(seed)
    coefs, group = np.tile([0.0, 0.5, 1.0, 2.0, 3.0], 20), np.repeat(np.arange(20), 5)
    return coefs, per_coef * coefs + 20 * rng.standard_normal(20)[group] + noise * rng.standard_normal(100), group


def test_slope_is_that_of_least_squares_with_a_height_for_each_question() -> None:
    coefs, scores, group = dosed(0, 5.0)
    design = np.column_stack([coefs, np.eye(20)[group]])
    expected = np.linalg.lstsq(design, scores, rcond=None)[0][0]
    found, low, high, p = evidence.slope(coefs, scores, group, np.random.default_rng(0))
    assert found == pytest.approx(expected)
    assert low < expected < high
    assert p == pytest.approx(1 / 2001)
    # Questions at the same coefs: also the slope of all scores at once.
    assert found == pytest.approx(np.polyfit(coefs, scores, 1)[0])
    assert found == pytest.approx(stats.linregress(coefs, scores).slope)


def test_the_slope_does_not_depend_on_how_high_questions_are() -> None:
    coefs, scores, group = dosed(1, 2.0)
    ragged = np.arange(100) % 7 != 3  # not every question has every coef
    plain = evidence.slope(coefs[ragged], scores[ragged], group[ragged], np.random.default_rng(0))
    lifted = evidence.slope(coefs[ragged], (scores + 1000.0 * group)[ragged], group[ragged], np.random.default_rng(0))
    assert lifted == pytest.approx(plain)


def test_without_a_slope_p_is_spread_evenly_and_the_interval_covers_zero() -> None:
    ps, inside = [], 0
    for seed in range(150):
        _, low, high, p = evidence.slope(*dosed(seed, 0.0), np.random.default_rng(seed), times=200)
        ps.append(p)
        inside += low <= 0 <= high
    assert stats.kstest(ps, "uniform").pvalue > 0.01
    assert 132 <= inside <= 150


def test_the_permutation_p_agrees_with_a_t_test() -> None:
    for seed in range(5):
        coefs, scores, group = dosed(seed, 1.2)
        centred = scores - np.array([scores[group == g].mean() for g in group])
        expected = stats.linregress(coefs, centred).pvalue
        _, _, _, p = evidence.slope(coefs, scores, group, np.random.default_rng(0), times=5000)
        assert p == pytest.approx(expected, abs=0.05)


def test_a_flat_score_has_p_one() -> None:
    coefs, _, group = dosed(0, 0)
    found, low, high, p = evidence.slope(coefs, np.full(100, 50.0), group, np.random.default_rng(0))
    assert (found, low, high, p) == (0, 0, 0, 1)


def test_a_permutation_that_gives_the_same_sum_counts_as_reached() -> None:
    """Three high and three low scores in order: 72 of the 720 orders reach the same sum, but for rounding."""
    coefs = np.array([0.1, 0.2, 0.4, 0.7, 1.1, 1.7])
    scores = np.array([1e7 / 3] * 3 + [2e7 / 3] * 3)
    _, _, _, p = evidence.slope(coefs, scores, np.zeros(6, np.int64), np.random.default_rng(0), times=6000)
    assert p == pytest.approx(0.1, abs=0.015)


@pytest.mark.parametrize("coefs", [[1.0, 1.0, 1.0], [2.0]])
def test_one_coef_has_no_slope(coefs: list[float]) -> None:
    found = evidence.slope(np.array(coefs), np.arange(len(coefs)) * 1.0, np.zeros(len(coefs)), np.random.default_rng(0))
    assert np.isnan(found).all()


def test_mean_interval_agrees_with_the_t_interval_and_covers() -> None:
    values = np.random.default_rng(3).normal(40, 12, 60)
    mean, low, high = evidence.mean_interval(values, np.random.default_rng(0), times=4000)
    t_low, t_high = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert mean == pytest.approx(values.mean())
    assert low == pytest.approx(t_low, abs=0.6)
    assert high == pytest.approx(t_high, abs=0.6)
    assert evidence.mean_interval(np.array([7.0]), np.random.default_rng(0)) == (7, 7, 7)


def test_the_same_seed_gives_the_same_numbers() -> None:
    data = made()
    first, second = (evidence.split_half(data, np.random.default_rng(9)) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, evidence.split_half(data, np.random.default_rng(10)))
