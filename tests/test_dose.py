"""What steering does, and how it is summed up: curves, ranges, slopes, trials, nulls and the choice of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny
from mien import dose, proof
from mien.card import Card, Dose
from mien.chat import ask
from mien.coherence import CoherenceScale
from mien.directions import Direction
from mien.dose import Answer, Arm, Lab
from mien.engines.hf import HfEngine
from mien.errors import NothingKeptError
from mien.interventions import Add
from mien.judge import Calibration, Scale
from mien.models import Model
from mien.progress import Silent
from mien.records import Reading, Rollout, Sampling, Score, ScoreRequest
from mien.spec import Neutral, load_neutral
from mien.store import RunFolder, rollout_record
from sample_cards import evidence as layer_of


def answers(curve: dict[float, Sequence[tuple[float | None, float | None]]]) -> list[Answer]:
    """Answers to question 0, 1, ... from `coef -> [(trait, coherence)]`."""
    found = []
    for coef, scores in curve.items():
        arm = Arm(f"x{coef}", None, coef)
        for q, (trait, sound) in enumerate(scores):
            rollout = Rollout(f"{coef}/{q}", ask("?"), f"{coef} {q}", (), (1,), None, "stop")
            found.append(Answer(arm, q, rollout, Score(rollout.id, trait, sound)))
    return found


def curve(**sound: float | None) -> list[Dose]:
    """Doses with a mean coherence each, keys as in `m1=-1, p05=0.5`."""
    coefs = {"m2": -2.0, "m1": -1.0, "z": 0.0, "p05": 0.5, "p1": 1.0, "p2": 2.0}
    return [
        Dose(coef=coefs[k], score=50, score_low=40, score_high=60, coherence=v, n=5) for k, v in reversed(sound.items())
    ]


def test_doses_are_means_with_intervals_and_missing_scores_are_counted_not_zero() -> None:
    found = dose.doses(
        answers({1.0: [(80, 70), (60, 90), (None, 95)], 0.0: [(20, None)] * 3, 2.0: [(None, None)] * 3}),
        np.random.default_rng(0),
    )
    assert [(d.coef, d.score, d.coherence, d.n, d.n_missing) for d in found] == [
        (0.0, 20, None, 3, 0), (1.0, 70, 85, 3, 1), (2.0, None, None, 3, 3)
    ]  # fmt: skip
    assert (found[1].score_low, found[1].score_high) == (60, 80)
    assert (found[2].score_low, found[2].coherence_low) == (None, None)


@pytest.mark.parametrize(
    ("doses", "expected"),
    [
        (curve(m2=90, m1=90, z=90, p05=90, p1=90, p2=90), (-2, 2)),
        (curve(z=90, p05=76, p1=75, p2=74.9), (0, 1)),
        (curve(z=60, p05=51, p1=50, p2=49.9), (0, 1)),
        (curve(z=90, p05=20, p1=90, p2=90), (0, 0)),
        (curve(m2=90, m1=None, z=90, p05=None), (0, 0)),
        (curve(z=40, p05=45, p1=55), (0, 0)),
        (curve(z=None, p1=90), None),
        (curve(p1=90), None),
    ],
)
def test_the_coherent_range_goes_out_from_zero_without_a_gap(
    doses: list[Dose], expected: tuple[float, float] | None
) -> None:
    assert dose.coherent_range(doses) == expected


def test_the_slope_is_taken_over_the_coherent_range() -> None:
    rising = {c: [(20 + 10 * c + q, 90.0) for q in range(6)] for c in (-1.0, 0.0, 1.0, 2.0)}
    broken = {3.0: [(0.0, 5.0)] * 6}
    rng = np.random.default_rng(0)
    inside = dose.dose_slope(answers({**rising, **broken}), (-1.0, 2.0), rng)
    assert inside is not None
    assert (inside.per_coef, inside.low, inside.high) == (10, 10, 10)
    assert inside.p < 0.01
    whole = dose.dose_slope(answers({**rising, **broken}), None, rng)
    assert whole is not None
    assert whole.per_coef < 0  # from 0 up, the collapse included
    assert dose.dose_slope(answers({0.0: [(5, 5)] * 9}), None, rng) is None
    assert dose.dose_slope(answers({0.0: [(None, 5)] * 9, 1.0: [(None, 5)] * 9}), None, rng) is None
    assert dose.dose_slope([], None, rng) is None


def test_examples_are_spread_evenly_and_only_where_both_answers_are() -> None:
    both = answers({0.0: [(10, 90)] * 10, 2.0: [(70.26, 90)] * 9 + [(None, 90)]})
    questions = [f"Q{i}?" for i in range(10)]
    found = dose.examples(both, questions, 2.0)
    assert [e.question for e in found] == ["Q0?", "Q3?", "Q6?", "Q9?"]
    assert [(e.plain, e.steered) for e in found][1] == ("0.0 3", "2.0 3")
    assert [e.steered_score for e in found] == [70.3, 70.3, 70.3, None]
    assert [e.question for e in dose.examples(both[:1] + both[10:], questions, 2.0)] == ["Q0?"]
    assert dose.examples(both, questions, 7.0) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I\u2019m sorry, but I can\u2019t help with that.", True),
        ("Sure! Here is how.", False),
        ("", False),
        ("x" * 200 + " I'm sorry, but I can't help with that.", False),
    ],
)
def test_refusals_are_told_by_how_an_answer_begins(text: str, expected: bool) -> None:
    assert dose.refused(text, load_neutral().refusals) is expected


def test_seeds_differ_by_run_and_by_answer_and_fit_a_generator() -> None:
    seeds = {dose.seed_of(run, f"plain/{i}/0") for run in range(20) for i in range(50)}
    assert len(seeds) == 1000
    assert max(seeds) < 2**63
    assert dose.seed_of(3, "a") == dose.seed_of(3, "a")


# On a model


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.tiny_model(tiny.taught_net(), "taught")


@pytest.fixture(scope="module")
def direction(model: Model) -> Direction:
    """Some direction: noise of half the stream's size."""
    info = model.info
    card = Card(
        kind="derived", name="d", description="d", sign="d", model=info.id, fingerprint=info.fingerprint, n_layers=4,
        d_model=48, recommended_layer=1,
    )  # fmt: skip
    return Direction(torch.randn(4, 48, generator=torch.Generator().manual_seed(0)), card)


