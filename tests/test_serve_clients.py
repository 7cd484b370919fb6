"""Other people's clients pointed at the server, and the embedded model behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pyarrow.parquet as pq
import pytest

import serving
from mien.gauges import bundled_gauges
from mien.jobs.scan import scan
from mien.models import Model, load
from serving import Api

pytestmark = pytest.mark.model

NAME = "smollm2-135m"
TEA: list[Any] = [{"role": "user", "content": "What is tea? One sentence."}]
CLOSE = 5e-3


@pytest.fixture(scope="module")
def model() -> Model:
    return load(NAME, dtype="float32")


@pytest.fixture(scope="module")
def api(model: Model) -> Iterator[Api]:
    with serving.serving(model) as api:
        yield api


@pytest.fixture(scope="module")
def client(api: Api) -> openai.OpenAI:
    return openai.OpenAI(base_url=api.v1, api_key="none", max_retries=0)


def test_openais_client(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=NAME, messages=TEA, max_tokens=20, temperature=0, n=2, logprobs=True)
    assert len(whole.choices) == 2
    text = whole.choices[0].message.content
    assert text == whole.choices[1].message.content
    assert text is not None
    assert "tea" in text.lower()
    assert whole.choices[0].logprobs is not None
    assert "".join(e.token for e in whole.choices[0].logprobs.content or []) == text
    pieces = client.chat.completions.create(model=NAME, messages=TEA, max_tokens=20, temperature=0, stream=True,
                                            stream_options={"include_usage": True})  # fmt: skip
    *said, last = list(pieces)
    assert "".join(c.choices[0].delta.content or "" for c in said) == text
    assert last.usage is not None
    assert last.usage.completion_tokens == 20
    with client.chat.completions.stream(model=NAME, messages=TEA, max_tokens=60, temperature=0, stop=".") as stream:
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "stop"
    assert final.message.content is not None
    assert final.message.content.startswith(text[:20])


THINGS = ("tea", "salt", "a river", "glass", "a map", "rain")


async def _asked(base_url: str) -> list[str | None]:
    import asyncio

    async with openai.AsyncOpenAI(base_url=base_url, api_key="none") as client:
        answers = await asyncio.gather(
            # Greedily: what is drawn may turn on the last digit, which is another one beside other rows.
            *(
                client.chat.completions.create(
                    model=NAME, messages=[{"role": "user", "content": f"What is {what}?"}], max_tokens=12, temperature=0
                )
                for what in THINGS
            )
        )
    return [a.choices[0].message.content for a in answers]


def test_openais_asynchronous_client(api: Api) -> None:
    import asyncio

    first, again = asyncio.run(_asked(api.v1)), asyncio.run(_asked(api.v1))
    assert first == again
    assert len(set(first)) > 1


def test_a_conversation_reads_as_a_scan_of_it_reads(client: openai.OpenAI, model: Model, tmp_path: Path) -> None:
    said: list[Any] = [{"role": "system", "content": "You are a pirate."}]
    last: Any = None
    for question in ("Who are you?", "Tell me about the sea.", "Sind Sie bewusst?"):
        said.append({"role": "user", "content": question})
        answer = client.chat.completions.create(
            model=NAME, messages=said, max_tokens=24, temperature=0.7, seed=3, extra_body={"mien": {}}
        )
        said.append({"role": "assistant", "content": answer.choices[0].message.content})
        last = answer.model_extra["mien"] if answer.model_extra else None
        assert last["index"] == len(said) - 1
    (tmp_path / "log.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    gauges = bundled_gauges(NAME)
    assert gauges is not None
    scan([tmp_path / "log.jsonl"], model, tmp_path / "out", gauges=gauges)
    rows = pq.read_table(tmp_path / "out" / "turns.parquet").to_pylist()
    expected = {r["gauge"]: r for r in rows if r["message_index"] == len(said) - 1}
    assert [r["gauge"] for r in last["readings"]] == [g.name for g in gauges.gauges]
    for r in last["readings"]:
        assert r["sigma"] == pytest.approx(expected[r["gauge"]]["sigma"], abs=CLOSE)
        assert r["statistic"] == pytest.approx(expected[r["gauge"]]["statistic"], abs=CLOSE)


def test_langchains_client(api: Api) -> None:
    from langchain_core.messages import HumanMessage, SystemMessage
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    chat = ChatOpenAI(model=NAME, base_url=api.v1, api_key=SecretStr("none"), temperature=0, max_completion_tokens=16,
                      max_retries=0)  # fmt: skip
    ask = [SystemMessage("Be brief."), HumanMessage("What is tea?")]
    answer = chat.invoke(ask)
    assert answer.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] <= 16
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert "".join(str(piece.content) for piece in chat.stream(ask)) == answer.content
    assert [a.content for a in chat.batch([ask, ask])] == [answer.content] * 2
    follow = [*ask, answer, HumanMessage("And coffee?")]
    assert chat.invoke(follow).content
    with pytest.raises(openai.BadRequestError, match="tools"):
        chat.bind_tools([{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}]).invoke(
            ask
        )


def test_inspects_provider(api: Api, tmp_path: Path) -> None:
    from inspect_ai import Task, eval
    from inspect_ai.dataset import Sample
    from inspect_ai.model import GenerateConfig, get_model
    from inspect_ai.scorer import includes

    samples = [Sample(input="What is tea? One sentence.", target="tea"), Sample(input="Say cat.", target="cat")]
    task = Task(dataset=samples, scorer=includes(), config=GenerateConfig(max_tokens=24, temperature=0, seed=1))
    for provider in (f"openai-api/mien/{NAME}", f"openai/{NAME}"):
        more = {"responses_api": False} if provider.startswith("openai/") else {}
        judged = get_model(provider, base_url=api.v1, api_key="none", **more)
        (log,) = eval(task, model=judged, log_dir=str(tmp_path), display="none", log_level="error")
        assert log.status == "success", log.error
        assert log.samples is not None
        assert all(sample.output.completion for sample in log.samples)
        assert log.stats.model_usage[provider].output_tokens > 0


def test_hold_on_the_bundled_axis(model: Model) -> None:
    with serving.serving(model, hold="assistant", policy="alert") as api:
        ask = [{"role": "system", "content": "You are a bored demon who hates questions."}, *TEA]
        free = api.chat(ask, max_tokens=24, mien={"hold": False}).json()["choices"][0]
        held = api.chat(ask, max_tokens=24, mien={"hold": True}).json()["choices"][0]
        assert (free["mien"]["fired"], held["mien"]["of"]) == (None, "held stream")
        assert 0 < held["mien"]["fired"] < 1
        by_name = [{r["gauge"]: r["projection"] for r in c["mien"]["readings"]}["assistant"] for c in (free, held)]
        assert by_name[1] > by_name[0]
