"""What is timed against what. Each case gives two callables over the same work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from mien.card import Card
from mien.chat import ask
from mien.directions import Direction
from mien.engines.hf import HfEngine
from mien.interventions import Add, Cap, steered
from mien.judge import LikelihoodJudge
from mien.models import load
from mien.records import Rollout, Sampling, WriteRequest
from mien.spec import load_library, load_neutral


@dataclass(frozen=True)
class Case:
    """`ours` should take at most `goal` times as long as `against`."""

    name: str
    what: str
    ours: Callable[[], object]
    against: Callable[[], object]
    goal: float | None
    bound: str
    repeats: int | None = None


class Bench:
    """The embedded model, 32 texts of about 130 tokens, and everything timed on them."""

    def __init__(self) -> None:
        self.model = load()
        self.engine = HfEngine(self.model, max_rows=16)
        self.writer = HfEngine(self.model)
        self.spec = load_library("optimistic")
        texts = load_neutral().texts
        self.rollouts = [self.rollout(i, texts[i % len(texts)]) for i in range(32)]
        self.middle = self.model.n_layers // 2 - 1
        self.direction = self._direction()

    def rollout(self, i: int, text: str) -> Rollout:
        """A text as the answer to a short prompt of its own."""
        conversation = ask(f"Passage {i}: go on.")
        chat = self.model.chat
        return Rollout(str(i), conversation, text, chat.prompt_ids(conversation), chat.response_ids(text), None, "stop")

    def _direction(self) -> Direction:
        info = self.model.info
        card = Card(
            kind="derived", name="bench", description="random", sign="none", model=info.id,
            fingerprint=info.fingerprint, n_layers=info.n_layers, d_model=info.d_model, recommended_layer=self.middle,
        )  # fmt: skip
        vector = torch.randn(info.n_layers, info.d_model, generator=torch.Generator().manual_seed(0))
        return Direction(vector, card)

    def batches(self) -> Iterator[torch.Tensor]:
        """The ids of the batches that reading runs, padded as reading pads them."""
        order = sorted(self.rollouts, key=lambda r: len(r.prompt_ids) + len(r.response_ids))
        for start in range(0, len(order), 16):
            rows = [r.prompt_ids + r.response_ids for r in order[start : start + 16]]
            ids = torch.full((len(rows), max(map(len, rows))), self.model.chat.pad_id)
            for i, row in enumerate(rows):
                ids[i, : len(row)] = torch.tensor(row)
            yield ids

    def bare(self) -> None:
        """The base model's forward, nothing read."""
        with torch.inference_mode():
            for ids in self.batches():
                self.model.blocks.backbone(input_ids=ids, use_cache=False)

    def reading(self) -> None:
        """All layers."""
        list(self.engine.read(self.rollouts))

    def reading_half(self) -> None:
        """Layers up to the middle one."""
        list(self.engine.read(self.rollouts, range(self.middle + 1)))

    def published_loop(self) -> None:
        """One text at a time, all hidden states, logits of every position; means over the response."""
        with torch.inference_mode():
            for r in self.rollouts:
                ids = torch.tensor([r.prompt_ids + r.response_ids])
                states = self.model.net(input_ids=ids, output_hidden_states=True).hidden_states
                for state in states:
                    state[:, len(r.prompt_ids) :].mean(1)

    def requests(self, count: int) -> list[WriteRequest]:
        """Rollouts of a trait: `count` prompts, both sides of every pair in turn."""
        pairs, questions = self.spec.instructions, self.spec.extract_questions
        asked = [(q, text) for q in questions for pair in pairs for text in (pair.pos, pair.neg)]
        return [WriteRequest(str(i), ask(q, text), i) for i, (q, text) in enumerate(asked[:count])]

    def write(self, count: int, read: bool, tokens: int = 32) -> list[Rollout]:
        """Write `count` answers."""
        batches = self.writer.write(self.requests(count), Sampling(tokens, 0.7), read=read)
        return [rollout for batch in batches for rollout, _ in batch]

    def generate(self, rows: int, kind: str) -> None:
        """Decode 24 tokens with transformers' own `generate`, under an intervention or none."""
        ids = torch.full((rows, 32), 100)
        acts = {"none": [], "add": [Add(self.direction)], "cap": [Cap(self.direction, low=0.0)]}[kind]
        with torch.inference_mode(), steered(self.model, *acts):
            self.model.net.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), min_new_tokens=24, max_new_tokens=24,
                do_sample=False, pad_token_id=0,
            )  # fmt: skip

    def extract_rollouts(self, second_pass: bool) -> None:
        """The rollouts part of an extract: write, read, judge."""
        rollouts = self.write(50, read=not second_pass, tokens=48)
        if second_pass:
            list(self.writer.read(rollouts))
        self.judge(rollouts)

    def judge(self, rollouts: list[Rollout]) -> None:
        """Whether each followed its instruction."""
        judge = LikelihoodJudge(self.writer, self.writer, self.spec)
        judge.followed(rollouts, [(int(r.id) // 2) % len(self.spec.instructions) for r in rollouts])

    def cases(self) -> Iterator[Case]:
        """Every line of the table."""
        yield Case(
            "read", "reading given texts, all layers, against the bare forward over the same batches, batch 16",
            self.reading, self.bare, 1.05,
            "Sums over spans in float32, without copying a layer's states; no mask, padding stands on the right.",
        )  # fmt: skip
        yield Case(
            "half", "the same when the deepest layer wanted is the middle one", self.reading_half, self.bare, 0.60,
            "Half of the blocks; the forward pass is left by an exception after the deepest block.",
        )  # fmt: skip
        yield Case(
            "loop",
            "reading, against the published loop (one text at a time, all hidden states, full logits), same dtype",
            self.reading, self.published_loop, 0.75,
            "Saved: the logits, a quarter of this model's arithmetic, and small matrices; a small model on two cores "
            "gains little more from batching, because one text of 130 tokens fills the arithmetic units already. Where "
            "bfloat16 is the faster dtype, mien's default gains its speed-up over a float32 loop on top; here it is "
            "slower, and both are float32.",
        )  # fmt: skip
        yield Case(
            "write", "writing with reading, against writing alone, 50 answers",
            lambda: self.write(50, True), lambda: self.write(50, False), 1.05,
            "One small copy a layer and a token; one more pass for answers that end at the limit.",
        )  # fmt: skip
        for kind in ("add", "cap"):
            for rows in (1, 32):
                yield Case(
                    f"{kind}{rows}", f"one {kind.capitalize()}, against none, a token, batch {rows}",
                    lambda kind=kind, rows=rows: self.generate(rows, kind),
                    lambda rows=rows: self.generate(rows, "none"), 1.03,
                    "One block's output is edited; the hook asks the cache's length once a pass.",
                )  # fmt: skip
        yield Case(
            "extract", "an extract's rollouts (write, read, judge), against the same with a second reading pass",
            lambda: self.extract_rollouts(False), lambda: self.extract_rollouts(True), 0.85,
            "The second pass reads prompt and answer again; what is saved is that pass.", 3,
        )  # fmt: skip
        written = self.write(50, read=False, tokens=48)
        yield Case(
            "judge", "judging rollouts by likelihood, against writing them",
            lambda: self.judge(written), lambda: self.write(50, False, 48), 0.50,
            "One pass over the answer under the other side's prompt; the writing side's log-probability is kept from "
            "writing. Prompts that begin alike share that pass, and short answers do not wait for long ones. What is "
            "left is arithmetic: as many tokens as were written, and the logits of all of them.",
        )  # fmt: skip
