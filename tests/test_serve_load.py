"""`mien serve` under load, for a minute: 64 clients at once, some of them slow, leaving early, or sending garbage.

Every answer that a client got whole must be in the history with the readings that `mien scan` gives for its text, and
of a sample the words must be those that the model says when nobody else asks; a `kill -9` in the middle loses none of
them. All of it in float32: in bfloat16 the rows beside an answer round its sums otherwise, and may turn a word of it.
`MIEN_LOAD_SECONDS` makes it shorter or longer.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest

from mien.engines.hf import HfEngine
from mien.jobs.scan import scan
from mien.models import Model, load
from mien.records import Message, Sampling, WriteRequest
from mien.serve.running import listen

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(1200)]
SECONDS = float(os.environ.get("MIEN_LOAD_SECONDS", "60"))
CLIENTS = 64
ANSWER = 12
ALONE = 32
"""Answers that are written again, one by one."""
DTYPE = "float32"
CLOSE = 5e-3
"""Sigma, as far as batches move sums."""
WORDS = "bread tides chess moss glass kites salt owls maps rain soap ink wool tea bees iron sand clay".split()  # noqa: SIM905
GARBAGE: tuple[bytes, ...] = (
    b"", b"{", b"[]", b'{"model": 3}', b'{"messages": [{"role": "user", "content": 5}]}', b"\xff\xfe" * 50,
    b'{"model": "smollm2-135m", "messages": [], "max_tokens": -1}', b"[" * 5000,
)  # fmt: skip


@dataclass
class Seen:
    """What all clients saw."""

    whole: list[dict[str, Any]] = field(default_factory=list)
    """Conversations that were answered to the end, with what the server said of them."""
    left: int = 0
    refused: int = 0
    garbage: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    """MB of the server, once a second."""


class Process:
    """`mien serve` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with listen("127.0.0.1", 0) as free:
            self.port = free.getsockname()[1]
        self.folder = folder
        self.log = (folder / f"log-{self.port}").open("w")
        command = [sys.executable, "-m", "mien", "serve", "smollm2-135m", "--no-ui", "--port", str(self.port),
                   "--database", f"sqlite:///{folder / 'history.db'}", "--queue", "40",
                   "--dtype", DTYPE]  # fmt: skip
        environment = {**os.environ, "MIEN_HOME": str(folder / "home"), "OMP_NUM_THREADS": "2"}
        self.child = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        self.base = f"http://127.0.0.1:{self.port}"
        end = time.monotonic() + 180
        while time.monotonic() < end:
            try:
                if httpx.get(f"{self.base}/ready", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                assert self.child.poll() is None, Path(self.log.name).read_text()
            time.sleep(0.2)  # it is another process, and tells nobody
        raise AssertionError("the server did not become ready")

    def memory(self) -> float | None:
        """MB that it holds; None once it is gone."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.child.pid}/status").read_text())
        return int(found[1]) / 1024 if found else None

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        if self.child.poll() is None:
            self.child.send_signal(how)
        try:
            return self.child.wait(90)
        finally:
            self.log.close()


def conversation(chance: random.Random, number: int) -> list[dict[str, str]]:
    """A question that nobody else asks, after an earlier exchange now and then."""
    messages = []
    if chance.random() < 0.4:
        before = f"I find {chance.choice(WORDS)} of use, {number} times over."
        messages = [{"role": "user", "content": f"Number {number}: do you like {chance.choice(WORDS)}?"},
                    {"role": "assistant", "content": before}]  # fmt: skip
    words = " and ".join(chance.choices(WORDS, k=chance.randint(1, 12)))
    return [*messages, {"role": "user", "content": f"Request {number}: tell me of {words}."}]


async def client(process: Process, seen: Seen, number: int, end: float) -> None:
    """One person's requests until time is up; what kind of person, the number says."""
    chance, kind, asked = random.Random(number), number % 8, 0
    async with httpx.AsyncClient(base_url=process.base, timeout=120) as http:
        while time.monotonic() < end:
            asked += 1
            try:
                if kind == 0:
                    await garbage(http, seen, chance)
                else:
                    await stream(http, seen, conversation(chance, 10_000 * number + asked), kind)
            except httpx.TransportError:
                if process.child.poll() is not None:  # it was killed
                    return
                await asyncio.sleep(0.05)


async def garbage(http: httpx.AsyncClient, seen: Seen, chance: random.Random) -> None:
    response = await http.post("/v1/chat/completions", content=chance.choice(GARBAGE),
                               headers={"content-type": "application/json"})  # fmt: skip
    if not 400 <= response.status_code < 500 or "message" not in response.json().get("error", {}):
        seen.wrong.append(f"garbage: {response.status_code} {response.text[:200]}")
    seen.garbage += 1
    await asyncio.sleep(0.2)


async def stream(http: httpx.AsyncClient, seen: Seen, messages: list[dict[str, str]], kind: int) -> None:
    """Ask; a slow person (1) takes time over every piece, one in a hurry (2) leaves after the first."""
    body = {"model": "smollm2-135m", "messages": messages, "max_tokens": ANSWER, "temperature": 0, "stream": True,
            "mien": {"gauges": "all"}}  # fmt: skip
    text, last = "", None
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code == 429:
            if not int(response.headers["retry-after"]) > 0:
                seen.wrong.append("429 without Retry-After")
            seen.refused += 1
            await asyncio.sleep(0.5)
            return
        if response.status_code != 200:
            seen.wrong.append(f"{response.status_code}")
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            piece = json.loads(line[6:])
            if "error" in piece:
                seen.wrong.append(json.dumps(piece["error"]))
                return
            text += "".join(c["delta"].get("content") or "" for c in piece["choices"])
            last = piece.get("mien") or last
            if kind == 1:
                await asyncio.sleep(0.05)
            if kind == 2 and text:
                seen.left += 1
                return
    if last is None:
        seen.wrong.append("an answer without readings")
        return
    seen.whole.append({"id": str(len(seen.whole)), "messages": [*messages, {"role": "assistant", "content": text}],
                       "told": last})  # fmt: skip


async def watched(process: Process, seen: Seen, end: float) -> None:
    while time.monotonic() < end and process.child.poll() is None:
        held = process.memory()
        seen.memory += [] if held is None else [held]
        await asyncio.sleep(1)


async def crowd(process: Process, seconds: float, killed_after: int | None = None) -> Seen:
    """All clients at once; with `killed_after`, the server is killed once so many answers have come whole."""
    seen, end = Seen(), time.monotonic() + seconds

    async def kill() -> None:
        while len(seen.whole) < (killed_after or 0) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        process.child.kill()

    jobs = [client(process, seen, n, end) for n in range(CLIENTS)] + [watched(process, seen, end)]
    await asyncio.gather(*jobs, *([kill()] if killed_after else []))
    return seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("load")


@pytest.fixture
def process(folder: Path) -> Iterator[Process]:
    running = Process(folder)
    try:
        yield running
    finally:
        running.stop(signal.SIGKILL)


def require_words_of_its_own(seen: Seen, reader: Model) -> None:
    """Each answer is what the engine for batches, which shares nothing with the server's, writes with nobody beside."""
    engine = HfEngine(reader)
    for one in random.Random(1).sample(seen.whole, min(ALONE, len(seen.whole))):
        *asked, answer = (Message(**m) for m in one["messages"])
        requests = [WriteRequest("alone", tuple(asked), 0)]
        ((rollout, _),) = next(iter(engine.write(requests, Sampling(ANSWER, 0.0), read=False)))
        # A character that was cut in two at the last token is not shown to clients.
        assert answer.content.strip() == rollout.text.rstrip("\ufffd").strip(), one


def require_scans_numbers(seen: Seen, folder: Path, reader: Model) -> None:
    """Each reading equals what `mien scan` gives for that conversation; so none is lost, wrong, or another's."""
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps({k: one[k] for k in ("id", "messages")}) + "\n" for one in seen.whole))
    scan([log], reader, folder / "scan")
    rows = {}
    for row in pq.read_table(folder / "scan" / "turns.parquet").to_pylist():
        rows[row["conversation"], row["message_index"], row["gauge"]] = row["sigma"]
    for one in seen.whole:
        place = len(one["messages"]) - 1
        if not one["messages"][place]["content"].strip():
            continue
        for reading in one["told"]["readings"]:
            wanted = rows[one["id"], place, reading["gauge"]]
            assert reading["sigma"] == pytest.approx(wanted, abs=CLOSE), (one, reading, wanted)


