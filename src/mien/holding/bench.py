"""What a way of holding a model's character buys and costs: answers under attack, ordinary answers, tasks, requests.

Everything is measured by the *plain* model on text, however that text was written: an answer's log-likelihood ratio
between the attack's prompt and the question alone, and its projection on the axis, read after the question alone so
that the attack's own words do not count. Ordinary answers are forced through the held model. Read `Bench.measure`.

Shapes: n answers. This file does not know how a hold is found, nor pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mien.attacks import AttackSet, PriceSet
from mien.chat import ask
from mien.coherence import repetition
from mien.directions import Direction
from mien.dose import seed_of
from mien.engines.hf import HfEngine
from mien.holding.firing import firing
from mien.holding.price import Prices
from mien.holding.shares import Floats, closed_with_interval, mean_with_interval
from mien.holding.trials import PLAIN, Method, Ordinary, Plan, Trial, trials_of
from mien.holds import HoldRow
from mien.progress import Progress
from mien.records import Rollout, Sampling, ScoreRequest, WriteRequest
from mien.rollouts import write_rollouts
from mien.store import RunFolder, Stage

SCORED = 48
"""How many answers are scored before they are kept on disk."""


@dataclass(frozen=True)
class Loss:
    """Answers to the trials, judged by the plain model; all `[n]`, in the trials' order, NaN for an empty answer."""

    ratio: Floats
    """Nats a token: `[log p(y | attack, x) - log p(y | x)] / |y|`. Positive: the answer belongs to the attack."""
    plain: Floats
    """Nats a token: `log p(y | x) / |y|`, how ordinary the answer is."""
    axis: Floats
    """Sigma on the axis; larger is nearer to the Assistant."""
    repeated: Floats
    """Share of trigrams that the answer has said before."""


