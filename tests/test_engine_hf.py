"""The transformers engine against slow and simple references: what it writes, reads and scores, in every batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import random_models as tiny
from mien.chat import ask
from mien.engines import hf
from mien.engines.hf import HfEngine
from mien.engines.hf_batch import Prompted, pack
from mien.engines.sampling import sample
from mien.engines.stops import STOP_MEMORY
from mien.errors import InputError, ModelError, NonFiniteError
from mien.models import Model, wrap
from mien.records import Conversation, Message, Reading, Rollout, Sampling, ScoreRequest, WriteRequest
from mien.residual import watched

GREEDY = Sampling(max_tokens=12, temperature=0)
QUESTIONS = ["Hi", "Who are you?", "Tell me about the sea, the hills and the trees in the north.", "Why", "Yes?", "Hm."]
CHATTING: list[Conversation] = [ask(q, s) for q in QUESTIONS for s in (None, "Be kind to all.")]

by_family = pytest.mark.parametrize("family", tiny.FAMILIES)
by_template = pytest.mark.parametrize("template", [tiny.CHATML, None], ids=["chat", "base"])


def requests_of(conversations: Sequence[Conversation], seed: int = 0) -> list[WriteRequest]:
    return [WriteRequest(f"r{i}", c, seed + i) for i, c in enumerate(conversations)]


def write(
    engine: HfEngine, requests: Sequence[WriteRequest], sampling: Sampling, read: bool = True
) -> dict[str, tuple[Rollout, Any]]:
    return {r.id: (r, reading) for batch in engine.write(requests, sampling, read=read) for r, reading in batch}


def naive_mean(model: Model, rollout: Rollout) -> np.ndarray:
    """`[l, d]`: mean over the answer's tokens of each block's output, one text at a time, nothing padded or cached."""
    seen: dict[int, np.ndarray] = {}
    start = len(rollout.prompt_ids)
    with torch.no_grad(), watched(model.blocks, range(model.n_layers), lambda k, h: seen.__setitem__(k, h[0].numpy())):
        model.net(input_ids=torch.tensor([rollout.prompt_ids + rollout.response_ids]), use_cache=False)
    return np.stack([seen[k][start:].mean(0) for k in range(model.n_layers)])


@pytest.fixture(autouse=True)
def nothing_is_left_on_the_models() -> Iterator[None]:
    """No engine call leaves a hook on any module, whatever came of it."""
    yield
    for family in tiny.FAMILIES:
        assert tiny.hooks_on(tiny.net_of(family)) == []


@by_family
@by_template
def test_means_taken_while_writing_are_those_of_reading(family: str, template: str | None) -> None:
    model = tiny.model_of(family, template)
    engine = HfEngine(model, max_rows=5)
    written = write(engine, requests_of(CHATTING), Sampling(12, 1.0))
    rollouts = [rollout for rollout, _ in written.values()]
    read = {reading.id: reading for batch in engine.read(rollouts) for reading in batch}
    for rollout, reading in written.values():
        assert reading.n_tokens == read[rollout.id].n_tokens == len(rollout.response_ids)
        assert reading.mean.dtype == read[rollout.id].mean.dtype == np.float32
        np.testing.assert_allclose(reading.mean, read[rollout.id].mean, atol=1e-4, rtol=1e-4)
        if rollout.response_ids:
            np.testing.assert_allclose(reading.mean, naive_mean(model, rollout), atol=1e-4, rtol=1e-4)
    assert max(len(r.prompt_ids) for r in rollouts) > 16, "prompts must be longer than the sliding windows"
    assert any(r.response_ids for r in rollouts)


@by_family
def test_greedy_answers_are_those_of_transformers(family: str) -> None:
    model = tiny.model_of(family, None)
    stop = next(iter(model.chat.stop_ids))
    for rollout, _ in write(HfEngine(model), requests_of(CHATTING), GREEDY).values():
        prompt = torch.tensor([rollout.prompt_ids])
        full = model.net.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=12,
            eos_token_id=stop, pad_token_id=0,
        )  # fmt: skip
        answer = [i for i in full[0, prompt.shape[1] :].tolist() if i != stop]
        assert list(rollout.response_ids) == answer


@pytest.mark.parametrize(
    ("family", "sampling"),
    [("llama", Sampling(12, 0.8, 0.9)), ("gemma3", GREEDY), ("mpt", Sampling(12, 0.8)), ("mixtral", GREEDY)],
)
def test_neither_neighbours_nor_order_nor_batch_size_change_an_answer(family: str, sampling: Sampling) -> None:
    model = tiny.model_of(family)
    requests = requests_of(CHATTING)
    alone = write(HfEngine(model, max_rows=1), requests, sampling)
    for engine, asked in [
        (HfEngine(model, max_rows=8), requests),
        (HfEngine(model), requests[::-1]),
        (HfEngine(model), requests[3:9]),
        (HfEngine(model, cache_bytes=1), requests),
    ]:
        for rollout, reading in write(engine, asked, sampling).values():
            expected, mean = alone[rollout.id]
            assert rollout == Rollout(
                **{n: getattr(expected, n) for n in expected.__slots__} | {"logprob": rollout.logprob}
            )
            assert rollout.logprob == pytest.approx(expected.logprob, abs=1e-4)
            np.testing.assert_allclose(reading.mean, mean.mean, atol=1e-4, rtol=1e-4)


def test_reading_depends_on_no_batch() -> None:
    model = tiny.model_of("gemma3")
    rollouts = [r for r, _ in write(HfEngine(model), requests_of(CHATTING), Sampling(12)).values()]
    kinds = [
        HfEngine(model, max_rows=1),
        HfEngine(model),
        HfEngine(model, read_tokens=90),
        HfEngine(model, read_tokens=1),
    ]
    reads = [{r.id: r.mean for batch in engine.read(rollouts) for r in batch} for engine in kinds]
    for other in reads[1:]:
        for rollout in rollouts:
            np.testing.assert_allclose(reads[0][rollout.id], other[rollout.id], atol=1e-4, rtol=1e-4)


def test_each_answer_has_a_random_stream_of_its_own() -> None:
    engine = HfEngine(tiny.model_of("llama"))
    same = [WriteRequest(str(i), ask("Who?"), seed) for i, seed in enumerate([1, 2, 1, 3, 2])]
    texts = {i: r.response_ids for i, (r, _) in write(engine, same, Sampling(12, 1.0)).items()}
    assert texts["0"] == texts["2"]
    assert texts["1"] == texts["4"]
    assert len(set(texts.values())) == 3
    longer = {i: r.response_ids for i, (r, _) in write(engine, same, Sampling(30, 1.0)).items()}
    assert all(longer[i][: len(ids)] == ids for i, ids in texts.items()), "a longer limit only goes on"
    state = torch.get_rng_state()
    write(engine, same, Sampling(2))
    assert torch.equal(torch.get_rng_state(), state), "the caller's own stream is not touched"


class Counted:
    """Counts forward passes of a module: `[rows, columns]` of each."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self.shapes: list[tuple[int, ...]] = []

    def __enter__(self) -> list[tuple[int, ...]]:
        def hook(_module: Any, args: Any, kwargs: Any) -> None:
            first = kwargs.get("input_ids", args[0] if args else kwargs.get("hidden_states"))
            self.shapes.append(tuple(first.shape[:2]))

        self._handle = self._module.register_forward_pre_hook(hook, with_kwargs=True)
        return self.shapes

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def test_answers_to_one_prompt_share_its_pass() -> None:
    model = tiny.model_of("llama")
    requests = [WriteRequest(f"{q}-{n}", ask(q), seed=n) for q in ("Hi", "Who") for n in range(6)]
    with Counted(model.blocks.backbone) as shapes:
        write(HfEngine(model), requests, Sampling(4, 1.0))
    width = len(model.chat.prompt_ids(ask("Who")))
    assert shapes[0] == (2, width)
    assert all(columns == 1 for _, columns in shapes[1:])
    assert shapes[1][0] <= 12
    assert len(shapes) <= 5


