"""Gauges from a description alone, and baselines from the ordinary conversations or from files of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from mien.errors import InputError
from mien.evidence import auc
from mien.gauges import Gauge, GaugeSet, Part, load_gauges, save_gauges
from mien.jobs.baseline import gauge_of, set_baseline
from mien.jobs.describe import SHRINKAGE, describe_gauge, whitened
from mien.jobs.scan import scan
from mien.logs import LoggedConversation, read_logs
from mien.scanning import message_means as of_messages
from mien.scanning import quiet
from mien.scanning.message_means import reading_layers
from mien.spec import InstructionPair
from random_models import direction_of
from test_scan import reader, talk, write_log

THE_PACKAGES = quiet.ordinary_conversations
SHOUT = tuple(word.upper() for word in tiny.WORDS)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A log of ordinary conversations, which for this file are the ones that come with mien; and an empty cache."""
    path = write_log(tmp_path_factory.mktemp("ordinary") / "ordinary.jsonl", [talk(4, seed) for seed in range(14)])
    records = [r for r in read_logs([path]) if isinstance(r, LoggedConversation)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(quiet, "ordinary_conversations", lambda: iter(records))
        patch.setattr(quiet, "short_conversations", lambda: iter(()))
        yield path


@pytest.fixture(scope="module")
def described(ordinary: Path) -> GaugeSet:
    return describe_gauge(tiny.spec(), reader())


# The maths


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 30), st.integers(2, 12), st.floats(0.05, 1))
def test_whitening_is_the_formula(seed: int, n: int, d: int, shrinkage: float) -> None:
    """`(lambda t I + (1 - lambda) C)^-1 v`, C the covariance and t its mean diagonal, over the spread it gives."""
    rng = np.random.default_rng(seed)
    ordinary = rng.standard_normal((n, d)) * np.linspace(0.5, 3, d) + 4
    v = rng.standard_normal(d)
    covariance = np.cov(ordinary.T, bias=True)
    shrunk = (1 - shrinkage) * covariance + shrinkage * np.diag(covariance).mean() * np.eye(d)
    expected = np.linalg.inv(shrunk) @ v
    expected /= np.std(ordinary @ expected)
    found = whitened(v, ordinary, shrinkage)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert np.std(ordinary @ found) == pytest.approx(1)
    np.testing.assert_allclose(whitened(3 * v, ordinary + 100, shrinkage), found, rtol=1e-5, atol=1e-8)


def test_what_differs_between_any_two_answers_counts_little() -> None:
    rng = np.random.default_rng(0)
    ordinary = rng.standard_normal((400, 2)) * [10, 1]
    found = whitened(np.ones(2), ordinary, 0.01)
    assert found[1] > 10 * abs(found[0])
    round_ = whitened(np.ones(2), ordinary, 1.0)
    assert round_[1] == pytest.approx(round_[0])


@given(st.integers(1, 200))
def test_layers_that_are_read_lie_inside_the_model(n_layers: int) -> None:
    layers = reading_layers(n_layers)
    assert len(layers) >= 1
    assert 0 <= layers[0] <= layers[-1] < n_layers
    assert list(reading_layers(30)) == [7, 9, 11, 13, 15, 17, 19]


# The gauge


def test_it_tells_answers_that_shout(described: GaugeSet, tmp_path: Path) -> None:
    log = [talk(4, 300 + i, SHOUT if i % 2 else tiny.WORDS) for i in range(16)]
    scan([write_log(tmp_path / "new.jsonl", log)], reader(), tmp_path / "out", gauges=described)
    rows = pq.read_table(tmp_path / "out" / "turns.parquet").to_pylist()
    loud = np.array([int(r["conversation"][1:]) % 2 == 1 for r in rows])
    sigma = np.array([r["sigma"] for r in rows])
    assert auc(sigma, loud) > 0.98
    assert sigma[loud].mean() > 3 > 1 > abs(sigma[~loud].mean())


