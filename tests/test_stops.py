"""What of an answer may be shown while it is being written, and where stop strings end it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import random_models as tiny
from mien.engines.stops import Spoken, before_stop, special_ids

CHAT = tiny.model_of("llama").chat
SPECIAL = special_ids(CHAT)


def spell(text: str) -> list[int]:
    return list(CHAT.tokenizer(text, add_special_tokens=False)["input_ids"])


def spoken(ids: list[int], stops: tuple[str, ...] = ()) -> tuple[Spoken, list[str]]:
    said = Spoken(CHAT, stops, SPECIAL)
    shown = []
    for i in ids:
        shown.append(said.add(i))
        if said.stopped_at is not None:
            break
    return said, shown


def test_letters_are_shown_when_they_are_whole() -> None:
    ids = spell("é😀x")
    assert len(ids) == 7
    said, shown = spoken(ids)
    assert shown == ["", "é", "", "", "", "😀", "x"]
    assert (said.text(), said.rest()) == ("é😀x", "")


def test_a_broken_letter_at_the_end_is_left_for_the_end() -> None:
    said, shown = spoken(spell("a😀")[:3])
    assert shown == ["a", "", ""]
    assert (said.text(), said.rest()) == ("a�", "�")


def test_special_tokens_are_not_shown_but_may_stop() -> None:
    inside = CHAT.tokenizer.convert_tokens_to_ids(tiny.IM_START)
    ids = [*spell("ab"), inside, *spell("cd")]
    said, shown = spoken(ids)
    assert (shown, said.text()) == (["a", "b", "", "c", "d"], "abcd")
    said, shown = spoken(ids, (tiny.IM_START,))
    assert ("".join(shown), said.text(), said.kept()) == ("ab", "ab", 2)
    said, _ = spoken(ids, ("d",))
    assert (said.text(), said.kept()) == ("abc", 4)


@pytest.mark.parametrize(
    ("text", "stops", "shown"),
    [
        ("abcabd", ("abd",), "abc"),
        ("aaab", ("aab",), "a"),
        ("one\n\nUser: x", ("\nUser:",), "one\n"),
        ("xEN", ("END",), "xEN"),
        ("END", ("END",), ""),
        ("xyz", ("yz", "xyzzy"), "x"),
    ],
)
def test_stop_strings(text: str, stops: tuple[str, ...], shown: str) -> None:
    said, pieces = spoken(spell(text), stops)
    assert said.text() == shown
    assert "".join(pieces) + said.rest() == shown


def test_a_stop_string_longer_than_the_memory_of_short_ones() -> None:
    stop = "-" * 50 + "END" + "é" * 40
    said, pieces = spoken(spell("Hello. " + stop + "x"), (stop,))
    assert (said.text(), said.kept()) == ("Hello. ", 7)
    assert set(pieces[7:]) == {""}


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, tiny.VOCAB - 5) | st.sampled_from([*sorted(SPECIAL), *spell("é😀END")]), max_size=90),
    st.sampled_from([(), ("END",), ("é", "EN"), ("aa", "\n")]),
)
def test_what_is_shown_is_the_text_and_never_taken_back(ids: list[int], stops: tuple[str, ...]) -> None:
    ids = [i for i in ids if i < len(CHAT.tokenizer)]
    said, shown = spoken(ids, stops)
    text = said.text()
    assert "".join(shown) + said.rest() == text
    if said.stopped_at is None:
        assert all(stop not in CHAT.raw_text(ids) for stop in stops)
        whole = str(CHAT.tokenizer.decode(ids, skip_special_tokens=True))
        # A special token amid a letter's bytes breaks it for good: it is not put together behind the reader's back.
        assert text == whole or ("�" in text and SPECIAL & set(ids))
    else:
        assert all(stop not in text for stop in stops) or SPECIAL & set(ids)
        found = before_stop(CHAT, said.ids, stops, 200)
        assert found is not None
        assert said.kept() == min(found, len(said.ids) - 1)


def test_many_broken_bytes_do_not_slow_down() -> None:
    said, shown = spoken([spell("é")[0]] * 400)
    assert len("".join(shown)) > 300
    assert set(said.text()) == {"�"}
