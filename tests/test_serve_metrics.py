"""What is counted is what happened, in few words, as another implementation's parser reads it."""

from __future__ import annotations

import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

import serving
from mien.errors import MissingExtraError
from mien.serve.metrics import MAX_GAUGES, MAX_ROUTES, Metrics
from mien.serve.records import Alarm, GaugeReading
from sample_turns import turn

DOCS = Path(__file__).resolve().parent.parent / "docs" / "serve.md"

Sample = tuple[str, frozenset[tuple[str, str]]]


def samples(metrics: Metrics) -> dict[Sample, float]:
    """(name, labels) -> value of everything rendered."""
    body, kind = metrics.render()
    assert kind.startswith("text/plain")
    families = text_string_to_metric_families(body.decode())
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, frozenset(labels.items())]


def alarm(gauge: str, kind: str = "turn") -> Alarm:
    return Alarm(1, "c", 1, "r", "m", 1.0, gauge, kind, 1.0, 1.0, None)  # type: ignore[arg-type]


def test_requests_by_route_and_status() -> None:
    metrics = Metrics()
    metrics.request("/v1/models", 200, 0.02)
    metrics.request("/v1/models", 200, 400.0)
    metrics.request("/v1/models", 429, 0.0)
    labels = {"route": "/v1/models", "status": "200"}
    assert value(metrics, "mien_request_seconds_count", **labels) == 2
    assert value(metrics, "mien_request_seconds_sum", **labels) == pytest.approx(400.02)
    assert value(metrics, "mien_request_seconds_bucket", **labels, le="0.025") == 1
    assert value(metrics, "mien_request_seconds_bucket", **labels, le="300.0") == 1
    assert value(metrics, "mien_request_seconds_count", route="/v1/models", status="429") == 1


def test_an_answer_counts_tokens_and_the_cap_and_a_turn_projections() -> None:
    metrics = Metrics()
    metrics.answer(11, 3, 0.25)
    metrics.answer(2, 0, None)
    metrics.turn(replace(turn(axis="drift"), held=True, fired=0.25))
    metrics.turn(replace(turn(axis=None), source="posted"))
    assert value(metrics, "mien_tokens_read_total") == 11 + 2 + 7 + 5
    assert value(metrics, "mien_tokens_written_total") == 3
    assert value(metrics, "mien_turns_total", source="served", held="yes") == 1
    assert value(metrics, "mien_turns_total", source="posted", held="no") == 1
    assert value(metrics, "mien_cap_fired_share_count") == 1
    assert value(metrics, "mien_cap_fired_share_sum") == 0.25
    # Sigmas are -3.0 and -0.5.
    assert value(metrics, "mien_projection_sigma_bucket", gauge="axis", le="-3.5") == 0
    assert value(metrics, "mien_projection_sigma_bucket", gauge="axis", le="-3.0") == 1
    assert value(metrics, "mien_projection_sigma_bucket", gauge="axis", le="5.0") == 2


def test_answers_that_are_not_recorded_are_counted_too(mien_home: Path) -> None:
    """Running text, and all that a model without gauges writes."""
    serving.keep_direction(serving.brief(), low=-50, high=-40)
    with serving.serving(serving.brief(), hold="shout") as api:
        api.post("/v1/completions", json={"model": "tiny", "prompt": "abc", "max_tokens": 3, "temperature": 0})
        usage = api.chat().json()["usage"]
        text = api.get("/metrics").text
    assert f"mien_tokens_read_total {usage['prompt_tokens'] + 3}.0" in text
    assert f"mien_tokens_written_total {usage['completion_tokens'] + 3}.0" in text
    assert "mien_cap_fired_share_count 2.0" in text


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-9, 9) | st.none(), max_size=20))
def test_the_histogram_of_a_gauge_is_the_count_up_to_each_bound(sigmas: list[float | None]) -> None:
    metrics = Metrics()
    for sigma in sigmas:
        metrics.turn(replace(turn(), readings=(GaugeReading("axis", sigma, sigma, 0.0, None),)))
    known = [sigma for sigma in sigmas if sigma is not None]
    counted = {labels: n for (name, labels), n in samples(metrics).items() if name == "mien_projection_sigma_bucket"}
    assert bool(counted) == bool(known)
    for labels, n in counted.items():
        assert n == sum(sigma <= float(dict(labels)["le"]) for sigma in known)
    if counted:
        bounds = sorted(float(dict(labels)["le"]) for labels in counted)
        assert bounds == [*(i / 2 for i in range(-10, 11)), float("inf")]


