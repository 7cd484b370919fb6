"""Chunks through the reader: in this process, or in several that each load their own.

This file does not know what is done with a chunk's results.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from mien.errors import InputError
from mien.gauges import GaugeSet
from mien.logs import Broken, LoggedConversation
from mien.models import Model
from mien.scanning.chunks import Chunk, empty_rows
from mien.scanning.measure import Measured, Panel, measure, panel
from mien.scanning.rows import add_rows, details_of, line_of


@dataclass(frozen=True)
class Done:
    """What came of one chunk."""

    chunk: Chunk
    rows: dict[str, list[Any]]
    lines: list[dict[str, Any]]
    tokens: int


def work(model: Model, which: Panel, chunk: Chunk) -> Done:
    """Read one chunk. A conversation that the reader cannot take is counted as broken, with the reason."""
    good = [c for c in chunk.conversations if c.unanswered is None]
    results = _measured(model, which, good)
    measured = [m for m in results if isinstance(m, Measured)]
    rows, lines = empty_rows(), []
    details = details_of(model.chat, which, measured)
    for i, one in enumerate(measured):
        add_rows(rows, which, one)
        lines.append({**line_of(which, one), "detail": details.get(i)})
    lines += [_skipped(r) for r in chunk.records if isinstance(r, Broken)]
    lines += [_skipped(m) for m in results if isinstance(m, Broken)]
    lines += [_skipped(Broken(c.source, c.line, c.unanswered)) for c in chunk.conversations if c.unanswered]
    return Done(chunk, rows, lines, sum(len(m.reading.spanned.ids) for m in measured))


def _measured(model: Model, which: Panel, good: list[LoggedConversation]) -> list[Measured | Broken]:
    if not good:
        return []
    try:
        return list(measure(model, which, good))
    except InputError:
        if len(good) == 1:
            return [Broken(good[0].source, good[0].line, f"{model.info.id}'s chat template refuses it")]
        return [result for one in good for result in _measured(model, which, [one])]


def _skipped(record: Broken) -> dict[str, Any]:
    return {"skipped": [record.source, record.line, record.reason]}


def in_one_process(model: Model, gauges: GaugeSet, chunks: Iterable[Chunk]) -> Iterator[Done]:
    """One chunk after another."""
    which = panel(gauges, model)
    for chunk in chunks:
        yield work(model, which, chunk)


_worker: tuple[Model, Panel] | None = None


def _begin(load: Callable[[], Model], gauges: GaugeSet, threads: int) -> None:
    global _worker
    import torch

    torch.set_num_threads(threads)
    model = load()
    _worker = model, panel(gauges, model)


def _work_there(chunk: Chunk) -> Done:
    assert _worker is not None
    return work(*_worker, chunk)


def in_processes(load: Callable[[], Model], gauges: GaugeSet, chunks: Iterable[Chunk], count: int) -> Iterator[Done]:
    """`count` processes, each with a reader of its own; results in no fixed order, few chunks in the air at once.

    Args:
        load: makes the reader; must be picklable.
    """
    import multiprocessing

    threads = max(1, (os.cpu_count() or count) // count)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, context, _begin, (load, gauges, threads)) as pool:
        waiting: set[Future[Done]] = set()
        for chunk in chunks:
            waiting.add(pool.submit(_work_there, chunk))
            if len(waiting) >= 2 * count:
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ready)
        while waiting:
            ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in ready)
