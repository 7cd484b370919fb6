"""Requests as they come over the wire: shapes and types only, as OpenAI's, with one field more, `mien`.

What a request means, and whether this server can honour it, is checked in `checking`. This file does not know models.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mien.records import Tokens

SEED = 2**63
"""Both ends count: as a float, which is what many readers of the schema know numbers as, 2**63 - 1 is 2**63."""


def _whole(value: Any) -> Any:
    """JSON knows one kind of number: 5.0 is 5."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Limits stand before the validator, or the schema would not tell them.
Whole = Annotated[int, BeforeValidator(_whole)]
Some = Annotated[int, Field(ge=1), BeforeValidator(_whole)]
Few = Annotated[int, Field(ge=1, le=128), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=-SEED, le=SEED), BeforeValidator(_whole)]
Top20 = Annotated[int, Field(ge=0, le=20), BeforeValidator(_whole)]
Top5 = Annotated[int, Field(ge=0, le=5), BeforeValidator(_whole)]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=10_000_000)]


class _In(BaseModel):
    """Nothing is guessed: a number in quotes is no number, and a field that is not known is refused by its name."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class Part(BaseModel):
    """A part of a message. Only text can be read here; others are let in so that they can be refused by name."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: str = Field(description="`text`")
    text: Text | None = None


class WireMessage(_In):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Text | list[Part] | None = None
    name: str | None = Field(None, description="taken and ignored: chat templates have no place for it")
    refusal: str | None = None
    tool_calls: list[Any] | None = Field(None, description="only empty or null")
    tool_call_id: str | None = None
    function_call: dict[str, Any] | None = Field(None, description="only null")
    audio: dict[str, Any] | None = Field(None, description="only null")
    annotations: list[Any] | None = Field(None, description="taken and ignored")


class WireIntervention(_In):
    """Something done to the residual stream while the answer is written: exactly one of `add`, `cap`, `ablate`."""

    add: Name | None = Field(None, description="direction that is added")
    cap: Name | None = Field(None, description="direction whose projection is held in a range")
    ablate: Name | None = Field(None, description="direction that is taken out")
    coef: float | None = Field(None, description="of `add`; 1 is the whole difference of means. Default 1")
    low: float | Name | None = Field(None, description="of `cap`: raw units, or a percentile such as `p25`")
    high: float | Name | None = Field(None, description="of `cap`: raw units, or a percentile such as `p75`")
    layers: list[Whole] | None = Field(None, min_length=1, max_length=512, description="default: the recommended layer")
    tokens: Tokens = Field("all", description="which tokens are acted on")


class MienOptions(_In):
    """What this server can do beyond OpenAI's."""

    gauges: list[Name] | Literal["all"] | None = Field(
        None, description="gauges to answer with; default: those that the server watches"
    )
    interventions: list[WireIntervention] = Field(default_factory=list, max_length=16)
    tokens: bool = Field(False, description="answer with every token's projection, too")
    conversation: str | None = Field(
        None, pattern=r"^[\x21-\x7e]{1,128}$", description="what the history knows this conversation by"
    )
    hold: bool | None = Field(None, description="hold this answer, or do not; default: as the server's policy says")


class StreamOptions(_In):
    include_usage: bool | None = None
    include_obfuscation: bool | None = Field(None, description="taken and ignored")


class ResponseFormat(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    type: str = Field(description="`text`")


class _Drawn(_In):
    """What chat completions and completions have in common."""

    model: Name
    max_tokens: Some | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: Few | None = None
    stop: str | list[str] | None = None
    seed: Seed | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="taken and ignored")
    frequency_penalty: float | None = Field(None, description="only 0")
    presence_penalty: float | None = Field(None, description="only 0")
    logit_bias: dict[str, float] | None = Field(None, description="only empty")
    mien: MienOptions | None = None


class ChatRequest(_Drawn):
    """`POST /v1/chat/completions`."""

    messages: list[WireMessage] = Field(min_length=1, max_length=10_000)
    max_completion_tokens: Some | None = Field(None, description="the newer name of `max_tokens`")
    logprobs: bool | None = None
    top_logprobs: Top20 | None = None
    response_format: ResponseFormat | None = Field(None, description="only `text`")
    metadata: dict[str, Any] | None = Field(None, description="`conversation_id` names the conversation")
    tools: list[Any] | None = Field(None, description="only empty")
    tool_choice: Any = Field(None, description="only `none` or `auto`")
    functions: list[Any] | None = Field(None, description="only empty")
    function_call: Any = Field(None, description="only `none` or `auto`")
    parallel_tool_calls: bool | None = Field(None, description="taken and ignored")
    modalities: list[str] | None = Field(None, description="only `text`")
    audio: dict[str, Any] | None = Field(None, description="only null")
    prediction: dict[str, Any] | None = Field(None, description="only null")
    web_search_options: dict[str, Any] | None = Field(None, description="only null")
    reasoning_effort: str | None = Field(None, description="only `none`")
    store: bool | None = Field(None, description="only false; the server's owner decides what is kept")
    service_tier: str | None = Field(None, description="taken and ignored")
    safety_identifier: str | None = Field(None, description="taken and ignored")
    prompt_cache_key: str | None = Field(None, description="taken and ignored")


class CompletionRequest(_Drawn):
    """`POST /v1/completions`."""

    prompt: Text | list[str] | list[Whole] | list[list[Whole]]
    logprobs: Top5 | None = None
    echo: bool | None = Field(None, description="only false")
    suffix: str | None = Field(None, description="only null")
    best_of: Some | None = Field(None, description="only 1 or `n`")


class ReadMessage(_In):
    """One message of a conversation that is to be read."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]


class ReadConversation(_In):
    id: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,128}$")
    messages: list[ReadMessage] = Field(min_length=1, max_length=10_000)


class ReadingsRequest(_In):
    """`POST /v1/readings`: conversations that any model wrote. Either `messages` or `conversations`."""

    messages: list[ReadMessage] | None = Field(None, min_length=1, max_length=10_000)
    conversations: list[ReadConversation] | None = Field(None, min_length=1, max_length=256)
    id: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,128}$", description="of the conversation in `messages`")
    model: Name | None = Field(None, description="who wrote the answers, for the history")
    gauges: list[Name] | Literal["all"] | None = Field(None, description="default: those that the server watches")
    tokens: bool = Field(False, description="every token's projection, too")
    record: bool = Field(False, description="keep the readings in the history, with their alarms")
