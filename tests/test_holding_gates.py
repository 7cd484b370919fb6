"""CapSpace with gates, against a loop in numpy: open, closed, and whatever stands beside a position."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import random_models as tiny
from mien.chat import ask
from mien.engines.hf import HfEngine
from mien.errors import InputError
from mien.holds import Hold, HoldCard, load_hold, save_hold
from mien.interventions import Bounds, CapSpace
from mien.records import Sampling, ScoreRequest, WriteRequest

MODEL = tiny.model_of("llama")
WIDTH = 32
SEEDS = st.integers(0, 2**32 - 1)


def gated(seed: int, k: int = 3, m: int = 2, **changes: torch.Tensor) -> Bounds:
    """Ranges that are mostly left, and gates that are open about as often as not."""
    rng = np.random.default_rng(seed)
    reads, writes = rng.normal(0, 0.3, (2, k, WIDTH))
    ends = np.sort(rng.normal(0, 1, (2, k)), axis=0)
    values = {
        "reads": reads, "writes": writes, "low": ends[0], "high": ends[1], "gates": rng.normal(0, 0.3, (m, WIDTH)),
        "below": rng.normal(0.5, 1, m),
    }  # fmt: skip
    return Bounds(**{**{name: torch.tensor(value) for name, value in values.items()}, **changes})


def space(part: Bounds, layer: int = 1, **given: str) -> CapSpace:
    return CapSpace({layer: part}, MODEL.info.id, MODEL.info.fingerprint, **given)  # type: ignore[arg-type]


def by_hand(part: Bounds, h: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What becomes of each position of `[n, d]`, and which are changed; one number after the other, in float64."""
    assert part.gates is not None
    assert part.below is not None
    reads, writes, low, high, gates, below = (
        t.double().numpy() for t in (part.reads, part.writes, part.low, part.high, part.gates, part.below)
    )
    new, changed = h.copy(), np.zeros(len(h), bool)
    for n, x in enumerate(h):
        if any(float(np.dot(gate, x)) >= limit for gate, limit in zip(gates, below, strict=True)):
            continue
        for i, row in enumerate(reads):
            p = float(np.dot(row, x))
            lacks = min(max(p, low[i]), high[i]) - p
            new[n] += lacks * writes[i]
            changed[n] |= lacks != 0
    return new, changed


@given(SEEDS, st.integers(1, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_it_acts_where_all_gates_are_open_and_nowhere_else(seed: int, k: int, m: int) -> None:
    part = gated(seed, k, m)
    h = np.random.default_rng(seed + 1).normal(0, 2, (12, WIDTH)).astype(np.float32)
    one, got = space(part), torch.from_numpy(h)
    expected, changed = by_hand(part, h.astype(np.float64))
    np.testing.assert_allclose(one.edit(1, got).numpy(), expected, atol=2e-5)
    assert (one.fires(1, got).numpy() == changed).all()
    assert torch.equal(one.edit(1, got)[~torch.from_numpy(changed)], got[~torch.from_numpy(changed)])


@given(SEEDS)
@settings(max_examples=30, deadline=None)
def test_a_position_does_not_depend_on_what_stands_beside_it(seed: int) -> None:
    one = space(gated(seed, 8))
    h = 2 * torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(seed % 2**31))
    whole = one.edit(1, h)
    for i in range(3):
        assert torch.equal(one.edit(1, h[i : i + 1])[0], whole[i])
        for j in range(5):
            assert torch.equal(one.edit(1, h[i, j][None, None])[0, 0], whole[i, j])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_behind_closed_gates_no_bit_changes(dtype: torch.dtype) -> None:
    closed = gated(0, below=torch.tensor([-1e6, 1e6]))
    h = 3 * torch.randn(6, WIDTH, generator=torch.Generator().manual_seed(1))
    h[0, :4] = torch.tensor([0.0, -0.0, float("inf"), float("nan")])
    h = h.to(dtype)
    kind = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(space(closed).edit(1, h).view(kind), h.view(kind))
    opened = gated(0, below=torch.tensor([1e6, 1e6]))
    assert not torch.equal(space(opened).edit(1, h)[1:], h[1:])


def test_autocast_does_not_round_what_a_gate_reads() -> None:
    one, h = space(gated(3)), 2 * torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(2))
    plain = one.edit(1, h)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(one.edit(1, h), plain)


def test_gates_that_do_not_fit_are_refused() -> None:
    for changes in (
        {"gates": torch.ones(2, WIDTH + 1)},
        {"below": torch.ones(3)},
        {"below": torch.ones(2, 1)},
        {"gates": torch.full((2, WIDTH), float("nan"))},
        {"below": torch.tensor([1.0, float("inf")])},
    ):
        with pytest.raises(InputError):
            gated(0, **changes)


def test_alone_and_in_a_batch_answers_are_the_same_words() -> None:
    """Rows of other lengths, held and unheld ones side by side."""
    engine, one = HfEngine(MODEL), space(gated(5))
    texts = ["hello", "a rather longer question than that", "why"]
    requests = [WriteRequest(str(i), ask(t), i, (one,) if i != 1 else ()) for i, t in enumerate(texts)]

    def write(some: list[WriteRequest]) -> dict[str, tuple[int, ...]]:
        return {r.id: r.response_ids for b in engine.write(some, Sampling(10, 0.0), read=False) for r, _ in b}

    together = write(requests)
    for request in requests:
        assert write([request])[request.id] == together[request.id]


def test_scores_under_it_are_those_of_a_forward_pass_by_hand() -> None:
    one = space(gated(6), tokens="response")
    request = ScoreRequest(ask("hello"), "an answer")
    got = HfEngine(MODEL).logprobs([request], [one])[0]
    prompt, answer = MODEL.chat.prompt_ids(ask("hello")), MODEL.chat.response_ids("an answer")
    logits = tiny.naive_logits(MODEL.net, prompt + answer, len(prompt), [one]).log_softmax(-1)
    expected = [float(logits[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_gates_survive_the_disk_in_half_precision(tmp_path: Path) -> None:
    part = gated(7)
    rounded = Bounds(*(t.half().float() for t in (part.reads, part.writes)), part.low, part.high,
                     part.gates.half().float() if part.gates is not None else None, part.below)  # fmt: skip
    card = HoldCard(
        name="a", description="d", model=MODEL.info.id, fingerprint=MODEL.info.fingerprint, n_layers=MODEL.n_layers,
        d_model=WIDTH, method="m", layers=[1], tokens="all",
    )  # fmt: skip
    save_hold(Hold(card, (space(rounded),)), tmp_path / "hold", half=True)
    back = load_hold(tmp_path / "hold", MODEL).interventions[0]
    h = 2 * torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(4))
    assert torch.equal(back.edit(1, h), space(rounded).edit(1, h))
