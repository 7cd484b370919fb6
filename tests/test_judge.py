"""The likelihood judge against a naive one that runs every text whole, its calibration, and the coherence scale."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import tiny
from mien import evidence
from mien.chat import ask
from mien.coherence import CoherenceScale, fit_coherence, repetition
from mien.engines.hf import HfEngine
from mien.judge import Calibration, LikelihoodJudge, Scale, calibrate, cross_calibrated, measure_stage, under
from mien.models import Model, wrap
from mien.progress import Silent
from mien.records import Rollout, Sampling, Score, ScoreRequest, WriteRequest
from mien.spec import TraitSpec
from mien.store import Stage


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.tiny_model(tiny.taught_net(), "taught")


@pytest.fixture(scope="module")
def engine(model: Model) -> HfEngine:
    return HfEngine(model)


@pytest.fixture(scope="module")
def written(engine: HfEngine) -> list[tuple[Rollout, int, bool]]:
    """Answers under every instruction, `(rollout, pair, positive)`."""
    spec, requests, asked = tiny.spec(), [], []
    for p, pair in enumerate(spec.instructions):
        for positive in (True, False):
            for q, question in enumerate(spec.extract_questions[:5]):
                requests.append(WriteRequest(f"{p}/{positive}/{q}", ask(question, (pair.neg, pair.pos)[positive]), q))
                asked.append((p, positive))
    found = {r.id: r for batch in engine.write(requests, Sampling(max_tokens=20), read=False) for r, _ in batch}
    return [(found[r.id], *how) for r, how in zip(requests, asked, strict=True)]


def naive(model: Model, spec: TraitSpec, rollout: Rollout, pairs: list[int], ids: tuple[int, ...]) -> float:
    """`s(x, y)` word for word: one whole forward pass for every context, without padding, cache or batch."""
    total = 0.0
    for p in pairs:
        for sign, instruction in ((1, spec.instructions[p].pos), (-1, spec.instructions[p].neg)):
            question = rollout.conversation[-1].content
            prompt = model.chat.prompt_ids(ask(question, instruction))
            with torch.no_grad():
                logits = model.net(input_ids=torch.tensor([prompt + ids])).logits[0].double()
            logprobs = logits.log_softmax(-1)
            places = range(len(prompt), len(prompt) + len(ids))
            total += sign * sum(float(logprobs[i - 1, (prompt + ids)[i]]) for i in places) / len(ids)
    return total / len(pairs)


def test_s_is_that_of_the_naive_judge(model: Model, engine: HfEngine, written: list[tuple[Rollout, int, bool]]) -> None:
    spec = tiny.spec()
    judge = LikelihoodJudge(engine, engine, spec, pairs=2, max_tokens=6)
    found = judge.raw([r for r, *_ in written], [p for _, p, _ in written])
    for (rollout, own, _), raw in zip(written, found, strict=True):
        others = [p for p in range(3) if p != own]
        assert raw == pytest.approx(naive(model, spec, rollout, others, rollout.response_ids[:6]), abs=2e-5)
    assert len({round(raw or 0, 4) for raw in found}) > 10


def test_the_judge_tells_loud_answers_from_quiet_ones(
    engine: HfEngine, written: list[tuple[Rollout, int, bool]]
) -> None:
    judge = LikelihoodJudge(engine, engine, tiny.spec())
    clear = [(r, p) for r, p, _ in written if r.text.isupper() or r.text.islower()]
    raw = judge.raw([r for r, _ in clear], [p for _, p in clear])
    loud = np.array([r.text.isupper() for r, _ in clear])
    assert 5 < loud.sum() < len(loud) - 5
    assert evidence.auc(np.array(raw), loud) > 0.95


@dataclass
class Listening:
    """An engine that keeps what it was asked and passes it on."""

    engine: HfEngine
    heard: list[ScoreRequest] = field(default_factory=list)

    @property
    def info(self) -> object:
        return self.engine.info

    def logprobs(self, requests: list[ScoreRequest], interventions: tuple[()] = ()) -> list[np.ndarray]:
        self.heard += requests
        return self.engine.logprobs(requests, interventions)


@pytest.mark.parametrize("pairs", [1, 2, 5])
def test_an_answer_is_never_judged_by_its_own_pair(
    engine: HfEngine, written: list[tuple[Rollout, int, bool]], pairs: int
) -> None:
    listening, spec = Listening(engine), tiny.spec()
    judge = LikelihoodJudge(listening, engine, spec, pairs=pairs)  # type: ignore[arg-type]
    for rollout, own, _ in written:
        listening.heard.clear()
        judge.raw([rollout], [own])
        told = {request.conversation[0].content for request in listening.heard}
        mine = spec.instructions[own]
        assert not told & {mine.pos, mine.neg}
        assert len(listening.heard) == len(told) == 2 * min(pairs, 2)
        assert {r.conversation[1:] for r in listening.heard} == {rollout.conversation[1:]}


def test_the_system_prompt_it_was_written_under_is_replaced() -> None:
    with_system, without = ask("Q?", "be loud"), ask("Q?")
    assert under("hush", with_system) == under("hush", without) == ask("Q?", "hush")


def sparse_tokenizer() -> PreTrainedTokenizerFast:
    """The tiny model's letters under other numbers, in the reverse order."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate([*tiny.SPECIAL, *letters])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = tiny.TEMPLATE
    return made


