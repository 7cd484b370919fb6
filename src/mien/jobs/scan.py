"""Chat logs to readings: every conversation read once, in context, on every gauge. Read `scan` top to bottom.

This file does not know how a gauge is read, what a chunk looks like on disk, or what a page looks like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from mien.errors import InputError
from mien.gauges import GaugeSet, bundled_gauges
from mien.jobs.extract import versions
from mien.logs import Columns, nothing_usable, read_logs
from mien.models import Model
from mien.progress import Progress, Silent
from mien.report.scan_page import write_scan_page
from mien.scanning.chunks import Chunk, ChunkFolder, chunked
from mien.scanning.measure import panel
from mien.scanning.summary import baseline_sentence, count_up, report_of, summary_of
from mien.scanning.work import in_one_process, in_processes
from mien.store import RunFolder, canonical, write_atomic


def scan(
    paths: Sequence[str | Path],
    model: Model,
    out: Path,
    *,
    gauges: GaugeSet | None = None,
    columns: Columns | None = None,
    format: str | None = None,
    processes: int = 1,
    load: Callable[[], Model] | None = None,
    title: str = "",
    made: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read logs into `out`: `turns.parquet`, `summary.json`, `report.html`; returns the summary.

    The same call goes on where an earlier one stopped, and reads only what is new where logs have grown.

    Args:
        gauges: what to read; the reader's bundled gauges if None.
        processes: how many work at once; above 1 `load` must make the reader anew in each (and be picklable).
        title, made: what the page is headed with, and when it was made.

    Raises:
        InputError: the reader has no bundled gauges, gauges of another reader, or nothing to read.
        FormatError: a file in which nothing can be recognised.
        RunError: `out` holds another scan, is in use, or cannot be written.
    """
    which = gauges or bundled(model)
    panel(which, model)  # refuse gauges of another reader before anything is written
    if processes > 1 and load is None:
        raise InputError("Several processes need `load`, a function that makes the reader in each of them.")
    show = progress or Silent()
    chunks = chunked(read_logs(paths, columns=columns, format=format))
    first = next(chunks, None)  # files that cannot be read are refused before anything is written, too
    with RunFolder(out, _manifest(which, model)) as run:
        folder = ChunkFolder(run.work)
        count = 0

        def waiting() -> Iterator[Chunk]:
            nonlocal count
            for chunk in chain([first] if first else [], chunks):
                count = chunk.number + 1
                if not folder.has(chunk):
                    yield chunk

        show.begin("reading conversations", 0)
        read = 0
        results = (
            in_processes(load, which, waiting(), processes)
            if processes > 1 and load is not None
            else in_one_process(model, which, waiting())
        )
        for done in results:
            folder.put(done.chunk, done.rows, done.lines, done.tokens)
            read += len(done.chunk.records)
            show.advance(read, done.tokens)
        folder.forget_after(count)
        return _finish(folder, count, which, out, title or _title(paths), made)


def _finish(folder: ChunkFolder, count: int, which: GaugeSet, out: Path, title: str, made: str) -> dict[str, Any]:
    """The chunks put together: table, page, summary."""
    totals = count_up(folder, count, which)
    if not totals.conversations:
        raise nothing_usable(totals.skipped, totals.first_skipped)
    folder.join_tables(count, out / "turns.parquet")
    summary = {
        "of": title, **summary_of(totals, which, folder), "baseline": baseline_sentence(which), "versions": versions(),
        "table": str(out / "turns.parquet"), "page": str(out / "report.html"),
    }  # fmt: skip
    write_scan_page(report_of(totals, which, folder, title, made), out)
    write_atomic(out / "summary.json", canonical(summary))
    return summary


def bundled(model: Model) -> GaugeSet:
    """The gauges that come with the package for this reader.

    Raises:
        InputError: none do.
    """
    found = bundled_gauges(model.info.id)
    if found is None:
        raise InputError(
            f"No gauges come with mien for the reader {model.info.id}; make some with `mien axis --model "
            f"{model.info.id}` and `mien baseline`, and give them with --gauge-file, or use --reader smollm2-135m."
        )
    return found


def chosen(gauges: GaugeSet, names: Sequence[str]) -> GaugeSet:
    """Some of the gauges, in the order named.

    Raises:
        InputError: there is no gauge of a name, or none is named.
    """
    by_name = {g.name: g for g in gauges.gauges}
    for name in names:
        if name not in by_name:
            raise InputError(f"There is no gauge {name!r} for {gauges.reader}; there are: {', '.join(by_name)}.")
    if not names:
        raise InputError(f"Name at least one gauge; there are: {', '.join(by_name)}.")
    return replace(gauges, gauges=tuple(by_name[name] for name in dict.fromkeys(names)))


def _manifest(gauges: GaugeSet, model: Model) -> dict[str, object]:
    parts = [
        (g.name, g.side, repr(g.baseline), g.probability, [(p.layer, p.of, p.vector.tobytes()) for p in g.parts])
        for g in gauges.gauges
    ]
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    return {
        "job": "scan", "reader": model.info.id, "fingerprint": model.info.fingerprint, "dtype": model.info.dtype,
        "gauges": [g.name for g in gauges.gauges], "vectors and baselines": digest, "versions": versions(),
    }  # fmt: skip


def _title(paths: Sequence[str | Path]) -> str:
    names = [Path(p).name or str(p) for p in paths]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
