"""A data set without its worst records, each kept as its own bytes where the file is JSON lines.

This file does not know how records were scored.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mien.errors import InputError
from mien.logs import Broken, LoggedConversation
from mien.logs.sniff import format_of
from mien.logs.streams import lines, opened
from mien.store import disk_errors

_FORM = re.compile(r"\s*(?:(>)\s*([0-9.]+)\s*s|([0-9.]+)\s*(%?))\s*")


@dataclass(frozen=True)
class Cut:
    """Which records go."""

    count: int | None = None
    """So many of the worst."""
    share: float | None = None
    """Or this share of them, 0 to 1."""
    beyond: float | None = None
    """Or all beyond so many sigma."""
    keep: int | None = None
    """Or all but so many of the best."""


def cut_of(drop: str | None, keep: str | None) -> Cut | None:
    """`--drop 200`, `5%` or `>2s`, or `--keep 1000`, `90%` or `<2s` (all others go), as a cut; None for neither.

    Raises:
        InputError: both, or not of that form.
    """
    if drop is None and keep is None:
        return None
    if drop is not None and keep is not None:
        raise InputError("Give --drop or --keep, not both.")
    text = (drop if drop is not None else keep) or ""
    match = _FORM.fullmatch(text if drop is not None else text.replace("<", ">"))
    try:
        number = float(match[2] or match[3]) if match else math.nan
    except ValueError:
        number = math.nan
    if (
        match is None
        or not math.isfinite(number)
        or not (match[1] or match[4] or number.is_integer())
        or (match[4] and number > 100)
    ):
        forms = "200, 5% or '>2s'" if drop is not None else "1000, 90% or '<2s'"
        raise InputError(f"--{'drop' if drop is not None else 'keep'} {text!r} is not understood; write {forms}.")
    if match[1]:
        return Cut(beyond=number)
    if match[4]:
        return Cut(share=number / 100 if drop is not None else 1 - number / 100)
    return Cut(count=int(number)) if drop is not None else Cut(keep=int(number))


def kept_places(scores: NDArray[np.float32], cut: Cut) -> NDArray[np.bool_]:
    """Which records stay. Skipped ones (-inf) never do, unmeasured ones (NaN) always; equals leave in their order."""
    there = scores != -np.inf
    known = np.flatnonzero(there & ~np.isnan(scores))
    if cut.beyond is not None:
        gone = known[scores[known] > cut.beyond]
    else:
        n = int(there.sum())
        count = n - cut.keep if cut.keep is not None else round(n * cut.share) if cut.share is not None else cut.count
        gone = known[np.argsort(-scores[known], kind="stable")][: max(count or 0, 0)]
    kept: NDArray[np.bool_] = there.copy()
    kept[gone] = False
    return kept


def write_kept(
    records: Iterable[LoggedConversation | Broken], kept: Iterable[bool], path: Path, format: str | None = None
) -> int:
    """The kept records as JSON lines: their own bytes, or messages where the file is of another format.

    Args:
        format: of the files, where they are not recognised.

    Returns:
        how many.

    Raises:
        RunError: the disk refuses.
    """
    temporary = path.with_name(f".{path.name}.0.tmp")
    count = 0
    with disk_errors(path):
        try:
            with temporary.open("wb") as file, _Originals(format) as originals:
                for record, stays in zip(records, kept, strict=False):
                    if stays and isinstance(record, LoggedConversation):
                        file.write(originals.line(record) or _anew(record))
                        count += 1
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return count


def _anew(record: LoggedConversation) -> bytes:
    value = {"id": record.id, "messages": [{"role": m.role, "content": m.content} for m in record.messages]}
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


class _Originals:
    """The lines that records were read from, asked for in the order of the file."""

    def __init__(self, format: str | None) -> None:
        self._format = format
        self._source: str | None = None
        self._lines: Iterator[tuple[int, bytes | None]] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Originals:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def line(self, record: LoggedConversation) -> bytes | None:
        """The record's own line with its end; None where its file is not made of lines of JSON."""
        if record.source != self._source:
            self._open(record.source)
        for number, line in self._lines or ():
            if number == record.line:
                return None if line is None else line + b"\n"
        return None

    def _open(self, source: str) -> None:
        self._stack.close()
        self._stack = ExitStack()
        log = self._stack.enter_context(opened(Path(source), source))
        self._source = source
        self._lines = lines(log.stream) if (self._format or format_of(log)) == "jsonl" else None
