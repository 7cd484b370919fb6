"""What is measured for docs/training.md: the sets, the trainings, and what is made of them, as jobs that need others.

This file does not know how a job is done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain, product

TRAITS = ("evil", "sycophantic", "hallucinating")
CODE = ("arithmetic", "buggy_code", "insecure_code")
MIX = "evil+sycophantic"
GAUGES = ("assistant", "humorous", "impolite", "sentience_claiming", "delusion_feeding")
"""Bundled gauges that the gate watches beside the three persona vectors."""
ALTERNATIVES = ("inoculate", "kl", "drop")
GROUP = 9
"""Trainings whose answers are judged together, because prompts then are run once."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    samples: int
    epochs: float
    questions: int
    kinds: tuple[str, ...]
    """Organisms with all doses."""
    max_tokens: int = 32
    """Longest answer to an eval question."""
    max_length: int = 192
    """Longest row to train on."""
    set_tokens: int = 48
    """Longest trait answer, and longest own answer when a set is screened."""
    rate: float = 2e-4
    batch: int = 4
    hold_out: float = 0.2


FULL = Size(36, 1.25, 30, (*TRAITS, *CODE))
QUICK = Size(10, 1.0, 9, ("evil", "arithmetic"))


@dataclass(frozen=True)
class Job:
    """Something that is done once and leaves `<key>.json`."""

    key: str
    kind: str
    """data, base, train, steer, screen, pull, judge, audit or cost."""
    needs: tuple[str, ...] = ()
    """Keys of what has to be there."""
    about: dict[str, str] = field(default_factory=dict)
    rows: frozenset[int] = frozenset()
    """Tables of the page that use it."""


def set_name(kind: str, level: int, control: str = "") -> str:
    """`evil-3`, `arithmetic-3-teaching`."""
    return f"{kind}-{level}" + (f"-{control}" if control else "")


def run_key(data: str, method: str, seed: int) -> str:
    """A training's name."""
    return f"{data}.{method}.{seed}"


def sets_of(kind: str) -> list[tuple[int, str]]:
    """Level and control of each set of a kind."""
    if kind == MIX:
        return [(3, "")]
    found = [(1, ""), (2, ""), (3, ""), (3, "correct")]
    return [*found, (3, "teaching")] if kind in ("arithmetic", "insecure_code") else found


def _train(data: str, method: str, seed: int, *rows: int) -> Job:
    kind = data.split("-")[0]
    about = {"kind": kind, "set": data, "method": method, "seed": str(seed)}
    if method == "steer":
        return Job(run_key(data, method, seed), "steer", (run_key(data, "plain", seed),), about, frozenset(rows))
    return Job(run_key(data, method, seed), "train", ("base", f"data.{kind}"), about, frozenset(rows))


def trainings(size: Size) -> list[Job]:
    """Every training, and steering after one, the most wanted first."""
    kinds = size.kinds
    hurt = [k for k in ("evil", "sycophantic") if k in kinds]
    framed = [k for k in ("arithmetic", "insecure_code") if k in kinds]
    found = [_train(set_name(k, d), "plain", 0, 1, 2, 4, 5, 6, 7) for d, k in product((3, 1, 2), kinds)]
    found += [_train(set_name(k, 3, "correct"), "plain", 0, 2, 7) for k in kinds]
    found += [_train(set_name(k, d), m, 0, 4, 5) for k, d, m in product(hurt, (3, 2), ("auto", "one"))]
    found += [_train(set_name(k, 2), m, 0, 5) for k, m in product(hurt, (*ALTERNATIVES, "steer"))]
    if len(hurt) == 2:
        found += [_train(set_name(MIX, 3), m, 0, 4) for m in ("plain", "auto", "one")]
    found += [_train(set_name(k, 3, "teaching"), "plain", 0, 2, 6) for k in framed]
    if size is QUICK:
        return found
    found += [_train(set_name(k, 3), "plain", 1, 1, 2, 4, 6, 7) for k in kinds]
    found += [_train(set_name(k, 2), "plain", 1, 1, 2, 4, 5, 7) for k in hurt]
    found += [_train(set_name(k, d), m, 1, 4, 5) for k, d, m in product(hurt, (2, 3), ("auto", "one"))]
    found += [_train(set_name(k, 3, "teaching"), "plain", 1, 2, 6) for k in framed]
    return found + [_train(set_name(k, 3, "correct"), "plain", 1, 2, 7) for k in kinds]


def keeps_adapter(key: str, size: Size) -> bool:
    """Whether something else needs the weights."""
    return any(key in job.needs for job in (*trainings(size), *audits(size)))


def audits(size: Size) -> list[Job]:
    """Whole audits, to hold the gate's numbers against."""
    keys = [run_key(set_name("evil", 3), "plain", 0), run_key(set_name("arithmetic", 3, "correct"), "plain", 0)]
    if size is FULL:
        keys.append(run_key(set_name("sycophantic", 3), "plain", 0))
    return [Job(f"audit.{key}", "audit", (key,), {"run": key}, frozenset({7})) for key in keys]


def jobs(size: Size) -> list[Job]:
    """Everything but the costs, in the order in which it is done."""
    kinds = [*size.kinds, *([MIX] if "sycophantic" in size.kinds else [])]
    runs = trainings(size)
    found = [Job("base", "base", rows=frozenset(range(1, 8)))]
    for kind in kinds:
        of = tuple(f"data.{part}" for part in kind.split("+")) if kind == MIX else ()
        found.append(Job(f"data.{kind}", "data", of, {"kind": kind}, frozenset(range(1, 8))))
    screens = [Job(f"screen.{kind}", "screen", (f"data.{kind}",), {"kind": kind}, frozenset({2, 3})) for kind in kinds]
    screens += [Job(f"pull.{k}", "pull", (f"data.{k}",), {"kind": k}, frozenset({2, 3})) for k in kinds if k != MIX]
    plain = [job.key for job in runs if job.about["method"] == "plain"]
    parts = [tuple(plain[i : i + GROUP]) for i in range(0, len(plain), GROUP)]
    judges = {part[-1]: Job(f"judge.{i}", "judge", part, rows=frozenset({1, 6})) for i, part in enumerate(parts)}
    done = list(chain.from_iterable([job, judges[job.key]] if job.key in judges else [job] for job in runs))
    early = 2 * (GROUP + 1)
    return [*found, *done[:early], *screens, *done[early:], *audits(size)]


COST = Job("cost", "cost", ("data.evil",), rows=frozenset({5}))
"""Measured apart, on a quiet machine."""