def test_a_judge_that_is_not_the_writer_reads_the_text_with_its_own_tokens(
    engine: HfEngine, written: list[tuple[Rollout, int, bool]]
) -> None:
    other = wrap(tiny.tiny_net(7), sparse_tokenizer(), "other")
    judge = LikelihoodJudge(HfEngine(other), engine, tiny.spec(), max_tokens=6)
    assert judge.model == "other"
    for rollout, own, _ in written[::5]:
        ids = other.chat.response_ids(rollout.text)
        assert ids != rollout.response_ids
        expected = naive(other, tiny.spec(), rollout, [p for p in range(3) if p != own], ids[:6])
        assert judge.raw([rollout], [own]) == [pytest.approx(expected, abs=2e-5)]


def test_the_writer_as_judge_uses_the_ids_as_they_were_written(model: Model, engine: HfEngine) -> None:
    ids = (*model.chat.response_ids("tea"), 2, *model.chat.response_ids("owl"))
    odd = Rollout("x", ask("Q?"), "teaowl", (), ids, None, "length")
    judge = LikelihoodJudge(engine, engine, tiny.spec())
    assert judge.raw([odd], [0]) == [pytest.approx(naive(model, tiny.spec(), odd, [1, 2], ids), abs=2e-5)]


def test_whether_an_answer_followed_is_judged_by_its_own_pair(
    model: Model, engine: HfEngine, written: list[tuple[Rollout, int, bool]]
) -> None:
    """The writer's own log-probability is taken from writing; another judge works out both sides itself."""
    spec, other = tiny.spec(), wrap(tiny.tiny_net(7), sparse_tokenizer(), "other")
    judges = [(LikelihoodJudge(engine, engine, spec), model), (LikelihoodJudge(HfEngine(other), engine, spec), other)]
    rollouts, pairs = [r for r, *_ in written], [p for _, p, _ in written]
    for judge, reader in judges:
        for score, (rollout, own, _) in zip(judge.followed(rollouts, pairs), written, strict=True):
            ids = rollout.response_ids if reader is model else reader.chat.response_ids(rollout.text)
            assert score.raw == pytest.approx(naive(reader, spec, rollout, [own], ids), abs=5e-5)
            assert (score.id, score.trait, score.coherence) == (rollout.id, None, None)
            assert score.logprob == rollout.logprob