class Bench:
    """Attacks, ordinary answers and tasks, and what the plain model makes of them; made once for many methods.

    Args:
        engine: the model.
        axis: its Assistant Axis.
        attacks: what is tried.
        price: tasks and requests.
        ordinary: ordinary answers to be forced through.
        plan: how much.
        run: where everything is kept as it comes.
        name: tells this bench's files in the run from another's.
        seed: of every answer's own stream.
    """

    def __init__(
        self, engine: HfEngine, axis: Direction, attacks: AttackSet, price: PriceSet, ordinary: Sequence[Ordinary],
        plan: Plan, run: RunFolder, name: str, seed: int, progress: Progress,
    ) -> None:  # fmt: skip
        self.engine, self.axis, self.plan = engine, axis, plan
        self.run, self.name, self.seed, self.progress = run, name, seed, progress
        self.kinds, self.attacks = tuple(attacks.kinds), attacks.attacks
        self.trials = trials_of(attacks, plan)
        self.prices = Prices(engine, price, ordinary, plan, run, name, seed, progress)
        self.ordinary = self.prices.ordinary
        self._groups = [t.attack.name for t in self.trials]
        self._sampling = Sampling(plan.max_tokens, plan.temperature)
        self._known: dict[str, Loss] = {}

    @property
    def attacked(self) -> Loss:
        """Unheld answers to the attacks."""
        return self.loss(PLAIN)

    @property
    def own(self) -> Loss:
        """Answers to the questions alone, judged in the same way: the other end of the gap."""
        return self._judged("own", self.own_answers())

    def own_answers(self) -> list[Rollout]:
        """What the model says to the questions without an attack, one a trial."""
        requests = [WriteRequest(f"own/{t.key}", ask(t.question), self._seed(t)) for t in self.trials]
        return self._written("own", requests, self._sampling)

    def answers(self, method: Method) -> list[Rollout]:
        """What is written under attack, one a trial."""
        requests = [
            WriteRequest(
                f"{method.key}/{t.key}", method.around(t.attack.conversation(t.question)), self._seed(t),
                method.interventions,
            )
            for t in self.trials
        ]  # fmt: skip
        return self._written(f"answers-{method.key}", requests, self._sampling)

    def loss(self, method: Method) -> Loss:
        """The same, judged."""
        return self._judged(method.key, self.answers(method))

    def measure(self, method: Method, *, whole: bool = True) -> HoldRow:
        """Everything about a method; `whole=False` leaves out tasks, requests, neutral text and firing, which cost
        as much again."""
        self.progress.begin(f"{self.name}: {method.name}", len(self.trials))
        bought = self._bought(self.loss(method))
        row = HoldRow(name=method.name, **bought, **self.prices.row(method, whole=whole))
        if not whole or not method.interventions:
            return row
        attacked, ordinary = self._fired(method)
        return row.model_copy(update={"fired_attacked": attacked, "fired_ordinary": ordinary})

    def returned(self, method: Method) -> float:
        """How far a method brings back the model's own answers without writing any: the share of what an attack takes
        from their log-probability that is there again under the method. An estimate of the share of the gap closed.
        """
        alone, under = (self._own_scores(m, attacked) for m, attacked in ((PLAIN, False), (PLAIN, True)))
        held = self._own_scores(method, True)
        return float(1 - (alone - held).sum() / (alone - under).sum())

    def cost(self, method: Method) -> Floats:
        """`[n]` change in nats a token of the ordinary answers, one a conversation; negative is damage."""
        return self.prices.ordinary_change(method)

    # parts

    def _own_scores(self, method: Method, attacked: bool) -> Floats:
        rollouts = self.own_answers()
        pairs = [(t, r) for t, r in zip(self.trials, rollouts, strict=True) if r.response_ids]
        requests = [
            ScoreRequest(method.around(t.attack.conversation(t.question)) if attacked else ask(t.question),
                         r.text, r.response_ids)
            for t, r in pairs
        ]  # fmt: skip
        return self.prices.scores(f"own/{attacked}/{method.key}", requests, method if attacked else PLAIN)

    def _bought(self, found: Loss) -> dict[str, Any]:
        """What was gained, by the fields of a `HoldRow`."""
        rng = np.random.default_rng(self.seed)
        plain, own = self.attacked, self.own
        share, low, high = closed_with_interval(found.ratio, plain.ratio, own.ratio, self._groups, rng)
        moved, moved_low, moved_high = mean_with_interval(found.axis - plain.axis, self._groups, rng)
        values: dict[str, Any] = {
            "ratio": np.nanmean(found.ratio), "closed": share, "closed_low": low, "closed_high": high, "axis": moved,
            "axis_low": moved_low, "axis_high": moved_high, "plain": np.nanmean(found.plain),
            "repeated": np.nanmean(found.repeated),
        }  # fmt: skip
        rounded = {k: round(float(v), 5) if np.isfinite(v) else 0.0 for k, v in values.items()}
        return {**rounded, "by_kind": self._by_kind(found)}

    def _by_kind(self, found: Loss) -> dict[str, float]:
        kinds = np.array([t.attack.kind for t in self.trials])
        shares = {}
        for kind in self.kinds:
            here = kinds == kind
            if not here.any():
                continue
            held, plain, own = (np.nanmean(v.ratio[here]) for v in (found, self.attacked, self.own))
            if abs(plain - own) > 1e-9:
                shares[kind] = round(float((plain - held) / (plain - own)), 4)
        return shares

    def _fired(self, method: Method) -> tuple[float | None, float | None]:
        """Share of slots at which it changes the stream, in attacks with the answers to them and in ordinary ones."""
        kept = self.run.stage(f"{self.name}-fired")
        rows = {str(r["id"]): r["values"] for r in kept.records}
        if method.key not in rows:
            model, most = self.engine.model, self.plan.ordinary_tokens
            under = [(r.prompt_ids, r.response_ids) for r in self.answers(method)]
            quiet = [(model.chat.prompt_ids(o.before), model.chat.response_ids(o.answer)[:most]) for o in self.ordinary]
            shares = [firing(model, texts, method.interventions) for texts in (under, quiet)]
            rows[method.key] = [None if x is None else round(x, 5) for x in shares]
            kept.append([{"id": method.key, "values": rows[method.key]}])
        return rows[method.key][0], rows[method.key][1]

    def _seed(self, trial: Trial) -> int:
        # One stream a trial: methods differ by what they do, not by luck.
        return seed_of(self.seed, trial.key)

    def _written(self, stage: str, requests: Sequence[WriteRequest], sampling: Sampling) -> list[Rollout]:
        kept = self.run.stage(f"{self.name}-{stage}")
        return write_rollouts(self.engine, requests, sampling, kept, self.progress, read=False)

    def _judged(self, key: str, rollouts: Sequence[Rollout]) -> Loss:
        if key in self._known:
            return self._known[key]
        kept = self.run.stage(f"{self.name}-judged-{key}")
        pairs = list(zip(self.trials, rollouts, strict=True))
        for start in range(0, len(pairs), SCORED):
            part = [p for p in pairs[start : start + SCORED] if p[1].id not in kept.done]
            if part:
                self._judge(part, kept)
        rows = {str(r["id"]): r for r in kept.records}
        self._known[key] = Loss(*(
            np.array([np.nan if rows[r.id][k] is None else rows[r.id][k] for r in rollouts], dtype=np.float64)
            for k in ("ratio", "plain", "axis", "repeated")
        ))  # fmt: skip
        return self._known[key]

    def _judge(self, part: Sequence[tuple[Trial, Rollout]], kept: Stage) -> None:
        alone = [ask(t.question) for t, _ in part]
        under = [t.attack.conversation(t.question) for t, _ in part]
        both = [
            ScoreRequest(c, r.text, r.response_ids)
            for side in (under, alone)
            for c, (_, r) in zip(side, part, strict=True)
        ]
        rows = self.engine.logprobs(both)
        chat, layer = self.engine.model.chat, self.axis.layer
        moved = [replace(r, prompt_ids=chat.prompt_ids(c)) for c, (_, r) in zip(alone, part, strict=True)]
        readings = {x.id: x for batch in self.engine.read(moved, [layer]) for x in batch}
        records = []
        for i, (_, r) in enumerate(part):
            record: dict[str, Any] = {"id": r.id, "ratio": None, "plain": None, "axis": None, "repeated": None}
            if len(r.response_ids):
                a, b = float(rows[i].mean()), float(rows[len(part) + i].mean())
                raw = float(readings[r.id].mean[0] @ self.axis.unit(layer).numpy())
                record |= {"ratio": a - b, "plain": b, "axis": float(self.axis.sigma(raw)),
                           "repeated": repetition(r.response_ids)}  # fmt: skip
            records.append(record)
        kept.append(records)
