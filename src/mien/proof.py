"""The proof on the card: what the kept readings show, which layer to use, what steering does. One part a function.

This file does not know how rollouts were written or kept, nor the verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from mien import dose, evidence
from mien.card import Baseline, Confound, JudgeEvidence, LayerEvidence
from mien.directions import Direction, load_direction
from mien.dose import Arm, Lab
from mien.errors import MienError, NothingKeptError
from mien.home import kept_directions
from mien.records import Engine, Judge, Rollout, Score
from mien.rollouts import readings_of
from mien.spec import load_neutral
from mien.store import RunFolder
from mien.verdict import judge_evidence_of


def layer_evidence(data: evidence.Readings, direction: Direction, seed: int) -> list[LayerEvidence]:
    """Held-out AUC, split-half cosine and their nulls at every layer."""
    rng = np.random.default_rng(seed)
    parts = evidence.folds(data.questions, 5, rng)
    projections = evidence.held_out_projections(data, parts)
    cosine = evidence.split_half(data, rng)
    null_cosine = np.concatenate([evidence.split_half(data, rng, 4, evidence.shuffled(data, rng)) for _ in range(20)])
    null = np.nanquantile(evidence.null_aucs(data, parts, rng), 0.95, axis=0)
    random = np.quantile(evidence.random_aucs(data, rng), 0.95, axis=0)
    found = []
    for k, norm in enumerate(direction.norms().tolist()):
        low, high = evidence.bootstrap_auc(projections[:, k], data, rng)
        values = {
            "norm": norm, "auc": evidence.auc(projections[:, k], data.positive), "auc_low": low, "auc_high": high,
            "auc_null": float(null[k]), "auc_random": float(random[k]),
            "split_half_cosine": float(cosine[:, k].mean()),
            "split_half_low": float(np.quantile(cosine[:, k], 0.025)),
            "split_half_high": float(np.quantile(cosine[:, k], 0.975)),
            "split_half_null": float(np.quantile(null_cosine[:, k], 0.95)),
        }  # fmt: skip
        # What cannot be measured, as with one question alone, is put as what knows nothing.
        known = {name: v if np.isfinite(v) else 0.5 if name.startswith("auc") else 0.0 for name, v in values.items()}
        found.append(LayerEvidence(layer=k, **{name: round(v, 4) for name, v in known.items()}))
    return found


def candidate_layers(layers: Sequence[LayerEvidence], count: int = 4) -> list[int]:
    """Up to `count` layers spread evenly over those between a fifth and six sevenths of the depth whose held-out AUC is
    within 0.05 of the best there.
    """
    n = len(layers)
    inner = [e for e in layers if n // 5 <= e.layer <= (6 * n) // 7] or list(layers)
    best = max(e.auc for e in inner)
    good = [e.layer for e in inner if e.auc >= best - 0.05]
    return sorted({good[round(i * (len(good) - 1) / max(count - 1, 1))] for i in range(count)})


def choose_layer(trials: Sequence[dict[str, float]], layers: Sequence[LayerEvidence]) -> tuple[int, str]:
    """The layer at which steering raised the trait score most; without any rise, the one with the best held-out AUC."""
    best = max(trials, key=lambda t: (t["gain"], layers[int(t["layer"])].auc))
    tried = ", ".join(str(int(t["layer"])) for t in trials)
    if best["gain"] > 0:
        return int(best["layer"]), (
            f"Layers {tried} were tried by steering on extract questions; at layer {int(best['layer'])} the trait "
            f"score rose most ({best['gain']:+.0f} points at coef {best['at_coef']:g}, answers still coherent)."
        )
    top = max((layers[int(t["layer"])] for t in trials), key=lambda e: e.auc)
    return top.layer, (
        f"Steering raised the trait score coherently at none of the layers tried ({tried}); layer {top.layer} has the "
        f"best held-out AUC of them."
    )


def prove(
    lab: Lab, direction: Direction, questions: Sequence[str], coefs: Sequence[float], null_coefs: Sequence[float],
    requests: int, plain: Sequence[Rollout],
) -> dict[str, object]:  # fmt: skip
    """What steering does, on eval questions: the card's fields about doses, strength, side effects and examples."""
    rng = np.random.default_rng(lab.seed)
    layer = direction.layer
    arms = [Arm("plain"), *(Arm(f"x{c:g}", direction, c, layer) for c in coefs)]
    noise = dose.random_like(direction, lab.seed)
    null_arms = [Arm(f"random-x{c:g}", noise, c, layer) for c in null_coefs]
    every = lab.judged("dose", [*arms, *null_arms], questions)
    answers = [a for a in every if not a.arm.label.startswith("random")]
    null_answers = [a for a in every if a.arm.coef == 0 or a.arm.label.startswith("random")]
    curve = dose.doses(answers, rng)
    within = dose.coherent_range(curve)
    top = max((c for c in coefs if within and 0 < c <= within[1]), default=1.0)
    lab.progress.begin("side effects", 1)
    neutral = load_neutral()
    half = requests // 2
    neutral = replace(
        neutral,
        harmless_requests=neutral.harmless_requests[:requests],
        harmful_requests=neutral.harmful_requests[:half],
    )
    effects = dose.side_effects(lab, direction, layer, sorted({1.0, top}), neutral)
    return {
        "dose_response": curve,
        "coef_range": within,
        "dose_slope": dose.dose_slope(answers, within, rng),
        "dose_null": dose.dose_slope(null_answers, None, rng),
        "kl_per_token": dose.kl_per_token(lab.engine, plain, direction, layer, 1.0),
        "side_effects": effects,
        "examples": dose.examples(answers, questions, top),
    }