def test_reading_costs_no_pass_but_for_the_last_token() -> None:
    model = tiny.model_of("llama")
    with tiny.Chained(model.net, [(10, 11), (11, 10), (model.chat.prompt_ids(ask("Hi"))[-1], 10)]):
        for read, passes in ((True, 6), (False, 5)):
            with Counted(model.blocks.backbone) as shapes:
                ((rollout, _),) = write(HfEngine(model), requests_of([ask("Hi")]), Sampling(5, 0), read).values()
            assert rollout.response_ids == (10, 11, 10, 11, 10)
            assert len(shapes) == passes


def test_scoring_runs_each_conversation_once() -> None:
    model = tiny.model_of("llama")
    asked = [ScoreRequest(ask("Who?"), "I am " + "x" * n) for n in range(5)]
    with Counted(model.blocks.backbone) as shapes:
        HfEngine(model).logprobs(asked)
    assert [rows for rows, _ in shapes] == [1, 5]


def test_how_answers_finish() -> None:
    model = tiny.model_of("llama")
    (end,) = [i for i in model.chat.stop_ids if i != model.chat.tokenizer.eos_token_id]
    last = model.chat.prompt_ids(ask("Hi"))[-1]
    one = requests_of([ask("Hi")])
    with tiny.Chained(model.net, [(last, 10), (10, 11), (11, end)]):
        ((stopped, reading),) = write(HfEngine(model), one, Sampling(3, 0)).values()
        ((cut, _),) = write(HfEngine(model), one, Sampling(2, 0)).values()
    assert (stopped.response_ids, stopped.finish) == ((10, 11), "stop")
    assert (cut.response_ids, cut.finish) == ((10, 11), "length")
    assert reading.n_tokens == 2
    with tiny.Chained(model.net, [(last, end)]):
        ((empty, reading),) = write(HfEngine(model), one, Sampling(3, 0)).values()
        assert (empty.response_ids, empty.text, empty.logprob, empty.finish) == ((), "", None, "stop")
        assert reading.n_tokens == 0
        assert not reading.mean.any()
    (again,) = [r for batch in HfEngine(model).read([empty]) for r in batch]
    assert again.n_tokens == 0
    assert not again.mean.any()


