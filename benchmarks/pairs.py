"""Two things timed in turns: only such figures compare on a machine that is shared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator


def seconds(a: Callable[[], object], b: Callable[[], object], repeats: int) -> Iterator[tuple[float, float]]:
    """Of both, one after the other, the first in turns; after a warm-up of each."""
    a(), b()
    for i in range(repeats):
        times = {}
        for run in (a, b) if i % 2 == 0 else (b, a):
            gc.collect()
            start = time.perf_counter()
            run()
            times[run] = time.perf_counter() - start
        yield times[a], times[b]
