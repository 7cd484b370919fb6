"""Strong, usable or weak: what the card's numbers add up to, in words. Does not know how they were measured."""

from __future__ import annotations

import math
from typing import Literal

from mien.card import Card, JudgeEvidence, LayerEvidence, Verdict


def judge_evidence_of(
    kind: Literal["likelihood", "api"], model: str, auc: float, low: float, high: float
) -> JudgeEvidence:
    """The judge's part of the card, with what its AUC means; an AUC that is nan is not known."""
    if math.isnan(auc):
        return JudgeEvidence(kind=kind, model=model, auc=None, note="How well the judge judges is not known.")
    if auc >= 0.9:
        note = "The judge tells the two sides apart with ease: the model plays the trait."
    elif auc >= 0.75:
        note = "The judge tells the two sides apart, with errors."
    else:
        note = (
            "The judge hardly tells the two sides apart: the model barely plays this trait, or the judge cannot see it."
        )
    return JudgeEvidence(
        kind=kind, model=model, auc=round(auc, 4), auc_low=round(low, 4), auc_high=round(high, 4), note=note
    )


def repeatability(half: float) -> float:
    """Cosine to expect between this direction and one from as many new questions, from the cosine `half` of two halves.

    Spearman-Brown: halving the data halves the signal-to-noise ratio, so two halves agree less than two wholes would.
    """
    return 2 * half / (1 + half) if half > 0 else 0.0


def pronounce(card: Card) -> Card:
    """The card with its verdict and reasons.

    Weak, if any holds: held-out AUC not above the shuffled-label null or under 0.7; split-half cosine's lower end not
    above its null, or repeatability there under 0.5; judge AUC under 0.65; fewer than 10 pairs kept; steering does not
    raise the trait score (slope not above 0 at p < 0.05). Strong, if all hold: AUC at least 0.9, repeatability at the
    lower end at least 0.8, judge AUC at least 0.8, slope above 0 at p < 0.01 and above a random direction's, coherent
    at coef 1. Usable otherwise.
    """
    assert card.recommended_layer is not None
    at = card.layers[card.recommended_layer]
    faults = _faults(card, at)
    gaps = [] if faults else _gaps(card, at)
    verdict: Verdict = "weak" if faults else "usable" if gaps else "strong"
    headline = {
        "weak": "Weak: do not rely on this direction. ",
        "usable": "Usable, with care. ",
        "strong": "Strong. ",
    }[verdict]
    reasons = faults or gaps or [
        f"It tells the trait on unused questions (AUC {at.auc:.2f}), halves of the data agree (cosine "
        f"{at.split_half_cosine:.2f}), and steering with it raises the trait score."
    ]  # fmt: skip
    return card.model_copy(update={"verdict": verdict, "verdict_reasons": [headline + reasons[0], *reasons[1:]]})


def _faults(card: Card, at: LayerEvidence) -> list[str]:
    found = []
    if card.judge and card.judge.auc is not None and card.judge.auc < 0.65:
        found.append(
            f"The model barely plays this trait: the judge tells positive from negative answers with AUC "
            f"{card.judge.auc:.2f} only (0.5 is chance)."
        )
    if card.rollouts and card.rollouts.kept < 20:
        found.append(f"Only {card.rollouts.kept // 2} pairs of {card.rollouts.asked // 2} could be kept.")
    if at.auc < 0.7 or at.auc <= at.auc_null:
        found.append(
            f"On unused questions it tells positive from negative answers with AUC {at.auc:.2f}; directions made from "
            f"shuffled labels reach {at.auc_null:.2f}."
        )
    if repeatability(at.split_half_low) < 0.5 or at.split_half_low <= at.split_half_null:
        found.append(
            f"Two halves of the questions give different directions (cosine {at.split_half_cosine:.2f}, lower end "
            f"{at.split_half_low:.2f}, shuffled labels {at.split_half_null:.2f})."
        )
    slope = card.dose_slope
    if slope is None or slope.per_coef <= 0 or slope.p >= 0.05:
        how = f"slope {slope.per_coef:+.1f} points a coef, p = {slope.p:.2g}" if slope else "no slope could be fitted"
        found.append(f"Steering with it does not raise the trait score on eval questions ({how}).")
    return found


def _gaps(card: Card, at: LayerEvidence) -> list[str]:
    found = []
    if at.auc < 0.9:
        found.append(f"Its held-out AUC is {at.auc:.2f}; strong directions reach 0.90.")
    if repeatability(at.split_half_low) < 0.8:
        found.append(
            f"Halves of the data agree to a cosine of {at.split_half_cosine:.2f} (lower end {at.split_half_low:.2f}), "
            f"so new data of the same size would agree with it to about {repeatability(at.split_half_cosine):.2f}."
        )
    if card.judge is None or card.judge.auc is None:
        found.append("How well the judge tells the two sides apart is not known.")
    elif card.judge.auc < 0.8:
        found.append(f"The judge tells the two sides apart with AUC {card.judge.auc:.2f} only.")
    if card.coef_range is None:
        found.append("Up to which coef answers stay coherent is not known.")
    elif card.coef_range[1] < 1:
        found.append("Answers lose coherence before coef 1.")
    slope, null = card.dose_slope, card.dose_null
    if slope and slope.p >= 0.01:
        found.append(f"The dose-response slope has p = {slope.p:.2g}.")
    if slope and null and null.per_coef > 0 and null.high >= slope.low:
        found.append(
            f"A random direction of the same length also raises the score ({null.per_coef:+.1f} against "
            f"{slope.per_coef:+.1f} points a coef)."
        )
    return found
