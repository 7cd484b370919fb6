"""mien in processes of its own, that can be killed: real ones, forked from a server that has imported torch once.

done = mien("show", "evil", "--model", folder)          run to its end
with running("extract", ...) as process: ...            look at its files meanwhile, kill it
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CONTEXT: Any = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["torch", "transformers", "transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama",
     "sklearn.linear_model", "mien.api", "mien.cli.extract_command", "mien.report.card_page", "mien.judge_api"]
)  # fmt: skip


@dataclass(frozen=True)
class Done:
    """How a process ended and what it said."""

    code: int
    out: str
    err: str


def _child(arguments: list[str], environment: dict[str, str], out: str, err: str, file_size: int | None) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for path, number in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY), number)
    if file_size is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    from mien.cli import main

    main(arguments)


class Running:
    """A process of `mien` under way."""

    def __init__(self, arguments: tuple[str | Path, ...], env: Mapping[str, str], file_size: int | None) -> None:
        self._files = [tempfile.NamedTemporaryFile("r", encoding="utf-8") for _ in range(2)]  # noqa: SIM115
        environment = {**os.environ, **env}
        names = [file.name for file in self._files]
        words = [str(a) for a in arguments]
        self._process = _CONTEXT.Process(target=_child, args=(words, environment, *names, file_size))
        self._process.start()

    def until(self, seen: Callable[[], bool], timeout: float = 120) -> bool:
        """Wait until `seen()`; False if the process ends before."""
        waited = 0.0
        while not seen():
            # Waits for the end of the process, which mostly does not come.
            self._process.join(0.002)
            waited += 0.002
            if self._process.exitcode is not None:
                return seen()
            assert waited < timeout, "nothing was seen"
        return True

    def kill(self) -> bool:
        """SIGKILL, which no handler sees. Whether that is what ended it."""
        self._process.kill()
        self._process.join()
        return bool(self._process.exitcode == -signal.SIGKILL)

    def wait(self, timeout: float = 240) -> Done:
        """Its end."""
        self._process.join(timeout)
        assert self._process.exitcode is not None, f"still running: {self._files[1].read()}"
        return Done(self._process.exitcode, *(file.read() for file in self._files))

    def close(self) -> None:
        """Leave nothing behind."""
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        self._process.close()
        for file in self._files:
            file.close()


@contextlib.contextmanager
def running(
    *arguments: str | Path, env: Mapping[str, str] | None = None, file_size: int | None = None
) -> Iterator[Running]:
    """`mien ARGUMENTS` under way; killed on leaving if it has not ended."""
    process = Running(arguments, env or {}, file_size)
    try:
        yield process
    finally:
        process.close()


def mien(*arguments: str | Path, env: Mapping[str, str] | None = None, file_size: int | None = None) -> Done:
    """Run `mien ARGUMENTS` to its end; `file_size`: no file may grow beyond so many bytes, as on a full disk."""
    with running(*arguments, env=env, file_size=file_size) as process:
        return process.wait()


def command(*words: str | Path, env: Mapping[str, str] | None = None, timeout: float = 240) -> Done:
    """Run any program, `python` being this one, with a start of its own from nothing."""
    line = [sys.executable if word == "python" else str(word) for word in words]
    done = subprocess.run(
        line, capture_output=True, encoding="utf-8", env={**os.environ, **(env or {})}, timeout=timeout, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)
