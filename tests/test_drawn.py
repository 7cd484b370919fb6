"""The figures of the validation pages: intervals by drawing, goals, and where a baseline is ahead."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture(scope="module")
def drawn() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "validation" / "drawn.py"
    spec = importlib.util.spec_from_file_location("drawn_for_pages", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_an_interval_of_a_mean_is_that_of_the_textbook(drawn: ModuleType) -> None:
    values = np.random.default_rng(1).standard_normal(400)
    low, high = drawn.drawn(lambda c: float(values[c].mean()), np.arange(400))
    assert low == pytest.approx(values.mean() - 1.96 * 0.05, abs=0.02)
    assert high == pytest.approx(values.mean() + 1.96 * 0.05, abs=0.02)


def test_groups_are_drawn_whole(drawn: ModuleType) -> None:
    """Answers of a conversation that say all the same are one observation, however many they are."""
    offsets = np.random.default_rng(2).standard_normal(30)
    values, group = np.repeat(offsets, 50), np.repeat(np.arange(30), 50)
    low, high = drawn.drawn(lambda c: float(values[c].mean()), group)
    assert high - low > 0.5
    assert np.ptp(drawn.drawn(lambda c: float(values[c].mean()), np.arange(1500))) < 0.2


def test_strata_keep_their_sizes(drawn: ModuleType) -> None:
    side = np.array([0] * 3 + [1] * 40)
    seen = set()
    drawn.drawn(lambda c: float(seen.add(int((side[c] == 0).sum())) or 0.0), np.arange(43), side.tolist())
    assert seen == {3}


def test_a_rank_correlation_where_nothing_varies_is_a_dash(drawn: ModuleType) -> None:
    a, flat = np.arange(20.0), np.ones(20)
    assert drawn.told(drawn.rank_correlation(a, flat), np.arange(20)) == "-"
    assert drawn.told(drawn.rank_correlation(a, a**3), np.arange(20)) == "+1.00 (+1.00 to +1.00)"


def test_goals_go_by_the_figures_that_are_shown(drawn: ModuleType) -> None:
    assert drawn.met(0.846, 0.85) == ("0.85", "met")
    assert drawn.met(0.844, 0.85) == ("0.85", "missed by 0.01")
    assert drawn.met(0.9, None) == ("", "")


def test_every_row_in_which_a_baseline_is_ahead_is_named(drawn: ModuleType) -> None:
    rows = [
        drawn.Compared("a", 0.8, {"words": 0.84, "length": 0.5}), drawn.Compared("b", 0.704, {"words": 0.696}),
        drawn.Compared("c", 0.7, {"words": 0.75}),
    ]  # fmt: skip
    assert drawn.ahead(rows) == (
        "Ahead of the gauge: words, in 2 of 3 rows: a (0.84 to 0.80); c (0.75 to 0.70).\nNowhere ahead of it: length."
    )
    assert drawn.ahead([]) == ""