def test_it_is_the_whitened_difference_of_the_instructions(described: GaugeSet, ordinary: Path) -> None:
    """Worked out anew from readings of single conversations."""
    from mien.engines.hf_turns import read_turns
    from mien.records import Message

    (gauge,) = described.gauges
    assert [p.layer for p in gauge.parts] == list(reading_layers(4)) == [1]
    model = reader()
    for part in gauge.parts:
        sides = []
        for side in ("pos", "neg"):
            told = [(Message("system", getattr(p, side)), Message("user", "Hello.")) for p in tiny.spec().instructions]
            sides.append(np.mean([read_turns(model, [t], layers=[part.layer])[0].means[0, 0] for t in told], axis=0))
        answers = []
        for record in read_logs([ordinary]):
            assert isinstance(record, LoggedConversation)
            (one,) = read_turns(model, [record.messages], layers=[part.layer])
            answers += [one.means[i, 0] for i, m in enumerate(record.messages) if m.role == "assistant"]
        expected = whitened(
            (sides[0] - sides[1]).astype(np.float64), np.array(answers, dtype=np.float64), SHRINKAGE
        ) / len(gauge.parts)  # fmt: skip
        np.testing.assert_allclose(part.vector, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


def test_its_card_says_that_nothing_is_known_of_it_yet(described: GaugeSet, tmp_path: Path) -> None:
    (gauge,) = described.gauges
    assert (gauge.name, gauge.kind, gauge.side, gauge.probability) == ("loud", "described", "high", None)
    assert gauge.baseline is not None
    assert gauge.baseline.source == quiet.SOURCE
    assert (gauge.baseline.n_turns, gauge.baseline.n_conversations) == (56, 14)
    assert gauge.evidence["reasons"][0].startswith("Made from the description alone; nothing says yet")
    assert json.dumps(gauge.evidence)
    (again,) = load_gauges(save_gauges(described, tmp_path / "g")).gauges
    assert replace(again, parts=()) == replace(gauge, parts=())


def test_the_opposite_description_is_the_opposite_gauge(described: GaugeSet) -> None:
    spec = tiny.spec()
    turned = replace(spec, instructions=tuple(InstructionPair(p.neg, p.pos) for p in spec.instructions))
    (gauge,) = describe_gauge(turned, reader()).gauges
    for part, other in zip(gauge.parts, described.gauges[0].parts, strict=True):
        np.testing.assert_allclose(part.vector, -other.vector, atol=1e-5)


def test_the_ordinary_conversations_are_read_once(described: GaugeSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_messages, "read_turns", lambda *_, **__: pytest.fail("a conversation was read again"))
    (again,) = describe_gauge(tiny.spec(), reader()).gauges
    for part, other in zip(again.parts, described.gauges[0].parts, strict=True):
        np.testing.assert_array_equal(part.vector, other.vector)
    assert again.baseline == described.gauges[0].baseline


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PK\x03\x04", b"\x80\x04N.", b"half a fi"])
def test_a_cache_that_is_corrupt_is_read_anew(
    content: bytes, ordinary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path))
    record = next(iter(read_logs([ordinary])))
    assert isinstance(record, LoggedConversation)
    first, tokens = of_messages.message_means(reader(), record, [1, 3], [0, 2])
    (path,) = tmp_path.rglob("*.npy")
    whole = path.read_bytes()
    path.write_bytes(content)
    again, count = of_messages.message_means(reader(), record, [1, 3], [0, 2])
    assert count == tokens > 0
    np.testing.assert_array_equal(first, again)
    assert path.read_bytes() == whole


def test_the_conversations_that_come_with_mien_are_quiet_traffic() -> None:
    """As they are in the package: each is whole, and there are enough for a baseline. Nothing reads them here."""
    records = list(THE_PACKAGES())
    assert len(records) >= 100
    assert all(any(m.role == "assistant" for m in r.messages) for r in records)
    assert len({r.messages for r in records}) == len(records)


# Baselines


def some_gauges() -> GaugeSet:
    """On one layer, on several, and one that compares an answer with its question."""
    model = reader()
    rng = np.random.default_rng(5)
    a, b, c, d = (rng.standard_normal(model.info.d_model).astype(np.float32) for _ in range(4))
    return GaugeSet(
        "tiny", model.info.fingerprint, model.info.d_model,
        (
            Gauge("one", "one", "low", (Part(2, a),), "axis"),
            Gauge("two", "two", "high", (Part(0, b), Part(3, c)), "fitted", probability=(1.0, -0.5)),
            Gauge("both", "both", "high", (Part(1, d), Part(1, -d, "asked"))),
        ),
    )  # fmt: skip


