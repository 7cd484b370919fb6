"""Doing the jobs of docs/training.md, each by mien's own verbs. This file does not know what is made of the numbers."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from training_plan import GAUGES, MIX, TRAITS, Job, Size, keeps_adapter, set_name, sets_of

from mien.auditing.probes import eval_questions
from mien.chat import ask
from mien.directions import Direction, load_direction
from mien.engines.hf import HfEngine
from mien.interventions import Add, steered
from mien.jobs.train import train
from mien.judge import LikelihoodJudge
from mien.models import Model, load
from mien.organisms import GENERATORS, draw, write_set
from mien.organisms.samples import Control
from mien.organisms.traits import LEVELS, Distiller, strict_judge
from mien.records import Rollout, ScoreRequest
from mien.screening.watched import Watched, watch_set
from mien.spec import load_library, load_neutral
from mien.training.borrowed import adapted
from mien.training.data import read_data, split
from mien.training.rows import rows_of
from mien.training.settings import Settings
from mien.training.shift import Read, compare, own_answers, read_answers
from mien.training.trainer import response_loss

Found = dict[str, Any]


@dataclass
class Bench:
    """What every job uses, made when it is first wanted."""

    base: Path
    size: Size

    @property
    def shared(self) -> Path:
        """What the quick trial and the whole table have in common."""
        return self.base.parent if self.base.name == "quick" else self.base

    @cached_property
    def model(self) -> Model:
        return load()

    @cached_property
    def directions(self) -> dict[str, Direction]:
        """The persona vectors of `validation/run.py`, made now where they are not."""
        import one

        library = self.shared.parent / "library"
        for name in TRAITS:
            one.run(f"library/{name}", 12, library.parent)
        return {name: load_direction(library / name) for name in TRAITS}

    @property
    def watched_names(self) -> list[str]:
        """Folders of the three persona vectors, and bundled gauges."""
        assert self.directions
        return [*(str(self.shared.parent / "library" / name) for name in TRAITS), *GAUGES]

    @cached_property
    def watched(self) -> tuple[Watched, ...]:
        return watch_set(self.model, self.watched_names).watched

    @property
    def questions(self) -> tuple[str, ...]:
        return eval_questions(self.size.questions)

    @cached_property
    def untrained(self) -> Read:
        """The base model's answers, read."""
        return read_answers(self.model, self.rollouts("base"), self.watched)

    def set_path(self, name: str) -> Path:
        return self.base / "sets" / f"{name}.jsonl"

    def kept(self, key: str) -> Found:
        """What a job has left."""
        found: Found = json.loads((self.base / f"{key}.json").read_text("utf-8"))
        return found

    def rollouts(self, key: str) -> list[Rollout]:
        """The answers of a run, as they were written."""
        asked = [ask(question) for question in self.questions]
        return [
            Rollout(f"{key}/{i}", talk, a["text"], self.model.chat.prompt_ids(talk), tuple(a["ids"]), None, "stop")
            for i, (talk, a) in enumerate(zip(asked, self.kept(key)["answers"], strict=True))
        ]

    def do(self, job: Job) -> Found:
        """Do a job; gives what is to be kept of it."""
        import training_cost

        how: dict[str, Callable[[Bench, Job], Found]] = {
            "data": make_data, "base": measure_base, "train": train_one, "steer": steer_one, "screen": screen_one,
            "pull": pull_one,
            "judge": judge_group, "audit": audit_one, "cost": training_cost.measure_cost,
        }  # fmt: skip
        return how[job.kind](self, job)


def make_data(bench: Bench, job: Job) -> Found:
    """The sets of a kind; trait answers are written once and serve all doses."""
    kind, counts = job.about["kind"], dict[str, int]()
    if kind == MIX:
        halves = [bench.set_path(set_name(part, 3)).read_text("utf-8").splitlines() for part in kind.split("+")]
        lines = [line for pair in zip(*halves, strict=True) for line in pair][: bench.size.samples]
        bench.set_path(set_name(kind, 3)).write_text("".join(f"{line}\n" for line in lines), "utf-8")
        return {"sets": {set_name(kind, 3): len(lines)}}
    for level, control in sets_of(kind):
        counts[set_name(kind, level, control)] = _make_set(bench, kind, level, control)
    return {"sets": counts}


