"""`mien serve` and `mien chat` as processes: what they print, what they refuse, how they stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import httpx
import pytest
from click.testing import CliRunner

import processes
import serving
import tiny
from mien.cli import group
from mien.gauges import save_gauges


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder, with a gauge file beside it."""
    found = tiny.save(tiny.tiny_net(), tmp_path_factory.mktemp("models") / "little")
    model = tiny.tiny_model(name=str(found))
    save_gauges(serving.gauges_of(model, found.parent), found.parent / "g.safetensors")
    return found


@contextmanager
def serve(*words: str | Path, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], IO[str]]]:
    """`mien serve` under way."""
    line = [sys.executable, "-m", "mien", "serve", *map(str, words), "--port", "0", "--no-ui"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               env={**os.environ, **(env or {})})  # fmt: skip
    try:
        assert process.stdout is not None
        yield process, process.stdout
    finally:
        process.kill()
        process.communicate()


def test_it_says_where_it_is_and_stops_when_told(folder: Path) -> None:
    with serve(folder, "--json", "--gauge-file", folder.parent / "g.safetensors", "--drain", "20") as (process, out):
        told = json.loads(out.readline())
        assert told["model"] == "little"
        assert told["policy"] == "alert"
        assert set(told) == {"model", "policy", "api", "metrics"}
        body = {"model": "little", "messages": serving.ASK, "max_tokens": 300, "stream": True}
        with httpx.stream("POST", f"{told['api']}/chat/completions", json=body, timeout=60) as answer:
            lines = answer.iter_lines()
            assert any(line for line in lines)
            process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert [line for line in rest if line][-1] == "data: [DONE]"
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_the_history_outlives_the_process(folder: Path) -> None:
    words = (folder, "--json", "--gauge-file", folder.parent / "g.safetensors")
    seen = []
    for name in ("first", "second"):
        with serve(*words) as (_process, out):
            api = json.loads(out.readline())["api"]
            talk = serving.talk(8, 101, tuple(word.upper() for word in tiny.WORDS))
            posted = httpx.post(f"{api}/readings", json={"messages": talk, "record": True, "id": name}, timeout=60)
            assert posted.json()["alarms"]
            seen.append(httpx.get(f"{api}/alarms?limit=1000").json()["data"])  # and then it is killed
    assert seen[1][-len(seen[0]) :] == seen[0]
    assert len(seen[1]) > len(seen[0])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--host", "0.0.0.0"], 2, "give --api-key-file or MIEN_API_KEYS"),
        (["--host", "no.such.host.invalid"], 2, "others could reach this server"),
        (["--policy", "hold"], 2, "needs something to hold"),
        (["--hold", "nobody"], 2, "no direction 'nobody'"),
        (["--gauges", "mood"], 2, "no gauge 'mood'"),
        (["--gauges", ","], 2, "Name at least one gauge"),
        (["--gauge-file", "nowhere.safetensors"], 2, "cannot be read"),
        (["--api-key-file", "nowhere.txt"], 2, "cannot be read"),
        (["--queue", "0"], 2, "not in the range"),
        (["--retention-days", "-1"], 2, "retention must be more than 0"),
        (["--webhook", "ftp://x"], 2, ""),
        (["--database", "nonsense"], 2, ""),
    ],
)  # fmt: skip
def test_what_it_refuses_is_one_sentence(folder: Path, words: list[str], code: int, said: str) -> None:
    done = processes.mien("serve", folder, "--port", "0", "--no-ui", *words)
    assert done.code == code, done.err
    assert said in done.err
    lines = [line for line in done.err.splitlines() if line.startswith("mien: ")]
    assert len(lines) == 1, done.err
    assert done.err.endswith(lines[0] + "\n")


def test_a_port_that_is_taken(folder: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = processes.mien("serve", folder, "--port", str(taken.getsockname()[1]))
    assert done.code == 2
    assert "choose another --port" in done.err


def test_a_missing_extra_is_one_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import util

    whole = util.find_spec
    monkeypatch.setattr(util, "find_spec", lambda name, *more: None if name == "fastapi" else whole(name, *more))
    for command in ("serve", "chat"):
        result = CliRunner().invoke(group, [command])
        assert str(result.exception) == "mien serve needs fastapi: pip install 'mien[serve]'."


def test_chat_answers_each_line_of_its_input(folder: Path) -> None:
    line = [sys.executable, "-m", "mien", "chat", str(folder), "--gauge-file", str(folder.parent / "g.safetensors"),
            "--max-tokens", "12", "--temperature", "0"]  # fmt: skip
    asked = "What now?\n\nAnd then?\n"
    as_json = subprocess.run([*line, "--json", "--quiet"], input=asked, capture_output=True, text=True, check=True)
    first, second = map(json.loads, as_json.stdout.splitlines())
    assert (first["mien"]["index"], second["mien"]["index"]) == (1, 3)
    assert [r["gauge"] for r in second["mien"]["readings"]] == ["loud", "odd"]
    assert as_json.stderr == ""
    plain = subprocess.run([*line, "--gauges", "loud"], input=asked, capture_output=True, text=True, check=True)
    assert plain.stdout.count("loud") == 2
    assert "odd" not in plain.stdout
    assert "sigma" in plain.stdout
    assert "\x1b" not in plain.stdout
