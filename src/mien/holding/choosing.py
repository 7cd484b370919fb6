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
from mien.holding.paired import Ids, Pair, States
from mien.holding.restoring import Restoring, restoring
from mien.holding.trials import Ordinary, Plan
from mien.holding.ways import Way, axis_grid, candidate_layers, on_alarm, others, paper_recipe
from mien.holds import HoldTrial
from mien.progress import Progress
from mien.records import Rollout
from mien.roles import load_roles

MARGIN = 0.75
"""Of the price, while choosing: the best of many is partly luck."""
RANK = 64
"""Most dimensions that a hold on alarm acts in."""
OPEN = 0.05
"""Share of ordinary tokens at which gates open at first."""
WIDEST = 0.3


@dataclass(frozen=True)
class Budget:
    """How much a calibration looks at."""

    choose: Plan
    report: Plan
    roles: int
    """Prompts of the role library, beside the attacks, that maps are learnt from."""
    tokens: int
    """Most tokens of each ordinary conversation that percentiles and gates are made from."""
    layers: int
    """Candidate layers."""
    marks: tuple[float, ...]
    """Percentiles of ordinary tokens for floors on the axis."""
    bands: int
    """Bands of layers for them, up to three."""
    depth: int
    """Most layers of a hold on alarm."""
    tries: int
    """Layers that may be added to the best one, the best by themselves first."""
    strengths: tuple[float, ...]
    """By how much more than its map says the best hold on alarm may act: a ridge regression says too little."""
    finalists: int
    """Holds on alarm that are tried by writing; the others by forced decoding only."""


BUDGETS = {
    "small": Budget(Plan(attacks=18, ordinary=16, ordinary_tokens=40), Plan(tasks=24, requests=16), 80, 160, 4,
                    (5, 25), 2, 4, 3, (1.5,), 2),
    "paper": Budget(Plan(questions=2, max_tokens=32, ordinary=25), Plan(questions=4, max_tokens=48, ordinary=50), 290,
                    400, 9, (1, 5, 10, 25, 50), 3, 4, 5, (0.7, 1.3, 1.7), 4),
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

    def promise(self, most: float) -> float:
        """What it would bring back about, with gates so narrow that it keeps to a price."""
        return (self.row.returned or 0.0) * min(1.0, most / max(self.row.price, 1e-4))


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
    lab = Lab(bench, states, MARGIN * max_price)
    plain = [lab.attempt(way) for way in (paper_recipe(axis), *axis_grid(axis, states, budget.marks, budget.bands))]
    other = [lab.attempt(way) for way in others(states, budget.marks[:1])]
    alarms = grow(lab, budget)
    rows = {t.row.name: t.row for t in lab.tried}
    written = []
    for one in (lab.ranked(plain)[0], lab.ranked(other)[0], *lab.ranked(alarms)[: budget.finalists]):
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

    def __init__(self, bench: Bench, states: States, most: float) -> None:
        self.bench, self.states, self.most = bench, states, most
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


def grow(lab: Lab, budget: Budget) -> list[Tried]:
    """Holds on alarm: the best layer, then one more as long as that helps, with gates that cost what is allowed."""
    before = len(lab.tried)
    singles = {k: lab.attempt(alarm(lab, lab.states, [k], OPEN)) for k in lab.states.layers}
    order = sorted(singles, key=lambda k: -singles[k].promise(lab.most))
    chosen = order[:1]
    best = fitting(lab, singles[order[0]], chosen)
    for k in order[1 : budget.tries + 1]:
        if len(chosen) == budget.depth:
            break
        more = [*chosen, k]
        tried = fitting(lab, lab.attempt(alarm(lab, lab.states, more, OPEN)), more)
        if tried.worth(lab.most) > best.worth(lab.most):
            chosen, best = more, tried
    for strength in budget.strengths:
        fitting(lab, lab.attempt(alarm(lab, lab.states, chosen, OPEN, strength)), chosen, strength)
    return lab.tried[before:]


def fitting(lab: Lab, tried: Tried, layers: Sequence[int], strength: float = 1.0) -> Tried:
    """The better of a hold on alarm and the same with gates so wide or narrow that it costs about what is allowed."""
    share = float(f"{min(max(OPEN * 0.9 * lab.most / max(tried.row.price, 1e-4), 0.002), WIDEST):.2g}")
    if 0.85 < share / OPEN < 1.3:
        return tried
    assert tried.way.narrower is not None
    again = partial(alarm, lab, layers=tuple(layers), opened=share, strength=strength)
    way = replace(tried.way.narrower(share), again=again, narrower=tried.way.narrower)
    return lab.ranked([tried, lab.attempt(way)])[0]


def alarm(lab: Lab, states: States, layers: Sequence[int], opened: float, strength: float = 1.0) -> Way:
    """A hold on alarm at some layers. A later layer's map is made with the earlier ones in place: made without, each
    would correct what the others have corrected.
    """
    fits: dict[int, Restoring] = {}
    for k in sorted(layers):
        before = on_alarm(fits, opened, strength).method(lab.bench.engine.info).interventions if fits else ()
        fits[k] = restoring(states.under(k, before), lab.rank)
    again = partial(alarm, lab, layers=tuple(layers), opened=opened, strength=strength)
    return replace(on_alarm(fits, opened, strength), again=again, narrower=partial(on_alarm, fits, strength=strength))


def made_again(lab: Lab, chosen: Tried) -> Way:
    """The way, made from everything that is for choosing; with narrower gates, if it has any and costs too much now."""
    way = chosen.way
    if way.again is None:
        return way
    found = way.again(lab.states.whole())
    share = (found.percentile or 0.0) / 100
    while chosen.row.price <= lab.most and found.narrower is not None and share > 0.002:
        price = lab.price(replace(found, name=f"{way.name}, made again, {share:g}"))
        if price <= lab.most:
            break
        share *= 0.7
        found = replace(found.narrower(share), narrower=found.narrower)
    return replace(found, name=way.name)
