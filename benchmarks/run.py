"""Time mien against the bare work it rests on, and write docs/benchmarks.md.

    python benchmarks/run.py [--repeats 5] [--only NAME,...] [--out docs/benchmarks.md]

Machines are noisy, so no figure is an absolute time: A and B alternate, each pair gives a ratio, the median is quoted
with the lowest and highest. What was measured is kept in `runs/bench.json`; `--only` measures some rows anew. Sections
under the table are put in their place on the page even where not all rows have been measured here.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases
import machine_line
import others
import pairs
import scan_cases
import screen_cases

REPO = Path(__file__).resolve().parent.parent
KEPT = REPO / "runs" / "bench.json"
ORDER = (
    "read", "memory", "half", "loop", "write", "add1", "add32", "cap1", "cap32", "extract", "judge", "scan", "anew",
    "gauges", "scans", "screens", "others",
)  # fmt: skip
"""Parts of the page."""
SECTIONS = {"scans": "## Scanning", "screens": "## Screening", "others": "## Beside other libraries"}
"""Parts that are lines under a heading."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    ratio: str
    goal: str
    met: str
    bound: str


def timed_row(case: cases.Case, repeats: int) -> Row:
    """Run one case."""
    ratios = [a / b for a, b in pairs.seconds(case.ours, case.against, case.repeats or repeats)]
    median = statistics.median(ratios)
    shown = f"{median:.2f} x ({min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} pairs)"
    print(f"{case.what}: {shown}", flush=True)
    met = "-" if case.goal is None else "yes" if median <= case.goal else "**no**"
    return Row(case.what, shown, "-" if case.goal is None else f"{case.goal:.2f} x", met, case.bound)


def memory_row() -> Row:
    """Peak memory of a fresh process that reads, less that of one that runs the bare forward."""
    peaks = {}
    for mode in ("bare", "reading"):
        found = [
            int(subprocess.run([sys.executable, str(REPO / "benchmarks" / "peak.py"), mode], check=True,
                               capture_output=True, text=True).stdout.split()[-1])
            for _ in range(3)
        ]  # fmt: skip
        peaks[mode] = statistics.median(found)
    extra = (peaks["reading"] - peaks["bare"]) / 1024
    print(f"peak memory: {extra:+.0f} MB", flush=True)
    met = "yes" if extra <= 100 else "**no**"
    bound = "The means of all layers are small; the peak is the forward pass's own."
    return Row(
        "peak memory of reading all layers, batch 16, beyond the bare forward",
        f"{extra:+.0f} MB",
        "+100 MB",
        met,
        bound,
    )


def page(rows: list[Row], sections: dict[str, list[str]]) -> str:
    """The document."""
    table = [f"| {r.what} | {r.ratio} | {r.goal} | {r.met} | {r.bound} |" for r in rows]
    return "\n".join([
        "# Benchmarks", "",
        "Written by `make bench`. Every figure is a ratio of times taken in turn in one process (median, lowest and "
        "highest of the pairs), on this machine:", "",
        *machine_line.lines(), "",
        "| what | measured | goal | met | what bounds it, and what was tried |", "| --- | --- | --- | --- | --- |",
        *table, "", *(line for name in SECTIONS for line in (SECTIONS[name], "", *sections[name], "")),
    ])  # fmt: skip


def with_section(text: str, name: str, lines: list[str]) -> str:
    """The document with one section written anew, or put before the last one where it is not there yet. It says what
    it was measured on, which may be another machine than the table's.
    """
    body = "\n".join([SECTIONS[name], "", *lines, "", "On this machine:", "", *machine_line.lines(), ""])
    head, found, rest = text.partition(f"{SECTIONS[name]}\n")
    if not found:
        head, found, rest = text.rpartition("## ")
        return f"{head}{body}\n{found}{rest}"
    _, next_one, after = rest.partition("\n## ")
    return f"{head}{body}\n{next_one.lstrip()}{after}".rstrip() + "\n"


def measured(bench: cases.Bench, only: set[str], repeats: int) -> Iterator[tuple[str, Row | list[str]]]:
    """Each part of the page by its name, one after another."""
    watching = scan_cases.ScanBench(bench.model)
    for i, case in enumerate([*bench.cases(), *watching.cases()]):
        if not only or case.name in only:
            yield case.name, timed_row(case, repeats)
        if i == 0 and (not only or "memory" in only):
            yield "memory", memory_row()
    if not only or "scans" in only:
        lines = [scan_cases.linear_line(watching), scan_cases.cost_line(watching), scan_cases.memory_line()]
        yield "scans", lines
    if not only or "screens" in only:
        yield "screens", screen_cases.lines()
    if not only or "others" in only:
        yield "others", others.lines(bench, repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "benchmarks.md")
    chosen = parser.parse_args()
    only = set(filter(None, chosen.only.split(",")))
    kept = json.loads(KEPT.read_text("utf-8")) if KEPT.exists() else {}
    parts = dict.fromkeys(ORDER) | kept
    for name, found in measured(cases.Bench(), only, chosen.repeats):
        parts[name] = asdict(found) if isinstance(found, Row) else found
        KEPT.parent.mkdir(parents=True, exist_ok=True)
        KEPT.write_text(json.dumps(parts, indent=1), "utf-8")
    missing = [name for name, part in parts.items() if part is None]
    if missing:
        print(f"not measured yet, so the table is as it was: {', '.join(missing)}")
        for name in SECTIONS:
            if name in only and chosen.out.exists():
                chosen.out.write_text(with_section(chosen.out.read_text("utf-8"), name, parts[name]), "utf-8")
                print(f"{SECTIONS[name]} written to {chosen.out}")
        return
    rows = [Row(**part) for part in parts.values() if isinstance(part, dict)]
    chosen.out.write_text(page(rows, {name: parts[name] for name in SECTIONS}), "utf-8")
    print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
