"""What is read while answers are written: scan's own numbers, whatever the conversation; alarms; holding; policies."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import serving
import tiny
from mien.chat import Spanned
from mien.engines.hf_answer import Answer
from mien.engines.hf_turns import read_turns
from mien.gauges import GaugeSet, save_gauges
from mien.jobs.scan import scan
from mien.live import LiveEnd, LiveRequest
from mien.models import Model, wrap
from mien.records import Message, Sampling
from mien.scanning.measure import panel
from mien.serve.conductor import Limits
from mien.serve.policy import Policy
from mien.serve.reader import Reader
from mien.serve.security import Keys, parse_keys
from mien.serve.server import Server, Settings
from mien.serve.watch import Watch
from serving import ASK, Api

QUIET = serving.talk(4, 500)
LOUD = serving.talk(6, 501, tuple(w.upper() for w in tiny.WORDS))
ON = {"role": "user", "content": "And then?"}
PUSHED = {"interventions": [{"add": "shout", "coef": 8.0}], "hold": False}
"""Makes an answer alarm."""
CLOSE = 2e-3
"""Sigma; `mien scan` rounds what it writes, and a batch's other rows move float32 sums a little."""


@pytest.fixture(scope="module")
def gauges(tmp_path_factory: pytest.TempPathFactory) -> GaugeSet:
    return serving.gauges_of(serving.brief(), tmp_path_factory.mktemp("quiet"))


