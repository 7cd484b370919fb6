"""Contrasts: the library's sets, files that cannot be used, and the gauge that is made of them."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

import tiny
from fake_endpoint import FakeEndpoint, Step, ok, status
from mien.contrast_author import ITEMS, REGISTERS, TRIES, author_contrasts
from mien.contrasts import LEAST, Contrast, ContrastSet, contrast_names, load_contrasts, save_contrasts
from mien.endpoint import Endpoint
from mien.engines.hf_turns import read_turns
from mien.errors import EndpointError, FormatError, MienError, SpecError
from mien.evidence import auc
from mien.gauges import GaugeSet, load_gauges, save_gauges
from mien.jobs.contrast import Read, contrast_gauge, held_out, read_contrasts, vectors
from mien.jobs.describe import SHRINKAGE
from mien.jobs.scan import scan
from mien.logs import LoggedConversation, read_logs
from mien.progress import Silent
from mien.records import Message
from mien.scanning import quiet
from test_describe import SHOUT, ordinary
from test_scan import reader, talk, write_log

__all__ = ["ordinary"]  # a fixture


def row(number: int, **more: Any) -> dict[str, Any]:
    """A contrast of shouting and not."""
    chance = random.Random(number)
    said = chance.choices(tiny.WORDS, k=chance.randint(4, 8))
    asked = [{"role": "user", "content": chance.choice(tiny.QUESTIONS)}]
    if number % 3 == 0:
        asked = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "tea sun"}, *asked]
    return {"messages": asked, "pos": " ".join(said).upper(), "neg": " ".join(said), **more}


@pytest.fixture(scope="module")
def shouting(tmp_path_factory: pytest.TempPathFactory) -> ContrastSet:
    path = write_log(tmp_path_factory.mktemp("contrasts") / "Loud ones.jsonl", [row(i) for i in range(24)])
    return load_contrasts(path, description="shouts")


@pytest.fixture(scope="module")
def made(ordinary: Path, shouting: ContrastSet) -> GaugeSet:
    return contrast_gauge(shouting, reader())


# The library


@pytest.mark.parametrize("name", contrast_names())
def test_a_set_of_the_library_differs_in_the_trait_and_not_in_length(name: str) -> None:
    found = load_contrasts(name)
    assert found.name == name
    assert len(found.contrasts) >= 60
    lengths = np.array([[len(one.pos.split()), len(one.neg.split())] for one in found.contrasts])
    assert abs(np.log(lengths.mean(0)[0] / lengths.mean(0)[1])) < 0.04
    assert (abs(np.log(lengths[:, 0] / lengths[:, 1])) < 0.25).all()
    assert lengths.min() >= 30
    texts = [text for one in found.contrasts for text in (one.pos, one.neg)]
    assert len(set(texts)) == len(texts)
    assert sum(len(one.conversation) > 1 for one in found.contrasts) >= 15
    for mark in ("- ", "**", "*", "😊", "\n\n", "\n1."):
        with_it = [sum(mark in text for text in texts[side::2]) for side in (0, 1)]
        assert abs(with_it[0] - with_it[1]) <= max(3, 0.25 * max(with_it)), mark


@pytest.mark.parametrize("name", contrast_names())
def test_no_phrase_gives_a_side_of_the_library_away(name: str) -> None:
    found = load_contrasts(name)
    for side in ("pos", "neg"):
        phrases: Counter[str] = Counter()
        for one in found.contrasts:
            words = getattr(one, side).lower().split()
            phrases.update({" ".join(words[i : i + 4]) for i in range(len(words) - 3)})
        assert phrases.most_common(1)[0][1] <= 4


def test_the_librarys_list_names_its_files() -> None:
    folder = Path(quiet.__file__).parent.parent / "library" / "contrasts"
    assert contrast_names() == tuple(sorted(path.stem for path in folder.glob("*.jsonl")))
    assert all(load_contrasts(name).description for name in contrast_names())


# Files


def test_a_file_is_called_after_itself_unless_told(tmp_path: Path) -> None:
    path = write_log(tmp_path / "My Lawyers.jsonl", [*(row(i, register="any") for i in range(LEAST)), "", " "])
    found = load_contrasts(path)
    assert (found.name, found.side, len(found.contrasts)) == ("my_lawyers", "high", LEAST)
    assert found.description == "answers as in the pos answers of My Lawyers.jsonl"
    told = load_contrasts(str(path), name="law", description=" claims  to be\na lawyer ", side="low")
    assert (told.name, told.description, told.side) == ("law", "claims to be a lawyer", "low")
    pos, neg = told.contrasts[1].answered()
    assert [m.role for m in pos] == ["user", "assistant"]
    assert pos[:-1] == neg[:-1]
    assert (pos[-1].content, neg[-1].content) == (row(1)["pos"], row(1)["neg"])


ASKED = {"role": "user", "content": "So?"}


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("[", "line 3 is not valid JSON"),
        ([1], "line 3: this is a list"),
        ({"messages": [ASKED], "pos": "A"}, "there is no 'neg'"),
        ({"messages": [ASKED], "pos": "A b", "neg": " A  b"}, "are the same"),
        ({"messages": [ASKED], "pos": 3, "neg": "b"}, "'pos' is a number"),
        ({"messages": [ASKED], "pos": " ", "neg": "b"}, "'pos' is empty"),
        ({"messages": [ASKED], "pos": "a\0c", "neg": "b"}, "control character"),
        ({"messages": [], "pos": "a", "neg": "b"}, "has to be a list of messages"),
        ({"messages": "So?", "pos": "a", "neg": "b"}, "has to be a list of messages"),
        ({"messages": [ASKED, {"role": "assistant", "content": "x"}], "pos": "a", "neg": "b"}, "the assistant's"),
        ({"messages": [{"role": "tool", "content": "x"}], "pos": "a", "neg": "b"}, "system, user, assistant"),
        ({"messages": ["So?"], "pos": "a", "neg": "b"}, "system, user, assistant"),
        ({"messages": [{"role": "user"}], "pos": "a", "neg": "b"}, "The content of a message is empty"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(broken: Any, said: str, tmp_path: Path) -> None:
    rows: list[Any] = [row(i) for i in range(LEAST)]
    path = write_log(tmp_path / "c.jsonl", [*rows[:2], broken, *rows[2:]])
    with pytest.raises(MienError) as caught:
        load_contrasts(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert "line 3" in str(caught.value)


def test_too_few_and_none_are_refused(tmp_path: Path) -> None:
    for rows in ([], [row(i) for i in range(LEAST - 1)]):
        with pytest.raises(SpecError, match=f"has {len(rows)} contrasts; at least {LEAST}"):
            load_contrasts(write_log(tmp_path / "c.jsonl", rows))
    with pytest.raises(FormatError, match="There is no file of contrasts at"):
        load_contrasts("gone.jsonl")
    with pytest.raises(SpecError, match=r"There are no contrasts 'evli' in the library; did you mean evil\?"):
        load_contrasts("evli")
    with pytest.raises(SpecError, match="cannot be"):
        load_contrasts("evil", name="../x")


# The gauge


def test_it_tells_answers_that_shout(made: GaugeSet, tmp_path: Path) -> None:
    log = [talk(4, 300 + i, SHOUT if i % 2 else tiny.WORDS) for i in range(16)]
    scan([write_log(tmp_path / "new.jsonl", log)], reader(), tmp_path / "out", gauges=made)
    rows = pq.read_table(tmp_path / "out" / "turns.parquet").to_pylist()
    loud = np.array([int(r["conversation"][1:]) % 2 == 1 for r in rows])
    sigma = np.array([r["sigma"] for r in rows])
    assert auc(sigma, loud) > 0.98
    assert sigma[loud].mean() > 3 > 1 > abs(sigma[~loud].mean())


def test_it_is_the_difference_of_the_answers_whitened(made: GaugeSet, shouting: ContrastSet, ordinary: Path) -> None:
    """Worked out anew from readings of single conversations, with the inverse of a covariance."""
    (gauge,) = made.gauges
    model = reader()
    for part in gauge.parts:

        def read(messages: tuple[Message, ...], k: int = part.layer) -> np.ndarray:
            return read_turns(model, [messages], layers=[k])[0].means[:, 0].astype(np.float64)

        sides = [np.stack([read(one.answered()[s])[-1] for one in shouting.contrasts]) for s in (0, 1)]
        quiet_ones = []
        for record in read_logs([ordinary]):
            assert isinstance(record, LoggedConversation)
            means = read(record.messages)
            quiet_ones += [means[i] for i, m in enumerate(record.messages) if m.role == "assistant"]
        rest = np.vstack([rows - rows.mean(0) for rows in (np.array(quiet_ones), *sides)])
        covariance = rest.T @ rest / len(rest)
        ball = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        weights = np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * ball) @ (sides[0].mean(0) - sides[1].mean(0))
        expected = weights / (rest @ weights).std() / len(gauge.parts)
        np.testing.assert_allclose(part.vector, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


def test_its_card_is_of_contrasts_left_out_beside_random_sides(made: GaugeSet, tmp_path: Path) -> None:
    (gauge,) = made.gauges
    assert (gauge.name, gauge.kind, gauge.side, gauge.description) == ("loud_ones", "contrast", "high", "shouts")
    e = gauge.evidence
    assert e["contrasts"] == 24
    assert e["auc"] > 0.95 > 0.9 > e["auc_shuffled"]
    assert e["auc_low"] <= e["auc"] <= e["auc_high"]
    assert e["right"] > 0.95
    assert e["auc_length"] == 0.5  # the same letters on both sides
    assert json.dumps(e)
    (again,) = load_gauges(save_gauges(made, tmp_path / "g")).gauges
    assert replace(again, parts=()) == replace(gauge, parts=())


def test_a_trait_that_is_not_there_is_not_found(ordinary: Path, tmp_path: Path) -> None:
    """Sides drawn at random: what is left out is told by chance only."""
    rows = []
    for i in range(40):
        one = row(i)
        one["neg"] = " ".join(random.Random(1000 + i).choices(tiny.WORDS, k=6))
        one["pos"] = " ".join(random.Random(2000 + i).choices(tiny.WORDS, k=6))
        rows.append(one)
    (gauge,) = contrast_gauge(load_contrasts(write_log(tmp_path / "c.jsonl", rows)), reader()).gauges
    assert gauge.evidence["auc_low"] < 0.6
    assert gauge.evidence["auc"] < 0.75


def test_what_is_left_out_is_not_seen(shouting: ContrastSet, ordinary: Path) -> None:
    """The value of an answer does not change with what the contrasts beside it in its fold are."""
    read = read_contrasts(shouting, reader(), Silent())
    folds = [np.arange(0, 12), np.arange(12, 24)]
    own = held_out(read, folds, np.random.default_rng(0))[0]
    other = Read(read.means.copy(), read.ordinary, read.layers)
    other.means[1:12] = -50
    again = held_out(other, folds, np.random.default_rng(0))[0]
    np.testing.assert_allclose(again[0], own[0])
    assert not np.allclose(again[12:], own[12:])
    y = np.tile([True, False], 24)
    assert auc(own.ravel(), y) == pytest.approx(roc_auc_score(y, own.ravel()))


def test_sides_that_are_turned_turn_the_vector(shouting: ContrastSet, ordinary: Path) -> None:
    read = read_contrasts(shouting, reader(), Silent())
    every = np.arange(24)
    rows = vectors(read, every, -np.ones((1, 24)))
    np.testing.assert_allclose(rows[:, 1], -rows[:, 0], atol=1e-9)
    some = np.random.default_rng(0).choice([-1.0, 1.0], (2, 24))
    np.testing.assert_allclose(vectors(read, every, some)[:, 0], rows[:, 0], rtol=1e-6, atol=1e-9)


# Written by a model at an endpoint


def item(number: int, register: str) -> dict[str, str]:
    """What a model might write."""
    said = " ".join(random.Random(f"{register}{number}").choices(tiny.WORDS, k=8))
    return {"user": f"Number {number}, {register}?", "pos": said.upper(), "neg": f"{said} tea"}


def register_of(payload: dict[str, Any]) -> str:
    text = payload["messages"][0]["content"]
    return next(register for register in REGISTERS if f"this register: {register}." in text)


def asked_for(payload: dict[str, Any]) -> int:
    return int(payload["messages"][0]["content"].split("Invent ")[1].split()[0])


def answer(payload: dict[str, Any], **more: Any) -> Step:
    rows = [item(10 * payload["seed"] + i, register_of(payload)) for i in range(asked_for(payload))]
    return ok(f"<think>well</think>```json\n{json.dumps({'items': rows, **more})}\n```")


def ask(fake: FakeEndpoint) -> tuple[Contrast, ...]:
    with Endpoint(fake.url, "m", "k", backoff=0, retries=0) as endpoint:
        return author_contrasts("The assistant is loud", endpoint)


def test_every_register_is_asked_for_and_what_comes_back_can_be_read_again(tmp_path: Path) -> None:
    with FakeEndpoint(answer) as fake:
        found = ask(fake)
    assert len(found) == ITEMS * len(REGISTERS)
    assert sorted(register_of(r.payload) for r in fake.requests) == sorted(REGISTERS)
    assert all("namely that it is loud." in r.payload["messages"][0]["content"] for r in fake.requests)
    assert [one.conversation[0].content for one in found[:2]] == [f"Number {i}, {REGISTERS[0]}?" for i in range(2)]
    path = save_contrasts(found, tmp_path / "deep" / "loud.jsonl")
    assert load_contrasts(path).contrasts == found


def test_what_cannot_be_used_is_asked_for_again() -> None:
    """One register is refused at first, one gives nonsense, one answers of very different lengths."""

    def script(payload: dict[str, Any]) -> Step:
        place = REGISTERS.index(register_of(payload))
        if payload["seed"] == 0 and place < 3:
            long = {"user": "u", "pos": "a " * 40, "neg": "b"}
            return (ok(None, refusal="no"), ok("I would rather not."), ok(json.dumps({"items": [long]})))[place]
        return answer(payload)

    with FakeEndpoint(script) as fake:
        assert len(ask(fake)) == ITEMS * len(REGISTERS)
    assert len(fake.requests) == len(REGISTERS) + 3


def test_an_endpoint_that_fails_or_writes_nothing_of_use_is_named() -> None:
    with FakeEndpoint(status(401, "bad key")) as fake, pytest.raises(EndpointError, match="401"):
        ask(fake)
    with FakeEndpoint(ok('{"items": [{"user": "u", "pos": "same", "neg": " same "}]}')) as fake:
        with pytest.raises(EndpointError, match=r"wrote 0 contrasts .* are the same; .* Try a stronger model"):
            ask(fake)
        assert len(fake.requests) == TRIES * len(REGISTERS)
    with FakeEndpoint(answer) as fake, Endpoint(fake.url, "m", "k") as endpoint:
        with pytest.raises(SpecError):
            author_contrasts(" ", endpoint)
        assert not fake.requests