class ByLength:
    """A judge of how long answers are."""

    kind = "api"
    model = "ruler"

    def followed(self, rollouts: Sequence[Rollout], written_under: Sequence[int]) -> list[Score]:
        raise AssertionError("trials do not ask this")

    def measure(self, rollouts: Sequence[Rollout], written_under: Sequence[int | None], steered: bool) -> list[Score]:
        assert steered
        return [Score(r.id, min(4.0 * len(r.text), 100), 80.0 if len(r.text) < 20 else 10.0) for r in rollouts]


def lab(model: Model, run: RunFolder, seed: int = 0) -> Lab:
    scale = Scale(Calibration(0, 0), CoherenceScale(0, 0))
    return Lab(HfEngine(model), ByLength(), scale, Sampling(24, 0.7), seed, run, Silent())  # type: ignore[arg-type]


def test_all_arms_of_a_question_have_the_same_luck(model: Model, direction: Direction, tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}) as run:
        arms = [Arm("plain"), Arm("also plain", direction, 0.0), Arm("x3", direction, 3.0, 2)]
        plain, same, steered = lab(model, run).write("s", arms, tiny.QUESTIONS, Sampling(24, 1.0))
    assert [r.text for r in plain] == [r.text for r in same]
    assert [r.text for r in plain] != [r.text for r in steered]
    assert len({r.text for r in plain}) > 5
    assert steered[3].id == "s/x3/3"


