"""Passes over tokens of several texts without padding, and texts that are read no deeper than they are wanted."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import random_models as tiny
from live_runs import alone, batch_of, ends, fed, naive_read, play, probes_of, request
from mien.engines import hf_flat
from mien.engines.hf_flat import Flat, FlatAttention
from mien.engines.hf_kept import Kept, Shelf
from mien.live import LiveEnd, LiveRequest
from mien.records import Sampling

MODEL = tiny.model_of("llama")
EARLY = probes_of(MODEL, (0, 1))


def scaled(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


@given(st.lists(st.sampled_from([1, 1, 1, 2, 3, 40]), min_size=2, max_size=9), st.integers(0, 99))
def test_every_token_looks_at_its_own_text(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    texts, tokens, heads, columns, width = len(sizes), sum(sizes), 2, 19, 4
    key, value = (torch.randn(texts, heads, columns, width, generator=generator) for _ in range(2))
    query = torch.randn(1, heads, tokens, width, generator=generator)
    mask = torch.where(torch.rand(1, 1, tokens, columns, generator=generator) < 0.4, -1e9, 0.0)
    reach = [columns if far else 1 + seed % 3 for far in (torch.rand(texts, generator=generator) < 0.3).tolist()]
    for t, n in enumerate(n for n, size in zip(reach, sizes, strict=True) for _ in range(size)):
        mask[..., t, 0], mask[..., t, n:] = 0, -1e9
    found = Flat(sizes, reach, torch.device("cpu")).attend(scaled, query, key, value, mask)
    assert found.shape == (1, tokens, heads, width)
    owners = [text for text, n in enumerate(sizes) for _ in range(n)]
    for t, text in enumerate(owners):
        scores = torch.einsum("he,hce->hc", query[0, :, t], key[text]) / width**0.5 + mask[0, 0, t]
        expected = torch.einsum("hc,hce->he", scores.softmax(-1), value[text])
        torch.testing.assert_close(found[0, t], expected, atol=1e-5, rtol=1e-4)


def test_prompts_are_read_beside_what_is_being_written() -> None:
    arrivals = [(0, request("a", range(20, 29), 6)), (2, request("b", range(40, 53), 3)), (2, request("c", [7], 3))]
    expected = {each.id: ends({each.id: alone(MODEL, each)})[each.id].ids for _, each in arrivals}
    with batch_of(MODEL) as batch:
        assert batch._passes.flat
        sizes = fed(batch)
        told = ends(play(batch, arrivals))
    assert {id: end.ids for id, end in told.items()} == expected
    assert sizes == [[9], [1], [1], [1, 1, 13], [1, 1, 1], [1, 1, 1]]


def test_a_long_text_does_not_make_the_others_long(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [request(f"{i}", range(200 if i == 1 else 5 + i), 6, read=True) for i in range(5)]
    seen: list[tuple[int, ...]] = []
    attention = hf_flat.sdpa_attention_forward

    def watched(module: Any, query: Any, key: Any, *more: Any, **how: Any) -> Any:
        seen.append((query.shape[0], query.shape[2], key.shape[2]))
        return attention(module, query, key, *more, **how)

    expected = {each.id: ends({each.id: alone(MODEL, each, EARLY)})[each.id] for each in asked}
    monkeypatch.setattr(hf_flat, "sdpa_attention_forward", watched)
    with batch_of(MODEL, EARLY) as batch:
        told = ends(play(batch, [(0, each) for each in asked]))
    assert {(4, 1, 16), (1, 1, 208)} <= set(seen)
    assert all(columns <= 16 for rows, _, columns in seen if rows > 1)
    for id, end in told.items():
        assert end.ids == expected[id].ids
        assert end.tokens is not None
        np.testing.assert_allclose(end.tokens, expected[id].tokens, atol=2e-4, rtol=1e-3)


def test_without_such_attention_prompts_have_a_pass_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals = [(0, request("a", range(20, 29), 4)), (2, request("b", range(40, 53), 2)), (2, request("c", [7], 2))]
    expected = {each.id: ends({each.id: alone(MODEL, each)})[each.id].ids for _, each in arrivals}

    def wrong(_self: Flat, attention: Any, query: Any, key: Any, value: Any, mask: Any) -> Any:
        return query.transpose(1, 2)

    monkeypatch.setattr(Flat, "attend", wrong)
    with batch_of(MODEL) as batch:
        assert not batch._passes.flat
        sizes = fed(batch)
        told = ends(play(batch, arrivals))
    assert {id: end.ids for id, end in told.items()} == expected
    assert [1, 13] in sizes
    assert MODEL.net.config._attn_implementation == "sdpa"


def test_other_threads_may_use_the_model_meanwhile() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = MODEL.net(input_ids=ids).logits
    found: list[torch.Tensor] = []

    def plainly() -> None:
        with torch.no_grad():
            found.append(MODEL.net(input_ids=ids).logits)

    with FlatAttention(MODEL.net).laid(Flat([1, 2], [1, 2], torch.device("cpu"))):
        assert MODEL.net.config._attn_implementation == hf_flat._NAME
        thread = threading.Thread(target=plainly)
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], expected)
    assert MODEL.net.config._attn_implementation == "sdpa"


# Read no deeper than wanted


def read_only(id: str, ids: Any, spans: Any = None) -> LiveRequest:
    ids = tuple(ids)
    return LiveRequest(id, ids, Sampling(0), 0, read=True, spans=((0, len(ids)),) if spans is None else spans)


def test_what_is_only_read_stops_at_the_deepest_layer_that_is_read() -> None:
    passed: list[int] = []
    deepest = MODEL.n_layers - 1
    blocks = MODEL.blocks.modules
    handle = blocks[deepest].register_forward_hook(lambda *_: passed.append(1))
    try:
        with batch_of(MODEL, EARLY, prefill_tokens=16) as batch:
            passed.clear()
            told = play(batch, [(0, read_only("r", range(40)))])
            assert passed == []
            # Their keys and values end there as well, so nobody who writes begins with them; another reader may.
            more = [(0, read_only("again", range(42))), (0, request("w", range(44), 3))]
            late = ends(play(batch, more))
    finally:
        handle.remove()
    end = told["r"][-1]
    assert isinstance(end, LiveEnd)
    np.testing.assert_allclose(end.spans[0], naive_read(MODEL, range(40), 40, EARLY).mean(0), atol=1e-4, rtol=1e-4)
    assert (late["again"].cached, late["w"].cached) == (40, 0)
    assert list(late["w"].ids) == tiny.naive_greedy(MODEL.net, range(44), 3)


STEMS = [tuple(range(30, 52)), tuple(range(100, 113)), (3,)]
TEXTS = st.builds(
    lambda stem, n, tail, writes, read: (STEMS[stem][:n] + tuple(tail), writes, read),
    st.integers(0, 2), st.integers(1, 22), st.lists(st.integers(0, 3), max_size=12), st.integers(0, 4), st.booleans(),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 12), TEXTS), min_size=1, max_size=10), st.integers(1, 5),
    st.sampled_from([1, 6, 20, 512]),
)  # fmt: skip
def test_readers_and_writers_take_nothing_wrong_from_each_other(
    plan: list[tuple[int, tuple[tuple[int, ...], int, bool]]], max_rows: int, prefill_tokens: int
) -> None:
    asked = [
        read_only(f"{i}", ids) if not writes else
        request(f"{i}", ids, writes, read=read, spans=((0, len(ids)),) if read else ())
        for i, (_, (ids, writes, read)) in enumerate(plan)
    ]  # fmt: skip
    with batch_of(MODEL, EARLY, max_rows=max_rows, prefill_tokens=prefill_tokens) as batch:
        arrivals = [(at, each) for (at, _), each in zip(plan, asked, strict=True)]
        told = ends(play(batch, arrivals))
    for each in asked:
        end, n = told[each.id], len(each.prompt_ids)
        if each.sampling.max_tokens and end.finish == "length":
            assert list(end.ids) == tiny.naive_greedy(MODEL.net, each.prompt_ids, len(end.ids))
        if each.read:
            assert end.tokens is not None
            assert end.spans is not None
            plain = naive_read(MODEL, each.prompt_ids + end.ids, n, EARLY)
            np.testing.assert_allclose(end.tokens, plain[n:], atol=2e-4, rtol=1e-3)
            np.testing.assert_allclose(end.spans[0], plain[:n].mean(0), atol=2e-4, rtol=1e-3)


def test_what_goes_all_the_way_is_not_given_up_for_what_does_not() -> None:
    def kept(ids: str, shallow: bool) -> Kept:
        return Kept((), tuple(map(ord, ids)), np.zeros((len(ids), 0)), np.zeros(len(ids)), shallow)

    shelf = Shelf(99)
    for text in (kept("ab", False), kept("abc", True)):
        assert shelf.wants(text)
        shelf.put(text, [])
    assert len(shelf) == 2
    assert not shelf.wants(kept("abc", True))
    assert not shelf.wants(kept("ab", True))
    whole = kept("abc", False)
    assert shelf.wants(whole)
    shelf.put(whole, [])
    assert shelf.texts == (whole,)


@pytest.mark.parametrize("at", [0, 1])
def test_a_text_that_comes_to_no_numbers_is_told_and_leaves_nothing_behind(at: int) -> None:
    """Tokens outside all spans count too: their keys and values would be left in the slot."""
    weights = MODEL.net.get_input_embeddings().weight
    with torch.no_grad():
        old = weights[77].clone()
        weights[77] = float("nan")
    try:
        with batch_of(MODEL, EARLY) as batch:
            ids = [5, 6, 77] if at else [5, 77, 6]
            told = ends(play(batch, [(0, read_only("bad", ids, ((0, 1),))), (0, read_only("good", range(9)))]))
            again = ends(play(batch, [(0, read_only("again", range(9)))]))
    finally:
        with torch.no_grad():
            weights[77] = old
    assert told["bad"].finish == "error"
    for end in (told["good"], again["again"]):
        assert end.finish == "length"
        np.testing.assert_allclose(end.spans[0], naive_read(MODEL, range(9), 9, EARLY).mean(0), atol=1e-4, rtol=1e-4)