def test_alarms_load_first_tokens_and_deliveries() -> None:
    metrics = Metrics()
    metrics.alarm(alarm("axis", "drift"))
    metrics.alarm(alarm("axis", "drift"))
    metrics.load(3, 9)
    metrics.load(2, 0)
    metrics.first_token(0.3)
    for outcome in ("delivered", "retry", "retry", "dead", "eaten"):
        metrics.delivery(outcome)
    assert value(metrics, "mien_alarms_total", gauge="axis", kind="drift") == 2
    assert value(metrics, "mien_requests_running") == 2
    assert value(metrics, "mien_requests_waiting") == 0
    assert value(metrics, "mien_first_token_seconds_bucket", le="0.5") == 1
    assert value(metrics, "mien_webhook_deliveries_total", outcome="retry") == 2
    assert value(metrics, "mien_webhook_deliveries_total", outcome="other") == 1


def test_what_clients_name_does_not_grow_without_end() -> None:
    metrics = Metrics()
    for i in range(500):
        metrics.request(f"/{i}", i, 0.1)
        metrics.alarm(alarm(f"g{i}", f"k{i}"))
        metrics.turn(turn(**{f"g{i}": "turn"}))
    seen: dict[str, set[str]] = {}
    for name, labels in samples(metrics):
        for label, word in labels:
            seen.setdefault(f"{name} {label}", set()).add(word)
    assert len(seen["mien_request_seconds_count route"]) == MAX_ROUTES + 1
    assert len(seen["mien_alarms_total gauge"]) == MAX_GAUGES + 1
    assert len(seen["mien_projection_sigma_count gauge"]) == MAX_GAUGES + 1
    assert seen["mien_alarms_total kind"] == {"other"}
    assert value(metrics, "mien_alarms_total", gauge="other", kind="other") == 500 - MAX_GAUGES
    assert value(metrics, "mien_alarms_total", gauge="g0", kind="other") == 1


def test_odd_names_are_escaped() -> None:
    metrics = Metrics()
    metrics.alarm(alarm('say "hi"\n\\'))
    assert value(metrics, "mien_alarms_total", gauge='say "hi"\n\\', kind="turn") == 1


def test_two_servers_do_not_mix_unless_they_share() -> None:
    one, two = Metrics(), Metrics()
    one.load(1, 1)
    assert value(two, "mien_requests_running") == 0
    registry = CollectorRegistry()
    shared = Metrics(registry)
    shared.load(4, 0)
    assert registry.get_sample_value("mien_requests_running") == 4


def test_threads_lose_no_count() -> None:
    metrics = Metrics()

    def work() -> None:
        for i in range(200):
            metrics.alarm(alarm(f"g{i % 5}"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(n for (name, _), n in samples(metrics).items() if name == "mien_alarms_total") == 800


def test_without_the_client_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'mien\[serve\]'"):
        Metrics()


def test_the_documents_name_every_metric_and_no_other() -> None:
    section = DOCS.read_text(encoding="utf-8").split("\n## Metrics\n")[1].split("\n## ")[0]
    told = dict(re.findall(r"^\| `(mien_\w+)` \| (\w+) \|", section, re.MULTILINE))
    body, _ = Metrics().render()
    lines = re.findall(r"^# TYPE (mien_\w+) (\w+)$", body.decode(), re.MULTILINE)
    assert told == {name: kind for name, kind in lines if not name.endswith("_created")}