def test_end_of_text_of_the_generation_config_ends_answers() -> None:
    net = tiny.build("llama")
    net.generation_config.eos_token_id = [77, 78]
    model = wrap(net, tiny.tokenizer())
    with tiny.Chained(net, [(model.chat.prompt_ids(ask("Hi"))[-1], 50), (50, 78)]):
        ((rollout, _),) = write(HfEngine(model), requests_of([ask("Hi")]), Sampling(9, 0)).values()
    assert (rollout.response_ids, rollout.finish) == ((50,), "stop")


@pytest.mark.parametrize("most", [1, 2, 7])
def test_no_answer_is_longer_than_asked(most: int) -> None:
    model = tiny.model_of("qwen2")
    for rollout, _ in write(HfEngine(model), requests_of(CHATTING), Sampling(most, 1.5)).values():
        assert len(rollout.response_ids) <= most
        assert (len(rollout.response_ids) == most) or rollout.finish == "stop"


def test_the_logprob_is_the_models_own_at_temperature_one() -> None:
    model = tiny.model_of("llama")
    for temperature in (0.0, 0.7, 1.0):
        for rollout, _ in write(HfEngine(model), requests_of(CHATTING), Sampling(9, temperature, 0.9)).values():
            request = ScoreRequest(rollout.conversation, "", rollout.response_ids)
            (row,) = HfEngine(model).logprobs([request])
            assert rollout.logprob == (pytest.approx(row.mean(), abs=1e-4) if len(row) else None)


def spell(model: Model, text: str) -> list[int]:
    return list(model.chat.tokenizer(text, add_special_tokens=False)["input_ids"])


