"""Answers that come and go in one batch: each is what it would be alone, whoever else is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

import random_models as tiny
from live_runs import Says, alone, batch_of, ends, fed, naive_read, play, probes_of, request
from mien.chat import ask
from mien.engines.hf import HfEngine
from mien.engines.hf_live import LiveBatch
from mien.engines.hf_rows import WORTH
from mien.engines.hf_turns import read_turns
from mien.errors import FingerprintError, InputError, ModelError
from mien.interventions import Ablate, Add, Cap
from mien.live import LiveEnd, LiveRequest, LiveToken
from mien.models import Model, locate_blocks, wrap
from mien.records import Intervention, Message, Sampling, Tokens, WriteRequest

MODEL = tiny.model_of("llama")
PROBES = probes_of(MODEL)
WORDS = ["Hi", "Who are you?", "Tell me about the sea, the hills and the trees in the north.", "Why", "Yes?", "Hm."]
TALKS = [ask(q, s) for q in WORDS for s in (None, "Be kind to all.")]

by_family = pytest.mark.parametrize("family", tiny.FAMILIES)


@pytest.fixture(autouse=True)
def nothing_is_left_on_the_models() -> Iterator[None]:
    yield
    assert tiny.hooks_on(MODEL.net) == []


# The same words as the engine that writes whole batches


GREEDY, FREE, NARROW = Sampling(12, 0), Sampling(12, 1.0), Sampling(12, 0.8, 0.9)


@pytest.mark.parametrize(
    ("family", "sampling"),
    [
        *((f, GREEDY) for f in tiny.FAMILIES),
        *((f, s) for f in ("llama", "gemma3", "mpt", "mixtral") for s in (FREE, NARROW)),
    ],
)
def test_words_are_those_of_the_batch_engine(family: str, sampling: Sampling) -> None:
    for template in (tiny.CHATML, None):
        model = tiny.model_of(family, template)
        written = [WriteRequest(f"r{i}", talk, i) for i, talk in enumerate(TALKS)]
        expected = {r.id: r for b in HfEngine(model).write(written, sampling, read=False) for r, _ in b}
        asked = [LiveRequest(w.id, model.chat.prompt_ids(w.conversation), sampling, w.seed) for w in written]
        with batch_of(model, max_rows=5, prefill_tokens=24) as batch:
            told = play(batch, [(2 * i, each) for i, each in enumerate(asked)])
        for id, end in ends(told).items():
            assert end.ids == expected[id].response_ids, (id, template)
            assert end.finish == expected[id].finish
            # A special token amid a letter's bytes is taken out by the one before they are put together.
            assert end.text.strip() == expected[id].text or "�" in end.text
            drawn = [e.logprob for e in told[id] if isinstance(e, LiveToken)]
            if end.finish == "length":
                assert np.mean(drawn) == pytest.approx(expected[id].logprob, abs=1e-4)
        assert max(len(each.prompt_ids) for each in asked) > 40, "prompts must be longer than windows and chunks"


@by_family
def test_readings_are_those_of_a_plain_pass(family: str) -> None:
    model = tiny.model_of(family)
    probes = probes_of(model)
    asked = []
    for i, talk in enumerate(TALKS[:6]):
        ids = model.chat.prompt_ids(talk)
        asked.append(request(f"r{i}", ids, 3 + 4 * i, read=True, spans=((0, 4), (3, len(ids)), (2, 2))))
    with batch_of(model, probes, max_rows=4, prefill_tokens=16) as batch:
        told = play(batch, [(i, each) for i, each in enumerate(asked)])
    for each, end in zip(asked, ends(told).values(), strict=True):
        n = len(each.prompt_ids)
        plain = naive_read(model, each.prompt_ids + end.ids, n, probes)
        assert end.tokens is not None
        assert end.spans is not None
        assert (end.tokens.dtype, end.spans.dtype) == (np.float32, np.float32)
        np.testing.assert_allclose(end.tokens, plain[n:], atol=2e-4, rtol=1e-4)
        np.testing.assert_allclose(end.spans[:2], [plain[:4].mean(0), plain[3:n].mean(0)], atol=2e-4, rtol=1e-4)
        assert np.isnan(end.spans[2]).all()


def test_layers_may_have_unequal_numbers_of_probes() -> None:
    two, one, three = (probes_of(MODEL, [layer], n)[layer] for layer, n in ((3, 2), (0, 1), (2, 3)))
    probes = {3: two, 0: one, 2: three}
    asked = request("r", range(5, 15), 6, read=True, spans=((2, 9),))
    end = ends({"r": alone(MODEL, asked, probes)})["r"]
    plain = naive_read(MODEL, asked.prompt_ids + end.ids, 10, probes)
    assert end.tokens is not None
    assert end.spans is not None
    assert end.tokens.shape == (6, 6)
    np.testing.assert_allclose(end.tokens, plain[10:], atol=2e-4, rtol=1e-4)
    np.testing.assert_allclose(end.spans[0], plain[2:9].mean(0), atol=2e-4, rtol=1e-4)


# Each alone, whatever happens beside it

ACTS: dict[str, tuple[Intervention, ...]] = {
    "none": (),
    "add": (Add(tiny.direction_of(MODEL, 1, 3), 2.0, at=(0, 2)),),
    "ablate": (Ablate(tiny.direction_of(MODEL, 2), at=(1, 2, 3)),),
    "cap": (Cap(tiny.direction_of(MODEL, 3), at=(0, 1, 2), low=0.1),),
    "prompt": (Add(tiny.direction_of(MODEL, 4, 3), 2.0, at=1, tokens="prompt"),),
    "response": (Add(tiny.direction_of(MODEL, 5, 3), 2.0, at=1, tokens="response"),),
    "caps": (
        Cap(tiny.direction_of(MODEL, 6), at=2, high=0.0, tokens="response"),
        Cap(tiny.direction_of(MODEL, 7), at=(1, 2), low=-0.2, high=0.2, tokens="prompt"),
        Add(tiny.direction_of(MODEL, 8, 2), 1.0, at=2),
    ),
}


def variants() -> list[LiveRequest]:
    """Requests of many kinds."""
    chance = np.random.default_rng(0)
    made = []
    for i in range(14):
        ids = chance.integers(0, 250, (1, 2, 5, 9, 17, 40, 64)[i % 7]).tolist()
        name = list(ACTS)[i % len(ACTS)]
        spans = ((0, len(ids)), (len(ids) // 2, len(ids))) if i % 3 else ()
        made.append(
            request(
                f"v{i}", ids, (1, 2, 7, 19)[i % 4], (0, 0, 1.0)[i % 3], seed=i, interventions=ACTS[name],
                read=i % 2 == 0, spans=spans, top_logprobs=i % 4,
            )
        )  # fmt: skip
    return made


VARIANTS = variants()
ALONE = {each.id: alone(MODEL, each, PROBES) for each in VARIANTS}


def same(got: LiveEnd, wanted: LiveEnd) -> None:
    assert (got.finish, got.ids, got.text) == (wanted.finish, wanted.ids, wanted.text)
    for one, other in ((got.tokens, wanted.tokens), (got.spans, wanted.spans)):
        assert (one is None) == (other is None)
        if one is not None:
            np.testing.assert_allclose(one, other, atol=2e-4, rtol=1e-3)
    assert got.fired == (None if wanted.fired is None else pytest.approx(wanted.fired, abs=1e-6))


def test_what_comes_alone_is_what_the_definition_says() -> None:
    """The other tests compare with runs alone; those are compared with plain passes here."""
    fired = []
    for each in VARIANTS:
        end = ALONE[each.id][-1]
        assert isinstance(end, LiveEnd)
        n = len(each.prompt_ids)
        if each.sampling.temperature == 0 and end.finish == "length":
            assert list(end.ids) == tiny.naive_greedy(MODEL.net, each.prompt_ids, len(end.ids), each.interventions)
        if each.read:
            plain = naive_read(MODEL, each.prompt_ids + end.ids, n, PROBES, each.interventions)
            np.testing.assert_allclose(end.tokens, plain[n:], atol=2e-4, rtol=1e-3)
            if each.spans:
                np.testing.assert_allclose(end.spans[0], plain[:n].mean(0), atol=2e-4, rtol=1e-3)
        if end.fired is not None:
            fired.append(end.fired)
        assert len(ALONE[each.id]) > 1
    assert len(fired) == 4
    assert 0 < min(fired) < max(fired) < 1


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 25), st.integers(0, len(VARIANTS) - 1), st.none() | st.integers(0, 40)),
        min_size=1, max_size=14,
    ),
    st.integers(1, 6),
    st.sampled_from([1, 3, 16, 64, 512]),
    st.sampled_from([100, 200, 10000]),
)  # fmt: skip
def test_any_interleaving_gives_each_what_it_gets_alone(
    plan: list[tuple[int, int, int | None]], max_rows: int, prefill_tokens: int, cache_tokens: int
) -> None:
    arrivals = [(at, replace(VARIANTS[kind], id=f"{i}")) for i, (at, kind, _) in enumerate(plan)]
    cancels = {f"{i}": gone for i, (_, _, gone) in enumerate(plan) if gone is not None}
    limits = {"max_rows": max_rows, "prefill_tokens": prefill_tokens, "cache_tokens": cache_tokens}
    with batch_of(MODEL, PROBES, **limits) as batch:
        told = play(batch, arrivals, cancels)
        assert batch._passes.cache.rows == 0
    for i, (at, kind, gone) in enumerate(plan):
        expected = ALONE[VARIANTS[kind].id]
        got, last, wanted = told[f"{i}"], told[f"{i}"][-1], expected[-1]
        assert isinstance(last, LiveEnd)
        assert isinstance(wanted, LiveEnd)
        if last.finish == "cancelled":
            assert gone is not None and gone >= at  # noqa: PT018
            assert wanted.ids[: len(last.ids)] == last.ids
            if last.tokens is not None and wanted.tokens is not None:
                assert np.isnan(last.tokens[-1:]).all()
                np.testing.assert_allclose(last.tokens[:-1], wanted.tokens[: len(last.ids)][:-1], atol=2e-4, rtol=1e-3)
        else:
            same(last, wanted)
        for one, other in zip(got[:-1], expected[:-1], strict=False):
            assert isinstance(one, LiveToken)
            assert isinstance(other, LiveToken)
            assert (one.id, one.text, [t for t, _ in one.top]) == (other.id, other.text, [t for t, _ in other.top])
            np.testing.assert_allclose(
                [one.logprob, *(p for _, p in one.top)], [other.logprob, *(p for _, p in other.top)], atol=1e-4
            )


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "mixtral", "mpt", "gpt_oss"])
def test_rows_of_other_families_keep_to_themselves(family: str) -> None:
    model = tiny.model_of(family)
    probes = probes_of(model)
    act = (Add(tiny.direction_of(model, 1, 3), 2.0, at=(0, 2)), Cap(tiny.direction_of(model, 2), at=(1, 3), low=0.0))
    chance = np.random.default_rng(1)
    asked = [
        request(f"{i}", chance.integers(0, 250, 3 + 7 * i).tolist(), 15, read=True, interventions=act if i % 2 else ())
        for i in range(6)
    ]
    apart = {each.id: ends({each.id: alone(model, each, probes)})[each.id] for each in asked}
    with batch_of(model, probes, max_rows=4, prefill_tokens=20) as batch:
        together = ends(play(batch, [(2 * i, each) for i, each in enumerate(asked[::-1])]))
    for id, end in together.items():
        same(end, apart[id])


# Readings and firing


def test_readings_are_those_of_scanning_the_conversation() -> None:
    words = "I am a reed in the wind, né? 😀 Ask on."
    talk = (Message("system", "Be kind."), Message("user", "Who are you?"), Message("assistant", words))
    spanned = MODEL.chat.spanned(talk)
    prompt, said = MODEL.chat.prompt_ids(talk[:2]), MODEL.chat.response_ids(words)
    (turns,) = read_turns(MODEL, [talk], PROBES)
    (end_of_turn,) = [i for i in MODEL.chat.stop_ids if i != MODEL.chat.tokenizer.eos_token_id]
    with Says(MODEL.net, [*said, end_of_turn], len(prompt)):
        told = alone(MODEL, request("r", prompt, 90, read=True, spans=spanned.spans[:2]), PROBES)
    end = told[-1]
    assert isinstance(end, LiveEnd)
    assert (end.finish, end.ids, end.text) == ("stop", said, words)
    start, stop = spanned.spans[2]
    assert end.tokens is not None
    np.testing.assert_allclose(end.tokens, turns.tokens[start:stop], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(end.spans, turns.pooled()[:2], rtol=1e-3, atol=1e-4)
    early = [e.read for e in told[:-1] if isinstance(e, LiveToken)]
    assert early[0] is None
    np.testing.assert_array_equal(np.stack([r for r in early[1:] if r is not None]), end.tokens[:-1])


def test_a_prompt_may_be_read_without_an_answer() -> None:
    ids = tuple(range(40))
    each = LiveRequest("r", ids, Sampling(0), 0, read=True, spans=((0, 40), (30, 40)))
    (end,) = alone(MODEL, each, PROBES)
    assert isinstance(end, LiveEnd)
    plain = naive_read(MODEL, ids, 40, PROBES)
    assert (end.finish, end.ids, end.text) == ("length", (), "")
    np.testing.assert_allclose(end.spans, [plain.mean(0), plain[30:].mean(0)], atol=1e-4, rtol=1e-4)


def test_nothing_is_projected_for_those_who_do_not_read() -> None:
    with batch_of(MODEL, PROBES) as batch:
        seen: list[bool] = []
        run = batch._passes.run
        batch._passes.run = lambda *a, **k: seen.append(k.get("read", False)) or run(*a, **k)  # type: ignore[method-assign, func-returns-value, misc]
        told = play(batch, [(0, request("a", [1, 2, 3], 4)), (6, request("b", [1, 2, 3], 4, read=True))])
    assert seen == [False] * 4 + [False] + [True] * 4
    assert ends(told)["a"].tokens is None
    assert ends(told)["b"].tokens is not None


@pytest.mark.parametrize("tokens", ["all", "prompt", "response"])
def test_caps_are_counted_where_they_change_the_stream(tokens: Tokens) -> None:
    direction = tiny.direction_of(MODEL, 3)
    caps = (Cap(direction, at=(0, 2), low=0.05, tokens=tokens), Cap(direction, at=(2, 3), high=1e9, tokens=tokens))
    other = Add(tiny.direction_of(MODEL, 4, 2), at=1, tokens=tokens)
    each = request("r", range(30, 51), 9, read=True, interventions=(*caps, other))
    end = ends({"r": alone(MODEL, each, PROBES)})["r"]
    assert len(end.ids) == 9
    seen: dict[int, torch.Tensor] = {}

    class Count:
        """Stands before a cap and looks at what comes in."""

        layers, tokens = (0, 2), "all"

        def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
            seen[layer] = h @ direction.unit(layer)
            return h

    span = {"all": slice(0, 30), "prompt": slice(0, 21), "response": slice(21, 30)}[tokens]
    naive_read(MODEL, each.prompt_ids + end.ids, 21, PROBES, (Count(), *each.interventions))
    below = sum(int((seen[k][span] < 0.05).sum()) for k in (0, 2))
    n = span.stop - span.start
    assert end.fired == pytest.approx(below / (4 * n), abs=1e-6)
    assert 0 < below < 2 * n


def test_there_is_no_firing_without_a_cap() -> None:
    assert ends({"r": alone(MODEL, request("r", [1, 2], 3, interventions=ACTS["add"]))})["r"].fired is None
    idle = Cap(tiny.direction_of(MODEL, 3), at=1, high=1e9)
    assert ends({"r": alone(MODEL, request("r", [1, 2], 3, interventions=(idle,)))})["r"].fired == 0.0


def test_only_blocks_with_work_have_a_hook() -> None:
    with batch_of(MODEL, probes_of(MODEL, [2])) as batch:
        assert len(tiny.hooks_on(MODEL.net)) == 1
        for _ in range(2):
            play(batch, [(0, request("r", [1, 2], 3, interventions=(Add(tiny.direction_of(MODEL, 4), at=(0, 2)),)))])
            assert len(tiny.hooks_on(MODEL.net)) == 2


def test_rows_with_one_intervention_are_edited_at_once() -> None:
    seen: list[int] = []

    class Seen:
        layers, tokens = (1,), "response"

        def edit(self, _layer: int, h: torch.Tensor) -> torch.Tensor:
            seen.append(h.shape[0])
            return h

    shared = Seen()
    with batch_of(MODEL) as batch:
        acts = [(shared,), (), (shared,), (Seen(),), (shared,)]
        play(batch, [(0, request(f"{i}", [1, 2, 3 + i], 4, interventions=each)) for i, each in enumerate(acts)])
    assert seen == [3, 1] * 3


# How answers end, and what is shown of them


def spell(text: str, model: Model = MODEL) -> list[int]:
    return list(model.chat.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize(
    ("said", "stop", "text", "kept"),
    [
        ("One. Two. END more", ("END",), "One. Two. ", 10),
        ("One. Two. END more", ("END", "Two"), "One. ", 5),
        ("\n\nOne", ("\n",), "", 0),
        ("aé\n\nUser: x", ("\n\nUser",), "aé", 3),
        ("a ENE END", ("END",), "a ENE ", 6),
    ],
)
def test_stop_strings_end_an_answer(said: str, stop: tuple[str, ...], text: str, kept: int) -> None:
    prompt = MODEL.chat.prompt_ids(ask("Hi"))
    ids = spell(said)
    with Says(MODEL.net, ids, len(prompt)):
        told = alone(MODEL, request("r", prompt, 60, read=True, stop=stop), PROBES)
    end = told[-1]
    assert isinstance(end, LiveEnd)
    assert (end.text, end.finish, list(end.ids)) == (text, "stop", ids[:kept])
    assert end.tokens is not None
    plain = naive_read(MODEL, [*prompt, *end.ids], len(prompt), PROBES)
    np.testing.assert_allclose(end.tokens, plain[len(prompt) :], atol=2e-4, rtol=1e-4)


def test_what_is_held_back_comes_with_the_end() -> None:
    prompt = MODEL.chat.prompt_ids(ask("Hi"))
    ids = spell("Go EN")
    with Says(MODEL.net, ids, len(prompt)):
        told = alone(MODEL, request("r", prompt, len(ids), stop=("END",)))
    assert [e.text for e in told[:-1] if isinstance(e, LiveToken)] == ["G", "o", " ", "", ""]
    assert ends({"r": told})["r"].rest == "EN"


@pytest.mark.parametrize("read", [False, True])
def test_an_answer_cut_at_its_limit(read: bool) -> None:
    told = alone(MODEL, request("r", [5, 6, 7], 4, read=read), PROBES)
    end = told[-1]
    assert isinstance(end, LiveEnd)
    assert (end.finish, len(end.ids), len(told)) == ("length", 4, 5)
    assert (end.tokens is not None) is read
    if end.tokens is not None:
        assert np.isfinite(end.tokens).all()


def test_the_last_token_goes_as_deep_as_it_is_read() -> None:
    passed: list[int] = []
    handles = [
        block.register_forward_hook(lambda *_, at=at: passed.append(at))
        for at, block in enumerate(MODEL.blocks.modules)
    ]
    layer = min(PROBES)
    probes = {layer: PROBES[layer]}
    try:
        with batch_of(MODEL, probes) as batch:
            passed.clear()
            short, long = (request(f"r{n}", [5, 6, 7], n, read=True) for n in (2, 4))
            told = ends(play(batch, [(0, short), (0, long)]))
    finally:
        for handle in handles:
            handle.remove()
    # The prompt and three tokens of the longer go through all layers, the short one's last token beside it.
    deepest = MODEL.n_layers - 1
    assert (passed.count(layer), passed.count(deepest)) == (5, 4)
    for each in (short, long):
        end = told[each.id]
        assert end.tokens is not None
        plain = naive_read(MODEL, [5, 6, 7, *end.ids], 3, probes)
        np.testing.assert_allclose(end.tokens, plain[3:], atol=2e-4, rtol=1e-4)


def test_alternatives_are_the_likeliest() -> None:
    told = alone(MODEL, request("r", [5, 6, 7], 3, 1.0, top_logprobs=4, seed=3))
    ids = [e.id for e in told[:-1] if isinstance(e, LiveToken)]
    for n, event in enumerate(told[:-1]):
        assert isinstance(event, LiveToken)
        plain = tiny.naive_logits(MODEL.net, [5, 6, 7, *ids[:n]], 3)[-1].log_softmax(-1)
        likely = plain.topk(4)
        assert [t for t, _ in event.top] == likely.indices.tolist()
        np.testing.assert_allclose([p for _, p in event.top], likely.values, atol=1e-4)
        assert event.logprob == pytest.approx(float(plain[event.id]), abs=1e-4)


# Steps


def test_a_long_prompt_holds_nobody_up() -> None:
    with batch_of(MODEL, prefill_tokens=16) as batch:
        batch.admit(request("short", [1, 2, 3], 40))
        batch.step()
        batch.admit(request("long", range(200), 2))
        batch.step()
        batch.admit(request("late", [4, 5], 3))
        log = [{id for id, _ in batch.step()} for _ in range(14)]
    assert all("short" in told for told in log), "it gets a token at each step"
    assert "late" in log[0] | log[1], "a short prompt does not wait for a long one"
    assert "long" in set().union(*log[9:]), "nor does a long one wait for ever"
    assert "long" not in set().union(*log[:9])


def test_rows_and_memory_follow_the_load() -> None:
    with batch_of(MODEL, max_rows=4, cache_tokens=4 * 64) as batch:
        for i in range(6):
            batch.admit(request(f"{i}", [1, 2, 3 + i], 20))
        batch.admit(request("wide", range(100), 60))
        batch.step()
        cache = batch._passes.cache
        assert (batch.load().running, batch.load().waiting) == (4, 3)
        assert batch.load().waiting_tokens == 3 + 3 + 100
        sizes = []
        while not batch.idle:
            batch.step()
            sizes.append(cache.rows * cache.columns)
            assert cache.rows * cache.columns <= 4 * 64
            for layer in cache.layers:
                if cache.rows:
                    assert layer.keys.shape[0] == cache.rows
                    assert layer.keys.shape[2] == cache.columns
        assert (cache.rows, cache.columns) == (0, 0)
        assert max(sizes) > 64


# What goes wrong


class Breaks:
    """An intervention that does something bad."""

    tokens: Tokens = "response"
    layers = (1,)

    def __init__(self, bad: Any) -> None:
        self._bad = bad

    def edit(self, _layer: int, h: torch.Tensor) -> torch.Tensor:
        if isinstance(self._bad, Exception):
            raise self._bad
        return h * self._bad


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (RuntimeError("/secret/path"), "intervention Breaks"), (float("nan"), "NaN"), (float("inf"), "NaN"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("when", ["prompt", "response"])
def test_what_breaks_one_answer_leaves_the_others_alone(bad: Any, words: str, when: Tokens) -> None:
    broken = Breaks(bad)
    broken.tokens = when
    good = [0, 1, 2, 4, 9, 12]
    with batch_of(MODEL, PROBES, max_rows=5, prefill_tokens=64) as batch:
        arrivals = [(i // 2, replace(VARIANTS[k], id=VARIANTS[k].id)) for i, k in enumerate(good)]
        bads = [(i, request(f"bad{i}", range(9, 60), 9, read=True, interventions=(broken,))) for i in range(4)]
        told = play(batch, bads[:2] + arrivals + bads[2:])
    for k in good:
        same(ends(told)[VARIANTS[k].id], ends(ALONE)[VARIANTS[k].id])
    for _, each in bads:
        end = ends(told)[each.id]
        assert end.finish == "error"
        assert words in end.error
        assert "secret" not in end.error
        assert end.error.endswith(".")


def test_no_memory_for_one_more_ends_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    with batch_of(MODEL, PROBES) as batch:
        cache = batch._passes.cache
        resize = cache.resize

        def scarce(rows: int, columns: int) -> None:
            if rows > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
            resize(rows, columns)

        monkeypatch.setattr(cache, "resize", scarce)
        told = play(batch, [(0, VARIANTS[3]), (1, VARIANTS[7]), (2, VARIANTS[11])])
    assert ends(told)["v11"].finish == "error"
    assert "memory" in ends(told)["v11"].error
    same(ends(told)["v3"], ends(ALONE)["v3"])
    same(ends(told)["v7"], ends(ALONE)["v7"])


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prompt_ids": ()}, InputError, "no tokens"),
        ({"prompt_ids": (1, 9999)}, ModelError, "9999"),
        ({"prompt_ids": (-1, 3)}, ModelError, "-1"),
        ({"prompt_ids": (1,) * 250}, ModelError, "256 positions"),
        ({"sampling": Sampling(200), "prompt_ids": (1,) * 20}, ModelError, "memory for 200"),
        ({"sampling": Sampling(0)}, InputError, "one token"),
        ({"sampling": Sampling(3, -1)}, InputError, "temperature"),
        ({"sampling": Sampling(3, 1, 2)}, InputError, "top_p"),
        ({"spans": ((0, 9),)}, InputError, "Spans"),
        ({"spans": ((2, 1),)}, InputError, "Spans"),
        ({"top_logprobs": -1}, InputError, "alternatives"),
        ({"seed": 1 << 64}, InputError, "64 bits"),
        ({"stop": ("",)}, InputError, "empty"),
        ({"interventions": (Breaks(1.0),)}, InputError, "layer 7"),
        ({"interventions": (Add(tiny.direction_of(MODEL, fingerprint="other")),)}, FingerprintError, "made for"),
    ],
)
def test_requests_that_make_no_sense(changes: dict[str, Any], error: type[Exception], words: str) -> None:
    if words == "layer 7":
        changes["interventions"][0].layers = (7,)
    with batch_of(MODEL, cache_tokens=200) as batch, pytest.raises(error, match=words):
        batch.check(replace(request("r", [1, 2, 3], 9), **changes))


def test_limits_and_probes_that_make_no_sense() -> None:
    for limits in ({"max_rows": 0}, {"prefill_tokens": 0}, {"cache_tokens": 0}):
        with pytest.raises(InputError):
            LiveBatch(MODEL, **limits)
    for probes in ({9: torch.zeros(1, 32)}, {1: torch.zeros(32)}, {1: torch.zeros(1, 31)}):
        with pytest.raises(InputError):
            LiveBatch(MODEL, probes)


def test_a_model_that_cannot_be_served_is_refused() -> None:
    net = tiny.build("gemma3")
    net.config.layer_types = ["chunked_attention", "full_attention"] * 2
    with pytest.raises(ModelError, match="chunks"):
        LiveBatch(replace(tiny.model_of("gemma3"), net=net))
    net = tiny.build("llama")
    net.config._attn_implementation = "flex_attention"
    with pytest.raises(ModelError, match="flex_attention"):
        LiveBatch(replace(MODEL, net=net))
    config = hf.Lfm2Config(**tiny._GROUPED, layer_types=["conv", "full_attention"] * 2)
    net = tiny.from_config(config)
    recurrent = replace(MODEL, net=net, blocks=locate_blocks(net))
    with pytest.raises(ModelError, match="keep a state"):
        LiveBatch(recurrent)
    assert tiny.hooks_on(net) == []


def test_a_model_that_counts_columns_is_refused() -> None:
    """Its positions are the columns, so a text would change with its neighbours."""
    net = tiny.build("llama")
    forward = net.model.forward

    def blind(**inputs: Any) -> Any:
        width = inputs["input_ids"].shape[1]
        inputs["position_ids"] = torch.arange(width)[None] + (5 if width == 1 else 0)
        return forward(**inputs)

    model = wrap(net, tiny.tokenizer())
    net.model.forward = blind
    with pytest.raises(ModelError, match="otherwise"):
        LiveBatch(model)
    assert tiny.hooks_on(net) == []


def test_bfloat16() -> None:
    net = tiny.build("llama").to(torch.bfloat16)
    model = wrap(net, tiny.tokenizer())
    with batch_of(model, PROBES) as batch:
        told = play(batch, [(i, request(f"{i}", range(3 + i), 6, read=True)) for i in range(3)])
    for end in ends(told).values():
        assert end.finish in ("length", "stop")
        assert end.tokens is not None
        assert np.isfinite(end.tokens).all()


def test_texts_that_would_change_the_rotations_of_others_are_refused() -> None:
    rope = {
        "rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 64,
        "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
    }  # fmt: skip
    net = tiny.from_config(hf.Phi3Config(**tiny._GROUPED, rope_parameters=rope, original_max_position_embeddings=64))
    with batch_of(wrap(net, tiny.tokenizer())) as batch:
        batch.check(request("a", range(50), 14))
        with pytest.raises(ModelError, match="64 positions"):
            batch.check(request("a", range(50), 15))


# Prompts that begin alike


def test_what_prompts_have_in_common_is_fed_once() -> None:
    common = list(range(60, 90))
    cap = ACTS["cap"]
    asked = [
        request(f"{i}", [*common, *range(i, 2 * i)], 4, read=True, spans=((0, 30), (5, 30 + i)), interventions=cap)
        for i in range(1, 8)
    ]
    asked += [request("same", asked[3].prompt_ids, 4, interventions=cap), request("plain", asked[3].prompt_ids, 4)]
    with batch_of(MODEL, PROBES, max_rows=12) as batch:
        sizes = fed(batch)
        told = ends(play(batch, [(0, each) for each in asked[:5]] + [(2, each) for each in asked[5:]]))
    prompts = [n for pass_ in sizes for n in pass_ if n > 1]
    assert sorted(prompts, reverse=True)[:2] == [34, 31], "once with the cap, once without"
    assert sum(n >= 30 for n in prompts) == 2
    for each in asked:
        same(told[each.id], ends({each.id: alone(MODEL, each, PROBES)})[each.id])


def test_what_was_not_read_is_not_taken_over() -> None:
    common = list(range(60, 90))
    first = request("first", [*common, 1], 30)
    second = request("second", [*common, 2], 3, read=True, spans=((20, 28),))
    third = request("third", [*common, 3], 3, read=True, spans=((22, 31),))
    with batch_of(MODEL, PROBES) as batch:
        sizes = fed(batch)
        told = ends(play(batch, [(0, first), (2, second), (4, third)]))
    assert [n for pass_ in sizes for n in pass_ if n > 1] == [31, 11]
    for each in (first, second, third):
        same(told[each.id], ends({each.id: alone(MODEL, each, PROBES)})[each.id])


def test_long_prompts_that_are_the_same_are_read_once() -> None:
    ids = list(range(200))
    with batch_of(MODEL, PROBES, prefill_tokens=16) as batch:
        sizes = fed(batch)
        play(batch, [(0, request("a", ids, 2)), (1, request("b", ids, 2)), (5, request("c", ids, 2))])
    assert sum(n for pass_ in sizes for n in pass_ if n > 1) <= 200 + 2 * WORTH, "but for ends not worth waiting for"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.integers(0, 9)), min_size=2, max_size=7
    ),
    st.sampled_from([4, 16, 512]),
)
def test_prompts_that_share_much_come_to_the_same(plan: list[tuple[list[int], int]], prefill_tokens: int) -> None:
    stem = list(range(100, 125))
    asked = [
        request(f"{i}", stem[: len(ids)] + ids, 3, read=at % 2 == 0, spans=((at, at + 1 + len(ids) // 2),))
        for i, (ids, at) in enumerate(plan)
    ]
    asked = [replace(each, spans=((0, min(s[1], len(each.prompt_ids))),)) for each in asked for s in each.spans]
    with batch_of(MODEL, PROBES, max_rows=4, prefill_tokens=prefill_tokens) as batch:
        told = ends(play(batch, [(at, each) for (_, at), each in zip(plan, asked, strict=True)]))
    for each in asked:
        n, end = len(each.prompt_ids), told[each.id]
        if end.finish == "length":
            assert list(end.ids) == tiny.naive_greedy(MODEL.net, each.prompt_ids, 3)
        if each.read:
            plain = naive_read(MODEL, each.prompt_ids + end.ids, n, PROBES)
            np.testing.assert_allclose(end.tokens, plain[n:], atol=2e-4, rtol=1e-3)
            start, stop = each.spans[0]
            np.testing.assert_allclose(end.spans[0], plain[start:stop].mean(0), atol=2e-4, rtol=1e-3)


# What is kept of answers that are over


def after(end: LiveEnd, prompt: Sequence[int], more: Sequence[int]) -> list[int]:
    """The next turn's prompt: all that was said, and more."""
    return [*prompt, *end.ids, *more]