def in_history(process: Process, one: dict[str, Any]) -> bool:
    found = httpx.get(f"{process.base}/v1/conversations/{one['told']['conversation']}", timeout=30)
    if found.status_code != 200:
        return False
    place = len(one["messages"]) - 1
    turns = [t for t in found.json()["turns"] if t["index"] == place]
    told = {r["gauge"]: r["sigma"] for r in one["told"]["readings"]}
    return any({r["gauge"]: r["sigma"] for r in t["readings"]} == told for t in turns)


def fill(process: Process) -> None:
    """Have texts read until as much is kept of texts that are over as ever will be: 256 MiB, at 45 KiB a token."""
    for i in range(2):
        text = " ".join(f"{word} {i}" for word in range(700))
        talk = [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": text}]
        httpx.post(f"{process.base}/v1/readings", json={"messages": talk}, timeout=120).raise_for_status()


def test_a_minute_of_everybody_at_once(process: Process, folder: Path) -> None:
    fill(process)
    seen = asyncio.run(crowd(process, SECONDS))
    assert not seen.wrong, seen.wrong[:5]
    assert len(seen.whole) >= CLIENTS // 2
    assert seen.left
    assert seen.garbage
    reader = load(dtype=DTYPE)
    require_scans_numbers(seen, folder, reader)
    require_words_of_its_own(seen, reader)
    assert all(in_history(process, one) for one in random.Random(0).sample(seen.whole, min(60, len(seen.whole))))
    settled, end = seen.memory[len(seen.memory) // 3], max(seen.memory[-10:])
    assert end < settled + 200, seen.memory
    assert process.stop() == 0


def test_what_a_client_was_told_outlives_the_server(process: Process, folder: Path) -> None:
    seen = asyncio.run(crowd(process, 4 * SECONDS, killed_after=CLIENTS // 2))
    assert seen.whole
    again = Process(folder)
    try:
        assert all(in_history(again, one) for one in seen.whole)
    finally:
        again.stop()
