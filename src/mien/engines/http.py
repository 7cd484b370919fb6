"""Writing with any OpenAI-compatible endpoint. It cannot read or score: neither activations nor prompt logprobs return.

This file does not know judges, nor how requests travel.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import closing
from typing import Any

import numpy as np

from mien.endpoint import Endpoint, Reply
from mien.errors import EndpointError, ModelError
from mien.records import Intervention, ModelInfo, Reading, Rollout, Sampling, ScoreRequest, WriteRequest

BATCH = 16
"""Answers a yielded batch. Fixed, so that a run that is taken up again has the same batches at any concurrency."""


class HttpEngine:
    """`records.Engine`, the writing half, over an endpoint.

    Args:
        endpoint: what writes.
        logprobs: ask for the log-probability of each written token. Off, since not every endpoint takes the question;
            those that are sent anyway are used.
    """

    def __init__(self, endpoint: Endpoint, *, logprobs: bool = False) -> None:
        self._endpoint = endpoint
        self._logprobs = int(logprobs)

    @property
    def info(self) -> ModelInfo:
        """What is known from outside: a name and a host. No direction fits it, so the sizes are 0."""
        config = self._endpoint.config
        name = f"http:{config.host}/{config.model}"
        return ModelInfo(
            id=config.model, fingerprint=name, n_layers=0, d_model=0, dtype="unknown", device=config.host, chat=True
        )

    def write(
        self,
        requests: Sequence[WriteRequest],
        sampling: Sampling,
        *,
        read: bool = True,
        done: Container[str] = frozenset(),
    ) -> Iterator[list[tuple[Rollout, Reading | None]]]:
        """Write every request, 16 a batch, in the order asked. `read` must be False.

        Ids of the rollouts are empty; `logprob` is the mean over the tokens whose log-probability came back, as the
        endpoint reports it (most report it before temperature is applied), or None.

        Raises:
            ModelError: readings or interventions are wanted; nothing was sent.
            InputError: a conversation or the sampling cannot be used; nothing was sent.
            EndpointError: an answer could not be got; the batches before it have been yielded.
        """
        if read:
            raise ModelError(
                f"{self._name} writes over HTTP, where activations cannot be read; "
                "write with read=False and read the text with an open model."
            )
        if any(request.interventions for request in requests):
            raise ModelError(f"{self._name} writes over HTTP and cannot be steered; use a model that runs here.")
        batches = [requests[start : start + BATCH] for start in range(0, len(requests), BATCH)]
        wanted = [batch for batch in batches if not all(request.id in done for request in batch)]
        answers = self._endpoint.chat_many([self._request(r, sampling) for batch in wanted for r in batch])
        return _in_batches(wanted, answers)

    def read(self, rollouts: Sequence[Rollout], layers: Sequence[int] | None = None) -> Iterator[list[Reading]]:
        """Raises ModelError: an endpoint shows no activations."""
        raise ModelError(f"{self._name} is behind HTTP and cannot be read; read the text with an open model.")

    def logprobs(
        self, requests: Sequence[ScoreRequest], interventions: Sequence[Intervention] = ()
    ) -> list[np.ndarray]:
        """Raises ModelError: a chat endpoint gives log-probabilities of its own words only."""
        raise ModelError(
            f"{self._name} is behind HTTP and cannot score a given text; use an open model, or the API judge."
        )

    @property
    def _name(self) -> str:
        return f"{self._endpoint.config.model} at {self._endpoint.config.host}"

    def _request(self, request: WriteRequest, sampling: Sampling) -> dict[str, Any]:
        return {
            "messages": request.conversation,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed & 0x7FFFFFFF,  # some endpoints hold it in 32 bits with a sign
            "logprobs": self._logprobs,
        }


def _in_batches(
    batches: Sequence[Sequence[WriteRequest]], arriving: Generator[tuple[int, Reply | EndpointError], None, None]
) -> Iterator[list[tuple[Rollout, Reading | None]]]:
    answers: dict[int, Reply | EndpointError] = {}
    start = 0
    with closing(arriving):
        for batch in batches:
            places = range(start, start + len(batch))
            start += len(batch)
            while not all(place in answers for place in places):
                place, answer = next(arriving)
                answers[place] = answer
            yield [(_rollout(r, answers.pop(place)), None) for r, place in zip(batch, places, strict=True)]


def _rollout(request: WriteRequest, answer: Reply | EndpointError) -> Rollout:
    if isinstance(answer, EndpointError):
        raise answer
    return Rollout(
        id=request.id,
        conversation=request.conversation,
        text=answer.text,
        prompt_ids=(),
        response_ids=(),
        logprob=sum(answer.logprobs) / len(answer.logprobs) if answer.logprobs else None,
        finish="length" if answer.finish_reason == "length" else "stop",
    )
