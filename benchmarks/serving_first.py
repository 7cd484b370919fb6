"""Time to the first token of two servers, from many short answers: so many requests at once, of the one and of the
other in turn.

A turn of long answers gives one such time for each of a few requests, and the 95th percentile of two or eight is the
machine's noise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

import httpx
import numpy as np
from serving_steps import middle

TOKENS = 6
"""Of an answer. The first is timed; with fewer, answers would end, and be put away, while others wait for theirs."""
ROUNDS, REQUESTS = 48, 16
"""Rounds that are counted, and how many requests of each server one has at least."""

Burst = Callable[[httpx.AsyncClient, str, int], Awaitable[list[float]]]
"""Client, a server's name, number of the questions -> seconds to the first token of each of the requests."""


async def _round(burst: Burst, names: tuple[str, str], clients: int, numbers: Iterator[int]) -> list[float]:
    """95th percentile of each, in seconds. What is asked of the one is asked of the other next to it."""
    found: dict[str, list[float]] = {name: [] for name in names}
    async with httpx.AsyncClient(timeout=600) as client:
        for number in islice(numbers, -(-REQUESTS // clients)):
            for name in names if number % 2 else names[::-1]:
                found[name] += await burst(client, name, number)
    return [float(np.quantile(found[name], 0.95)) for name in names]


async def _rounds(burst: Burst, names: tuple[str, str], clients: int, numbers: Iterator[int]) -> np.ndarray:
    rounds = [await _round(burst, names, clients, numbers) for _ in range(ROUNDS + 1)]
    return np.array(rounds[1:])  # the first one warms up


def first_token(burst: Burst, names: tuple[str, str], clients: int, numbers: Iterator[int]) -> tuple[str, str]:
    """Cells: the 95th percentiles of both in seconds, medians over rounds; and their ratio, the median over rounds with
    its 95 % interval by drawing rounds with replacement.

    Args:
        numbers: of questions that have not been asked yet, one after the other.
    """
    both = asyncio.run(_rounds(burst, names, clients, numbers))
    mine, theirs = np.median(both, 0)
    return f"{mine:.3f} and {theirs:.3f}", middle(both[:, 0] / both[:, 1])
