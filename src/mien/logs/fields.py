"""Small fields of a record: its id, model and time, and labels of turns. Messages are not known here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta

ID_KEYS = ("id", "conversation_id", "conv_id", "uuid", "chat_id", "session_id", "thread_id", "conversation_hash")
MODEL_KEYS = ("model", "model_name", "model_id", "model_slug", "default_model_slug")
TIME_KEYS = ("created_at", "create_time", "created", "timestamp", "time", "started_at", "start_time", "date")

_SURROGATE = re.compile("[\ud800-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def clean(text: str) -> str:
    """The text with lone surrogates, which no tokenizer and no file takes, replaced by U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def first_text(record: Mapping[object, object], keys: Iterable[str]) -> str | None:
    """The first of the keys that holds a text or a whole number, as text; None where none does."""
    for key in keys:
        text = as_text(record.get(key))
        if text is not None:
            return text
    return None


def as_text(value: object) -> str | None:
    """A name or id as text; None for what is neither text nor a whole number, and for blank text."""
    if isinstance(value, float) and value.is_integer():  # whole numbers, in tables where one is missing
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 128:
        return str(value)
    return clean(value.strip()) or None if isinstance(value, str) else None


def first_time(record: Mapping[object, object], keys: Iterable[str] = TIME_KEYS) -> str | None:
    """The first of the keys that holds a time, as `moment` gives it."""
    return next((found for key in keys if (found := moment(record.get(key))) is not None), None)


def moment(value: object) -> str | None:
    """A time as ISO 8601 in UTC, to the second; None for what is no time.

    Numbers are seconds since 1970, or milli-, micro- or nanoseconds where they are too large for that. A time that
    names no zone is taken to be in UTC.
    """
    try:
        if isinstance(value, str):
            found = _from_text(value.strip())
        elif isinstance(value, datetime):
            found = value
        elif isinstance(value, date):
            found = datetime.combine(value, time())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = _from_number(float(value))
        else:
            return None
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return found.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def _from_text(text: str) -> datetime:
    if re.fullmatch(r"\d{9,20}(\.\d+)?", text):
        return _from_number(float(text))
    return datetime.fromisoformat(re.sub(r"\s*(UTC|GMT)$", "+00:00", text))


def _from_number(number: float) -> datetime:
    if not (math.isfinite(number) and number > 0):
        raise ValueError("no time")
    for scale in (1.0, 1e3, 1e6, 1e9):
        if number / scale < 1e11:  # seconds up to the year 5138, so milliseconds from 1973 on
            return _EPOCH + timedelta(seconds=number / scale)
    raise ValueError("no time")


def labels_of(record: Mapping[object, object]) -> tuple[tuple[int, Mapping[str, float]], ...]:
    """`turn_labels` of a record, `[{"message_index": 3, "labels": {label: intensity}}]`; what is not so is left out."""
    entries = record.get("turn_labels")
    found = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict):
            continue
        index, labels = entry.get("message_index"), entry.get("labels")
        if isinstance(index, int) and not isinstance(index, bool) and index >= 0 and isinstance(labels, dict):
            numbers = {clean(str(name)): _number(value) for name, value in labels.items()}
            found.append((index, {name: number for name, number in numbers.items() if number is not None}))
    return tuple(found)


def _number(value: object) -> float | None:
    try:
        number = float(value) if isinstance(value, int | float) else math.nan
    except OverflowError:
        return None
    return number if math.isfinite(number) else None