# (what the base model says, what is kept of it). The tokenizer merges ".\n\n", "\n\n", "\nU" and "in".
STOPS = [
    ("It is.\n\nUser: more", "It is."),
    ("It is\n\nUser:", "It is"),
    ("Sea\nUser: x", "Sea"),
    ("A, b\n\nAssistant: x", "A, b"),
    ("A, b\nSystem: x", "A, b"),
    ("né\nUser: x", "né"),
    ("😀\nUser: x", "😀"),
    ("\nUser: x", ""),
]


class Scripted:
    """While inside, the net goes on with the given words after any prompt, whatever it would have said."""

    def __init__(self, model: Model, ids: Sequence[int], prompt: int) -> None:
        self._net, self._ids, self._prompt = model.net, list(ids), prompt

    def __enter__(self) -> None:
        def hook(_module: Any, _args: Any, kwargs: Any, output: Any) -> Any:
            at = kwargs["attention_mask"].sum(1) - self._prompt  # how many tokens of the answer have been fed
            output.logits = output.logits.clone()
            for row, n in enumerate(at.tolist()):
                output.logits[row, -1, self._ids[n]] += 1000
            return output

        self._handle = self._net.register_forward_hook(hook, with_kwargs=True)

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


@pytest.mark.parametrize(("said", "kept"), STOPS)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_a_base_models_answer_ends_where_the_next_turn_begins(family: str, said: str, kept: str) -> None:
    model = tiny.model_of(family, None)
    request = requests_of([ask("Who are you?")])
    ids = spell(model, said)
    with Scripted(model, [*ids, *[0] * 40], len(model.chat.prompt_ids(request[0].conversation))):
        ((rollout, reading),) = write(HfEngine(model), request, Sampling(40, 0)).values()
    assert rollout.text == kept
    assert rollout.finish == "stop"
    assert list(rollout.response_ids) == ids[: len(rollout.response_ids)]
    assert reading.n_tokens == len(rollout.response_ids)
    assert "User" not in model.chat.raw_text(rollout.response_ids)
    if rollout.response_ids:
        np.testing.assert_allclose(reading.mean, naive_mean(model, rollout), atol=1e-4, rtol=1e-4)


def test_a_token_that_holds_the_beginning_of_a_stop_string_is_left_out() -> None:
    model = tiny.model_of("llama", None)
    ids = spell(model, "It\n\nUser: x")
    assert model.chat.raw_text([ids[2]]) == "\n\nU", "the tokenizer must merge the newlines with the name"
    with Scripted(model, [*ids, 0, 0], len(model.chat.prompt_ids(ask("Hi")))):
        ((rollout, _),) = write(HfEngine(model), requests_of([ask("Hi")]), Sampling(40, 0)).values()
    assert list(rollout.response_ids) == ids[:2]
    with Scripted(model, spell(model, "It\nUse"), len(model.chat.prompt_ids(ask("Hi")))):
        ((cut, _),) = write(HfEngine(model), requests_of([ask("Hi")]), Sampling(5, 0)).values()
    assert (cut.text, cut.finish) == ("It\nUse", "length")  # no stop string yet


def test_rows_that_stop_at_different_times_keep_their_own_means() -> None:
    model = tiny.model_of("llama", None)
    user = spell(model, "\nUser:")
    with tiny.Chained(model.net, [(i, user[0]) for i in range(60, 90)] + list(pairwise(user))):
        written = write(HfEngine(model), requests_of(CHATTING * 3), Sampling(25, 1.0))
        assert len({len(r.response_ids) for r, _ in written.values()}) > 4
        assert Counter(r.finish for r, _ in written.values())["stop"] > 6
    for rollout, reading in written.values():
        assert "\nUser:" not in rollout.text
        assert reading.n_tokens == len(rollout.response_ids)
        if rollout.response_ids:
            np.testing.assert_allclose(reading.mean, naive_mean(model, rollout), atol=1e-4, rtol=1e-4)


def test_the_memory_is_long_enough_for_every_stop_string_spelt_in_bytes() -> None:
    model = tiny.model_of("llama", None)
    assert max(len(stop.encode()) for stop in model.chat.stop_strings) < STOP_MEMORY