def test_an_answer_that_did_as_the_other_side_says_did_not_follow(model: Model, engine: HfEngine) -> None:
    spec, ids = tiny.spec(), model.chat.response_ids("TEA OWL")
    pair = spec.instructions[0]
    found = {}
    for instruction in (pair.pos, pair.neg):
        own = engine.logprobs([ScoreRequest(ask("What now?", instruction), "", ids)])[0].mean()
        rollout = Rollout("x", ask("What now?", instruction), "TEA OWL", (), ids, float(own), "stop")
        found[instruction] = LikelihoodJudge(engine, engine, spec).followed([rollout], [0])[0].raw or 0
    # Loud is loud, whichever side asked for it: the same value, on the positive side of the boundary.
    assert found[pair.pos] == pytest.approx(found[pair.neg], abs=1e-4)
    assert found[pair.pos] > 0


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000"])
def test_a_blank_answer_did_not_follow_and_is_missing(model: Model, engine: HfEngine, text: str) -> None:
    pair, ids = tiny.spec().instructions[0], model.chat.response_ids(text)
    blank = Rollout("x", ask("Q?", pair.pos), text.strip(), (), ids, -1.0 if ids else None, "stop")
    (score,) = LikelihoodJudge(engine, engine, tiny.spec()).followed([blank], [0])
    assert (score.trait, score.raw, score.missing) == (None, None, "the answer is empty")


@pytest.mark.parametrize("text", ["", " ", "\n\t\u3000"])
@pytest.mark.parametrize("steered", [True, False])
def test_an_empty_answer_is_missing_and_never_zero(engine: HfEngine, text: str, steered: bool) -> None:
    empty = Rollout("empty", ask("Q?"), text, (5, 6), (), None, "stop")
    full = Rollout("full", ask("Q?"), "tea", (5, 6), (90, 91), -1.5, "stop")
    judge = LikelihoodJudge(engine, engine, tiny.spec())
    first, second, third = judge.measure([empty, full, empty], [0, 1, None], steered)
    for score in (first, third):
        assert (score.id, score.trait, score.coherence, score.raw, score.logprob) == ("empty", None, None, None, None)
        assert score.missing == "the answer is empty"
    assert second.raw is not None
    assert second.missing is None
    scale = Scale(Calibration(1, 0), CoherenceScale(1, -2))
    assert scale(first, empty).trait is None
    assert scale(first, empty).coherence is None


