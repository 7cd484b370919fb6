"""Time mien against the bare work it rests on, and write docs/benchmarks.md.

    python benchmarks/run.py [--repeats 5] [--only NAME,...] [--out docs/benchmarks.md]

Machines are noisy, so no figure is an absolute time: A and B alternate, each pair gives a ratio, the median is quoted
with the lowest and highest.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases
import machine_line
import others
import scan_cases

REPO = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    ratio: str
    goal: str
    met: str
    bound: str


def paired(a: Callable[[], object], b: Callable[[], object], repeats: int) -> list[float]:
    """`time(a) / time(b)` of `repeats` pairs, after one warm-up of each, order alternating."""
    a(), b()
    ratios = []
    for i in range(repeats):
        times = {}
        for run in (a, b) if i % 2 == 0 else (b, a):
            gc.collect()
            start = time.perf_counter()
            run()
            times[run] = time.perf_counter() - start
        ratios.append(times[a] / times[b])
    return ratios


def timed_row(case: cases.Case, repeats: int) -> Row:
    """Run one case."""
    ratios = paired(case.ours, case.against, case.repeats or repeats)
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


def page(rows: list[Row], notes: list[str], scans: list[str]) -> str:
    """The document."""
    table = [f"| {r.what} | {r.ratio} | {r.goal} | {r.met} | {r.bound} |" for r in rows]
    return "\n".join([
        "# Benchmarks", "",
        "Written by `make bench`. Every figure is a ratio of times taken in turn in one process (median, lowest and "
        "highest of the pairs), on this machine:", "",
        *machine_line.lines(), "",
        "| what | measured | goal | met | what bounds it, and what was tried |", "| --- | --- | --- | --- | --- |",
        *table, "", "## Scanning", "", *scans, "", "## Beside other libraries", "", *notes, "",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--out", type=Path, default=REPO / "docs" / "benchmarks.md")
    chosen = parser.parse_args()
    only = set(filter(None, chosen.only.split(",")))
    bench = cases.Bench()
    watching = scan_cases.ScanBench(bench.model)
    every = [*bench.cases(), *watching.cases()]
    rows = [timed_row(c, chosen.repeats) for c in every if not only or c.name in only]
    if not only or "memory" in only:
        rows.insert(1, memory_row())
    notes = others.lines(bench, chosen.repeats) if not only or "others" in only else []
    scans = []
    if not only or "scans" in only:
        scans = [scan_cases.linear_line(watching), scan_cases.cost_line(watching), scan_cases.memory_line()]
    text = page(rows, notes, scans)
    if only:
        print(text)
    else:
        chosen.out.write_text(text)
        print(f"written to {chosen.out}")


if __name__ == "__main__":
    main()
