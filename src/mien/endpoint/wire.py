"""The JSON that OpenAI-compatible chat endpoints speak: request -> body, body -> reply.

This file does not know connections, retries or the disk.
"""

from __future__ import annotations

import json
import math
from typing import Any

from mien.endpoint.records import ChatRequest, Reply
from mien.errors import InputError

SHOWN = 80
"""How many characters of an endpoint's words a message quotes."""


class Garbage(ValueError):
    """What came back is not a chat completion; `str()` says what is wrong with it, as a verb phrase."""


def encode(request: ChatRequest, model: str) -> bytes:
    """The request's body. Fields at their defaults are left out, since some endpoints refuse those they do not know.

    Raises InputError if `json_schema` is not JSON.
    """
    payload: dict[str, Any] = {
        "model": model,
        "messages": [{"role": message.role, "content": message.content} for message in request.messages],
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
    }
    if request.top_p != 1.0:
        payload["top_p"] = request.top_p
    if request.seed is not None:
        payload["seed"] = request.seed
    if request.logprobs:
        payload |= {"logprobs": True, "top_logprobs": request.logprobs}
    if request.json_schema is not None:
        schema = {"name": "reply", "schema": request.json_schema}
        payload["response_format"] = {"type": "json_schema", "json_schema": schema}
    try:
        return json.dumps(payload, sort_keys=True, allow_nan=False).encode("ascii")
    except (TypeError, ValueError, RecursionError):
        raise InputError("chat request: json_schema cannot be used: it holds something that is not JSON.") from None


def _decode(content: bytes) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        raise Garbage("answered with something that is not JSON") from None
    if not isinstance(document, dict):
        raise Garbage("answered with JSON that is not an object")
    return document


def read_reply(content: bytes) -> Reply:
    """The first choice of a chat completion. Raises Garbage if it is none.

    Log-probabilities of another shape than OpenAI's count as none: the answer is still good.
    """
    document = _decode(content)
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise Garbage("answered with JSON that has no choices[0].message")
    finish = choice.get("finish_reason")
    finish = finish if isinstance(finish, str) else ""
    text = _content(message.get("content"))
    refusal = message.get("refusal")
    if not text and isinstance(refusal, str) and refusal:
        text, finish = refusal, "refusal"
    if text is None:
        # An answer used up by hidden reasoning, or filtered, comes without content, but it does say how it ended.
        if not finish:
            raise Garbage("answered with a message that has no content")
        text = ""
    usage = document.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens, logprobs, top = _logprobs(choice.get("logprobs"))
    return Reply(
        text=_clean(text),
        finish_reason=_clean(finish),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        top_logprobs=top,
        tokens=tokens,
        logprobs=logprobs,
    )


def error_of(content: bytes) -> tuple[str, int | None]:
    """An error body's message and its own status code (some gateways send it with HTTP status 200); else the body."""
    try:
        error = _decode(content).get("error")
    except Garbage:
        error = None
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        code = error.get("code")
        return error["message"], code if isinstance(code, int) else None
    return error if isinstance(error, str) else content.decode("utf-8", "replace"), None


def quote(text: str, key: str = "") -> str:
    """The beginning of an endpoint's words, on one line, printable, quoted, without the API key."""
    text = text.replace(key, "***") if key else text
    line = " ".join("".join(c if c.isprintable() else " " for c in text[: 50 * SHOWN]).split())
    return f'"{line[:SHOWN]}"' if line else "nothing"


def _content(content: object) -> str | None:
    if isinstance(content, list):
        texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else None


def _clean(text: str) -> str:
    # JSON may spell half a surrogate pair, which Python reads and no file can hold.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _logprobs(found: object) -> tuple[list[str], list[float], list[dict[str, float]]]:
    entries = found.get("content") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        return [], [], []
    tokens: list[str] = []
    logprobs: list[float] = []
    tops: list[dict[str, float]] = []
    for entry in entries:
        own = _pair(entry)
        candidates = entry.get("top_logprobs") if isinstance(entry, dict) else None
        if own is None:
            return [], [], []
        tokens.append(own[0])
        logprobs.append(own[1])
        top: dict[str, float] = {}
        for token, logprob in filter(None, map(_pair, candidates if isinstance(candidates, list) else ())):
            # Byte pieces of one character are spelled alike: their probabilities add.
            top[token] = _log_sum(top[token], logprob) if token in top else logprob
        tops.append(top)
    return tokens, logprobs, tops


def _pair(entry: object) -> tuple[str, float] | None:
    token, logprob = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        return None
    # Rounding may lift a probability a hair above 1; anything further is no log-probability.
    if not -math.inf < logprob < 1e-3:
        return None
    return _clean(token), min(0.0, max(float(logprob), -9999.0))


def _log_sum(a: float, b: float) -> float:
    return min(0.0, max(a, b) + math.log1p(math.exp(-abs(a - b))))
