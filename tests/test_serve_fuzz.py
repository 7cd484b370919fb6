"""The API against its own schema: whatever is sent, what comes back is one of the answers that the schema promises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode, checks
from schemathesis.specs.openapi import checks as openapi

import serving
from mien.gauges import save_gauges
from mien.serve.conductor import Limits
from serving import Api

LIMITS = Limits(max_tokens=8, choices=2, prompt_tokens=300, seconds=20)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("gauges")
    file = save_gauges(serving.gauges_of(serving.brief(), folder), folder / "g.safetensors")
    with serving.serving(serving.brief(), gauge_files=(file,), limits=LIMITS, name="tiny") as api:
        yield api


@pytest.fixture(scope="module")
def described(api: Api) -> Any:
    # A body that is too large (413) is refused as well as one that breaks the schema.
    refused = {"negative_data_rejection": {"expected-statuses": ["4xx"]}}
    config = schemathesis.Config.from_dict({"checks": refused})
    return schemathesis.openapi.from_dict(api.get("/openapi.json").json(), config=config)


OPERATIONS = [
    ("POST", "/v1/chat/completions"), ("POST", "/v1/completions"), ("POST", "/v1/readings"), ("GET", "/v1/models"),
    ("GET", "/v1/models/{name}"), ("GET", "/v1/gauges"), ("GET", "/v1/alarms"), ("GET", "/v1/conversations"),
    ("GET", "/v1/conversations/{id}"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"),
]  # fmt: skip
REFUSABLE = {"/v1/chat/completions", "/v1/completions", "/v1/readings", "/v1/alarms", "/v1/conversations"}
"""Where something can be sent that the schema does not allow."""
ENDLESS = {("GET", "/v1/alarms/stream")}
# What a sentence must say cannot all be said in a schema: that the last message is the user's, or that a name is known.
CHECKS = [
    checks.not_a_server_error,
    openapi.status_code_conformance,
    openapi.content_type_conformance,
    openapi.response_schema_conformance,
    openapi.negative_data_rejection,
]


NEUTRAL = ("tools", "tool_choice", "functions", "function_call", "audio", "prediction", "web_search_options", "store",
           "modalities", "reasoning_effort", "response_format", "frequency_penalty", "presence_penalty", "logit_bias",
           "stream_options", "top_logprobs", "max_completion_tokens", "echo", "suffix", "best_of", "mien")  # fmt: skip


def tame(body: dict[str, Any]) -> None:
    """Take out of a body that the schema allows what this server must refuse all the same."""
    for name in NEUTRAL:
        body.pop(name, None)
    body |= {"model": "tiny", "max_tokens": 4, "n": None, "stop": None}
    if isinstance(body.get("seed"), int | float):  # numbers beyond 2**53 are compared as floats by who reads the schema
        body["seed"] = max(-(2**63), min(2**63, int(body["seed"])))
    if "messages" in body:
        for message in body["messages"]:
            message["role"] = "assistant" if message["role"] in ("tool", "function") else message["role"]
            for name in ("tool_calls", "function_call", "audio"):
                message.pop(name, None)
            if not isinstance(message.get("content"), str):
                message["content"] = "words"
        body["messages"] = [m | {"content": m["content"][:50]} for m in body["messages"][:5]]
        body["messages"].append({"role": "user", "content": "And then?"})
    else:
        body["prompt"] = body["prompt"][:20] if isinstance(body["prompt"], str) and body["prompt"] else [5, 6, 7]


def tame_readings(body: dict[str, Any]) -> None:
    """The same for texts that are to be read."""
    for name in ("conversations", "gauges"):
        body.pop(name, None)
    given = [m["content"] for m in body.get("messages") or [] if isinstance(m["content"], str)]
    texts = [text for text in given if text.strip()] or ["word"]
    body["messages"] = [{"role": "assistant", "content": text} for text in texts]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/readings"])
def test_what_can_be_honoured_is(api: Api, described: Any, path: str) -> None:
    operation = described[path]["POST"]

    @settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
    def try_it(case: Any) -> None:
        (tame_readings if path == "/v1/readings" else tame)(case.body)
        response = case.call_and_validate(base_url=str(api.base_url), checks=CHECKS, timeout=60)
        assert response.status_code == 200, response.text

    try_it()


def test_every_operation_is_tried(described: Any) -> None:
    found = {(o.ok().method.upper(), o.ok().path) for o in described.get_all_operations()}
    assert found - ENDLESS == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS, ids=[f"{m} {p}" for m, p in OPERATIONS])
def test_answers_are_those_of_the_schema(api: Api, described: Any, method: str, path: str) -> None:
    operation = described[path][method]
    modes = [GenerationMode.POSITIVE] + ([GenerationMode.NEGATIVE] if path in REFUSABLE else [])

    @settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in modes)))
    def try_it(case: Any) -> None:
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = "tiny"  # or hardly a request would get beyond its name
        case.call_and_validate(base_url=str(api.base_url), checks=CHECKS, timeout=60)

    try_it()
    assert api.get("/ready").status_code == 200