@pytest.fixture(scope="module")
def gauge_file(gauges: GaugeSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gauges(gauges, tmp_path_factory.mktemp("gauges") / "g.safetensors")


@pytest.fixture(scope="module")
def api(gauge_file: Path) -> Iterator[Api]:
    with serving.serving(serving.brief(), gauge_files=(gauge_file,)) as api:
        yield api


def scanned(
    messages: list[dict[str, str]], folder: Path, gauges: GaugeSet, model: Model | None = None
) -> dict[tuple[int, str], dict[str, Any]]:
    """`mien scan`'s rows of one conversation, by message and gauge."""
    (folder / "log.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    scan([folder / "log.jsonl"], model or serving.brief(), folder / "out", gauges=gauges)
    rows = pq.read_table(folder / "out" / "turns.parquet").to_pylist()
    return {(row["message_index"], row["gauge"]): row for row in rows}


def answered(messages: list[dict[str, str]], answer: dict[str, Any]) -> list[dict[str, str]]:
    return [*messages, {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}]


def assert_scanned(readings: list[dict[str, Any]], index: int, rows: dict[tuple[int, str], dict[str, Any]]) -> None:
    assert readings
    for r in readings:
        row = rows[index, r["gauge"]]
        assert r["projection"] == pytest.approx(row["projection"], abs=CLOSE)
        assert r["sigma"] == pytest.approx(row["sigma"], abs=CLOSE)
        assert r["statistic"] == pytest.approx(row["statistic"], abs=CLOSE)
        assert (r["alarm"] is None) == (not row["alarm"] and not (row["drifted"] and row["statistic"] > 1))


@given(st.lists(st.integers(0, 90), min_size=1, max_size=40), st.integers(1, 8), st.integers(8, 64))
def test_every_token_of_a_message_is_in_one_segment(sizes: list[int], around: int, window: int) -> None:
    """Messages with what a template puts around them, some of them empty, cut into segments."""
    starts = np.cumsum([around, *(n + around for n in sizes[:-1])]).tolist()
    spans = tuple((a, a + n) for a, n in zip(starts, sizes, strict=True))
    laid = Reader(None, window, 1).laid(Spanned(tuple(range(spans[-1][1] + around)), spans), spans)  # type: ignore[arg-type]
    found: dict[int, list[int]] = {i: [] for i in range(len(sizes))}
    for part, pieces in zip(laid.parts, laid.pieces, strict=True):
        for owner, a, b in pieces:
            assert part.new <= part.start + a < part.start + b <= part.end
            found[owner] += range(part.start + a, part.start + b)
    assert found == {i: list(range(a, b)) for i, (a, b) in enumerate(spans)}


CONVERSATIONS = {
    "one question": ASK,
    "a system prompt": [{"role": "system", "content": "SHOUT!"}, *ASK],
    "a quiet talk": [*QUIET, ON],
    "a loud talk": [*LOUD, ON],
    "drift": [*QUIET, *LOUD, ON],
    "blank messages": [*QUIET, {"role": "user", "content": " "}, {"role": "assistant", "content": ""}, ON],
    "an answer first": [{"role": "assistant", "content": "Welcome."}, ON],
    "two questions in a row": [*QUIET, ON, ON],
    "other letters": [{"role": "user", "content": "Wo ist die Straße? 日本語"}],
    "longer than a scan reads at once": [*(m for s in range(12) for m in serving.talk(4, s)), ON],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_readings_are_those_of_a_scan(api: Api, gauges: GaugeSet, tmp_path: Path, name: str) -> None:
    messages = CONVERSATIONS[name]
    answer = api.chat(messages, max_tokens=12, mien={}).json()
    rows = scanned(answered(messages, answer), tmp_path, gauges)
    mien = answer["choices"][0]["mien"]
    assert (mien["index"], mien["of"], mien["held"]) == (len(messages), "stream", False)
    assert_scanned(mien["readings"], len(messages), rows)
    last = api.events(messages=messages, max_tokens=12, mien={})[-1]
    for streamed, whole in zip(last["mien"]["readings"], mien["readings"], strict=True):
        assert streamed["sigma"] == pytest.approx(whole["sigma"], abs=CLOSE)


def test_an_answer_whose_text_has_other_tokens_is_read_as_text(tmp_path: Path) -> None:
    """A random model's bytes are no text: what the client has is not what was written, and a log has what it has."""
    model = wrap(tiny.tiny_net(3), tiny.tiny_tokenizer(), "tiny")
    gauges = serving.gauges_of(model, tmp_path)
    file = save_gauges(gauges, tmp_path / "g.safetensors")
    with serving.serving(model, gauge_files=(file,)) as api:
        answer = api.chat(max_tokens=20, temperature=1, seed=1, mien={}).json()
        text = answer["choices"][0]["message"]["content"]
        assert "\ufffd" in text
        rows = scanned(answered(ASK, answer), tmp_path, gauges, model)
        assert_scanned(answer["choices"][0]["mien"]["readings"], 1, rows)


def test_of_an_answer_that_is_read_as_text_nothing_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to where its tokens are others; where no gauge looks at the question, it is not wanted either."""
    model = wrap(tiny.tiny_net(3), tiny.tiny_tokenizer(), "tiny")
    gauges = serving.gauges_of(model, tmp_path)
    file = save_gauges(replace(gauges, gauges=gauges.gauges[:1]), tmp_path / "g.safetensors")
    ended: list[tuple[Answer, LiveEnd]] = []
    end = Answer.end

    def kept(answer: Answer, *args: Any, **kwargs: Any) -> LiveEnd:
        ended.append((answer, end(answer, *args, **kwargs)))
        return ended[-1][1]

    monkeypatch.setattr(Answer, "end", kept)
    with serving.serving(model, gauge_files=(file,)) as api:
        api.chat(max_tokens=20, temperature=1, seed=1, mien={})
    (written, _), (read, found) = ended
    assert read.only_read
    assert found.cached >= len(written.request.prompt_ids) > 8
    assert read.request.spans == ((len(written.request.prompt_ids), read.request.spans[-1][1]),)


def test_many_at_once_are_not_mixed_up(api: Api, gauges: GaugeSet, tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    talks = [[*serving.talk(1 + i % 5, 700 + i), ON] for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda t: api.chat(t, max_tokens=12, mien={}).json(), talks))
    compared = 0
    for i, (messages, answer) in enumerate(zip(talks, found, strict=True)):
        readings = answer["choices"][0]["mien"]["readings"]
        if not answer["choices"][0]["message"]["content"]:
            assert all(r["projection"] is r["sigma"] is r["alarm"] is None for r in readings)
            continue
        (tmp_path / str(i)).mkdir()
        assert_scanned(readings, len(messages), scanned(answered(messages, answer), tmp_path / str(i), gauges))
        compared += 1
    assert compared > 15


def test_tokens_add_up_to_the_answer(api: Api, gauges: GaugeSet) -> None:
    messages = [*QUIET, ON]
    answer = api.chat(messages, max_tokens=12, mien={"tokens": True, "gauges": ["loud"]}).json()
    mien, text = answer["choices"][0]["mien"], answer["choices"][0]["message"]["content"]
    assert "".join(t["text"] for t in mien["tokens"]) == text
    values = [t["projection"]["loud"] for t in mien["tokens"]]
    assert sum(values) / len(values) == pytest.approx(mien["readings"][0]["projection"], abs=1e-3)
    model = serving.brief()
    from mien.records import Message

    talk = tuple(Message(m["role"], m["content"]) for m in answered(messages, answer))  # type: ignore[arg-type]
    (reading,) = read_turns(model, [talk], {serving.LAYER: torch.from_numpy(serving.loudness(model))[None]})
    start, end = reading.spanned.spans[-1]
    assert values == pytest.approx(reading.tokens[start:end, 0].tolist(), abs=CLOSE)
    assert all(set(t) == {"text", "projection", "tint"} for t in mien["tokens"])


def test_tokens_come_as_they_are_known(api: Api) -> None:
    chunks = api.events(messages=[*QUIET, ON], max_tokens=12, mien={"tokens": True, "gauges": ["loud"]})
    *said, last = chunks
    early = [t for c in said for t in c.get("mien", {}).get("tokens", [])]
    whole = last["mien"]["tokens"]
    assert [t["text"] for t in early] == [t["text"] for t in whole[: len(early)]]
    assert len(early) >= len(whole) - 1
    for now, then in zip(early, whole, strict=False):
        assert now["projection"]["loud"] == pytest.approx(then["projection"]["loud"], abs=CLOSE)
    so_far = [c["mien"]["so_far"]["loud"] for c in said if "mien" in c]
    assert len(so_far) == len(early)
    assert all(isinstance(v, float) for v in so_far)


def test_a_client_that_asks_nothing_sees_nothing(api: Api) -> None:
    assert "mien" not in api.chat().text
    assert not any("mien" in c for c in api.events())


def test_which_gauges(api: Api) -> None:
    names = [r["gauge"] for r in api.chat(mien={"gauges": ["odd"]}).json()["choices"][0]["mien"]["readings"]]
    assert names == ["odd"]
    listed = api.get("/v1/gauges").json()
    assert [g["name"] for g in listed["gauges"]] == ["loud", "odd"]
    assert all(g["watched"] and g["has_baseline"] for g in listed["gauges"])


def test_the_history_has_every_turn_and_its_alarms(api: Api) -> None:
    before = len(api.get("/v1/alarms?limit=1000").json()["data"])
    answer = api.chat([*QUIET, *LOUD, ON], max_tokens=12, mien={"conversation": "drifting/1"}).json()
    mien = answer["choices"][0]["mien"]
    assert mien["conversation"] == "drifting/1"
    (turn,) = api.get("/v1/conversations/drifting/1").json()["turns"]
    assert [r["sigma"] for r in turn["readings"]] == [r["sigma"] for r in mien["readings"]]
    alarms = api.get("/v1/alarms?limit=1000").json()["data"]
    new = [a for a in alarms if a["id"] in mien["alarms"]]
    off = {r["gauge"]: r for r in mien["readings"] if r["alarm"]}
    assert len(alarms) - before == len(mien["alarms"]) == len(new) == len(off)
    for alarm in new:
        assert (alarm["conversation"], alarm["index"]) == ("drifting/1", len(QUIET) + len(LOUD) + 1)
        assert alarm["sigma"] == off[alarm["gauge"]]["sigma"]
        assert alarm["kind"] == off[alarm["gauge"]]["alarm"]


def test_conversations_are_told_apart_by_their_first_exchange(api: Api) -> None:
    def id_of(messages: list[dict[str, str]], **more: Any) -> str:
        return str(api.chat(messages, mien={}, **more).json()["choices"][0]["mien"]["conversation"])

    first = api.chat(ASK, mien={}).json()
    going_on = [*answered(ASK, first), ON]
    assert id_of(going_on) == first["choices"][0]["mien"]["conversation"]
    other = [*ASK, {"role": "assistant", "content": "something else"}, ON]
    assert id_of(other) != id_of(going_on)
    assert id_of(ASK, metadata={"conversation_id": "mine"}) == "mine"
    assert id_of(ASK, metadata={"conversation_id": "with blanks\nin it"}).startswith("given-")


def test_an_answer_cut_by_its_time_is_read_up_to_there(tmp_path: Path) -> None:
    """Its last token was never fed, so it has no state; all others have."""
    model = serving.endless()
    file = save_gauges(serving.gauges_of(model, tmp_path), tmp_path / "g.safetensors")
    limits = Limits(max_tokens=4000, seconds=0.5)
    with serving.serving(model, gauge_files=(file,), limits=limits, max_rows=1) as api:
        choice = api.chat(max_tokens=4000, mien={"tokens": True, "conversation": "cut"}).json()["choices"][0]
        assert choice["finish_reason"] == "length"
        *tokens, newest = choice["mien"]["tokens"]
        assert 0 < len(tokens) < 3999
        assert newest["projection"]["loud"] is newest["tint"]["loud"] is None
        assert all(isinstance(t["tint"]["loud"], float) for t in tokens)
        mean = sum(t["projection"]["loud"] for t in tokens) / len(tokens)
        assert choice["mien"]["readings"][0]["projection"] == pytest.approx(mean, abs=1e-3)
        (turn,) = api.get("/v1/conversations/cut").json()["turns"]
        assert all(isinstance(r["sigma"], float) for r in turn["readings"])
        text = {"model": "tiny", "prompt": "abc", "max_tokens": 4000, "mien": {}}
        choice = api.post("/v1/completions", json=text).json()["choices"][0]
        assert isinstance(choice["mien"]["readings"][0]["projection"], float)


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_is_recorded_though_its_client_leaves(tmp_path: Path, stream: bool) -> None:
    model = serving.endless()
    file = save_gauges(serving.gauges_of(model, tmp_path), tmp_path / "g.safetensors")
    with serving.serving(model, gauge_files=(file,), limits=Limits(max_tokens=3000), max_rows=2) as api:
        body = {
            "model": "tiny", "messages": [*QUIET, *LOUD, ON], "max_tokens": 3000, "n": 2, "stream": stream,
            "mien": {"conversation": "left"},
        }  # fmt: skip
        with contextlib.suppress(httpx.ReadTimeout), \
                api.stream("POST", "/v1/chat/completions", json=body, timeout=1.0) as response:  # fmt: skip
            lines = response.iter_lines()
            assert sum('"content":"' in next(lines) for _ in range(40)) > 5
        load = api.server.engine.load
        assert serving.until(lambda: load().running == load().waiting == 0, 10)
        assert serving.until(lambda: len(api.server.history.conversation("left")) == 2)
        turns = api.get("/v1/conversations/left").json()["turns"]
        assert {t["finish"] for t in turns} == {"cancelled"}
        assert all(0 < t["completion_tokens"] < 3000 for t in turns)
        assert all(isinstance(r["sigma"], float) for t in turns for r in t["readings"])
        assert "left" in {a["conversation"] for a in api.get("/v1/alarms").json()["data"]}


# What others wrote


def test_posted_conversations_are_read_as_scan_reads_them(api: Api, gauges: GaugeSet, tmp_path: Path) -> None:
    long = [m for s in range(14) for m in serving.talk(4, s)]
    talks = [QUIET, [*QUIET, *LOUD], long]
    found = api.post("/v1/readings", json={"conversations": [{"messages": t} for t in talks]}).json()
    assert found["reader"] == "tiny"
    for i, (messages, one) in enumerate(zip(talks, found["data"], strict=True)):
        (tmp_path / str(i)).mkdir()
        rows = scanned(messages, tmp_path / str(i), gauges)
        assert [a["index"] for a in one["answers"]] == sorted({index for index, _ in rows})
        for answer in one["answers"]:
            for r in answer["readings"]:
                row = rows[answer["index"], r["gauge"]]
                assert r["sigma"] == pytest.approx(row["sigma"], abs=CLOSE)
                assert r["statistic"] == pytest.approx(row["statistic"], abs=CLOSE)
        for name, at in one["left"].items():
            assert (at is not None) == rows[messages.index(messages[1]), name]["drifted"]
    assert found["data"][1]["left"]["loud"] is not None


def test_posted_conversations_are_kept_if_asked(api: Api) -> None:
    body = {"messages": [*QUIET, *LOUD], "id": "posted-1", "model": "somebody-else"}
    assert api.post("/v1/readings", json=body).json()["alarms"] == []
    assert api.get("/v1/conversations/posted-1").status_code == 404
    alarms = api.post("/v1/readings", json={**body, "record": True}).json()["alarms"]
    assert alarms
    turns = api.get("/v1/conversations/posted-1").json()["turns"]
    assert [t["index"] for t in turns] == list(range(1, 20, 2))
    assert {(t["source"], t["model"], t["messages"]) for t in turns} == {("posted", "somebody-else", None)}


@pytest.mark.parametrize(
    ("name", "kept"), [(" a b\n", "a b"), ("\u200b", "unknown"), ("x\x00y", "x y"), ("é" * 200, "é" * 200)]
)
def test_a_writer_may_be_called_anything(api: Api, name: str, kept: str) -> None:
    body = {"messages": QUIET, "id": f"named-{len(name)}-{ord(name[0])}", "model": name, "record": True}
    assert api.post("/v1/readings", json=body).status_code == 200
    turns = api.get(f"/v1/conversations/{body['id']}").json()["turns"]
    assert {t["model"] for t in turns} == {kept}
    assert api.get("/ready").status_code == 200


def test_tokens_of_posted_conversations(api: Api) -> None:
    found = api.post("/v1/readings", json={"messages": QUIET, "tokens": True, "gauges": ["loud"]}).json()
    for answer in found["data"][0]["answers"]:
        assert "".join(t["text"] for t in answer["tokens"]) == QUIET[answer["index"]]["content"]
        values = [t["projection"]["loud"] for t in answer["tokens"]]
        assert sum(values) / len(values) == pytest.approx(answer["readings"][0]["projection"], abs=1e-3)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "messages"),
        ({"messages": QUIET, "conversations": [{"messages": QUIET}]}, "messages"),
        ({"messages": ASK}, "messages"),
        ({"conversations": [{"messages": QUIET}, {"messages": ASK}]}, "conversations[1].messages"),
        ({"messages": QUIET, "gauges": ["mood"]}, "gauges"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role"),
    ],
)
def test_what_cannot_be_read(api: Api, body: dict[str, Any], param: str) -> None:
    response = api.post("/v1/readings", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# Interventions and holding


@pytest.fixture
def home_with_shout(mien_home: Path) -> None:
    serving.keep_direction(serving.brief(), low=-50, high=-40)


@pytest.mark.usefixtures("home_with_shout")
def test_interventions_of_a_request_change_its_answer_and_no_other(gauge_file: Path) -> None:
    with serving.serving(serving.brief(), gauge_files=(gauge_file,)) as api:

        def text(**mien: Any) -> tuple[str, dict[str, Any]]:
            choice = api.chat([*QUIET, ON], max_tokens=12, mien=mien).json()["choices"][0]
            return choice["message"]["content"], choice["mien"]

        plain, told = text()
        assert (told["of"], told["held"], told["fired"]) == ("stream", False, None)
        pushed, told = text(interventions=[{"add": "shout", "coef": 8.0}], gauges=["loud"])
        assert pushed != plain
        assert (told["of"], told["held"], told["fired"]) == ("held stream", True, None)
        assert told["readings"][0]["sigma"] > 5
        _, told = text(interventions=[{"cap": "shout", "high": "p50"}])
        assert told["fired"] == 1.0  # the cap lies far below anything that is said
        free, told = text(interventions=[{"cap": "shout", "high": 1e6, "low": -1e6}])
        assert (free, told["fired"]) == (plain, 0.0)
        assert text(interventions=[{"ablate": "shout", "layers": [2]}])[1]["held"]
        assert text(interventions=[{"add": "shout", "coef": 8.0, "tokens": "response"}])[0] not in (plain,)
        assert text()[0] == plain
        names = [r["gauge"] for r in text(gauges="all")[1]["readings"]]
        assert names == ["loud", "odd", "shout"]
        shout = text(gauges=["shout"])[1]["readings"][0]
        assert shout["sigma"] is None
        assert shout["projection"] == pytest.approx(text(gauges=["loud"])[1]["readings"][0]["projection"], abs=1e-3)
        bad = api.chat(mien={"interventions": [{"cap": "shout", "low": "p101"}]}).json()["error"]
        assert "percentile" in bad["message"]
        bad = api.chat(mien={"interventions": [{"add": "shout", "layers": [9]}]}).json()["error"]
        assert "no layer 9" in bad["message"]


@pytest.mark.usefixtures("home_with_shout")
def test_holding(gauge_file: Path) -> None:
    with serving.serving(serving.brief(), gauge_files=(gauge_file,), hold="shout") as api:
        assert api.get("/v1/gauges").json()["policy"] == "hold"
        held = api.chat(mien={}).json()["choices"][0]
        free = api.chat(mien={"hold": False}).json()["choices"][0]
        assert (held["mien"]["held"], held["mien"]["of"], held["mien"]["fired"]) == (True, "held stream", 1.0)
        assert (free["mien"]["held"], free["mien"]["of"], free["mien"]["fired"]) == (False, "stream", None)
        assert held["message"] != free["message"]
        assert api.chat().json()["choices"][0]["message"] == held["message"]
        done = api.post("/v1/completions", json={"model": "tiny", "prompt": "abc", "max_tokens": 3, "mien": {}}).json()
        assert done["choices"][0]["mien"]["held"]
    with serving.serving(serving.brief(), gauge_files=(gauge_file,), hold="shout", clients_steer=False) as api:
        for mien, param in (({"hold": False}, "hold"), ({"interventions": [{"ablate": "shout"}]}, "interventions")):
            response = api.chat(mien=mien)
            assert (response.status_code, response.json()["error"]["param"]) == (403, f"mien.{param}")
        assert api.chat(mien={"hold": True}).json()["choices"][0]["mien"]["held"]


def test_a_hold_given_by_its_folder_is_told_by_its_name(tmp_path: Path) -> None:
    """Where it lies on this machine is nobody's business."""
    from mien.holds import Hold, HoldCard, save_hold
    from mien.interventions import Bounds, CapSpace

    info = serving.brief().info
    rows, ends = torch.ones(1, info.d_model), torch.ones(1)
    space = CapSpace({serving.LAYER: Bounds(rows, rows, -ends, ends)}, info.id, info.fingerprint)
    card = HoldCard(
        name="calm", description="d", model=info.id, fingerprint=info.fingerprint, n_layers=info.n_layers,
        d_model=info.d_model, method="by hand", layers=[serving.LAYER], tokens="all",
    )  # fmt: skip
    folder = save_hold(Hold(card, (space,)), tmp_path / "folder")
    with serving.serving(serving.brief(), hold=str(folder)) as api:
        assert api.get("/v1/gauges").json()["hold"] == "calm"
        assert (api.server.hold_name, len(api.server.hold)) == ("calm", 1)


@pytest.mark.usefixtures("home_with_shout")
@pytest.mark.parametrize("named", [True, False], ids=["named", "by its words"])
def test_hold_on_alarm(gauge_file: Path, named: bool) -> None:
    called = {"conversation": "c1"} if named else {}
    with serving.serving(serving.brief(), gauge_files=(gauge_file,), hold="shout", policy="hold-on-alarm") as api:
        quiet = api.chat([*QUIET, ON], mien=called).json()["choices"][0]["mien"]
        assert not quiet["held"]
        loud = [*QUIET, *LOUD, ON]
        first = api.chat(loud, max_tokens=12, mien=called).json()
        assert first["choices"][0]["mien"]["held"]
        again = api.chat([*answered(loud, first), ON], mien=called).json()["choices"][0]["mien"]
        assert again["held"]
        assert not api.chat([*serving.talk(4, 900), ON], mien={}).json()["choices"][0]["mien"]["held"]
        # Running text and a talk whose beginning was left out are known by the conversation's name alone.
        api.chat(mien={**called, **PUSHED})
        text = {"model": "tiny", "prompt": "abc", "max_tokens": 3, "mien": called}
        assert api.post("/v1/completions", json=text).json()["choices"][0]["mien"]["held"] is named
        assert api.chat(ASK, mien=called).json()["choices"][0]["mien"]["held"] is named


@pytest.mark.usefixtures("home_with_shout")
def test_only_what_was_served_to_a_key_counts_in_its_conversations(gauge_file: Path) -> None:
    alice, bob = ({"Authorization": f"Bearer a-key-of-{name}-000000"} for name in ("alice", "bob"))
    keys = Keys(parse_keys("alice a-key-of-alice-000000\nbob a-key-of-bob-000000", "here"))
    with serving.serving(
        serving.brief(), gauge_files=(gauge_file,), hold="shout", policy="hold-on-alarm", keys=keys
    ) as api:

        def asked(headers: dict[str, str], **mien: Any) -> dict[str, Any]:
            body = {"model": "tiny", "messages": [*QUIET, ON], "max_tokens": 12, "temperature": 0}
            body["mien"] = {"conversation": "c1", **mien}
            found = api.post("/v1/chat/completions", json=body, headers=headers).json()["choices"][0]["mien"]
            assert isinstance(found, dict)
            return found

        posted = {"messages": [*QUIET, *LOUD], "id": "c1", "record": True}
        assert api.post("/v1/readings", json=posted, headers=alice).json()["alarms"]
        assert not asked(bob)["held"]
        assert asked(alice, **PUSHED)["alarms"]
        assert asked(alice)["held"]
        assert not asked(bob)["held"]


def test_refusing(gauge_file: Path) -> None:
    with serving.serving(serving.brief(), gauge_files=(gauge_file,), policy="refuse") as api:
        assert api.chat([*QUIET, ON]).status_code == 200
        for more in ({"stream": False}, {"stream": True}, {"mien": {"conversation": "another"}}):
            response = api.chat([*QUIET, *LOUD, ON], **more)
            assert (response.status_code, response.json()["error"]["code"]) == (403, "conversation_drifted")


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_talk_that_drifted_is_refused_as_running_text_too(gauge_file: Path, as_ids: bool) -> None:
    chat = serving.brief().chat

    def asked(messages: list[dict[str, str]]) -> httpx.Response:
        ids = chat.prompt_ids(tuple(Message(**m) for m in messages))  # type: ignore[arg-type]
        prompt = list(ids) if as_ids else chat.raw_text(ids)
        return api.post("/v1/completions", json={"model": "tiny", "prompt": prompt, "max_tokens": 3})

    with serving.serving(serving.brief(), gauge_files=(gauge_file,), policy="refuse") as api:
        assert asked([*QUIET, ON]).status_code == 200
        refused = asked([*QUIET, *LOUD, ON])
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "conversation_drifted")
        prose = {"model": "tiny", "prompt": " ".join(m["content"] for m in LOUD), "max_tokens": 3}
        assert api.post("/v1/completions", json=prose).status_code == 200  # who says what is not marked


@pytest.mark.usefixtures("home_with_shout")
def test_running_text_is_held_on_an_alarm_in_its_turns(gauge_file: Path) -> None:
    chat = serving.brief().chat
    with serving.serving(serving.brief(), gauge_files=(gauge_file,), hold="shout", policy="hold-on-alarm") as api:
        for messages, held in (([*QUIET, ON], False), ([*QUIET, *LOUD, ON], True)):
            prompt = chat.raw_text(chat.prompt_ids(tuple(Message(**m) for m in messages)))  # type: ignore[arg-type]
            text = {"model": "tiny", "prompt": prompt, "max_tokens": 3, "mien": {}}
            assert api.post("/v1/completions", json=text).json()["choices"][0]["mien"]["held"] is held


def test_a_policy_that_holds_needs_something_to_hold() -> None:
    from mien.errors import InputError

    with pytest.raises(InputError, match="give --hold NAME"):
        Server(serving.brief(), Settings(policy="hold", database="sqlite://"))
    with pytest.raises(InputError, match="no direction 'nobody'"):
        Server(serving.brief(), Settings(hold="nobody", database="sqlite://"))


@pytest.mark.usefixtures("home_with_shout")
@pytest.mark.parametrize("policy", ["refuse", "hold-on-alarm"])
def test_a_policy_that_acts_on_alarms_needs_a_gauge_that_can_alarm(policy: Policy, gauge_file: Path) -> None:
    """`shout` is a gauge without a baseline."""
    from mien.errors import InputError

    for gauges, files in (None, ()), (("shout",), (gauge_file,)):
        settings = Settings(policy=policy, hold="shout", gauges=gauges, gauge_files=files, database="sqlite://")
        with pytest.raises(InputError, match=r"watched gauge that can alarm.* mien axis.* mien baseline"):
            Server(serving.brief(), settings)


@pytest.mark.parametrize("policy", ["watch", "alert"])
def test_webhooks_are_owed_alarms_only_where_the_policy_tells(gauge_file: Path, policy: Policy) -> None:
    nowhere = {"webhooks": ("http://127.0.0.1:9/",), "allow_private_webhooks": True}
    with serving.serving(serving.brief(), gauge_files=(gauge_file,), policy=policy, **nowhere) as api:
        body = {"messages": [*QUIET, *LOUD], "record": True}
        alarms = api.post("/v1/readings", json=body).json()["alarms"]
        assert alarms
        assert sum(api.server.history.deliveries().values()) == (len(alarms) if policy == "alert" else 0)


def test_texts_are_kept_only_if_asked(gauge_file: Path, tmp_path: Path) -> None:
    for keep in (False, True):
        database = f"sqlite:///{tmp_path / f'{keep}.db'}"
        with serving.serving(serving.brief(), gauge_files=(gauge_file,), keep_text=keep, database=database) as api:
            answer = api.chat([{"role": "user", "content": "a secret"}], mien={"conversation": "x"}).json()
            (turn,) = api.get("/v1/conversations/x").json()["turns"]
            said = answered([{"role": "user", "content": "a secret"}], answer)
            assert turn["messages"] == (said if keep else None)
        written = b"".join(p.read_bytes() for p in tmp_path.glob(f"{keep}.db*"))
        assert (b"a secret" in written) is keep


def test_a_model_without_gauges_is_a_plain_server() -> None:
    with serving.serving(serving.endless(), limits=Limits(max_tokens=20)) as api:
        answer = api.chat(mien={}).json()["choices"][0]
        assert "mien" not in answer
        assert api.get("/v1/conversations").json()["data"] == []
        response = api.post("/v1/readings", json={"messages": QUIET})
        assert response.json()["error"]["code"] == "no_gauges"


@pytest.mark.parametrize("asks", [False, True])
def test_of_a_prompt_only_what_a_gauge_looks_at_is_read(gauges: GaugeSet, asks: bool) -> None:
    """Answers; and the user's messages, if a gauge compares with them."""
    gauge = gauges.gauges[0]
    parts = (*gauge.parts, replace(gauge.parts[0], of="question")) if asks else gauge.parts
    which = panel(replace(gauges, gauges=(replace(gauge, parts=parts),)), serving.brief())
    watch = Watch(serving.brief().chat, which, None, 4096, None)  # type: ignore[arg-type]
    talk = (Message("user", "What is tea?"), Message("assistant", "A drink."), Message("user", "And coffee?"))
    plan = watch.plan(talk)
    assert plan.spans is not None
    assert [end > start for start, end in plan.spans] == [asks, True, asks]
    request = LiveRequest("a", plan.prompt_ids, Sampling(4, 0.0), 0, read=True, spans=plan.spans)
    whole = Answer(request, serving.brief().chat, frozenset(), 1, 0)
    assert whole.wants(len(plan.prompt_ids))
    first = watch.plan(talk[:1])
    request = LiveRequest("b", first.prompt_ids, Sampling(4, 0.0), 0, read=True, spans=first.spans or ())
    assert Answer(request, serving.brief().chat, frozenset(), 1, 0).wants(len(first.prompt_ids)) is asks
