"""Runs candidate functions against their tests, each in a process of its own that cannot do harm. Started as a script.

Reads `[{"code", "tests"}]` from standard input and writes a list of outcomes for each to standard output: `pass`,
`fail`, `error` or `hang` for each test up to the first that hangs, or `["crash"]` where the code itself cannot be run.
How long a candidate may go on is counted in lines, so that the verdict is the same on any machine; clocks and memory
limits stand behind that. Nothing of mien is imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
from types import FrameType
from typing import Any

MAX_LINES = 5_000
"""Lines that the code and one test may run; right code needs a few hundred."""
MAX_SECONDS = 0.5
"""Processor time of a candidate, all tests together: numbers that grow beyond measure take few lines. Right code needs
thousandths."""
MAX_WAIT = 60
"""Seconds by the clock."""
MAX_BYTES = 1 << 29
NAME = "<candidate>"


class TooLong(BaseException):
    """A test ran more lines than it may. No `except Exception` of a candidate holds it up."""


class Counter:
    """A trace function that counts lines of the candidate."""

    def __init__(self) -> None:
        self.left = MAX_LINES

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != NAME:
            return None
        self.left -= 1
        if self.left < 0:
            raise TooLong
        return self


def outcomes(code: str, tests: list[str]) -> list[str]:
    """What became of each test, up to the first that hangs."""
    names: dict[str, Any] = {"__name__": "candidate"}
    counter = Counter()
    sys.settrace(counter)
    try:
        exec(compile(code, NAME, "exec"), names)
    except BaseException:
        return ["crash"]
    finally:
        sys.settrace(None)
    found: list[str] = []
    for test in tests:
        found.append(one(test, dict(names)))
        if found[-1] == "hang":
            break
    return found


def one(test: str, names: dict[str, Any]) -> str:
    """What became of one test."""
    counter = Counter()
    sys.settrace(counter)
    try:
        return "pass" if eval(compile(test, NAME, "eval"), names) else "fail"
    except TooLong:
        return "hang"
    except (Exception, SystemExit, KeyboardInterrupt):
        return "error"
    finally:
        sys.settrace(None)


def confine() -> None:
    """Limits on this process, which is a candidate's own."""
    for timer, seconds in ((signal.SIGPROF, MAX_SECONDS), (signal.SIGALRM, MAX_WAIT)):
        signal.signal(timer, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF if timer == signal.SIGPROF else signal.ITIMER_REAL, seconds)
    for limit, value in (
        (resource.RLIMIT_CPU, 5), (resource.RLIMIT_AS, MAX_BYTES), (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):  # fmt: skip
        with contextlib.suppress(ValueError, OSError):  # the system allows less already, or knows no such limit
            resource.setrlimit(limit, (value, value))


def apart(code: str, tests: list[str]) -> list[str]:
    """`outcomes` in a process of its own; one that is killed by a limit hangs."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        silent = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(silent, stream)
        try:
            confine()
            os.write(writing, json.dumps(outcomes(code, tests)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    try:
        found = json.loads(said)
    except ValueError:
        return ["hang"]
    return [str(outcome) for outcome in found]


def main() -> None:
    """All candidates of standard input."""
    candidates = json.load(sys.stdin)
    json.dump([apart(c["code"], c["tests"]) for c in candidates], sys.stdout)


if __name__ == "__main__":
    main()