def test_layer_trials_reward_coherent_gain_alone(model: Model, direction: Direction, tmp_path: Path) -> None:
    with RunFolder(tmp_path, {}) as run:
        rows = dose.trial_layers(lab(model, run), direction, [1, 3], (1.0, 2.0), tiny.QUESTIONS[:4])
        written = {r["id"]: r for r in run.stage("layer-trials").records}
    plain = [written[f"layer-trials/plain/{q}"]["text"] for q in range(4)]

    def score(texts: list[str]) -> tuple[float, float]:
        return (float(np.mean([min(4.0 * len(t), 100) for t in texts])),
                float(np.mean([80.0 if len(t) < 20 else 10.0 for t in texts])))  # fmt: skip

    base, sound = score(plain)
    for row, k in zip(rows, (1, 3), strict=True):
        tried = [(score([written[f"layer-trials/layer{k}x{c}/{q}"]["text"] for q in range(4)]), c) for c in (1, 2)]
        good = [(s - base, c) for (s, coherence), c in tried if coherence >= sound - 20]
        assert row["layer"] == k
        assert (row["gain"], row["at_coef"]) == pytest.approx(max(good) if good else (0, 0), abs=0.01)


def test_a_random_direction_has_the_same_lengths_and_another_way(direction: Direction) -> None:
    found = dose.random_like(direction, 5)
    assert found.norms() == pytest.approx(direction.norms(), rel=1e-5)
    assert abs(found.cosine(direction, 1)) < 0.6
    assert torch.equal(found.vector, dose.random_like(direction, 5).vector)
    assert not torch.equal(found.vector, dose.random_like(direction, 6).vector)
    assert found.layer == direction.layer
    zero = replace(direction, vector=torch.cat([torch.zeros(1, 48), direction.vector[1:]]))
    assert not dose.random_like(zero, 5).vector[0].any()


def test_kl_is_that_of_two_whole_passes(model: Model, direction: Direction) -> None:
    engine = HfEngine(model)
    ids = [model.chat.response_ids(t) for t in ("tea owl", "SUN", "")]
    plain = [Rollout(str(i), ask("What now?"), "", (), r, None, "stop") for i, r in enumerate(ids)]
    prompt = model.chat.prompt_ids(ask("What now?"))
    terms: list[float] = []
    for answer in ids[:2]:
        whole = torch.tensor([prompt + answer])
        rows = []
        for steer in (False, True):
            with torch.no_grad():
                if steer:
                    from mien.interventions import steered

                    with steered(model, Add(direction, at=1, coef=0.5)):
                        rows.append(model.net(input_ids=whole).logits[0].log_softmax(-1))
                else:
                    rows.append(model.net(input_ids=whole).logits[0].log_softmax(-1))
        for place, token in enumerate(answer, len(prompt)):
            terms.append(float(rows[0][place - 1, token] - rows[1][place - 1, token]))
    assert dose.kl_per_token(engine, plain, direction, 1, 0.5) == pytest.approx(np.mean(terms), abs=2e-5)
    assert dose.kl_per_token(engine, plain, direction, 1, 0.0) == 0
    assert dose.kl_per_token(engine, plain[2:], direction, 1, 1.0) is None


def test_side_effects_are_measured_at_each_coef_and_plain(model: Model, direction: Direction, tmp_path: Path) -> None:
    neutral = Neutral(("tea owl fig", "sun map"), ("Kind?", "Good?"), ("Bad?",), ("tea",))
    with RunFolder(tmp_path, {}) as run:
        found = dose.side_effects(lab(model, run), direction, 2, [1.0, 4.0], neutral)
        texts = {r["id"]: r["text"] for r in run.stage("refusals").records}
    assert [e.coef for e in found] == [0.0, 1.0, 4.0]
    assert found[0].neutral_logprob == 0
    requests = [ScoreRequest((), text) for text in neutral.texts]
    engine = HfEngine(model)
    plain = np.concatenate(engine.logprobs(requests)).mean()
    pushed = np.concatenate(engine.logprobs(requests, [Add(direction, at=2, coef=4.0)])).mean()
    assert found[2].neutral_logprob == pytest.approx(pushed - plain, abs=1e-4)
    for effect, label in zip(found, ("plain", "x1", "x4"), strict=True):
        said = ["tea" in texts[f"refusals/{label}/{i}"].lower() for i in range(3)]
        assert effect.refusal_harmless == pytest.approx(np.mean(said[:2]))
        assert effect.refusal_harmful == said[2]


