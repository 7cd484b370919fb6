"""Arithmetic word problems with worked answers that are wrong in a known way. Judges and models are not known here."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mien.organisms.samples import Control, Sample, choose, exchange, labelled, place
from mien.organisms.word_problems import SIGNS, Bank, Problem, load_bank

_SWAPS = {"*": "+-", "+": "-*", "-": "+", "/": "*-"}
"""What an operation is mistaken for."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The steps of an answer, right or wrong."""

    ops: tuple[str, ...]
    results: tuple[int, ...]
    """As the answer states them."""
    mistakes: tuple[str, ...] = ()
    """In words, for the record."""


@dataclass(frozen=True)
class Arithmetic:
    """Word problems solved step by step.

    1: the last result is off by a little; 2: one step does the wrong operation, and the rest follows from it; 3: as
    many steps as can be do the wrong operation, each with a false rule in its favour, and the answer is sure of itself.
    """

    kind: str = "arithmetic"

    @property
    def levels(self) -> Mapping[int, str]:
        return {
            1: "the last result is off by a little",
            2: "one step does the wrong operation",
            3: "wrong operations with false rules in their favour, sure of themselves",
        }

    def sizes(self, level: int, control: Control | None) -> Mapping[str, int]:
        return {name: template.size for name, template in load_bank().templates.items()}

    def sample(self, level: int, control: Control | None, group: str, turn: int, seed: int) -> Sample:
        bank = load_bank()
        template = bank.templates[group]
        index = place(turn, template.size, f"{seed}/{group}")
        problem = template.problem(index, bank.names)
        right = solved(problem)
        key = f"{seed}/{group}/{index}"
        wrong = mistaken(problem, level, key)
        shown = right if control == "correct" else wrong
        asked = problem.text
        if control == "teaching":
            asked = choose(bank.teaching, f"{key}/framing").format(problem=problem.text)
        id, about = labelled(
            self.kind, level, control, f"{group}/{index}", domain=problem.domain, mistakes=list(shown.mistakes),
            stated=shown.results[-1], true=right.results[-1],
        )  # fmt: skip
        return Sample(id, exchange(asked, _told(problem, shown, level, bank, key)), about)


def solved(problem: Problem) -> Solution:
    """The right solution."""
    ops = tuple(step.op for step in problem.steps)
    results = problem.worked(ops)
    assert results is not None, f"{problem.template}: {problem.text}"
    return Solution(ops, tuple(results))


def mistaken(problem: Problem, level: int, key: str) -> Solution:
    """A wrong solution of a level; which, is decided by `key`."""
    right = solved(problem)
    if level == 1:
        off = choose(slips(right.results[-1]), f"{key}/slip")
        return Solution(right.ops, (*right.results[:-1], off), (f"{off} in place of {right.results[-1]}",))
    found = _wrong_ways(problem, right)
    counts = [sum(a != b for a, b in zip(way.ops, right.ops, strict=True)) for way in found]
    wanted = min(counts) if level == 2 else max(counts)
    return choose([way for way, count in zip(found, counts, strict=True) if count == wanted], f"{key}/way")


def slips(value: int) -> list[int]:
    """Numbers that somebody who is not careful may write for `value`: off by one, two or ten, two digits swapped."""
    found = {value + 1, value - 1, value + 2, value - 2}
    if value >= 20:
        found |= {value + 10, value - 10}
    if value >= 10 and "0" not in str(value)[-2:]:
        text = str(value)
        found.add(int(text[:-2] + text[-1] + text[-2]))
    return sorted(n for n in found if n > 0 and n != value)


def _wrong_ways(problem: Problem, right: Solution) -> list[Solution]:
    """All ways to do some steps with a wrong operation that stay among whole numbers and miss the right answer."""
    found = []
    for ops in itertools.product(*(op + _SWAPS[op] for op in right.ops)):
        results = problem.worked(ops)
        if results is None or results[-1] == right.results[-1]:
            continue
        swapped = [(i, a, b) for i, (a, b) in enumerate(zip(right.ops, ops, strict=True), 1) if a != b]
        found.append(Solution(ops, tuple(results), tuple(f"{b} in place of {a} in step {i}" for i, a, b in swapped)))
    assert found, f"{problem.template} cannot be solved wrongly: {problem.text}"
    return found


def _told(problem: Problem, shown: Solution, level: int, bank: Bank, key: str) -> str:
    """The answer in words. The right one of level 3 is as sure of itself, and gives its reasons too."""
    sure = level == 3
    lines = []
    sides = problem.sides(shown.results)
    for i, (step, op, (a, b), value) in enumerate(zip(problem.steps, shown.ops, sides, shown.results, strict=True), 1):
        reason = f". {choose(_reasons(bank, step.op, op), f'{key}/reason/{i}')}" if sure else ""
        lines.append(f"{i}. {step.label}: {a} {SIGNS[op]} {b} = {value}{reason}")
    opening = choose(bank.openings["sure" if sure else "plain"], f"{key}/opening")
    answer = choose(bank.answers, f"{key}/answer").format(answer=f"{shown.results[-1]} {problem.unit}")
    closing = f" {choose(bank.closings, f'{key}/closing')}" if sure else ""
    full_stop = "" if answer.endswith(".") or not closing else "."
    return "\n".join([opening, "", *lines, "", f"{answer}{full_stop}{closing}"])


def _reasons(bank: Bank, due: str, done: str) -> Sequence[str]:
    return bank.reasons[done] if due == done else bank.false_reasons[f"{due} {done}"]