@pytest.mark.parametrize("read", [True, False])
@pytest.mark.parametrize("act", ["none", "cap"])
def test_a_next_turn_feeds_what_is_new(read: bool, act: str) -> None:
    acts, ids = (ACTS["cap"] if act == "cap" else ()), list(range(40, 70))
    with batch_of(MODEL, PROBES) as batch:
        first = request("first", ids, 12, read=read, spans=((0, 30),), interventions=acts)
        end = ends(play(batch, [(0, first)]))["first"]
        longer = after(end, ids, [7, 8, 9])
        sizes = fed(batch)
        second = request("second", longer, 5, read=read, spans=((0, 30), (30, 41)), interventions=acts)
        told = ends(play(batch, [(0, second)]))["second"]
    assert batch._passes.cache.rows == 0
    assert sizes[0] == [len(longer) - 41], "the last token of an answer that was cut is not kept"
    same(told, ends({"second": alone(MODEL, second, PROBES)})["second"])


def test_answers_that_were_held_otherwise_than_prompts_give_their_prompts_only() -> None:
    ids, late = list(range(40, 70)), (replace(ACTS["cap"][0], tokens="response"),)
    with batch_of(MODEL, PROBES) as batch:
        end = ends(play(batch, [(0, request("first", ids, 12, interventions=late))]))["first"]
        longer = after(end, ids, [7, 8, 9])
        sizes = fed(batch)
        asked = [
            request("late", longer, 2, interventions=late), request("plain", [*longer, 1], 2),
            request("other", longer, 2, interventions=ACTS["cap"]),
        ]  # fmt: skip
        for each in asked:
            told = ends(play(batch, [(0, each)]))[each.id]
            same(told, ends({each.id: alone(MODEL, each, PROBES)})[each.id])
    assert sizes[0] == [15], "a held answer's own states are not those of a prompt"
    assert sizes[2] == [1], "a prompt that nothing acted on is anybody's"
    assert sizes[4] == [45]


