"""What candidate functions do in their tests, found by running them apart from this process; remembered on disk.

This file does not know what the candidates are for.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MienError
from mien.home import cache_dir
from mien.store import short_hash, write_atomic

_RUNNER = Path(__file__).with_name("trial_runner.py")
_PATIENCE = 120
"""Seconds without a limit of their own: starting the runner, on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Code and the tests that it should pass."""

    code: str
    tests: tuple[str, ...]
    """Expressions that are true of right code."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a candidate."""

    tests: tuple[str, ...]
    """`pass`, `fail` or `error` for each test, ending with the first `hang`; `crash` where the code cannot be run."""

    @property
    def passes(self) -> bool:
        """Every test passes."""
        return all(test == "pass" for test in self.tests)

    @property
    def wrong(self) -> bool:
        """It can be run and comes to an end, and fails a test."""
        return not self.passes and not {"crash", "hang"} & set(self.tests)

    @property
    def failed(self) -> int:
        """How many tests it does not pass."""
        return sum(test != "pass" for test in self.tests)


def tried(candidates: Sequence[Candidate]) -> list[Outcome]:
    """What becomes of each candidate. Those that were tried before are not run again.

    Raises:
        MienError: the process that runs them cannot be started, or gives no answer.
    """
    path = _memory()
    known = _recall(path)
    keys = [short_hash([c.code, list(c.tests)]) for c in candidates]
    new = {key: c for key, c in zip(keys, candidates, strict=True) if key not in known}
    if new:
        known |= dict(zip(new, _run(list(new.values())), strict=True))
        if path is not None:
            with contextlib.suppress(MienError):  # a memory that cannot be kept costs a few seconds next time
                write_atomic(path, json.dumps(known, sort_keys=True))
    return [Outcome(tuple(known[key])) for key in keys]


def _memory() -> Path | None:
    """Where outcomes are kept: a file for this runner's text and this Python; None if there is no place for it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    try:
        folder = cache_dir() / "organisms"
        folder.mkdir(exist_ok=True)
        return folder / f"trials-{short_hash([_RUNNER.read_text(encoding='utf-8'), version])}.json"
    except (MienError, OSError):
        return None


def _recall(path: Path | None) -> dict[str, list[str]]:
    try:
        found = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    known = {"pass", "fail", "error", "hang", "crash"}
    if not isinstance(found, dict):
        return {}
    return {key: v for key, v in found.items() if isinstance(v, list) and v and known >= set(map(str, v))}


def _run(candidates: Sequence[Candidate]) -> list[list[str]]:
    words = json.dumps([{"code": c.code, "tests": list(c.tests)} for c in candidates])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_RUNNER)], input=words, capture_output=True, encoding="utf-8",
            timeout=_PATIENCE + len(candidates), check=True,
        )  # fmt: skip
        found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise MienError(
            "The functions could not be run in a process of their own, which is how their mistakes are checked "
            f"({type(error).__name__}); it takes a Linux or macOS system that lets Python start processes."
        ) from error
    assert len(found) == len(candidates)
    return [[str(outcome) for outcome in outcomes] for outcomes in found]