def test_only_steered_answers_are_read_again_for_coherence(model: Model, engine: HfEngine) -> None:
    ids = model.chat.response_ids("TEA OWL")
    rollout = Rollout("x", ask("Q?", "SHOUT!"), "TEA OWL", (), ids, -0.125, "stop")
    judge = LikelihoodJudge(engine, engine, tiny.spec())
    assert judge.measure([rollout], [0], False)[0].logprob == -0.125
    with torch.no_grad():
        prompt = model.chat.prompt_ids(rollout.conversation)
        rows = model.net(input_ids=torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    expected = np.mean([float(rows[len(prompt) + i - 1, t]) for i, t in enumerate(ids)])
    assert judge.measure([rollout], [0], True)[0].logprob == pytest.approx(expected, abs=1e-5)


# Calibration


def split(seed: int = 0, questions: int = 10, gap: float = 0.6) -> tuple[list[float | None], list[bool], list[int]]:
    """Raw values of both sides of many questions; one in eleven is missing."""
    rng = np.random.default_rng(seed)
    positive = [bool(side) for _ in range(questions) for side in (1, 1, 1, 0, 0, 0)]
    raw = [float(v) for v in 0.1 + rng.normal(0, 0.3, len(positive)) + gap * np.array(positive)]
    known = [None if i % 11 == 5 else value for i, value in enumerate(raw)]
    return known, positive, [q for q in range(questions) for _ in range(6)]


def test_calibration_is_that_of_logistic_regression_and_50_its_boundary() -> None:
    raw, positive, _ = split()
    fit = calibrate(raw, positive)
    known = [(v, s) for v, s in zip(raw, positive, strict=True) if v is not None]
    scale = np.std([v for v, _ in known])
    reference = LogisticRegression(class_weight="balanced").fit([[v / scale] for v, _ in known], [s for _, s in known])
    for value in (-1.0, 0.0, 0.4, 2.0):
        assert fit(value) == pytest.approx(100 * reference.predict_proba([[value / scale]])[0, 1])
    assert fit(-fit.intercept / fit.slope) == pytest.approx(50)
    assert 0.1 < -fit.intercept / fit.slope < 0.7  # between the means of the sides
    assert fit(None) is None
    assert fit(1e9) == pytest.approx(100)
    assert fit(-1e9) == pytest.approx(0)


def test_how_many_answers_a_side_has_does_not_move_the_boundary() -> None:
    values = [0.0, 0.2, 0.4] * 5
    even = calibrate([*values, *(v + 1 for v in values)], [False] * 15 + [True] * 15)
    lopsided = calibrate([*values * 6, *(v + 1 for v in values)], [False] * 90 + [True] * 15)
    assert even.intercept / even.slope == pytest.approx(lopsided.intercept / lopsided.slope, abs=0.05)


def test_the_unit_of_raw_values_does_not_matter() -> None:
    raw, positive, _ = split()
    small = calibrate([None if v is None else v / 1000 for v in raw], positive)
    assert small(0.0004) == pytest.approx(calibrate(raw, positive)(0.4) or 0)


@pytest.mark.parametrize(
    ("raw", "positive"),
    [
        ([1.0, 2.0, -1.0, -2.0], [False, False, True, True]),
        ([0.3] * 4, [True, False, True, False]),
        ([0.1, 0.2], [True, True]),
        ([None, None], [True, False]),
        ([0.1, None], [True, False]),
        ([], []),
    ],
)
def test_a_judge_that_knows_nothing_or_runs_backwards_scores_everything_50(
    raw: list[float | None], positive: list[bool]
) -> None:
    fit = calibrate(raw, positive)
    assert [fit(v) for v in (-5.0, 0.0, 5.0)] == pytest.approx([50, 50, 50], abs=1e-6)


def test_cross_calibration_is_a_fit_on_the_other_questions_alone() -> None:
    raw, positive, question = split()
    scores = cross_calibrated(raw, positive, question, seed=3)
    parts = evidence.folds(np.unique(question), 5, np.random.default_rng(3))
    for i, value in enumerate(raw):
        own = next(set(p.tolist()) for p in parts if question[i] in p)
        rest = [j for j in range(len(raw)) if question[j] not in own]
        fit = calibrate([raw[j] for j in rest], [positive[j] for j in rest])
        assert scores[i] == (None if value is None else fit(value))


def test_a_question_has_no_part_in_its_own_calibration() -> None:
    raw, positive, question = split()
    clean = cross_calibrated(raw, positive, question, seed=0)
    parts = evidence.folds(np.unique(question), 5, np.random.default_rng(0))
    own = set(parts[0].tolist())
    inside = [i for i, q in enumerate(question) if q in own]
    # All but one rollout of the fold are poisoned, and every label in it is turned round.
    poisoned = [50.0 if i in inside[1:] else v for i, v in enumerate(raw)]
    labels = [not side if i in inside else side for i, side in enumerate(positive)]
    found = cross_calibrated(poisoned, labels, question, seed=0)
    assert found[inside[0]] == clean[inside[0]]
    assert sum(a != b for a, b in zip(found, clean, strict=True)) > len(inside)


def test_one_question_cannot_be_calibrated_on_others() -> None:
    assert cross_calibrated([1.0, -1.0, None], [True, False, True], [4, 4, 4], 0) == [50, 50, None]


def test_scores_of_the_api_judge_pass_through_the_scale() -> None:
    score = Score("a", 71.0, 88.0)
    rollout = Rollout("a", ask("Q?"), "x", (), (1,), None, "stop")
    assert Scale(Calibration(3, 1), CoherenceScale(1, 0))(score, rollout) == score


# Kept as they come


def test_scores_are_kept_chunk_by_chunk_and_not_measured_twice(tmp_path: Path) -> None:
    rollouts = [Rollout(str(i), ask("Q?"), "x", (), (1,), None, "stop") for i in range(10)]
    asked: list[str] = []
    stop: int | None = 6

    def measure(some: Sequence[Rollout], part: slice) -> list[Score]:
        assert list(some) == rollouts[part]
        if part.start == stop:
            raise RuntimeError("the machine stops here")
        asked.extend(r.id for r in some)
        return [Score(r.id, float(r.id), None, missing="coherence: no") for r in some]

    with pytest.raises(RuntimeError):
        measure_stage(Stage(tmp_path, "s"), rollouts, measure, Silent(), chunk=3)
    stop = None
    found = measure_stage(Stage(tmp_path, "s"), rollouts, measure, Silent(), chunk=3)
    assert asked == [str(i) for i in range(10)]
    assert found == [Score(str(i), float(i), None, missing="coherence: no") for i in range(10)]


# Coherence


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 4))
def test_repetition_is_the_share_of_ngrams_said_before(ids: list[int], n: int) -> None:
    seen: list[list[int]] = []
    again = 0
    for start in range(len(ids) - n + 1):
        gram = ids[start : start + n]
        again += gram in seen
        seen.append(gram)
    assert repetition(ids, n) == pytest.approx(again / len(seen) if seen else 0)


