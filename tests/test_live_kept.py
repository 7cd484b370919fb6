"""What two texts have in common, against the plain definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import random_models as tiny
from mien.engines.hf_kept import Kept, alike, shared
from mien.interventions import Cap

CAPS = tuple(Cap(tiny.direction_of(tiny.model_of(), seed), at=0, low=0.0) for seed in (1, 2))
TEXTS = st.builds(
    lambda acts, ids: Kept(acts, tuple(ids), np.zeros((len(ids), 0)), np.zeros(len(ids))),
    st.sampled_from([(), CAPS[:1], CAPS, CAPS[::-1]]),
    st.lists(st.integers(0, 1), min_size=1, max_size=9),
)


def in_common(one: Kept, other: Kept) -> int:
    if [id(a) for a in one.acts] != [id(a) for a in other.acts]:
        return 0
    pairs = zip(one.ids, other.ids, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(one.fed, other.fed))


@given(TEXTS, TEXTS, st.integers(0, 10), st.integers(0, 10))
def test_what_texts_begin_with_alike(one: Kept, other: Kept, most: int, over: int) -> None:
    n = min(in_common(one, other), most)
    assert shared(one, other, most, over) == (n if n > over else 0)


@given(TEXTS, TEXTS, st.integers(1, 10))
def test_whether_texts_begin_alike(one: Kept, other: Kept, n: int) -> None:
    assert alike(one, other, n) == (in_common(one, other) >= n)