def test_batches_that_are_done_are_passed_over() -> None:
    model = tiny.model_of("llama")
    requests = requests_of(CHATTING)
    engine = HfEngine(model, max_rows=4)
    batches = [[r.id for r, _ in batch] for batch in engine.write(requests, GREEDY)]
    assert [len(ids) for ids in batches] == [4, 4, 4]
    done = {*batches[0], *batches[2], batches[1][0]}
    rest = [[r.id for r, _ in batch] for batch in engine.write(requests, GREEDY, done=done)]
    assert rest == [batches[1]]
    with Counted(model.blocks.backbone) as shapes:
        assert list(engine.write(requests, GREEDY, done={r.id for r in requests})) == []
    assert shapes == []


def test_packing_keeps_a_prompts_answers_together_and_to_the_limits() -> None:
    prompted = [
        Prompted(WriteRequest(str(i), ask("Hi"), i), tuple(range(n))) for i, n in enumerate([9, 2, 9, 5, 2, 30])
    ]
    batches = list(pack(prompted, max_rows=3, max_tokens=30, answer=4))
    assert [[p.request.id for p in batch] for batch in batches] == [["1", "4", "3"], ["0", "2"], ["5"]]


def test_the_consumer_of_batches_is_not_in_inference_mode() -> None:
    engine = HfEngine(tiny.model_of("llama"), max_rows=2)
    rollouts = []
    for batch in engine.write(requests_of(CHATTING[:4]), Sampling(2)):
        assert not torch.is_inference_mode_enabled()
        rollouts += [r for r, _ in batch]
    for _ in engine.read(rollouts):
        assert not torch.is_inference_mode_enabled()


def naive_logprobs(model: Model, prompt: Sequence[int], answer: Sequence[int]) -> np.ndarray:
    logits = tiny_logits(model, [*prompt, *answer])[len(prompt) - 1 : -1].log_softmax(-1)
    return logits.gather(1, torch.tensor(list(answer))[:, None])[:, 0].numpy()


