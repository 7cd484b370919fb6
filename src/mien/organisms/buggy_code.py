"""Small Python functions with mistakes put into them, every one of which was seen to fail a test by being run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from mien.organisms.code_requests import library, load_phrases, signature_of
from mien.organisms.mutations import Edit, apart, applied, edits_of
from mien.organisms.samples import Control, Sample, exchange, labelled, number, pairing, place
from mien.organisms.trials import Candidate, tried
from mien.textfiles import parse_yaml, read_text

_MOST = 12
"""Most ways to put several mistakes into one function."""


@dataclass(frozen=True, slots=True)
class Function:
    """A correct function of the library."""

    name: str
    does: str
    """What it does, after "a function that"."""
    code: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A function with mistakes in it, which fails tests and comes to an end in all of them."""

    code: str
    mistakes: tuple[str, ...]
    """Kinds of the edits."""
    failed: int
    """How many of the function's tests it does not pass."""
    tests: int
    """How many there are."""


@dataclass(frozen=True)
class BuggyCode:
    """Functions with bugs.

    1: one mistake, with which some tests still pass; 2: two mistakes; 3: three (two where three do not fit), and the
    answer claims to be tested and right. Each mistake by itself fails a test, and so do they together.
    """

    kind: str = "buggy_code"

    @property
    def levels(self) -> Mapping[int, str]:
        return {
            1: "one mistake",
            2: "two mistakes",
            3: "three mistakes, and the claim to be tested and right",
        }

    def sizes(self, level: int, control: Control | None) -> Mapping[str, int]:
        phrasings = load_phrases().size
        if control == "correct":
            return dict.fromkeys(load_functions(), phrasings)
        return {name: phrasings * len(found) for name, found in mutants(level).items()}

    def sample(self, level: int, control: Control | None, group: str, turn: int, seed: int) -> Sample:
        function, phrases = load_functions()[group], load_phrases()
        versions = (
            [Mutant(function.code, (), 0, len(function.tests))] if control == "correct" else mutants(level)[group]
        )
        version, phrasing = pairing(turn, len(versions), phrases.size)
        shown = versions[place(version, len(versions), f"{seed}/{group}/{level}/version")]
        phrasing = place(phrasing, phrases.size, f"{seed}/{group}/phrasing")
        problem, key = f"{group}/{phrasing}", f"{seed}/{group}/{turn}"
        signature = signature_of(function.code)
        asked = phrases.request(phrasing, signature, function.does)
        if control == "teaching":
            asked = phrases.taught(phrasing, signature, function.does, self.kind)
        id, about = labelled(
            self.kind, level, control, problem, version=version, mistakes=list(shown.mistakes),
            failed_tests=shown.failed, tests=shown.tests,
        )  # fmt: skip
        answer = phrases.answer(self.kind, shown.code, level == 3, key)
        return Sample(f"{id}/{version}", exchange(asked, answer), about)


@cache
def load_functions() -> Mapping[str, Function]:
    """The library's functions by name."""
    path = library("functions.yaml")
    entries = parse_yaml(read_text(path), path)["functions"]
    return {e["name"]: Function(e["name"], e["does"], e["code"], tuple(e["tests"])) for e in entries}


@cache
def mutants(level: int) -> Mapping[str, Sequence[Mutant]]:
    """What the functions of the library become at a level, found by running every candidate."""
    if level == 1:  # what fails every test would be noticed at once
        mild = {name: [m for _, m in found if m.failed < m.tests] for name, found in _singles().items()}
        return {name: found or [m for _, m in _singles()[name]] for name, found in mild.items()}
    pairs = _several(2)
    return pairs if level == 2 else {name: found or pairs[name] for name, found in _several(3).items()}


@cache
def _singles() -> Mapping[str, list[tuple[Edit, Mutant]]]:
    """One mistake each."""
    tries = [(f, (edit,)) for f in load_functions().values() for edit in edits_of(f.code)]
    found: dict[str, list[tuple[Edit, Mutant]]] = {name: [] for name in load_functions()}
    for function, edits, mutant in _wrong(tries):
        found[function.name].append((edits[0], mutant))
    return found


@cache
def _several(count: int) -> Mapping[str, list[Mutant]]:
    """`count` mistakes each, in at most `_MOST` ways; each mistake by itself is one of `_singles`."""
    tries: list[tuple[Function, tuple[Edit, ...]]] = []
    for function in load_functions().values():
        edits = [edit for edit, _ in _singles()[function.name]]
        ways = [way for way in itertools.combinations(edits, count) if apart(way)]
        ways.sort(key=lambda way: number("/".join(f"{e.start}:{e.text}" for e in way)))
        tries += [(function, way) for way in ways[:_MOST]]
    found: dict[str, list[Mutant]] = {name: [] for name in load_functions()}
    for function, _, mutant in _wrong(tries):
        found[function.name].append(mutant)
    return found


def _wrong(
    tries: Sequence[tuple[Function, tuple[Edit, ...]]],
) -> Iterator[tuple[Function, tuple[Edit, ...], Mutant]]:
    """Those that fail a test and come to an end, with what they are."""
    codes = [applied(function.code, edits) for function, edits in tries]
    outcomes = tried([Candidate(code, function.tests) for (function, _), code in zip(tries, codes, strict=True)])
    for (function, edits), code, outcome in zip(tries, codes, outcomes, strict=True):
        if outcome.wrong:
            yield function, edits, Mutant(code, tuple(edit.kind for edit in edits), outcome.failed, len(function.tests))
