"""Frozen types that cross stages. They are the contract: a stage may be replaced, these stay.

This file does not know torch, tokenizers, HTTP or the disk; arrays are numpy's.
Shapes use: b batch, s sequence, l layer, d width.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Role = Literal["system", "user", "assistant"]
Tokens = Literal["all", "prompt", "response"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    """Who speaks."""
    content: str
    """What is said, as plain text."""


Conversation = tuple[Message, ...]
"""Messages in order. The answer to be written is not part of it."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One generated answer with the conversation before it and the ids it was made of."""

    id: str
    """Stable key, unique in its run: it says what was asked, not when."""
    conversation: Conversation
    """What came before the answer."""
    text: str
    """The answer, without end-of-turn token and without what a stop string cut off."""
    prompt_ids: tuple[int, ...]
    """Ids of the conversation up to where the answer begins."""
    response_ids: tuple[int, ...]
    """Ids of the answer. Joined to `prompt_ids`, never re-tokenised."""
    logprob: float | None
    """Mean log-probability the model gave its answer as it wrote it, nats per token, temperature 1; None: unknown."""
    finish: Literal["stop", "length"]
    """Ended by itself, or cut at the token limit."""


@dataclass(frozen=True, slots=True)
class Reading:
    """The residual stream of one rollout, averaged over its response tokens at every layer that was read."""

    id: str
    """The rollout's id."""
    mean: np.ndarray
    """`[l, d]` float32, raw units: mean over all response tokens, the last one included, end-of-turn excluded."""
    n_tokens: int
    """How many tokens the mean is over; 0 for an empty answer, whose mean is zeros and must not be used."""


@dataclass(frozen=True, slots=True)
class Score:
    """A judge's verdict on one rollout. A judge that cannot score keeps the record with `trait=None`."""

    id: str
    """The rollout's id."""
    trait: float | None
    """0-100, how strongly the answer shows the trait; 50 is the boundary. None is missing, never 0."""
    coherence: float | None
    """0-100, whether the answer is sound text; 50 is the boundary. None is missing."""
    raw: float | None = None
    """What the judge measured before calibration (nats per token for the likelihood judge)."""
    logprob: float | None = None
    """Mean log-probability of the answer under the writer with nothing done to it, nats per token."""
    missing: str | None = None
    """Why a score is missing, in a few words."""
    remark: str | None = None
    """What a reader should know about how the score came about, in a few words; None: in the usual way."""


@dataclass(frozen=True, slots=True)
class WriteRequest:
    """One answer wanted from an engine."""

    id: str
    """Becomes the rollout's id."""
    conversation: Conversation
    """What the answer follows."""
    seed: int
    """Seed of this answer's own random stream: its words do not depend on its neighbours in a batch."""
    interventions: tuple[Intervention, ...] = ()
    """What is done to the residual stream while this answer, and no other, is written."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn."""

    max_tokens: int = 64
    """Longest answer, in tokens."""
    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; 1 leaves the distribution whole."""


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """An answer whose log-probability after some conversation is wanted."""

    conversation: Conversation
    """What the answer is taken to follow. Empty: the text is running text, scored after its first token."""
    text: str
    """The answer."""
    response_ids: tuple[int, ...] | None = None
    """The answer's ids, if they are the scoring model's own; None: the text is tokenised."""
    max_tokens: int | None = None
    """Score only this many tokens from the start."""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a direction must know about the model it belongs to."""

    id: str
    """Hub id, path or embedded name it was loaded by."""
    fingerprint: str
    """Hash of the config and of a slice of the weights."""
    n_layers: int
    d_model: int
    dtype: str
    device: str
    chat: bool
    """False for a base model read through a plain `User:`/`Assistant:` transcript."""
    under: str | None = None
    """Fingerprint of the model under its adapters; None: it has none."""

    def takes(self, fingerprint: str) -> bool:
        """Whether what was made for a model of that fingerprint may be used: the model itself, or the one under it."""
        return fingerprint in (self.fingerprint, self.under)


@runtime_checkable
class Intervention(Protocol):
    """Something done to the residual stream while a model runs. `rollouts` and engines know only this."""

    @property
    def layers(self) -> tuple[int, ...]:
        """0-based layers whose block output is edited."""

    @property
    def tokens(self) -> Tokens:
        """Which positions are edited."""

    def edit(self, layer: int, h: Tensor) -> Tensor:
        """New value of the residual `h` `[..., d]` at `layer`; pure, any device and dtype."""


class Judge(Protocol):
    """Scores answers. What it cannot score it keeps, as missing."""

    @property
    def kind(self) -> Literal["likelihood", "api"]:
        """Which of the two; decides whether scores are calibrated on the rollouts or come calibrated."""

    @property
    def model(self) -> str:
        """The judging model."""

    @property
    def identity(self) -> str:
        """Everything its scores depend on, in a line: scores of another identity are never reused."""

    def followed(self, rollouts: Sequence[Rollout], written_under: Sequence[int]) -> list[Score]:
        """Whether each answer followed its side of the pair it was written under: what keeps or drops it."""

    def measure(self, rollouts: Sequence[Rollout], written_under: Sequence[int | None], steered: bool) -> list[Score]:
        """How strongly each answer shows the trait, whatever it was written under; one score a rollout, in order.

        `written_under` is the instruction pair each was written under (None: none); `steered` says that the answers
        were written with interventions, so that their own log-probabilities are not the plain model's.
        """


class Engine(Protocol):
    """Writes, reads and scores text with one model. Stages above know this and no engine by name.

    An engine that cannot read (an HTTP endpoint) raises `ModelError` from `read`; one that cannot score
    does so from `logprobs`.
    """

    @property
    def info(self) -> ModelInfo:
        """The model behind the engine."""

    def write(
        self,
        requests: Sequence[WriteRequest],
        sampling: Sampling,
        *,
        read: bool = True,
        done: Container[str] = frozenset(),
    ) -> Iterator[list[tuple[Rollout, Reading | None]]]:
        """Write every request. Yields one list a batch, in an order that depends on the requests alone.

        A batch whose ids are all in `done` is passed over, so that a run goes on with the batches it would have had.
        """

    def read(self, rollouts: Sequence[Rollout], layers: Sequence[int] | None = None) -> Iterator[list[Reading]]:
        """Read texts that exist already (second pass, or text from elsewhere); same numbers as `write(read=True)`."""

    def logprobs(
        self, requests: Sequence[ScoreRequest], interventions: Sequence[Intervention] = ()
    ) -> list[np.ndarray]:
        """Per-token log-probabilities (nats) of each answer, `[n_tokens]` float32, in the order asked."""
