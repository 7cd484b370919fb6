"""From a request's shape to an order: what it means, and what of it this server cannot do, refused by name.

This file does not know HTTP or engines.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from mien.errors import MienError
from mien.models import Model
from mien.records import Conversation, Intervention, Message, Role, Sampling
from mien.serve.catalog import Catalog, caps
from mien.serve.conductor import Limits
from mien.serve.conversations import given_id
from mien.serve.lengths import Lengths
from mien.serve.orders import Order, Wanted
from mien.serve.problems import Problem, refused
from mien.serve.wire import (
    ChatRequest,
    CompletionRequest,
    MienOptions,
    Part,
    ReadMessage,
    WireIntervention,
    WireMessage,
)

_MOST_STOPS = 4
_MOST_ACTS = 256
"""Interventions that are remembered."""
_ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class Checker:
    """Knows what is served, and makes orders for it."""

    def __init__(self, model: Model, catalog: Catalog, limits: Limits, served: str, lengths: Lengths) -> None:
        self._model, self._catalog, self._limits, self.served = model, catalog, limits, served
        self._lengths = lengths
        # Requests that ask for the same share it, and with it the rows that it has made for its device.
        self._acts: OrderedDict[str, tuple[Intervention, ...]] = OrderedDict()

    def chat(self, request: ChatRequest, id: str, owner: str) -> Order:
        """Raises: Problem: it cannot be honoured."""
        self.model(request.model)
        _refuse_of_chat(request)
        messages = conversation_of(request.messages)
        if messages[-1].role != "user":
            raise refused("messages", "the last message must be the user's.")
        if request.max_tokens and request.max_completion_tokens and request.max_tokens != request.max_completion_tokens:
            raise refused("max_tokens", "max_completion_tokens says another number; give one of them.")
        most = request.max_completion_tokens or request.max_tokens
        if request.top_logprobs is not None and not request.logprobs:
            raise refused("top_logprobs", "it needs logprobs to be true.")
        called = request.mien.conversation if request.mien else None
        said = (request.metadata or {}).get("conversation_id")
        if called is None and isinstance(said, str) and said:
            called = given_id(said)
        return Order(
            id, self._sampling(request, most, "max_tokens" if request.max_tokens else "max_completion_tokens"),
            messages, exact=most is not None, n=self._n(request), seed=request.seed, stop=_stops(request.stop),
            top_logprobs=request.top_logprobs or 0, wanted=self.wanted(request.mien), conversation=called, owner=owner,
        )  # fmt: skip

    def completion(self, request: CompletionRequest, id: str, owner: str) -> list[Order]:
        """One order a prompt.

        Raises:
            Problem: it cannot be honoured.
        """
        self.model(request.model)
        _refuse_of_both(request)
        for name, value in (("echo", request.echo), ("suffix", request.suffix)):
            if value:
                raise refused(name, "this server does not do that; leave it out.", "unsupported_parameter")
        n = self._n(request)
        if request.best_of not in (None, 1, n):
            raise refused("best_of", "this server writes as many answers as it gives; leave it out.")
        prompts = self._prompts(request.prompt)
        if len(prompts) * n > 4 * self._limits.choices:
            raise refused("prompt", f"at most {4 * self._limits.choices} answers to one request, n counted.")
        # What OpenAI's server takes for a completion whose length is not said.
        most = 16 if request.max_tokens is None else request.max_tokens
        sampling = self._sampling(request, most, "max_tokens")
        return [
            Order(
                id if i == 0 else f"{id}-p{i}", sampling, None, ids, request.max_tokens is not None, n, request.seed,
                _stops(request.stop), request.logprobs or 0, self.wanted(request.mien),
                request.mien.conversation if request.mien else None, owner,
            )
            for i, ids in enumerate(prompts)
        ]  # fmt: skip

    def model(self, name: str) -> None:
        """Raises: Problem: no such model is served."""
        if name != self.served:
            raise Problem(404, f"The model {name!r} is not served here; {self.served!r} is.", param="model",
                          code="model_not_found")  # fmt: skip

    def wanted(self, options: MienOptions | None) -> Wanted:
        """What the extension field asks.

        Raises:
            Problem: a name that is not known, or numbers that cannot be used.
        """
        if options is None:
            return Wanted()
        acts: list[Intervention] = []
        for i, one in enumerate(options.interventions):
            acts += self._shared(one, f"mien.interventions[{i}]")
        return Wanted(True, self.gauges(options.gauges, "mien.gauges"), options.tokens, tuple(acts), options.hold)

    def gauges(self, names: Sequence[str] | str | None, param: str) -> tuple[int, ...]:
        """Raises: Problem: no gauge of a name."""
        try:
            return self._catalog.chosen(names)
        except MienError as error:
            raise refused(param, str(error)) from error

    def _shared(self, one: WireIntervention, where: str) -> tuple[Intervention, ...]:
        key = one.model_dump_json()
        if key not in self._acts:
            self._acts[key] = self._intervention(one, where)
            if len(self._acts) > _MOST_ACTS:
                self._acts.popitem(last=False)
        return self._acts[key]

    def _intervention(self, one: WireIntervention, where: str) -> tuple[Intervention, ...]:
        from mien.interventions import Ablate, Add

        said = [name for name in ("add", "cap", "ablate") if getattr(one, name) is not None]
        if len(said) != 1:
            raise refused(where, "give exactly one of add, cap and ablate.")
        (kind,) = said
        for name, owner in (("coef", "add"), ("low", "cap"), ("high", "cap")):
            if getattr(one, name) is not None and kind != owner:
                raise refused(f"{where}.{name}", f"it belongs to {owner}, not to {kind}.")
        try:
            direction = self._catalog.direction(getattr(one, kind))
            if kind == "cap":
                return caps(direction, one.layers, one.low, one.high, one.tokens)
            if kind == "ablate":
                return (Ablate(direction, at=one.layers, tokens=one.tokens),)
            coef = 1.0 if one.coef is None else one.coef
            return (Add(direction, at=one.layers, tokens=one.tokens, coef=coef),)
        except MienError as error:
            raise refused(f"{where}.{kind}", str(error)) from error

    def _n(self, request: ChatRequest | CompletionRequest) -> int:
        n = 1 if request.n is None else request.n
        if n > self._limits.choices:
            raise refused("n", f"this server gives at most {self._limits.choices} answers to one request.")
        return n

    def _sampling(self, request: ChatRequest | CompletionRequest, most: int | None, param: str) -> Sampling:
        if most is not None and most > self._limits.max_tokens:
            raise refused(param, f"this server's answers have at most {self._limits.max_tokens} tokens.")
        temperature = 1.0 if request.temperature is None else request.temperature
        top_p = 1.0 if request.top_p is None else request.top_p
        if top_p == 0:  # no mass but the likeliest token's
            top_p, temperature = 1.0, 0.0
        return Sampling(self._limits.max_tokens if most is None else most, temperature, top_p)

    def _prompts(self, prompt: str | list[str] | list[int] | list[list[int]]) -> list[tuple[int, ...]]:
        if isinstance(prompt, str):
            return [self._text_ids(prompt)]
        if not prompt:
            raise refused("prompt", "it is empty.")
        if isinstance(prompt[0], int):
            return [self._ids([i for i in prompt if isinstance(i, int)])]
        if isinstance(prompt[0], str):
            return [self._text_ids(text) for text in prompt if isinstance(text, str)]
        return [self._ids(ids) for ids in prompt if isinstance(ids, list)]

    def _text_ids(self, text: str) -> tuple[int, ...]:
        self._lengths.require_text(text, "prompt")
        return self._model.chat.plain_ids(_sound(text, "prompt"))

    def _ids(self, ids: Sequence[int]) -> tuple[int, ...]:
        bad = next((i for i in ids if not 0 <= i < self._model.n_vocab), None)
        if bad is not None:
            raise refused("prompt", f"{bad} is no token id of this model, which has {self._model.n_vocab}.")
        return tuple(ids)


def conversation_of(messages: Sequence[WireMessage | ReadMessage], where: str = "messages") -> Conversation:
    """Messages as plain text.

    Raises:
        Problem: one is not text, or by someone a chat template does not know.
    """
    return tuple(_message(message, f"{where}[{i}]") for i, message in enumerate(messages))


def _message(message: WireMessage | ReadMessage, where: str) -> Message:
    if message.role not in _ROLES:
        raise refused(f"{where}.role", f"this server knows no tools, so no messages of a {message.role}.")
    if isinstance(message, WireMessage):
        for name in ("tool_calls", "function_call", "audio"):
            if getattr(message, name):
                raise refused(f"{where}.{name}", "this server knows text only.", "unsupported_parameter")
        if message.content is None and message.role != "assistant":
            raise refused(f"{where}.content", "it is missing.")
    content = message.content
    if content is None:
        content = (message.refusal if isinstance(message, WireMessage) else None) or ""
    text = content if isinstance(content, str) else "".join(
        _text(part, f"{where}.content[{i}]") for i, part in enumerate(content)
    )  # fmt: skip
    return Message(_ROLES[message.role], _sound(text, f"{where}.content"))


def _text(part: Part, where: str) -> str:
    if part.type != "text" or part.text is None:
        raise refused(where, f"this model reads text only, not a part of type {part.type!r}.", "unsupported_content")
    return part.text


def _sound(text: str, where: str) -> str:
    """Half a surrogate pair is no text; no tokenizer takes it."""
    try:
        text.encode()  # in one go: a text may have millions of characters
    except UnicodeEncodeError:
        raise refused(where, "it holds half of a surrogate pair, which is no character.") from None
    return text


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(found) > _MOST_STOPS:
        raise refused("stop", f"at most {_MOST_STOPS} stop strings.")
    if any(not s or len(s) > 200 for s in found):
        raise refused("stop", "a stop string has 1 to 200 characters.")
    return tuple(_sound(s, "stop") for s in found)


def _refuse_of_chat(request: ChatRequest) -> None:
    _refuse_of_both(request)
    said: dict[str, Any] = {
        "tools": request.tools, "functions": request.functions, "audio": request.audio,
        "prediction": request.prediction, "web_search_options": request.web_search_options, "store": request.store,
        "tool_choice": request.tool_choice not in (None, "none", "auto"),
        "function_call": request.function_call not in (None, "none", "auto"),
        "modalities": request.modalities not in (None, ["text"]),
        "reasoning_effort": request.reasoning_effort not in (None, "none"),
    }  # fmt: skip
    for name, value in said.items():
        if value:
            raise refused(name, "this server does not do that; leave it out.", "unsupported_parameter")
    if request.response_format is not None and request.response_format.type != "text":
        raise refused("response_format", f"this server writes text only, not {request.response_format.type!r}.",
                      "unsupported_parameter")  # fmt: skip


def _refuse_of_both(request: ChatRequest | CompletionRequest) -> None:
    for name in ("frequency_penalty", "presence_penalty", "logit_bias"):
        if getattr(request, name):
            raise refused(name, "this server draws from the model's own probabilities; leave it out.",
                          "unsupported_parameter")  # fmt: skip
    if request.stream_options is not None and not request.stream:
        raise refused("stream_options", "it needs stream to be true.")
