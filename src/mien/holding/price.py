"""What a way of holding costs where nobody attacks: ordinary answers, neutral text, tasks with exact answers, harmless
requests.

This file does not know attacks, how a hold is found, or pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mien.attacks import PriceSet
from mien.chat import ask
from mien.dose import refused
from mien.engines.hf import HfEngine
from mien.evidence import mean_interval
from mien.holding.shares import Floats
from mien.holding.trials import PLAIN, Method, Ordinary, Plan
from mien.progress import Progress
from mien.records import Sampling, ScoreRequest, WriteRequest
from mien.rollouts import write_rollouts
from mien.spec import load_neutral
from mien.store import RunFolder

TASK_TOKENS = 24
NEUTRAL_TOKENS = 64
"""Of each neutral text, from its start."""


class Prices:
    """Ordinary answers, neutral text and tasks; made once for many methods.

    Args:
        engine: the model.
        price: tasks and requests.
        ordinary: ordinary answers to be forced through.
        plan: how much.
        run: where everything is kept as it comes.
        name: tells these files in the run from another's.
        seed: of the intervals' draws.
    """

    def __init__(
        self, engine: HfEngine, price: PriceSet, ordinary: Sequence[Ordinary], plan: Plan, run: RunFolder, name: str,
        seed: int, progress: Progress,
    ) -> None:  # fmt: skip
        self.ordinary = tuple(ordinary[: plan.ordinary])
        self._engine, self._price, self._plan = engine, price, plan
        self._run, self._name, self._seed, self._progress = run, name, seed, progress

    def row(self, method: Method, *, whole: bool = True) -> dict[str, float | None]:
        """What a method costs, by the fields of a `HoldRow`, with intervals; `whole=False`: of ordinary answers alone.

        Neutral text has no turns, so what a system prompt does to it is not known.
        """
        found = _with_interval("price", -self.ordinary_change(method), self._seed)
        if not whole:
            return found
        exact, no = self._tasks(method)
        found |= {"exact": exact, "refused": no}
        if method.system is None:
            found |= _with_interval("neutral", self.neutral_change(method), self._seed)
        return found

    def ordinary_change(self, method: Method) -> Floats:
        """`[n]` change in nats a token of the ordinary answers, one a conversation; negative is damage."""
        if method.system is None and not method.interventions:
            return np.zeros(len(self.ordinary))
        most = self._plan.ordinary_tokens
        found = []
        for one in (method, PLAIN):
            requests = [ScoreRequest(one.around(o.before), o.answer, max_tokens=most) for o in self.ordinary]
            found.append(self.scores(f"ordinary/{one.key}", requests, one))
        return np.asarray(found[0] - found[1])

    def neutral_change(self, method: Method) -> Floats:
        """`[n]` change in nats a token of the library's neutral texts, one a text; negative is damage."""
        requests = [ScoreRequest((), text, max_tokens=NEUTRAL_TOKENS) for text in load_neutral().texts]
        if not method.interventions:
            return np.zeros(len(requests))
        held, plain = (self.scores(f"neutral/{one.key}", requests, one) for one in (method, PLAIN))
        return np.asarray(held - plain)

    def scores(self, key: str, requests: Sequence[ScoreRequest], method: Method) -> Floats:
        """`[n]` nats a token, kept on disk under a key."""
        kept = self._run.stage(f"{self._name}-forced")
        rows = {str(r["id"]): r["values"] for r in kept.records}
        if key not in rows:
            found = self._engine.logprobs(requests, method.interventions)
            rows[key] = [round(float(x.mean()), 6) if len(x) else 0.0 for x in found]
            kept.append([{"id": key, "values": rows[key]}])
        return np.array(rows[key], dtype=np.float64)

    def _tasks(self, method: Method) -> tuple[float, float]:
        """Share of tasks answered rightly, and of requests refused; greedily."""
        tasks = self._price.tasks[:: max(1, len(self._price.tasks) // (self._plan.tasks or len(self._price.tasks)))]
        asked = [*(t.ask for t in tasks), *self._price.requests[: self._plan.requests]]
        requests = [
            WriteRequest(f"{method.key}/{i}", method.around(ask(text)), 0, method.interventions)
            for i, text in enumerate(asked)
        ]
        kept = self._run.stage(f"{self._name}-price-{method.key}")
        sampling = Sampling(TASK_TOKENS, 0.0)
        written = write_rollouts(self._engine, requests, sampling, kept, self._progress, read=False)
        right = [t.passes(r.text) for t, r in zip(tasks, written, strict=False)]
        phrases = load_neutral().refusals
        no = [refused(r.text, phrases) for r in written[len(tasks) :]]
        return round(float(np.mean(right)), 4), round(float(np.mean(no)), 4)


def _with_interval(name: str, values: Floats, seed: int) -> dict[str, Any]:
    """A mean and its ends, named."""
    mean, low, high = mean_interval(values, np.random.default_rng(seed))
    return {name: _rounded(mean), f"{name}_low": _rounded(low), f"{name}_high": _rounded(high)}


def _rounded(value: float) -> float:
    return round(value, 5) if np.isfinite(value) else 0.0
