"""What goes to a chat endpoint and what comes back: its settings, a request, a reply, and the running bill.

This file does not know how a request travels, nor what JSON an endpoint speaks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from mien.errors import InputError
from mien.records import Message

KEY_VARIABLE = "OPENAI_API_KEY"
CHAT_PATH = "/chat/completions"


class _Frozen(BaseModel):
    # Inputs stay out of pydantic's own messages, since one of them is the API key.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, allow_inf_nan=False)


class EndpointConfig(_Frozen):
    """Settings of an endpoint. Build it with `checked`, which turns a bad value into an `InputError`."""

    base_url: str = Field(description="up to and without /chat/completions, such as https://host/v1")
    model: str = Field(min_length=1, description="the model's name at that endpoint")
    api_key: SecretStr | None = Field(None, validate_default=True, description="sent as a bearer token")
    concurrency: int = Field(8, ge=1, le=1024, description="requests in flight at once")
    requests_per_minute: float | None = Field(None, gt=0, description="requests start at least 60 / this seconds apart")
    timeout: float = Field(60.0, gt=0, le=86400, description="seconds a try may last, from connecting to the last byte")
    retries: int = Field(5, ge=0, le=100, description="further tries after the first")
    backoff: float = Field(0.5, ge=0, le=60, description="seconds before the first retry; doubles each time")
    cache_dir: Path | None = Field(None, description="folder where replies are kept and looked up")
    price: tuple[float, float] | None = Field(None, description="price of a million prompt and completion tokens")

    @field_validator("base_url")
    @classmethod
    def _usable_url(cls, value: str) -> str:
        try:
            url = httpx.URL(value.strip())
        except (httpx.InvalidURL, ValueError):
            raise ValueError("it is not a URL; give one like https://host/v1") from None
        if not value.strip().isprintable() or " " in value.strip():
            raise ValueError("it holds blanks")
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("it must begin with http:// or https:// and name a host, like http://localhost:8000/v1")
        if url.userinfo:
            raise ValueError(f"it holds a user name or password; take them out, and put the key in {KEY_VARIABLE}")
        if url.port is not None and not 0 < url.port < 65536:
            raise ValueError("its port is not between 1 and 65535")
        return value.strip().rstrip("/")

    @field_validator("api_key")
    @classmethod
    def _usable_key(cls, value: SecretStr | None) -> SecretStr | None:
        key = (os.environ.get(KEY_VARIABLE, "") if value is None else value.get_secret_value()).strip()
        # Checked here because the HTTP library would quote a header that it cannot send.
        if not all("!" <= character <= "~" for character in key):
            raise ValueError(f"it holds blanks or characters outside ASCII; copy it again, or correct {KEY_VARIABLE}")
        return SecretStr(key) if key else None

    @field_validator("price")
    @classmethod
    def _usable_price(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and min(value) < 0:
            raise ValueError("a price cannot be negative")
        return value

    @property
    def url(self) -> httpx.URL:
        """Where chat requests are posted."""
        url = httpx.URL(self.base_url)
        path = url.path.rstrip("/")
        return url.copy_with(path=path if path.endswith(CHAT_PATH) else path + CHAT_PATH)

    @property
    def host(self) -> str:
        """Host and port, for messages: it never holds a key, as a path or query could."""
        return self.url.netloc.decode("ascii")

    @property
    def key(self) -> str:
        """The API key in the clear, empty if there is none. For the request header alone."""
        return self.api_key.get_secret_value() if self.api_key else ""


class ChatRequest(_Frozen):
    """One reply wanted from an endpoint."""

    messages: tuple[Message, ...] = Field(min_length=1, description="`Message`s, or mappings with role and content")
    max_tokens: int = Field(ge=1, description="longest reply, in tokens")
    temperature: float = Field(ge=0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 leaves the distribution whole")
    seed: int | None = Field(None, description="seed of the endpoint's sampler; also tells cached samples apart")
    logprobs: int = Field(0, ge=0, le=20, description="how many likeliest tokens to return a position; 0 asks for none")
    json_schema: dict[str, Any] | None = Field(None, description="JSON schema that the reply is to follow")


@dataclass(frozen=True, slots=True)
class Reply:
    """What an endpoint answered."""

    text: str
    """The answer; the words of a refusal if the endpoint marked it as one; may be empty."""
    finish_reason: str
    """As the endpoint says it ("stop", "length", "content_filter", ...); "refusal" if it marked one; "" if unsaid."""
    prompt_tokens: int
    """As counted by the endpoint; 0 if it does not say."""
    completion_tokens: int
    """As counted by the endpoint; 0 if it does not say."""
    top_logprobs: list[dict[str, float]] = field(default_factory=list)
    """Per token of the answer: its likeliest tokens and their log-probabilities (nats). Empty if none came."""
    cached: bool = False
    """True if it was read from the disk and nothing was sent."""
    tokens: list[str] = field(default_factory=list)
    """The answer's own tokens, in step with `top_logprobs`. Empty if no log-probabilities came."""
    logprobs: list[float] = field(default_factory=list)
    """Log-probabilities (nats) of `tokens`. Empty if none came."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What an endpoint has been asked for so far. Cached replies add to `cached` and to nothing else."""

    requests: int = 0
    """HTTP requests sent, retries included."""
    retries: int = 0
    """Of these, how many repeated one that failed."""
    replies: int = 0
    """Usable replies received."""
    failures: int = 0
    """Chats given up."""
    cached: int = 0
    """Replies taken from the disk."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    uncounted: int = 0
    """Replies whose endpoint gave no token counts: with any, the tokens and the cost are too low."""
    cost: float | None = None
    """In the currency of `price`; None without one."""


_Model = TypeVar("_Model", bound=BaseModel)


def checked(model: type[_Model], what: str, values: Mapping[str, Any]) -> _Model:
    """Build a pydantic model. Raises InputError for the first wrong field: one sentence that never quotes its value."""
    try:
        return model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "value"
        reason = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{what}: {where} cannot be used: {reason[:1].lower()}{reason[1:]}.") from None
