"""Maps, gates, shares and the tokens that they are made from, each against a second way of working it out."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import random_models as tiny
from mien.chat import ask
from mien.holding.paired import LONGEST, Pair, Span, States, token_states
from mien.holding.restoring import (
    GATE_RIDGE,
    MAP_RIDGE,
    LayerStates,
    attack_direction,
    discriminant,
    discriminating,
    floored,
    percentile_of,
    persona_space,
    restoring,
    restoring_map,
    within,
)
from mien.holding.shares import closed_with_interval, mean_with_interval
from mien.interventions import CapSpace
from mien.progress import Silent

MODEL = tiny.model_of("llama")
WIDTH = 12


def states(seed: int = 0, n: int = 300, m: int = 400) -> LayerStates:
    """An attack puts two directions in, by an amount that can be read off the stream; ordinary tokens lie elsewhere."""
    rng = np.random.default_rng(seed)
    alone = rng.normal(0, 1, (n, WIDTH))
    amount = rng.uniform(2, 4, (n, 2))
    put_in = amount @ np.eye(WIDTH)[:2]
    answer = rng.random(n) < 0.5
    return LayerStates(
        alone + put_in, alone, answer, np.ones(n, bool), np.arange(n) // 10, rng.normal(0, 1, (m, WIDTH))
    )


def test_a_map_of_full_rank_is_weighted_ridge_regression() -> None:
    s = states()
    matrix, bias = restoring_map(s.attacked, s.alone, WIDTH)
    # The same by least squares on rows that the ridge adds, with the intercept as one more column.
    n = len(s.attacked)
    x = np.concatenate([s.attacked, s.alone])
    y = np.concatenate([s.alone - s.attacked, np.zeros((n, WIDTH))])
    weight = np.repeat([1.0, 0.5], n) / (1.5 * n)
    root = np.sqrt(weight)[:, None]
    mean = weight @ x
    size = MAP_RIDGE * np.trace(((x - mean) * root).T @ ((x - mean) * root)) / WIDTH
    rows = np.concatenate(
        [np.hstack([x, np.ones((2 * n, 1))]) * root, np.hstack([np.sqrt(size) * np.eye(WIDTH), np.zeros((WIDTH, 1))])]
    )
    wanted = np.concatenate([y * root, np.zeros((WIDTH, WIDTH))])
    found = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(matrix, found[:-1], atol=1e-6)
    np.testing.assert_allclose(bias, found[-1], atol=1e-6)


def test_a_map_of_low_rank_moves_the_stream_in_so_many_dimensions_and_back() -> None:
    s = states()
    matrix, bias = restoring_map(s.attacked, s.alone, 2)
    moved = s.attacked @ matrix + bias
    assert np.linalg.matrix_rank(moved, tol=1e-6) == 2
    before, after = (np.square(x - s.alone).sum(1).mean() for x in (s.attacked, s.attacked + moved))
    assert after < 0.25 * before
    # What it takes out is what was put in.
    directions = np.linalg.svd(moved, full_matrices=False)[2][:2]
    assert np.linalg.norm(directions[:, :2]) == pytest.approx(np.sqrt(2), abs=0.05)


def test_a_hold_on_alarm_is_its_map_where_its_gates_are_open() -> None:
    s, unseen = states(0), states(1)
    fit = restoring(s, 2)
    one = CapSpace({0: fit.bounds(0.05, 0.05)}, "m", "f")
    h = torch.from_numpy(unseen.attacked.astype(np.float32))
    fires = one.fires(0, h).numpy()
    assert fires.mean() > 0.8
    matrix, bias = restoring_map(s.attacked, s.alone, 2)
    expected = unseen.attacked + unseen.attacked @ matrix + bias
    np.testing.assert_allclose(one.edit(0, h).numpy()[fires], expected[fires], atol=0.02)  # rounded to half precision
    for quiet in (unseen.ordinary, unseen.alone):
        assert one.fires(0, torch.from_numpy(quiet.astype(np.float32))).float().mean() < 0.1


def test_gates_open_at_the_shares_that_were_asked_for() -> None:
    s = states()
    fit = restoring(s, 2)
    for share in (0.02, 0.1, 0.3):
        part = fit.bounds(share, 1.0)
        assert part.gates is not None
        assert part.below is not None
        readings = s.ordinary @ part.gates.double().numpy()[0]
        assert (readings < float(part.below[0])).mean() == pytest.approx(share, abs=0.01)


def test_the_discriminant_is_fishers() -> None:
    rng = np.random.default_rng(3)
    mixing = rng.normal(0, 1, (WIDTH, WIDTH))
    low, high = (rng.normal(0, 1, (500, WIDTH)) @ mixing + shift for shift in (0.0, rng.normal(0, 1, WIDTH)))
    found = discriminant([low], high)
    pooled = (np.cov(low.T, bias=True) + np.cov(high.T, bias=True)) / 2
    wanted = np.linalg.inv(pooled + GATE_RIDGE * np.trace(pooled) / WIDTH * np.eye(WIDTH)) @ (
        high.mean(0) - low.mean(0)
    )
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-8)


def test_floors_and_subspaces_stand_where_percentiles_are() -> None:
    s = states()
    direction = np.eye(WIDTH)[3] * 7
    mark = percentile_of(direction, 25, s.ordinary)
    assert (s.ordinary[:, 3] < mark).mean() == pytest.approx(0.25, abs=0.005)
    floor = CapSpace({0: floored(direction, mark)}, "m", "f")
    h = torch.from_numpy(s.ordinary)
    held = floor.edit(0, h)
    assert float(held[:, 3].min()) == pytest.approx(mark, abs=1e-6)
    assert torch.equal(held[:, :3], h[:, :3])
    basis = persona_space(s, 2)
    np.testing.assert_allclose(basis @ basis.T, np.eye(2), atol=1e-9)
    box = CapSpace({0: within(basis, 10, s.ordinary)}, "m", "f")
    assert box.fires(0, h).float().mean() == pytest.approx(0.36, abs=0.08)
    inside = (box.edit(0, h) @ torch.from_numpy(basis).T).numpy()
    assert (inside >= np.percentile(s.ordinary @ basis.T, 10, axis=0) - 0.02).all()


def test_what_reads_attacks_writes_towards_own_answers() -> None:
    s = states()
    part = discriminating(s, 5)
    one, way = CapSpace({0: part}, "m", "f"), attack_direction(s)
    assert one.fires(0, torch.from_numpy(s.attacked)).float().mean() > 0.9
    assert one.fires(0, torch.from_numpy(s.ordinary)).float().mean() == pytest.approx(0.05, abs=0.01)
    moved = (one.edit(0, torch.from_numpy(s.attacked)) - torch.from_numpy(s.attacked)).numpy()
    cosine = moved @ way / np.maximum(np.linalg.norm(moved, axis=1) * np.linalg.norm(way), 1e-12)
    assert np.median(cosine) == pytest.approx(1.0, abs=1e-3)


def test_shares_are_of_means_and_intervals_of_groups() -> None:
    groups = [f"a{i // 2}" for i in range(40)]
    plain, own = np.full(40, 1.0), np.zeros(40)
    held = np.repeat(np.tile([0.4, 0.6], 10), 2).astype(float)
    held[0] = np.nan
    share, low, high = closed_with_interval(held, plain, own, groups, np.random.default_rng(0))
    assert share == pytest.approx(1 - np.nanmean(held))
    assert 0.4 < low < share < high < 0.6
    # Groups are drawn whole: doubling every answer of a group says nothing new.
    wide = mean_with_interval(held[1::2], groups[1::2], np.random.default_rng(0))
    again = mean_with_interval(np.repeat(held[1::2], 2), groups, np.random.default_rng(0))
    np.testing.assert_allclose(wide, again)
    assert np.isnan(closed_with_interval(held, plain, plain, groups, np.random.default_rng(0))[0])


def test_paired_tokens_are_the_same_tokens_of_two_forward_passes() -> None:
    texts = [("You are a pirate.", "Who goes there?"), ("Be rude.", "What is it?")]
    answers = [MODEL.chat.response_ids(t) for t in ("me", "an answer")]
    pairs = [
        Pair(ask(q, s), q, ids, True, apart)
        for (s, q), ids, apart in zip(texts, answers, (False, True), strict=True)
    ]  # fmt: skip
    ordinary = [(*ask("hi"), *ask("there"))[:1]]
    found = States(MODEL, pairs, ordinary, [1, 3], 20, Silent())

    def stream(ids: tuple[int, ...], layer: int) -> np.ndarray:
        with torch.inference_mode():
            out = copy.deepcopy(MODEL.net).model(input_ids=torch.tensor([ids]), output_hidden_states=True)
        return out.hidden_states[layer + 1][0].numpy()

    for states_of, which in ((found, [0]), (found.whole(), [0, 1])):
        at = states_of.at(1)
        place = 0
        for i in which:
            q, ids = texts[i][1], answers[i]
            for side, prompt in ((at.attacked, ask(q, texts[i][0])), (at.alone, ask(q))):
                whole = MODEL.chat.prompt_ids(prompt) + ids
                length = int((at.owner == i).sum())
                assert length > len(ids) + 3  # the question's end and the template as well
                assert length <= LONGEST + len(ids)
                np.testing.assert_allclose(side[place : place + length], stream(whole, 1)[-length:], atol=1e-4)
            assert at.answer[place : place + length].sum() == len(ids)
            place += length
        assert len(at.attacked) == len(at.alone) == place
    assert len(found.at(1).ordinary) == len(MODEL.chat.spanned(ordinary[0]).ids[:20])


def test_tokens_under_an_intervention_are_those_of_the_edited_stream() -> None:
    part = floored(np.ones(32), 2.0)
    one = CapSpace({1: part}, MODEL.info.id, MODEL.info.fingerprint)
    ids = MODEL.chat.prompt_ids(ask("hello there"))
    held = token_states(MODEL, [Span(ids, 2, len(ids)), Span(ids[:4], 0, 4)], [1, 2], Silent(), [one])
    plain = token_states(MODEL, [Span(ids, 2, len(ids)), Span(ids[:4], 0, 4)], [1, 2], Silent())
    np.testing.assert_allclose(held[:, 0], one.edit(1, torch.from_numpy(plain[:, 0])).numpy(), atol=1e-4)
    assert np.abs(held[:, 1] - plain[:, 1]).max() > 0.01
