"""Screening of ever more records, each in a process of its own: does time a record or memory grow?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

COUNTS = (1_000, 10_000, 100_000)


def measured(count: int) -> dict[str, Any]:
    """What `screen_peak.py` says of so many records; one thread, as it is arithmetic on very small matrices."""
    command = [sys.executable, str(Path(__file__).parent / "screen_peak.py"), str(count)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{count} records: {found['seconds']:.0f} s, peak {found['peak_mb']:.0f} MB", flush=True)
    return found


def lines() -> list[str]:
    """The section of the page."""
    found = [measured(count) for count in COUNTS]
    (few, *_, many) = found
    more = many["records"] - few["records"]
    return [
        "A whole screening of generated records by a very small random model and three directions, method `answers`, "
        "own answers to a sample of 50, the table ranked, a twentieth dropped; each in a process of its own, one "
        "thread. The processor's time is what compares, since others work on the machine:",
        "",
        "| records | seconds | of the processor | milliseconds of it a record | peak memory |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {one['records']:,} | {one['seconds']:.0f} | {one['processor']:.0f} "
            f"| {1000 * one['processor'] / one['records']:.1f} | {one['peak_mb']:.0f} MB |"
            for one in found
        ),
        "",
        f"Beyond what any run costs, a record takes {1000 * (many['processor'] - few['processor']) / more:.1f} ms, and "
        f"the largest run has {many['peak_mb'] - few['peak_mb']:+.0f} MB beside the smallest.",
    ]
