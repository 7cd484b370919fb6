"""Which format a file is of, told by its first bytes and its name's end. How a format is read is not known here."""

from __future__ import annotations

import json

from mien.errors import FormatError
from mien.logs.delimited import delimiter_of
from mien.logs.speakers import Speakers
from mien.logs.streams import Log

KNOWN = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".eval": "inspect",
    ".zip": "inspect",
    ".txt": "text",
    ".md": "text",
    ".markdown": "text",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
"""Ends of names, and the format each promises."""
_JSON_LINES_LOOKED_AT = 50


def format_of(log: Log) -> str:
    """One of the values of `KNOWN`.

    Raises:
        FormatError: nothing in the file can be recognised.
    """
    head, promised = log.head, KNOWN.get(log.suffix)
    if head.startswith(b"PK\x03\x04"):
        return "inspect"
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FormatError(f"{log.name} is UTF-16 text; save it as UTF-8.")
    if promised == "text" and _speakers(head):
        return "text"
    if promised == "csv" and not any(map(_is_json, _lines(head, True)[:1])):
        return "csv"
    if promised == "jsonl" or head.lstrip()[:1] in (b"{", b"["):
        found = _json_kind(head, log.whole, promised)
        if found is not None:
            return found
    elif _has_json_line(head):
        return "jsonl"
    if {"user", "assistant"} <= _speakers(head):
        return "text"
    if delimiter_of(head) is not None:
        return "csv"
    raise FormatError(
        f"Nothing in {log.name} can be recognised as a chat log; "
        "give JSON, JSONL, CSV, Parquet, an Inspect log, or text with lines that begin with User: and Assistant:."
    )


def _json_kind(head: bytes, whole: bool, promised: str | None) -> str | None:
    """`jsonl` or `json` for a file that begins as either does; None where a file of text or a table only looks so."""
    complete = _lines(head, whole)
    first = complete[0] if complete else b""
    if _is_json(first):
        by_line = len(complete) > 1 or not whole or (promised == "jsonl" and first.startswith(b"{"))
        return "jsonl" if by_line else "json"
    if promised == "jsonl" and first not in (b"[", b"{"):
        return "jsonl"
    if first.startswith(b"{") and _has_json_line(head):
        return "jsonl"
    if promised in ("text", "csv") or (first.startswith(b"[") and promised is None and b'"' not in head):
        return None
    return "json"


def _has_json_line(head: bytes) -> bool:
    return any(line.startswith(b"{") and _is_json(line) for line in _lines(head, False)[:_JSON_LINES_LOOKED_AT])


def _lines(head: bytes, whole: bool) -> list[bytes]:
    """Lines that are not blank, without the last where the head may have cut it."""
    found = head.split(b"\n")
    kept = found if whole else found[:-1]
    return [line for raw in kept if (line := raw.rstrip()).strip()]


def _is_json(line: bytes) -> bool:
    """Whether a line by itself is a JSON object or array."""
    if line.lstrip()[:1] not in (b"{", b"["):
        return False
    try:
        json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return False
    return True


def _speakers(head: bytes) -> set[str]:
    text = head.decode("utf-8", errors="replace")
    speakers = Speakers()
    return {role for line in text.splitlines() if (role := speakers.in_line(line))}
