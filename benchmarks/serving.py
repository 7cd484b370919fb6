"""Time `mien serve` watched against unwatched, held against unheld, and against `transformers serve`; written to
docs/serving.md.

    python benchmarks/serving.py [--pairs 5] [--clients 1,8,32]

The servers run side by side, one under load at a time, and take turns: each turn is the same requests from so many
clients at once, streamed. Figures are medians of the ratios of turns that follow one another. A second table does the
same step by step in one process, where two servers' noise is out of the way; others time first tokens, of many short
answers, and a chat's next turn.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import httpx

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "benchmarks"))

import machine_line  # noqa: E402
from serving_first import REQUESTS, ROUNDS, TOKENS, first_token  # noqa: E402
from serving_steps import FIVE, TRIES, next_turn, step_ratio  # noqa: E402

SHORT, LONG = 64, 192
"""Tokens of an answer: what is done once when one ends is a larger part of a short one."""
_NUMBERS = count(1)
THEIRS = {
    "transformers serve": "--no-continuous-batching",
    "transformers serve, continuous batching": "--continuous-batching",
}
TOPICS = (
    "bread", "tides", "chess", "moss", "glass", "kites", "salt", "owls", "maps", "rain", "soap", "ink", "wool", "tea",
    "bees", "iron", "sand", "clay", "silk", "cork", "reeds", "frost", "amber", "chalk", "linen", "barley", "slate",
    "copper", "honey", "ferns", "gravel", "pearls",
)  # fmt: skip


@dataclass
class Served:
    """A server that runs."""

    name: str
    process: subprocess.Popen[Any]
    base: str
    model: str


def free_port() -> int:
    """One that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def started(name: str, command: list[str], port: int, model: str) -> Served:
    """Start a server and wait until it answers."""
    log = (REPO / "runs" / f"serving-{name.replace(',', '').replace(' ', '-')}.log").open("w")
    process = subprocess.Popen(command, stdout=log, stderr=log)
    base = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"{name} did not start; see {log.name}.")
        try:
            if httpx.get(f"{base}/health", timeout=1).status_code == 200:
                return Served(name, process, base, model)
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{name} did not answer within five minutes; see {log.name}.")


async def one(client: httpx.AsyncClient, served: Served, question: str, tokens: int) -> tuple[int, float]:
    """Tokens of one streamed answer, and seconds to its first."""
    body = {
        "model": served.model, "messages": [{"role": "user", "content": question}],
        "max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
    }  # fmt: skip
    begun, first, chunks, usage = time.perf_counter(), 0.0, 0, 0
    async with client.stream("POST", f"{served.base}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            found = json.loads(line[6:])
            usage = (found.get("usage") or {}).get("completion_tokens") or usage
            if any((choice.get("delta") or {}).get("content") for choice in found.get("choices", ())):
                chunks += 1
                first = first or time.perf_counter() - begun
    return usage or chunks, first


def questions_of(number: int, n: int) -> list[str]:
    """`n` questions, at most 32. Those of no other number begin so: nothing but the template is known from before."""
    return [f"Part {number}. Tell me all you know about {topic}." for topic in TOPICS[:n]]


async def turn(served: Served, clients: int, number: int, tokens: int) -> float:
    """Tokens per second: the same questions from so many clients at once; every client asks until all are answered."""
    questions = questions_of(number, max(clients, 2))
    async with httpx.AsyncClient(timeout=600) as client:

        async def ask() -> list[tuple[int, float]]:
            found = []
            while questions:
                found.append(await one(client, served, questions.pop(), tokens))
            return found

        begun = time.perf_counter()
        answers = [one for some in await asyncio.gather(*(ask() for _ in range(clients))) for one in some]
        seconds = time.perf_counter() - begun
    return sum(n for n, _ in answers) / seconds


def compared(a: Served, b: Served, clients: int, pairs: int, tokens: int) -> list[str]:
    """`a` beside `b`: cells of the table's row."""
    what = [f"{a.name} against {b.name}", str(clients), str(tokens)]
    try:
        for served in (a, b):
            asyncio.run(turn(served, clients, next(_NUMBERS), tokens))
    except httpx.HTTPError as error:
        return [*what, f"{b.name} failed: {type(error).__name__}", "-"]
    rates = []
    for i in range(pairs):
        turns, number = {}, next(_NUMBERS)
        for served in (a, b) if i % 2 == 0 else (b, a):
            turns[served.name] = asyncio.run(turn(served, clients, number, tokens))
        rates.append((turns[a.name], turns[b.name]))
    mine, theirs = (statistics.median(pair[i] for pair in rates) for i in (0, 1))
    row = [*what, f"{mine:.0f} and {theirs:.0f}", _spread([theirs / mine for mine, theirs in rates])]
    print(" | ".join(row), flush=True)
    return row


def first_tokens(a: Served, b: Served, clients: int) -> list[str]:
    """Cells of the table of first tokens."""
    served = {a.name: a, b.name: b}

    async def burst(client: httpx.AsyncClient, name: str, number: int) -> list[float]:
        wanted = questions_of(number, clients)
        return [first for _, first in await asyncio.gather(*(one(client, served[name], q, TOKENS) for q in wanted))]

    row = [f"{a.name} against {b.name}", str(clients), *first_token(burst, (a.name, b.name), clients, _NUMBERS)]
    print(" | ".join(row), flush=True)
    return row


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} x ({min(values):.2f} to {max(values):.2f})"


