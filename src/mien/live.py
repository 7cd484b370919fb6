"""What a server asks of an engine that writes for many at once: requests come and go while others are being written.

`records.Engine` is for work that is known beforehand; this is for work that arrives. A contract only: this file does
not know torch, HTTP, or how a batch is kept.

Shapes: t tokens of an answer, m spans of a prompt, p probes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from mien.records import Intervention, ModelInfo, Sampling

if TYPE_CHECKING:
    import numpy as np

Finish = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, slots=True)
class LiveRequest:
    """One answer wanted now."""

    id: str
    """Unique among the requests that an engine has."""
    prompt_ids: tuple[int, ...]
    """What the answer follows."""
    sampling: Sampling
    seed: int
    """Of this answer's own random stream: its words do not depend on what else is being written."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are not part of it, beside the model's own."""
    top_logprobs: int = 0
    """How many alternatives to each token are wanted."""
    read: bool = False
    """Whether tokens are projected on the engine's probes."""
    spans: tuple[tuple[int, int], ...] = ()
    """Columns `[start, end)` of the prompt whose mean projections are wanted: earlier messages, read on the way."""
    interventions: tuple[Intervention, ...] = ()
    """What is done to the stream while this answer, and no other, is written. `tokens="prompt"` acts on the prompt
    only, `"response"` on what is written only."""


@dataclass(frozen=True, slots=True)
class LiveToken:
    """A token was written."""

    id: int
    text: str
    """What may be shown now: never part of a stop string or of an unfinished character, so it may be empty, and a
    later token's text may be longer than the token."""
    logprob: float
    """Nats, at temperature 1, whatever temperature was drawn at."""
    top: tuple[tuple[int, float], ...] = ()
    """Most likely tokens with their log-probabilities, likeliest first."""
    read: np.ndarray | None = None
    """`[p]` float32: projections of the token *before* this one, whose state exists only now; None at the first."""


@dataclass(frozen=True, slots=True)
class LiveEnd:
    """The answer is over; nothing follows."""

    finish: Finish
    ids: tuple[int, ...]
    """Ids of the answer, without end-of-turn and without what a stop string cut off."""
    text: str
    """The answer's whole text, blanks at its ends included."""
    rest: str = ""
    """What of the text no `LiveToken` has shown yet."""
    tokens: np.ndarray | None = None
    """`[t, p]` float32, raw: every token of `ids` projected on every probe, the last one included; None: not read."""
    spans: np.ndarray | None = None
    """`[m, p]` float32, raw: mean projection over each span asked for; NaN for an empty one."""
    fired: float | None = None
    """Share of (layer, position) slots of `Cap`s at which one changed the stream, over prompt and answer; None: there
    was no cap."""
    error: str = ""
    """What went wrong, in a sentence for the person who asked; only if `finish` is "error"."""
    cached: int = 0
    """How many tokens of the prompt were taken over from other texts that begin alike, and not run again."""


LiveEvent = LiveToken | LiveEnd


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is."""

    running: int
    waiting: int
    waiting_tokens: int
    """Prompt tokens of the requests that wait."""


class LiveEngine(Protocol):
    """Writes for many at once. Probes are fixed when it is made: columns are those of all layers, ascending."""

    @property
    def info(self) -> ModelInfo: ...

    def submit(self, request: LiveRequest, sink: Callable[[LiveEvent], None]) -> None:
        """Take a request on. `sink` gets its events, in order, `LiveEnd` last, exactly once; it is called in the
        engine's own thread and must neither block nor raise.

        Raises:
            ModelError: prompt and answer do not fit the model's positions, an id is not of it, or the engine is closed.
            FingerprintError: an intervention's direction was made for another model.
            InputError: sampling out of range, or an id that is in use.
        """

    def cancel(self, id: str) -> None:
        """Give up a request: its place is free within one step, and its `LiveEnd` says "cancelled". Unknown ids and
        ended requests are ignored."""

    def load(self) -> Load: ...

    def close(self, drain: float = 0.0) -> None:
        """Take on nothing more, finish what runs for up to `drain` seconds, cancel the rest, and stop the thread."""
