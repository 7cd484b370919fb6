"""One JSON value that is a conversation, in the shapes that chat software writes.

OpenAI-style lists of messages, logs of request and response, ShareGPT, Claude's export and Inspect's samples differ
only in the names of their keys. ChatGPT's export, a tree, has its own file. Files are not known here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from mien.logs.chatgpt import branch, is_chatgpt
from mien.logs.fields import ID_KEYS, MODEL_KEYS, first_text, first_time, labels_of
from mien.logs.found import Defaults, Found, Unreadable
from mien.logs.messages import LIST_KEYS, gather, is_message, role_of, text_of

_PROMPT_KEYS = ("prompt", "instruction", "question", "query", "input")
_ANSWER_KEYS = ("response", "completion", "output", "answer")
_SYSTEM_KEYS = ("system", "system_prompt")
Json = dict[object, object]


def decode(raw: bytes) -> object:
    """Value of a JSON text.

    Raises:
        Unreadable: not UTF-8, not JSON, or nested too deeply.
    """
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Unreadable("it is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is not JSON: {error.msg} (column {error.colno})") from error
    except ValueError as error:  # an integer of thousands of digits
        raise Unreadable("it is not JSON: a number has too many digits") from error
    except RecursionError as error:
        raise Unreadable("it is nested too deeply") from error


def is_record(value: object) -> bool:
    """Whether a JSON value looks like a conversation of its own, rather than a message or something else."""
    if not isinstance(value, dict) or is_message(value):
        return False
    if is_chatgpt(value) or any(isinstance(value.get(key), list) for key in LIST_KEYS):
        return True
    return isinstance(value.get("request"), dict) or _exchange(value) is not None


def found_in(value: object, defaults: Defaults = Defaults()) -> Found:  # noqa: B008, it is frozen
    """The conversation in a JSON value.

    Raises:
        Unreadable: there is none.
    """
    if isinstance(value, list):
        value = {"messages": value}
    if not isinstance(value, dict):
        raise Unreadable("it is not a JSON object")
    listed = branch(value) if is_chatgpt(value) else _listed(value)
    messages, indices, stranger = gather(listed)
    said = [message for message in listed if isinstance(message, dict)]
    request, response = _body(value, "request"), _body(value, "response")
    return Found(
        messages=messages,
        indices=indices,
        id=_first(first_text(place, ID_KEYS) for place in (value, request, response)),
        model=first_text(value, MODEL_KEYS)
        or defaults.model
        or _first(first_text(place, MODEL_KEYS) for place in (response, request, _body(value, "output")))
        or _writer(said),
        time=_first(first_time(place) for place in (value, request, response, *said[:1])) or defaults.time,
        turn_labels=labels_of(value),
        stranger=stranger,
    )


def _first(values: Iterable[str | None]) -> str | None:
    return next((value for value in values if value is not None), None)


def _writer(said: list[Json]) -> str | None:
    """The model that the last answer names."""
    answers = [message for message in reversed(said) if role_of(message) == "assistant"]
    places = [place for m in answers for place in (m, m.get("metadata")) if isinstance(place, dict)]
    return _first(first_text(place, MODEL_KEYS) for place in places)


def _listed(record: Json) -> list[object]:
    """The record's own list of messages, with the answer to them where it is kept apart."""
    for place in (record, _body(record, "request")):
        lists = [place[key] for key in LIST_KEYS if isinstance(place.get(key), list)]
        listed = next((found for found in lists if found), None)
        if isinstance(listed, list):
            return _with_answer(listed, record)
        if lists:
            raise Unreadable("it has no messages")
    exchange = _exchange(record)
    if exchange is None:
        raise Unreadable("no messages can be found in it")
    return exchange


def _body(record: Json, key: str) -> Json:
    """A request or response, without the envelope that batches put around it; empty where there is none."""
    value = record.get(key)
    if isinstance(value, dict) and isinstance(value.get("body"), dict):
        value = value["body"]
    return value if isinstance(value, dict) else {}


def _with_answer(listed: list[object], record: Json) -> list[object]:
    """The list, ending with the answer that the record keeps elsewhere if it does not end so already."""
    last = listed[-1] if isinstance(listed[-1], dict) else {}
    before = text_of(last).strip() if role_of(last) == "assistant" else ""
    for place in (record.get("response"), _body(record, "response"), _choice(record), record.get("output")):
        answer = _answer(place)
        if answer is None or not text_of(answer) or (before and isinstance(place, str)):
            continue
        return listed if text_of(answer).strip() == before else [*listed, answer]
    return listed


def _choice(response: Json) -> object:
    """The first of the answers that a model was asked for; None where there is none."""
    choices = response.get("choices")
    return choices[0] if isinstance(choices, list) and choices else None


def _answer(value: object) -> Json | None:
    """The assistant's message in a response, or in one choice of it; None if this is none."""
    if isinstance(value, dict):
        value = _choice(value) or value
    if isinstance(value, dict) and role_of(value) is None:  # an envelope
        value = value.get("message", value.get("text"))
    if isinstance(value, str):
        return {"role": "assistant", "content": value}
    return value if isinstance(value, dict) and role_of(value) == "assistant" else None


def _exchange(record: Json) -> list[object] | None:
    """A prompt and its answer, kept under two keys, as messages; None where there is no such pair."""
    asked = _asked(record)
    answered = next((record[key] for key in _ANSWER_KEYS if isinstance(record.get(key), str | list | dict)), None)
    if asked is None or answered is None:
        return None
    before = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
    answer = answered if isinstance(answered, list) else [_answer(answered)]
    told = next((record[key] for key in _SYSTEM_KEYS if isinstance(record.get(key), str) and record[key]), None)
    return [*([{"role": "system", "content": told}] if told else []), *before, *answer]


def _asked(record: Json) -> object:
    """What was asked, a text or messages; None where nothing was. Alpaca's `input` belongs to its `instruction`."""
    key = next((key for key in _PROMPT_KEYS if isinstance(record.get(key), str | list)), None)
    asked, more = record.get(key), record.get("input")
    if key == "instruction" and isinstance(asked, str) and isinstance(more, str) and more.strip():
        return f"{asked}\n\n{more}"
    return asked
