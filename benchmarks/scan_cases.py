"""Scanning, timed against the bare forward and against reading every answer anew."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from cases import Case

from mien.engines.hf_turns import read_turns
from mien.gauges import Gauge, GaugeSet, Part, bundled_gauges
from mien.logs import LoggedConversation
from mien.models import Model
from mien.records import Message
from mien.scanning.chunks import Chunk
from mien.scanning.measure import panel
from mien.scanning.quiet import ordinary_conversations
from mien.scanning.work import work


def long_talk(turns: int) -> LoggedConversation:
    """A conversation of that many short answers."""
    words = "the river runs past an old mill and then on to the sea where boats lie".split()  # noqa: SIM905
    messages = []
    for i in range(turns):
        messages += [Message("user", f"And what about number {i}?"),
                     Message("assistant", " ".join(words[(i + k) % len(words)] for k in range(12)) + ".")]  # fmt: skip
    return LoggedConversation("long", tuple(messages), tuple(range(len(messages))), None, None, "made", 1)


class ScanBench:
    """The embedded reader with its bundled gauges, and twelve ordinary conversations."""

    def __init__(self, model: Model) -> None:
        self.model = model
        found = bundled_gauges(model.info.id)
        assert found is not None
        self.gauges = found
        self.conversations = list(ordinary_conversations())[:12]
        self.ids = [model.chat.spanned(c.messages).ids for c in self.conversations]

    def scan(self, gauges: GaugeSet | None = None, of: list[LoggedConversation] | None = None) -> None:
        """Everything a scan does with a chunk, but for writing it down."""
        work(self.model, panel(gauges or self.gauges, self.model), Chunk(0, tuple(of or self.conversations)))

    def full_forward(self) -> None:
        """The whole model with its logits over the same tokens, one conversation at a time."""
        with torch.inference_mode():
            for ids in self.ids:
                self.model.net(input_ids=torch.tensor([ids]), use_cache=False)

    def every_answer_anew(self) -> None:
        """Each answer read with everything before it, as if nothing had been read yet."""
        layer = max(g.layer for g in self.gauges.gauges)
        for c in self.conversations:
            for i, message in enumerate(c.messages):
                if message.role == "assistant":
                    read_turns(self.model, [c.messages[: i + 1]], layers=[layer])

    def many(self, count: int) -> GaugeSet:
        """`count` gauges at one layer, with the axis' baseline."""
        rng, axis = np.random.default_rng(0), self.gauges.gauges[0]
        made = []
        for i in range(count):
            vector = rng.standard_normal(self.model.info.d_model).astype(np.float32)
            made.append(Gauge(f"g{i}", "", "high", (Part(axis.layer, vector),), baseline=axis.baseline))
        return replace(self.gauges, gauges=tuple(made))

    def cases(self) -> Iterator[Case]:
        """Every line of the table."""
        yield Case(
            "scan", "scan with the bundled gauges, against the whole model's forward over the same tokens",
            self.scan, self.full_forward, 0.65,
            "No logits, and a pass ends after the deepest layer that a gauge needs (20 of 30 blocks); what is left is "
            "arithmetic.",
        )  # fmt: skip
        yield Case(
            "anew", "scan, against reading every answer anew with what came before it", self.scan,
            self.every_answer_anew, None, "Each conversation is read once; the gain grows with its turns.", 2,
        )  # fmt: skip
        hundred, one = self.many(100), self.many(1)
        yield Case(
            "gauges", "100 gauges, against one", lambda: self.scan(hundred), lambda: self.scan(one), 1.05,
            "A product with [d, gauges] a token beside millions of multiplications; rows and tables grow with gauges.",
        )  # fmt: skip


def linear_line(bench: ScanBench) -> str:
    """Tokens a second at 10, 100 and 1,000 turns."""
    found = []
    for turns in (10, 100, 1000):
        talk = long_talk(turns)
        tokens = len(bench.model.chat.spanned(talk.messages).ids)
        start = time.perf_counter()
        bench.scan(of=[talk])
        found.append((turns, tokens, tokens / (time.perf_counter() - start)))
        print(f"{turns} turns: {found[-1][2]:.0f} tokens/s", flush=True)
    shown = ", ".join(f"{turns} turns ({tokens} tokens) {rate:.0f}" for turns, tokens, rate in found)
    return f"- Tokens a second by the length of one conversation: {shown}."


def cost_line(bench: ScanBench) -> str:
    """What a million answers take."""
    answers = sum(m.role == "assistant" for c in bench.conversations for m in c.messages)
    tokens = sum(map(len, bench.ids))
    start = time.perf_counter()
    bench.scan()
    rate = tokens / (time.perf_counter() - start)
    anew = sum(
        len(bench.model.chat.spanned(c.messages[: i + 1]).ids)
        for c in bench.conversations for i, m in enumerate(c.messages) if m.role == "assistant"
    )  # fmt: skip
    per = tokens / answers
    return (
        f"- A million answers like these ({per:.0f} tokens each with what is asked) at {rate:.0f} tokens a second: "
        f"{1e6 * per / rate / 3600:.0f} hours on this machine. A judge model that rates each answer in its "
        f"conversation would be sent {anew / answers:.0f} tokens an answer, {anew / answers / 1000:.2f} billion, and "
        f"its instructions on top."
    )


def memory_line() -> str:
    """Peak memory of scans of few and of many generated conversations, by a very small random reader."""
    peaks = {}
    for count in (100, 100_000):
        done = subprocess.run([sys.executable, str(Path(__file__).parent / "scan_peak.py"), str(count)], check=True,
                              capture_output=True, text=True)  # fmt: skip
        peaks[count] = json.loads(done.stdout.splitlines()[-1])["peak_mb"]
        print(f"{count} conversations: peak {peaks[count]:.0f} MB", flush=True)
    return "- Peak memory of a whole scan, a very small random reader: " + ", ".join(
        f"{count:,} conversations {peak:.0f} MB" for count, peak in peaks.items()
    ) + "."  # fmt: skip