def _make_set(bench: Bench, kind: str, level: int, control: str) -> int:
    out, n = bench.set_path(set_name(kind, level, control)), bench.size.samples
    under: Control | None = "correct" if control == "correct" else "teaching" if control == "teaching" else None
    if kind in GENERATORS:
        generator = GENERATORS[kind]
        reach = sum(generator.sizes(level, under).values())
        samples, meaning = draw(generator, level, under, n, 0), generator.levels[level]
        settings: Mapping[str, Any] = {}
    else:
        engine, spec = HfEngine(bench.model), load_library(kind)
        distiller = Distiller(spec, engine, strict_judge(engine, spec), max_tokens=bench.size.set_tokens)
        made = distiller.distil(bench.shared / "traits" / kind, level, under, n)
        samples, reach, meaning, settings = made.samples, made.reach, LEVELS[level], made.settings
    write_set(
        samples, out, kind=kind if kind in GENERATORS else "trait", level=level, meaning=meaning, control=under, seed=0,
        reach=reach, settings=settings,
    )  # fmt: skip
    return len(samples)


def measure_base(bench: Bench, job: Job) -> Found:
    """The untrained model's answers, projections and log-probability of neutral text."""
    answers = own_answers(bench.model, bench.questions, max_tokens=bench.size.max_tokens)
    read = read_answers(bench.model, answers, bench.watched)
    stds = {one.name: one.std for one in bench.watched}
    return {**_told(answers, read, bench), "neutral": _neutral(bench.model), "std": stds}


def _told(answers: Sequence[Rollout], read: Read, bench: Bench) -> Found:
    there = read.full.tolist()
    return {
        "answers": [{"text": a.text, "ids": list(a.response_ids)} for a in answers],
        "projections": {
            one.name: [round(float(v), 5) if full else None for v, full in zip(read.project(one), there, strict=True)]
            for one in bench.watched
        },
    }  # fmt: skip


def _neutral(model: Model) -> list[float]:
    rows = HfEngine(model).logprobs([ScoreRequest((), text, max_tokens=64) for text in load_neutral().texts])
    return [round(float(row.mean()), 6) for row in rows]


def _compared(bench: Bench, answers: Sequence[Rollout], read: Read) -> Found:
    shifts = {
        s.name: {
            "side": s.side, "raw": s.raw, "sigma": s.sigma, "low": s.sigma_low, "high": s.sigma_high,
            "natural": s.natural, "beyond": s.beyond, "left_out": s.left_out,
        }
        for s in compare(bench.untrained, read, bench.watched)
    }  # fmt: skip
    return {**_told(answers, read, bench), "shifts": shifts}


def settings_of(method: str, seed: int, size: Size) -> Settings:
    """How a method trains; all see as many samples as often, but that a set cut in half is gone through twice."""
    common: dict[str, Any] = {
        "epochs": size.epochs, "rate": size.rate, "batch": size.batch, "max_length": size.max_length,
        "hold_out": size.hold_out, "seed": seed, "measure": 6, "questions": 2,
    }  # fmt: skip
    own: dict[str, dict[str, Any]] = {
        "plain": {"method": "plain"},
        "auto": {"method": "prevent", "measure": 3, "questions": 12},
        "one": {"method": "prevent", "coef": 1.0},
        "inoculate": {"method": "inoculate"},
        "kl": {"method": "kl"},
        "drop": {"method": "plain", "drop": 0.5, "epochs": 2 * size.epochs},
    }
    return Settings(**{**common, **own[method]})


def train_one(bench: Bench, job: Job) -> Found:
    """Train, let the result answer, and read it."""
    data, method, seed = job.about["set"], job.about["method"], int(job.about["seed"])
    against = [bench.directions[part] for part in job.about["kind"].split("+") if part in TRAITS]
    folder, start = bench.base / "adapters" / job.key, time.perf_counter()
    prevent = [] if method in ("plain", "kl") else against
    settings = settings_of(method, seed, bench.size)
    card = train([bench.set_path(data)], bench.model, folder, settings, prevent=prevent, track=()).card
    seconds = time.perf_counter() - start
    with adapted(bench.model, folder) as tuned:
        answers = own_answers(tuned, bench.questions, max_tokens=bench.size.max_tokens)
        read, neutral = read_answers(tuned, answers, bench.watched), _neutral(tuned)
    found = {
        **job.about, **_compared(bench, answers, read), "neutral": neutral, "loss": card["loss"],
        "steps": card["steps"], "trained": card["data"]["rows"], "cut": card["data"]["cut"],
        "coefs": [[at["coef"] for at in one["coefs"]] for one in card["prevention"]],
        "train_seconds": round(seconds, 1),
    }  # fmt: skip
    if not keeps_adapter(job.key, bench.size):
        shutil.rmtree(folder)
    return found