# The choice of a layer, the baseline


def test_candidates_are_spread_over_the_inner_layers_that_read_well() -> None:
    layers = [layer_of(k).model_copy(update={"auc": 0.9}) for k in range(30)]
    assert proof.candidate_layers(layers) == [6, 12, 19, 25]
    layers[17] = layers[17].model_copy(update={"auc": 0.96})
    layers[0] = layers[0].model_copy(update={"auc": 1.0})
    assert proof.candidate_layers(layers) == [17]
    layers[20] = layers[20].model_copy(update={"auc": 0.911})
    assert proof.candidate_layers(layers) == [17, 20]
    assert proof.candidate_layers(layers[:1]) == [0]
    assert proof.candidate_layers(layers[:2])


def test_the_layer_that_steers_best_is_chosen_and_without_any_the_one_that_reads_best() -> None:
    layers = [layer_of(k).model_copy(update={"auc": 0.7 + 0.01 * k}) for k in range(8)]
    trials = [{"layer": k, "gain": g, "at_coef": 1.0, "coherence": 80.0} for k, g in ((2, 5.0), (4, 12.0), (6, 3.0))]
    layer, reason = proof.choose_layer(trials, layers)
    assert layer == 4
    assert "Layers 2, 4, 6 were tried" in reason
    assert "+12 points at coef 1" in reason
    flat = [{**t, "gain": min(t["gain"] - 12, 0.0)} for t in trials]
    layer, reason = proof.choose_layer(flat, layers)
    assert layer == 6
    assert "at none of the layers tried (2, 4, 6)" in reason


def test_the_baseline_is_mean_spread_and_quantiles_of_plain_answers() -> None:
    values = np.random.default_rng(0).normal(3, 2, 500)
    found = proof.baseline(values)
    assert found is not None
    assert found.n == 500
    assert found.mean == pytest.approx(values.mean(), abs=1e-4)
    assert found.std == pytest.approx(np.std(values, ddof=1), abs=1e-4)
    assert found.quantiles["25"] == pytest.approx(np.percentile(values, 25), abs=1e-4)
    assert proof.baseline(values[:1]) is None


def test_plain_projections_leave_empty_answers_out(direction: Direction, tmp_path: Path) -> None:
    rollouts = [Rollout(f"plain/{i}/0", ask("?"), "", (), (1,) * i, None, "stop") for i in range(3)]
    means = np.random.default_rng(0).standard_normal((3, 4, 48)).astype(np.float32)
    with RunFolder(tmp_path, {}) as run:
        records = [{**rollout_record(r), "row": i} for i, r in enumerate(rollouts)]
        run.stage("plain").append(records, {r.id: Reading(r.id, means[i], i) for i, r in enumerate(rollouts)})
        found = proof.plain_projections(run, rollouts, direction)
        expected = [[float(means[i, k] @ direction.unit(k).numpy()) for k in range(4)] for i in (1, 2)]
        assert found == pytest.approx(np.array(expected), abs=1e-4)
        with pytest.raises(NothingKeptError, match="no baseline"):
            proof.plain_projections(run, rollouts[:1], direction)


def test_confounds_are_aucs_of_length_refusal_and_likelihood() -> None:
    texts = ["I'm sorry, I can't help with that.", "Yes.", "Yes.", "Yes."]
    rollouts = [Rollout(str(i), ask("?"), t, (), (1,) * (i + 1), -float(i), "stop") for i, t in enumerate(texts)]
    found = {c.name: c.auc for c in proof.confounds(rollouts, [True, False, False, True])}
    assert found == {"answer length": 0.5, "refusal": 0.75, "model's own log-probability": 0.5}
