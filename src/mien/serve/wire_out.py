"""What answers look like, for the API's schema. Answers themselves are made in `answers`, as plain dicts.

This file does not know how they come about.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """As OpenAI writes errors."""

    error: ErrorDetail


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": text}
    for code, text in {
        400: "the request cannot be honoured; `param` names the field", 401: "no key, or none of this server's",
        403: "not allowed, or refused by the policy", 404: "no such model, or nothing of that name",
        408: "the body did not arrive in time", 413: "the body is too large",
        422: "not used", 429: "the queue is full; see Retry-After", 500: "the server broke",
        503: "shutting down, or too busy",
    }.items()
    if code != 422
}  # fmt: skip


class ReadingOut(BaseModel):
    """One answer on one gauge."""

    gauge: str
    projection: float | None
    sigma: float | None
    statistic: float
    alarm: Literal["turn", "drift"] | None
    since: int | None


class MienOut(BaseModel):
    """What was read while an answer was written."""

    conversation: str | None
    index: int
    of: Literal["stream", "held stream"]
    readings: list[ReadingOut]
    alarms: list[int]
    held: bool
    fired: float | None
    policy: str
    tokens: list[dict[str, Any]] | None = None


class PromptTokensDetails(BaseModel):
    cached_tokens: int


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


class ChatMessageOut(BaseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class _Choice(BaseModel):
    index: int
    finish_reason: Literal["stop", "length"]
    logprobs: dict[str, Any] | None
    mien: MienOut | None = None


class ChatChoice(_Choice):
    message: ChatMessageOut


class TextChoice(_Choice):
    text: str


class _Completion(BaseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str | None
    usage: Usage
    mien: MienOut | None = None


class ChatCompletion(_Completion):
    """A chat completion."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class TextCompletion(_Completion):
    """A completion."""

    object: Literal["text_completion"]
    choices: list[TextChoice]


class ReadAnswer(BaseModel):
    """One answer of a conversation that was read."""

    index: int
    readings: list[ReadingOut]
    tokens: list[dict[str, Any]] | None = None


class ReadConversationOut(BaseModel):
    id: str
    answers: list[ReadAnswer]
    left: dict[str, int | None]


class ReadingsOut(BaseModel):
    """Conversations, read."""

    object: Literal["list"]
    reader: str
    data: list[ReadConversationOut]
    alarms: list[int]


class ModelOut(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelsOut(BaseModel):
    object: Literal["list"]
    data: list[ModelOut]


class GaugeOut(BaseModel):
    name: str
    description: str
    side: Literal["low", "high"]
    watched: bool
    has_baseline: bool
    turn_limit: float | None
    verdict: str | None


class DirectionOut(BaseModel):
    name: str
    description: str
    layers: list[int]
    recommended_layer: int | None
    coef_range: list[float] | None
    verdict: str | None


class GaugesOut(BaseModel):
    """What can be read, and what the stream can be pushed along."""

    gauges: list[GaugeOut]
    directions: list[DirectionOut]
    policy: str
    hold: str | None
    clients_steer: bool


class AlarmOut(BaseModel):
    id: int
    conversation: str
    index: int
    request: str
    model: str
    at: float
    gauge: str
    kind: Literal["turn", "drift"]
    sigma: float | None
    statistic: float
    since: int | None


class AlarmsOut(BaseModel):
    object: Literal["list"]
    data: list[AlarmOut]


class ConversationsOut(BaseModel):
    object: Literal["list"]
    data: list[dict[str, Any]]


class TurnOut(BaseModel):
    conversation: str
    index: int
    request: str
    model: str
    at: float
    readings: list[ReadingOut]
    finish: str
    prompt_tokens: int
    completion_tokens: int
    held: bool
    fired: float | None
    messages: list[dict[str, str]] | None
    source: Literal["served", "posted"]
    owner: str


class ConversationOut(BaseModel):
    id: str
    turns: list[TurnOut]


class Health(BaseModel):
    status: str
