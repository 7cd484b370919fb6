"""Try ways of holding and choose one: first by forced decoding, then the best by writing. Read `choose`.

This file does not know what a way reads and writes, nor how buying and costing is measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from mien.attacks import AttackSet
from mien.chat import ask
from mien.directions import Direction
from mien.errors import InputError, NothingKeptError
from mien.holding.bench import Bench
from mien.holding.learning import kept, learn
from mien.holding.lessons import Course, Lessons
from mien.holding.paired import Ids, Pair, States
from mien.holding.restoring import Restoring, restoring
from mien.holding.trials import Ordinary, Plan
from mien.holding.ways import Way, axis_grid, candidate_layers, learnt_on_alarm, on_alarm, others, paper_recipe
from mien.holds import HoldTrial
from mien.interventions import Bounds
from mien.progress import Progress
from mien.records import Rollout
from mien.roles import load_roles

MARGIN = 0.75
"""Of the price, while choosing: the best of many is partly luck."""
RANK = 64
"""Most dimensions that a hold on alarm acts in."""
OPEN = 0.05
"""Share of ordinary tokens at which gates open at first."""
LEAST = 0.002
"""Below this share gates are not narrowed any further."""


@dataclass(frozen=True)
class Budget:
    """How much a calibration looks at."""

    choose: Plan
    report: Plan
    roles: int
    """Prompts of the role library, beside the attacks, that maps in closed form are made from."""
    tokens: int
    """Most tokens of each ordinary conversation that percentiles and gates are made from."""
    layers: int
    """Candidate layers."""
    marks: tuple[float, ...]
    """Percentiles of ordinary tokens for floors on the axis."""
    bands: int
    """Bands of layers for them, up to three."""
    course: Course
    """For the hold that is learnt."""


BUDGETS = {
    "small": Budget(Plan(attacks=18, questions=2, ordinary=16, ordinary_tokens=40), Plan(tasks=24, requests=16), 80,
                    160, 4, (5, 25), 2, Course(rank=16, steps=40, rounds=1)),
    "paper": Budget(Plan(questions=2, max_tokens=32, ordinary=25), Plan(questions=4, max_tokens=48, ordinary=50), 290,
                    400, 9, (1, 5, 10, 25, 50), 3, Course(rank=32, steps=100, rounds=3)),
}  # fmt: skip


def check_budget(budget: str | Budget, max_price: float) -> Budget:
    """Raises: InputError: an unknown budget, or a price that is none."""
    if isinstance(budget, str) and budget not in BUDGETS:
        raise InputError(f"The budget is one of {', '.join(BUDGETS)}, not {budget!r}.")
    if not 0 < max_price < 10:
        raise InputError(f"The price is nats a token, a small positive number as 0.02, not {max_price:g}.")
    return BUDGETS[budget] if isinstance(budget, str) else budget


@dataclass(frozen=True)
class Tried:
    """A way with what was found out about it."""

    way: Way
    row: HoldTrial

    def worth(self, most: float) -> float:
        """What it brings back if it keeps to a price; else less than anything that does."""
        return (self.row.returned or 0.0) if self.row.price <= most else -1 - self.row.price


@dataclass(frozen=True)
class Choice:
    """The way that was chosen, and all that were tried."""

    way: Way
    tried: tuple[HoldTrial, ...]


def choose(
    bench: Bench, axis: Direction, making: AttackSet, ordinary: Sequence[Ordinary], budget: Budget, max_price: float,
    show: Progress,
) -> Choice:  # fmt: skip
    """The way that closes most within the price, on attacks and ordinary answers that are for choosing.

    Args:
        bench: what ways are tried on; its ordinary answers say what a way costs.
        making: attacks of other kinds, which ways are made from while they are tried. What is chosen is made again from
            both.
        ordinary: other ordinary answers, for percentiles and gates.
    """
    states = read_states(bench, making, ordinary, budget, show)
    lab = Lab(bench, states, MARGIN * max_price, making, ordinary, budget)
    plain = [lab.attempt(way) for way in (paper_recipe(axis), *axis_grid(axis, states, budget.marks, budget.bands))]
    other = [lab.attempt(way) for way in others(states, budget.marks[:1])]
    alarms = [affordable(lab, way) for way in (in_closed_form(lab, states), learnt(lab, states))]
    rows = {t.row.name: t.row for t in lab.tried}
    written = []
    for one in (lab.ranked(plain)[0], lab.ranked(other)[0], *alarms):
        found = bench.measure(one.way.method(bench.engine.info), whole=False)
        rows[one.row.name] = one.row.model_copy(update={"closed": found.closed})
        written.append((found.closed, one))
    fitting = [pair for pair in written if pair[1].row.price <= lab.most]
    if fitting:
        best = max(fitting, key=lambda pair: pair[0])[1]
    else:
        best = min(lab.tried, key=lambda t: t.row.price)
    return Choice(made_again(lab, best), tuple(rows.values()))


class Lab:
    """Forced decoding of many ways, each tried once."""

    def __init__(
        self, bench: Bench, states: States, most: float, making: AttackSet, ordinary: Sequence[Ordinary], budget: Budget
    ) -> None:
        self.bench, self.states, self.most = bench, states, most
        self.making, self.ordinary, self.budget = making, ordinary, budget
        self.rank = min(RANK, bench.engine.info.d_model // 4)
        self.tried: list[Tried] = []

    def price(self, way: Way) -> float:
        """Nats a token that ordinary answers lose."""
        self.bench.progress.begin(f"trying: {way.name}", 1)
        return -float(self.bench.cost(way.method(self.bench.engine.info)).mean())

    def attempt(self, way: Way) -> Tried:
        price, returned = self.price(way), self.bench.returned(way.method(self.bench.engine.info))
        attacked, quiet = way.fired(self.states)
        row = HoldTrial(
            name=way.name, price=round(price, 5), returned=round(returned, 4), fired_attacked=attacked,
            fired_ordinary=quiet,
        )  # fmt: skip
        self.tried.append(Tried(way, row))
        self.bench.progress.note(f"  {way.name}: returned {returned:.3f}, price {price:.4f}")
        return self.tried[-1]

    def ranked(self, some: Sequence[Tried]) -> list[Tried]:
        return sorted(some, key=lambda t: -t.worth(self.most))


def read_states(
    bench: Bench, making: AttackSet, ordinary: Sequence[Ordinary], budget: Budget, show: Progress
) -> States:
    """The attacks and some roles of the library, each with an ordinary answer of the model's own. Those that ways are
    tried on are kept apart.
    """
    answers = [(t, r) for t, r in zip(bench.trials, bench.own_answers(), strict=True) if r.response_ids]
    by_question: dict[str, list[Rollout]] = {}
    for trial, rollout in answers:
        by_question.setdefault(trial.question, []).append(rollout)
    if not by_question:
        raise NothingKeptError(f"{bench.engine.info.id} answers none of the questions, so there is nothing to hold.")
    pairs = [Pair(t.attack.conversation(t.question), t.question, r.response_ids, True, True) for t, r in answers]
    questions, roles = list(by_question), load_roles().roles

    def said(i: int) -> tuple[str, Ids]:
        same = by_question[questions[i % len(questions)]]
        return questions[i % len(questions)], same[i // len(questions) % len(same)].response_ids

    for i, attack in enumerate(making.attacks):
        question, ids = said(i)
        pairs.append(Pair(attack.conversation(question), question, ids, True, False))
    for i in range(budget.roles):
        role, (question, ids) = roles[i % len(roles)], said(i)
        pairs.append(
            Pair(ask(question, role.ways[(i + i // len(roles)) % len(role.ways)]), question, ids, False, False)
        )
    layers = candidate_layers(bench.engine.info.n_layers, budget.layers)
    return States(bench.engine.model, pairs, [o.whole for o in ordinary], layers, budget.tokens, show)


def affordable(lab: Lab, way: Way) -> Tried:
    """A hold on alarm, or the same with gates so narrow that it costs about what is allowed."""
    tried = lab.attempt(way)
    if tried.row.price <= lab.most or way.narrower is None or way.percentile is None:
        return tried
    share = float(f"{max(way.percentile / 100 * 0.9 * lab.most / tried.row.price, LEAST):.2g}")
    return lab.ranked([tried, lab.attempt(replace(way.narrower(share), again=way.again, narrower=way.narrower))])[0]


def in_closed_form(lab: Lab, states: States) -> Way:
    """A hold on alarm by ridge regression. A later layer's map is made with the earlier ones in place: made without,
    each would correct what the others have corrected.
    """
    fits: dict[int, Restoring] = {}
    for k in states.layers:
        before = on_alarm(fits, OPEN).method(lab.bench.engine.info).interventions if fits else ()
        fits[k] = restoring(states.under(k, before), lab.rank)
    return replace(on_alarm(fits, OPEN), again=partial(in_closed_form, lab), narrower=partial(on_alarm, fits))


def learnt(lab: Lab, states: States, whole: bool = False) -> Way:
    """A hold on alarm by gradient descent, from the attacks for making, or from the whole set that is for choosing."""
    bench, budget = lab.bench, lab.budget
    key = "all" if whole else "making"
    attacks = (*lab.making.attacks, *bench.attacks) if whole else lab.making.attacks
    apart = [t.question for t in bench.trials] + list(lab.making.questions)

    def make() -> dict[int, Bounds]:
        lessons = Lessons(bench.engine, bench.run, key, attacks, apart, budget.course, bench.seed, bench.progress)
        quiet = [o.whole for o in lab.ordinary]
        return learn(bench.engine.model, states, lessons, quiet, OPEN, budget.tokens, bench.seed, bench.progress)

    parts = kept(bench.run.work / f"learnt-{key}.safetensors", make)
    way = learnt_on_alarm(parts, states)
    return replace(way, again=partial(learnt, lab, whole=True), narrower=partial(learnt_on_alarm, parts, states))


def made_again(lab: Lab, chosen: Tried) -> Way:
    """The way, made from everything that is for choosing; with narrower gates, if it has any and costs too much now."""
    way = chosen.way
    if way.again is None:
        return way
    found = way.again(lab.states.whole())
    share = (found.percentile or 0.0) / 100
    while chosen.row.price <= lab.most and found.narrower is not None and share > LEAST:
        price = lab.price(replace(found, name=f"{way.name}, made again, {share:g}"))
        if price <= lab.most:
            break
        share *= 0.7
        found = replace(found.narrower(share), narrower=found.narrower)
    return replace(found, name=way.name)
