"""Time `mien serve` watched against unwatched, held against unheld, and against `transformers serve`; written to
docs/serving.md.

    python benchmarks/serving.py [--pairs 12] [--clients 1,8,32] [--only first] [--quick]

The servers take turns, one under load at a time: each turn is a few questions from each of so many clients, streamed.
Figures are medians of the ratios of turns that follow one another. Other sections time first tokens, of many short
answers; the same step by step in one process, and for whole answers, where HTTP is out of the way; and a chat's next
turn. `--quick` times these last, which need no other server and are steady, in minutes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import count, product
from pathlib import Path
from typing import Any

import httpx
import numpy as np

REPO = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO / "benchmarks"))

import machine_line  # noqa: E402
from serving_first import REQUESTS, ROUNDS, TOKENS, first_token  # noqa: E402
from serving_steps import FIVE, TRIES, first_ratio, generate_ratio, middle, next_turn, step_ratio  # noqa: E402
from serving_talks import Questions, talks_ratio  # noqa: E402

from mien.gauges import GaugeSet, bundled_gauges  # noqa: E402
from mien.holds import Hold, bundled_hold  # noqa: E402
from mien.jobs.scan import chosen  # noqa: E402
from mien.machine import best_dtype  # noqa: E402
from mien.models import Model, load  # noqa: E402

TOKENS_LOAD, SPREAD = 64, 40
"""Of an answer under load, in the middle, and how far their lengths lie apart. What is done once when one ends is a
larger part of a short one."""
ASKED = 3
"""Questions of a client in a turn, so that some begin while others write; one where there is one client, or where
transformers' servers are compared, which need minutes for it."""
OFTENER = {1: 5, 8: 2}
"""How many times as many turns so few clients take: theirs are shorter, and the machine's noise is as large."""
OURS = {("watched", "unwatched"): 1.03, ("held", "watched"): 1.05}
"""Servers that are compared, and how many times the second's time a token the first may take."""
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
    base: str
    model: str


def free_port() -> int:
    """One that nobody listens to."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        return int(s.getsockname()[1])


def launched(name: str, command: list[str]) -> subprocess.Popen[Any]:
    """A process whose output goes to a log."""
    log = (REPO / "runs" / f"serving-{name.replace(',', '').replace(' ', '-')}.log").open("w")
    return subprocess.Popen(command, stdout=log, stderr=log)


def answering(name: str, process: subprocess.Popen[Any], port: int, model: str) -> Served:
    """A server that has begun to answer."""
    base = f"http://127.0.0.1:{port}"
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"{name} did not start; see its log in {REPO / 'runs'}.")
        try:
            if httpx.get(f"{base}/health", timeout=1).status_code == 200:
                return Served(name, base, model)
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"{name} did not answer within five minutes; see its log in {REPO / 'runs'}.")


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


def longest(place: int, k: int) -> int:
    """Tokens of a client's answer."""
    return TOKENS_LOAD - SPREAD // 2 + (5 * place + 11 * k) % SPREAD


async def turn(served: Served, clients: int, asked: int) -> float:
    """Tokens per second, of so many clients who ask so many questions each, one after another. No two turns have the
    same questions, and answers are cut at lengths that differ, so that they do not all begin and end together.
    """

    async def talk(client: httpx.AsyncClient, place: int) -> int:
        tokens = 0
        for k, questions in enumerate(rounds):
            tokens += (await one(client, served, questions[place], longest(place, k)))[0]
        return tokens

    rounds = [questions_of(next(_NUMBERS), clients) for _ in range(asked)]
    async with httpx.AsyncClient(timeout=600) as client:
        begun = time.perf_counter()
        tokens = await asyncio.gather(*(talk(client, place) for place in range(clients)))
        return sum(tokens) / (time.perf_counter() - begun)


