"""Gauges from labelled turns: what is fitted, what it is compared with, and what it then says in a scan."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import tiny
from mien.errors import InputError
from mien.evidence import auc
from mien.gauges import Gauge, GaugeSet, Part, load_gauges, save_gauges
from mien.jobs.baseline import set_baseline
from mien.jobs.fit import Trial, choose, fit_gauge, gather, target_of
from mien.jobs.scan import scan
from mien.probes import bag_of_words, cross_fitted, fit_probe, grouped_folds, interval
from mien.progress import Silent
from test_scan import reader, talk, write_log


def labelled(n: int, seed: int, models: int = 2) -> list[dict[str, Any]]:
    """Conversations in which some answers shout; nothing but their capitals tells them."""
    chance = random.Random(seed)
    records = []
    for i in range(n):
        record = talk(5, 1000 * seed + i)
        record["model"] = f"m{i % models}"
        record["turn_labels"] = []
        for at in range(1, 10, 2):
            loud = chance.random() < 0.4
            if loud:
                record["messages"][at]["content"] = record["messages"][at]["content"].upper()
            record["turn_labels"].append(
                {"message_index": at, "labels": {"shouting": 3.0 * loud, "late": float(at > 5) * 5}}
            )
        records.append(record)
    return records


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_log(tmp_path_factory.mktemp("q") / "quiet.jsonl", [talk(4, seed) for seed in range(20)])


@pytest.fixture(scope="module")
def fitted(quiet: Path, tmp_path_factory: pytest.TempPathFactory) -> GaugeSet:
    log = write_log(tmp_path_factory.mktemp("l") / "labels.jsonl", labelled(24, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        return fit_gauge([log], "shouting", reader(), baseline=[quiet])


def test_its_card_tells_how_it_was_tested(fitted: GaugeSet) -> None:
    card = fitted.gauges[0].evidence
    assert (card["turns"], card["conversations"], card["models"]) == (120, 24, ["m0", "m1"])
    assert 30 < card["positive"] < 70
    assert card["auc"] > 0.95
    assert card["auc_low"] <= card["auc"] <= card["auc_high"]
    assert card["auc_words"] < 0.7, "the bag of words does not see capitals"
    assert [t["left_out"] for t in card["transfer"]] == ["m0", "m1"]
    assert all(t["auc"] > 0.9 > t["auc_words"] for t in card["transfer"])


def test_its_auc_is_of_what_a_scan_shows(quiet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once more by other means: a gauge without each fold, its own baseline, and that baseline's sigma."""
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    log, model = write_log(tmp_path / "l.jsonl", labelled(24, 1)), reader()
    card = fit_gauge([log], "late", model, baseline=[quiet]).gauges[0].evidence
    data = gather([log], "late", 2, model, Silent())
    shown, places = np.zeros(120), [data.layers.index(layer) for layer in card["layers"]]
    for fold in grouped_folds(data.group, data.positive, 0):
        rest = np.setdiff1d(np.arange(120), fold)
        weights = [fit_probe(data.means[rest, k], data.target[rest], card["penalty"]) for k in places]
        parts = tuple(
            Part(data.layers[k], (w / (data.means[rest, k] @ w).std()).astype(np.float32))
            for k, w in zip(places, weights, strict=True)
        )
        one = Gauge("late", "is late", "high", parts, "fitted")
        found = set_baseline(
            GaugeSet(model.info.id, model.info.fingerprint, model.info.d_model, (one,)), model, [quiet]
        ).gauges[0]
        assert found.baseline is not None
        raw = sum(data.means[:, k].astype(float) @ p.vector for k, p in zip(places, parts, strict=True))
        sigma = found.baseline.sigma(np.asarray(raw), data.textures)
        shown[fold] = (sigma[fold] - sigma[rest].mean()) / sigma[rest].std()
    assert card["auc"] == pytest.approx(auc(shown, data.positive), abs=1e-3)
    # An answer's place in the conversation is texture: what the probe has learnt of it, a scan does not show.
    assert card["auc"] < 0.5 < 0.6 < card["auc_probe"]


def test_it_reads_other_conversations(fitted: GaugeSet, tmp_path: Path) -> None:
    fresh = labelled(10, 2)
    gauges = load_gauges(save_gauges(fitted, tmp_path / "g"))
    scan([write_log(tmp_path / "new.jsonl", fresh)], reader(), tmp_path / "out", gauges=gauges)
    rows = {
        (r["conversation"], r["message_index"]): r
        for r in pq.read_table(tmp_path / "out" / "turns.parquet").to_pylist()
    }
    truth, chance = [], []
    for record in fresh:
        for turn in record["turn_labels"]:
            truth.append(turn["labels"]["shouting"] >= 2)
            chance.append(rows[record["id"], turn["message_index"]]["probability"])
    assert auc(np.array(chance), np.array(truth)) > 0.95
    assert np.mean(np.array(chance)[truth]) > 0.6 > 0.4 > np.mean(np.array(chance)[~np.array(truth)])