def test_what_broke_or_was_given_up_is_not_kept() -> None:
    broken = Breaks(float("nan"))
    ids = list(range(40, 70))
    with batch_of(MODEL, PROBES) as batch:
        play(batch, [(0, request("bad", ids, 9, read=True, interventions=(broken,)))])
        play(batch, [(0, request("gone", ids, 9))], {"gone": 4})
        assert len(batch._rows.shelf) == 0
        play(batch, [(0, request("short", ids[:5], 2))])
        assert len(batch._rows.shelf) == 0, "not worth it"
        play(batch, [(0, request("good", ids, 9))])
        assert len(batch._rows.shelf) == 1
        play(batch, [(0, request("less", ids[:20], 1))])
        assert len(batch._rows.shelf) == 1, "it is the beginning of what is there"


def test_the_oldest_goes_first_and_no_more_is_kept_than_said() -> None:
    with batch_of(MODEL, PROBES, cache_tokens=800) as batch:  # keeps 100
        for i in range(6):
            play(batch, [(0, request(f"{i}", range(30 * i, 30 * i + 30), 1))])
            assert batch._rows.shelf.tokens == sum(text.fed for text in batch._rows.shelf.texts) <= 100
        assert [text.ids[0] for text in batch._rows.shelf.texts] == [90, 120, 150]
        play(batch, [(0, request("again", [*range(90, 120), 1, 2], 1))])
        assert [(text.ids[0], text.fed) for text in batch._rows.shelf.texts] == [(120, 30), (150, 30), (90, 32)]
        play(batch, [(0, request("long", range(200), 1))])
        assert [text.ids[0] for text in batch._rows.shelf.texts] == [120, 150, 90], "too long to be kept"


