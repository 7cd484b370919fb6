"""Add, Ablate and Cap: their maths against numpy, and that they act where they should whatever runs the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import random_models as tiny
from mien.chat import ask
from mien.engines.hf import HfEngine
from mien.errors import FingerprintError, InputError
from mien.interventions import Ablate, Add, Cap, steered
from mien.models import Model
from mien.records import Intervention, Sampling, ScoreRequest, WriteRequest
from mien.residual import edited

MODEL = tiny.model_of("llama")
NET = MODEL.net
DIRECTION = tiny.direction_of(MODEL, scale=4.0)
OTHER = tiny.direction_of(MODEL, seed=1, scale=4.0)
PROMPTS = [(5, 9, 2), (40, 41, 42, 43, 44, 45, 46), (7,), (100, 3, 3, 8, 60)]

LAYERS = st.integers(0, 3)
VECTORS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).normal(0, 5, (2, 3, 32)))
BOUNDS = st.floats(-10, 10)


def unit(layer: int) -> np.ndarray:
    row = DIRECTION.vector[layer].double().numpy()
    return np.asarray(row / np.sqrt((row**2).sum()))


def run(intervention: Intervention, layer: int, h: np.ndarray) -> np.ndarray:
    return intervention.edit(layer, torch.from_numpy(h)).numpy()


@given(VECTORS, LAYERS, st.floats(-3, 3))
def test_add(h: np.ndarray, layer: int, coef: float) -> None:
    expected = h + coef * DIRECTION.vector[layer].double().numpy()
    np.testing.assert_allclose(run(Add(DIRECTION, at=layer, coef=coef), layer, h), expected, atol=1e-5)


@given(VECTORS, LAYERS)
def test_ablate(h: np.ndarray, layer: int) -> None:
    v = unit(layer)
    expected = np.stack([[row - row.dot(v) * v for row in rows] for rows in h])
    got = run(Ablate(DIRECTION, at=layer), layer, h)
    np.testing.assert_allclose(got, expected, atol=1e-5)
    np.testing.assert_allclose(got @ v, 0, atol=1e-5)


@given(VECTORS, LAYERS, BOUNDS, BOUNDS)
def test_cap(h: np.ndarray, layer: int, one: float, two: float) -> None:
    v, (low, high) = unit(layer), sorted((one, two))
    at = h @ v
    cases: list[tuple[Cap, np.ndarray]] = [
        (Cap(DIRECTION, at=layer, low=low), h + np.maximum(low - at, 0)[..., None] * v),
        (Cap(DIRECTION, at=layer, high=high), h - np.maximum(at - high, 0)[..., None] * v),
        (Cap(DIRECTION, at=layer, low=low, high=high), h + (np.clip(at, low, high) - at)[..., None] * v),
    ]
    for cap, expected in cases:
        got = run(cap, layer, h)
        np.testing.assert_allclose(got, expected, atol=1e-5)
        np.testing.assert_allclose(run(cap, layer, got), got, atol=1e-5)  # idempotent
        inside = got @ v
        assert cap.low is None or (inside >= cap.low - 1e-5).all()
        assert cap.high is None or (inside <= cap.high + 1e-5).all()
        np.testing.assert_allclose(got - inside[..., None] * v, h - at[..., None] * v, atol=1e-5)  # the rest stays


def test_inside_the_range_a_cap_changes_no_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        h = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert torch.equal(Cap(DIRECTION, low=-1e3, high=1e3).edit(1, h), h)


def test_a_cap_at_minus_infinity_is_no_cap_to_ask_for() -> None:
    for bad in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(InputError, match="finite"):
            Cap(DIRECTION, low=bad)
        with pytest.raises(InputError, match="finite"):
            Cap(DIRECTION, high=bad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtype_and_shape_stay_and_rounding_is_no_worse_than_the_dtypes_own(dtype: torch.dtype) -> None:
    h = (50 * torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(0))).to(dtype)
    v = torch.from_numpy(unit(1))
    # A unit row is float32, so float64 gains nothing.
    step = max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps) * float(h.double().norm(dim=-1).max())
    for intervention, low, high in [
        (Ablate(DIRECTION), 0.0, 0.0),
        (Cap(DIRECTION, low=3.0), 3.0, 1e9),
        (Cap(DIRECTION, high=3.0), -1e9, 3.0),
    ]:
        new = intervention.edit(1, h)
        assert new.dtype == dtype
        assert new.shape == h.shape
        along = new.double() @ v
        assert float(along.min()) > low - step
        assert float(along.max()) < high + step
    assert Add(DIRECTION).edit(1, h).dtype == dtype


def test_edits_are_pure() -> None:
    h = torch.ones(2, 32)
    for intervention in (Add(DIRECTION), Ablate(DIRECTION), Cap(DIRECTION, low=50.0)):
        intervention.edit(1, h)
        assert torch.equal(h, torch.ones(2, 32))


def test_several_layers_add_increments() -> None:
    v = DIRECTION.vector
    add = Add(DIRECTION, at=(3, 1), coef=2.0)
    h = torch.zeros(32)
    torch.testing.assert_close(add.edit(1, h), 2 * v[1])
    torch.testing.assert_close(add.edit(3, h), 2 * (v[3] - v[1]))
    every = Add(DIRECTION, at=range(4))
    torch.testing.assert_close(torch.stack([every.edit(k, h) for k in range(4)]), DIRECTION.increments())


def with_rows(**rows: float) -> Any:
    """The direction with some rows set to zero."""
    vector = DIRECTION.vector.clone()
    for name in rows:
        vector[int(name[1:])] = 0
    return type(DIRECTION)(vector, DIRECTION.card)


def test_a_layer_of_which_nothing_is_known_is_left_alone_or_refused() -> None:
    gap = with_rows(k2=0)
    add, h = Add(gap, at=range(4)), torch.zeros(32)
    torch.testing.assert_close(torch.stack([add.edit(k, h) for k in range(4)]), gap.increments())
    assert not add.edit(2, h).any()
    for make in (lambda: Add(gap, at=2), lambda: Ablate(gap, at=(1, 2)), lambda: Cap(gap, at=2, low=0.0)):
        with pytest.raises(InputError, match="zero at layer 2"):
            make()


def test_a_layer_named_twice_is_one_layer() -> None:
    assert Add(DIRECTION, at=(2, 2)).layers == (2,)
    assert Add(DIRECTION).layers == (1,)
    assert Add(DIRECTION, at=np.int64(2)).layers == (2,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Add(DIRECTION, at=4),
        lambda: Add(DIRECTION, at=-1),
        lambda: Ablate(DIRECTION, at=(1, 9)),
        lambda: Add(DIRECTION, at=()),
        lambda: Add(DIRECTION, at=1.5),
        lambda: Add(DIRECTION, at="1"),
        lambda: Add(DIRECTION, coef=float("nan")),
        lambda: Add(DIRECTION, tokens="answer"),
        lambda: Cap(DIRECTION),
        lambda: Cap(DIRECTION, low=2.0, high=1.0),
        lambda: Add(tiny.direction_of(MODEL, recommended_layer=None)),
    ],
)
def test_what_cannot_be_meant_is_refused_when_it_is_made(make: Callable[[], Any]) -> None:
    with pytest.raises(InputError):
        make()


def test_a_row_made_while_writing_serves_in_training() -> None:
    for intervention in (Add(DIRECTION), Ablate(DIRECTION), Cap(DIRECTION, low=50.0)):
        with torch.inference_mode():
            intervention.edit(1, torch.ones(2, 32))
        h = torch.ones(2, 32, requires_grad=True)
        intervention.edit(1, h).square().sum().backward()
        assert h.grad is not None


# Where they act: each way of running the model against `naive_logits`, one text at a time without cache or padding.

SETS: dict[str, list[Intervention]] = {
    "add": [Add(DIRECTION, at=1)],
    "add prompt": [Add(DIRECTION, at=1, tokens="prompt")],
    "add response": [Add(DIRECTION, at=2, tokens="response", coef=-1.5)],
    "increments": [Add(DIRECTION, at=(0, 2, 3), coef=2.0)],
    "ablate": [Ablate(DIRECTION, at=(1, 2))],
    "cap response": [Cap(DIRECTION, at=2, tokens="response", low=2.0)],
    "cap prompt": [Cap(DIRECTION, at=0, tokens="prompt", high=-1.0)],
    "in order": [Ablate(DIRECTION, at=1), Add(DIRECTION, at=1), Cap(OTHER, at=1, low=1.0)],
    "other order": [Add(DIRECTION, at=1), Cap(OTHER, at=1, low=1.0), Ablate(DIRECTION, at=1)],
    "mixed": [Add(OTHER, at=0, tokens="prompt"), Add(DIRECTION, at=1, tokens="response"), Ablate(OTHER, at=2)],
}
by_set = pytest.mark.parametrize("interventions", SETS.values(), ids=SETS.keys())


def padded_left(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = [[0] * (width - len(r)) + list(r) for r in rows]
    mask = [[0] * (width - len(r)) + [1] * len(r) for r in rows]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def generate(net: Any, rows: Sequence[Sequence[int]], n: int, **options: Any) -> Any:
    fixed = {"max_new_tokens": n, "min_new_tokens": n, "pad_token_id": 0, "do_sample": False}
    return net.generate(
        **padded_left(rows),
        **{**fixed, **options},
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )


def test_every_set_changes_what_is_written() -> None:
    plain = [tiny.naive_greedy(NET, p, 6) for p in PROMPTS]
    changed = {name: [tiny.naive_greedy(NET, p, 6, acts) for p in PROMPTS] for name, acts in SETS.items()}
    assert all(each != plain for each in changed.values())
    assert changed["in order"] != changed["other order"]


@by_set
def test_under_generate_with_a_cache_and_left_padding(interventions: list[Intervention]) -> None:
    with steered(MODEL, *interventions):
        got = generate(NET, PROMPTS, 8)
    width = max(map(len, PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        answer = got.sequences[i, width:].tolist()
        assert answer == tiny.naive_greedy(NET, prompt, 8, interventions)
        expected = tiny.naive_logits(NET, [*prompt, *answer], len(prompt), interventions)[len(prompt) - 1 : -1]
        torch.testing.assert_close(torch.stack([step[i] for step in got.logits]), expected, atol=1e-4, rtol=1e-4)


@by_set
def test_under_beam_search(interventions: list[Intervention]) -> None:
    with steered(MODEL, *interventions):
        got = generate(NET, PROMPTS, 5, num_beams=3, num_return_sequences=2, length_penalty=1.0)
    width = max(map(len, PROMPTS))
    for row, (sequence, score) in enumerate(zip(got.sequences, got.sequences_scores, strict=True)):
        prompt, answer = PROMPTS[row // 2], sequence[width:].tolist()
        logits = tiny.naive_logits(NET, [*prompt, *answer], len(prompt), interventions)[len(prompt) - 1 : -1]
        own = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).mean()
        torch.testing.assert_close(score, own, atol=1e-4, rtol=1e-4)


@by_set
def test_under_sampling_of_several_answers(interventions: list[Intervention]) -> None:
    with steered(MODEL, *interventions), torch.random.fork_rng():
        torch.manual_seed(0)
        got = generate(NET, PROMPTS, 5, do_sample=True, num_return_sequences=3, top_k=0)
    width = max(map(len, PROMPTS))
    for row, sequence in enumerate(got.sequences):
        prompt, answer = PROMPTS[row // 3], sequence[width:].tolist()
        logits = tiny.naive_logits(NET, [*prompt, *answer], len(prompt), interventions)[len(prompt) - 1 : -1]
        torch.testing.assert_close(torch.stack([step[row] for step in got.logits]), logits, atol=1e-4, rtol=1e-4)


@by_set
def test_without_a_cache_the_prompts_length_is_given(interventions: list[Intervention]) -> None:
    texts = [(5, 9, 2, 8, 8), (40, 41, 42, 43, 44), (7, 1, 2, 3, 4)]
    lengths = [2, 4, 1]
    with steered(MODEL, *interventions, prompt_length=torch.tensor(lengths)), torch.no_grad():
        got = NET(input_ids=torch.tensor(texts), use_cache=False).logits
    for logits, text, length in zip(got, texts, lengths, strict=True):
        torch.testing.assert_close(logits, tiny.naive_logits(NET, text, length, interventions), atol=1e-4, rtol=1e-4)
    for same in (3, np.int64(3), torch.tensor(3)):
        with steered(MODEL, *interventions, prompt_length=same), torch.no_grad():
            got = NET(input_ids=torch.tensor(texts), use_cache=False).logits
        torch.testing.assert_close(got[1], tiny.naive_logits(NET, texts[1], 3, interventions), atol=1e-4, rtol=1e-4)


def test_without_a_cache_and_a_length_nothing_is_guessed() -> None:
    with steered(MODEL, Add(DIRECTION, tokens="response")), pytest.raises(InputError, match="prompt_length"):
        NET(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
    assert tiny.hooks_on(NET) == []


def test_lengths_that_do_not_fit_the_batch() -> None:
    uneven = steered(MODEL, Add(DIRECTION, tokens="response"), prompt_length=torch.tensor([1, 2]))
    with uneven, pytest.raises(InputError, match="2 rows"):
        NET(input_ids=torch.tensor([[1, 2]] * 3), use_cache=False)


@pytest.mark.parametrize("family", ["gemma3", "gpt2", "mixtral"])
def test_in_other_families(family: str) -> None:
    model = tiny.model_of(family)
    direction = tiny.direction_of(model, scale=4.0)
    acts: list[Intervention] = [
        Add(direction, at=(1, 2), tokens="response"),
        Ablate(direction, at=0),
        Cap(direction, at=2, tokens="prompt", low=1.0),
    ]
    with steered(model, *acts):
        got = generate(model.net, PROMPTS, 12)  # past the sliding window
    for i, prompt in enumerate(PROMPTS):
        assert got.sequences[i, 7:].tolist() == tiny.naive_greedy(model.net, prompt, 12, acts)


def requests_under(sets: Sequence[Sequence[Intervention]]) -> list[WriteRequest]:
    return [
        WriteRequest(str(i), ask("Who? " * (1 + i % 3)), seed=i, interventions=tuple(s)) for i, s in enumerate(sets)
    ]


def written(model: Model, requests: Sequence[WriteRequest], rows: int = 64) -> dict[str, Any]:
    engine = HfEngine(model, max_rows=rows)
    return {r.id: (r, m) for batch in engine.write(requests, Sampling(9, 0)) for r, m in batch}


def test_the_engine_gives_every_row_its_own_interventions_in_its_own_order() -> None:
    one, two, three = SETS["in order"]
    sets = [(), *SETS.values(), (one, two), (two, one), (one, two, three), (three, two, one), (two, two)]
    requests = requests_under([tuple(s) for s in sets])
    together = written(MODEL, requests)
    alone = written(MODEL, requests, rows=1)
    for request, acts in zip(requests, sets, strict=True):
        rollout, reading = together[request.id]
        naive = tiny.naive_greedy(NET, rollout.prompt_ids, len(rollout.response_ids), acts)
        assert list(rollout.response_ids) == naive
        assert alone[request.id][0].response_ids == rollout.response_ids
        np.testing.assert_allclose(alone[request.id][1].mean, reading.mean, atol=1e-4)
    assert tiny.hooks_on(NET) == []


@by_set
def test_the_engine_scores_under_interventions(interventions: list[Intervention]) -> None:
    engine = HfEngine(MODEL)
    asked = [ScoreRequest(ask("Who? " * n), "It is I, in here. " * m) for n, m in ((1, 3), (4, 1), (1, 1))]
    for request, got in zip(asked, engine.logprobs(asked, interventions), strict=True):
        prompt, answer = MODEL.chat.prompt_ids(request.conversation), MODEL.chat.response_ids(request.text)
        logits = tiny.naive_logits(NET, prompt + answer, len(prompt), interventions)[len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
        np.testing.assert_allclose(got, expected.numpy(), atol=1e-4)


def test_hooks_are_gone_after_an_exception() -> None:
    during: list[Any] = []

    def breaks() -> None:
        with steered(MODEL, *SETS["mixed"]):
            during.extend(tiny.hooks_on(NET))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        breaks()
    assert len(during) == 4  # three blocks and the backbone
    assert tiny.hooks_on(NET) == []

    class Broken:
        layers, tokens = (2,), "all"

        def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    broken = requests_under([[Add(DIRECTION), Broken()]])
    for fails in (
        lambda: written(MODEL, broken),
        lambda: HfEngine(MODEL).logprobs([ScoreRequest(ask("Who?"), "I.")], [Broken()]),
    ):
        with pytest.raises(RuntimeError, match="broken"):
            fails()
        assert tiny.hooks_on(NET) == []


def test_a_layer_that_the_model_does_not_have_leaves_no_hook() -> None:
    class Deep:
        layers, tokens = (1, 7), "all"

        def edit(self, layer: int, h: torch.Tensor) -> torch.Tensor:
            return h

    with pytest.raises(InputError, match="no layer 7"), edited(MODEL.blocks, [(Deep(), None)]):
        pass
    assert tiny.hooks_on(NET) == []


def test_a_direction_of_another_model_is_refused_everywhere() -> None:
    foreign = Add(tiny.direction_of(MODEL, fingerprint="0" * 16))
    engine = HfEngine(MODEL)
    for use in (
        lambda: steered(MODEL, foreign).__enter__(),
        lambda: list(engine.write(requests_under([[], [foreign]]), Sampling(2))),
        lambda: engine.logprobs([ScoreRequest(ask("Who?"), "I.")], [foreign]),
    ):
        with pytest.raises(FingerprintError):
            use()
    assert tiny.hooks_on(NET) == []


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_composition_acts_like_the_naive_pass(data: st.DataObject) -> None:
    one = st.builds(
        lambda kind, direction, layers, tokens, number: (
            Add(direction, at=layers, tokens=tokens, coef=number) if kind == 0
            else Ablate(direction, at=layers, tokens=tokens) if kind == 1
            else Cap(direction, at=layers, tokens=tokens, low=number) if kind == 2
            else Cap(direction, at=layers, tokens=tokens, high=number)
        ),
        st.integers(0, 3), st.sampled_from([DIRECTION, OTHER]), st.lists(LAYERS, min_size=1, max_size=3),
        st.sampled_from(["all", "prompt", "response"]), st.floats(-2, 2),
    )  # fmt: skip
    acts = data.draw(st.lists(one, min_size=1, max_size=3))
    with steered(MODEL, *acts):
        got = generate(NET, PROMPTS[:2], 4)
    for i, prompt in enumerate(PROMPTS[:2]):
        answer = got.sequences[i, 7:].tolist()
        logits = tiny.naive_logits(NET, [*prompt, *answer], len(prompt), acts)[len(prompt) - 1 : -1]
        torch.testing.assert_close(torch.stack([step[i] for step in got.logits]), logits, atol=1e-3, rtol=1e-3)
