"""The API as OpenAI's clients know it: answers whole and in pieces, choices, seeds, log-probabilities, errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

import serving
import tiny
from mien.engines.hf import HfEngine
from mien.records import Message, Sampling, WriteRequest
from mien.serve.conductor import Limits
from mien.serve.security import Keys, parse_keys
from serving import ASK, Api

LIMITS = Limits(max_tokens=64, choices=4, prompt_tokens=200)


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with serving.serving(serving.brief(), limits=LIMITS) as api:
        yield api


@pytest.fixture(scope="module")
def client(api: Api) -> openai.OpenAI:
    return openai.OpenAI(base_url=api.v1, api_key="none", max_retries=0)


def alone(seed: int = 0, temperature: float = 0.0, most: int = 7, question: str = "What now?") -> str:
    """What the engine of `mien extract` writes."""
    request = WriteRequest("r", (Message("user", question),), seed)
    ((pair,),) = HfEngine(serving.brief()).write([request], Sampling(most, temperature), read=False)
    return pair[0].text


def test_an_answer_is_what_the_model_writes_alone(api: Api) -> None:
    greedy, drawn = api.chat(max_tokens=30).json(), api.chat(max_tokens=30, temperature=1, seed=7).json()
    assert greedy["choices"][0]["message"] == {"role": "assistant", "content": alone(most=30), "refusal": None}
    assert drawn["choices"][0]["message"]["content"] == alone(7, 1.0, 30)
    assert set(greedy) == {"id", "object", "created", "model", "choices", "usage", "system_fingerprint"}
    assert set(greedy["choices"][0]) == {"index", "message", "finish_reason", "logprobs"}
    assert greedy["object"] == "chat.completion"
    assert greedy["choices"][0]["finish_reason"] == "stop"


def test_usage_counts_tokens(api: Api) -> None:
    chat = serving.brief().chat
    answer = api.chat(max_tokens=3).json()
    prompt = len(chat.prompt_ids((Message("user", "What now?"),)))
    del answer["usage"]["prompt_tokens_details"]
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 3, "total_tokens": prompt + 3}
    assert answer["choices"][0]["finish_reason"] == "length"


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_usage_says_what_of_a_prompt_was_known(api: Api) -> None:
    """All but the last token of a prompt that was asked before; of one that is new only what it begins like others."""
    new = [{"role": "user", "content": "zebra quartz jumps " * 4}]
    first = api.chat(new, max_tokens=3, n=2).json()
    again = api.chat(new, max_tokens=3).json()
    assert cached(first) < 12
    assert cached(again) == again["usage"]["prompt_tokens"] - 1 > 40
    last = api.events(messages=new, max_tokens=3, stream_options={"include_usage": True})[-1]
    assert last["usage"] == again["usage"]
    talk = [*new, {"role": "assistant", "content": again["choices"][0]["message"]["content"]}, *ASK]
    assert cached(api.chat(talk, max_tokens=3).json()) >= cached(again)
    text = {"model": "tiny", "prompt": ["quick sphinx of black " * 4] * 2, "max_tokens": 2}
    for _ in range(2):
        both = api.post("/v1/completions", json=text).json()
    assert cached(both) == both["usage"]["prompt_tokens"] - 2


def test_people_who_do_not_know_one_another_are_not_told_what_was_known() -> None:
    """Or one could try out, word for word, what another one asked."""
    keys = Keys(parse_keys("alice a-key-of-alice-000\nbob a-key-of-bob-0000000\n", "here"))
    with serving.serving(serving.brief(), keys=keys) as api:
        api.headers["authorization"] = "Bearer a-key-of-alice-000"
        for more in ({}, {"n": 2}):
            assert "prompt_tokens_details" not in api.chat(**more).json()["usage"]
        last = api.events(stream_options={"include_usage": True})[-1]
        assert "prompt_tokens_details" not in last["usage"]


def test_pieces_make_the_whole(api: Api) -> None:
    whole = api.chat(max_tokens=30).json()
    chunks = api.events(max_tokens=30, stream_options={"include_usage": True})
    *said, last = chunks
    assert last["choices"] == []
    for usage in (last["usage"], whole["usage"]):  # the second one knows more of the prompt from before
        del usage["prompt_tokens_details"]
    assert last["usage"] == whole["usage"]
    assert (
        "".join(c["choices"][0]["delta"].get("content", "") for c in said) == whole["choices"][0]["message"]["content"]
    )
    assert said[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in said] == [None] * (len(said) - 1) + ["stop"]
    assert len({c["id"] for c in chunks}) == 1
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"}
    assert not any("mien" in c or "usage" in c for c in said)
    assert all("usage" not in c for c in api.events())


def test_several_choices(api: Api) -> None:
    one = api.chat(temperature=1, seed=5, max_tokens=20).json()
    three = api.chat(temperature=1, seed=5, max_tokens=20, n=3).json()
    texts = [c["message"]["content"] for c in three["choices"]]
    assert [c["index"] for c in three["choices"]] == [0, 1, 2]
    assert texts[0] == one["choices"][0]["message"]["content"]
    assert len(set(texts)) > 1
    assert texts == [
        c["message"]["content"] for c in api.chat(temperature=1, seed=5, max_tokens=20, n=3).json()["choices"]
    ]
    pieces = {0: "", 1: "", 2: ""}
    for chunk in api.events(temperature=1, seed=5, max_tokens=20, n=3):
        (choice,) = chunk["choices"]
        pieces[choice["index"]] += choice["delta"].get("content", "")
    assert list(pieces.values()) == texts
    assert three["usage"]["completion_tokens"] == sum(map(len, texts))  # a letter is a token here


def test_without_a_seed_answers_differ(api: Api) -> None:
    texts = {api.chat(temperature=1, max_tokens=30).json()["choices"][0]["message"]["content"] for _ in range(6)}
    assert len(texts) > 1


def test_stop_strings(api: Api) -> None:
    whole = alone(most=30)
    cut = whole[3:5]
    for stop in (cut, [cut], ["never said", cut]):
        answer = api.chat(max_tokens=30, stop=stop).json()["choices"][0]
        assert (answer["message"]["content"], answer["finish_reason"]) == (whole[: whole.index(cut)], "stop")
    chunks = api.events(max_tokens=30, stop=cut, logprobs=True)
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == whole[: whole.index(cut)]
    given = [e["token"] for c in chunks if c["choices"][0]["logprobs"] for e in c["choices"][0]["logprobs"]["content"]]
    assert "".join(given) == whole[: whole.index(cut)]


def test_log_probabilities(api: Api) -> None:
    from mien.records import ScoreRequest

    answer = api.chat(logprobs=True, top_logprobs=3, max_tokens=6).json()
    entries = answer["choices"][0]["logprobs"]["content"]
    text = answer["choices"][0]["message"]["content"]
    assert "".join(e["token"] for e in entries) == text
    assert [bytes(e["bytes"]).decode() for e in entries] == [e["token"] for e in entries]
    model = serving.brief()
    ask = ScoreRequest((Message("user", "What now?"),), text, model.chat.response_ids(text))
    (expected,) = HfEngine(model).logprobs([ask])
    assert [e["logprob"] for e in entries] == pytest.approx(expected.tolist(), abs=1e-3)
    for e in entries:
        assert len(e["top_logprobs"]) == 3
        assert e["top_logprobs"][0]["token"] == e["token"]  # greedy
        values = [t["logprob"] for t in e["top_logprobs"]]
        assert values == sorted(values, reverse=True)
    streamed = [
        e for c in api.events(logprobs=True, top_logprobs=3, max_tokens=6) if c["choices"][0]["logprobs"]
        for e in c["choices"][0]["logprobs"]["content"]
    ]  # fmt: skip
    assert [e["token"] for e in streamed] == [e["token"] for e in entries]
    assert api.chat(logprobs=True).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


def test_parts_of_text_and_other_roles(api: Api) -> None:
    parts = [{"type": "text", "text": "What"}, {"type": "text", "text": " now?"}]
    plain = api.chat().json()["choices"][0]["message"]["content"]
    assert api.chat([{"role": "user", "content": parts}]).json()["choices"][0]["message"]["content"] == plain
    told = [{"role": "system", "content": "SHOUT!"}, *ASK]
    developer = [{"role": "developer", "content": "SHOUT!"}, *ASK]
    assert api.chat(told).json()["choices"] == api.chat(developer).json()["choices"]
    assert api.chat(told).json()["choices"][0]["message"]["content"] != plain


def test_completions_go_on_from_text_and_ids(client: openai.OpenAI) -> None:
    chat = serving.brief().chat
    prompt = chat._render((Message("user", "What now?"),), open_turn=True)
    ids = list(chat.prompt_ids((Message("user", "What now?"),)))
    by_text = client.completions.create(model="tiny", prompt=prompt, max_tokens=7, temperature=0, logprobs=2)
    by_ids = client.completions.create(model="tiny", prompt=ids, max_tokens=7, temperature=0)
    assert by_text.choices[0].text == by_ids.choices[0].text == alone(most=7)
    logprobs = by_text.choices[0].logprobs
    assert logprobs is not None
    assert "".join(logprobs.tokens or []) == alone(most=7)
    assert logprobs.text_offset == list(range(7))
    assert all(len(top) == 2 for top in logprobs.top_logprobs or [])
    several = client.completions.create(model="tiny", prompt=[prompt, prompt[:-3], prompt], max_tokens=7,
                                        temperature=0, n=2)  # fmt: skip
    assert [c.index for c in several.choices] == list(range(6))
    assert {several.choices[i].text for i in (0, 1, 4, 5)} == {alone(most=7)}
    assert several.usage is not None
    assert several.usage.completion_tokens == sum(len(c.text) for c in several.choices)
    flow = client.completions.create(model="tiny", prompt=[prompt, prompt], max_tokens=7, temperature=0, stream=True)
    texts = {0: "", 1: ""}
    for chunk in flow:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == {0: alone(most=7), 1: alone(most=7)}


def test_the_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served here"):
        client.models.retrieve("gpt")


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": [{"type": "function"}]}, "tools", "does not do that"),
    ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format", "writes text only"),
    ({"frequency_penalty": 0.5}, "frequency_penalty", "own probabilities"),
    ({"logit_bias": {"5": 1.0}}, "logit_bias", "own probabilities"),
    ({"n": 5}, "n", "at most 4"),
    ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
    ({"temperature": "1"}, "temperature", "valid number"),
    ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
    ({"max_tokens": 65}, "max_tokens", "at most 64"),
    ({"max_tokens": True}, "max_tokens", "valid integer"),
    ({"max_tokens": 4, "max_completion_tokens": 5}, "max_tokens", "another number"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop", "at most 4"),
    ({"stop": ""}, "stop", "1 to 200"),
    ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
    ({"store": True}, "store", "does not do that"),
    ({"modalities": ["text", "audio"]}, "modalities", "does not do that"),
    ({"temprature": 1}, "temprature", "not known"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", "Input should be"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
     "messages[0].content[0]", "reads text only"),
    ({"messages": [*ASK, {"role": "assistant", "content": "hm"}]}, "messages", "must be the user's"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}, *ASK]}, "messages[0].role", "no tools"),
    ({"messages": [{"role": "user", "content": "word " * 100}]}, "messages", "this server takes 200"),
    ({"mien": {"gauges": ["mood"]}}, "mien.gauges", "no gauge 'mood'"),
    ({"mien": {"interventions": [{"add": "evil"}]}}, "mien.interventions[0].add", "no direction 'evil'"),
    ({"mien": {"interventions": [{"add": "a", "cap": "b"}]}}, "mien.interventions[0]", "exactly one"),
    ({"mien": {"interventions": [{"ablate": "a", "coef": 2.0}]}}, "mien.interventions[0].coef", "belongs to add"),
    ({"mien": {"hold": True}}, "mien.hold", "without anything to hold"),
    ({"mien": {"colour": "red"}}, "mien.colour", "not known"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "param", "words"), REFUSED, ids=[f"{p}: {w}" for _, p, w in REFUSED])
def test_what_cannot_be_honoured_is_refused_by_name(api: Api, change: dict[str, Any], param: str, words: str) -> None:
    response = api.chat(**change)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error"), error
    assert words in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


HONOURED: list[dict[str, Any]] = [
    {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "frequency_penalty": 0,
     "presence_penalty": 0.0, "logit_bias": {}, "user": "u", "metadata": {"a": "b"}, "store": False,
     "parallel_tool_calls": True, "modalities": ["text"], "service_tier": "auto", "reasoning_effort": "none"},
    {"max_tokens": None, "temperature": None, "top_p": None, "n": None, "stop": None, "seed": None, "stream": None,
     "logprobs": None, "mien": None},
    {"seed": -5, "top_p": 0, "temperature": 2},
    {"messages": [{"role": "user", "content": "a", "name": "Ann"}, {"role": "assistant", "content": None,
     "refusal": "No."}, {"role": "user", "content": "What now?"}]},
]  # fmt: skip


@pytest.mark.parametrize("change", HONOURED, ids=str)
def test_what_makes_no_difference_is_taken(api: Api, change: dict[str, Any]) -> None:
    assert api.chat(**change).status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 100_000, b'{"model": "\\ud800"}'])
def test_a_body_that_is_no_request(api: Api, body: bytes) -> None:
    response = api.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_half_a_character_is_refused(api: Api) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "\ud83d"}]}
    response = api.post("/v1/chat/completions", content=json.dumps(body).encode(),
                        headers={"content-type": "application/json"})  # fmt: skip
    assert (response.status_code, response.json()["error"]["param"]) == (400, "messages[0].content")


def test_addresses_that_are_not_there(api: Api) -> None:
    assert api.get("/v1/nothing").json()["error"]["message"] == "There is nothing at this address."
    response = api.get("/v1/chat/completions")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_openais_client_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x"}], presence_penalty=1)
    assert bad.value.param == "presence_penalty"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="tiny", prompt=[5] * 5000, max_tokens=4)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="token id"):
        client.completions.create(model="tiny", prompt=[10**6], max_tokens=4)


def test_prompt_and_answer_must_fit_the_model() -> None:
    with serving.serving(serving.brief(), limits=Limits(max_tokens=5000)) as api:
        response = api.chat(max_tokens=4090)
        assert response.json()["error"]["code"] == "context_length_exceeded"
        assert "4096" in response.json()["error"]["message"]
        assert api.chat(max_tokens=None).status_code == 200  # not said: as many as there is room for
        long = [{"role": "user", "content": "x" * 4096}]
        assert api.chat(long, max_tokens=None).json()["error"]["code"] == "context_length_exceeded"


def test_the_greedy_answer_is_the_same_beside_others(api: Api) -> None:
    """Twenty at once, in one batch, each alone what it would be alone."""
    from concurrent.futures import ThreadPoolExecutor

    questions = (tiny.QUESTIONS * 2)[:20]
    with ThreadPoolExecutor(20) as pool:
        found = list(pool.map(lambda q: api.chat([{"role": "user", "content": q}], max_tokens=12).json(), questions))
    for question, answer in zip(questions, found, strict=True):
        assert answer["choices"][0]["message"]["content"] == alone(most=12, question=question)


@pytest.mark.parametrize(("query", "name"), [("after=-1", "after"), ("after=x", "after"), ("limit=0", "limit")])
def test_a_parameter_of_the_address_that_cannot_be_is_named(api: Api, query: str, name: str) -> None:
    answer = api.get(f"/v1/alarms?{query}")
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"] == name
    assert error["message"].startswith(f"{name}: ")