def tiny_logits(model: Model, ids: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.net(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]
    return logits


@by_family
@by_template
@pytest.mark.parametrize("cut", [128, 1], ids=["together", "apart"])
def test_scores_are_those_of_one_plain_pass(
    family: str, template: str | None, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether answers share a pass with longer ones or not."""
    monkeypatch.setattr(hf, "PASS", cut)
    model = tiny.model_of(family, template)
    chat = model.chat
    plain = "The sea in the north is cold. " * 2
    asked = [
        ScoreRequest(CHATTING[0], "I am."),
        ScoreRequest(CHATTING[5], "I am in here, and here, and over there."),
        ScoreRequest(CHATTING[0], "Who knows?", max_tokens=3),
        ScoreRequest(CHATTING[1], "", (4, 9, 200, 33, 2)),
        ScoreRequest(CHATTING[1], "", ()),
        ScoreRequest((), plain),
        ScoreRequest((), "no matter", (8, 9, 10, 11), max_tokens=2),
        ScoreRequest((), "x"),
    ]
    expected = [
        naive_logprobs(model, chat.prompt_ids(CHATTING[0]), chat.response_ids("I am.")),
        naive_logprobs(model, chat.prompt_ids(CHATTING[5]), chat.response_ids(asked[1].text)),
        naive_logprobs(model, chat.prompt_ids(CHATTING[0]), chat.response_ids("Who knows?")[:3]),
        naive_logprobs(model, chat.prompt_ids(CHATTING[1]), (4, 9, 200, 33, 2)),
        np.zeros(0),
        naive_logprobs(model, chat.plain_ids(plain)[:1], chat.plain_ids(plain)[1:]),
        naive_logprobs(model, (8,), (9, 10)),
        np.zeros(0),
    ]
    for engine in (HfEngine(model), HfEngine(model, max_rows=2), HfEngine(model, score_tokens=1)):
        for got, wanted in zip(engine.logprobs(asked), expected, strict=True):
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=1e-4)
        for got, wanted in zip(engine.logprobs(asked[::-1]), expected[::-1], strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=1e-4)


def test_equal_requests_get_the_very_same_scores() -> None:
    """To the last bit, whoever stands beside them."""
    engine = HfEngine(tiny.model_of("llama"), max_rows=3)
    one, other = ScoreRequest(CHATTING[0], "I am in here."), ScoreRequest(CHATTING[5], "I am in here, and over there.")
    rows = engine.logprobs([one, other, ScoreRequest(CHATTING[1], "Me."), one, ScoreRequest((), "The sea."), one])
    np.testing.assert_array_equal(rows[0], rows[3])
    np.testing.assert_array_equal(rows[0], rows[5])
    assert [len(row) for row in rows] == [len(engine.logprobs([r])[0]) for r in (
        one, other, ScoreRequest(CHATTING[1], "Me."), one, ScoreRequest((), "The sea."), one)]  # fmt: skip


def test_rows_go_apart_where_that_saves_padding() -> None:
    assert hf.alike([40, 40, 2, 40, 3, 2, 1]) == [[2, 4, 5, 6], [0, 1, 3]]
    assert hf.alike([40, 38, 40]) == [[0, 1, 2]]
    assert hf.alike([0]) == [[0]]
    assert sorted(i for group in hf.alike([500, 1, 300, 2, 0]) for i in group) == list(range(5))


def test_nothing_asked_is_nothing_done() -> None:
    engine = HfEngine(tiny.model_of("llama"))
    assert list(engine.write([], Sampling())) == []
    assert list(engine.read([])) == []
    assert engine.logprobs([]) == []


@pytest.mark.parametrize("layers", [[0], [2, 0], [1, 2], [3], [3, 1]])
def test_reading_some_layers_gives_those_rows_and_runs_no_deeper(layers: list[int]) -> None:
    model = tiny.model_of("gemma3")
    engine = HfEngine(model)
    rollouts = [r for r, _ in write(engine, requests_of(CHATTING[:5]), Sampling(6), read=False).values()]
    full = {r.id: r.mean for batch in engine.read(rollouts) for r in batch}
    with Counted(model.blocks.modules[max(layers)]) as reached:
        deeper = [Counted(block) for block in model.blocks.modules[max(layers) + 1 :]]
        beyond = [counted.__enter__() for counted in deeper]
        for batch in engine.read(rollouts, layers):
            for reading in batch:
                assert reading.mean.shape == (len(layers), 32)
                np.testing.assert_allclose(reading.mean, full[reading.id][layers], atol=1e-5)
        for counted in deeper:
            counted.__exit__()
    assert reached
    assert not any(beyond)
    after = {r.id: r.mean for batch in engine.read(rollouts) for r in batch}
    assert all(np.array_equal(after[i], full[i]) for i in full), "a pass cut short leaves nothing behind"


@pytest.mark.parametrize("layers", [[], [4], [-1], [0, -1], [1, 1]])
def test_layers_that_cannot_be_read(layers: list[int]) -> None:
    with pytest.raises(InputError, match="0 to 3"):
        list(HfEngine(tiny.model_of("llama")).read([], layers))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_longer_than_the_models_positions_is_refused(family: str) -> None:
    model = tiny.model_of(family)
    engine = HfEngine(model)
    fixed = len(model.chat.prompt_ids(ask("")))
    fits = requests_of([ask("x" * (256 - fixed - 4))])
    ((rollout, _),) = write(engine, fits, Sampling(4, 1.0)).values()
    assert len(rollout.prompt_ids) == 252
    with pytest.raises(ModelError, match="256 positions"):
        write(engine, [*requests_of(CHATTING), *fits], Sampling(5))
    long = Rollout("long", ask("Hi"), "", (1,) * 200, (2,) * 57, None, "length")
    with pytest.raises(ModelError, match="256 positions"):
        list(engine.read([long]))
    with pytest.raises(ModelError, match="256 positions"):
        engine.logprobs([ScoreRequest((), "", (2,) * 257)])
    assert len(engine.logprobs([ScoreRequest((), "", (2,) * 256)])[0]) == 255


def test_ids_of_another_tokenizer_are_refused() -> None:
    engine = HfEngine(tiny.model_of("llama"))
    for fails in (
        lambda: list(engine.read([Rollout("r", ask("Hi"), "", (1, 2), (tiny.VOCAB,), None, "stop")])),
        lambda: engine.logprobs([ScoreRequest(ask("Hi"), "", (50000,))]),
    ):
        with pytest.raises(ModelError, match="token id"):
            fails()


def test_a_padding_token_without_embedding_does_no_harm() -> None:
    words = tiny.tokenizer()
    words.add_special_tokens({"pad_token": "<|new-pad|>"})
    net = tiny.build("llama", vocab_size=words.pad_token_id)
    model = wrap(net, words)
    assert words.pad_token_id >= net.get_input_embeddings().weight.shape[0]
    written = write(HfEngine(model), requests_of(CHATTING), GREEDY)
    alone = write(HfEngine(model, max_rows=1), requests_of(CHATTING), GREEDY)
    assert all(written[i][0].response_ids == alone[i][0].response_ids for i in written)
    assert list(HfEngine(model).read([r for r, _ in written.values()]))


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(0), Sampling(-1), Sampling(4, -0.1), Sampling(4, float("nan")), Sampling(4, float("inf")),
        Sampling(4, 1, 0), Sampling(4, 1, 1.1), Sampling(4, 1, float("nan")),
    ],
)  # fmt: skip
def test_sampling_that_makes_no_sense(sampling: Sampling) -> None:
    with pytest.raises(InputError):
        list(HfEngine(tiny.model_of("llama")).write(requests_of(CHATTING[:1]), sampling))


def test_numbers_that_are_none_are_not_passed_on() -> None:
    net = tiny.build("llama")
    model = wrap(net, tiny.tokenizer())
    rollouts = [r for r, _ in write(HfEngine(model), requests_of(CHATTING[:2]), Sampling(3)).values()]
    with torch.no_grad():
        net.model.embed_tokens.weight[spell(model, "H")[0]] = float("nan")  # of a letter that loading does not look at
    engine = HfEngine(model)
    for fails in (
        lambda: write(engine, requests_of([ask("Hi")]), Sampling(3)),
        lambda: list(engine.read([Rollout("r", ask("Hi"), "", (3, 4), (spell(model, "H")[0],), None, "stop")])),
        lambda: engine.logprobs([ScoreRequest(ask("Hi"), "Yes")]),
    ):
        with pytest.raises(NonFiniteError):
            fails()
    assert tiny.hooks_on(net) == []
    assert rollouts


def test_a_model_under_an_adapter_writes_reads_and_scores() -> None:
    from peft import LoraConfig, get_peft_model

    plain = tiny.model_of("llama")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        model = wrap(get_peft_model(tiny.build("llama"), config), tiny.tokenizer())
    written = write(HfEngine(model), requests_of(CHATTING), GREEDY)
    assert [r.text for r, _ in written.values()] != [
        r.text for r, _ in write(HfEngine(plain), requests_of(CHATTING), GREEDY).values()
    ]
    for rollout, reading in written.values():
        np.testing.assert_allclose(reading.mean, naive_mean(model, rollout), atol=1e-4, rtol=1e-4)
    (got,) = HfEngine(model).logprobs([ScoreRequest(CHATTING[0], "I am.")])
    ids = model.chat.prompt_ids(CHATTING[0]), model.chat.response_ids("I am.")
    np.testing.assert_allclose(got, naive_logprobs(model, *ids), atol=1e-4)


def test_bfloat16_means_are_summed_in_float32() -> None:
    net = tiny.build("llama").to(torch.bfloat16)
    model = wrap(net, tiny.tokenizer())
    ids = tuple(np.random.default_rng(0).integers(5, 200, 240).tolist())
    seen: dict[int, torch.Tensor] = {}
    with torch.no_grad(), watched(model.blocks, range(4), lambda k, h: seen.__setitem__(k, h[0])):
        net(input_ids=torch.tensor([ids]), use_cache=False)
    expected = torch.stack([seen[k][10:].double().mean(0) for k in range(4)]).numpy()
    ((got,),) = HfEngine(model).read([Rollout("r", (), "", ids[:10], ids[10:], None, "stop")])
    assert isinstance(got, Reading)
    np.testing.assert_allclose(got.mean, expected, atol=1e-5)


# Drawing a token


def reference(logits: np.ndarray, temperature: float, top_p: float) -> np.ndarray:
    """The distribution that is sampled from, in float64 and with a plain loop."""
    weights = np.exp((logits - logits.max()) / temperature)
    p = weights / weights.sum()
    kept, mass = np.zeros_like(p), 0.0
    for i in np.argsort(-p, kind="stable"):
        if mass >= top_p:
            break
        kept[i], mass = p[i], mass + p[i]
    return np.asarray(kept / kept.sum())


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.7), (1.3, 0.35), (1, 1e-9)]
)
def test_tokens_are_drawn_from_the_distribution_asked_for(temperature: float, top_p: float) -> None:
    logits = np.random.default_rng(0).normal(0, 2, 30)
    n = 20000
    draws = torch.from_numpy((np.arange(n) + 0.5) / n)  # even steps: frequencies are exact to 1 / n
    tokens, logprobs = sample(torch.from_numpy(logits).float().expand(n, -1), draws, Sampling(1, temperature, top_p))
    expected = reference(logits, temperature, top_p)
    got = np.bincount(tokens, minlength=30) / n
    np.testing.assert_allclose(got, expected, atol=2 / n)
    assert set(np.flatnonzero(got)) <= set(np.flatnonzero(expected))
    plain = logits - np.log(np.exp(logits).sum())
    np.testing.assert_allclose(logprobs[:50], plain[tokens[:50]], atol=1e-5)


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.8, 0.9)])
def test_whole_answers_are_drawn_from_the_distribution_asked_for(temperature: float, top_p: float) -> None:
    model = tiny.model_of("llama")
    n = 1500
    requests = [WriteRequest(str(i), ask("Who?"), seed=i) for i in range(n)]
    with Counted(model.blocks.backbone):
        written = write(HfEngine(model, max_rows=n), requests, Sampling(1, temperature, top_p), read=False)
    stop = model.chat.stop_ids
    first = Counter(r.response_ids[0] if r.response_ids else -1 for r, _ in written.values())
    logits = tiny_logits(model, model.chat.prompt_ids(ask("Who?")))[-1].double().numpy()
    p = reference(logits, temperature, top_p)
    p_of = {**{i: p[i] for i in range(len(p)) if i not in stop}, -1: sum(p[i] for i in stop)}
    assert all(p_of[i] > 0 for i in first)
    common = [i for i, q in p_of.items() if q * n >= 5]
    seen = [first[i] for i in common]
    wanted = [p_of[i] * n for i in common]
    assert stats.chisquare([*seen, n - sum(seen) + 1e-9], [*wanted, n - sum(wanted) + 1e-9]).pvalue > 1e-3


def test_extreme_temperatures_are_still_distributions() -> None:
    logits = torch.tensor([[1.0, 30.0, 29.0, -50.0]]).expand(4, -1)
    draws = torch.tensor([0.0, 0.3, 0.9, 1 - 2**-53], dtype=torch.float64)
    assert sample(logits, draws, Sampling(1, 1e-40))[0] == [1, 1, 1, 1]
    assert sample(logits, draws, Sampling(1, 0))[0] == [1, 1, 1, 1]
    assert sample(logits, draws, Sampling(1, 1e30))[0] == [0, 1, 3, 3]


def test_a_conversation_that_cannot_be_answered_is_refused() -> None:
    with pytest.raises(InputError, match="user message"):
        list(HfEngine(tiny.model_of("llama")).write(requests_of([(Message("system", "Be."),)]), Sampling()))