@pytest.mark.parametrize(
    ("label", "threshold", "n", "says"),
    [
        ("singing", 2, 24, "the labels are: late, shouting"),
        ("shouting", 99, 24, "0 turns have 'shouting' at 99 or more"),
        ("shouting", 2, 3, "at least"),
    ],
)
def test_labels_that_do_not_do(
    label: str, threshold: float, n: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=says):
        fit_gauge([write_log(tmp_path / "l.jsonl", labelled(n, 1))], label, reader(), threshold=threshold)


def test_logs_without_labels(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="turn_labels"):
        fit_gauge([write_log(tmp_path / "l.jsonl", [talk(3, 1)])], "x", reader())


def test_records_that_cannot_be_read_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Notes(Silent):
        def note(self, text: str) -> None:
            notes.append(text)

    notes: list[str] = []
    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    log = write_log(tmp_path / "l.jsonl", [*labelled(8, 1), {"turns": []}])
    assert len(gather([log], "shouting", 2, reader(), Notes()).texts) == 40
    assert notes == [f"1 record skipped: {log} line 9, it has no messages"]


def test_reading_again_comes_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mien.logs import LoggedConversation, read_logs
    from mien.scanning import message_means as of_messages

    monkeypatch.setenv("MIEN_CACHE", str(tmp_path / "cache"))
    (record,) = read_logs([write_log(tmp_path / "l.jsonl", labelled(1, 1))])
    assert isinstance(record, LoggedConversation)
    first, tokens = of_messages.message_means(reader(), record, [1, 3], [0, 2])
    monkeypatch.setattr(of_messages, "read_turns", None)
    again, none = of_messages.message_means(reader(), record, [1, 3], [0, 2])
    assert tokens > 0 == none
    np.testing.assert_array_equal(first, again)


def test_a_probe_is_ridge_regression_on_standardised_activations() -> None:
    rng = np.random.default_rng(0)
    h = (rng.standard_normal((80, 12)) * np.arange(1, 13) + 5).astype(np.float32)
    y = h[:, 0] + rng.standard_normal(80)
    x = (h - h.mean(0)) / h.std(0)
    weights = np.linalg.solve(x.T @ x + 30 * np.eye(12), x.T @ (y - y.mean()))
    np.testing.assert_allclose(fit_probe(h, y, 30), weights / h.std(0), atol=1e-4)


def test_grades_are_learnt_about_the_threshold() -> None:
    grades = np.array([0.0, 1, 2, 4, 10])
    np.testing.assert_allclose(target_of(grades, 2), np.log([1, 1.5, 2, 3, 6]))
    assert target_of(grades - 1, 1).tolist() == [0, 0, 1, 1, 1]
    assert target_of(grades, 0).tolist() == [1] * 5
    sides = target_of(np.array([0.0, 1.0, 1.0]), 1)
    assert sides[0] < sides[1] == sides[2]


def test_folds_keep_groups_together_and_see_nothing_of_themselves() -> None:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(12), 8)
    positive = rng.random(96) < 0.3
    folds = grouped_folds(group, positive, 0)
    assert sorted(np.concatenate(folds).tolist()) == list(range(96))
    assert all(set(group[f]).isdisjoint(group[np.setdiff1d(np.arange(96), f)]) for f in folds)
    # Labels that are noise must not be found again: each group has a mark of its own that a leak would learn.
    marks = np.eye(12, dtype=np.float32)[group] * 9
    noise = (rng.random(12) < 0.5)[group]
    assert auc(cross_fitted(marks, noise.astype(float), folds, 1.0), noise) < 0.65


def test_the_bag_of_words_learns_words() -> None:
    texts = [f"tea number {i}" if i % 2 else f"ink number {i}" for i in range(40)]
    y = np.array([bool(i % 2) for i in range(40)])
    grade = y.astype(float)
    assert auc(bag_of_words(texts, grade, np.array_split(np.arange(40), 4)), y) == 1
    assert bag_of_words(["a", "b", "c", "d"], grade[:4], [np.array([0, 1]), np.array([2, 3])]).tolist() == [0] * 4


def test_an_interval_is_wider_with_fewer_groups() -> None:
    rng = np.random.default_rng(0)
    y = rng.random(200) < 0.5
    values = y + rng.standard_normal(200)
    low, high = interval(values, y, np.arange(200), 0)
    assert low < auc(values, y) < high
    few = interval(values + np.repeat(rng.standard_normal(8), 25), y, np.repeat(np.arange(8), 25), 0)
    assert few[1] - few[0] > high - low


def test_the_stronger_penalty_wins_where_it_costs_little() -> None:
    none = np.zeros(0)
    trials = [Trial((0,), 1.0, 0.9, 0.9, none), Trial((0,), 10.0, 0.88, 0.88, none),
              Trial((0, 1), 10.0, 0.875, 0.875, none), Trial((0,), 30.0, 0.86, 0.86, none)]  # fmt: skip
    assert choose(trials) is trials[2]


def test_the_command_writes_a_file_and_says_how_good_it_is(fitted: GaugeSet) -> None:
    from mien.cli.gauge_command import text_of

    text = text_of(fitted.gauges[0], Path("g"))
    assert "bag of words" in text
    assert "without m0" in text
    assert "it beats the words" in text
    assert "of sigma, as a scan shows it, on conversations left out (1.00 before what texture explains" in text
    assert json.dumps(fitted.gauges[0].evidence)
    assert tiny.WORDS
