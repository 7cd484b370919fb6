"""Peak memory of one process in KiB: `python benchmarks/peak.py bare|reading`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases
import peak_memory

bench = cases.Bench()
(bench.bare if sys.argv[1] == "bare" else bench.reading)()
print(peak_memory.peak())
