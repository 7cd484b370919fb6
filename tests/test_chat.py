"""Messages to ids and back: the seam between prompt and answer, what ends an answer, transcripts, system prompts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import random_models as tiny
from mien.chat import Chat, ask, fold_system
from mien.errors import InputError, ModelError
from mien.records import Message

CHAT, BASE = Chat(tiny.tokenizer()), Chat(tiny.tokenizer(None))


def ids_of(*tokens: str) -> list[int]:
    return [CHAT.tokenizer.convert_tokens_to_ids(t) for t in tokens]


TURNS = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Who?"))


def test_a_chat_prompt_is_the_template_word_for_word() -> None:
    text = CHAT.raw_text(CHAT.prompt_ids((Message("system", "Be."), *TURNS)))
    assert text == (
        "<|im_start|>system\nBe.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_special_tokens_of_the_template_are_single_ids_and_none_is_added() -> None:
    chat = Chat(tiny.tokenizer(bos=True))
    ids = chat.prompt_ids(ask("Hi"))
    start, end, bos = ids_of(tiny.IM_START, tiny.IM_END, tiny.BOS)
    assert ids.count(start) == 2
    assert ids.count(end) == 1
    assert bos not in ids


@pytest.mark.parametrize("chat", [CHAT, BASE])
def test_bytes_that_are_no_text_are_refused(chat: Chat) -> None:
    for conversation in (ask("h\udcff"), ask("Hi", "be \ud800")):
        with pytest.raises(InputError, match=r"U\+D[C8][F0][F0] in it, which is no character"):
            chat.prompt_ids(conversation)
    with pytest.raises(InputError, match="no character"):
        chat.response_ids("\udcff")
    assert chat.response_ids("é 😀")


@pytest.mark.parametrize(("chat", "answer"), [(CHAT, "\nYes, in here."), (BASE, "Yes, in here.")])
def test_joined_ids_are_not_those_of_the_joined_text(chat: Chat, answer: str) -> None:
    prompt, response = chat.prompt_ids(ask("Who?")), chat.response_ids(answer)
    joined = chat.raw_text(prompt) + chat.raw_text(response)
    assert chat.raw_text(prompt + response) == joined
    retokenised = tuple(chat.tokenizer(joined, add_special_tokens=False)["input_ids"])
    assert retokenised != prompt + response, "the tokenizer must be one that merges across this seam"


@given(st.text(min_size=1).filter(str.strip))
def test_an_answer_survives_its_ids(text: str) -> None:
    for chat in (CHAT, BASE):
        ids = chat.response_ids(text)
        if not set(ids) & set(chat.tokenizer.all_special_ids):
            assert chat.text(ids) == text.strip()


def test_the_answer_of_a_base_model_begins_with_a_blank_and_has_no_others_around_it() -> None:
    assert BASE.raw_text(BASE.response_ids("  Yes. \n")) == " Yes."


def test_a_transcript() -> None:
    text = BASE.raw_text(BASE.prompt_ids((Message("system", "Be kind. \n"), *TURNS)))
    assert text == "Be kind.\n\nUser: Hi\n\nAssistant: Hello.\n\nUser: Who?\n\nAssistant:"
    assert BASE.stop_strings == ("\nUser:", "\nAssistant:", "\nSystem:")
    assert not BASE.templated
    assert CHAT.stop_strings == ()


def test_a_transcript_begins_as_the_tokenizer_begins_texts() -> None:
    (bos,) = ids_of(tiny.BOS)
    with_bos = Chat(tiny.tokenizer(None, bos=True))
    assert with_bos.prompt_ids(ask("Hi"))[0] == bos
    assert with_bos.prompt_ids(ask("Hi"))[1:] == BASE.prompt_ids(ask("Hi"))
    assert with_bos.plain_ids("Hi") == (bos, *BASE.plain_ids("Hi"))
    assert with_bos.response_ids("Hi") == BASE.response_ids("Hi")


def test_what_ends_an_answer() -> None:
    eos, end, pad = ids_of(tiny.EOS, tiny.IM_END, tiny.PAD)
    assert CHAT.stop_ids == {eos, end}
    assert BASE.stop_ids == {eos}
    assert Chat(tiny.tokenizer(), SimpleNamespace(eos_token_id=[7, 8])).stop_ids == {eos, end, 7, 8}
    assert Chat(tiny.tokenizer(), SimpleNamespace(eos_token_id=9)).stop_ids == {eos, end, 9}
    assert Chat(tiny.tokenizer(), SimpleNamespace(eos_token_id=None)).stop_ids == {eos, end}
    assert CHAT.pad_id == pad


def test_an_ordinary_token_after_an_answer_does_not_end_answers() -> None:
    plain_newline = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    assert Chat(tiny.tokenizer(plain_newline)).stop_ids == set(ids_of(tiny.EOS))


def test_a_template_that_hides_answers_ends_them_with_end_of_text_alone() -> None:
    hides = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|im_start|>' + m['content'] }}{% endif %}{% endfor %}"
    )
    assert Chat(tiny.tokenizer(hides)).stop_ids == set(ids_of(tiny.EOS))


DROPS_SYSTEM = tiny.CHATML.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")


@pytest.mark.parametrize("template", [tiny.NO_SYSTEM, DROPS_SYSTEM])
def test_a_system_prompt_goes_into_the_first_question_where_the_template_has_none(template: str) -> None:
    chat = Chat(tiny.tokenizer(template))
    assert not chat.system_allowed
    assert CHAT.system_allowed
    text = chat.raw_text(chat.prompt_ids((Message("system", "Be."), *TURNS)))
    assert text.startswith("<|im_start|>user\nBe.\n\nHi<|im_end|>")
    assert chat.prompt_ids(TURNS) == CHAT.prompt_ids(TURNS)


def test_system_text_is_not_put_into_the_models_own_mouth() -> None:
    folded = fold_system((Message("system", "A"), Message("assistant", "Hi."), Message("system", "B"), TURNS[2]))
    assert folded == (Message("assistant", "Hi."), Message("user", "A\n\nB\n\nWho?"))
    assert fold_system(TURNS) == TURNS
    assert fold_system((Message("system", "A"), TURNS[1])) == (TURNS[1],)
    assert fold_system(()) == ()


@pytest.mark.parametrize("chat", [CHAT, BASE])
@pytest.mark.parametrize("conversation", [(), TURNS[:2], (Message("system", "Be."),)])
def test_what_has_no_question_cannot_be_answered(chat: Chat, conversation: Any) -> None:
    with pytest.raises(InputError, match="user message"):
        chat.prompt_ids(conversation)


def test_a_conversation_that_the_template_refuses() -> None:
    chat = Chat(tiny.tokenizer(tiny.NO_SYSTEM))
    with pytest.raises(InputError, match="Roles must alternate"):
        chat.prompt_ids((TURNS[0], TURNS[2]))


@pytest.mark.parametrize("template", ["{{ raise_exception('never') }}", "{% for %}", "{{ messages[99]['x'] + 1 }}"])
def test_a_template_that_never_works(template: str) -> None:
    with pytest.raises(ModelError) as caught:
        Chat(tiny.tokenizer(template))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_words() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    empty = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"?": 0}, merges=[], unk_token="?")))
    with pytest.raises(ModelError, match="no words"):
        Chat(empty)


def test_ask() -> None:
    assert ask("Hi") == (Message("user", "Hi"),)
    assert ask("Hi", "Be.") == (Message("system", "Be."), Message("user", "Hi"))
