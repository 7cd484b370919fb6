"""The verdict's rules, one by one, at their edges; and the words that go with them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mien.card import Card, JudgeEvidence, LayerEvidence, Rollouts, Slope
from mien.verdict import judge_evidence_of, pronounce, repeatability
from sample_cards import evidence, full_card

STRONG_LAYER = {
    "auc": 0.95, "auc_low": 0.9, "auc_high": 0.99, "auc_null": 0.6, "auc_random": 0.7, "split_half_cosine": 0.9,
    "split_half_low": 0.85, "split_half_high": 0.95, "split_half_null": 0.3,
}  # fmt: skip


def layer(**changes: float) -> list[LayerEvidence]:
    return [evidence(0, 0.1), LayerEvidence(layer=1, norm=2.0, **{**STRONG_LAYER, **changes})]


def strong(**changes: Any) -> Card:
    """A card that deserves the best verdict, but for the changes."""
    known: dict[str, Any] = {
        "verdict": None, "verdict_reasons": [], "recommended_layer": 1, "layers": layer(), "coef_range": (-1.0, 2.0),
        "rollouts": Rollouts(asked=200, kept=120, dropped={"x": 80}, stopped_early=False),
        "judge": JudgeEvidence(kind="likelihood", model="m", auc=0.9),
        "dose_slope": Slope(per_coef=12, low=8, high=16, p=0.0005),
        "dose_null": Slope(per_coef=1, low=-2, high=4, p=0.5),
    }  # fmt: skip
    return full_card(**{**known, **changes})


def judge(auc: float | None) -> JudgeEvidence:
    return JudgeEvidence(kind="likelihood", model="m", auc=auc)


def slope(per_coef: float, p: float, low: float = 8) -> Slope:
    return Slope(per_coef=per_coef, low=low, high=16, p=p)


def rollouts(kept: int) -> Rollouts:
    return Rollouts(asked=200, kept=kept, dropped={}, stopped_early=False)


RULES: list[tuple[str, dict[str, Any], str]] = [
    ("strong", {}, "AUC 0.95"),
    ("weak", {"layers": layer(auc=0.699)}, "AUC 0.70"),
    ("usable", {"layers": layer(auc=0.7)}, "held-out AUC is 0.70"),
    ("weak", {"layers": layer(auc=0.8, auc_null=0.8)}, "shuffled labels reach 0.80"),
    ("usable", {"layers": layer(auc=0.899)}, "strong directions reach 0.90"),
    ("strong", {"layers": layer(auc=0.9)}, "AUC 0.90"),
    ("weak", {"layers": layer(split_half_low=0.33)}, "Two halves of the questions give different directions"),
    ("weak", {"layers": layer(split_half_low=0.6, split_half_null=0.6)}, "shuffled labels 0.60"),
    ("weak", {"layers": layer(split_half_low=-0.2, split_half_null=-0.3)}, "lower end -0.20"),
    ("usable", {"layers": layer(split_half_low=0.34)}, "lower end 0.34"),
    ("usable", {"layers": layer(split_half_low=0.66)}, "agree with it to about 0.95"),
    ("strong", {"layers": layer(split_half_low=0.67)}, "AUC 0.95"),
    ("weak", {"judge": judge(0.649)}, "barely plays this trait"),
    ("usable", {"judge": judge(0.65)}, "AUC 0.65 only"),
    ("usable", {"judge": judge(0.799)}, "AUC 0.80 only"),
    ("strong", {"judge": judge(0.8)}, "AUC 0.95"),
    ("usable", {"judge": judge(None)}, "judge tells the two sides apart is not known"),
    ("usable", {"judge": None}, "judge tells the two sides apart is not known"),
    ("weak", {"rollouts": rollouts(18)}, "Only 9 pairs of 100 could be kept"),
    ("strong", {"rollouts": rollouts(20)}, "AUC 0.95"),
    ("weak", {"dose_slope": None}, "no slope could be fitted"),
    ("weak", {"dose_slope": slope(-3, 0.001)}, "does not raise the trait score"),
    ("weak", {"dose_slope": slope(0, 0.001)}, "does not raise the trait score"),
    ("weak", {"dose_slope": slope(12, 0.05)}, "p = 0.05"),
    ("usable", {"dose_slope": slope(12, 0.049)}, "p = 0.049"),
    ("usable", {"dose_slope": slope(12, 0.01)}, "p = 0.01"),
    ("strong", {"dose_slope": slope(12, 0.0099)}, "AUC 0.95"),
    ("usable", {"dose_null": Slope(per_coef=3, low=0, high=8, p=0.1)}, "A random direction of the same length"),
    ("strong", {"dose_null": Slope(per_coef=3, low=0, high=7.9, p=0.1)}, "AUC 0.95"),
    ("strong", {"dose_null": Slope(per_coef=-3, low=-9, high=9, p=0.1)}, "AUC 0.95"),
    ("strong", {"dose_null": None}, "AUC 0.95"),
    ("usable", {"coef_range": (-1.0, 0.5)}, "lose coherence before coef 1"),
    ("strong", {"coef_range": (0.0, 1.0)}, "AUC 0.95"),
    ("usable", {"coef_range": None}, "stay coherent is not known"),
]


@pytest.mark.parametrize(("verdict", "changes", "said"), RULES)
def test_each_rule_at_its_edge(verdict: str, changes: dict[str, Any], said: str) -> None:
    card = pronounce(strong(**changes))
    assert card.verdict == verdict
    assert said in " ".join(card.verdict_reasons)
    head = {"weak": "Weak: do not rely on this direction. ", "usable": "Usable, with care. ", "strong": "Strong. "}
    assert card.verdict_reasons[0].startswith(head[verdict])
    assert all(reason.endswith((".", ").")) for reason in card.verdict_reasons)


def test_every_fault_is_told_and_gaps_are_not_told_beside_faults() -> None:
    card = pronounce(strong(judge=judge(0.6), rollouts=rollouts(4), coef_range=(0.0, 0.0), dose_slope=None))
    assert card.verdict == "weak"
    assert len(card.verdict_reasons) == 3
    assert not any("coherence" in reason for reason in card.verdict_reasons)


def test_the_verdict_looks_at_the_recommended_layer() -> None:
    poor = strong(recommended_layer=0)
    assert pronounce(poor).verdict == "weak"
    assert pronounce(strong()).verdict == "strong"


def test_pronouncing_changes_nothing_else() -> None:
    before = strong()
    after = pronounce(before)
    same = {"verdict": None, "verdict_reasons": []}
    assert after.model_copy(update=same) == before.model_copy(update=same)
    assert pronounce(after) == after


def test_repeatability_is_what_new_data_of_the_same_size_give() -> None:
    """Simulated: estimates with so much noise that two halves agree to `half`; two wholes then agree as predicted."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal(2000)

    def estimate(noise: float) -> np.ndarray:
        return truth + noise * rng.standard_normal(2000)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    for noise in (0.3, 1.0, 2.0):
        half = np.mean([cosine(estimate(noise * 2**0.5), estimate(noise * 2**0.5)) for _ in range(30)])
        whole = np.mean([cosine(estimate(noise), estimate(noise)) for _ in range(30)])
        assert repeatability(float(half)) == pytest.approx(whole, abs=0.01)
    assert repeatability(-0.5) == repeatability(0) == 0


@pytest.mark.parametrize(
    ("auc", "said"), [(0.9, "with ease"), (0.89, "with errors"), (0.75, "with errors"), (0.74, "hardly")]
)
def test_the_judges_note_says_what_its_auc_means(auc: float, said: str) -> None:
    found = judge_evidence_of("api", "m", auc, auc - 0.05, auc + 0.05)
    assert said in found.note
    assert (found.kind, found.model, found.auc) == ("api", "m", auc)
    assert (found.auc_low, found.auc_high) == (pytest.approx(auc - 0.05), pytest.approx(auc + 0.05))


def test_a_judge_whose_auc_is_not_known_has_none_and_no_nan_on_the_card() -> None:
    found = judge_evidence_of("likelihood", "m", math.nan, math.nan, math.nan)
    assert (found.auc, found.auc_low, found.auc_high) == (None, None, None)
    assert "not known" in found.note