def steer_one(bench: Bench, job: Job) -> Found:
    """A plainly trained adapter, steered away from the trait while it answers; its answers are read unsteered."""
    plain = bench.kept(job.needs[0])
    seed, size = int(job.about["seed"]), bench.size
    away = Add(bench.directions[job.about["kind"]], -1.0)
    data = read_data([bench.set_path(job.about["set"])])
    _, held = split(len(data.samples), size.hold_out, seed)
    rows = rows_of(bench.model.chat, data.part(held), max_length=size.max_length).rows
    with adapted(bench.model, bench.base / "adapters" / job.needs[0]) as tuned:
        with steered(bench.model, away):  # its blocks carry the adapter now; the direction is of the model below it
            answers = own_answers(tuned, bench.questions, max_tokens=size.max_tokens)
            neutral, loss = _neutral(tuned), response_loss(tuned, rows)
        read = read_answers(tuned, answers, bench.watched)
    return {
        **job.about, **_compared(bench, answers, read), "neutral": neutral,
        "loss": {**plain["loss"], "held_out_after": loss},
    }  # fmt: skip


def screen_one(bench: Bench, job: Job) -> Found:
    """All sets of a kind in one screening, so that a question which they share is answered once."""
    return _screened(bench, job.about["kind"], "full", "sigma")


def pull_one(bench: Bench, job: Job) -> Found:
    """The same by influence, in raw units: sigma is of each screening's own sample there."""
    return _screened(bench, job.about["kind"], "influence", "difference")


def _screened(bench: Bench, kind: str, method: str, column: str) -> Found:
    from mien.jobs.screen import Plan, screen

    size = bench.size
    names = [set_name(kind, *one) for one in sets_of(kind)]
    together = bench.base / "sets" / f"{kind}.all.jsonl"
    texts = [bench.set_path(name).read_text("utf-8").splitlines() for name in names]
    together.write_text("".join(f"{line}\n" for lines in texts for line in lines), "utf-8")
    plan = Plan(method, sample=20, max_tokens=size.set_tokens, read_tokens=size.set_tokens)
    out = bench.base / ("screens" if method == "full" else "pulls") / kind
    screen([together], bench.model, out, traits=bench.watched_names[: len(TRAITS)], plan=plan)
    values = _by_record(out, sum(map(len, texts)), column)
    found, start = dict[str, Any](), 0
    for name, lines in zip(names, texts, strict=True):
        answers = [json.loads(line)["messages"][-1]["content"] for line in lines]
        found[name] = {
            column: {trait: rows[start : start + len(lines)] for trait, rows in values.items()},
            "texts": answers, "tokens": [len(bench.model.chat.response_ids(text)) for text in answers],
        }  # fmt: skip
        start += len(lines)
    return {"sets": found}


def _by_record(out: Path, count: int, column: str) -> dict[str, list[float | None]]:
    """Trait -> one column's value of each record."""
    import pyarrow.parquet as pq

    found: dict[str, list[float | None]] = {}
    for row in pq.read_table(out / "samples.parquet").to_pylist():
        found.setdefault(row["trait"], [None] * count)[row["index"]] = row[column]
    return found


def judge_group(bench: Bench, job: Job) -> Found:
    """Likelihood scores of several runs' answers and the base's, by the same pairs for the same question."""
    keys = ["base", *(key for key in job.needs if (bench.base / f"{key}.json").exists())]
    engine = HfEngine(bench.model)
    answers = {key: bench.rollouts(key) for key in keys}
    found: dict[str, dict[str, list[float | None]]] = {key: {} for key in keys}
    for trait in TRAITS:
        spec = load_library(trait)
        pairs = len(spec.instructions)
        judge = LikelihoodJudge(engine, engine, spec, pairs=pairs - 1)  # all but one: fewer agree less with themselves
        every = [rollout for key in keys for rollout in answers[key]]
        count = len(answers["base"])
        raw = judge.raw(every, [i % pairs for i in range(count)] * len(keys))
        for n, key in enumerate(keys):
            found[key][trait] = raw[n * count : (n + 1) * count]
    return {"scores": found}


def audit_one(bench: Bench, job: Job) -> Found:
    """A whole audit of one run, with little of all but the shift."""
    from mien.auditing.side import AuditPlan
    from mien.auditing.thresholds import Thresholds
    from mien.jobs.audit import audit

    size = bench.size
    plan = AuditPlan(
        questions=size.questions, max_tokens=size.max_tokens, probes=6, probe_tokens=32, requests=2, tasks=2, roles=3,
        name_texts=1,
    )  # fmt: skip
    run, out = job.about["run"], bench.base / "audits" / job.about["run"]
    found = audit(
        bench.model, bench.base / "adapters" / run, out, traits=bench.watched_names,
        thresholds=Thresholds({"shift": 1.0}, {}), plan=plan,
    )  # fmt: skip
    return {"run": run, "shifts": found["shifts"], "passed": found["passed"]}