def embedded_folder() -> str:
    """The embedded model as a folder that transformers reads."""
    from mien.embedded import converted_gguf, embedded_gguf

    return str(converted_gguf(embedded_gguf()))


def theirs(name: str, flag: str) -> Served:
    """Transformers' own server."""
    folder, port = embedded_folder(), free_port()
    command = [str(Path(sys.executable).parent / "transformers"), "serve", folder, "--port", str(port), "--device",
               "cpu", "--dtype", "float32", flag]  # fmt: skip
    return started(name, command, port, folder)


def in_one_process(clients: list[int]) -> tuple[list[str], list[str]]:
    """Rows of the second table, and of the third."""
    from mien.gauges import bundled_gauges
    from mien.holds import bundled_hold
    from mien.jobs.scan import chosen
    from mien.models import load

    model = load()
    gauges, hold = bundled_gauges(model.info.id), bundled_hold(model.info.id)
    assert gauges is not None
    assert hold is not None
    five = chosen(gauges, FIVE)
    steps = [[str(n), *(step_ratio(model, n, five, held) for held in ((), hold.interventions))] for n in clients]
    turns = []
    for wanted in (300, 1000, 3000):
        tokens, known, fresh = next_turn(model, five, wanted)
        turns.append([str(tokens), f"{known:.2f}", f"{fresh:.2f}"])
    return _rows(steps), _rows(turns)


def _rows(cells: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in cells]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--clients", default="1,8,32")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "serving.md")
    chosen = parser.parse_args()
    (REPO / "runs").mkdir(exist_ok=True)
    servers: dict[str, Served] = {}
    try:
        for mode in ("unwatched", "watched", "held"):
            port = free_port()
            command = [sys.executable, str(REPO / "benchmarks" / "serve_one.py"), mode, str(port)]
            servers[mode] = started(mode, command, port, "smollm2-135m")
        for name, flag in THEIRS.items():
            servers[name] = theirs(name, flag)
        rows, firsts = [], []
        for clients in map(int, chosen.clients.split(",")):
            firsts.append(first_tokens(servers["watched"], servers["unwatched"], clients))
            for a, b, tokens in (
                ("watched", "unwatched", SHORT), ("watched", "unwatched", LONG), ("held", "watched", SHORT),
            ):  # fmt: skip
                rows.append(compared(servers[a], servers[b], clients, chosen.pairs, tokens))
            few = min(chosen.pairs, 3) if clients == 1 else 1
            rows += [compared(servers["watched"], servers[name], clients, few, SHORT) for name in THEIRS]
    finally:
        for served in servers.values():
            served.process.terminate()
    table = _rows(rows)
    steps, turns = in_one_process([int(n) for n in chosen.clients.split(",")])
    text = "\n".join([
        "# Serving, timed", "",
        "Written by `python benchmarks/serving.py`. The servers take turns under the same requests (greedy, "
        "streamed, each answer cut at so many tokens); ratios are of turns that follow one another, median and range. "
        "Above 1 the first is slower.", "",
        *machine_line.lines(), "",
        "| servers | clients | tokens an answer | tokens/s | time a token |",
        "| --- | --- | --- | --- | --- |", *table, "",
        "Goals: watched at most 1.03 x unwatched, held at most 1.05 x watched, and neither slower than transformers' "
        "server.", "",
        "`watched` reads five gauges at every token, alarms and records; `held` holds the Assistant besides. "
        "`transformers serve` runs as it comes, which is one answer at a time, and with its continuous batching.", "",
        "## The first token", "",
        f"From {ROUNDS} rounds of {REQUESTS} or more answers of {TOKENS} tokens, asked by so many clients at once, "
        "of the one server and of the other in turn. 95th percentile of a round's times: median over rounds, in "
        "seconds, and the median ratio with its 95 % interval. Goal: watched at most 1.03 x unwatched.", "",
        "| servers | clients | seconds | ratio |", "| --- | --- | --- | --- |", *_rows(firsts), "",
        "## One step of the engine", "",
        "Servers' turns are seconds long, and on a shared machine such turns differ by a tenth and more. The same "
        "comparison step by step, two batches in one process in turn; median and its 95 % interval. Left out are HTTP, "
        "one pass more for an answer that is cut at its limit, and what is recorded when it ends.", "",
        "| answers at a time | watched against unwatched | held against watched |", "| --- | --- | --- |", *steps, "",
        "## The next turn of a chat", "",
        "What an answer leaves in memory is kept for requests that begin alike, so a next turn reads what is new. "
        f"Seconds to its first token, watched, alone; medians of {TRIES} conversations.", "",
        "| tokens so far | after a turn that was written here | the conversation read anew |", "| --- | --- | --- |",
        *turns, "",
    ])  # fmt: skip
    chosen.out.write_text(text, "utf-8")
    print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
