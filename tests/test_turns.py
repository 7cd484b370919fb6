"""Whole conversations read once: spans, segments, projections."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import random_models
import tiny
from mien.chat import Chat
from mien.engines.hf import HfEngine
from mien.engines.hf_turns import read_turns, segments
from mien.errors import InputError
from mien.models import Model, wrap
from mien.records import Message, Rollout

TALK = (
    Message("system", "Be kind."),
    Message("user", "What is tea?"),
    Message("assistant", "A hot drink made of leaves."),
    Message("user", "And coffee?"),
    Message("assistant", "Another one, of beans."),
)
SHORT = (Message("user", "Hi"), Message("assistant", "Hello there, how are you?"))
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}"
    "{% endif %}[{{ m['role'] }}] {{ m['content'] | trim }}\n{% endfor %}"
)


@pytest.fixture(scope="module", params=["llama", "gemma3", "gpt2", "gpt_neox", "qwen3"])
def model(request: pytest.FixtureRequest) -> Model:
    try:
        return random_models.model_of(request.param)
    except KeyError:
        return random_models.model_of()


def test_spans_hold_each_message_word_for_word(model: Model) -> None:
    found = model.chat.spanned(TALK)
    for message, (start, end) in zip(TALK, found.spans, strict=True):
        assert model.chat.raw_text(found.ids[start:end]) == message.content
    assert model.chat.raw_text(found.ids) == model.chat._render(TALK, open_turn=False)


def test_an_answer_has_the_ids_it_would_be_written_with(model: Model) -> None:
    found = model.chat.spanned(TALK)
    start, end = found.spans[-1]
    assert found.ids[:start] == model.chat.prompt_ids(TALK[:-1])
    assert found.ids[start:end] == model.chat.response_ids(TALK[-1].content)


def test_readings_are_those_of_the_rollout_reader(model: Model) -> None:
    (reading,) = read_turns(model, [TALK], layers=range(model.n_layers))
    prompt, answer = model.chat.prompt_ids(TALK[:-1]), model.chat.response_ids(TALK[-1].content)
    rollout = Rollout("r", TALK[:-1], TALK[-1].content, prompt, answer, None, "stop")
    ((expected,),) = HfEngine(model).read([rollout])
    np.testing.assert_allclose(reading.means[-1], expected.mean, atol=2e-5)


def test_projections_are_the_means_on_the_probes_whatever_the_batch(model: Model) -> None:
    torch.manual_seed(0)
    probes = {2: torch.randn(3, model.info.d_model), 0: torch.randn(1, model.info.d_model)}
    together = read_turns(model, [TALK, SHORT, TALK[1:3]], probes, layers=[0, 2])
    for talk, reading in zip([TALK, SHORT, TALK[1:3]], together, strict=True):
        (alone,) = read_turns(model, [talk], probes, batch_tokens=1)
        np.testing.assert_allclose(alone.tokens, reading.tokens, atol=2e-5)
        expected = np.concatenate(
            [reading.means[:, 0] @ probes[0].numpy().T, reading.means[:, 1] @ probes[2].numpy().T], 1
        )
        np.testing.assert_allclose(reading.pooled(), expected, atol=2e-4)


def test_a_long_conversation_is_read_in_segments_each_token_once() -> None:
    model = wrap(tiny.tiny_net(), tiny.tiny_tokenizer())
    talk = tuple(Message("user" if i % 2 == 0 else "assistant", f"word {i} " * 9) for i in range(20))
    probes = {1: torch.ones(1, model.info.d_model)}
    (whole,) = read_turns(model, [talk], probes, layers=[1], window=100_000)
    (parts,) = read_turns(model, [talk], probes, layers=[1], window=256)
    assert len(whole.tokens) == len(parts.tokens) > 3 * 256
    first = whole.spanned.spans[0][1]
    np.testing.assert_allclose(parts.tokens[:first], whole.tokens[:first], atol=2e-5)
    for i, (start, end) in enumerate(parts.spanned.spans):
        np.testing.assert_allclose(parts.means[i, 0].sum(), parts.tokens[start:end, 0].mean(), rtol=1e-3, atol=1e-3)
    # What lies beyond the context is not seen, so later turns differ, though not by much.
    assert np.abs(parts.tokens - whole.tokens).max() > 0


@given(st.lists(st.integers(0, 400), max_size=40), st.integers(16, 300), st.integers(1, 100))
def test_segments_cover_every_column_once(sizes: list[int], window: int, context: int) -> None:
    context = min(context, window // 4)
    ends = np.cumsum(sizes).tolist()
    length = ends[-1] if ends else 0
    found = segments(0, length, ends, window, context)
    covered = [column for s in found for column in range(s.new, s.end)]
    assert covered == list(range(length))
    assert all(0 <= s.start <= s.new < s.end and s.end - s.start <= window for s in found)
    # Linear: contexts are never more than two thirds of what is new.
    assert 3 * sum(s.end - s.start for s in found) <= 5 * length
    assert len(found) <= 2 + 2 * length / (window - context)


@given(st.lists(st.integers(0, 400), max_size=40), st.integers(16, 300), st.integers(1, 100))
def test_segments_end_where_a_message_does_if_that_wastes_little(sizes: list[int], window: int, context: int) -> None:
    context = min(context, window // 4)
    ends = np.cumsum(sizes).tolist()
    length = ends[-1] if ends else 0
    for s in segments(0, length, ends, window, context):
        room = min(length, s.start + window)
        fit = [b for b in ends if s.new + (room - s.new + 1) // 2 <= b <= room]
        assert s.end == (room if room == length else max(fit, default=room))
        seen = [b for b in ends if s.new - context <= b < s.new]
        assert s.start == (min(seen, default=max(0, s.new - context)) if s.new else 0)


def test_logs_that_a_template_refuses_are_read_all_the_same() -> None:
    chat = Chat(random_models.tokenizer(ALTERNATING))
    odd = (
        Message("assistant", "Welcome."), Message("user", "Hi."), Message("user", "You there?"),
        Message("system", "Be brief."), Message("assistant", "Yes."), Message("assistant", "I am."),
    )  # fmt: skip
    found = chat.spanned(odd)
    texts = [chat.raw_text(found.ids[start:end]) for start, end in found.spans]
    assert texts == [m.content for m in odd]


def test_a_next_turn_tokenises_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, encode = Chat(random_models.tokenizer()), Chat._encode
    chat.spanned(TALK)
    texts: list[str] = []
    monkeypatch.setattr(Chat, "_encode", lambda self, text: texts.append(text) or encode(self, text))
    more = (*TALK, Message("user", "And cocoa?"))
    found = chat.spanned(more)
    assert [t for t in texts if any(m.content == t for m in more)] == ["And cocoa?"]
    assert found == Chat(random_models.tokenizer()).spanned(more)


@pytest.mark.parametrize("template", [random_models.CHATML, ALTERNATING, None], ids=["chatml", "alternating", "base"])
def test_a_prompt_as_running_text_is_the_conversation_that_it_was_made_of(template: str | None) -> None:
    chat = Chat(random_models.tokenizer(template))
    talk = (Message("user", "Hi."), Message("assistant", "Yes?\n\nSpeak."), Message("user", "Bye."))
    text = chat.raw_text(chat.prompt_ids(talk))
    assert chat.turns_in(text) == talk
    if template is not ALTERNATING:  # which does not open the answer's turn
        assert chat.turns_in(text + " And then") == (*talk, Message("assistant", "And then"))
    if chat.system_allowed:
        led = (Message("system", "Be brief."), *talk)
        assert chat.turns_in(chat.raw_text(chat.prompt_ids(led))) == led
    asked = chat.raw_text(chat.prompt_ids(talk[:1]))
    for prose in ("", "He said to the assistant: go.", "user: hi\nassistant: yes", asked):
        assert not chat.turns_in(prose)


def test_nothing_to_read() -> None:
    with pytest.raises(InputError, match="without messages"):
        random_models.model_of().chat.spanned(())


def test_a_base_model_reads_a_transcript() -> None:
    model = random_models.model_of(template=None)
    found = model.chat.spanned(SHORT)
    assert [model.chat.text(found.ids[a:b]) for a, b in found.spans] == [m.content for m in SHORT]
    start, end = found.spans[-1]
    assert model.chat.text(found.ids[:start]) == "User: Hi\n\nAssistant:"
    assert found.ids[start:end] == model.chat.response_ids(SHORT[-1].content)