def test_repetition_of_a_loop_is_near_one() -> None:
    assert repetition([1, 2] * 100) > 0.98
    assert repetition(range(200)) == 0


@given(st.floats(-20, 0), st.floats(0, 20), st.integers(0, 30), st.integers(0, 30))
def test_coherence_rises_with_logprob_and_falls_with_repetition(low: float, rise: float, a: int, b: int) -> None:
    scale = CoherenceScale(1.5, -4.0)
    ids = tuple(range(40))
    worse, better = scale(low, ids), scale(low + rise, ids)
    assert worse is not None
    assert better is not None
    assert 0 <= worse <= better <= 100
    few, many = sorted((a, b))
    fresh, stale = scale(low, (*ids, *[7] * few)), scale(low, (*ids, *[7] * many))
    assert fresh is not None
    assert stale is not None
    assert stale <= fresh + 1e-9


def test_the_coherence_scale_has_its_marks() -> None:
    scale = CoherenceScale(2.0, -3.0)
    ids = tuple(range(12))
    assert scale(-3.0, ids) == pytest.approx(50)
    assert scale(-3.0 + math.log(19) / 2, ids) == pytest.approx(95)
    assert scale(0.0, (1, 2, 3) * 40) == 0
    assert scale(None, ids) is None
    assert scale(-1.0, ()) is None


def test_coherence_is_fitted_between_plain_answers_and_their_tokens_shuffled(model: Model, engine: HfEngine) -> None:
    requests = [WriteRequest(str(i), ask(q), i) for i, q in enumerate(tiny.QUESTIONS)]
    plain = [r for batch in engine.write(requests, Sampling(max_tokens=24), read=False) for r, _ in batch]
    scale = fit_coherence(engine, plain, 0)
    assert scale == fit_coherence(engine, plain, 0)
    usable = [r for r in plain if len(r.response_ids) >= 4]
    sound = [r.logprob or 0 for r in usable]
    assert scale(float(np.mean(sound)), tuple(range(9))) == pytest.approx(95)
    chance = random.Random(1)
    broken = []
    for r in usable:
        ids = tuple(chance.sample(r.response_ids, len(r.response_ids)))
        broken.append(float(engine.logprobs([ScoreRequest(r.conversation, "", ids)])[0].mean()))
    assert (scale(float(np.mean(broken)), tuple(range(9))) or 0) < 15
    assert np.mean(broken) < scale.boundary < np.mean(sound)


def test_without_answers_to_fit_on_there_is_still_a_scale(engine: HfEngine) -> None:
    empty = Rollout("x", ask("Q?"), "", (), (), None, "stop")
    short = replace(empty, text="ab", response_ids=(80, 81), logprob=-1.0)
    assert fit_coherence(engine, [empty, short], 0) == CoherenceScale(2.0, -6.0)
