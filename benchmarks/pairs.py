"""Two things timed in turns: only such figures compare on a machine that is shared."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext


def seconds(
    a: Callable[[], object],
    b: Callable[[], object],
    repeats: int,
    ready: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Iterator[tuple[float, float]]:
    """Of both, one after the other, the first in turns; after a warm-up of each. `ready` is entered around every `a`,
    and its own time not counted.
    """
    for i in range(-1, repeats):
        times = [0.0, 0.0]
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            with nullcontext() if which else ready():
                gc.collect()
                start = time.perf_counter()
                (b if which else a)()
                times[which] = time.perf_counter() - start
        if i >= 0:
            yield times[0], times[1]
