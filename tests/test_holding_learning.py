"""A hold that is learnt: what is shipped is what was trained, what is made small is the divergence, and it falls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

import random_models
import tiny
from mien.attacks import Attack
from mien.chat import ask
from mien.engines.hf import HfEngine
from mien.holding import learning
from mien.holding.learning import Site, Sites, frozen, learn
from mien.holding.lessons import Course, Lesson, Lessons
from mien.holding.paired import Pair, States
from mien.holding.restoring import LayerStates, narrowed
from mien.interventions import CapSpace
from mien.models import Model
from mien.progress import Silent
from mien.records import ScoreRequest
from mien.store import RunFolder

WIDTH = 12


def states(seed: int = 0) -> LayerStates:
    rng = np.random.default_rng(seed)
    alone, ordinary = rng.normal(1, 2, (200, WIDTH)), rng.normal(1, 2, (300, WIDTH))
    return LayerStates(alone + np.eye(WIDTH)[0] * 9, alone, np.ones(200, bool), np.ones(200, bool),
                       np.arange(200) // 10, ordinary)  # fmt: skip


def site(seed: int = 0, rank: int = 3) -> Site:
    """One that does something."""
    generator = torch.Generator().manual_seed(seed)
    made = Site(states(seed), rank, 0.05, generator)
    with torch.no_grad():
        made.writes.copy_(torch.randn(rank, WIDTH, generator=generator))
        made.offset.copy_(torch.randn(rank, generator=generator))
    return made


def test_what_is_shipped_is_what_was_trained() -> None:
    made, s = site(), states(1)
    space = CapSpace({0: made.bounds()}, "m", "f")
    for tokens in (s.attacked, s.alone, s.ordinary):
        h = torch.tensor(tokens, dtype=torch.float32)
        z = (tokens - made.mean.numpy()) / made.spread.numpy()
        wanted = tokens.copy()
        for row in range(len(tokens)):
            readings = [float(z[row] @ gate) for gate in made.gates.detach().numpy().T]
            if all(reading < limit for reading, limit in zip(readings, made.limits.tolist(), strict=True)):
                numbers = z[row] @ made.reads.detach().numpy() + made.offset.detach().numpy()
                wanted[row] += numbers @ made.writes.detach().numpy() * made.spread.numpy()
        np.testing.assert_allclose(made(h).detach().numpy(), wanted, atol=1e-4)
        near = np.abs(space.edit(0, h).numpy() - wanted).max(1) < 0.05  # rounded to half precision
        assert near.mean() > 0.98  # a gate may turn over on a token that lies at its limit


def test_it_begins_as_a_map_to_nothing_behind_gates_that_tell_the_attack() -> None:
    made, s = Site(states(), 3, 0.05, torch.Generator().manual_seed(0)), states(1)
    h = torch.tensor(s.attacked, dtype=torch.float32)
    assert torch.equal(made(h), h)
    with torch.no_grad():
        made.writes += 1
    space = CapSpace({0: made.bounds()}, "m", "f")
    shares = [float(space.fires(0, torch.tensor(x)).float().mean()) for x in (s.attacked, s.alone, s.ordinary)]
    assert shares[0] > 0.8
    assert max(shares[1:]) < 0.1


@pytest.mark.parametrize("share", [0.2, 0.02, 0.0])
def test_gates_are_narrowed_to_a_share_of_ordinary_tokens(share: float) -> None:
    s = states()
    wide = Site(s, 2, 0.9, torch.Generator().manual_seed(0))
    with torch.no_grad():
        wide.writes += 1
    part = wide.bounds()

    def opened(one: object) -> float:
        space = CapSpace({0: one}, "m", "f")  # type: ignore[dict-item]
        return float(space.fires(0, torch.tensor(s.ordinary)).float().mean())

    assert opened(part) > 0.5
    assert opened(narrowed(part, s.ordinary, share)) == pytest.approx(share, abs=0.01)
    assert opened(narrowed(part, s.ordinary, 1.0)) == opened(part)


def test_gradients_pass_through_shut_gates_too() -> None:
    made = site()
    h = torch.tensor(states(1).ordinary, dtype=torch.float32)
    made(h).square().mean().backward()
    assert made.gates.grad is not None
    assert float(made.gates.grad.abs().sum()) > 0


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny.tiny_model(tiny.taught_net(), "taught")


ATTACKS = tuple(Attack(name=f"a_{i}", kind="k", system=said) for i, said in enumerate(("SHOUT!", "BE LOUD!")))


def sites_of(model: Model, seed: int) -> Sites:
    generator = torch.Generator().manual_seed(seed)
    d = model.info.d_model
    rng = np.random.default_rng(seed)
    noise = LayerStates(*(rng.normal(0, 1, (60, d)) for _ in range(2)), np.ones(60, bool), np.ones(60, bool),
                        np.arange(60), rng.normal(0, 1, (60, d)))  # fmt: skip
    made = Sites({k: Site(noise, 4, 0.5, generator) for k in (1, 2)})
    with torch.no_grad():
        for one in made.at.values():
            one.writes.copy_(0.3 * torch.randn(4, d, generator=generator))
    return made


def test_what_is_made_small_is_the_divergence_from_the_answer_alone(model: Model) -> None:
    """Two rows of unequal length, against forward passes one by one."""
    made = sites_of(model, 0)
    lessons = [
        Lesson(attack.conversation(question), question, model.chat.response_ids(answer))
        for attack, question, answer in zip(ATTACKS, tiny.QUESTIONS, ("red sun tea", "owl"), strict=False)
    ]
    found = learning._under_attack(model, made, lessons).item()
    space = CapSpace(made.parts(), model.info.id, model.info.fingerprint)
    terms = []
    for one in lessons:
        sides = []
        for before, held in ((ask(one.question), []), (one.before, [space])):
            prompt = model.chat.prompt_ids(before)
            logits = random_models.naive_logits(model.net, prompt + one.answer, len(prompt), held)
            sides.append(logits[len(prompt) - 1 : -1].double().log_softmax(-1))
        terms += [float((a.exp() * (a - b)).sum()) for a, b in zip(*sides, strict=True)]
    assert found == pytest.approx(np.mean(terms), rel=0.02)
    rows = [model.chat.prompt_ids(ask(q)) for q in tiny.QUESTIONS[:2]]
    quiet = learning._in_quiet(model, made, rows, 1000, np.random.default_rng(0)).item()
    terms = []
    for row in rows:
        plain, held = (
            random_models.naive_logits(model.net, row, len(row), x).double().log_softmax(-1) for x in ([], [space])
        )
        terms += (plain.exp() * (plain - held)).sum(-1).tolist()
    assert quiet == pytest.approx(np.mean(terms), rel=0.02)


def test_lessons_are_of_attacks_roles_and_what_the_hold_writes(model: Model, tmp_path: Path) -> None:
    course = Course(rank=2, steps=1, rounds=1, written=6, answers=1, tokens=4)
    with RunFolder(tmp_path / "run", {"job": "test"}) as run:
        lessons = Lessons(HfEngine(model), run, "k", ATTACKS, (), course, 0, Silent())
        rng = np.random.default_rng(0)
        drawn = lessons.draw(60, rng)
        prompts = {attack.system for attack in ATTACKS}
        attacked = [one.before[0].content in prompts for one in drawn]
        assert 20 < sum(attacked) < 50
        assert all(one.before[-1].content == one.question and 0 < len(one.answer) <= 4 for one in drawn)
        hold = CapSpace(sites_of(model, 1).parts(), model.info.id, model.info.fingerprint)
        lessons.write(hold, 1, rng)
        own = {(one.question, one.answer) for one in drawn}
        assert any((one.question, one.answer) not in own for one in lessons.draw(40, rng))
        apart = Lessons(HfEngine(model), run, "k", ATTACKS, (drawn[0].question,), course, 0, Silent())
        assert all(one.question != drawn[0].question for one in apart.draw(200, rng))


def losses(model: Model, lessons: Sequence[Lesson], space: CapSpace | None) -> float:
    """What answers lose under attack, nats a token."""
    requests = [ScoreRequest(one.before, "", one.answer) for one in lessons]
    held = HfEngine(model).logprobs(requests, [space] if space else [])
    alone = HfEngine(model).logprobs([ScoreRequest(ask(one.question), "", one.answer) for one in lessons])
    return float(np.mean([a.mean() - h.mean() for a, h in zip(alone, held, strict=True)]))


def test_learning_brings_answers_back_and_leaves_the_model_as_it_was(model: Model, tmp_path: Path) -> None:
    def answers(i: int) -> tuple[int, ...]:
        return model.chat.response_ids(f"{tiny.WORDS[i % 8]} {tiny.WORDS[(i + 3) % 8]}")

    pairs = [Pair(ATTACKS[i % 2].conversation(q), q, answers(i), True, False) for i, q in enumerate(tiny.QUESTIONS)]
    quiet = [ask(q) for q in tiny.QUESTIONS]
    taken = States(model, pairs, quiet, [1, 2], 60, Silent())
    model.net.zero_grad()
    weights = {name: value.clone() for name, value in model.net.state_dict().items()}
    wanted = [p.requires_grad for p in model.net.parameters()]
    course = Course(rank=4, steps=90, rounds=1, written=8, answers=1, tokens=8, rows=4, quiet=2)
    parts = []
    for i in range(2):
        with RunFolder(tmp_path / f"run{i}", {"job": "test"}) as run:
            lessons = Lessons(HfEngine(model), run, "k", ATTACKS, (), course, 0, Silent())
            parts.append(learn(model, taken, lessons, quiet, 0.05, 60, 0, Silent()))
    assert all(torch.equal(parts[0][k].writes, parts[1][k].writes) for k in (1, 2)), "the same seed, the same hold"
    assert all(torch.equal(value, weights[name]) for name, value in model.net.state_dict().items())
    assert [p.requires_grad for p in model.net.parameters()] == wanted
    assert all(p.grad is None for p in model.net.parameters())
    unseen = [Lesson(ATTACKS[i % 2].conversation(q), q, answers(i + 1)) for i, q in enumerate(tiny.QUESTIONS)]
    space = CapSpace(parts[0], model.info.id, model.info.fingerprint)
    before, after = losses(model, unseen, None), losses(model, unseen, space)
    assert before > 0.5
    assert after < 0.6 * before


def test_freezing_is_undone_when_something_goes_wrong(model: Model) -> None:
    def go() -> None:
        with frozen(model.net):
            assert not any(p.requires_grad for p in model.net.parameters())
            raise RuntimeError

    with pytest.raises(RuntimeError):
        go()
    assert all(p.requires_grad for p in model.net.parameters())


@pytest.mark.parametrize("family", random_models.FAMILIES)
def test_predictions_are_those_of_a_forward_pass_by_hand(family: str) -> None:
    one = random_models.model_of(family)
    made, rows, columns = sites_of(one, 2), [tuple(range(3, 12)), tuple(range(5, 9))], [[0, 7, 2], [3]]
    space = CapSpace(made.parts(), one.info.id, one.info.fingerprint)
    for sites, held in ((None, []), (made, [space])):
        found = learning._predictions(one, rows, columns, sites)
        assert found.requires_grad is (sites is not None)
        wanted = torch.cat([
            random_models.naive_logits(one.net, row, len(row), held)[some].log_softmax(-1)
            for row, some in zip(rows, columns, strict=True)
        ])  # fmt: skip
        np.testing.assert_allclose(found.detach().numpy(), wanted.numpy(), atol=5e-3)