def judge_evidence(
    judge: Judge, measured: Sequence[Score], scored: Sequence[float | None], positive: Sequence[bool],
    question: Sequence[int], seed: int,
) -> JudgeEvidence:  # fmt: skip
    """How well the judge's trait scores tell the two sides apart; missing ones are left out.

    Args:
        judge: who scored.
        measured: its scores, for the remarks on them.
        scored: their trait part, 0-100, each from a calibration that its own question had no part in.
        positive: the side that each answer was written on.
        question: which question each answers.
        seed: of the interval's draws.
    """
    known = [i for i, score in enumerate(scored) if score is not None]
    scores = np.array([scored[i] for i in known], dtype=np.float64)
    sides = np.array([positive[i] for i in known], dtype=bool)
    groups = evidence.Readings(
        np.zeros((len(known), 1, 1), np.float32), sides, np.array([question[i] for i in known], dtype=np.int64)
    )
    low, high = evidence.bootstrap_auc(scores, groups, np.random.default_rng(seed))
    found = judge_evidence_of(judge.kind, judge.model, evidence.auc(scores, sides), low, high)
    remarks = Counter(m.remark for m in measured if m.remark)
    notes = [f"{count} of {len(measured)} scores are {remark}." for remark, count in sorted(remarks.items())]
    return found.model_copy(update={"note": " ".join([found.note, *notes])})


def confounds(rollouts: Sequence[Rollout], positive: Sequence[bool]) -> list[Confound]:
    """How well length and refusal alone tell kept positives from kept negatives."""
    sides = np.array(positive)
    phrases = load_neutral().refusals
    features = {
        "answer length": [float(len(r.response_ids)) for r in rollouts],
        "refusal": [float(dose.refused(r.text, phrases)) for r in rollouts],
        "model's own log-probability": [r.logprob or 0.0 for r in rollouts],
    }
    return [Confound(name=n, auc=round(evidence.auc(np.array(v), sides), 4)) for n, v in features.items()]


def cosines(direction: Direction, layer: int, engine: Engine) -> dict[str, float]:
    """Cosine with every other direction kept for this model, at `layer`; those that cannot be compared are left out."""
    found = {}
    for name, folder in kept_directions(engine.info.id).items():
        if name == direction.card.name:
            continue
        try:
            found[name] = round(float(direction.cosine(load_direction(folder), layer)), 4)
        except MienError:
            # Corrupt, of another model, or without this layer: another's fault must not cost this run its card.
            continue
    return found


def plain_projections(
    run: RunFolder, plain: Sequence[Rollout], direction: Direction, stage: str = "plain"
) -> np.ndarray:
    """`[n, l]` raw projections of the plain answers that are not empty.

    Raises:
        NothingKeptError: all are empty.
    """
    readings = [r for r in readings_of(run.stage(stage), plain) if r.n_tokens]
    if not readings:
        raise NothingKeptError("All answers without a system prompt are empty, so there is no baseline to measure.")
    units = np.stack([direction.unit(k).numpy() for k in range(len(direction.vector))])
    projections: np.ndarray = np.einsum("nld,ld->nl", np.stack([r.mean for r in readings]), units)
    return projections


def quantiles(projections: np.ndarray) -> torch.Tensor:
    """`[l, 21]` float32: every twentieth quantile of plain answers' projections `[n, l]`."""
    return torch.from_numpy(np.ascontiguousarray(np.quantile(projections, np.linspace(0, 1, 21), axis=0).T)).float()


def baseline(projections: np.ndarray) -> Baseline | None:
    """Mean, spread and quantiles of plain answers' projections `[n]` at one layer; None where there is no spread."""
    if len(projections) < 2:
        return None
    marks = (1, 5, 25, 50, 75, 95, 99)
    return Baseline(
        mean=round(float(projections.mean()), 4),
        std=round(float(projections.std(ddof=1)), 4),
        quantiles={str(m): round(float(np.percentile(projections, m)), 4) for m in marks},
        n=len(projections),
    )
