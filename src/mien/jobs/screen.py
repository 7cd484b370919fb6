"""Training data to the shift that each record would make, before anything is trained. Read `screen` top to bottom.

After "projection difference" of Persona Vectors (2507.21509). This file does not know how a record is measured, what a
chunk looks like on disk, or what a page looks like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mien.auditing.probes import eval_questions
from mien.engines.hf import HfEngine
from mien.errors import InputError
from mien.jobs.extract import check_draws, versions
from mien.logs import Broken, Columns, LoggedConversation, nothing_usable, read_logs
from mien.models import Model
from mien.progress import Progress, Silent
from mien.records import Sampling
from mien.report.screen_page import write_screen_page
from mien.scanning.chunks import Chunk, ChunkFolder, chunked
from mien.screening.answers import AnswerBook
from mien.screening.estimates import INFLUENCE, METHODS, Raw, chosen_of, joined
from mien.screening.keep import Cut, kept_places, write_kept
from mien.screening.measure import NO_ANSWER, Bench, answers_of, measure
from mien.screening.pulled import pulls_of
from mien.screening.rows import Block, SampleTable, blocks, line_of, twins_of
from mien.screening.sample import taken
from mien.screening.shared import shared_answers
from mien.screening.summary import Told, report_of, summary_of
from mien.screening.totals import Totals, begin_totals, count_up, twins_from
from mien.screening.watched import WatchSet, bank_of, watch_set
from mien.screening.worst import Worst, look_at_worst
from mien.store import RunFolder, canonical, write_atomic
from mien.training.shift import own_answers

PULLED_AT = 30
"""Questions of the library whose answers a training step is measured on."""


@dataclass(frozen=True)
class Plan:
    """How a data set is screened."""

    method: str = "full"
    """`full`; or, without writing an answer to every prompt, `prompt`, `cached` or `answers` (see `estimates`); or
    `influence`: what a training step on the record would do to the model's own answers elsewhere."""
    sample: int = 200
    """Records on which cheaper estimates are compared with the full difference."""
    max_tokens: int = 64
    """Longest own answer."""
    read_tokens: int | None = 64
    """Read so many tokens of every answer, the data's and its own, from its start; None: all. Where the two are read to
    different lengths, length looks like a shift."""
    temperature: float = 0.7
    """Of the own answers; 0 is greedy. 0.7 is what baselines are made with."""
    seed: int = 0