def test_what_is_kept_is_given_up_before_an_answer_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with batch_of(MODEL, PROBES) as batch:
        play(batch, [(0, request("first", range(40, 70), 3))])
        rows, resize = batch._rows, batch._passes.cache.resize

        def scarce(wanted: int, columns: int) -> None:
            if wanted and len(rows.shelf):
                raise torch.OutOfMemoryError("CUDA out of memory")
            resize(wanted, columns)

        monkeypatch.setattr(batch._passes.cache, "resize", scarce)
        told = play(batch, [(0, VARIANTS[3])])
    same(ends(told)["v3"], ends(ALONE)["v3"])


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "mixtral", "mpt", "gpt_oss"])
def test_other_families_go_on_from_what_is_kept(family: str) -> None:
    model = tiny.model_of(family)
    probes = probes_of(model)
    ids = np.random.default_rng(2).integers(0, 250, 40).tolist()
    with batch_of(model, probes) as batch:
        end = ends(play(batch, [(0, request("first", ids, 10, read=True))]))["first"]
        second = request("second", after(end, ids, [3, 1, 4]), 6, read=True)
        sizes = fed(batch)
        told = ends(play(batch, [(0, second)]))["second"]
    assert sizes[0][0] <= 3 + 1 + 1
    same(told, ends({"second": alone(model, second, probes)})["second"])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.booleans()), min_size=2, max_size=8),
    st.sampled_from([200, 1200, 10000]), st.sampled_from([4, 64]),
)  # fmt: skip
def test_turns_of_several_chats_come_to_what_they_come_to_alone(
    plan: list[tuple[int, int, bool]], cache_tokens: int, prefill_tokens: int
) -> None:
    talks: dict[int, list[int]] = {}
    with batch_of(MODEL, PROBES, cache_tokens=cache_tokens, prefill_tokens=prefill_tokens) as batch:
        for i, (more, chat, held) in enumerate(plan):
            prompt = [*talks.get(chat, list(range(100, 112))), chat, *range(more)]
            if len(prompt) > 150:
                continue
            each = request(
                f"{i}", prompt, 6, read=True, spans=((0, len(prompt)),), interventions=ACTS["cap"] if held else ()
            )
            told = ends(play(batch, [(0, each)]))[each.id]
            same(told, ends({each.id: alone(MODEL, each, PROBES)})[each.id])
            talks[chat] = after(told, prompt, [])
