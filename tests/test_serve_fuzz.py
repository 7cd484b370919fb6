"""The API against its own schema: whatever is sent, what comes back is one of the answers that the schema promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings

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
    return schemathesis.openapi.from_dict(api.get("/openapi.json").json())


schema = schemathesis.pytest.from_fixture("described")
# What a sentence must say cannot all be said in a schema: that the last message is the user's, or that a name is known.
CHECKS = [
    schemathesis.checks.not_a_server_error,
    schemathesis.specs.openapi.checks.status_code_conformance,
    schemathesis.specs.openapi.checks.content_type_conformance,
    schemathesis.specs.openapi.checks.response_schema_conformance,
    schemathesis.specs.openapi.checks.negative_data_rejection,
]


@schema.exclude(path="/v1/alarms/stream").parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_are_those_of_the_schema(case: Any, api: Api) -> None:
    if isinstance(case.body, dict) and case.body.get("model") and isinstance(case.body["model"], str):
        case.body["model"] = "tiny"  # or hardly a request would get beyond its name
    case.call_and_validate(base_url=str(api.base_url), checks=CHECKS, timeout=60)
    assert api.get("/ready").status_code == 200
