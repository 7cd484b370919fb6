"""Drawing tokens: rows of different sampling side by side, and the nucleus that is not sorted in full."""

from __future__ import annotations

import pytest
import torch

from mien.engines.sampling import NUCLEUS, Chooser, sample, stream, within_nucleus
from mien.records import Sampling

CPU = torch.device("cpu")
KINDS = [
    Sampling(9, 0),
    Sampling(9, 1.0),
    Sampling(9, 0.7, 0.9),
    Sampling(9, 1.5, 0.3),
    Sampling(9, 1e-40),
    Sampling(9, 2),
]


def logits_of(rows: int, vocabulary: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(rows)) * spread


@pytest.mark.parametrize(
    "kinds", [KINDS, KINDS[:1] * 3, KINDS[1:2] * 3, KINDS[2:3] * 3, [KINDS[2], KINDS[3]], KINDS[:2]]
)
@pytest.mark.parametrize("vocabulary", [50, 3 * NUCLEUS])
def test_each_row_is_drawn_as_in_a_batch_of_its_own_kind(kinds: list[Sampling], vocabulary: int) -> None:
    logits = logits_of(len(kinds), vocabulary)
    chooser = Chooser.of(kinds, CPU)
    for seed in range(20):
        draws = torch.rand(len(kinds), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        together = chooser.choose(logits, draws).tolist()
        for row, kind in enumerate(kinds):
            assert sample(logits[row : row + 1], draws[row : row + 1], kind)[0] == [together[row]]


def test_numbers_too_large_or_small_for_float32() -> None:
    kinds = [Sampling(1, 1e-300), Sampling(1, 1e300)]
    logits = torch.tensor([[1.0, 30.0, 29.0, -50.0]]).expand(2, -1)
    draws = torch.tensor([0.9, 0.9], dtype=torch.float64)
    assert Chooser.of(kinds, CPU).choose(logits, draws).tolist() == [1, 3]


def plain_nucleus(row: torch.Tensor, top_p: float) -> torch.Tensor:
    kept, mass = torch.zeros_like(row), 0.0
    for i in row.argsort(descending=True, stable=True).tolist():
        if mass >= top_p:
            break
        kept[i], mass = row[i], mass + float(row[i])
    return kept


@pytest.mark.parametrize("spread", [0.01, 1.0, 4.0, 200.0])
@pytest.mark.parametrize("top_p", [1e-9, 0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_a_full_sort(spread: float, top_p: float) -> None:
    rows = logits_of(3, 3 * NUCLEUS, spread).softmax(-1)
    found = within_nucleus(rows, top_p)
    for row, kept in zip(rows, found, strict=True):
        expected = plain_nucleus(row, top_p)
        # Sums in float32 and float64 may part by a token at the edge.
        assert int(((kept > 0) != (expected > 0)).sum()) <= 1
        assert torch.equal(kept[kept > 0], row[kept > 0])


@pytest.mark.parametrize("equal", [NUCLEUS // 2, NUCLEUS, 2 * NUCLEUS])
def test_equal_ones_are_taken_in_their_order(equal: int) -> None:
    row = torch.full((1, 3 * NUCLEUS), 0.0)
    row[0, 100 : 100 + equal] = 1 / equal
    found = within_nucleus(row, 0.25)[0].nonzero()[:, 0].tolist()
    assert found == list(range(100, 100 + equal // 4))


def test_a_longer_stream_only_goes_on() -> None:
    assert torch.equal(stream(7, 50)[:10], stream(7, 10))
    assert not torch.equal(stream(8, 10), stream(7, 10))
