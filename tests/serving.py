"""A real server in a thread, on a free port, with what tests ask of it.

with serving(model, policy="alert") as api: api.post("/v1/chat/completions", ...)
"""

from __future__ import annotations

import contextlib
import functools
import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

import tiny
from mien.card import Card
from mien.directions import Direction, save_direction
from mien.engines.hf_turns import read_turns
from mien.gauges import Gauge, GaugeSet, Part
from mien.home import folder_for
from mien.jobs.baseline import set_baseline
from mien.models import Model, wrap
from mien.records import Message
from mien.serve.app import create_app
from mien.serve.conductor import Limits
from mien.serve.running import Runner, listen
from mien.serve.server import Server, Settings

LAYER = 2
GREEDILY_STOPS = 43
"""A seed whose greedy answers come to an end."""
ASK = [{"role": "user", "content": "What now?"}]


class Api(httpx.Client):
    """A client of a server that a test may look into."""

    def __init__(self, server: Server, runner: Runner, port: int) -> None:
        super().__init__(base_url=f"http://127.0.0.1:{port}", timeout=60)
        self.server, self.runner, self.port = server, runner, port

    @property
    def v1(self) -> str:
        """What other clients are pointed at."""
        return f"http://127.0.0.1:{self.port}/v1"

    def chat(self, messages: list[dict[str, str]] | None = None, **more: Any) -> httpx.Response:
        """Ask for a chat completion."""
        body = {
            "model": self.server.name,
            "messages": ASK if messages is None else messages,
            "max_tokens": 7,
            "temperature": 0,
            **more,
        }
        return self.post("/v1/chat/completions", json=body)

    def events(self, **more: Any) -> list[dict[str, Any]]:
        """Ask for a stream; its chunks. It must end as OpenAI's do."""
        response = self.chat(stream=True, **more)
        assert response.status_code == 200, response.text
        lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
        assert lines[-1] == "[DONE]"
        return [json.loads(line) for line in lines[:-1]]


@contextlib.contextmanager
def serving(model: Model, *, limits: Limits | None = None, **settings: Any) -> Iterator[Api]:
    """A server that is listening; stopped, and its engine's hooks gone, on leaving."""
    settings = {"database": "sqlite://", "port": 0, "ui": False, "drain": 1.0, **settings}
    server = Server(model, Settings(limits=limits or Limits(), **settings))
    with listen("127.0.0.1", 0) as socket:
        up = threading.Event()
        runner = Runner(create_app(server), server, up.set)
        thread = threading.Thread(target=runner.run, args=([socket],), daemon=True)
        thread.start()
        assert up.wait(30)
        try:
            with Api(server, runner, socket.getsockname()[1]) as api:
                yield api
        finally:
            runner.stop()
            thread.join(30)
            assert not thread.is_alive()


def until(seen: Callable[[], bool], timeout: float = 30) -> bool:
    """Whether it comes to be seen in time."""
    end = time.monotonic() + timeout
    pause = threading.Event()
    while time.monotonic() < end:
        if seen():
            return True
        pause.wait(0.002)
    return False


@functools.cache
def brief() -> Model:
    """Says letters and blanks, and stops after some; greedily, too."""
    return _spelling(GREEDILY_STOPS, blanks=True)


def endless(seed: int = 0) -> Model:
    """Says letters, and never stops by itself."""
    return _spelling(seed, blanks=False)


def _spelling(seed: int, blanks: bool) -> Model:
    """A random model that can say nothing but letters (and, with blanks, a blank and the end)."""
    net, tokenizer = tiny.tiny_net(seed), tiny.tiny_tokenizer()
    ids = [tokenizer.convert_tokens_to_ids(c) for c in "abcdefghijklmnopqrstuvwxyz"]
    if blanks:
        ids += [tokenizer.convert_tokens_to_ids("\u0120"), tokenizer.eos_token_id]
    head = torch.nn.Linear(net.config.hidden_size, net.config.vocab_size)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(-1000.0)
        # Wide, so that greedy choices have no near-ties.
        head.weight[ids] = torch.randn(len(ids), net.config.hidden_size, generator=torch.Generator().manual_seed(seed))
        head.bias[ids] = 0
    net.lm_head = head.eval()
    net.config.max_position_embeddings = 4096  # positions rotate, so there are as many as are wanted
    return wrap(net, tokenizer, "tiny")


def talk(n: int, seed: int, words: tuple[str, ...] = tiny.WORDS) -> list[dict[str, str]]:
    """Messages of a conversation of `n` answers."""
    chance = random.Random(seed)
    messages = []
    for _ in range(n):
        messages += [
            {"role": "user", "content": chance.choice(tiny.QUESTIONS)},
            {"role": "assistant", "content": " ".join(chance.choices(words, k=chance.randint(3, 9)))},
        ]
    return messages


def gauges_of(model: Model, folder: Path) -> GaugeSet:
    """`loud`, alarmed by capitals; `odd`, of two layers and of the question, alarmed by nothing in particular."""
    quiet = folder / "quiet.jsonl"
    quiet.write_text("".join(json.dumps({"messages": talk(5, seed)}) + "\n" for seed in range(30)))
    unit = loudness(model)
    other = np.random.default_rng(0).standard_normal((2, model.info.d_model)).astype(np.float32)
    found = GaugeSet(
        model.info.id, model.info.fingerprint, model.info.d_model,
        (
            Gauge("loud", "writes in capitals", "high", (Part(LAYER, unit),)),
            Gauge("odd", "nothing", "low", (Part(0, other[0]), Part(1, other[1], "asked")), "fitted"),
        ),
    )  # fmt: skip
    return set_baseline(found, model, [quiet])


def loudness(model: Model) -> np.ndarray:
    """`[d]`: unit vector from small letters to capitals."""
    sides = [(Message("user", "What now?"), Message("assistant", text)) for text in
             ("RED SUN TEA OWL FIG MAP", "red sun tea owl fig map")]  # fmt: skip
    a, b = read_turns(model, sides, layers=[LAYER])
    found = a.means[1, 0] - b.means[1, 0]
    return np.asarray(found / np.linalg.norm(found), np.float32)


def keep_direction(model: Model, name: str = "shout", low: float = -1.0, high: float = 1.0) -> Direction:
    """A direction of loudness at one layer, kept in the home of the test, with quantiles evenly from low to high."""
    vector = torch.zeros(model.n_layers, model.info.d_model)
    vector[LAYER] = 3 * torch.from_numpy(loudness(model))
    quantiles = torch.linspace(low, high, 21).repeat(model.n_layers, 1)
    card = Card(
        kind="persona_vector", name=name, description="writes in capitals", sign="larger is louder",
        model=model.info.id, fingerprint=model.info.fingerprint, n_layers=model.n_layers, d_model=model.info.d_model,
        recommended_layer=LAYER,
    )  # fmt: skip
    direction = Direction(vector, card, quantiles)
    save_direction(direction, folder_for(model.info.id, name))
    return direction