def compared(a: Served, b: Served, clients: int, pairs: int, goal: float, asked: int = 1) -> list[str]:
    """`a` beside `b`: cells of the table's row."""
    asyncio.run(turn(a, clients, 1))
    try:
        asyncio.run(turn(b, clients, 1))
    except httpx.HTTPError as error:
        return [f"{a.name} against {b.name}", str(clients), "0", f"{b.name} failed: {type(error).__name__}", "-", "-"]
    rates = []
    for i in range(pairs):
        order = (a, b) if i % 2 == 0 else (b, a)
        turns = {served.name: asyncio.run(turn(served, clients, asked)) for served in order}
        rates.append((turns[a.name], turns[b.name]))
    print(f"{a.name} against {b.name}, {clients}: {rates}", flush=True)
    return compared_row((a.name, b.name), clients, rates, goal)


def compared_row(names: tuple[str, str], clients: int, rates: Sequence[tuple[float, float]], goal: float) -> list[str]:
    """Cells of a row, of tokens per second by turns."""
    mine, theirs = np.median(np.array(rates), 0)
    ratios = [theirs / mine for mine, theirs in rates]
    met = "met" if np.median(ratios) <= goal else "missed"
    ratio = middle(ratios) if len(ratios) > 1 else f"{ratios[0]:.2f} x"
    return [f"{names[0]} against {names[1]}", str(clients), str(len(rates)), f"{mine:.0f} and {theirs:.0f}",
            ratio, f"{goal:.2f} x: {met}"]  # fmt: skip


def first_tokens(a: Served, b: Served, clients: int) -> list[str]:
    """Cells of the table of first tokens."""
    served = {a.name: a, b.name: b}

    async def burst(client: httpx.AsyncClient, name: str, number: int) -> list[float]:
        wanted = questions_of(number, clients)
        return [first for _, first in await asyncio.gather(*(one(client, served[name], q, TOKENS) for q in wanted))]

    return [str(clients), *first_token(burst, (a.name, b.name), clients, _NUMBERS)]


def embedded_folder() -> str:
    """The embedded model as a folder that transformers reads."""
    from mien.embedded import converted_gguf, embedded_gguf

    return str(converted_gguf(embedded_gguf()))


def theirs(folder: str, port: int, flag: str) -> list[str]:
    """The command of transformers' own server, in the dtype that mien chooses here."""
    dtype = str(best_dtype("cpu")).removeprefix("torch.")
    return [str(Path(sys.executable).parent / "transformers"), "serve", folder, "--port", str(port), "--device",
            "cpu", "--dtype", dtype, flag]  # fmt: skip


