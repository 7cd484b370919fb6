"""Shifts between two models' answers, and how strong steering must be to leave nothing to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import random_models as tiny
from mien.card import Baseline
from mien.chat import ask
from mien.directions import Direction
from mien.errors import InputError, ModelError, NothingKeptError
from mien.gauges import Part
from mien.interventions import Add, steered
from mien.models import Model, wrap
from mien.progress import Silent
from mien.records import Conversation, Message, Rollout
from mien.screening.watched import Watched, watched_direction
from mien.store import RunFolder
from mien.training.borrowed import adapted, borrowed
from mien.training.shift import Read, compare, evaluate_shift, own_answers, read_answers
from mien.training.strength import MOST, Target, corrected, projection_differences, strengths

MODEL = tiny.model_of("llama")
QUESTIONS = ["in", "he", "who is it?", "why not?", "and then?"]


def watched(vector: list[float], layer: int = 0, std: float | None = None, side: Any = "high") -> Watched:
    part = Part(layer, np.array(vector, np.float32))
    return Watched("w", "", side, (part,), "", None, None if std is None else 0.0, std, "")


def read(means: list[list[float]], full: list[bool] | None = None) -> Read:
    return Read((0,), np.array(means, np.float32)[:, None], np.array(full or [True] * len(means)))


def test_a_shift_is_the_difference_of_means_along_the_direction() -> None:
    base, tuned = read([[0, 5], [2, 5], [4, 5]]), read([[1, 9], [5, 9], [6, 9]])
    (found,) = compare(base, tuned, [watched([1, 0], std=0.5)])
    assert found.questions == (1.0, 3.0, 2.0)
    assert found.raw == pytest.approx(2.0)
    assert found.sigma == pytest.approx(4.0)
    assert found.low < 2.0 < found.high
    assert (found.sigma_low, found.sigma_high) == (found.low * 2, found.high * 2)
    assert found.towards == found.sigma
    (other,) = compare(base, tuned, [watched([1, 0], std=0.5, side="low")])
    assert other.towards == pytest.approx(-4.0)


def test_a_question_that_one_of_them_leaves_unanswered_does_not_count() -> None:
    base, tuned = read([[0, 0], [2, 0], [4, 0]]), read([[1, 0], [9, 0], [6, 0]], [True, False, True])
    (found,) = compare(base, tuned, [watched([1, 0])])
    assert found.raw == pytest.approx(1.5)
    assert (found.left_out, found.sigma) == (1, None)
    with pytest.raises(NothingKeptError, match="needs two"):
        compare(base, read([[1, 0], [9, 0], [6, 0]], [True, False, False]), [watched([1, 0])])
    with pytest.raises(InputError, match="same questions"):
        compare(base, read([[1, 0]]), [watched([1, 0])])


def test_nulls_tell_a_shift_along_the_direction_from_one_anywhere() -> None:
    rng = np.random.default_rng(0)
    before = rng.standard_normal((20, 64))
    along, anywhere = np.zeros(64), rng.standard_normal(64)
    along[0] = 3.0
    anywhere *= 3.0 / np.linalg.norm(anywhere)
    vector = np.eye(64)[0].tolist()
    base = read(before.tolist())
    (strong,) = compare(base, read((before + along).tolist()), [watched(vector)])
    (weak,) = compare(base, read((before + anywhere).tolist()), [watched(vector)])
    assert strong.raw == pytest.approx(3.0, abs=1e-5)
    assert strong.null < 1.0
    assert strong.beyond == 0.0
    assert abs(weak.raw) < weak.null * 1.5
    assert weak.beyond > 0.02


def test_natural_nulls_are_harder_where_answers_differ_along_the_direction_anyhow() -> None:
    rng = np.random.default_rng(0)
    before = 0.01 * rng.standard_normal((20, 64))
    before[:, 0] = rng.standard_normal(20)
    moved = before.copy()
    moved[:, 0] += 1.0
    (found,) = compare(read(before.tolist()), read(moved.tolist()), [watched(np.eye(64)[0].tolist())])
    assert found.null < 0.5
    assert found.natural > 0.95


def test_a_model_has_not_moved_from_itself() -> None:
    (found,) = evaluate_shift(MODEL, MODEL, [tiny.direction_of(MODEL)], QUESTIONS, max_tokens=6)
    assert set(found.questions) == {0.0}
    assert len(found.questions) + found.left_out == len(QUESTIONS)


def test_a_steered_stream_has_moved_by_the_steering() -> None:
    direction = tiny.direction_of(MODEL)
    answers = own_answers(MODEL, QUESTIONS, max_tokens=6)
    along = [watched_direction(direction)]
    before = read_answers(MODEL, answers, along)
    with steered(MODEL, Add(direction, 1.5)):
        after = read_answers(MODEL, answers, along)
    (found,) = compare(before, after, along)
    assert found.raw == pytest.approx(1.5 * float(direction.norms()[1]), rel=1e-4)


def adapter(folder: Path, seed: int = 0) -> tuple[Model, Path]:
    """A model, and an adapter for it that changes it."""
    from peft import LoraConfig, get_peft_model

    model = wrap(tiny.build("llama"), tiny.tokenizer(), "tiny-llama")
    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(tiny.build("llama"), config).save_pretrained(folder)
    return model, folder


def test_an_adapter_is_put_on_and_taken_off(tmp_path: Path) -> None:
    model, folder = adapter(tmp_path)
    hooks, weights = tiny.hooks_on(model.net), {k: v.clone() for k, v in model.net.state_dict().items()}
    ids = torch.tensor([[4, 8, 15]])
    plain = model.net(input_ids=ids).logits
    with adapted(model, folder) as tuned:
        assert tuned.info.fingerprint != model.info.fingerprint
        changed = tuned.net(input_ids=ids).logits
    assert (changed - plain).abs().max() > 0.05
    assert torch.equal(model.net(input_ids=ids).logits, plain)
    assert tiny.hooks_on(model.net) == hooks
    assert model.net.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in model.net.state_dict().items())
    assert all(p.requires_grad for p in model.net.parameters())
    (found,) = evaluate_shift(model, folder, [tiny.direction_of(model)], QUESTIONS, max_tokens=6)
    assert found.raw != 0.0


def test_two_adapters_at_once_are_refused(tmp_path: Path) -> None:
    model, folder = adapter(tmp_path)
    with adapted(model, folder) as tuned, pytest.raises(InputError, match="adapter already"), borrowed(tuned):
        pass
    with pytest.raises(ModelError, match="could not be put on"), adapted(model, tmp_path / "nowhere"):
        pass
    assert not hasattr(model.net, "peft_config")


def test_nothing_to_measure_with() -> None:
    with pytest.raises(InputError, match="no questions"):
        evaluate_shift(MODEL, MODEL, [tiny.direction_of(MODEL)], [])
    with pytest.raises(InputError, match="nothing to measure"):
        evaluate_shift(MODEL, MODEL, [], QUESTIONS)


def samples(texts: list[str]) -> list[Conversation]:
    return [(*ask(question), Message("assistant", text)) for question, text in zip(QUESTIONS, texts, strict=True)]


def test_projection_differences_are_of_the_data_against_own_answers(tmp_path: Path) -> None:
    along = [watched_direction(tiny.direction_of(MODEL)), watched_direction(tiny.direction_of(MODEL, 1))]
    data = samples(["yes", "no no", "it is", "so", "x" * 300])
    data[3] = data[3][1:]  # an answer to nothing
    with RunFolder(tmp_path, {}) as run:
        found = projection_differences(
            MODEL, data, along, run.stage("own"), Silent(), max_length=60, max_tokens=6
        )  # fmt: skip
    own = own_answers(MODEL, QUESTIONS[:3], max_tokens=6)
    chat = MODEL.chat
    theirs = [
        Rollout(str(i), s[:1], s[1].content, chat.prompt_ids(s[:1]), chat.response_ids(s[1].content), None, "stop")
        for i, s in enumerate(data[:3])
    ]
    expected = [
        read_answers(MODEL, theirs, along).project(one) - read_answers(MODEL, own, along).project(one) for one in along
    ]
    answered = [i for i, rollout in enumerate(own) if rollout.response_ids]
    assert len(answered) == 2  # the model ends its answer to the first question at once
    np.testing.assert_allclose(found[answered], np.stack(expected, axis=1)[answered], atol=1e-4)
    assert np.isnan(found[[0, 3]]).all()
    assert not np.isnan(found[4]).any()


def direction(rows: dict[int, list[float]], name: str = "d") -> Direction:
    base = tiny.direction_of(MODEL, name=name, baseline=Baseline(mean=0, std=1, quantiles={}, n=3))
    vector = torch.zeros_like(base.vector)
    for layer, values in rows.items():
        vector[layer, : len(values)] = torch.tensor(values)
    return Direction(vector, base.card)


def test_steering_is_as_strong_as_what_the_data_would_do() -> None:
    target = Target(direction({1: [2.0, 0.0]}), (1,))
    (found,) = strengths([target], np.array([[3.0], [5.0], [np.nan]]), seed=0)
    assert found.coef == pytest.approx(2.0)  # 4 raw units, of which coef 1 is 2
    assert (found.expected, found.samples) == (4.0, 2)
    assert found.low <= 4.0 <= found.high


def test_two_directions_share_what_they_have_in_common() -> None:
    one, two = Target(direction({1: [1.0, 0.0]}), (1,)), Target(direction({1: [1.0, 1.0]}), (1,))
    differences = np.array([[3.0, 5 / 2**0.5]])
    coefs = [found.coef for found in strengths([one, two], differences, seed=0)]
    moved = np.array([coefs[0] + coefs[1], coefs[1]])
    assert moved @ [1, 0] == pytest.approx(3.0, abs=1e-3)
    assert moved @ (np.array([1, 1]) / 2**0.5) == pytest.approx(5 / 2**0.5, abs=1e-3)


def test_several_layers_add_up_to_the_deepest() -> None:
    target = Target(direction({1: [1.0], 2: [3.0]}), (1, 2))
    np.testing.assert_allclose(target.added(1)[0], 1.0)
    np.testing.assert_allclose(target.added(3)[0], 3.0)
    assert not target.added(0).any()
    (found,) = strengths([target], np.array([[6.0]]), seed=0)
    assert found.coef == pytest.approx(2.0)


def test_nothing_is_steered_against_data_that_goes_the_other_way() -> None:
    target = Target(direction({1: [2.0]}), (1,))
    (found,) = strengths([target], np.array([[-3.0], [-5.0]]), seed=0)
    assert (found.coef, found.expected) == (0.0, -4.0)
    with pytest.raises(InputError, match="give one"):
        strengths([target], np.array([[np.nan]]), seed=0)


def test_what_moves_all_the_same_is_put_against() -> None:
    target = Target(direction({1: [2.0]}), (1,))
    assert corrected([target], [0.5], [1.0]) == [1.0]
    assert corrected([target], [0.5], [-0.6]) == [0.2]
    assert corrected([target], [0.5], [-3.0]) == [0.0]
    assert corrected([target], [0.5], [99.0]) == [MOST]
    one, two = Target(direction({1: [1.0, 0.0]}), (1,)), Target(direction({1: [1.0, 1.0]}), (1,))
    assert corrected([one, two], [0.0, 0.0], [1.0, 1 / 2**0.5]) == [1.0, 0.0]
