"""Peak memory of one process in KiB: `python benchmarks/peak.py bare|reading`."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import cases

bench = cases.Bench()
(bench.bare if sys.argv[1] == "bare" else bench.reading)()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