def _rows(cells: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


@contextmanager
def all_running(*groups: Sequence[str]) -> Iterator[dict[str, Served]]:
    """Servers by name, and their end. Those of a group are one process; transformers' is one by itself."""
    servers: dict[str, Served] = {}
    processes: list[subprocess.Popen[Any]] = []
    try:
        for group in groups:
            ports, name = {name: free_port() for name in group}, group[0]
            if name in THEIRS:
                model = embedded_folder()
                command = theirs(model, ports[name], THEIRS[name])
            else:
                model, given = "smollm2-135m", [f"{name}={port}" for name, port in ports.items()]
                command = [sys.executable, str(REPO / "benchmarks" / "serve_one.py"), *given]
            processes.append(launched("-".join(group), command))
            servers |= {name: answering(name, processes[-1], port, model) for name, port in ports.items()}
        yield servers
    finally:
        for process in processes:
            process.terminate()
        for process in processes:  # what is timed next must not share the machine with them
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def under_load(clients: Sequence[int], pairs: int) -> str:
    """Tokens per second of whole servers."""
    rows = []
    with all_running(["unwatched", "watched", "held"], *([name] for name in THEIRS)) as servers:
        for n, ((a, b), goal) in product(clients, OURS.items()):
            many = pairs * OFTENER.get(n, 1) // (1 if b == "unwatched" else 2)
            rows.append(compared(servers[a], servers[b], n, many, goal, ASKED if n > 1 else 1))
        for n, name in product(clients, THEIRS):
            # One answer at a time takes minutes for many.
            few = 1 if n > 1 and name == "transformers serve" else pairs * OFTENER.get(n, 1) // 2
            rows.append(compared(servers["watched"], servers[name], n, few, 1.0))
    return f"""The servers take turns: each client asks {ASKED} questions one after another (one where it is alone,
or transformers' servers are compared), greedy and streamed, no question twice, answers cut at
{TOKENS_LOAD - SPREAD // 2} to {TOKENS_LOAD + SPREAD // 2 - 1} tokens so that they do not all end together.
Ratios are of turns that follow one another: the median, with its 95 % interval by drawing turns with replacement.
Above 1 the first is slower. A goal is met where the median does; an interval that reaches across it has not shown so.
Below 1, where the first does more work than the second, is the machine's own noise.

| servers | clients | turns | tokens/s | time a token | goal |
| --- | --- | --- | --- | --- | --- |
{_rows(rows)}

`watched` reads five gauges at every token, alarms and records; `held` holds the Assistant besides. These and
`unwatched` listen at three ports of one process and share an engine, so that they differ in nothing else.
An answer whose tokens a log would cut otherwise is read again, so that its reading is what `mien scan` gives for it:
beside what the others write, in the same passes.
`transformers serve` runs as it comes, which is one answer at a time, and with its continuous batching. Rows of so many
clients may have been timed by themselves (`--clients`)."""


def first(clients: Sequence[int], _pairs: int) -> str:
    """Times to a first token, of whole servers and of the engine."""
    rows = []
    with all_running(["unwatched"], ["watched"]) as servers:
        for n in clients:
            rows.append(first_tokens(servers["watched"], servers["unwatched"], n))
    model, five, _ = embedded()
    for n, row in zip(clients, rows, strict=True):
        asked = [questions_of(next(_NUMBERS), n) for _ in range(ROUNDS * min(4, max(1, REQUESTS // n)) + 1)]
        row.append(first_ratio(model, five, asked, TOKENS))
        print(" | ".join(row), flush=True)
    return f"""Watched against unwatched. From {ROUNDS} rounds of {REQUESTS} or more answers of {TOKENS} tokens, asked
by so many clients at once, of the one server and of the other in turn: 95th percentile of a round's times, median over
rounds, in seconds; and the median ratio with its 95 % interval. Goal: 1.03 x at most. Beside it the same of two
batches in one process, where arrivals and two servers' noise are out of the way.

| clients | seconds | ratio | ratio in one process |
| --- | --- | --- | --- |
{_rows(rows)}"""


@cache
def embedded() -> tuple[Model, GaugeSet, Hold]:
    """The embedded model, its gauges that are watched, and its hold."""
    model = load()
    gauges, hold = bundled_gauges(model.info.id), bundled_hold(model.info.id)
    assert gauges is not None
    assert hold is not None
    return model, chosen(gauges, FIVE), hold


def steps(clients: Sequence[int], _pairs: int) -> str:
    """Steps of the engine."""
    model, five, hold = embedded()
    rows = [[str(n), *(step_ratio(model, n, five, held) for held in ((), hold.interventions))] for n in clients]
    theirs = generate_ratio(model, load(), five)
    return f"""Servers' turns are seconds long, and on a shared machine such turns differ by a tenth and more. The
same comparison step by step, two batches in one process in turn; median and its 95 % interval. Left out are HTTP,
and what is done once for an answer.

| answers at a time | watched against unwatched | held against watched |
| --- | --- | --- |
{_rows(rows)}

`transformers serve` writes one answer at a time by transformers' `generate`. A step of a watched answer, alone, takes
{theirs} as long as one of `generate`, streamed, of the same answer and model."""


def talks(clients: Sequence[int], pairs: int) -> str:
    """Whole answers, in the engine."""
    model, five, _ = embedded()

    def asked(n: int) -> Questions:
        rounds = [questions_of(next(_NUMBERS), n) for _ in range(ASKED)]
        return [[(questions[i], longest(i, k)) for k, questions in enumerate(rounds)] for i in range(n)]

    rows = []
    for n in clients:
        many = max(3, pairs // 3)  # what follows one another at once differs less
        rows.append([str(n), str(many), *talks_ratio(model, five, [(asked(n), asked(n)) for _ in range(many + 1)])])
        print(" | ".join(rows[-1]), flush=True)
    return f"""As under load, {ASKED} questions of each client, but without servers: a step of a watched batch and a
step of an unwatched one in turn, each until all is answered. Beside what a step takes there is here what is done once
for an answer: a pass more for one that is cut at its limit, and reading one again whose tokens a log would cut
otherwise. What is under load beyond this is HTTP, recording, and the machine's noise.

| clients | turns | time a token, watched against unwatched | answers read again |
| --- | --- | --- | --- |
{_rows(rows)}"""


def turns(_clients: Sequence[int], _pairs: int) -> str:
    """A chat's next turn."""
    model, five, _ = embedded()
    rows = []
    for wanted in (300, 1000, 3000):
        tokens, known, fresh = next_turn(model, five, wanted)
        rows.append([str(tokens), f"{known:.2f}", f"{fresh:.2f}"])
    return f"""What an answer leaves in memory is kept for requests that begin alike, so a next turn reads what is new.
Seconds to its first token, watched, alone; medians of {TRIES} conversations.

| tokens so far | after a turn that was written here | the conversation read anew |
| --- | --- | --- |
{_rows(rows)}"""


SECTIONS: dict[str, tuple[str, Callable[[Sequence[int], int], str]]] = {
    "load": ("Under load", under_load),
    "first": ("The first token", first),
    "steps": ("One step of the engine", steps),
    "talks": ("Whole answers in the engine", talks),
    "turns": ("The next turn of a chat", turns),
}


ALL_CLIENTS = "1,8,32"
QUICK = ("steps", "talks", "turns")
"""What `make bench` times."""
WRITTEN = """Written by `python benchmarks/serving.py` (`make bench-serving`; `make bench` times the last three
sections). Each section says what it was timed on, and when one is timed by itself the others stay: compare figures
within one."""


def sections_of(page: str) -> dict[str, str]:
    """A page's sections by their titles."""
    return dict(part.split("\n\n", 1) for part in page.rstrip().split("\n\n## ")[1:])


def page_of(kept: Mapping[str, str]) -> str:
    """The page, with a place for what has not been timed."""
    parts = ["# Serving, timed", WRITTEN]
    for name, (title, _) in SECTIONS.items():
        parts.append(f"## {title}\n\n" + kept.get(title, f"Not timed yet (`--only {name}`)."))
    return "\n\n".join(parts) + "\n"


def rows_of(section: str) -> dict[tuple[str, ...], str]:
    """The rows of a section's table by what they compare and how many clients; the first two are its head."""
    found = {}
    for row in (line for line in section.splitlines() if line.startswith("| ")):
        cells = row.strip("| ").split(" | ")
        found[tuple(cells[: 1 if cells[0].isdigit() else 2])] = row
    return found


def with_kept_rows(found: str, kept: str) -> str:
    """A section where some clients were timed, with the page's rows of the others, in the page's order."""
    new, old = rows_of(found), rows_of(kept)
    table = "\n".join({**old, **new}.values())
    return found.replace("\n".join(new.values()), table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--clients", default=ALL_CLIENTS, help="how many; the page keeps its rows of others")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections to time; the page keeps its others")
    parser.add_argument("--quick", action="store_true", help=f"the same as --only {','.join(QUICK)}")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "serving.md")
    given = parser.parse_args()
    (REPO / "runs").mkdir(exist_ok=True)
    only = QUICK if given.quick else given.only.split(",")
    if unknown := set(only) - set(SECTIONS):
        parser.error(f"there is no section {min(unknown)!r}; there are: {', '.join(SECTIONS)}")
    for name in only:
        title, timed = SECTIONS[name]
        found = timed([int(n) for n in given.clients.split(",")], given.pairs)
        # A section at a time: what comes later may take an hour, or fail.
        kept = sections_of(given.out.read_text("utf-8")) if given.out.exists() else {}
        if given.clients != ALL_CLIENTS and title in kept:
            found = with_kept_rows(found, kept[title])
        kept[title] = "\n".join(machine_line.lines()) + "\n\n" + found
        given.out.write_text(page_of(kept), "utf-8")
    print(f"written to {given.out}")


if __name__ == "__main__":
    main()