def test_a_baseline_of_the_bundled_conversations_is_that_of_the_same_in_a_file(ordinary: Path) -> None:
    """Two ways to the same numbers: pooled streams from the cache, and projections taken on the way."""
    bundled = set_baseline(some_gauges(), reader())
    from_file = set_baseline(some_gauges(), reader(), [ordinary])
    for x, y in zip(bundled.gauges, from_file.gauges, strict=True):
        a, b = x.baseline, y.baseline
        assert a is not None
        assert b is not None
        assert (a.source, b.source) == (quiet.SOURCE, "ordinary.jsonl")
        assert (a.n_turns, a.n_conversations) == (b.n_turns, b.n_conversations) == (56, 14)
        assert (a.expected.mean, a.std) == pytest.approx((b.expected.mean, b.std), rel=1e-4, abs=1e-4)
        np.testing.assert_allclose(a.expected.weights, b.expected.weights, rtol=1e-3, atol=1e-4)
        assert a.limits.turn == pytest.approx(b.limits.turn, abs=1e-2)
        np.testing.assert_allclose(a.limits.conversation, b.limits.conversation, rtol=1e-2, atol=1e-2)
        assert (a.turn_hits, a.conversation_hits) == (b.turn_hits, b.conversation_hits)


def test_an_answer_that_answers_nothing_is_left_out_of_a_comparing_gauge_only(
    ordinary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = [talk(4, seed) for seed in range(14)]
    for record in log:
        record["messages"].insert(0, {"role": "assistant", "content": "red sun tea"})
    path = write_log(tmp_path / "greeted.jsonl", log)
    records = [r for r in read_logs([path]) if isinstance(r, LoggedConversation)]
    monkeypatch.setattr(quiet, "ordinary_conversations", lambda: iter(records))
    monkeypatch.setattr(quiet, "short_conversations", lambda: iter(()))
    for found in (set_baseline(some_gauges(), reader(), [path]), set_baseline(some_gauges(), reader())):
        counts = {g.name: g.baseline.n_turns for g in found.gauges if g.baseline}
        assert counts == {"one": 70, "two": 70, "both": 56}


def test_a_new_baseline_moves_sigma_and_leaves_the_probability_of_an_answer(ordinary: Path, tmp_path: Path) -> None:
    first = set_baseline(some_gauges(), reader())
    loud = write_log(tmp_path / "loud.jsonl", [talk(5, 50 + seed, SHOUT + tiny.WORDS) for seed in range(12)])
    second = set_baseline(first, reader(), [loud])
    a, b = first.gauges[1], second.gauges[1]
    assert a.baseline is not None
    assert b.baseline is not None
    assert a.baseline.std != pytest.approx(b.baseline.std, rel=1e-2)
    for raw in (-3.0, 0.0, 2.0):
        before = a.chance((raw - a.baseline.expected.mean) / a.baseline.std)
        after = b.chance((raw - b.baseline.expected.mean) / b.baseline.std)
        assert before == pytest.approx(after)
    assert second.gauges[0].probability is None


def test_false_alarms_that_are_asked_for_are_those_of_the_limits(ordinary: Path) -> None:
    few = set_baseline(some_gauges(), reader(), turn_rate=0.02, conversation_rate=0.05).gauges[0].baseline
    many = set_baseline(some_gauges(), reader(), turn_rate=0.3, conversation_rate=0.5).gauges[0].baseline
    assert few is not None
    assert many is not None
    assert (many.limits.turn_rate, many.limits.conversation_rate) == (0.3, 0.5)
    assert many.limits.turn < few.limits.turn
    assert many.conversation_hits > few.conversation_hits
    assert many.turn_hits > few.turn_hits


def test_traffic_without_answers_is_one_sentence(tmp_path: Path) -> None:
    path = write_log(tmp_path / "q.jsonl", [{"messages": [{"role": "user", "content": "hello?"}]}] * 20)
    with pytest.raises(InputError, match="no conversations with answers"):
        set_baseline(some_gauges(), reader(), [path])


def test_a_direction_makes_a_gauge_of_its_layer_and_its_side() -> None:
    direction = direction_of(reader(), seed=3, scale=7.0)
    trait = gauge_of(direction)
    assert (trait.name, trait.side, trait.kind, trait.layer) == ("random-3", "high", "persona_vector", 1)
    np.testing.assert_allclose(np.linalg.norm(trait.parts[0].vector), 1, rtol=1e-6)
    np.testing.assert_allclose(trait.parts[0].vector, direction.unit(1).numpy())
    axis = replace(direction, card=direction.card.model_copy(update={"kind": "assistant_axis"}))
    assert (gauge_of(axis).side, gauge_of(axis).kind, gauge_of(axis, "high", 3).side) == ("low", "axis", "high")
    assert gauge_of(axis, layer=3).layer == 3