def screen(
    paths: Sequence[str | Path],
    model: Model,
    out: Path,
    *,
    traits: Sequence[str] | None = None,
    plan: Plan | None = None,
    cut: Cut | None = None,
    columns: Columns | None = None,
    format: str | None = None,
    title: str = "",
    made: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Screen training data into `out`: `samples.parquet`, `summary.json`, `report.html`; returns the summary.

    The same call goes on where an earlier one stopped, and measures only what is new where the data has grown. What the
    model has answered to a prompt in any earlier screening is taken from mien's cache.

    Args:
        traits: kept directions, folders of them, or bundled gauges; None: all there are for this model.
        cut: which records are left out of `kept.jsonl`, which is written if this is given.
        title, made: what the page is headed with, and when it was made.

    Raises:
        InputError: no directions, an unknown method, data that can be read only once, or nothing to measure.
        FormatError: a file in which nothing can be recognised.
        RunError: `out` holds another run, is in use, or cannot be written.
    """
    plan = plan or Plan()
    check_plan(plan, paths)
    which = watch_set(model, traits)
    _check_baselines(plan, which)
    show = progress or Silent()

    def records() -> Iterator[LoggedConversation | Broken]:
        return read_logs(paths, columns=columns, format=format)

    total = _usable(records())  # what cannot be read or measured is refused before anything is written
    with RunFolder(out, _manifest(plan, which, model)) as run, closing(_book(run, model, plan)) as book:
        bench = Bench(
            HfEngine(model), bank_of(which.watched, model.info.d_model), book, _sampling(plan), plan.seed,
            plan.read_tokens,
        )  # fmt: skip
        chosen = chosen_of(total, plan.sample, plan.seed)
        pulling = _pulling(bench, which, plan, show)
        folder, count = _measure_all(run, pulling, records(), plan.method == "full", total, show)
        if plan.method == "full":
            totals = _begin(which, plan, folder, count, set(chosen))
        else:
            totals = _begin_apart(run, bench, pulling, which, plan, list(taken(records(), chosen).values()), show)
        with SampleTable(out / "samples.parquet", {one.name: one.sign for one in which.watched}) as table:
            count_up(totals, blocks(folder, count), plan.method, plan.seed, table)
            if not totals.samples:
                raise nothing_usable(totals.skipped, totals.first_skipped)
        kept = _write_kept(out, totals, cut, records(), format)
        worst = look_at_worst(bench, totals, records, chosen, plan.seed, show)
        settings = {**asdict(plan), "sample": len(chosen)}
        told = Told(title or _title(paths), model.info, plan.method, made, which.notes, kept, settings)
        return _write(out, totals, worst, told)


def _pulling(bench: Bench, which: WatchSet, plan: Plan, show: Progress) -> Bench:
    """What measures pulls, where the method asks for them; else the same."""
    if plan.method != INFLUENCE:
        return bench
    answers = own_answers(bench.model, eval_questions(PULLED_AT), max_tokens=plan.max_tokens, progress=show)
    return replace(bench, pulls=pulls_of(bench.model, which.watched, answers))


def _usable(records: Iterator[LoggedConversation | Broken]) -> int:
    """How many records there are.

    Raises:
        InputError: not one of them has an answer that could be measured.
    """
    total, usable = 0, False
    first: list[tuple[str, int, str]] = []
    for record in records:
        total += 1
        usable = usable or (isinstance(record, LoggedConversation) and bool(answers_of(record)))
        if not usable and not first:
            first = [(record.source, record.line, record.reason if isinstance(record, Broken) else NO_ANSWER)]
    if not usable:
        raise nothing_usable(total, first)
    return total


def _sampling(plan: Plan) -> Sampling:
    """How own answers are drawn."""
    return Sampling(plan.max_tokens, plan.temperature)


def _book(run: RunFolder, model: Model, plan: Plan) -> AnswerBook:
    """The run's own answers, beside what is in the cache."""
    return AnswerBook(run.work / "answers.sqlite", shared_answers(model, _sampling(plan), plan.seed))


def _write(out: Path, totals: Totals, worst: list[Worst], told: Told) -> dict[str, Any]:
    """Page and summary, which is given back."""
    summary = {
        **summary_of(totals, worst, told), "versions": versions(),
        "table": str(out / "samples.parquet"), "page": str(out / "report.html"),
    }  # fmt: skip
    write_screen_page(report_of(totals, worst, told), out)
    write_atomic(out / "summary.json", canonical(summary))
    return summary


def check_plan(plan: Plan, paths: Sequence[str | Path]) -> None:
    """Raises: InputError: an unknown method, a number below one, or data that can be read only once."""
    check_draws(plan.seed, plan.temperature)
    if plan.method not in (*METHODS, INFLUENCE):
        raise InputError(f"There is no method {plan.method!r}: choose one of {', '.join((*METHODS, INFLUENCE))}.")
    if plan.sample < 1 or plan.max_tokens < 1 or (plan.read_tokens is not None and plan.read_tokens < 1):
        raise InputError("The sample and the numbers of tokens have to be at least 1.")
    if any(str(path) == "-" for path in paths):
        raise InputError("A data set is read more than once, so it cannot come from standard input; give a file.")


def _check_baselines(plan: Plan, which: WatchSet) -> None:
    if plan.method != "answers":
        return
    without = [one.name for one in which.watched if one.mean is None]
    if without:
        raise InputError(
            f"The method answers centres on a baseline, and {', '.join(without)} has none; use --method cached."
        )


def _measure_all(
    run: RunFolder, bench: Bench, records: Iterator[LoggedConversation | Broken], with_base: bool, total: int,
    show: Progress,
) -> tuple[ChunkFolder, int]:  # fmt: skip
    """Every record, chunk by chunk; gives where they lie and how many there are."""
    folder, count, done = ChunkFolder(run.work, tables=False), 0, 0
    show.begin("measuring records", total)
    for chunk in chunked(records):
        count, done = chunk.number + 1, done + len(chunk.records)
        show.advance(done, 0 if folder.has(chunk) else _measure(folder, bench, chunk, with_base))
    folder.forget_after(count)
    return folder, count


def _measure_sample(
    run: RunFolder, name: str, bench: Bench, records: Sequence[LoggedConversation], show: Progress
) -> tuple[ChunkFolder, int]:
    """A sample of the records, with the model's own answers."""
    work = run.work / name
    work.mkdir(exist_ok=True)
    folder, count, done = ChunkFolder(work, tables=False), 0, 0
    show.begin("comparing with the full difference on a sample", len(records))
    for chunk in chunked(records):
        count, done = chunk.number + 1, done + len(chunk.records)
        show.advance(done, 0 if folder.has(chunk) else _measure(folder, bench, chunk, True))
    folder.forget_after(count)
    return folder, count


def _measure(folder: ChunkFolder, bench: Bench, chunk: Chunk, with_base: bool) -> int:
    measured = measure(bench, chunk.records, with_base, chunk.number)
    lines = [line_of(record, found) for record, found in zip(chunk.records, measured.found, strict=True)]
    folder.put(chunk, None, lines, measured.tokens, twins=twins_of(measured))
    return measured.tokens + measured.written


def _begin(
    which: WatchSet, plan: Plan, folder: ChunkFolder, count: int, places: set[int] | None,
    pulled: tuple[ChunkFolder, int] | None = None,
) -> Totals:  # fmt: skip
    """Totals with what a sample of records says: those at some places of a folder, or all that it has; `pulled` has the
    same records by their pulls."""
    sample = _sample_rows(blocks(folder, count), places, len(which.watched))
    if pulled is not None:
        return begin_totals(which.watched, sample, plan.seed, _sample_rows(blocks(*pulled), None, len(which.watched)))
    totals = begin_totals(which.watched, sample, plan.seed)
    twins_from(totals, (block.head for block in blocks(folder, count)))
    return totals


def _begin_apart(
    run: RunFolder, bench: Bench, pulling: Bench, which: WatchSet, plan: Plan, sample: Sequence[LoggedConversation],
    show: Progress,
) -> Totals:  # fmt: skip
    """The same, where the sample is measured by itself, and by its pulls too if that is the method."""
    apart, parts = _measure_sample(run, "sample", bench, sample, show)
    pulled = None if pulling is bench else _measure_sample(run, "pulled", pulling, sample, show)
    return _begin(which, plan, apart, parts, None, pulled)


def _sample_rows(every: Iterator[Block], places: set[int] | None, n: int) -> list[Raw]:
    """Raw values of the sample, one a watched direction; of all lines if no places are given."""
    parts: list[list[Raw]] = [[] for _ in range(n)]
    for block in every:
        some = [i for i in block.good if places is None or block.start + i in places]
        for g in range(n):
            parts[g].append(block.raw(g, some))
    return [joined(of) for of in parts]


def _write_kept(
    out: Path, totals: Totals, cut: Cut | None, records: Iterator[LoggedConversation | Broken], format: str | None
) -> dict[str, Any] | None:
    """`kept.jsonl`, and what to say about it."""
    path = out / "kept.jsonl"
    if cut is None:
        path.unlink(missing_ok=True)  # of an earlier call; it would not be of this summary
        return None
    stays = kept_places(totals.score, cut)
    count = write_kept(records, stays.tolist(), path, format)
    return {"kept": count, "dropped": totals.samples - count, "broken": totals.skipped, "file": str(path)}


def _manifest(plan: Plan, which: WatchSet, model: Model) -> dict[str, object]:
    parts = [(w.name, w.side, [(p.layer, p.vector.tobytes()) for p in w.parts]) for w in which.watched]
    return {
        "job": "screen", "model": model.info.id, "fingerprint": model.info.fingerprint, "dtype": model.info.dtype,
        "base": plan.method == "full", "max_tokens": plan.max_tokens, "read_tokens": plan.read_tokens,
        "temperature": plan.temperature, "seed": plan.seed, "names": [w.name for w in which.watched],
        "traits": hashlib.sha256(repr(parts).encode()).hexdigest()[:16], "versions": versions(),
        **({"pulls": PULLED_AT} if plan.method == INFLUENCE else {}),
    }  # fmt: skip


def _title(paths: Sequence[str | Path]) -> str:
    names = [Path(p).name or str(p) for p in paths]
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
